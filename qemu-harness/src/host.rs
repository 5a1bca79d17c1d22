//! What every VM of this process needs from the host, prepared once.

use crate::accel::{self, Accel, Choice};
use crate::paths::Paths;
use crate::tools::Tools;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::thread::available_parallelism;

/// Folders, tools and accelerator.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where things lie.
    pub paths: Paths,
    /// The tools root QEMU and its firmware come from.
    pub tools: Tools,
    /// What runs the guests' instructions.
    pub accel: Accel,
}

/// The right to run one VM, or the VMs of one segment. Two emulated machines on two processors are no faster than one after
/// the other, and each is then slow enough to run into its guest's own timeouts; so all harness
/// processes of one workspace share as many places as there are pairs of processors. Nobody asks for
/// a second one while it holds one: on a small host it would wait for itself.
#[derive(Debug)]
pub struct Place {
    _lock: File,
}

impl Host {
    /// Prepares the tools root and finds the accelerator.
    ///
    /// # Errors
    /// When the tools root cannot be made, or a named accelerator does not work.
    pub fn prepare(choice: Choice) -> Result<Self> {
        let paths = Paths::discover()?;
        let tools = Tools::prepare(&paths)?;
        let accel = accel::choose(choice, &paths, &tools)?;
        Ok(Self {
            paths,
            tools,
            accel,
        })
    }

    /// Waits for a free place to run a VM.
    ///
    /// # Errors
    /// When the lock files cannot be made.
    pub fn place(&self) -> Result<Place> {
        let places = available_parallelism().map_or(1, |n| (n.get() / 2).max(1));
        let dir = self.paths.out.join("places");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let open = |number: usize| {
            let path = dir.join(number.to_string());
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))
        };
        for number in 0..places {
            let lock = open(number)?;
            if lock.try_lock().is_ok() {
                return Ok(Place { _lock: lock });
            }
        }
        let number = std::process::id() as usize % places;
        let lock = open(number)?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", dir.display()))?;
        Ok(Place { _lock: lock })
    }
}
