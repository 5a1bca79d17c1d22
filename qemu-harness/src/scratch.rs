//! A folder in `/tmp` that nobody else can have a hand in.
//!
//! `/tmp` is everybody's: a folder that is there already may be a stranger's, who could exchange what
//! is put into it. So it is made here and now with mode 0700, or another name is tried.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Names that are tried. Each that is taken is a leftover of a process that had our number, or a prank.
const TRIES: u32 = 1000;

/// The folder; it is removed with all in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A folder whose path is short: that of a socket must fit into `sun_path` (108 bytes, unix(7)).
    pub(crate) fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let names = (0..TRIES).map(|_| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            format!("{name}-{pid}-{number}")
        });
        Self::make(Path::new("/tmp"), names)
    }

    fn make(parent: &Path, names: impl Iterator<Item = String>) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        for name in names {
            let folder = parent.join(name);
            match builder.create(&folder) {
                Ok(()) => return Ok(Self(folder)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", folder.display()));
                }
            }
        }
        anyhow::bail!(
            "every name tried for a folder in {} is taken; remove what is left there of earlier runs",
            parent.display()
        )
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in /tmp is untidy and nothing more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_is_there_already_is_not_taken() {
        let outer = Scratch::new("scratch").unwrap();
        fs::create_dir(outer.path().join("a")).unwrap();
        symlink("/", outer.path().join("b")).unwrap();
        let names = || ["a", "b", "c"].map(str::to_owned).into_iter();
        let made = Scratch::make(outer.path(), names()).unwrap();
        assert_eq!(made.path(), outer.path().join("c"));
        let mode = fs::metadata(made.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        let error = Scratch::make(outer.path(), names()).unwrap_err();
        assert!(error.to_string().contains("is taken"), "{error}");
    }
}
