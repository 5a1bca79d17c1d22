//! The gate: fails when our boot has grown against the figure that is committed.
//!
//! The figure is the ratio of our boot to the floor with verity, in `qemu-harness/counted.toml`: another kernel, interpreter or
//! runtime changes both in nearly the same way. `cargo vm bench --counted --gate --write` renews it, and the change of that file
//! says in a review what a commit costs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Options;
use super::count::{Figure, ratio};
use super::counted::{OURS, VERITY_FLOOR, measure, prepare};
use crate::paths::Paths;

/// Boots of each of the two unless another number is asked for.
const RUNS: usize = 2;
/// The largest ratio over the committed one. A growth of a hundredth has to be seen beside what boots lie apart.
const LIMIT: f64 = 1.008;
/// The committed file, from the workspace.
const FILE: &str = "qemu-harness/counted.toml";
/// Stands at its head.
const HEAD: &str = "# Instructions from the kernel's start to health, as `cargo vm bench --counted --gate --write` saw them. The gate fails when\n\
    # the ratio grows by a hundredth.\n";

/// The committed figure.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    /// Ours over the floor with verity.
    ratio: f64,
    /// Millions of instructions of each, for people.
    ours: f64,
    verity_floor: f64,
}

impl Committed {
    /// The file of it.
    fn text(&self) -> String {
        format!(
            "{HEAD}ratio = {:.4}\nours = {:.1}\nverity_floor = {:.1}\n",
            self.ratio, self.ours, self.verity_floor
        )
    }
}

/// Measures ours and the floor with verity, and judges, or writes.
///
/// # Errors
/// When the ratio is too large, or cannot be measured.
pub fn run(options: &Options) -> Result<()> {
    let file = Paths::discover()?.workspace.join(FILE);
    // A file that is wrong is known before minutes of booting.
    let committed = if options.write {
        None
    } else {
        Some(read(&file)?)
    };
    let (host, contenders) = prepare(&[OURS, VERITY_FLOOR])?;
    let [ours, floor] = &measure(&host, &contenders, options.runs.unwrap_or(RUNS))?[..] else {
        bail!("two were to be measured");
    };
    let millions = |counts: &[_]| -> Result<f64> {
        let figure = Figure::of(counts.iter().map(super::count::Count::total))?;
        Ok((figure.median / 1e6).round())
    };
    let measured = Committed {
        ratio: (ratio(ours, floor)? * 1e4).round() / 1e4,
        ours: millions(ours)?,
        verity_floor: millions(floor)?,
    };
    match committed {
        Some(committed) => println!("{}", judge(measured, committed)?),
        None => {
            fs::write(&file, measured.text())
                .with_context(|| format!("cannot write {}", file.display()))?;
            println!("{} has {:.4} now", file.display(), measured.ratio);
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Committed> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not as it should be", file.display()))
}

fn judge(measured: Committed, committed: Committed) -> Result<String> {
    let growth = measured.ratio / committed.ratio;
    let text = format!(
        "ours over the floor with verity: {:.4} ({} over {} million instructions), committed {:.4}, {:+.2} %",
        measured.ratio,
        measured.ours,
        measured.verity_floor,
        committed.ratio,
        (growth - 1.0) * 100.0
    );
    if growth > LIMIT {
        bail!(
            "{text}: the boot has grown. If that is meant, `cargo vm bench --counted --gate --write` renews {FILE}"
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ratio: f64) -> Committed {
        Committed {
            ratio,
            ours: 1.0,
            verity_floor: 1.0,
        }
    }

    #[test]
    fn a_growth_of_a_hundredth_shuts_the_gate_and_noise_does_not() {
        let error = judge(of(1.2625), of(1.25)).expect_err("a hundredth more");
        assert!(error.to_string().contains("+1.00 %"), "{error}");
        for ratio in [1.2585, 1.25, 0.9] {
            let text = judge(of(ratio), of(1.25)).expect("no growth to speak of");
            assert!(text.contains("committed 1.2500"), "{text}");
        }
    }

    #[test]
    fn the_committed_file_is_as_it_is_written() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("counted.toml");
        let committed = read(&file).expect("a figure");
        let text = fs::read_to_string(file).expect("the file");
        assert_eq!(text, committed.text());
        assert!(
            committed.ratio > 0.5 && committed.ratio < 2.0,
            "{committed:?}"
        );
    }
}
