//! Folders below a root that strangers may have written to, opened without being led astray.
//!
//! `/var` is not verified. Whoever wrote to it once may have left a link, a FIFO, a device or another mount
//! where root expects a folder. So root walks below `/var` and `/run` only with openat2(2) and [`RESOLVE`], and
//! changes what it finds only through the descriptor that it has opened.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, RenameFlags, ResolveFlags, ioctl_getflags,
    ioctl_setflags, openat2, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, Result};
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// No link is followed, no other file system entered, nothing above the root reached (openat2(2)).
pub const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// How many obstructions of one name are kept.
const ASIDE_MAX: u128 = 100;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the folder to start from, such as `/var`: a path of the verified root, where no part is a link.
///
/// # Errors
/// `ELOOP` if a part is a link, `ENOTDIR` if it is no folder.
pub fn root(path: &Path) -> Result<OwnedFd> {
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
/// There is an end to that. Once [`ASIDE_MAX`] of these names are taken, the first of them that can be removed at once
/// makes room. If all are directories that are not empty, which takes unbounded time to remove, the number is the time.
///
/// # Errors
/// Of rename(2).
pub fn move_aside(parent: impl AsFd, name: impl AsRef<Path>) -> Result<String> {
    let name = name.as_ref();
    let aside = |number: u128| format!("{}.obstructed-{number}", name.display());
    let rename = |free: String| {
        let renamed = renameat_with(&parent, name, &parent, &free, RenameFlags::NOREPLACE);
        renamed.map(|()| free)
    };
    for number in 1..=ASIDE_MAX {
        match rename(aside(number)) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
    for number in 1..=ASIDE_MAX {
        let taken = aside(number);
        let removed = unlinkat(&parent, &taken, AtFlags::empty())
            .or_else(|_| unlinkat(&parent, &taken, AtFlags::REMOVEDIR));
        if removed.is_ok() {
            return rename(taken);
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    rename(aside(now.unwrap_or_default().as_nanos()))
}

/// Makes way for a file of ours: a directory of this name is [moved aside](move_aside), and its new name is the answer.
/// Anything else gives way to rename(2) and unlink(2) as a file does; a directory stops both.
///
/// # Errors
/// Of rename(2).
pub fn directory_aside(parent: impl AsFd, name: impl AsRef<Path>) -> Result<Option<String>> {
    let name = name.as_ref();
    match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            move_aside(parent, name).map(Some)
        }
        _ => Ok(None),
    }
}

/// The same for a path. What was done is the answer, to be told.
///
/// # Errors
/// Of rename(2), and says that a directory is there.
pub fn make_way(path: &Path) -> io::Result<Option<String>> {
    let there = path.display();
    match directory_aside(CWD, path) {
        Ok(aside) => {
            Ok(aside.map(|aside| format!("{there}: a directory was there and is now {aside}")))
        }
        Err(e) => {
            let e = io::Error::from(e);
            let why = format!("{there}: a directory is there and stays: {e}");
            Err(io::Error::new(e.kind(), why))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("beneath-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_in_the_way_is_moved_aside_however_often() {
        let folder = Folder::new("aside");
        let path = folder.0.join("x");
        let open = root(&folder.0).unwrap();
        for number in 1..=100 {
            fs::write(&path, number.to_string()).unwrap();
            let aside = format!("x.obstructed-{number}");
            assert_eq!(move_aside(&open, "x").as_ref(), Ok(&aside));
            assert_eq!(
                fs::read_to_string(folder.0.join(aside)).unwrap(),
                number.to_string()
            );
        }
        // No more than a hundred: one that can be removed at once makes room.
        for _ in 0..3 {
            fs::create_dir_all(path.join("full")).unwrap();
            move_aside(&open, "x").unwrap();
            assert_eq!(folder.names(), 100);
        }
        assert!(folder.0.join("x.obstructed-3/full").is_dir());
        assert_eq!(
            fs::read_to_string(folder.0.join("x.obstructed-4")).unwrap(),
            "4"
        );
        // Unless each of them holds something.
        for number in 4..=100 {
            let aside = folder.0.join(format!("x.obstructed-{number}"));
            fs::remove_file(&aside).unwrap();
            fs::create_dir_all(aside.join("full")).unwrap();
        }
        fs::create_dir_all(path.join("full")).unwrap();
        let aside = move_aside(&open, "x").unwrap();
        assert!(folder.0.join(aside).join("full").is_dir() && !path.exists());
    }

    #[test]
    fn only_a_directory_has_to_make_way() {
        let folder = Folder::new("way");
        let path = folder.0.join("x");
        assert_eq!(make_way(&path).unwrap(), None);
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert_eq!(make_way(&path).unwrap(), None);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let told = make_way(&path).unwrap().unwrap();
        assert!(
            told.contains("a directory was there") && told.ends_with("/x.obstructed-1"),
            "{told}"
        );
        assert!(!path.exists() && folder.0.join("x.obstructed-1").is_dir());
    }
}
