//! A copy of the image's disk with damage in it.

use crate::Bench;
use anyhow::{Context, Result, ensure};
use qemu_harness::gpt;
use qemu_harness::judge::{Disk, Part};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const SECTOR: u64 = 512;

/// The image with some sectors, and some partitions, in other words than it was built with.
pub struct Damaged {
    base: File,
    sectors: BTreeMap<u64, Vec<u8>>,
    replaced: Vec<(Range<u64>, File)>,
}

impl Damaged {
    pub fn new(bench: &Bench) -> Result<Self> {
        Ok(Self {
            base: File::open(&bench.image.raw)?,
            sectors: BTreeMap::new(),
            replaced: Vec::new(),
        })
    }

    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let number = at / SECTOR;
            let skip = usize::try_from(at % SECTOR)?;
            let (now, later) = rest.split_at(rest.len().min(512 - skip));
            let mut sector = self.read(number * SECTOR, 512)?;
            sector[skip..skip + now.len()].copy_from_slice(now);
            self.sectors.insert(number, sector);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Flips the lowest bit of a byte.
    pub fn flip(&mut self, offset: u64) -> Result<()> {
        let byte = self.read(offset, 1)?[0];
        self.write(offset, &[byte ^ 1])
    }
}

impl Disk for Damaged {
    fn len(&self) -> u64 {
        Disk::len(&self.base)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset + buffer.len() as u64;
        self.base
            .read_exact_at(buffer, offset)
            .context("not on the disk")?;
        let into = |buffer: &mut [u8], from: u64, to: u64| -> Result<(usize, usize)> {
            let (from, to) = (from.max(offset), to.min(end));
            let range = (
                usize::try_from(from - offset)?,
                usize::try_from(to - offset)?,
            );
            ensure!(range.1 <= buffer.len(), "a range out of order");
            Ok(range)
        };
        for (range, file) in &self.replaced {
            if range.start < end && offset < range.end {
                let (from, to) = into(buffer, range.start, range.end)?;
                let at = offset.max(range.start) - range.start;
                file.read_exact_at(&mut buffer[from..to], at)?;
            }
        }
        for (number, sector) in self.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = number * SECTOR;
            let (from, to) = into(buffer, start, start + SECTOR)?;
            let skip = usize::try_from(offset.saturating_sub(start))?;
            buffer[from..to].copy_from_slice(&sector[skip..skip + to - from]);
        }
        Ok(())
    }

    fn unchanged(&self, range: Range<u64>) -> bool {
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        let replaced =
            |(other, _): &(Range<u64>, File)| other.start < range.end && range.start < other.end;
        self.sectors.range(sectors).next().is_none() && !self.replaced.iter().any(replaced)
    }
}

impl Bench {
    /// The bytes of a partition, by its number.
    pub fn partition(&self, number: usize) -> Result<Range<u64>> {
        let all = gpt::partitions(&self.tools, &self.image.raw)?;
        let found = gpt::only(&all, "of this number", |p| p.number == number)?;
        Ok(found.start..found.start + found.size)
    }

    /// A disk with one partition as `edit` has made it of the image's.
    pub fn edited(&self, number: usize, edit: impl FnOnce(&Path) -> Result<()>) -> Result<Damaged> {
        let mut disk = Damaged::new(self)?;
        let range = self.partition(number)?;
        let copy = self.temporary("part");
        Part::new(&disk.base, &range)?.save(&copy.0)?;
        edit(&copy.0)?;
        disk.replaced.push((range, File::open(&copy.0)?));
        Ok(disk)
    }

    /// A file that is removed in the end.
    pub fn temporary(&self, name: &str) -> Temporary {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = format!("judge-{}-{number}-{name}", std::process::id());
        Temporary(self.scratch.join(file))
    }
}

/// Removes its file.
pub struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is not there when its test failed before it was made.
        let _ = fs::remove_file(&self.0);
    }
}
