//! Folders below a root that strangers may have written to, opened without being led astray.
//!
//! `/var` is not verified. Whoever wrote to it once may have left a link, a FIFO, a device or another mount
//! where root expects a folder. So root walks below `/var` and `/run` only with openat2(2) and [`RESOLVE`], and
//! changes what it finds only through the descriptor that it has opened.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, RenameFlags, ResolveFlags, ioctl_getflags,
    ioctl_setflags, openat2, renameat_with, statat,
};
use rustix::io::{Errno, Result};

/// No link is followed, no other file system entered, nothing above the root reached (openat2(2)).
pub const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// How many obstructions of one name are kept.
const ASIDE_MAX: u32 = 100;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the folder to start from, such as `/var`: a path of the verified root, where no part is a link.
///
/// # Errors
/// `ELOOP` if a part is a link, `ENOTDIR` if it is no folder.
pub fn root(path: &std::path::Path) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    retry(|| openat2(CWD, path, FOLDER, Mode::empty(), resolve))
}

/// Opens a folder below another one.
///
/// # Errors
/// `ELOOP` if a part is a link, `ENOTDIR` if it is something else, `EXDEV` if it is on another file system.
pub fn folder(parent: impl AsFd, path: &str) -> Result<OwnedFd> {
    retry(|| openat2(parent.as_fd(), path, FOLDER, Mode::empty(), RESOLVE))
}

/// What lies at `name`, in words, for a message; `None` if there is nothing.
#[must_use]
pub fn kind(parent: impl AsFd, name: &str) -> Option<&'static str> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(kind_of(FileType::from_raw_mode(stat.st_mode)))
}

/// A type of file in words.
#[must_use]
pub fn kind_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "a file of an unknown type",
    }
}

/// Renames what lies in the way of `name` to `NAME.obstructed-N`, the first N from 1 on that is free, and
/// gives that name. Nothing is deleted: it may be what somebody needs.
///
/// # Errors
/// Of rename(2); `EEXIST` if all these names are taken.
pub fn move_aside(parent: impl AsFd, name: &str) -> Result<String> {
    let aside = |number| format!("{name}.obstructed-{number}");
    for number in 1..=ASIDE_MAX {
        let free = aside(number);
        match renameat_with(&parent, name, &parent, &free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other.map(|()| free),
        }
    }
    Err(Errno::EXIST)
}

/// Takes the attributes "immutable" and "append only" (chattr(1)) off a file or folder, with which not even root can
/// rename it or change what is in it; true if it had one.
///
/// # Errors
/// Of ioctl_iflags(2). A file system without such attributes has nothing to take off.
pub fn make_changeable(file: impl AsFd) -> Result<bool> {
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    match ioctl_getflags(&file) {
        Ok(flags) if flags.intersects(fixed) => {
            ioctl_setflags(&file, flags.difference(fixed)).map(|()| true)
        }
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(e),
    }
}

/// openat2(2): with `RESOLVE_BENEATH`, `EAGAIN` means that somebody renamed something meanwhile. A few
/// more tries are enough against honest programs, and against others PID 1 must not spin.
fn retry(mut open: impl FnMut() -> Result<OwnedFd>) -> Result<OwnedFd> {
    for _ in 0..8 {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    open()
}
