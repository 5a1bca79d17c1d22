//! The image and the data file, read as one disk through the tiles of a map.

use super::SECTOR;
use super::extents::{Source, Tile};
use rustix::fs::{SeekFrom, copy_file_range, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// See the module.
#[derive(Debug)]
pub struct Files {
    /// The image the disk began as. Never written.
    pub base: File,
    /// The bytes of all writes, one after the other.
    pub data: File,
}

impl Files {
    /// Reads the bytes from `offset` on that fill `buffer`. The tiles cover all of them.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&self, tiles: &[Tile], offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        for tile in tiles {
            let first = tile.start * SECTOR;
            let from = first.max(offset);
            let to = (first + tile.sectors * SECTOR).min(end);
            if from >= to {
                continue;
            }
            let part = buffer
                .get_mut(index(from - offset)?..index(to - offset)?)
                .ok_or(io::ErrorKind::InvalidInput)?;
            match tile.source {
                None => self.base.read_exact_at(part, from)?,
                Some(Source::Zero) => part.fill(0),
                Some(Source::Data(at)) => self.data.read_exact_at(part, at + (from - first))?,
            }
        }
        Ok(())
    }

    /// Copies the bytes of the tiles into `out`, which is all a hole so far and gets what is on the disk at
    /// `origin` as its first byte. What is zero or a hole of the image stays a hole.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn copy(&self, tiles: &[Tile], origin: u64, out: &File) -> io::Result<()> {
        for tile in tiles {
            let start = tile.start * SECTOR;
            let len = tile.sectors * SECTOR;
            match tile.source {
                Some(Source::Zero) => {}
                Some(Source::Data(at)) => copy(&self.data, at, out, start - origin, len)?,
                None => self.copy_base(start, start + len, origin, out)?,
            }
        }
        Ok(())
    }

    /// Copies bytes `from..to` of the image, without its holes.
    fn copy_base(&self, from: u64, to: u64, origin: u64, out: &File) -> io::Result<()> {
        let mut at = from;
        while at < to {
            // The file's own position means nothing here, so that it moves does no harm.
            let data = match seek(&self.base, SeekFrom::Data(at)) {
                Ok(data) if data < to => data,
                // NXIO: only a hole up to the end (lseek(2)).
                Ok(_) | Err(Errno::NXIO) => break,
                Err(e) => return Err(e.into()),
            };
            let hole = seek(&self.base, SeekFrom::Hole(data))?.min(to);
            copy(&self.base, data, out, data - origin, hole - data)?;
            at = hole;
        }
        Ok(())
    }
}

/// Copies `len` bytes, within the kernel if it can: between two file systems it may not.
fn copy(from: &File, mut at: u64, to: &File, mut place: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let step = usize::try_from(len).unwrap_or(usize::MAX);
        // It moves both offsets on.
        match copy_file_range(from, Some(&mut at), to, Some(&mut place), step) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => len = len.saturating_sub(done as u64),
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return copy_by_hand(from, at, to, place, len);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, at: u64, to: &File, place: u64, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < len {
        let step = index(len - done)?.min(buffer.len());
        let part = buffer.get_mut(..step).unwrap_or_default();
        from.read_exact_at(part, at + done)?;
        to.write_all_at(part, place + done)?;
        done += step as u64;
    }
    Ok(())
}

fn index(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::testing::Scratch;

    #[test]
    fn both_ways_of_copying_give_the_same() {
        let scratch = Scratch::new("copy");
        let from = File::open(scratch.image(200)).expect("the image");
        for (name, way) in [
            (
                "kernel",
                copy as fn(&File, u64, &File, u64, u64) -> io::Result<()>,
            ),
            ("hand", copy_by_hand),
        ] {
            let path = scratch.path().join(name);
            let to = File::create(&path).expect("a file");
            way(&from, 1000, &to, 24, 100_000).expect("copied");
            let copied = std::fs::read(&path).expect("the file");
            let original = std::fs::read(scratch.path().join("base")).expect("the image");
            assert_eq!(copied.len(), 100_024);
            assert_eq!(copied[24..], original[1000..101_000], "{name}");
            assert!(
                way(&from, 102_000, &to, 0, 401).is_err(),
                "{name}: not so many"
            );
        }
    }
}
