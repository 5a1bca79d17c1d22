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

use rustix::fs::{CWD, RenameFlags};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Files that are looked at: a machine has two or three.
const FILES_MAX: usize = 128;

/// Suffixes of files on their way, whoever makes them. The loader takes none for an entry.
const TEMPORARY: [&str; 2] = [".new", ".twin"];

/// A folder of files.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// All regular files, sorted.
    pub fn files(&self) -> io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            // Another encoding than UTF-8 is none that vfat gives.
            let name = entry.file_name().into_string();
            if let (true, Ok(file)) = (entry.file_type()?.is_file(), name) {
                files.push(file);
            }
            if files.len() > FILES_MAX {
                return Err(io::Error::other(format!(
                    "more than {FILES_MAX} files: remove those that are not needed"
                )));
            }
        }
        files.sort();
        Ok(files)
    }

    /// A file's path.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Gives a file another name. If both are there already and are the same, a cut has left them so.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (source, target) = (self.path(from), self.path(to));
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
        for other in self.files()? {
            if other != file && self.same(file, &other)? {
                copies.push((self.copy(&other)?, self.path(&other)));
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
        let path = self.path(file);
        let open = File::open(&path)?;
        std::fs::remove_file(&path)?;
        self.flush()?;
        drop(open);
        self.flush()
    }

    /// Removes what work that was cut short has left.
    pub fn sweep(&self) -> io::Result<()> {
        for file in self.files()? {
            if TEMPORARY.iter().any(|suffix| file.ends_with(suffix)) {
                self.remove(&file)?;
            }
        }
        Ok(())
    }

    /// All is on the disk when this returns.
    pub fn flush(&self) -> io::Result<()> {
        let folder = File::open(&self.0)?;
        rustix::fs::syncfs(&folder)?;
        folder.sync_all()
    }

    /// A copy on the disk, under a name that no other file has: writing into one that a cut has left could be
    /// writing into its twin.
    fn copy(&self, file: &str) -> io::Result<PathBuf> {
        let (mut to, path) = self.unused(file)?;
        let mut from = File::open(self.path(file))?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        Ok(path)
    }

    fn unused(&self, file: &str) -> io::Result<(File, PathBuf)> {
        for number in 0..FILES_MAX {
            let path = self.path(&format!("{file}.{number}.twin"));
            match File::create_new(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                created => return Ok((created?, path)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Whether two files have the same bytes; empty ones have no clusters to share.
    fn same(&self, a: &str, b: &str) -> io::Result<bool> {
        let (mut a, mut b) = (File::open(self.path(a))?, File::open(self.path(b))?);
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

/// Bytes that are free on the file system of a folder.
pub fn free(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
