//! Changes to a GUID partition table that a power cut cannot make half (UEFI specification 2.10,
//! section 5.3).
//!
//! A table is on the disk twice: header and entries in front, entries and header at the end. The
//! header holds a checksum of the entries and one of itself, so a copy that was cut off in the
//! middle is known to be invalid; the promise here is that the other one is valid then. [`Table`]
//! is the table as it is wanted; [`Table::steps`] is the way there as a plain list of writes and
//! flushes, which the tests cut, drop and tear in every place. What it follows:
//!
//! * The copy that was believed is written last: the primary, or the backup if the primary is
//!   damaged. A flush comes between the two, so at most one of them is ever in the making.
//! * A flush comes first of all: what was read may be in the page cache only, written by somebody
//!   who was killed before he flushed.
//! * The primary is never even invalid where there is room in front of the first partition: the
//!   new entries are written there first, then the header, which is one sector and so whole or not at
//!   all, is pointed at them; then the same again back to the usual place. Linux reads the
//!   backup only when it is told `gpt` on its command line (kernel:
//!   `block/partitions/efi.c`, `find_valid_gpt`), so a machine would not find its root between an
//!   invalid primary and the firmware's repair of it.
//! * The backup goes to the end of the disk as it is now. When the disk has grown, that is before
//!   the primary says so, and the old backup stays where it was.
//!
//! Of two valid copies that differ the primary counts, for the kernel, the firmware and here, so a
//! change is made the moment the primary's header is.
//!
//! Whoever reads a table to change it holds [`lock`] from before it reads; [`open`] does both.

use super::disks::number;
use super::gpt::{self, ENTRY_LEN, Guid, HEADER_LEN, Stored, crc32, guid_at, u32_at, u64_at};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the primary header is, and its entries by default (UEFI specification, section 5.3.2).
const PRIMARY: u64 = 1;
const PRIMARY_ENTRIES: u64 = 2;

/// Partitions end on this border, and less than this is not worth growing one.
const MIB: u64 = 1 << 20;

/// The part of block 0 that is the protective MBR (UEFI specification, section 5.2.3).
const MBR_LEN: usize = 512;

/// Units of UTF-16 in a partition's name.
const NAME_UNITS: usize = 36;

/// One step of the way to the wanted table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes to be written, whole sectors.
    Write {
        /// Where on the disk, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Everything before is to be on the disk before anything after is written.
    Flush,
}

/// A table as it is wanted, and what of it is on the disk.
#[derive(Clone, Debug)]
pub struct Table {
    /// Size of a block in bytes.
    block: u64,
    /// Blocks of the disk.
    blocks: u64,
    mbr: Vec<u8>,
    /// The copies as they were found; none is one that is damaged or not there.
    primary: Option<Stored>,
    backup: Option<Stored>,
    /// The header that all fields are taken from which do not follow from the rest.
    header: [u8; HEADER_LEN],
    entries: Vec<u8>,
}

/// Opens a disk by its name, such as `vda`, and reads its table to change it. Whoever else wants to do
/// that waits until the file is closed.
///
/// # Errors
/// Of the device, or as [`Table::read`].
pub fn open(disk: &str) -> io::Result<(File, Table)> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(Path::new("/dev").join(disk))?;
    lock(&file)?;
    let queue = Path::new("/sys/class/block").join(disk);
    let block = number(&queue.join("queue/logical_block_size")).unwrap_or(512);
    let sectors = number(&queue.join("size")).unwrap_or(0);
    // sysfs counts in sectors of 512 whatever the block size is.
    let blocks = sectors.saturating_mul(512) / block.max(1);
    let table = Table::read(&file, blocks, block)?;
    Ok((file, table))
}

/// Makes whoever else wants to change this disk's table wait, until `disk` is closed.
///
/// # Errors
/// Of the device.
pub fn lock(disk: &File) -> io::Result<()> {
    Ok(flock(disk, FlockOperation::LockExclusive)?)
}

impl Table {
    /// Reads the table of a disk of so many blocks of so many bytes.
    ///
    /// # Errors
    /// Of the device, or `InvalidData` with what is wrong if neither copy can be trusted, or the
    /// table is one that cannot be changed without harm.
    pub fn read(disk: &impl FileExt, blocks: u64, block: u64) -> io::Result<Self> {
        if !block.is_power_of_two() || !(512..=1 << 16).contains(&block) || blocks < 64 {
            return Err(gpt::invalid("no disk has such blocks, or so few"));
        }
        let mut mbr = vec![0; MBR_LEN];
        disk.read_exact_at(&mut mbr, 0)?;
        let primary = gpt::stored_at(disk, PRIMARY, block);
        let backup = gpt::stored_at(disk, blocks - 1, block).ok();
        let (primary, source) = match (primary, &backup) {
            (Ok(primary), _) => (Some(primary.clone()), primary),
            (Err(e), Some(backup)) if e.kind() == io::ErrorKind::InvalidData => {
                (None, backup.clone())
            }
            (Err(e), _) => return Err(e),
        };
        let table = Self {
            block,
            blocks,
            mbr,
            primary,
            backup,
            header: source.header,
            entries: source.entries,
        };
        table.check().map_err(io::Error::other)?;
        Ok(table)
    }

    /// Refuses what the writes could do harm to.
    fn check(&self) -> Result<(), String> {
        let told_last = match self.primary {
            Some(_) => u64_at(&self.header, 32),
            None => u64_at(&self.header, 24),
        };
        if told_last >= self.blocks {
            return Err(format!(
                "the GPT is that of a larger disk, of {} blocks instead of {}",
                told_last.saturating_add(1),
                self.blocks
            ));
        }
        let (first, end) = (self.first_usable(), self.usable_end());
        if first < PRIMARY_ENTRIES + self.array_blocks() || first >= end {
            return Err(format!(
                "the GPT says that partitions begin at block {first}, where it is itself"
            ));
        }
        for (number, extent) in self.extents() {
            if extent.start < first || extent.start >= extent.end || extent.end > end {
                return Err(format!(
                    "partition {number} has the blocks {} to {}, but {first} to {} are for partitions",
                    extent.start,
                    extent.end.saturating_sub(1),
                    end - 1
                ));
            }
        }
        Ok(())
    }

    /// The place of a partition on the disk, in bytes.
    #[must_use]
    pub fn bytes(&self, number: u32) -> Option<Range<u64>> {
        let blocks = self.extent(number)?;
        let place = |at: u64| at.checked_mul(self.block);
        Some(place(blocks.start)?..place(blocks.end)?)
    }

    fn extent(&self, number: u32) -> Option<Range<u64>> {
        let mut all = self.extents();
        all.find_map(|(found, extent)| (found == number).then_some(extent))
    }

    /// What is wrong with the copies on the disk, in words; a disk that has grown is nothing wrong.
    #[must_use]
    pub fn damage(&self) -> Option<&'static str> {
        let backup_is_here = u64_at(&self.header, 32) == self.blocks - 1;
        match (&self.primary, &self.backup) {
            (None, _) => Some("the primary GPT is damaged"),
            (Some(_), None) if backup_is_here => Some("the backup GPT is damaged"),
            (Some(primary), Some(backup)) if primary.entries != backup.entries => {
                Some("the backup GPT is not the same as the primary")
            }
            _ => None,
        }
    }

    /// Gives a partition another GUID and name. The rest of its entry stays.
    ///
    /// # Errors
    /// If there is no such partition, another one has the GUID, or the name is too long.
    pub fn relabel(&mut self, number: u32, guid: Guid, name: &str) -> Result<(), String> {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        if units.len() > NAME_UNITS * 2 {
            return Err(format!(
                "{name:?} is longer than the {NAME_UNITS} characters of a partition's name"
            ));
        }
        let other = self
            .used()
            .find(|(other, entry)| *other != number && guid_at(entry, 16) == guid);
        if let Some((other, _)) = other {
            return Err(format!("partition {other} has the GUID {guid} already"));
        }
        let mut field = [0; NAME_UNITS * 2];
        field
            .iter_mut()
            .zip(units)
            .for_each(|(to, from)| *to = from);
        let entry = self.entry_mut(number)?;
        put(entry, 16, &guid.0);
        put(entry, 56, &field);
        Ok(())
    }

    /// Lets the last partition end where the disk does. Tells whether that was worth it.
    ///
    /// # Errors
    /// If there is no such partition, or it is not the last.
    pub fn grow_last(&mut self, number: u32) -> Result<bool, String> {
        let extent = self.extent(number).ok_or_else(|| missing(number))?;
        let behind = self
            .extents()
            .find(|(other, e)| *other != number && e.end > extent.start);
        if let Some((other, _)) = behind {
            return Err(format!(
                "partition {number} is not the last, {other} lies behind it"
            ));
        }
        let end = self.usable_end();
        let end = end - end % (MIB / self.block);
        if end.saturating_sub(extent.end) < MIB / self.block {
            return Ok(false);
        }
        put(self.entry_mut(number)?, 40, &(end - 1).to_le_bytes());
        Ok(true)
    }

    /// The writes and flushes that lead from what was found to this table; none if it is there.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.primary.is_some() {
            self.add_backup(&mut steps);
            self.add_primary(&mut steps);
        } else {
            self.add_primary(&mut steps);
            self.add_backup(&mut steps);
        }
        self.add_mbr(&mut steps);
        if !steps.is_empty() {
            steps.insert(0, Step::Flush);
        }
        steps
    }

    /// Brings the disk there.
    ///
    /// # Errors
    /// Of the device. The disk is at one of the steps then, and the same change can be made again.
    pub fn write(&self, disk: &File) -> io::Result<()> {
        self.steps().iter().try_for_each(|step| match step {
            Step::Write { offset, bytes } => disk.write_all_at(bytes, *offset),
            Step::Flush => disk.sync_all(),
        })
    }

    fn add_backup(&self, steps: &mut Vec<Step>) {
        let last = self.blocks - 1;
        let at = self.usable_end();
        let wanted = self.stored(last, PRIMARY, at);
        if self.backup.as_ref() != Some(&wanted) {
            steps.extend([
                self.write_entries(at),
                self.write_header(last, &wanted),
                Step::Flush,
            ]);
        }
    }

    fn add_primary(&self, steps: &mut Vec<Step>) {
        let primary = |at| self.stored(PRIMARY, self.blocks - 1, at);
        let wanted = primary(PRIMARY_ENTRIES);
        let header = |at| self.write_header(PRIMARY, &primary(at));
        let Some(found) = &self.primary else {
            let entries = self.write_entries(PRIMARY_ENTRIES);
            return steps.extend([entries, header(PRIMARY_ENTRIES), Step::Flush]);
        };
        if *found == wanted {
            return;
        }
        let length = self.array_blocks();
        let place = |at: u64| at..at.saturating_add(length);
        let mut current = place(u64_at(&found.header, 72));
        if found.entries == wanted.entries && current.start == PRIMARY_ENTRIES {
            return steps.extend([header(PRIMARY_ENTRIES), Step::Flush]);
        }
        let usual = place(PRIMARY_ENTRIES);
        let overlap = current.start < usual.end;
        let spare = place(usual.end.max(current.end));
        if overlap && spare.end <= self.first_usable() {
            let entries = self.write_entries(spare.start);
            steps.extend([entries, Step::Flush, header(spare.start), Step::Flush]);
            current = spare;
        }
        steps.push(self.write_entries(PRIMARY_ENTRIES));
        // Without room, the backup is what holds the table until the flush after the header.
        if current.start >= usual.end {
            steps.push(Step::Flush);
        }
        steps.extend([header(PRIMARY_ENTRIES), Step::Flush]);
    }

    /// The record of the protective MBR that covers the disk; one that says less is corrected. A
    /// table that holds other records is somebody's own idea and stays.
    fn add_mbr(&self, steps: &mut Vec<Step>) {
        let record = self.mbr.get(446..462).unwrap_or_default();
        let others = self.mbr.get(462..510).unwrap_or_default();
        let size = u32::try_from(self.blocks - 1).unwrap_or(u32::MAX);
        if self.mbr.ends_with(&[0x55, 0xaa])
            && record.get(4) == Some(&0xee)
            && u32_at(record, 8) == 1
            && u32_at(record, 12) < size
            && others.iter().all(|b| *b == 0)
        {
            let mut bytes = self.mbr.clone();
            put(&mut bytes, 446 + 12, &size.to_le_bytes());
            steps.extend([Step::Write { offset: 0, bytes }, Step::Flush]);
        }
    }

    /// The wanted copy with its header at one place, the other copy's at another.
    fn stored(&self, lba: u64, other: u64, entries_lba: u64) -> Stored {
        let mut header = self.header;
        put(&mut header, 24, &lba.to_le_bytes());
        put(&mut header, 32, &other.to_le_bytes());
        put(&mut header, 48, &(self.usable_end() - 1).to_le_bytes());
        put(&mut header, 72, &entries_lba.to_le_bytes());
        put(&mut header, 88, &crc32(&self.entries).to_le_bytes());
        let checksum = gpt::header_checksum(&header);
        put(&mut header, 16, &checksum.to_le_bytes());
        Stored {
            header,
            entries: self.entries.clone(),
        }
    }

    fn write_header(&self, lba: u64, stored: &Stored) -> Step {
        self.write_blocks(lba, &stored.header, 1)
    }

    fn write_entries(&self, lba: u64) -> Step {
        self.write_blocks(lba, &self.entries, self.array_blocks())
    }

    fn write_blocks(&self, lba: u64, content: &[u8], blocks: u64) -> Step {
        let mut bytes = content.to_vec();
        bytes.resize(usize::try_from(blocks * self.block).unwrap_or_default(), 0);
        Step::Write {
            offset: lba * self.block,
            bytes,
        }
    }

    /// Blocks of the array of entries; at least the 16 KiB that the specification keeps for it.
    fn array_blocks(&self) -> u64 {
        let bytes = self.entries.len().max(16 << 10) as u64;
        bytes.div_ceil(self.block)
    }

    fn first_usable(&self) -> u64 {
        u64_at(&self.header, 40)
    }

    /// The first block behind those for partitions, where the backup's entries are.
    fn usable_end(&self) -> u64 {
        (self.blocks - 1).saturating_sub(self.array_blocks())
    }

    fn used(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (1..)
            .zip(self.entries.chunks_exact(ENTRY_LEN))
            .filter(|(_, entry)| guid_at(entry, 0).0 != [0; 16])
    }

    /// The used entries' blocks.
    fn extents(&self) -> impl Iterator<Item = (u32, Range<u64>)> {
        self.used().map(|(number, entry)| {
            (
                number,
                u64_at(entry, 32)..u64_at(entry, 40).saturating_add(1),
            )
        })
    }

    fn entry_mut(&mut self, number: u32) -> Result<&mut [u8], String> {
        let mut all = (1..).zip(self.entries.chunks_exact_mut(ENTRY_LEN));
        all.find(|(found, entry)| *found == number && guid_at(entry, 0).0 != [0; 16])
            .map(|(_, entry)| entry)
            .ok_or_else(|| missing(number))
    }
}

fn missing(number: u32) -> String {
    format!("the table has no partition {number}")
}

/// Lays `value` over the bytes from `at` on.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let to = bytes.iter_mut().skip(at);
    to.zip(value).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests;
