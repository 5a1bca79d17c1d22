//! Which accelerator to use.
//!
//! That `/dev/kvm` exists says little: inside some virtual machines it is there and QEMU aborts on
//! the first register it sets, or runs into an emulation error and stops with its process alive.
//! So `auto` boots something and believes only what it sees: the UEFI firmware, which goes through
//! real, protected and long mode with paging and timers, must speak on the serial line before a
//! deadline. An end of the process, a STOP event or silence all mean TCG. The answer is kept in
//! the cache until the next boot of the host.

use crate::paths::Paths;
use crate::qemu::{PROGRAM, Qemu};
use crate::tools::Tools;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A firmware that runs under KVM speaks within two seconds; a loaded host gets ten times that.
const DEADLINE: Duration = Duration::from_secs(20);
/// The firmware of the tools root, at its path inside.
pub const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// KVM when it works, else TCG.
    #[default]
    Auto,
    /// This one.
    Fixed(Accel),
}

impl FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Fixed(Accel::Kvm)),
            "tcg" => Ok(Self::Fixed(Accel::Tcg)),
            other => bail!("unknown accelerator `{other}`: auto, kvm or tcg"),
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

impl Accel {
    /// QEMU's options for it. Both get every processor feature there is: the trixie kernel needs
    /// `cmpxchg16b`, and with `max` TCG has RDRAND, so the guest's random pool is ready at once.
    /// Only the fifth level of page tables costs TCG time at every miss and gives a small guest
    /// nothing; and where "fast string operations" are announced, the kernel clears and copies
    /// pages byte by byte, which TCG does one at a time (a quarter of the kernel's own boot).
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let (accel, cpu) = match self {
            Self::Kvm => ("kvm", "max"),
            Self::Tcg => ("tcg,thread=multi", "max,la57=off,erms=off,fsrm=off"),
        };
        ["-accel", accel, "-cpu", cpu].map(str::to_owned).into()
    }
}

/// Turns a choice into an accelerator.
///
/// # Errors
/// When KVM was asked for by name and does not work; the message says what was seen.
pub fn choose(choice: Choice, paths: &Paths, tools: &Tools) -> Result<Accel> {
    static AUTO: OnceLock<Accel> = OnceLock::new();
    match choice {
        Choice::Fixed(Accel::Tcg) => Ok(Accel::Tcg),
        Choice::Fixed(Accel::Kvm) => match probe(paths, tools)? {
            Probe::Works => Ok(Accel::Kvm),
            Probe::Fails(why) => bail!("KVM does not work here: {why}"),
        },
        Choice::Auto => {
            if let Some(accel) = AUTO.get() {
                return Ok(*accel);
            }
            let accel = auto(paths, tools)?;
            Ok(*AUTO.get_or_init(|| accel))
        }
    }
}

fn auto(paths: &Paths, tools: &Tools) -> Result<Accel> {
    let cached = cache_file(paths)?;
    match fs::read_to_string(&cached).as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        _ => {}
    }
    let accel = match probe(paths, tools)? {
        Probe::Works => Accel::Kvm,
        Probe::Fails(why) => {
            eprintln!("accelerator: tcg ({why})");
            Accel::Tcg
        }
    };
    fs::write(&cached, accel.to_string())
        .with_context(|| format!("cannot write {}", cached.display()))?;
    Ok(accel)
}

/// One answer per boot of the host: modules and permissions may be others after the next.
fn cache_file(paths: &Paths) -> Result<PathBuf> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read /proc/sys/kernel/random/boot_id")?;
    Ok(paths.cache.join(format!("accelerator-{}", boot.trim())))
}

#[derive(Debug)]
enum Probe {
    Works,
    Fails(String),
}

fn probe(paths: &Paths, tools: &Tools) -> Result<Probe> {
    let device = Path::new("/dev/kvm");
    if let Err(e) = fs::OpenOptions::new().read(true).write(true).open(device) {
        return Ok(Probe::Fails(format!(
            "cannot open {}: {e}",
            device.display()
        )));
    }
    let logs = paths.out.join(format!("kvm-probe-{}", std::process::id()));
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let result = boot_firmware(tools, &logs);
    // Evidence of a probe is its one sentence.
    let _ = fs::remove_dir_all(&logs);
    result
}

fn boot_firmware(tools: &Tools, logs: &Path) -> Result<Probe> {
    let mut arguments = Accel::Kvm.arguments();
    arguments.extend(["-machine", "q35", "-m", "256", "-no-reboot", "-drive"].map(str::to_owned));
    arguments.push(format!(
        "if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"
    ));
    let mut qemu = match Qemu::start(tools.command(PROGRAM), &arguments, logs, true) {
        Ok(qemu) => qemu,
        Err(error) => {
            let text = format!("{error:#}");
            return Ok(Probe::Fails(text.lines().next().unwrap_or("").to_owned()));
        }
    };
    let began = qemu.qmp()?.mark();
    if let Err(error) = qemu.power_on() {
        return Ok(Probe::Fails(format!("{error:#}; {}", qemu.complaints())));
    }
    let deadline = Instant::now() + DEADLINE;
    loop {
        // Any text at all: the firmware got through its memory and device setup.
        if qemu.serial().lines(0).iter().any(|l| !l.text.is_empty()) {
            return Ok(Probe::Works);
        }
        if let Some(status) = qemu.ended()? {
            return Ok(Probe::Fails(format!(
                "QEMU {status}: {}",
                first_line(&qemu)
            )));
        }
        if qemu.qmp()?.events(began).iter().any(|e| e.name == "STOP") {
            return Ok(Probe::Fails(format!("stopped: {}", first_line(&qemu))));
        }
        if Instant::now() >= deadline {
            return Ok(Probe::Fails(format!(
                "the firmware was silent for {DEADLINE:?}"
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn first_line(qemu: &Qemu) -> String {
    let text = qemu.complaints();
    text.lines().next().unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        assert_eq!("auto".parse::<Choice>().expect("known"), Choice::Auto);
        assert_eq!(
            "kvm".parse::<Choice>().expect("known"),
            Choice::Fixed(Accel::Kvm)
        );
        let error = "xen".parse::<Choice>().expect_err("unknown");
        assert!(error.to_string().contains("`xen`"), "{error}");
    }
}
