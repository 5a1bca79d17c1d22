//! `cargo vm bench` in seconds: our boot against systemd's, and against no init at all.
//!
//! Three images with the same kernel, the same runtime and the same root but for what is PID 1:
//! ours; systemd as a distribution would set it up (the control); and the floor, which loads the
//! modules, mounts the root, gives the link its address and executes the runtime. All three are
//! measured from outside in the same way: from the moment the kernel's EFI stub speaks on the
//! serial line to the first 200 of `GET /v1/health` through the forwarded port, on the host's
//! clock. The runs are interleaved, so that a host that gets slower or faster does so for all.
//! Beside the time stands the processor time QEMU used for it, which a busy host changes little.

use super::{OVER_SYSTEMD, OVER_VERITY_FLOOR, Options};
use crate::bundle::Run;
use crate::host::Host;
use crate::image::{self, ImageOptions};
use crate::stages::Stages;
use crate::vm::VmConfig;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Boots of each unless another number is asked for.
const RUNS: usize = 3;
/// No boot of the three takes a quarter of this under TCG.
const DEADLINE: Duration = Duration::from_secs(300);
/// The resolution of the measurement: the pause between two questions.
const STEP: Duration = Duration::from_millis(10);
/// A question asked before the guest has an address is lost; it must not hold up the next one.
const PATIENCE: Duration = Duration::from_millis(250);

/// One of the three.
#[derive(Debug)]
struct Contender {
    name: &'static str,
    image: PathBuf,
    /// Seconds from kernel start to health, one a run.
    times: Vec<f64>,
    /// Seconds of processor time in between.
    costs: Vec<f64>,
}

/// Builds, boots, measures, prints.
///
/// # Errors
/// When an image cannot be built or a boot does not become healthy.
pub fn run(options: &Options) -> Result<()> {
    let host = Host::prepare(options.accel)?;
    let runs = options.runs.unwrap_or(RUNS);
    let mut contenders = Vec::new();
    for (name, image_options) in [
        ("ours", ImageOptions::default()),
        ("systemd", ImageOptions::control()),
        ("floor", ImageOptions::floor()),
    ] {
        let image = image::build(&host.paths, &host.tools, &image_options)
            .with_context(|| format!("the image `{name}`"))?;
        contenders.push(Contender {
            name,
            image: image.raw,
            times: Vec::new(),
            costs: Vec::new(),
        });
    }
    let config = VmConfig {
        cpus: options.cpus,
        ..VmConfig::default()
    };
    for number in 1..=runs {
        for contender in &mut contenders {
            let (time, cost) = measure(&host, &config, contender.name, &contender.image)?;
            eprintln!(
                "run {number}  {:<8} {time:.3} s, processor time {cost:.3} s",
                contender.name
            );
            contender.times.push(time);
            contender.costs.push(cost);
        }
    }
    let machine = format!(
        "{}, processors: {}",
        host.accel,
        config.processors(host.accel)
    );
    print!("{}", table(&machine, &contenders)?);
    if let Some(file) = &options.json {
        crate::boot::write_json(file, &report(&machine, &contenders)?)?;
    }
    Ok(())
}

fn measure(host: &Host, config: &VmConfig, name: &str, image: &Path) -> Result<(f64, f64)> {
    Run::scoped(host, &format!("bench-{name}"), image, |run| {
        let vm = run.boot(config)?;
        let deadline = Instant::now() + DEADLINE;
        // Nothing is asked before the kernel runs: the firmware has no network to answer with.
        vm.serial()
            .wait_line(0, deadline, "the kernel's EFI stub", |line| {
                line.text.starts_with("EFI stub: ")
            })?;
        let before = vm.processor_time()?;
        vm.api()?
            .wait_healthy(deadline, STEP, PATIENCE)
            .with_context(|| vm.serial().quote_end(0))?;
        let healthy = vm.elapsed();
        let cost = vm.processor_time()?.saturating_sub(before);
        let stages = Stages::read(&vm.serial().lines(0), Some(healthy));
        let time = stages
            .kernel_to_api()
            .context("the kernel's start is not in the serial log")?;
        Ok((time, cost.as_secs_f64()))
    })
}

/// Smallest, middle and largest.
fn spread(times: &[f64]) -> Result<(f64, f64, f64)> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match (sorted.get(middle), middle.checked_sub(1)) {
        (Some(high), Some(low)) if sorted.len().is_multiple_of(2) => {
            f64::midpoint(*high, sorted.get(low).copied().unwrap_or(*high))
        }
        (Some(value), _) => *value,
        (None, _) => 0.0,
    };
    match (sorted.first(), sorted.last()) {
        (Some(min), Some(max)) => Ok((*min, median, *max)),
        _ => anyhow::bail!("nothing was measured"),
    }
}

/// Our median over another's.
fn ratio(contenders: &[Contender], other: &str) -> Result<f64> {
    let median = |name: &str| {
        let contender = contenders.iter().find(|c| c.name == name);
        spread(&contender.with_context(|| format!("no `{name}`"))?.times).map(|s| s.1)
    };
    let base = median(other)?;
    ensure!(base > 0.0, "`{other}` took no time");
    Ok(median("ours")? / base)
}

fn table(machine: &str, contenders: &[Contender]) -> Result<String> {
    let mut out = String::new();
    let runs = contenders.first().map_or(0, |c| c.times.len());
    writeln!(
        out,
        "kernel start to health, seconds, {runs} runs each, {machine}"
    )?;
    writeln!(
        out,
        "{:<10} {:>8} {:>8} {:>8} {:>16}",
        "", "min", "median", "max", "processor time"
    )?;
    for contender in contenders {
        let (min, median, max) = spread(&contender.times)?;
        let (_, cost, _) = spread(&contender.costs)?;
        writeln!(
            out,
            "{:<10} {min:>8.3} {median:>8.3} {max:>8.3} {cost:>16.3}",
            contender.name
        )?;
    }
    for (other, budget) in [("floor", OVER_VERITY_FLOOR), ("systemd", OVER_SYSTEMD)] {
        let ratio = ratio(contenders, other)?;
        let verdict = if ratio <= budget { "met" } else { "MISSED" };
        writeln!(
            out,
            "ours over {other:<8} {ratio:.3}  budget {budget:.2}  {verdict}"
        )?;
    }
    Ok(out)
}

fn report(machine: &str, contenders: &[Contender]) -> Result<Value> {
    let mut figures = serde_json::Map::new();
    for contender in contenders {
        let (min, median, max) = spread(&contender.times)?;
        figures.insert(
            contender.name.to_owned(),
            json!({
                "runs": contender.times,
                "min": min,
                "median": median,
                "max": max,
                "processor_time": contender.costs,
            }),
        );
    }
    Ok(json!({
        "figure": "kernel start to health, seconds on the host's clock",
        "machine": machine,
        "contenders": figures,
        "over_floor": {"ratio": ratio(contenders, "floor")?, "budget": OVER_VERITY_FLOOR},
        "over_systemd": {"ratio": ratio(contenders, "systemd")?, "budget": OVER_SYSTEMD},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]).expect("some"), (1.0, 2.0, 3.0));
        assert_eq!(
            spread(&[4.0, 1.0, 2.0, 3.0]).expect("some"),
            (1.0, 2.5, 4.0)
        );
        assert_eq!(spread(&[5.0]).expect("one"), (5.0, 5.0, 5.0));
        assert!(spread(&[]).is_err());
    }

    #[test]
    fn ratios_are_of_medians() {
        let contender = |name, times: &[f64]| Contender {
            name,
            image: PathBuf::new(),
            times: times.to_vec(),
            costs: times.to_vec(),
        };
        let all = [
            contender("ours", &[5.0, 5.0, 9.0]),
            contender("systemd", &[10.0]),
        ];
        assert_eq!(ratio(&all, "systemd").expect("both"), 0.5);
        assert!(ratio(&all, "floor").is_err());
    }
}
