//! The ESP: the folder `EFI/Linux` of boot entries, and changes to it that last.
//!
//! The partition is mounted nowhere: the mount hangs on a file descriptor of this process (fsmount(2)), nobody
//! else can see or hold it, and it is gone with the process, however that ends.
//!
//! # What a power cut leaves
//!
//! FAT has no journal, and a rename is two changes of the folder: the new name is written, then the old one is
//! marked free. Both go to the disk with the next flush, in any order if they are in two sectors.
//! A cut in the middle leaves
//!
//! - **either name**: the usual case, the sectors being one or having come in order;
//! - **both names**, for the *same* clusters. [`Esp::list`] gives both, and whoever judges them takes the one
//!   that the loader named. Removing one frees the clusters of the other: so [`Esp::remove`] first gives every
//!   twin a copy of its own. The second release of the same clusters is an error that the kernel tells in its log;
//!   with `errors=continue` nothing else comes of it (kernel: `fs/fat/fatent.c`, `fat_free_clusters`);
//! - **no name**: the clusters are lost until the ESP is made anew, and the version with them. It was one on
//!   trial, or the running one that was being blessed: the other slot's entry is untouched and boots.
//!
//! Twins are told by their content, since FAT does not tell a file's clusters: a copy too many does no harm.

use super::name::EntryName;
use super::uki::{self, Uki};
use crate::devices::modules::Modules;
use rustix::fs::{CWD, RenameFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the loader looks for UKIs (UAPI.1, "Type #2 EFI Unified Kernel Images").
const FOLDER: &str = "EFI/Linux";

/// Drivers: vfat needs tables of characters for short names and for long ones.
const MODULES: [&str; 3] = ["nls_cp437", "nls_ascii", "vfat"];

/// Mount options (kernel: `Documentation/filesystems/vfat.rst`). The code page and the character set are those
/// that the image has modules for; `utf8` has long names in UTF-8 all the same. For `errors` see the module.
const OPTIONS: [(&str, &str); 6] = [
    ("codepage", "437"),
    ("iocharset", "ascii"),
    ("utf8", "1"),
    ("fmask", "0177"),
    ("dmask", "0077"),
    ("errors", "continue"),
];

/// Entries that are looked at: a machine has two or three.
const ENTRIES_MAX: usize = 128;

/// Suffix of a copy on its way; the loader takes no such file for an entry.
const COPY: &str = ".twin";

/// A mounted ESP.
#[derive(Debug)]
pub struct Esp {
    name: String,
    folder: PathBuf,
    /// Unmounted when it is closed.
    _mount: Option<OwnedFd>,
}

/// A boot entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: EntryName,
    /// Its size.
    pub bytes: u64,
    /// What it says about itself, or why it is no whole UKI.
    pub uki: Result<Uki, String>,
}

impl Esp {
    /// Mounts the ESP on this device for this process alone.
    ///
    /// # Errors
    /// Names the device, and the step.
    pub fn mount(device: &Path) -> io::Result<Self> {
        let name = format!("ESP {}", device.display());
        let step =
            |what: &str, e: io::Error| io::Error::new(e.kind(), format!("{name}: {what}: {e}"));
        // All that is not built in; the mount says what is missing.
        if let Ok(modules) = Modules::of_running_kernel() {
            for module in MODULES {
                let _ = modules.load(module);
            }
        }
        let mount = detached(device).map_err(|e| step("mount as vfat", e))?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Self {
            name,
            folder: root.join(FOLDER),
            _mount: Some(mount),
        })
    }

    /// The ESP whose root is this folder.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            name: format!("ESP {}", root.display()),
            folder: root.join(FOLDER),
            _mount: None,
        }
    }

    /// The folder of boot entries. The path is good for this process alone, and as long as this value.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The boot entries, by name.
    ///
    /// # Errors
    /// Names what cannot be read. A single bad entry is no error: it says so itself.
    pub fn list(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for file in self.files()? {
            let Some(name) = EntryName::parse(&file) else {
                continue;
            };
            let path = self.folder.join(&file);
            let bytes = std::fs::symlink_metadata(&path).map_or(0, |m| m.len());
            let uki = File::open(&path)
                .map_err(|e| e.to_string())
                .and_then(|open| uki::read(&open, bytes))
                .map_err(|e| format!("{}: {FOLDER}/{file}: {e}", self.name));
            found.push(Found { name, bytes, uki });
        }
        Ok(found)
    }

    /// Gives an entry another name; on the disk when this returns. Once done, doing it again is no error.
    ///
    /// # Errors
    /// Names the entry; `AlreadyExists` if another file has the name.
    pub fn rename(&self, from: &EntryName, to: &EntryName) -> io::Result<()> {
        let renamed = self.rename_inner(from, to).and_then(|()| self.sync());
        renamed.map_err(|e| self.at_fault(&format!("{from} to {to}"), &e))
    }

    fn rename_inner(&self, from: &EntryName, to: &EntryName) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let (source, target) = (self.resolve(from)?, self.resolve(to)?);
        let (source, target) = match (source, target) {
            (Some(source), None) => (source, to.file()),
            (None, Some(_)) => return Ok(()),
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
            // What a cut left, if they are the same.
            (Some(source), Some(target)) => {
                return if self.same(&source, &target)? {
                    self.remove_file(&source)
                } else {
                    Err(io::ErrorKind::AlreadyExists.into())
                };
            }
        };
        let (source, target) = (self.folder.join(source), self.folder.join(target));
        rustix::fs::renameat_with(CWD, source, CWD, target, RenameFlags::NOREPLACE)?;
        Ok(())
    }

    /// Removes an entry, and leaves those that share its clusters whole; on the disk when this returns. One that
    /// is not there is no error.
    ///
    /// # Errors
    /// Names the entry.
    pub fn remove(&self, name: &EntryName) -> io::Result<()> {
        let removed = self.resolve(name).and_then(|file| match file {
            Some(file) => self.remove_file(&file).and_then(|()| self.sync()),
            None => self.sync(),
        });
        removed.map_err(|e| self.at_fault(&name.file(), &e))
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// Of the file system.
    pub fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.folder)
            .map_err(|e| self.at_fault("free space", &e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// All of the ESP is on the disk when this returns.
    ///
    /// # Errors
    /// Of the file system.
    pub fn flush(&self) -> io::Result<()> {
        self.sync().map_err(|e| self.at_fault("flush", &e))
    }

    /// The folder, then everything: names of FAT are in the folder, clusters and free ones in the table.
    fn sync(&self) -> io::Result<()> {
        let folder = File::open(&self.folder)?;
        folder.sync_all()?;
        rustix::fs::syncfs(&folder)?;
        Ok(())
    }

    /// All regular files in the folder, sorted.
    fn files(&self) -> io::Result<Vec<String>> {
        let list = || {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(&self.folder)? {
                let entry = entry?;
                // Another encoding than UTF-8 is none that vfat gives.
                if let (true, Ok(file)) = (
                    entry.file_type()?.is_file(),
                    entry.file_name().into_string(),
                ) {
                    files.push(file);
                }
                if files.len() > ENTRIES_MAX {
                    return Err(io::Error::other(format!(
                        "more than {ENTRIES_MAX} files: remove those that are not needed"
                    )));
                }
            }
            files.sort();
            Ok(files)
        };
        list().map_err(|e: io::Error| {
            io::Error::new(e.kind(), format!("{}: {FOLDER}: {e}", self.name))
        })
    }

    /// The file that an entry is: by its usual name, or by another that reads the same (`x+3.efi`).
    fn resolve(&self, name: &EntryName) -> io::Result<Option<String>> {
        let files = self.files()?;
        let usual = name.file();
        let mut reading = files
            .iter()
            .filter(|file| EntryName::parse(file).as_ref() == Some(name));
        let found = files.iter().find(|file| **file == usual);
        Ok(found.or_else(|| reading.next()).cloned())
    }

    /// Unlinks a file after giving its twins copies of their own.
    fn remove_file(&self, file: &str) -> io::Result<()> {
        let files = self.files()?;
        for other in files
            .iter()
            .filter(|other| *other != file && !other.ends_with(COPY))
        {
            if self.same(file, other)? {
                self.copy_apart(other)?;
            }
        }
        std::fs::remove_file(self.folder.join(file))
    }

    /// Puts a copy in a file's place: its name is then for clusters that no other name is for.
    fn copy_apart(&self, file: &str) -> io::Result<()> {
        let path = self.folder.join(file);
        let copy = self.folder.join(format!("{file}{COPY}"));
        std::fs::copy(&path, &copy)?;
        File::open(&copy)?.sync_all()?;
        self.sync()?;
        std::fs::rename(&copy, &path)?;
        self.sync()
    }

    /// Whether two files have the same bytes.
    fn same(&self, a: &str, b: &str) -> io::Result<bool> {
        let open = |file: &str| File::open(self.folder.join(file));
        let (mut a, mut b) = (open(a)?, open(b)?);
        if a.metadata()?.len() != b.metadata()?.len() {
            return Ok(false);
        }
        let mut blocks = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let count = a.read(&mut blocks.0)?;
            let (Some(left), Some(right)) = (blocks.0.get(..count), blocks.1.get_mut(..count))
            else {
                return Ok(false);
            };
            if count == 0 {
                return Ok(true);
            }
            b.read_exact(right)?;
            if left != right {
                return Ok(false);
            }
        }
    }

    fn at_fault(&self, what: &str, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("{}: {FOLDER}: {what}: {e}", self.name))
    }
}

/// A mount that is in no tree.
fn detached(device: &Path) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("vfat", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", device)?;
    for (key, value) in OPTIONS {
        rustix::mount::fsconfig_set_string(&context, key, value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(mount)
}
