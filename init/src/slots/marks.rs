//! What is remembered within one boot and no longer: empty files in the slot daemon's runtime directory,
//! which is in memory. They outlive the daemon and its updates, not the machine.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where they are, with the daemon's control socket.
pub const DIRECTORY: &str = "/run/slots";

/// Makes the folder, for root alone: what is in it are sockets, marks and locks, and a lock can be held by
/// whoever can open its file.
///
/// # Errors
/// Of the file system.
pub fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Something that has happened in this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The start of a trial was written down.
    Begun,
    /// The other version was armed, and that was counted as one of its tries.
    Armed,
    /// The machine is to reboot by itself when a version is armed.
    Reboot,
    /// The source of the command line was looked at.
    CommandLine,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Marks(PathBuf);

impl Marks {
    /// In this directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_path_buf())
    }

    /// Whether it has happened.
    #[must_use]
    pub fn has(&self, mark: Mark) -> bool {
        self.path(mark).symlink_metadata().is_ok()
    }

    /// It has happened.
    ///
    /// # Errors
    /// Names the file.
    pub fn set(&self, mark: Mark) -> io::Result<()> {
        match File::create_new(self.path(mark)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(self.at(mark, &e)),
            _ => Ok(()),
        }
    }

    /// It holds no longer.
    ///
    /// # Errors
    /// Names the file.
    pub fn clear(&self, mark: Mark) -> io::Result<()> {
        match std::fs::remove_file(self.path(mark)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.at(mark, &e)),
            _ => Ok(()),
        }
    }

    fn path(&self, mark: Mark) -> PathBuf {
        self.0.join(match mark {
            Mark::Begun => "begun",
            Mark::Armed => "armed",
            Mark::Reboot => "reboot",
            Mark::CommandLine => "command-line",
        })
    }

    fn at(&self, mark: Mark, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("{}: {e}", self.path(mark).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_holds_until_it_is_cleared() {
        let folder = std::env::temp_dir().join(format!("slots-marks-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let marks = Marks::new(&folder);
        marks.set(Mark::Armed).unwrap();
        marks.set(Mark::Armed).unwrap();
        assert!(marks.has(Mark::Armed) && !marks.has(Mark::Begun));
        marks.clear(Mark::Armed).unwrap();
        marks.clear(Mark::Armed).unwrap();
        assert!(!marks.has(Mark::Armed));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(marks.set(Mark::Begun).is_err());
    }
}
