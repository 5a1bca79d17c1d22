//! From the initramfs to the root: move the mounts, free the memory, change `/`, execute.
//!
//! rootfs cannot be unmounted and `pivot_root` does not work on it (kernel:
//! `Documentation/filesystems/ramfs-rootfs-initramfs.rst`): its files are deleted, which gives the
//! memory back, and the new root is moved over it. Deleting is limited to the initramfs's own
//! device, so that nothing mounted below it is ever touched.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::mount::mount_move;
use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;

/// The mounts that the next stage takes over.
const CARRIED: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Directories of an initramfs nest less deep than this.
const DEPTH_MAX: u32 = 32;

/// Makes `root` the root and executes `program` on it. Returns only what prevented it.
pub fn enter(root: &str, program: &str) -> io::Error {
    match prepare(root) {
        // PID 1 executes; the environment is the kernel's, and of no use to the next stage.
        Ok(()) => std::process::Command::new(program).env_clear().exec(),
        Err(e) => e,
    }
}

fn prepare(root: &str) -> io::Result<()> {
    let step = |what: String| {
        move |e: rustix::io::Errno| io::Error::other(format!("{what}: {}", io::Error::from(e)))
    };
    // Opened before `/` changes: the way back to the initramfs's files.
    let old = rustix::fs::open(
        "/",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(step("open /".into()))?;
    let device = rustix::fs::fstat(&old)
        .map_err(step("stat /".into()))?
        .st_dev;
    for mount in CARRIED {
        mount_move(mount, format!("{root}{mount}")).map_err(step(format!(
            "move {mount} to {root}{mount}; the root needs that directory"
        )))?;
    }
    rustix::process::chdir(root).map_err(step(format!("chdir {root}")))?;
    delete_all(&old, device, DEPTH_MAX);
    mount_move(".", "/").map_err(step(format!("move {root} to /")))?;
    rustix::process::chroot(".").map_err(step("chroot".into()))?;
    rustix::process::chdir("/").map_err(step("chdir /".into()))
}

/// Deletes what is in a directory of the initramfs. What cannot be deleted costs memory, no more.
fn delete_all(directory: &OwnedFd, device: u64, depth: u32) {
    let Ok(entries) = Dir::read_from(directory) else {
        return;
    };
    let names: Vec<CString> = entries
        .flatten()
        .map(|e| e.file_name().to_owned())
        .collect();
    for name in names
        .iter()
        .filter(|n| !matches!(n.as_bytes(), b"." | b".."))
    {
        let Ok(stat) = statat(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if stat.st_dev != device {
            continue;
        }
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && depth > 0 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(inner) = openat(directory, name, flags, Mode::empty()) {
                delete_all(&inner, device, depth - 1);
            }
        }
        let flags = if is_directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let _ = unlinkat(directory.as_fd(), name, flags);
    }
}
