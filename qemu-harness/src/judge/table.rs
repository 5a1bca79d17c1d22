//! The partition table, both copies, each judged by itself (UEFI 2.10, section 5.3).
//!
//! Who uses which copy: the firmware (EDK II, `PartitionDxe/Gpt.c`) takes the primary when it is valid.
//! When not, it takes the backup in the last sector of the disk and writes the primary anew from it.
//! Linux (`block/partitions/efi.c`) takes the primary, and without `gpt` on its command line never looks at
//! the backup of a disk whose primary is bad: such a disk boots because the firmware has mended it by then.
//! Linux also wants the protective MBR.
//!
//! Two valid copies that differ are what an interrupted change leaves; the primary counts, and it is noted.

use super::disk::{Disk, number};
use anyhow::Result;
use std::fmt::Write as _;
use std::ops::Range;

/// Type of the EFI system partition (UEFI 2.10, table 5-7).
pub const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// Sectors of the disks the harness makes.
pub const SECTOR: u64 = 512;
/// The primary's header; the MBR is before it.
const PRIMARY: u64 = 1;
const SIGNATURE: &[u8] = b"EFI PART";
const REVISION: u64 = 0x0001_0000;
/// Size of the header's fields; the sector's rest is reserved.
const HEADER: usize = 92;
/// The size of an entry; the specification allows larger ones, Linux does not.
const ENTRY: u64 = 128;
/// The specification wants room for 128 entries at least; more than this nobody has.
const MOST_ENTRIES: u64 = 1024;
/// The partition's name is 36 UTF-16 units in the entry.
const NAME: Range<usize> = 56..128;

/// A partition, as one copy has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number in the table, from 1.
    pub number: u32,
    /// Type, in capitals.
    pub kind: String,
    /// PARTUUID, in capitals.
    pub uuid: String,
    /// Label.
    pub name: String,
    /// Attribute bits.
    pub attributes: u64,
    /// Bytes of the disk.
    pub range: Range<u64>,
}

/// A copy of the table that is valid by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's GUID, in capitals.
    pub disk: String,
    /// Bytes of the disk that partitions may use.
    pub usable: Range<u64>,
    /// The partitions, in the order of the table.
    pub partitions: Vec<Partition>,
    alternate: u64,
}

/// Which copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// In the disk's second sector.
    Primary,
    /// Where the primary says, or in the last sector.
    Backup,
}

/// What is known of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The protective MBR, or what is wrong with it.
    pub mbr: Result<(), String>,
    /// The primary, or what is wrong with it.
    pub primary: Result<Table, String>,
    /// The backup, or what is wrong with it.
    pub backup: Result<Table, String>,
}

impl Tables {
    /// Reads both copies.
    ///
    /// # Errors
    /// When the disk cannot be read; a bad table is no error.
    pub fn read(disk: &dyn Disk) -> Result<Self> {
        let last = (disk.len() / SECTOR).saturating_sub(1);
        let primary = copy(disk, PRIMARY, last)?;
        let backup = match &primary {
            Ok(table) => copy(disk, table.alternate, last)?,
            Err(_) => copy(disk, last, last)?,
        };
        let backup = backup.and_then(|table| {
            // The firmware restores the primary to where this points.
            if table.alternate == PRIMARY {
                Ok(table)
            } else {
                Err(format!("its AlternateLBA is {}, not 1", table.alternate))
            }
        });
        Ok(Self {
            mbr: protective(disk, last)?,
            primary,
            backup,
        })
    }

    /// The copy that counts.
    #[must_use]
    pub fn used(&self) -> Option<(Which, &Table)> {
        let primary = self.primary.as_ref().ok().map(|t| (Which::Primary, t));
        primary.or_else(|| self.backup.as_ref().ok().map(|t| (Which::Backup, t)))
    }

    /// What keeps the disk from booting.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Err(why) = &self.mbr {
            all.push(format!("the protective MBR is bad: {why}"));
        }
        if let (Err(first), Err(second)) = (&self.primary, &self.backup) {
            all.push(format!(
                "no valid partition table: in the primary, {first}; in the backup, {second}"
            ));
        }
        if let Some((_, table)) = self.used() {
            all.extend(overlaps(table));
        }
        all
    }

    /// What does not.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        match (&self.primary, &self.backup) {
            (Err(why), Ok(_)) => vec![format!(
                "the primary partition table is bad ({why}); the firmware writes it anew from the backup"
            )],
            (Ok(_), Err(why)) => vec![format!("the backup partition table is bad: {why}")],
            (Ok(primary), Ok(backup)) => difference(primary, backup).into_iter().collect(),
            (Err(_), Err(_)) => Vec::new(),
        }
    }
}

impl Table {
    /// The partitions of this type, in the order of the disk.
    #[must_use]
    pub fn of(&self, kind: &str) -> Vec<&Partition> {
        let mut found: Vec<_> = self.partitions.iter().filter(|p| p.kind == kind).collect();
        found.sort_by_key(|partition| partition.range.start);
        found
    }
}

/// The protective MBR, as Linux's `is_pmbr_valid` wants it.
fn protective(disk: &dyn Disk, last: u64) -> Result<Result<(), String>> {
    let Some(sector) = sector(disk, 0, last)? else {
        return Ok(Err("the disk has no sectors".to_owned()));
    };
    if sector.get(510..512) != Some(&[0x55, 0xaa]) {
        return Ok(Err("it has no signature".to_owned()));
    }
    // Four records of 16 bytes from 446 on: the type is their fifth byte, the first sector the ninth to twelfth.
    let whole = (0..4)
        .map(|index| 446 + index * 16)
        .any(|at| sector.get(at + 4) == Some(&0xee) && number::<4>(&sector, at + 8) == 1);
    Ok(if whole {
        Ok(())
    } else {
        Err("it has no record of type EE from sector 1 on".to_owned())
    })
}

/// Reads the copy whose header is at `lba`.
fn copy(disk: &dyn Disk, lba: u64, last: u64) -> Result<Result<Table, String>> {
    let Some(bytes) = sector(disk, lba, last)? else {
        return Ok(Err(format!("its sector {lba} is not on the disk")));
    };
    let header = match Header::read(&bytes, lba, last) {
        Ok(header) => header,
        Err(why) => return Ok(Err(why)),
    };
    let mut entries = vec![0; header.bytes()];
    disk.read_at(header.entries * SECTOR, &mut entries)?;
    Ok(header.table(&entries))
}

/// The fields of a header that count.
struct Header {
    alternate: u64,
    usable: Range<u64>,
    disk: String,
    entries: u64,
    count: u64,
    size: u64,
    crc: u64,
}

impl Header {
    fn read(bytes: &[u8], lba: u64, last: u64) -> Result<Self, String> {
        let must = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
        must(bytes.starts_with(SIGNATURE), "there is no header")?;
        must(
            number::<4>(bytes, 8) == REVISION,
            "the header's revision is not 1.0",
        )?;
        let size = usize::try_from(number::<4>(bytes, 12)).unwrap_or(0);
        must(
            (HEADER..=bytes.len()).contains(&size),
            "the header's size is wrong",
        )?;
        // The sum is of the header with a zero in the sum's own place.
        let mut summed = bytes.get(..size).unwrap_or_default().to_vec();
        summed[16..20].fill(0);
        must(
            u64::from(crc32(&summed)) == number::<4>(bytes, 16),
            "the header's CRC is wrong",
        )?;
        must(number::<8>(bytes, 24) == lba, "the header's MyLBA is wrong")?;
        let header = Self {
            alternate: number::<8>(bytes, 32),
            usable: number::<8>(bytes, 40)..number::<8>(bytes, 48),
            disk: guid(bytes, 56),
            entries: number::<8>(bytes, 72),
            count: number::<4>(bytes, 80),
            size: number::<4>(bytes, 84),
            crc: number::<4>(bytes, 88),
        };
        must(
            header.usable.start <= header.usable.end && header.usable.end <= last,
            "the header's usable sectors are wrong",
        )?;
        must(
            header.size == ENTRY,
            "the header's size of an entry is wrong",
        )?;
        must(
            (1..=MOST_ENTRIES).contains(&header.count),
            "the header's number of entries is wrong",
        )?;
        let sectors = (header.count * header.size).div_ceil(SECTOR);
        let end = header.entries.saturating_add(sectors);
        let clear = end <= header.usable.start || header.entries > header.usable.end;
        must(
            header.entries > PRIMARY && end <= last + 1 && clear,
            "the header's place of the entries is wrong",
        )?;
        Ok(header)
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.count * self.size).unwrap_or(0)
    }

    fn table(self, entries: &[u8]) -> Result<Table, String> {
        if u64::from(crc32(entries)) != self.crc {
            return Err("the entries' CRC is wrong".to_owned());
        }
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut partitions = Vec::new();
        for (number, entry) in (1..).zip(entries.chunks_exact(size)) {
            partitions.extend(self.partition(number, entry)?);
        }
        Ok(Table {
            disk: self.disk,
            usable: self.usable.start * SECTOR..(self.usable.end + 1) * SECTOR,
            partitions,
            alternate: self.alternate,
        })
    }

    fn partition(&self, index: u32, entry: &[u8]) -> Result<Option<Partition>, String> {
        // A type of zeros marks an entry that is not used.
        if entry.iter().take(16).all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (first, last) = (number::<8>(entry, 32), number::<8>(entry, 40));
        if first > last || first < self.usable.start || last > self.usable.end {
            return Err(format!(
                "partition {index} has the sectors {first} to {last}, the disk {} to {}",
                self.usable.start, self.usable.end
            ));
        }
        let units: Vec<u16> = entry
            .get(NAME)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        Ok(Some(Partition {
            number: index,
            kind: guid(entry, 0),
            uuid: guid(entry, 16),
            name: String::from_utf16_lossy(&units),
            attributes: number::<8>(entry, 48),
            range: first * SECTOR..(last + 1) * SECTOR,
        }))
    }
}

fn sector(disk: &dyn Disk, lba: u64, last: u64) -> Result<Option<Vec<u8>>> {
    if lba > last || disk.len() < SECTOR {
        return Ok(None);
    }
    let mut bytes = vec![0; 512];
    disk.read_at(lba * SECTOR, &mut bytes)?;
    Ok(Some(bytes))
}

fn overlaps(table: &Table) -> Vec<String> {
    let mut sorted: Vec<&Partition> = table.partitions.iter().collect();
    sorted.sort_by_key(|partition| partition.range.start);
    sorted
        .windows(2)
        .filter(|pair| pair[0].range.end > pair[1].range.start)
        .map(|pair| {
            format!(
                "the partitions {} and {} overlap",
                pair[0].number, pair[1].number
            )
        })
        .collect()
}

/// What two valid copies do not agree in.
fn difference(primary: &Table, backup: &Table) -> Option<String> {
    let mut what = String::new();
    if primary.disk != backup.disk {
        what.push_str(" the disk's GUID");
    }
    if primary.usable != backup.usable {
        what.push_str(" the usable sectors");
    }
    for number in 1..=u32::try_from(MOST_ENTRIES).unwrap_or(u32::MAX) {
        let of = |table: &Table| {
            let found = table.partitions.iter().find(|p| p.number == number);
            found.cloned()
        };
        if of(primary) != of(backup) {
            // Writing to a string does not fail.
            let _ = write!(what, " partition {number}");
        }
    }
    (!what.is_empty())
        .then(|| format!("the copies of the partition table differ, the primary counts:{what}"))
}

/// A GUID as text, in capitals: the first three fields are little-endian (UEFI 2.10, appendix A).
fn guid(bytes: &[u8], at: usize) -> String {
    let byte = |index: usize| bytes.get(at + index).copied().unwrap_or(0);
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (place, index) in order.into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{:02X}", byte(index));
    }
    text
}

/// CRC-32 of ISO 3309, reflected, as the header has it.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        let mut seed: u32 = 0;
        while index < 256 {
            let mut value = seed;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0xedb8_8320 * (value & 1));
                bit += 1;
            }
            table[index] = value;
            index += 1;
            seed += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let index = usize::from(crc.to_le_bytes()[0] ^ byte);
        (crc >> 8) ^ TABLE[index]
    })
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
