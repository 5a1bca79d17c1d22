//! Environment files, as the child reads them that is about to become the service's program.
//!
//! The child reads and not PID 1, because such a file may lie on `/var`, whose disk can hang, or be whatever a
//! service has put there. So this module keeps to what a child may do between `clone3` and `execve`: it makes
//! raw system calls (rustix has no use for the C library here; [`RawFile`] closes without it, too) and allocates
//! nothing; what it fills was reserved by PID 1.
//!
//! **By whose rights.** systemd reads these files as root, so that a file with secrets need not be readable
//! by its service, and operators rely on it. But root must not be led to a file of somebody else by whoever may
//! write to a folder on the way. So root walks the path itself, a name at a time, and follows links, as long as each
//! folder belongs to root and nobody else may write to it. A path that leaves these folders is opened anew
//! when the child has become the service's user, by whose rights the service could read the file itself.
//!
//! Nothing but a regular file is ever opened, and of that no more is read than [`FILE_MAX`].

use crate::sys::RawFile;
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat_raw};
use rustix::io::{Errno, Result, read};
use std::ffi::{CStr, CString};

/// The longest environment file that is read.
pub const FILE_MAX: usize = 64 * 1024;

/// The longest path (kernel: `include/uapi/linux/limits.h`, `PATH_MAX`), its NUL included.
const PATH_MAX: usize = 4096;

/// Names on the way to a file, those of links included. The kernel itself gives up after 40 links.
const NAMES_MAX: usize = 512;

/// A handle of a file, with which nothing can be done but look at it.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A file of `NAME=value` lines, and room for what is in it.
#[derive(Debug)]
pub struct EnvironmentFile {
    path: CString,
    optional: bool,
    /// `NAME=value` and a NUL, one after the other. Never longer than its capacity.
    variables: Vec<u8>,
    /// Whether it is still to be read, by the rights of the service's user.
    waits: bool,
}

/// Why a file was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The kernel's word.
    Error(Errno),
    /// It is a directory, a device, a FIFO or a socket.
    NotRegular,
}

impl From<Errno> for Unread {
    fn from(errno: Errno) -> Self {
        Self::Error(errno)
    }
}

/// Room for the bytes of one file, and one more to see that it is too long.
#[must_use]
pub fn buffer() -> Vec<u8> {
    vec![0; FILE_MAX + 1]
}

impl EnvironmentFile {
    /// With the room that it needs.
    #[must_use]
    pub fn new(path: CString, optional: bool) -> Self {
        Self {
            path,
            optional,
            // A last line may be without its end, which the NUL is put for.
            variables: Vec::with_capacity(FILE_MAX + 1),
            waits: false,
        }
    }

    /// Reads it by root's rights, unless somebody else has a say in where its path leads.
    ///
    /// # Errors
    /// If it is there and cannot be read, or is missing and must not be.
    pub fn read_as_root(&mut self, buffer: &mut [u8]) -> std::result::Result<(), Unread> {
        let file = open_below_roots_folders(&self.path);
        self.waits = matches!(file, Ok(None));
        self.take(file, buffer)
    }

    /// Reads it by the rights that this process has now, if that is still to be done.
    ///
    /// # Errors
    /// As [`read_as_root`](Self::read_as_root).
    pub fn read_as_the_service(&mut self, buffer: &mut [u8]) -> std::result::Result<(), Unread> {
        if !std::mem::take(&mut self.waits) {
            return Ok(());
        }
        let file = openat(CWD, &*self.path, LOOK, Mode::empty()).map(RawFile::from);
        self.take(file.map_err(Unread::from).map(Some), buffer)
    }

    fn take(
        &mut self,
        file: std::result::Result<Option<RawFile>, Unread>,
        buffer: &mut [u8],
    ) -> std::result::Result<(), Unread> {
        match file {
            Ok(Some(file)) => {
                let length = read_regular(&file, buffer)?;
                let text = buffer.get(..length).unwrap_or_default();
                parse(text, &mut self.variables);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(Unread::Error(Errno::NOENT)) if self.optional => Ok(()),
            Err(unread) => Err(unread),
        }
    }

    /// What it sets, the last first.
    pub fn variables(&self) -> impl Iterator<Item = &CStr> {
        let each = self.variables.split_inclusive(|byte| *byte == 0).rev();
        each.filter_map(|bytes| CStr::from_bytes_with_nul(bytes).ok())
    }
}

/// Whether two `NAME=value` set the same variable.
#[must_use]
pub fn same_name(one: &CStr, other: &CStr) -> bool {
    let name = |text: &CStr| {
        let bytes = text.to_bytes().iter();
        bytes.take_while(|byte| **byte != b'=').count()
    };
    let (a, b) = (name(one), name(other));
    a == b && one.to_bytes().get(..a) == other.to_bytes().get(..b)
}

/// `NAME=value` lines; `#` and `;` start a comment line; one pair of quotes around a value is
/// taken off (systemd.exec(5), `EnvironmentFile=`). Other lines count for nothing.
fn parse(text: &[u8], variables: &mut Vec<u8>) {
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.starts_with(b"#") || line.starts_with(b";") || line.contains(&0) {
            continue;
        }
        let mut parts = line.splitn(2, |byte| *byte == b'=');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (name, value) = (name.trim_ascii_end(), value.trim_ascii_start());
        let inner = [b"\"", b"'"]
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        let value = inner.unwrap_or(value);
        let length = name.len() + 1 + value.len() + 1;
        // Beyond what was reserved the vector would allocate. No file that was read is so long.
        if name.is_empty() || variables.capacity() - variables.len() < length {
            continue;
        }
        for part in [name, b"=", value, b"\0"] {
            variables.extend_from_slice(part);
        }
    }
}

/// Walks to a file through folders that nobody but root can change, and gives a handle of it. `None` if a
/// folder on the way is another's, or another may write to it.
fn open_below_roots_folders(path: &CStr) -> std::result::Result<Option<RawFile>, Unread> {
    let open = |folder: &RawFile, name: &CStr| {
        openat(folder, name, LOOK | OFlags::NOFOLLOW, Mode::empty()).map(RawFile::from)
    };
    let root = || openat(CWD, c"/", LOOK | OFlags::DIRECTORY, Mode::empty()).map(RawFile::from);
    let mut rest = Text::default();
    rest.set(path.to_bytes(), b"")?;
    let mut folder = root()?;
    for _ in 0..NAMES_MAX {
        if !is_roots_alone(&fstat(&folder)?) {
            return Ok(None);
        }
        let mut name = Text::default();
        if !rest.cut_name(&mut name)? {
            // The path ends with a folder.
            return Err(Unread::NotRegular);
        }
        let next = open(&folder, name.as_c_str()?)?;
        match FileType::from_raw_mode(fstat(&next)?.st_mode) {
            FileType::Directory => folder = next,
            FileType::Symlink => {
                let mut target = [0; PATH_MAX];
                let length = readlinkat_raw(&next, c"", &mut target)?;
                let target = target.get(..length).unwrap_or_default();
                let behind = rest;
                rest.set(target, behind.as_bytes())?;
                if target.starts_with(b"/") {
                    folder = root()?;
                }
            }
            FileType::RegularFile if rest.as_bytes().is_empty() => return Ok(Some(next)),
            FileType::RegularFile => return Err(Errno::NOTDIR.into()),
            _ => return Err(Unread::NotRegular),
        }
    }
    Err(Errno::LOOP.into())
}

fn is_roots_alone(folder: &Stat) -> bool {
    folder.st_uid == 0 && folder.st_mode & 0o022 == 0
}

/// Reads what a handle stands for, if it is a regular file. Gives its length.
fn read_regular(handle: impl AsFd, buffer: &mut [u8]) -> std::result::Result<usize, Unread> {
    let handle = handle.as_fd();
    if FileType::from_raw_mode(fstat(handle)?.st_mode) != FileType::RegularFile {
        return Err(Unread::NotRegular);
    }
    // The same inode, whatever has become of its name (proc(5)); here the rights to read it are asked for.
    let mut path = Text::default();
    path.set(
        b"/proc/self/fd/",
        Digits::of(handle.as_raw_fd()).significant(),
    )?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = RawFile::from(openat(CWD, path.as_c_str()?, flags, Mode::empty())?);
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match read(&file, room) {
            Ok(0) => return Ok(length),
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::FBIG.into())
}

/// A path that needs no memory of the heap. There is a NUL behind it.
#[derive(Clone, Copy)]
struct Text {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            bytes: [0; PATH_MAX],
            length: 0,
        }
    }
}

impl Text {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn as_c_str(&self) -> Result<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::NAMETOOLONG)
    }

    /// Puts `first` here and `second` behind it, as the parts of a path.
    fn set(&mut self, first: &[u8], second: &[u8]) -> Result<()> {
        let slash: &[u8] = match (first.ends_with(b"/"), second.is_empty()) {
            (false, false) => b"/",
            _ => b"",
        };
        self.bytes.fill(0);
        self.length = 0;
        let all = first.iter().chain(slash).chain(second);
        for (place, byte) in self.bytes.iter_mut().take(PATH_MAX - 1).zip(all) {
            *place = *byte;
            self.length += 1;
        }
        match self.length == first.len() + slash.len() + second.len() {
            true => Ok(()),
            false => Err(Errno::NAMETOOLONG),
        }
    }

    /// Takes the first name off, into `name`. Gives false if there is none.
    fn cut_name(&mut self, name: &mut Self) -> Result<bool> {
        let whole = *self;
        let mut bytes = whole.as_bytes();
        while let Some(rest) = bytes.strip_prefix(b"/") {
            bytes = rest;
        }
        let mut parts = bytes.splitn(2, |byte| *byte == b'/');
        let first = parts.next().unwrap_or_default();
        name.set(first, b"")?;
        // A slash at the end asks for a folder (path_resolution(7)), as `.` does.
        let rest = match parts.next() {
            Some(b"") => b".",
            rest => rest.unwrap_or_default(),
        };
        self.set(rest, b"")?;
        Ok(!first.is_empty())
    }
}

/// The digits of a number, with zeros before it.
struct Digits([u8; 10]);

impl Digits {
    fn of(number: i32) -> Self {
        let mut digits = [b'0'; 10];
        let mut rest = number.unsigned_abs();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        Self(digits)
    }

    fn significant(&self) -> &[u8] {
        let zeros = self.0.iter().take_while(|digit| **digit == b'0').count();
        self.0.get(zeros.min(9)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
