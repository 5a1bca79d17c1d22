//! The files that stay in reach: Landlock (kernel: `Documentation/userspace-api/landlock.rst`).
//!
//! A rule is tied to an inode that was opened, not to a path. In `/proc` the kernel makes a new inode
//! when it has dropped the old one for want of memory, and no rule would be tied to that; so the
//! opened places are [`Pinned`].

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, PathFdError,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};
use std::os::fd::AsFd as _;

/// The newest rules that netcfg was tested with. An older kernel has fewer, which is told: files
/// since Linux 5.13, TCP since 6.7 (ABI 4), signals and abstract sockets since 6.12 (ABI 6).
const NEWEST: ABI = ABI::V6;

/// Keeps the kernel from forgetting the inodes that rules are tied to.
#[derive(Debug, Default)]
pub struct Pinned {
    _places: Vec<PathFd>,
}

/// A place, and what may be done beneath it.
struct Place {
    path: PathBuf,
    access: BitFlags<AccessFs>,
    /// Not there on every kernel.
    optional: bool,
}

fn places(state_dir: &Path, runtime_dir: &Path) -> Vec<Place> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // A file is replaced: a new one written beside it, and renamed over it. A directory in the way is renamed, which
    // Landlock takes for its removal and its making; seccomp has no call that does either.
    let replace = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::RemoveDir;
    // They are there already, and what is written to them is a value.
    let set = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    let place = |path: &Path, access, optional| Place {
        path: path.to_owned(),
        access,
        optional,
    };
    vec![
        place(state_dir, replace, false),
        place(runtime_dir, replace, false),
        place(Path::new("/proc/sys/net/ipv4"), set, false),
        place(Path::new("/proc/sys/net/ipv6"), set, true),
        // Tells a lease of this boot from an older one.
        place(
            Path::new("/proc/sys/kernel/random/boot_id"),
            AccessFs::ReadFile.into(),
            false,
        ),
        // Driver and path of a link: /sys/class/net has links into /sys/devices and /sys/bus.
        place(Path::new("/sys"), read, false),
    ]
}

/// Takes everything else away; what could not be had is in the list.
pub fn restrict(state_dir: &Path, runtime_dir: &Path) -> (Pinned, Vec<String>) {
    let mut gaps = Vec::new();
    let mut open = Vec::new();
    for place in places(state_dir, runtime_dir) {
        match PathFd::new(&place.path) {
            Ok(fd) => open.push((fd, place.access)),
            Err(error) => {
                let missing = not_found(&error);
                if !(place.optional && missing) {
                    gaps.push(format!(
                        "landlock: {} stays out of reach: {error}",
                        place.path.display()
                    ));
                }
            }
        }
    }
    match enforce(&open) {
        Ok(status) => gaps.extend(judge(&status)),
        Err(error) => gaps.push(format!("landlock: {error}")),
    }
    let places = open.into_iter().map(|(fd, _)| fd).collect();
    (Pinned { _places: places }, gaps)
}

fn not_found(error: &PathFdError) -> bool {
    let PathFdError::OpenCall { source, .. } = error else {
        return false;
    };
    source.kind() == io::ErrorKind::NotFound
}

fn enforce(open: &[(PathFd, BitFlags<AccessFs>)]) -> Result<RestrictionStatus, RulesetError> {
    // What is handled here and given by no rule is forbidden: TCP has no rule at all. What the
    // kernel does not know of is left out by the library ("best effort", its default).
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (place, access) in open {
        ruleset = ruleset.add_rule(PathBeneath::new(place.as_fd(), *access))?;
    }
    ruleset.restrict_self()
}

fn judge(status: &RestrictionStatus) -> Option<String> {
    let kernel = match status.landlock {
        LandlockStatus::NotImplemented => "this kernel is built without it".to_owned(),
        LandlockStatus::NotEnabled => "it is switched off; see lsm= of the command line".to_owned(),
        LandlockStatus::Available { effective_abi, .. } => {
            format!("this kernel has only {effective_abi:?} of it")
        }
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => Some(format!("landlock: in force in part: {kernel}")),
        RulesetStatus::NotEnforced => Some(format!("landlock: not in force: {kernel}")),
    }
}
