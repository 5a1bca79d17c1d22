//! What netcfg takes from itself before it hears the first byte from the network.
//!
//! Whoever finds a fault in what reads foreign frames is inside a process with three capabilities. Two
//! rules of the kernel keep that from being worth much. *Landlock* leaves of all files the two
//! folders, the network's sysctls and what `/sys` says of links, and no TCP at all. *seccomp*
//! leaves the [system calls](syscalls) that netcfg makes: no program is executed, no process made,
//! none signalled or looked into. Both last until the process ends and cannot be taken back.
//!
//! A kernel without one of them is no reason to be without a network: what is not in force is told, as
//! a gap, and netcfg goes on.
//!
//! Both hold for the calling thread, and netcfg has only that one.

pub mod files;
pub mod syscalls;

use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

use self::files::Pinned;

/// What came of it. To be kept as long as the sandbox is to hold: see [`Pinned`].
#[derive(Debug)]
pub struct Sandbox {
    gaps: Vec<String>,
    _pinned: Pinned,
}

impl Sandbox {
    /// What is not in force, and why, for a warning of reason `sandbox`; nothing where all of it is.
    pub fn gap(&self) -> Option<String> {
        (!self.gaps.is_empty()).then(|| self.gaps.join("; "))
    }
}

/// Enters the sandbox, for good. To be called when both folders exist and what needs more than
/// they give is open: the control socket, above all.
pub fn enter(state_dir: &Path, runtime_dir: &Path) -> Sandbox {
    // The first look at a clock asks the kernel where its own code for that is (prctl(2),
    // `PR_GET_AUXV`; before Linux 6.4 a file in /proc), which nobody may later.
    let _ = clock_gettime(ClockId::Boottime);
    // Files first: the calls that this takes are not on the list.
    let (pinned, mut gaps) = files::restrict(state_dir, runtime_dir);
    if let Err(error) = syscalls::restrict() {
        gaps.push(format!("seccomp: {error}"));
    }
    Sandbox {
        gaps,
        _pinned: pinned,
    }
}
