//! The files that init itself keeps over reboots, in `/var/lib/astromesh-init`.
//!
//! `/var` is shared with services, may be full, and may have been written to by a stranger while the machine was
//! off. So these files have one way to be read and one to be written, [`StateDir`]:
//!
//! * **The folder** is opened with openat2(2) without following a link or entering another file system, and is
//!   refused if it is not a directory of root that only root can write to.
//! * **A read** opens regular files only, waits for nobody (`O_NONBLOCK`: a FIFO has no peer to wait for), and
//!   takes at most the capacity of the file. A file that is not there is not an error; a file that is there and
//!   cannot be used is one, which names it. A caller that guards something must treat the two differently.
//! * **Attributes** that keep root from changing a file or the folder (chattr(1)) are taken off.
//! * **A write** needs no free block and no free inode. Beside each file `NAME` lies `NAME.spare`, which
//!   has all its blocks since the start of the boot ([`StateDir::reserve`]). The new contents go into the spare and
//!   to the disk, then `RENAME_EXCHANGE` (rename(2)) swaps the two, and the folder goes to the disk. A crash at
//!   any point leaves the old or the new contents.
//!
//! Every file has always its full capacity: contents are padded with newlines, which readers cut off, so no write
//! frees or allocates a block. A file of nothing but padding is one that was reserved and not written yet; it
//! reads as not there.
//!
//! **Several processes** read and write: PID 1's children, the slot daemon, the update. They take turns by a lock on the
//! folder (flock(2)), as two writers would fill one spare, and the file that a reader has open may become the spare
//! that the next write fills. Nobody but root can open the folder, so nobody else can hold the lock. Whoever holds it may
//! hang at the disk; so it is waited for no longer than [`LOCK_TRIES`] times [`LOCK_PAUSE`].
//!
//! PID 1 uses this only before the services start; after that whoever writes is a child, because a disk can hang.

use base::beneath;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::thread::{Timespec, nanosleep};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the folder is.
pub const PATH: &str = "/var/lib/astromesh-init";

/// The folder as it is named from [`ROOT`].
const BELOW_ROOT: &str = "lib/astromesh-init";
const ROOT: &str = "/var";

/// Contents are filled up with this, and it is cut off at the end of what is read.
const PADDING: u8 = b'\n';

/// The end of the name of a spare.
const SPARE: &str = ".spare";

/// How often the lock is tried for, and how long the pause after each try is: eight seconds in all. That is less than
/// PID 1 waits for the child that counts starts ([`crate::system::budget::WRITE_MAX`]), so that this can say what is wrong.
const LOCK_TRIES: u32 = 800;
const LOCK_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// A file that init keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// Bytes that it and its spare have on the disk; no contents are longer.
    pub capacity: usize,
}

/// machine-id(5).
pub const MACHINE_ID: StateFile = StateFile::small("machine-id");

/// How many reboots the machine has spent.
pub const REBOOTS: StateFile = StateFile::small("reboots");

/// The versions, what became of them, and the floor. 16 trials with reasons of 512 bytes fit in it even
/// if JSON escapes every byte.
pub const SLOTS: StateFile = StateFile {
    name: "slots.json",
    capacity: 64 * 1024,
};

/// The same once more, for when one of the two can no longer be read.
pub const SLOTS_COPY: StateFile = StateFile {
    name: "slots.copy.json",
    ..SLOTS
};

/// The time when a boot last knew it, see [`crate::system::clock`].
pub const CLOCK: StateFile = StateFile::small("clock");

/// All of them: for these [`StateDir::reserve`] keeps blocks.
pub const ALL: [StateFile; 5] = [MACHINE_ID, REBOOTS, CLOCK, SLOTS, SLOTS_COPY];

impl StateFile {
    /// A file of a line or two: one block of ext4.
    const fn small(name: &'static str) -> Self {
        Self {
            name,
            capacity: 4096,
        }
    }

    /// Where the file is, for messages.
    #[must_use]
    pub fn path(self) -> PathBuf {
        Path::new(PATH).join(self.name)
    }

    fn spare(self) -> String {
        format!("{}{SPARE}", self.name)
    }
}

/// Why a file, or the folder, cannot be used.
#[derive(Debug)]
pub struct StateError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub problem: Problem,
}

/// See [`StateError`].
#[derive(Debug)]
pub enum Problem {
    /// Something else lies there than a regular file (or, for the folder, a directory): what.
    Kind(&'static str),
    /// It is not root's alone: another user owns it or may write to it, or it has another name elsewhere.
    Foreign(String),
    /// It is longer than its capacity, or what is to be written is: bytes seen, bytes allowed.
    TooLarge(u64, usize),
    /// It has no bytes at all, which no write of ours leaves.
    Empty,
    /// The lock on the folder is held, and was for as long as it is waited for.
    Locked,
    /// The kernel says no.
    Io(io::Error),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.problem {
            Problem::Kind(seen) => write!(f, "{seen} is there"),
            Problem::Foreign(seen) => f.write_str(seen),
            Problem::TooLarge(seen, most) => write!(f, "{seen} bytes, at most {most} belong there"),
            Problem::Empty => f.write_str("an empty file is there"),
            Problem::Locked => f.write_str("another process holds the lock and does not let go"),
            Problem::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StateError {}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        let kind = match &error.problem {
            Problem::Io(error) => error.kind(),
            Problem::TooLarge(..) => io::ErrorKind::FileTooLarge,
            Problem::Kind(_) | Problem::Foreign(_) | Problem::Empty => io::ErrorKind::InvalidData,
            Problem::Locked => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The lock on the folder, which ends with it.
struct Turn<'a>(&'a OwnedFd);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // The only error would be a descriptor that is none.
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

/// The open folder.
#[derive(Debug)]
pub struct StateDir {
    folder: OwnedFd,
    path: PathBuf,
    /// Whose all of it must be.
    owner: u32,
    lock_tries: u32,
}

impl StateDir {
    /// Opens the machine's folder.
    ///
    /// # Errors
    /// Names it, and what lies there instead of a directory of root.
    pub fn open() -> Result<Self, StateError> {
        Self::open_below(Path::new(ROOT), BELOW_ROOT, 0)
    }

    /// Opens another one, for tests: `path` below `root`, which must belong to `owner`.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn open_below(root: &Path, path: &str, owner: u32) -> Result<Self, StateError> {
        let whole = root.join(path);
        let fail = |problem: Problem| StateError {
            path: whole.clone(),
            problem,
        };
        let start = beneath::root(root).map_err(|e| fail(e.into()))?;
        let folder = beneath::folder(&start, path).map_err(|error| {
            // `ELOOP` with a directory at the end: a link is on the way, which the error's text says.
            let seen = beneath::kind(&start, path).filter(|seen| *seen != "a directory");
            fail(seen.map_or_else(|| error.into(), Problem::Kind))
        })?;
        let stat = rustix::fs::fstat(&folder).map_err(|e| fail(e.into()))?;
        check_owner(owner, stat.st_uid, stat.st_mode).map_err(fail)?;
        Ok(Self {
            folder,
            path: whole,
            owner,
            lock_tries: LOCK_TRIES,
        })
    }

    /// What is in a file; `None` if it is not there, or was reserved and not written yet.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn read(&self, file: StateFile) -> Result<Option<Vec<u8>>, StateError> {
        let _turn = self.lock(FlockOperation::NonBlockingLockShared)?;
        self.contents(file)
    }

    /// Replaces the contents, which are on the disk when this returns. Nothing must depend on newlines at
    /// their end. No contents at all make the file one that was not written yet.
    ///
    /// # Errors
    /// The contents are as they were, or the new ones already.
    pub fn write(&self, file: StateFile, contents: &[u8]) -> Result<(), StateError> {
        let _turn = self.lock(FlockOperation::NonBlockingLockExclusive)?;
        self.replace(file, contents)
    }

    fn contents(&self, file: StateFile) -> Result<Option<Vec<u8>>, StateError> {
        self.read_name(file.name, file.capacity)
            .map_err(|problem| self.error(file.name, problem))
    }

    fn replace(&self, file: StateFile, contents: &[u8]) -> Result<(), StateError> {
        if contents.len() > file.capacity {
            let problem = Problem::TooLarge(contents.len() as u64, file.capacity);
            return Err(self.error(file.name, problem));
        }
        self.fill_spare(file, contents)
            .map_err(|problem| self.error(&file.spare(), problem))?;
        self.exchange(file)
            .map_err(|problem| self.error(file.name, problem))
    }

    /// Moves what lies there out of the way, for somebody to look at; its new name, if there was anything.
    ///
    /// # Errors
    /// Names the file.
    pub fn set_aside(&self, file: StateFile) -> Result<Option<String>, StateError> {
        let _turn = self.lock(FlockOperation::NonBlockingLockExclusive)?;
        if beneath::kind(&self.folder, file.name).is_none() {
            return Ok(None);
        }
        let moved = beneath::move_aside(&self.folder, file.name);
        moved
            .map(Some)
            .map_err(|problem| self.error(file.name, problem.into()))
    }

    /// Whether a write will succeed, which is found out by one: the contents are written again. Before something
    /// is done that must be recorded afterwards.
    ///
    /// # Errors
    /// Of the read, or of the write.
    pub fn prove_writable(&self, file: StateFile) -> Result<(), StateError> {
        let _turn = self.lock(FlockOperation::NonBlockingLockExclusive)?;
        let contents = self.contents(file)?.unwrap_or_default();
        self.replace(file, &contents)
    }

    /// Waits for this process's turn. `operation` is one that does not wait.
    fn lock(&self, operation: FlockOperation) -> Result<Turn<'_>, StateError> {
        let fail = |problem| StateError {
            path: self.path.clone(),
            problem,
        };
        for _ in 0..self.lock_tries {
            match rustix::fs::flock(&self.folder, operation) {
                Ok(()) => return Ok(Turn(&self.folder)),
                Err(Errno::WOULDBLOCK) => {
                    let _ = nanosleep(&LOCK_PAUSE);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(fail(error.into())),
            }
        }
        Err(fail(Problem::Locked))
    }

    /// Gives every file and its spare their blocks, as long as there are some: once a boot, before any service
    /// runs. A file that cannot be read stays as it is, for whoever reads it to judge; its spare is made.
    ///
    /// # Errors
    /// All that went wrong; each names its file.
    pub fn reserve(&self) -> Vec<StateError> {
        let _turn = match self.lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(turn) => turn,
            Err(error) => return vec![error],
        };
        let reserve = |file: StateFile| {
            let contents = self.contents(file)?;
            // The write gives the file its capacity, and what it replaces becomes the spare.
            if !self.is_reserved(file.name, file.capacity) {
                self.replace(file, &contents.unwrap_or_default())?;
            }
            Ok(())
        };
        let spare = |file: StateFile| {
            let opened = self.spare(file);
            opened.map_err(|problem| self.error(&file.spare(), problem))
        };
        let each = ALL.into_iter().flat_map(|file| {
            let results = [reserve(file).err(), spare(file).map(drop).err()];
            results.into_iter().flatten()
        });
        each.collect()
    }

    fn error(&self, name: &str, problem: Problem) -> StateError {
        StateError {
            path: self.path.join(name),
            problem,
        }
    }

    /// Opens a file of ours; `None` if nothing is there.
    fn open_file(&self, name: &str, access: OFlags) -> Result<Option<File>, Problem> {
        // O_NONBLOCK: a FIFO is opened at once. O_NOCTTY: a terminal does not become ours.
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = |access| {
            let (folder, mode) = (&self.folder, Mode::empty());
            rustix::fs::openat2(folder, name, access | flags, mode, beneath::RESOLVE)
        };
        let opened = match open(access) {
            // An immutable file, or one that can only be appended to. To be read it can be opened, and freed.
            Err(Errno::PERM) => open(OFlags::RDONLY)
                .and_then(beneath::make_changeable)
                .and_then(|_| open(access)),
            opened => opened,
        };
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            // A link, a directory or FIFO to be written to, a device where there are none (`nodev`).
            Err(error) => {
                let seen = beneath::kind(&self.folder, name).filter(|seen| *seen != "a file");
                return Err(seen.map_or_else(|| error.into(), Problem::Kind));
            }
        };
        let stat = file.metadata()?;
        let kind = FileType::from_raw_mode(stat.mode());
        if kind != FileType::RegularFile {
            return Err(Problem::Kind(beneath::kind_of(kind)));
        }
        check_owner(self.owner, stat.uid(), stat.mode())?;
        if stat.nlink() != 1 {
            let seen = format!(
                "a file with {} names, so others may write to it",
                stat.nlink()
            );
            return Err(Problem::Foreign(seen));
        }
        // It could be read and not replaced.
        beneath::make_changeable(&file)?;
        Ok(Some(file))
    }

    fn read_name(&self, name: &str, capacity: usize) -> Result<Option<Vec<u8>>, Problem> {
        let Some(file) = self.open_file(name, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let length = file.metadata()?.len();
        if length > capacity as u64 {
            return Err(Problem::TooLarge(length, capacity));
        }
        let mut contents = Vec::with_capacity(capacity);
        file.take(capacity as u64).read_to_end(&mut contents)?;
        if contents.is_empty() {
            return Err(Problem::Empty);
        }
        let end = contents.iter().rposition(|byte| *byte != PADDING);
        contents.truncate(end.map_or(0, |last| last.saturating_add(1)));
        Ok(Some(contents).filter(|contents| !contents.is_empty()))
    }

    /// Whether a file is ours and has all its blocks.
    fn is_reserved(&self, name: &str, capacity: usize) -> bool {
        let file = self.open_file(name, OFlags::RDONLY).ok().flatten();
        file.is_some_and(|file| has_blocks(&file, capacity))
    }

    /// The spare, with all its blocks: the one that is there, or a new one.
    fn spare(&self, file: StateFile) -> Result<File, Problem> {
        let name = file.spare();
        match self.open_file(&name, OFlags::WRONLY) {
            Ok(Some(spare)) if has_blocks(&spare, file.capacity) => return Ok(spare),
            Ok(None) => {}
            // Ours but short or with holes, or not ours at all.
            Ok(Some(_)) | Err(_) => self.clear(&name)?,
        }
        // `O_EXCL` follows no link (open(2)).
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.folder, &name, flags, Mode::from_raw_mode(0o644))?;
        let spare = File::from(made);
        fill(&spare, &[], file.capacity)?;
        rustix::fs::fsync(&self.folder)?;
        Ok(spare)
    }

    fn fill_spare(&self, file: StateFile, contents: &[u8]) -> Result<(), Problem> {
        fill(&self.spare(file)?, contents, file.capacity)
    }

    /// Swaps a file and its spare.
    fn exchange(&self, file: StateFile) -> Result<(), Problem> {
        let spare = file.spare();
        let rename =
            |flags| rustix::fs::renameat_with(&self.folder, &spare, &self.folder, file.name, flags);
        match rename(RenameFlags::EXCHANGE) {
            // There is no such file yet.
            Err(Errno::NOENT) => rename(RenameFlags::NOREPLACE)?,
            other => other?,
        }
        rustix::fs::fsync(&self.folder)?;
        // What was swapped out may be short, a link, or missing. The contents are written all the same.
        let _ = self.spare(file);
        Ok(())
    }

    /// Takes away what lies where a spare belongs. A directory is kept aside, because emptying it has no bound.
    fn clear(&self, name: &str) -> Result<(), Problem> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => beneath::move_aside(&self.folder, name).map(drop)?,
            other => other?,
        }
        Ok(())
    }
}

/// Refuses what somebody else owns or may write to.
fn check_owner(wanted: u32, owner: u32, mode: u32) -> Result<(), Problem> {
    if owner != wanted {
        let seen = format!("it belongs to the user {owner}, not to {wanted}");
        return Err(Problem::Foreign(seen));
    }
    if mode & 0o022 != 0 {
        let seen = format!(
            "others than its owner may write to it (mode {:04o})",
            mode & 0o7777
        );
        return Err(Problem::Foreign(seen));
    }
    Ok(())
}

/// Whether a file has just its capacity, and no holes: `st_blocks` counts 512 bytes (inode(7)).
fn has_blocks(file: &File, capacity: usize) -> bool {
    let capacity = capacity as u64;
    file.metadata()
        .is_ok_and(|stat| stat.len() == capacity && stat.blocks().saturating_mul(512) >= capacity)
}

/// Writes contents and padding over the whole of a file, and to the disk.
fn fill(file: &File, contents: &[u8], capacity: usize) -> Result<(), Problem> {
    let mut whole = Vec::with_capacity(capacity);
    whole.extend_from_slice(contents);
    whole.resize(capacity, PADDING);
    file.write_all_at(&whole, 0)?;
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests;
