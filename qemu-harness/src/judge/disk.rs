//! What the judge is given: a disk as bytes, whole or seen through a simulated power cut.
//!
//! [`Disk::unchanged`] is what makes thousands of states of one disk quick to judge: a state differs
//! from the disk it began as in a few blocks, and what was once read and found good need not be read
//! again. A disk that cannot tell is judged all the same.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A chunk of the comparisons and of what is kept between states.
pub const CHUNK: u64 = 1 << 20;
/// Blocks of zeros stay holes in what is written for the tools.
const HOLE: usize = 4096;

/// A disk that is off.
#[expect(
    clippy::len_without_is_empty,
    reason = "a disk without a sector is not worth a method"
)]
pub trait Disk {
    /// Its size in bytes.
    fn len(&self) -> u64;

    /// Fills `buffer` with what lies at `offset`.
    ///
    /// # Errors
    /// When the range is not on the disk or cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// True when this range holds what the base holds: the disk that this one is a state of. All
    /// disks that one [`Judge`](super::Judge) sees have one base, or say `false`.
    fn unchanged(&self, range: Range<u64>) -> bool {
        let _ = range;
        false
    }
}

impl Disk for File {
    fn len(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_exact_at(buffer, offset)
            .with_context(|| format!("cannot read {} bytes at {offset}", buffer.len()))
    }
}

/// A range of a disk, such as a partition.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    disk: &'a dyn Disk,
    start: u64,
    len: u64,
}

impl<'a> Part<'a> {
    /// This range of the disk.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub fn new(disk: &'a dyn Disk, range: &Range<u64>) -> Result<Self> {
        ensure!(
            range.start <= range.end && range.end <= disk.len(),
            "bytes {} to {} are not on a disk of {}",
            range.start,
            range.end,
            disk.len()
        );
        Ok(Self {
            disk,
            start: range.start,
            len: range.end - range.start,
        })
    }

    /// Where it begins on the disk.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` with what lies at `offset` of it.
    ///
    /// # Errors
    /// When that is not within it or cannot be read.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        ensure!(
            end.is_some_and(|end| end <= self.len),
            "{} bytes at {offset} are not within {} bytes",
            buffer.len(),
            self.len
        );
        self.disk.read_at(self.start + offset, buffer)
    }

    /// The bytes of a range of it.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        ensure!(
            len as u64 <= self.len,
            "{len} bytes are not within {} bytes",
            self.len
        );
        let mut buffer = vec![0; len];
        self.fill(offset, &mut buffer)?;
        Ok(buffer)
    }

    /// [`Disk::unchanged`] for a range of it.
    #[must_use]
    pub fn unchanged(&self, range: Range<u64>) -> bool {
        self.disk
            .unchanged(self.start + range.start..self.start + range.end)
    }

    /// Writes it to a file at `path`, with holes where there are zeros.
    ///
    /// # Errors
    /// When it cannot be read or the file not written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        file.set_len(self.len)?;
        for range in chunks(self.len) {
            let bytes = self.read(range.start, length(&range))?;
            write_sparse(&file, range.start, &bytes)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The chunks of `len` bytes, in order; the last may be shorter.
pub fn chunks(len: u64) -> impl Iterator<Item = Range<u64>> {
    (0..len.div_ceil(CHUNK)).map(move |index| {
        let start = index * CHUNK;
        start..len.min(start + CHUNK)
    })
}

/// The length of a chunk, as lengths in memory are counted.
#[must_use]
pub fn length(chunk: &Range<u64>) -> usize {
    usize::try_from(chunk.end - chunk.start).unwrap_or(usize::MAX)
}

/// Writes what is not zero.
///
/// # Errors
/// When it cannot be written.
pub fn write_sparse(file: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let zeros = [0; HOLE];
    let mut at = offset;
    for block in bytes.chunks(HOLE) {
        if block != &zeros[..block.len()] {
            file.write_all_at(block, at)?;
        }
        at += block.len() as u64;
    }
    Ok(())
}

/// A little-endian number of `N` bytes at `at`; beyond the end it is 0.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + N).unwrap_or_default();
    field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A disk in memory.
    pub struct Memory(pub Vec<u8>);

    impl Disk for Memory {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            let start = usize::try_from(offset)?;
            let bytes = self.0.get(start..start + buffer.len()).context("the end")?;
            buffer.copy_from_slice(bytes);
            Ok(())
        }
    }

    #[test]
    fn a_part_does_not_reach_beyond_itself() {
        let disk = Memory((0..100).collect());
        assert!(Part::new(&disk, &(50..101)).is_err());
        let part = Part::new(&disk, &(50..60)).unwrap();
        assert_eq!(part.read(8, 2).unwrap(), [58, 59]);
        assert!(part.read(9, 2).is_err());
        assert!(part.read(u64::MAX, 1).is_err());
        assert!(part.read(0, usize::MAX).is_err());
    }

    #[test]
    fn chunks_cover_everything_once() {
        let all: Vec<_> = chunks(2 * CHUNK + 5).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[2], 2 * CHUNK..2 * CHUNK + 5);
        assert_eq!(chunks(0).count(), 0);
    }

    #[test]
    fn numbers_are_little_endian() {
        assert_eq!(number::<4>(&[1, 2, 0, 0, 9], 0), 0x201);
        assert_eq!(number::<4>(&[1, 2], 0), 0);
    }
}
