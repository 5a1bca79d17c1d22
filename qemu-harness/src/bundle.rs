//! The folder of one machine: its disk, its firmware variables, and what it said.
//!
//! A [`Run`] gets a disk of its own (a sparse copy of the image, so that a later build of the image
//! cannot change what a failed run left behind) and boots it as often as it likes; each boot has a
//! folder with the serial log, the control channel's log, QEMU's complaints and a script that
//! boots the same machine again by hand. A run that passed removes the folder. One that failed or
//! panicked keeps it, with the error, and says where it is.

use crate::disk::Disk;
use crate::host::Host;
use crate::powercut::Recorder;
use crate::vm::{Vm, VmConfig};
use anyhow::{Context, Result, anyhow, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Failed runs of one name that are kept; the oldest makes room.
const KEPT: usize = 8;

/// A machine with a disk of its own, and the evidence of what it did.
#[derive(Debug)]
pub struct Run {
    host: Host,
    dir: PathBuf,
    boots: u32,
    passed: bool,
}

impl Run {
    /// Makes the folder `runs/NAME-N` with a copy of `image` and fresh firmware variables.
    ///
    /// # Errors
    /// When the image or the firmware is missing, or the disk of the host is full.
    pub fn new(host: &Host, name: &str, image: &Path) -> Result<Self> {
        readable_image(image)?;
        let variables = host.tools.file("usr/share/OVMF/OVMF_VARS_4M.fd");
        ensure!(
            variables.is_file(),
            "the UEFI firmware {} is missing; remove the tools root {} to have it made again",
            variables.display(),
            host.tools.file("").display()
        );
        let run = Self {
            host: host.clone(),
            dir: fresh_folder(&host.paths.out.join("runs"), name)?,
            boots: 0,
            passed: false,
        };
        let status = Command::new("cp")
            .args(["--reflink=auto", "--sparse=always", "--"])
            .args([image, &run.disk()])
            .status()
            .context("cannot run `cp`")?;
        ensure!(
            status.success(),
            "cannot copy the image {} to {}",
            image.display(),
            run.disk().display()
        );
        fs::copy(&variables, run.variables())
            .with_context(|| format!("cannot copy {}", variables.display()))?;
        Ok(run)
    }

    /// Does `work` with a new machine; keeps its folder if that fails.
    ///
    /// # Errors
    /// What `work` failed with, and where the evidence is.
    pub fn scoped<T>(
        host: &Host,
        name: &str,
        image: &Path,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut run = Self::new(host, name, image)?;
        match work(&mut run) {
            Ok(value) => {
                run.passed = true;
                Ok(value)
            }
            Err(error) => {
                // The error itself reaches the caller either way.
                let _ = fs::write(run.dir.join("error.txt"), format!("{error:#}\n"));
                Err(anyhow!(
                    "{error:#}\nthe evidence is kept in {}",
                    run.dir.display()
                ))
            }
        }
    }

    /// The machine's disk. Change it only between boots.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// The machine's firmware variables.
    #[must_use]
    pub fn variables(&self) -> PathBuf {
        self.dir.join("variables.fd")
    }

    /// The folder of this machine.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Flips the lowest bit of one byte of the disk, and gives what it was before.
    ///
    /// # Errors
    /// When the disk has no such byte.
    pub fn flip(&self, offset: u64) -> Result<u8> {
        let path = self.disk();
        let disk = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut byte = [0];
        disk.read_exact_at(&mut byte, offset)
            .with_context(|| format!("{} has no byte {offset}", path.display()))?;
        let [before] = byte;
        disk.write_all_at(&[before ^ 1], offset)
            .with_context(|| format!("cannot write to {}", path.display()))?;
        Ok(before)
    }

    /// Switches the machine on.
    ///
    /// # Errors
    /// When QEMU does not start; the message names what is wrong.
    pub fn boot(&mut self, config: &VmConfig) -> Result<Vm> {
        let logs = self.logs()?;
        Vm::start(&self.host, config, &self.disk(), &self.variables(), &logs)
    }

    /// Switches the machine on with its disk recorded (see [`powercut`](crate::powercut)). The disk's
    /// file stays as it is: what the machine writes is only in the recording, which the recorder gives
    /// when the machine is off and which stays in the folder of this boot.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub fn boot_recorded(&mut self, config: &VmConfig) -> Result<(Vm, Recorder)> {
        let logs = self.logs()?;
        let recorder = Recorder::start(&self.disk(), &logs)?;
        let config = VmConfig {
            disk: Disk::Nbd(recorder.socket().to_owned()),
            ..config.clone()
        };
        let vm = Vm::start(&self.host, &config, &self.disk(), &self.variables(), &logs)?;
        Ok((vm, recorder))
    }

    /// The folder of the next boot.
    fn logs(&mut self) -> Result<PathBuf> {
        self.boots += 1;
        let logs = self.dir.join(format!("boot-{}", self.boots));
        fs::create_dir(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(logs)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.passed {
            // What stays behind is only waste.
            let _ = fs::remove_dir_all(&self.dir);
        } else if std::thread::panicking() {
            eprintln!("the evidence is kept in {}", self.dir.display());
        }
    }
}

/// Checks that there is an image to boot.
///
/// # Errors
/// Names it when it is missing or no file.
pub fn readable_image(image: &Path) -> Result<()> {
    let meta = fs::metadata(image).with_context(|| {
        format!(
            "the image {} cannot be read; `cargo vm image` builds one",
            image.display()
        )
    })?;
    ensure!(
        meta.is_file() && meta.len() > 0,
        "{} is not a disk image",
        image.display()
    );
    Ok(())
}

/// Makes the first folder `NAME-1`, `NAME-2`, ... that is not there, and drops the oldest.
fn fresh_folder(runs: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| format!("cannot make {}", runs.display()))?;
    let mut old: Vec<u32> = fs::read_dir(runs)
        .with_context(|| format!("cannot read {}", runs.display()))?
        .filter_map(|entry| {
            let file = entry.ok()?.file_name();
            let number = file.to_str()?.strip_prefix(name)?.strip_prefix('-')?;
            number.parse().ok()
        })
        .collect();
    old.sort_unstable();
    let surplus = (old.len() + 1).saturating_sub(KEPT);
    for number in old.iter().take(surplus) {
        // Somebody may be looking at it, or have removed it already.
        let _ = fs::remove_dir_all(runs.join(format!("{name}-{number}")));
    }
    let mut number = old.last().map_or(1, |last| last + 1);
    loop {
        let dir = runs.join(format!("{name}-{number}"));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e).with_context(|| format!("cannot make {}", dir.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_count_up_and_old_ones_go() {
        let runs = std::env::temp_dir().join(format!("runs-{}", std::process::id()));
        let mut last = PathBuf::new();
        for _ in 0..KEPT + 3 {
            last = fresh_folder(&runs, "boot").expect("a folder");
        }
        let other = fresh_folder(&runs, "boot-net").expect("a folder");
        assert_eq!(other, runs.join("boot-net-1"));
        assert_eq!(last, runs.join(format!("boot-{}", KEPT + 3)));
        assert!(!runs.join("boot-1").exists());
        assert_eq!(fs::read_dir(&runs).expect("the runs").count(), KEPT + 1);
        fs::remove_dir_all(runs).expect("our folder");
    }
}
