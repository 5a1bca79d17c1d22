//! What every VM of this process needs from the host, prepared once.

use crate::accel::{self, Accel, Choice};
use crate::paths::Paths;
use crate::tools::Tools;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

/// How often one who waits for a place looks for a free one: the kernel cannot wait for several locks.
const LOOK: Duration = Duration::from_millis(100);

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
        free_place(&self.paths.out.join("places"), places, || sleep(LOOK))
    }
}

/// Locks one of so many files in a folder: the first that is free, whichever that is. Between two looks at
/// all of them it does what `pause` does.
fn free_place(dir: &Path, places: usize, mut pause: impl FnMut()) -> Result<Place> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let open = |number: usize| {
        let path = dir.join(number.to_string());
        File::create(&path).with_context(|| format!("cannot open {}", path.display()))
    };
    let mut files: Vec<File> = (0..places).map(open).collect::<Result<_>>()?;
    loop {
        for number in 0..files.len() {
            match files[number].try_lock() {
                Ok(()) => {
                    let lock = files.swap_remove(number);
                    return Ok(Place { _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock in {}", dir.display()));
                }
            }
        }
        pause();
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
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn whoever_waits_gets_whichever_place_is_free_first() {
        let dir = std::env::temp_dir().join(format!("places-{}", std::process::id()));
        // A child that another test has just forked holds each lock, too, until it executes its program.
        let take = || free_place(&dir, 3, std::thread::yield_now);
        for free in 0..3 {
            let mut held: Vec<Option<Place>> = (0..3).map(|_| Some(take().unwrap())).collect();
            let (sender, place) = mpsc::channel();
            let waiting = dir.clone();
            std::thread::spawn(move || {
                let place = free_place(&waiting, 3, || held[free] = None);
                // Nobody listens any more once the test has failed.
                let _ = sender.send(place);
            });
            let got = place.recv_timeout(Duration::from_secs(60));
            drop(got.expect("a place was free").expect("a place"));
        }
        fs::remove_dir_all(dir).unwrap();
    }

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
