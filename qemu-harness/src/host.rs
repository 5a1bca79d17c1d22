//! What every VM of this process needs from the host, prepared once.

use crate::accel::{self, Accel, Choice};
use crate::paths::Paths;
use crate::tools::Tools;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
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

/// The right to run one VM, or the VMs of one segment. An emulated machine keeps a core busy. Two on one core, or
/// on its two threads, are no faster than one after the other, and each is then slow enough to run into
/// its guest's own timeouts; on two cores they take 12 s where one after the other takes 23. So all
/// harness processes of one workspace share as many places as there are cores. Nobody asks for
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
        let processors = available_parallelism().map_or(1, std::num::NonZero::get);
        let places = cores(processors, &siblings());
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

/// Of each processor, which processors are on its core (kernel: `Documentation/admin-guide/cputopology.rst`).
fn siblings() -> Vec<String> {
    let folder = fs::read_dir("/sys/devices/system/cpu");
    let list = |entry: fs::DirEntry| {
        fs::read_to_string(entry.path().join("topology/thread_siblings_list")).ok()
    };
    let entries = folder.into_iter().flatten().flatten();
    entries.filter_map(list).collect()
}

/// How many cores there are for `processors` that this process may use. A host that does not tell is
/// taken to have two threads on each.
fn cores(processors: usize, siblings: &[String]) -> usize {
    let distinct: BTreeSet<&str> = siblings.iter().map(|list| list.trim()).collect();
    let told = if distinct.is_empty() {
        processors / 2
    } else {
        distinct.len()
    };
    told.min(processors).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_core_are_one_place() {
        let lists =
            |lists: &[&str]| -> Vec<String> { lists.iter().map(ToString::to_string).collect() };
        assert_eq!(cores(2, &lists(&["0\n", "1\n"])), 2);
        assert_eq!(cores(2, &lists(&["0-1\n", "0-1\n"])), 1);
        assert_eq!(cores(4, &lists(&["0,2\n", "1,3\n", "0,2\n", "1,3\n"])), 2);
        // Fewer may be used than there are, and some hosts do not say.
        assert_eq!(cores(1, &lists(&["0\n", "1\n"])), 1);
        assert_eq!(cores(4, &[]), 2);
        assert_eq!(cores(1, &[]), 1);
    }
}
