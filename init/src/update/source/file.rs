//! A folder on this machine, such as a medium that somebody mounted.

use super::{Opened, Source, SourceError};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder that the manifest is in, and the manifest's name.
    pub(super) fn new(manifest: &Path) -> Result<(Self, String), SourceError> {
        let name = manifest.file_name().and_then(|name| name.to_str());
        let Some(name) = name else {
            return Err(SourceError::lasting(format!(
                "{}: this is no file's name; a source is the path of a manifest",
                manifest.display()
            )));
        };
        let folder = manifest
            .parent()
            .unwrap_or_else(|| Path::new(""))
            .to_path_buf();
        Ok((Self(folder), name.to_owned()))
    }

    /// Only a regular file: nothing that blocks, never ends, or does something when it is opened. Folder and file may
    /// be a service's, which can put anything in their place at any moment; so it is looked at through a descriptor
    /// that opens nothing (open(2), `O_PATH`), and what was looked at is what is opened.
    fn file(&self, name: &str) -> Result<(File, u64), SourceError> {
        let open = || -> io::Result<(File, u64)> {
            let path = self.0.join(name);
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let found = File::from(rustix::fs::open(&path, flags, Mode::empty())?);
            if !found.metadata()?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        open().map_err(|e| SourceError::io(&self.place(name), &e))
    }
}

impl Source for Folder {
    fn open(&mut self, name: &str, offset: u64) -> Result<Opened, SourceError> {
        let (mut file, size) = self.file(name)?;
        file.seek(SeekFrom::Start(offset))
            .map_err(|e| SourceError::io(&self.place(name), &e))?;
        Ok(Opened {
            reader: Box::new(file),
            total: Some(size),
            skipped: 0,
        })
    }

    fn size(&mut self, name: &str) -> Result<Option<u64>, SourceError> {
        self.file(name).map(|(_, size)| Some(size))
    }

    fn place(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn files_are_read_from_an_offset_and_what_is_none_is_told() {
        let folder = std::env::temp_dir().join(format!("init-folder-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("a"), "0123456789").unwrap();
        let (mut source, name) = Folder::new(&folder.join("update.json")).unwrap();
        assert_eq!(name, "update.json");
        assert_eq!(source.size("a"), Ok(Some(10)));
        let mut opened = source.open("a", 7).unwrap();
        let mut text = String::new();
        opened.reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), opened.total), ("789", Some(10)));
        let fifo = folder.join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, Mode::RUSR, 0).unwrap();
        std::os::unix::fs::symlink("fifo", folder.join("link")).unwrap();
        for (name, say) in [
            ("none", "No such file"),
            ("sub", "not a regular file"),
            ("fifo", "not a regular file"),
            ("link", "not a regular file"),
        ] {
            let error = source.size(name).unwrap_err();
            assert!(!error.transient && error.message.contains(say), "{error:?}");
            assert!(error.message.contains(&source.place(name)));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
