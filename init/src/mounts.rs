//! The kernel's file systems, mounted where everybody expects them.
//!
//! Both stages call [`api`]: the initramfs stage mounts and hands over, the system stage finds them
//! mounted and adds what only it needs. So the system stage also works without ours before it.

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::io;

const NOSUID: MountFlags = MountFlags::NOSUID;
const NODEV: MountFlags = MountFlags::NODEV;
const NOEXEC: MountFlags = MountFlags::NOEXEC;

/// One file system of the kernel.
struct Api {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static std::ffi::CStr,
    /// Whether the machine cannot do without it.
    needed: bool,
}

/// What both stages need.
const EARLY: [Api; 4] = [
    Api {
        kind: "proc",
        target: "/proc",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: true,
    },
    Api {
        kind: "sysfs",
        target: "/sys",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: true,
    },
    Api {
        kind: "devtmpfs",
        target: "/dev",
        flags: NOSUID.union(NOEXEC),
        options: c"mode=0755",
        needed: true,
    },
    Api {
        kind: "tmpfs",
        target: "/run",
        flags: NOSUID.union(NODEV),
        options: c"mode=0755,size=20%",
        needed: true,
    },
];

/// What only the running system needs. `/tmp` and `/dev/shm` take memory as they fill, and are bounded.
const LATE: [Api; 5] = [
    Api {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: true,
    },
    Api {
        kind: "devpts",
        target: "/dev/pts",
        flags: NOSUID.union(NOEXEC),
        options: c"mode=0620,ptmxmode=0666,gid=5",
        needed: false,
    },
    Api {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: NOSUID.union(NODEV),
        options: c"mode=1777,size=20%",
        needed: false,
    },
    Api {
        kind: "tmpfs",
        target: "/tmp",
        flags: NOSUID.union(NODEV),
        options: c"mode=1777,size=20%",
        needed: true,
    },
    // A memory file system: no firmware variables on a machine without UEFI.
    Api {
        kind: "efivarfs",
        target: "/sys/firmware/efi/efivars",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: false,
    },
];

/// Mounts what both stages need.
///
/// # Errors
/// Names the target that the machine cannot do without.
pub fn early() -> io::Result<()> {
    EARLY.iter().try_for_each(one)
}

/// Mounts what only the running system needs.
///
/// # Errors
/// Names the target that the machine cannot do without.
pub fn late() -> io::Result<()> {
    // The directories that are not in the kernel's own trees.
    for directory in ["/dev/pts", "/dev/shm"] {
        let _ = std::fs::create_dir(directory);
    }
    LATE.iter().try_for_each(one)
}

/// Mounts the firmware's variables, for whoever needs one before the system stage.
///
/// # Errors
/// If there is no such firmware or the module is missing.
pub fn efivarfs() -> io::Result<()> {
    let api = Api {
        kind: "efivarfs",
        target: "/sys/firmware/efi/efivars",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        options: c"",
        needed: true,
    };
    one(&api)
}

fn one(api: &Api) -> io::Result<()> {
    if is_mount_point(api.target) {
        return Ok(());
    }
    match mount(api.kind, api.target, api.kind, api.flags, Some(api.options)) {
        // EBUSY: that same file system is mounted there already.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(_) if !api.needed => Ok(()),
        Err(e) => Err(io::Error::other(format!(
            "mount {} on {}: {}",
            api.kind,
            api.target,
            io::Error::from(e)
        ))),
    }
}

/// Whether something is mounted on this directory: it is on another device than its parent.
#[must_use]
pub fn is_mount_point(path: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &str| std::fs::metadata(p).map(|m| m.dev()).ok();
    device(path) != device(&format!("{path}/.."))
}

/// Flags for a file system that holds data: nothing of it is a device or gains rights.
pub const DATA: MountFlags = NOSUID.union(NODEV);
