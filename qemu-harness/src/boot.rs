//! `cargo boot`: from the sources to an appliance that answers, in one command.

use crate::accel::Choice;
use crate::bundle::{Run, readable_image};
use crate::cli::{Usage, number, processors};
use crate::health_watch::HealthWatch;
use crate::host::Host;
use crate::image::{self, ImageOptions};
use crate::serial::SerialLine;
use crate::setup;
use crate::stages::{GuestTimes, Stages, progress};
use crate::vm::{GUEST_PORT, Network, Vm, VmConfig, check_port};
use anyhow::{Context, Result, bail};
use lexopt::prelude::*;
use serde::Serialize;
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The port people find the API on.
const PORT: u16 = 8000;
/// A healthy boot under TCG on two loaded processors takes less than a fifth of this.
const HEALTHY: Duration = Duration::from_secs(300);
/// Longer than the service's own stop timeout in `init.toml`.
const POWER_OFF: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(25);

/// What `cargo boot` was asked for.
#[derive(Debug)]
pub struct Options {
    once: bool,
    json: Option<PathBuf>,
    accel: Choice,
    port: u16,
    image: Option<PathBuf>,
    cpus: Option<u32>,
}

impl Options {
    /// Reads the arguments after `boot`.
    ///
    /// # Errors
    /// A [`Usage`] error for what is unknown or makes no sense.
    pub fn parse(arguments: Vec<OsString>) -> Result<Self> {
        let mut options = Self {
            once: false,
            json: None,
            accel: Choice::Auto,
            port: PORT,
            image: None,
            cpus: None,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("once") => options.once = true,
                Long("json") => options.json = Some(parser.value()?.into()),
                Long("accel") => {
                    let name = parser.value()?.string()?;
                    options.accel = name.parse().map_err(|e| Usage(format!("{e}")))?;
                }
                Long("port") => options.port = number("--port", &parser.value()?.string()?)?,
                Long("cpus") => options.cpus = Some(processors(&parser.value()?.string()?)?),
                Long("image") => options.image = Some(parser.value()?.into()),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }
}

/// Prepares, builds, boots, waits for health, tells; then serves or switches off.
///
/// # Errors
/// What is missing, or what went wrong and where the evidence lies.
pub fn run(options: &Options) -> Result<()> {
    // What the user can see to at once is not told after minutes of building.
    check_port(options.port)?;
    if let Some(image) = &options.image {
        readable_image(image)?;
    }
    setup::prepare()?;
    let host = Host::prepare(options.accel)?;
    let image = match &options.image {
        Some(file) => file.clone(),
        None => image::build(&host.paths, &host.tools, &ImageOptions::default())?.raw,
    };
    eprintln!("booting {} with {}", image.display(), host.accel);
    let stop = stop_flag()?;
    Run::scoped(&host, "boot", &image, |run| {
        let config = VmConfig {
            network: Network::User(Some(options.port)),
            cpus: options.cpus,
            ..VmConfig::default()
        };
        let mut vm = run.boot(&config)?;
        let Some((health, api)) = until_healthy(&mut vm, &stop)? else {
            eprintln!("stopped before health");
            vm.kill();
            return Ok(());
        };
        let stages = Stages::read(&vm.serial().lines(0), Some(api));
        print!("{stages}");
        println!("healthy  {health}");
        if let Some(file) = &options.json {
            let name = image.file_name().unwrap_or(image.as_os_str());
            let report = Report {
                image: name.to_string_lossy().into_owned(),
                accelerator: host.accel.to_string(),
                processors: config.processors(host.accel),
                memory_mib: config.memory_mib,
                health: &health,
                stages: &stages,
                guest: GuestTimes(&stages),
                kernel_to_api: stages.kernel_to_api(),
            };
            write_json(file, &report)?;
        }
        if !options.once {
            println!("serving  {}  (Ctrl-C switches off)", vm.api()?.base());
            serve(&mut vm, &stop)?;
        }
        if vm.is_on()? {
            eprintln!("switching off");
            vm.power_down(POWER_OFF)?;
        }
        Ok(())
    })
}

/// Set by the first Ctrl-C or TERM; the second ends us at once.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot catch signals")?;
    }
    Ok(stop)
}

/// Follows the boot until the API answers and the guest calls itself healthy. `None` when the
/// user does not want to wait.
fn until_healthy(vm: &mut Vm, stop: &AtomicBool) -> Result<Option<(Value, Duration)>> {
    let deadline = Instant::now() + HEALTHY;
    let watch = HealthWatch::start(vm.api()?.clone());
    let mut seen = 0;
    let mut answer = None;
    let mut told = false;
    let mut waiting = false;
    loop {
        let fresh = vm.serial().lines(seen);
        seen += fresh.len();
        for line in &fresh {
            tell(line);
            if let Some(event) = &line.event {
                told |= event.name == "boot.healthy";
                if event.name == "net.address" {
                    watch.machine_has_address();
                }
                if event.name == "boot.failed" || event.name == "init.crash" {
                    bail!("the appliance does not boot: {event}");
                }
            }
        }
        if let Some((health, at)) = watch.answer() {
            answer = Some((health, vm.elapsed().saturating_sub(at.elapsed())));
        }
        if told && answer.is_some() {
            return Ok(answer);
        }
        if told && !waiting {
            waiting = true;
            eprintln!("{}", awaited(vm.api()?.base()));
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if !vm.is_on()? {
            let ended = vm.wait_end(Duration::ZERO)?;
            bail!(
                "the machine ended before health: {}\n{}",
                ended.reason,
                vm.serial().quote_end(0)
            );
        }
        if Instant::now() >= deadline {
            bail!(
                "no health within {} s\n{}",
                HEALTHY.as_secs(),
                vm.serial().quote_end(0)
            );
        }
        std::thread::sleep(STEP);
    }
}

/// What is still missing when the machine calls itself healthy: an image of another make may never have it.
fn awaited(base: &str) -> String {
    format!(
        "the machine is healthy by its own account; waiting for {base}/v1/health, which is port {GUEST_PORT} of the machine"
    )
}

fn tell(line: &SerialLine) {
    if let Some(text) = line.event.as_ref().and_then(progress) {
        eprintln!("{:9.3}  {text}", line.at.as_secs_f64());
    }
}

/// Until the user or the guest switches off.
fn serve(vm: &mut Vm, stop: &AtomicBool) -> Result<()> {
    let mut seen = vm.serial().mark();
    while !stop.load(Ordering::Relaxed) && vm.is_on()? {
        let fresh = vm.serial().lines(seen);
        seen += fresh.len();
        fresh.iter().for_each(tell);
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// The JSON report of one boot. A struct, because its stages are to stay in their order.
#[derive(Debug, Serialize)]
struct Report<'a> {
    image: String,
    accelerator: String,
    processors: u32,
    memory_mib: u32,
    health: &'a Value,
    /// Host seconds since power-on.
    stages: &'a Stages,
    /// Guest seconds since the kernel's start.
    guest: GuestTimes<'a>,
    /// Host seconds from the kernel's start to the first 200.
    kernel_to_api: Option<f64>,
}

/// Writes pretty JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(file: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn arguments_are_read() {
        let options = parse(&["--once", "--json", "out.json", "--port=8080"]).expect("good");
        assert!(options.once);
        assert_eq!(options.json, Some("out.json".into()));
        assert_eq!(options.port, 8080);
        assert_eq!(parse(&[]).expect("good").port, 8000);
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for words in [
            &["--twice"][..],
            &["extra"],
            &["--port", "70000"],
            &["--accel", "xen"],
            &["--json"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
