//! The ESP: the folder `EFI/Linux` of boot entries, and changes to it that last.
//!
//! The partition is mounted nowhere: the mount hangs on a file descriptor of this process (fsmount(2)).
//! Nobody else can see or hold it, and it is gone with the process, however that ends; no mount point is left
//! over that a shutdown would have to know of.
//!
//! What a power cut in the middle of a change leaves, and what is done about it, is told in `fat.rs`. For
//! those who read the list it means: two entries may be the same UKI, and one may be empty or cut short.
//! [`Esp::list`] gives them as they are.

mod fat;

use super::name::EntryName;
use super::uki::{self, Uki};
use crate::devices::modules::Modules;
use base::beneath;
use fat::{FILES_MAX, Folder};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the loader looks for UKIs (UAPI.1, "Type #2 EFI Unified Kernel Images").
const FOLDER: &str = "EFI/Linux";

/// Drivers: vfat needs a table of characters for short names and one for long ones.
const MODULES: [&str; 3] = ["nls_cp437", "nls_ascii", "vfat"];

/// Mount options (kernel: `Documentation/filesystems/vfat.rst`). The code page and the character set are those
/// that the image has modules for; with `utf8` long names are UTF-8 all the same. After an error of the file
/// system the default would make it read-only until somebody runs an fsck, which the image does not have: no
/// update could ever mend such an ESP.
const OPTIONS: [(&str, &str); 6] = [
    ("codepage", "437"),
    ("iocharset", "ascii"),
    ("utf8", "1"),
    ("fmask", "0177"),
    ("dmask", "0077"),
    ("errors", "continue"),
];

/// A mounted ESP.
#[derive(Debug)]
pub struct Esp {
    name: String,
    folder: Folder,
    /// Unmounted when it is closed.
    _mount: Option<OwnedFd>,
}

/// The boot entries of an ESP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Those that were looked at, by name: all of our image, and others as long as there is room.
    pub found: Vec<Found>,
    /// How many were not.
    pub left_out: usize,
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
    /// Mounts the ESP on this device for this process alone. The entries of this image are found whatever else is there.
    ///
    /// # Errors
    /// Names the device, and what does not work.
    pub fn mount(device: &Path, image: &str) -> io::Result<Self> {
        let name = format!("ESP {}", device.display());
        // What is built in has no module; if one is missing, the mount fails and this says why.
        let mut missing = String::new();
        if let Ok(modules) = Modules::of_running_kernel() {
            for module in MODULES {
                if let Err(e) = modules.load(module) {
                    missing = format!(" ({e})");
                }
            }
        }
        let mount = detached(device).map_err(|e| {
            io::Error::new(e.kind(), format!("{name}: mount as vfat: {e}{missing}"))
        })?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Self {
            name,
            folder: folder(&root, image),
            _mount: Some(mount),
        })
    }

    /// The ESP whose root is this folder, for tests.
    #[must_use]
    pub fn at(root: &Path, image: &str) -> Self {
        Self {
            name: format!("ESP {}", root.display()),
            folder: folder(root, image),
            _mount: None,
        }
    }

    /// The folder of boot entries. The path is good for this process alone, and as long as this value.
    ///
    /// Files that are made here on the way to an entry are named `*.new`, and only after [`Esp::sweep`]:
    /// writing into one that a power cut has left could be writing into an entry.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// The boot entries, by name. One that is no whole UKI says so itself.
    ///
    /// # Errors
    /// Names what cannot be read.
    pub fn list(&self) -> io::Result<Entries> {
        let files = self.folder.files().map_err(|e| self.fault("", &e))?;
        let names = files.names.iter();
        let found = names.filter_map(|file| Some(self.found(file, EntryName::parse(file)?)));
        Ok(Entries {
            found: found.collect(),
            left_out: files.left_out,
        })
    }

    fn found(&self, file: &str, name: EntryName) -> Found {
        let open = File::open(self.folder.file(file));
        let open = open.and_then(|open| Ok((open.metadata()?.len(), open)));
        let bytes = open.as_ref().map_or(0, |(len, _)| *len);
        let uki = match open {
            Ok((len, open)) => uki::read(&open, len),
            Err(e) => Err(e.to_string()),
        };
        let uki = uki.map_err(|e| format!("{}: {FOLDER}/{file}: {e}", self.name));
        Found { name, bytes, uki }
    }

    /// Gives an entry another name; on the disk when this returns. Once done, doing it again is no error. What had to
    /// [make way](Self::make_way) for it is the answer, to be told.
    ///
    /// # Errors
    /// Names the entry; `AlreadyExists` if another one has the name.
    pub fn rename(&self, from: &EntryName, to: &EntryName) -> io::Result<Option<String>> {
        let source = self.resolve(from).map_err(|e| self.fault("", &e))?;
        let target = self.resolve(to).map_err(|e| self.fault("", &e))?;
        let moved = match target {
            Some(_) => None,
            None => self.make_way(&to.file())?,
        };
        let renamed = match (source, target) {
            (Some(_), _) if from == to => self.folder.flush(),
            (Some(source), Some(target)) => self.folder.rename(&source, &target),
            (Some(source), None) => self.folder.rename(&source, &to.file()),
            (None, Some(_)) => self.folder.flush(),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        };
        renamed.map_err(|e| self.fault(&format!("/{from}: rename to {to}"), &e))?;
        Ok(moved)
    }

    /// Makes way for a file of this name: a directory that lies there is renamed, and what was done is the answer, to be told.
    ///
    /// # Errors
    /// Names the file.
    pub fn make_way(&self, file: &str) -> io::Result<Option<String>> {
        let make = || -> io::Result<Option<String>> {
            let folder = File::open(self.folder())?;
            Ok(beneath::directory_aside(&folder, file)?)
        };
        let aside = make().map_err(|e| self.fault(&format!("/{file}"), &e))?;
        Ok(aside.map(|aside| {
            let name = &self.name;
            format!("{name}: {FOLDER}/{file}: a directory was there and is now {aside}")
        }))
    }

    /// Makes an entry of a finished file of the folder (`*.new`); on the disk when this returns.
    ///
    /// # Errors
    /// Names the entry; `AlreadyExists` if another one has the name.
    pub fn place(&self, file: &str, name: &EntryName) -> io::Result<()> {
        let placed = self.folder.rename(file, &name.file());
        placed.map_err(|e| self.fault(&format!("/{file}: rename to {name}"), &e))
    }

    /// Removes an entry; on the disk when this returns. One that is not there is no error.
    ///
    /// # Errors
    /// Names the entry.
    pub fn remove(&self, name: &EntryName) -> io::Result<()> {
        let removed = match self.resolve(name).map_err(|e| self.fault("", &e))? {
            Some(file) => self.folder.remove(&file),
            None => self.folder.flush(),
        };
        removed.map_err(|e| self.fault(&format!("/{name}: remove"), &e))
    }

    /// Removes the files that were on their way to an entry (`*.new`) when something cut the work short.
    ///
    /// # Errors
    /// Of the file system.
    pub fn sweep(&self) -> io::Result<()> {
        self.folder.sweep().map_err(|e| self.fault(": sweep", &e))
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// Of the file system.
    pub fn free(&self) -> io::Result<u64> {
        fat::free(&self.folder.path).map_err(|e| self.fault(": free space", &e))
    }

    /// All of the ESP is on the disk when this returns.
    ///
    /// # Errors
    /// Of the file system.
    pub fn flush(&self) -> io::Result<()> {
        self.folder.flush().map_err(|e| self.fault(": flush", &e))
    }

    /// The file that an entry is: by its usual name, or by another that reads the same, as `x+3.efi`.
    fn resolve(&self, name: &EntryName) -> io::Result<Option<String>> {
        let usual = name.file();
        let mut files = self.folder.files()?.names;
        files.retain(|file| EntryName::parse(file).as_ref() == Some(name));
        files.sort_by_key(|file| *file != usual);
        Ok(files.into_iter().next())
    }

    fn fault(&self, what: &str, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("{}: {FOLDER}{what}: {e}", self.name))
    }
}

impl Entries {
    /// What is to be told if some were not looked at, and what is to be done about it.
    #[must_use]
    pub fn surplus(&self) -> Option<String> {
        let more = self.left_out;
        (more > 0).then(|| {
            format!(
                "{FOLDER} of the ESP has {more} boot entries more than the {FILES_MAX} that are looked at: remove those that are \
                 not needed"
            )
        })
    }
}

/// The folder of boot entries below the root of an ESP.
fn folder(root: &Path, image: &str) -> Folder {
    Folder {
        path: root.join(FOLDER),
        ours: format!("{}_", image.to_ascii_lowercase()),
    }
}

/// A mount that is in no tree. Folders are written at once (`dirsync`): what a rename relies on, see [`fat`].
fn detached(device: &Path) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("vfat", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", device)?;
    rustix::mount::fsconfig_set_flag(&context, "dirsync")?;
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

#[cfg(test)]
mod tests;
