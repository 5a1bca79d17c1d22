//! Versions that must not stay.
//!
//! [`Broken`] are images that install like any other, with a valid signature over contents that
//! hang together, and then do not work. What must not even be installed, and what breaks after
//! it was, is made by [`crate::damage`].

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::compile::{self, Program};
use crate::image_options::{ImageOptions, Runtime};
use crate::paths::Paths;

/// A way in which a properly installed version does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Broken {
    /// PID 1 panics as soon as it is on the root.
    Panic,
    /// PID 1 does nothing more as soon as it is on the root.
    Hang,
    /// PID 1 of the initramfs panics at once.
    PanicInitramfs,
    /// PID 1 of the initramfs does nothing, from the start.
    HangInitramfs,
    /// The initramfs has no driver for the disk.
    RootMissing,
    /// The runtime runs and never becomes healthy.
    HealthDead,
    /// The runtime is healthy for some seconds, and then not, again and again.
    HealthFlapping,
    /// The root has no runtime.
    RuntimeMissing,
    /// netcfg aborts whenever it is started.
    NetcfgCrashLoop,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Panic,
        Self::Hang,
        Self::PanicInitramfs,
        Self::HangInitramfs,
        Self::RootMissing,
        Self::HealthDead,
        Self::HealthFlapping,
        Self::RuntimeMissing,
        Self::NetcfgCrashLoop,
    ];

    /// Its name, for files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Hang => "hang",
            Self::PanicInitramfs => "panic-initramfs",
            Self::HangInitramfs => "hang-initramfs",
            Self::RootMissing => "root-missing",
            Self::HealthDead => "health-dead",
            Self::HealthFlapping => "health-flapping",
            Self::RuntimeMissing => "runtime-missing",
            Self::NetcfgCrashLoop => "netcfg-crash-loop",
        }
    }

    /// Options for an image of this version that is broken in this way; the rest, such as keys, is
    /// the caller's to add.
    ///
    /// # Errors
    /// When a broken init cannot be compiled or a drop-in not be written.
    pub fn options(self, paths: &Paths, version: &str, runtime: Runtime) -> Result<ImageOptions> {
        let mut options = ImageOptions {
            version: version.to_owned(),
            runtime,
            ..ImageOptions::default()
        };
        match self {
            Self::RootMissing => {
                options.omit_modules = vec!["virtio_blk".to_owned()];
                // The disk will never come; a minute of hoping for it proves no more.
                options.command_line = vec!["astromesh.root-timeout=5".to_owned()];
            }
            Self::RuntimeMissing => {
                options.omit = vec!["/usr/bin/astromeshd".to_owned()];
                options.drop_in = Some(self.drop_in(paths, runtime)?);
            }
            Self::HealthDead | Self::HealthFlapping => {
                options.drop_in = Some(self.drop_in(paths, runtime)?);
            }
            Self::Panic
            | Self::Hang
            | Self::PanicInitramfs
            | Self::HangInitramfs
            | Self::NetcfgCrashLoop => {
                options.init = Some(compile::program(paths, Program::Broken)?);
                options.command_line = vec![format!("broken={}", self.fault())];
                if matches!(self, Self::Hang | Self::HangInitramfs) {
                    // The watchdog ends it: a minute of silence proves no more than ten seconds.
                    let watchdog = "astromesh.watchdog=10".to_owned();
                    options.command_line.push(watchdog);
                }
            }
        }
        Ok(options)
    }

    /// What `init/examples/broken.rs` calls it.
    fn fault(self) -> &'static str {
        match self {
            Self::NetcfgCrashLoop => "netcfg",
            other => other.name(),
        }
    }

    fn drop_in(self, paths: &Paths, runtime: Runtime) -> Result<PathBuf> {
        let text = match (self, runtime) {
            (Self::RuntimeMissing, _) => IMPATIENT,
            (Self::HealthFlapping, Runtime::Small) => SMALL_FLAPPING,
            (Self::HealthFlapping, Runtime::Astromesh) => ASTROMESH_FLAPPING,
            (_, Runtime::Small) => SMALL_DEAD,
            (_, Runtime::Astromesh) => ASTROMESH_DEAD,
        };
        let folder = paths.out.join("broken");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{}-{runtime:?}.toml", self.name()));
        // Another process may be building the same image: it finds the old text or the new.
        let fresh = path.with_extension(format!("{}", std::process::id()));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// The restarts of a program that is not there are used up in seconds, where those of the shipped configuration take half a
/// minute.
const IMPATIENT: &str = "[service.astromeshd.backoff]\nbase = \"250ms\"\n";

/// The small daemon answers 500.
const SMALL_DEAD: &str = "[service.astromeshd.environment]\nSMALL_DAEMON = \"dead\"\n";

/// It answers 200 and 500 in turn, and is looked at often enough for both to be seen.
const SMALL_FLAPPING: &str = "\
[service.astromeshd.environment]
SMALL_DAEMON = \"flapping\"

[service.astromeshd.probe.liveness]
interval = \"1s\"
timeout = \"1s\"
failures = 2
";

/// What the project of the runtime takes for a broken version: `sleep infinity` in its place.
const ASTROMESH_DEAD: &str = "\
[service.astromeshd]
exec = [\"/usr/bin/python3.13\", \"-c\", \"import time\\nwhile True: time.sleep(3600)\"]
";

/// The runtime as it is, in a process that ends four seconds after it has begun to listen.
const ASTROMESH_FLAPPING: &str = "\
[service.astromeshd]
exec = [\"/opt/astromesh/venv/bin/python3\", \"-c\", '''
import os, runpy, socket, sys, threading, time
def end():
    while True:
        try:
            socket.create_connection((\"127.0.0.1\", 8000), 1).close()
            break
        except OSError:
            time.sleep(0.2)
    time.sleep(4)
    os._exit(1)
threading.Thread(target=end, daemon=True).start()
sys.argv = [\"/usr/bin/astromeshd\", \"--config\", \"/etc/astromesh\"]
runpy.run_path(sys.argv[0], run_name=\"__main__\")
''']

[service.astromeshd.probe.liveness]
interval = \"1s\"
timeout = \"1s\"
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Broken::ALL.iter().map(|broken| broken.name()).collect();
        assert_eq!(names.len(), Broken::ALL.len());
    }
}
