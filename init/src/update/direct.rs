//! Reading what is on a device, and not what the page cache remembers of it.
//!
//! `O_DIRECT` (open(2)) wants the memory, the offset and the length aligned to the logical block size; 4096 serves
//! all devices there are. Whoever reads must have flushed what was written before.

use super::End;
use super::hash::{Digest, Hasher};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// See the module.
const ALIGN: usize = 4096;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Opens a file or device past the page cache.
///
/// # Errors
/// Names the path.
pub fn open(path: &Path) -> Result<File, End> {
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|e| {
            End::failed(format!(
                "{}: open past the page cache: {}",
                path.display(),
                io::Error::from(e)
            ))
        })
}

/// A window of one mebibyte onto a file, read as whole as the file has it.
#[derive(Debug)]
pub struct Window<'a, F> {
    file: &'a F,
    memory: Vec<u8>,
    start: usize,
    /// Which mebibyte it is, and how much of it there is.
    at: Option<(u64, usize)>,
}

impl<'a, F: FileExt> Window<'a, F> {
    /// Nothing is read yet.
    pub fn new(file: &'a F) -> Self {
        let memory = vec![0; CHUNK + ALIGN];
        // `align_offset` may in theory not know; then the kernel refuses the read.
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self {
            file,
            memory,
            start,
            at: None,
        }
    }

    /// So many bytes at this offset. They must not cross the border of a mebibyte.
    ///
    /// # Errors
    /// Of the file; `UnexpectedEof` if it is too short.
    pub fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let chunk = offset / CHUNK as u64;
        let inside = usize::try_from(offset % CHUNK as u64).unwrap_or(CHUNK);
        let filled = match self.at {
            Some((at, filled)) if at == chunk => filled,
            _ => self.fill(chunk)?,
        };
        let end = inside.saturating_add(length);
        self.memory
            .get(self.start..)
            .and_then(|memory| memory.get(inside..end))
            .filter(|_| end <= filled)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn fill(&mut self, chunk: u64) -> io::Result<usize> {
        self.at = None;
        let offset = chunk.saturating_mul(CHUNK as u64);
        let window = self.start..self.start + CHUNK;
        let window = self.memory.get_mut(window).unwrap_or_default();
        let mut filled = 0;
        // What is short and not aligned is the end of the file; reading on there is an error.
        while filled % ALIGN == 0 && filled < CHUNK {
            let rest = window.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.at = Some((chunk, filled));
        Ok(filled)
    }
}

/// The hash of the first so many bytes of a file.
///
/// # Errors
/// As [`Window::get`].
pub fn hash(file: &impl FileExt, size: u64) -> io::Result<Digest> {
    let mut window = Window::new(file);
    let mut hasher = Hasher::new();
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).map_or(CHUNK, |rest| rest.min(CHUNK));
        hasher.update(window.get(offset, length)?);
        offset += length as u64;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_past_the_cache_up_to_an_odd_end() {
        let path = std::env::temp_dir().join(format!("init-direct-{}", std::process::id()));
        let bytes: Vec<u8> = (0..CHUNK * 2 + 777)
            .map(|i| (i % 251).to_le_bytes()[0])
            .collect();
        std::fs::write(&path, &bytes).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let file = open(&path).unwrap();
        let size = bytes.len() as u64;
        assert_eq!(hash(&file, size).unwrap(), Digest::of(&bytes));
        assert_eq!(
            hash(&file, size - 5).unwrap(),
            Digest::of(&bytes[..bytes.len() - 5])
        );
        let short = hash(&file, size + 1).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        let mut window = Window::new(&file);
        assert_eq!(
            window.get(CHUNK as u64 + 512, 512).unwrap(),
            &bytes[CHUNK + 512..CHUNK + 1024]
        );
        assert!(window.get(CHUNK as u64 - 1, 2).is_err());
        std::fs::remove_file(&path).unwrap();
        let End::Failed { reason, .. } = open(&path).unwrap_err() else {
            panic!("another end");
        };
        assert!(reason.contains("init-direct-"), "{reason}");
    }
}
