//! Changes to a folder on FAT that a power cut does not turn into damage.
//!
//! FAT has no journal and the image no fsck. What goes to the disk between two flushes goes in any order, so
//! each change here is made of steps with a flush between them wherever the order matters.
//!
//! A **flush** is syncfs(2) and then fsync(2) of the folder. The order is that way round since on FAT only
//! an fsync makes the disk empty its cache (kernel: `fs/fat/file.c`, `fat_file_fsync`), and since a renamed
//! file's new name has no clusters before its inode is written back, which syncfs does.
//!
//! # What a cut leaves
//!
//! A rename adds the new name, which is empty, then gives it the clusters, then marks the old name free. The ESP
//! is mounted with `dirsync`, so each of these is written before the next (kernel: `fs/fat/namei_vfat.c`,
//! `vfat_rename`). Without it the kernel may write the folder at any moment between them, and has: the old
//! name gone and the new one empty is a machine without an entry if it has no other version. What a cut leaves is,
//! besides **either name**,
//!
//! - **the old name, and the new one, empty**: the loader passes over it, and it is removed when the rename is done
//!   again;
//! - **both names**, for the *same* clusters ("twins"). Removing one would free the clusters of the other.
//!   So [`Folder::remove`] first gives every twin clusters of its own. Twins are told by their bytes, since
//!   FAT tells nobody a file's clusters: a copy too many does no harm.
//!
//! If the two names are in two sectors, which the disk may write in another order, it may also leave **no name**: the
//! clusters are lost. That version is then not there any more; the other slot's is.
//!
//! A removal marks the name free and then the clusters. The clusters wait until the name is surely gone
//! (the file is kept open for so long), so that no name is left for clusters that are free: the next file
//! would get them. A cut leaves clusters that nobody has.
//!
//! Clusters that are freed twice, as with twins, are an error that the kernel tells in its log and that
//! does nothing else if the mount says `errors=continue` (kernel: `fs/fat/fatent.c`, `fat_free_clusters`).

use crate::slots::name::EntryName;
use rustix::fs::{CWD, RenameFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Boot entries, and files on their way to one, that are looked at: a machine has two or three.
pub const FILES_MAX: usize = 128;

/// Names that are read. A folder on FAT has no room for more: 65,536 records of 32 bytes.
const NAMES_MAX: usize = 65_536;

/// Suffixes of files on their way, whoever makes them. The loader takes none for an entry.
const TEMPORARY: [&str; 2] = [".new", ".twin"];

/// A folder of boot entries.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// How the names of our image's files begin, in small letters. They are found however many others there are.
    pub ours: String,
}

/// What is in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The boot entries and the files on their way to one, sorted.
    pub names: Vec<String>,
    /// How many more there are, none of which has a name of ours unless all that were taken have.
    pub left_out: usize,
}

impl Folder {
    /// All regular files that are boot entries, or are on their way to one. What else lies there is passed over.
    pub fn files(&self) -> io::Result<Files> {
        let mut taken = BTreeSet::new();
        let mut left_out = 0;
        for (count, entry) in std::fs::read_dir(&self.path)?.enumerate() {
            if count >= NAMES_MAX {
                return Err(io::Error::other(format!(
                    "more than {NAMES_MAX} files: remove those that are not needed"
                )));
            }
            let entry = entry?;
            // Another encoding than UTF-8 is none that vfat gives.
            let Ok(file) = entry.file_name().into_string() else {
                continue;
            };
            if !concerns(&file) || !entry.file_type()?.is_file() {
                continue;
            }
            let foreign = !file.to_ascii_lowercase().starts_with(&self.ours);
            taken.insert((foreign, file));
            if taken.len() > FILES_MAX {
                // Those on their way to an entry are removed by the next update, so they stand in nobody's way.
                let last = taken.pop_last();
                left_out += usize::from(last.is_some_and(|(_, file)| !is_temporary(&file)));
            }
        }
        let mut names: Vec<String> = taken.into_iter().map(|(_, file)| file).collect();
        names.sort();
        Ok(Files { names, left_out })
    }

    /// A file's path.
    pub fn file(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Gives a file another name. If both are there already and are the same, a cut has left them so.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (source, target) = (self.file(from), self.file(to));
        match std::fs::symlink_metadata(&target) {
            Ok(there) if there.len() == 0 => std::fs::remove_file(&target)?,
            Ok(_) if self.same(from, to)? => return self.remove(from),
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        rustix::fs::renameat_with(CWD, source, CWD, target, RenameFlags::NOREPLACE)?;
        self.flush()
    }

    /// Removes a file, and leaves its twins whole.
    pub fn remove(&self, file: &str) -> io::Result<()> {
        let mut copies = Vec::new();
        for other in self.files()?.names {
            if other != file && self.same(file, &other)? {
                copies.push((self.copy(&other)?, self.file(&other)));
            }
        }
        if !copies.is_empty() {
            self.flush()?;
        }
        // All copies are made before any cluster is freed, so none gets the clusters of another's source.
        for (copy, path) in &copies {
            let open = File::open(path)?;
            std::fs::rename(copy, path)?;
            self.flush()?;
            drop(open);
        }
        let path = self.file(file);
        let open = File::open(&path)?;
        std::fs::remove_file(&path)?;
        self.flush()?;
        drop(open);
        self.flush()
    }

    /// Removes what work that was cut short has left.
    pub fn sweep(&self) -> io::Result<()> {
        for file in self.files()?.names {
            if is_temporary(&file) {
                self.remove(&file)?;
            }
        }
        Ok(())
    }

    /// All is on the disk when this returns.
    pub fn flush(&self) -> io::Result<()> {
        let folder = File::open(&self.path)?;
        rustix::fs::syncfs(&folder)?;
        folder.sync_all()
    }

    /// A copy on the disk, under a name that no other file has: writing into one that a cut has left could be
    /// writing into its twin.
    fn copy(&self, file: &str) -> io::Result<PathBuf> {
        let (mut to, path) = self.unused(file)?;
        let mut from = File::open(self.file(file))?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        Ok(path)
    }

    fn unused(&self, file: &str) -> io::Result<(File, PathBuf)> {
        for number in 0..FILES_MAX {
            let path = self.file(&format!("{file}.{number}.twin"));
            match File::create_new(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                created => return Ok((created?, path)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Whether two files have the same bytes; empty ones have no clusters to share.
    fn same(&self, a: &str, b: &str) -> io::Result<bool> {
        let (mut a, mut b) = (File::open(self.file(a))?, File::open(self.file(b))?);
        let len = a.metadata()?.len();
        if len != b.metadata()?.len() || len == 0 {
            return Ok(false);
        }
        let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let count = a.read(&mut left)?;
            let (Some(left), Some(right)) = (left.get(..count), right.get_mut(..count)) else {
                return Ok(false);
            };
            b.read_exact(right)?;
            if left != right || count == 0 {
                return Ok(left == right);
            }
        }
    }
}

/// Whether a file is a boot entry, or on its way to one.
fn concerns(file: &str) -> bool {
    is_temporary(file) || EntryName::parse(file).is_some()
}

fn is_temporary(file: &str) -> bool {
    TEMPORARY.iter().any(|suffix| file.ends_with(suffix))
}

/// Bytes that are free on the file system of a folder.
pub fn free(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
