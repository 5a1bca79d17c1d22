//! Which accelerator to use.
//!
//! That `/dev/kvm` exists says little: inside some virtual machines it is there and QEMU aborts on
//! the first register it sets, or runs into an emulation error and stops with its process alive.
//! So `auto` boots something and believes only what it sees: the UEFI firmware, which goes through
//! real, protected and long mode with paging and timers, must speak on the serial line before a
//! deadline. An end of the process, a STOP event or silence all mean TCG.
//!
//! What QEMU showed is kept in the cache until the next boot of the host. A device that cannot be
//! opened is looked at every time, as permissions may change; and a probe that came to no verdict, because
//! a disk is full or the host so busy that the firmware was silent, is repeated the next time.
//! `cargo vm accel` always probes.

use crate::paths::Paths;
use crate::qemu::{NotStarted, PROGRAM, Qemu};
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
/// What has to be opened for KVM.
const DEVICE: &str = "/dev/kvm";
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

    /// QEMU's options for a machine whose clock counts its instructions, one nanosecond each, and jumps to
    /// the next timer while the machine sleeps (QEMU: `docs/devel/tcg-icount.rst`). So an hour in which
    /// little happens passes in a moment, and how busy the host is makes no difference to the guest.
    /// Only the translator counts instructions, with one thread.
    #[must_use]
    pub fn counted_arguments() -> Vec<String> {
        let mut words = Self::Tcg.arguments();
        for word in &mut words {
            *word = word.replace("thread=multi", "thread=single");
        }
        words.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
        words
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
        Choice::Fixed(Accel::Kvm) => {
            let verdict = openable(Path::new(DEVICE)).and_then(|()| probe(paths, tools));
            match verdict.context("cannot tell whether KVM works here")? {
                Verdict::Works => Ok(Accel::Kvm),
                Verdict::Fails(why) => bail!("KVM does not work here: {why}"),
            }
        }
        Choice::Auto => {
            if let Some(accel) = AUTO.get() {
                return Ok(*accel);
            }
            let accel = Kept::new(paths)?.or(|| probe(paths, tools))?;
            Ok(*AUTO.get_or_init(|| accel))
        }
    }
}

/// Probes, whatever an earlier probe showed.
///
/// # Errors
/// When the verdict cannot be kept.
pub fn examine(paths: &Paths, tools: &Tools) -> Result<Accel> {
    Kept::new(paths)?.renewed(|| probe(paths, tools))
}

/// What QEMU showed.
#[derive(Debug)]
enum Verdict {
    Works,
    Fails(String),
}

/// A verdict that lasts until the host boots again: its modules may be others after that.
#[derive(Debug)]
struct Kept {
    device: PathBuf,
    file: PathBuf,
}

impl Kept {
    fn new(paths: &Paths) -> Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot read /proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            device: DEVICE.into(),
            file: paths.cache.join(format!("accelerator-{}", boot.trim())),
        })
    }

    /// What is kept, or else what the probe shows.
    fn or(&self, probe: impl FnOnce() -> Result<Verdict>) -> Result<Accel> {
        let kept = fs::read_to_string(&self.file).unwrap_or_default();
        match (kept.as_str(), openable(&self.device)) {
            ("kvm", Ok(())) => Ok(Accel::Kvm),
            ("tcg", Ok(())) => Ok(Accel::Tcg),
            _ => self.renewed(probe),
        }
    }

    /// What the probe shows. Only a verdict is kept.
    fn renewed(&self, probe: impl FnOnce() -> Result<Verdict>) -> Result<Accel> {
        if let Err(error) = openable(&self.device) {
            eprintln!("accelerator: tcg ({error:#})");
            return Ok(Accel::Tcg);
        }
        let accel = match probe() {
            Ok(Verdict::Works) => Accel::Kvm,
            Ok(Verdict::Fails(why)) => {
                eprintln!("accelerator: tcg ({why})");
                Accel::Tcg
            }
            Err(error) => {
                eprintln!(
                    "accelerator: tcg this time; whether KVM works cannot be told: {error:#}"
                );
                let _ = fs::remove_file(&self.file);
                return Ok(Accel::Tcg);
            }
        };
        fs::write(&self.file, accel.to_string())
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        Ok(accel)
    }
}

fn openable(device: &Path) -> Result<()> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(device);
    opened.with_context(|| format!("cannot open {}", device.display()))?;
    Ok(())
}

/// Boots the firmware under KVM. An error is of the harness or of the host, and no verdict.
fn probe(paths: &Paths, tools: &Tools) -> Result<Verdict> {
    let logs = paths.out.join(format!("kvm-probe-{}", std::process::id()));
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let result = boot_firmware(tools, &logs);
    // Evidence of a probe is its one sentence.
    let _ = fs::remove_dir_all(&logs);
    result
}

fn boot_firmware(tools: &Tools, logs: &Path) -> Result<Verdict> {
    let mut arguments = Accel::Kvm.arguments();
    arguments.extend(["-machine", "q35", "-m", "256", "-no-reboot", "-drive"].map(str::to_owned));
    arguments.push(format!(
        "if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"
    ));
    let mut qemu = match Qemu::start(tools.command(PROGRAM), &arguments, logs, true) {
        Ok(qemu) => qemu,
        Err(error) => {
            let ended = error.downcast::<NotStarted>()?;
            let text = ended.to_string();
            return Ok(Verdict::Fails(text.lines().next().unwrap_or("").to_owned()));
        }
    };
    let began = qemu.qmp()?.mark();
    let on = qemu.power_on();
    let deadline = Instant::now() + DEADLINE;
    loop {
        // Any text at all: the firmware got through its memory and device setup.
        if qemu.serial().lines(0).iter().any(|l| !l.text.is_empty()) {
            return Ok(Verdict::Works);
        }
        if let Some(status) = qemu.ended()? {
            return Ok(Verdict::Fails(format!(
                "QEMU {status}: {}",
                first_line(&qemu)
            )));
        }
        if qemu.qmp()?.events(began).iter().any(|e| e.name == "STOP") {
            return Ok(Verdict::Fails(format!("stopped: {}", first_line(&qemu))));
        }
        if Instant::now() >= deadline {
            on?;
            bail!("the firmware was silent for {DEADLINE:?}");
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

    #[test]
    fn only_what_qemu_showed_is_kept() {
        let folder = std::env::temp_dir().join(format!("accel-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let kept = Kept {
            device: folder.join("kvm"),
            file: folder.join("accelerator"),
        };
        let works = || Ok(Verdict::Works);
        let fails = || Ok(Verdict::Fails("aborted".into()));
        let unknown = || bail!("no space left on device");
        // A device that is not there, or may not be opened, is no verdict of QEMU.
        assert_eq!(kept.or(works).unwrap(), Accel::Tcg);
        assert!(!kept.file.exists());
        fs::write(&kept.device, "").unwrap();
        assert_eq!(kept.or(unknown).unwrap(), Accel::Tcg);
        assert!(!kept.file.exists());
        assert_eq!(kept.or(fails).unwrap(), Accel::Tcg);
        assert_eq!(kept.or(works).unwrap(), Accel::Tcg, "a verdict is kept");
        assert_eq!(kept.renewed(works).unwrap(), Accel::Kvm);
        assert_eq!(kept.or(fails).unwrap(), Accel::Kvm, "a verdict is kept");
        fs::remove_file(&kept.device).unwrap();
        assert_eq!(kept.or(works).unwrap(), Accel::Tcg);
        fs::write(&kept.device, "").unwrap();
        assert_eq!(kept.or(fails).unwrap(), Accel::Kvm, "it is there again");
        assert_eq!(kept.renewed(unknown).unwrap(), Accel::Tcg);
        assert_eq!(kept.or(works).unwrap(), Accel::Kvm, "nothing was kept");
        fs::remove_dir_all(&folder).unwrap();
    }
}
