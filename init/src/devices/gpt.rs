//! GUID partition tables, read only (UEFI specification 2.10, section 5.3); [`super::gpt_edit`]
//! changes them.
//!
//! The kernel has parsed the table already and made the partitions, but it does not tell a
//! partition's unique GUID and type in sysfs; so the entries are read once more. The table is
//! outside bytes: sizes are bounded and the checksums must hold. The primary table is taken, and
//! the backup at the end of the disk if the primary is damaged.

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;

/// Entries that are looked at; the specification's minimum, and what every tool makes, is 128.
const ENTRIES_MAX: u32 = 256;

/// Bytes of a header that mean something; the rest of its block is zero.
pub(super) const HEADER_LEN: usize = 92;

/// Bytes of an entry.
pub(super) const ENTRY_LEN: usize = 128;

/// A GUID in the mixed byte order of the disk (UEFI specification appendix A).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The GUID whose text form is these 16 bytes in hexadecimal, as the halves of a roothash are.
    #[must_use]
    pub fn from_text_order(b: [u8; 16]) -> Self {
        let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = b;
        let mut mixed = [a3, a2, a1, a0, b1, b0, c1, c0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (to, from) in mixed.iter_mut().skip(8).zip(rest) {
            *to = from;
        }
        Self(mixed)
    }

    /// Reads the usual text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let value = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok())??;
        Some(Self::from_text_order(value.to_be_bytes()))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, e @ ..] = self.0;
        let a = u32::from_le_bytes([a0, a1, a2, a3]);
        let (b, c) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([c0, c1]));
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d0:02x}{d1:02x}-")?;
        e.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One used entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1, as in the partition's device name.
    pub number: u32,
    /// What it is for.
    pub type_guid: Guid,
    /// Its own.
    pub guid: Guid,
}

/// Reads the used entries of the disk's table. `block` is its logical block size.
///
/// # Errors
/// Of the device, or `InvalidData` with what is wrong if neither table can be trusted.
pub fn read(disk: &impl FileExt, blocks: u64, block: u64) -> io::Result<Vec<Entry>> {
    read_at(disk, 1, block).or_else(|primary| {
        let last = blocks.saturating_sub(1);
        read_at(disk, last, block).map_err(|_| primary)
    })
}

/// One copy of the table as it stands on the disk, its checksums right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub header: [u8; HEADER_LEN],
    pub entries: Vec<u8>,
}

fn read_at(disk: &impl FileExt, lba: u64, block: u64) -> io::Result<Vec<Entry>> {
    let stored = stored_at(disk, lba, block)?;
    let entries = stored.entries.chunks_exact(ENTRY_LEN).zip(1..);
    Ok(entries
        .map(|(entry, number)| Entry {
            number,
            type_guid: guid_at(entry, 0),
            guid: guid_at(entry, 16),
        })
        .filter(|entry| entry.type_guid.0 != [0; 16])
        .collect())
}

/// Reads the copy whose header is at `lba`.
pub(super) fn stored_at(disk: &impl FileExt, lba: u64, block: u64) -> io::Result<Stored> {
    let mut header = [0u8; HEADER_LEN];
    disk.read_exact_at(&mut header, lba.saturating_mul(block))?;
    if !header.starts_with(b"EFI PART") {
        return Err(invalid("no GPT signature"));
    }
    if u32_at(&header, 12) != 92 || header_checksum(&header) != u32_at(&header, 16) {
        return Err(invalid("the GPT header's checksum is wrong"));
    }
    if u64_at(&header, 24) != lba {
        return Err(invalid("the GPT header is that of another place"));
    }
    let (count, size) = (u32_at(&header, 80), u32_at(&header, 84));
    if count > ENTRIES_MAX || size as usize != ENTRY_LEN {
        // Not damaged, so nothing that a copy could be taken for instead to change it.
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the GPT has more than 256 entries, or entries of another size than 128",
        ));
    }
    let mut entries = vec![0u8; count as usize * ENTRY_LEN];
    disk.read_exact_at(&mut entries, u64_at(&header, 72).saturating_mul(block))?;
    if crc32(&entries) != u32_at(&header, 88) {
        return Err(invalid("the GPT entries' checksum is wrong"));
    }
    Ok(Stored { header, entries })
}

/// The checksum that a header should have: over itself, with zeros in the checksum's place.
pub(super) fn header_checksum(header: &[u8; HEADER_LEN]) -> u32 {
    let mut zeroed = *header;
    zeroed
        .get_mut(16..20)
        .into_iter()
        .flatten()
        .for_each(|byte| *byte = 0);
    crc32(&zeroed)
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

pub(super) fn guid_at(bytes: &[u8], at: usize) -> Guid {
    Guid(array_at(bytes, at))
}

/// CRC-32 as UEFI means it: polynomial 0x04c11db7, reflected (ISO 3309).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Disk(Vec<u8>);

    impl FileExt for Disk {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|o| self.0.get(o..))
                .unwrap_or_default();
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            unreachable!("the parser writes nothing")
        }
    }

    const ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";

    /// What [`disk`] holds.
    fn expected() -> [Entry; 1] {
        [Entry {
            number: 2,
            type_guid: Guid::parse(ROOT).unwrap(),
            guid: Guid([7; 16]),
        }]
    }

    /// A table with one entry at number 2, its backup at the end of 64 blocks.
    fn disk() -> Vec<u8> {
        let mut entries = vec![0u8; 128 * 128];
        entries[128..144].copy_from_slice(&Guid::parse(ROOT).unwrap().0);
        entries[144..160].copy_from_slice(&[7; 16]);
        let mut disk = vec![0u8; 128 * 512];
        for (lba, entries_lba) in [(1usize, 2u64), (127, 90)] {
            let mut header = [0u8; 92];
            header[..8].copy_from_slice(b"EFI PART");
            header[12..16].copy_from_slice(&92u32.to_le_bytes());
            header[24..32].copy_from_slice(&u64::try_from(lba).unwrap().to_le_bytes());
            header[72..80].copy_from_slice(&entries_lba.to_le_bytes());
            header[80..84].copy_from_slice(&128u32.to_le_bytes());
            header[84..88].copy_from_slice(&128u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
            let checksum = crc32(&header);
            header[16..20].copy_from_slice(&checksum.to_le_bytes());
            disk[lba * 512..lba * 512 + 92].copy_from_slice(&header);
            let at = usize::try_from(entries_lba).unwrap() * 512;
            disk[at..at + entries.len()].copy_from_slice(&entries);
        }
        disk
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn guids_read_and_write_alike() {
        assert_eq!(Guid::parse(ROOT).unwrap().to_string(), ROOT);
        assert_eq!(Guid::parse("4f68"), None);
    }

    #[test]
    fn entries_are_read_and_a_damaged_primary_falls_back() {
        let mut bytes = disk();
        assert_eq!(read(&Disk(bytes.clone()), 128, 512).unwrap(), expected());
        bytes[512 + 40] ^= 1;
        assert_eq!(read(&Disk(bytes.clone()), 128, 512).unwrap(), expected());
        bytes[127 * 512] ^= 1;
        assert!(
            read(&Disk(bytes), 128, 512)
                .unwrap_err()
                .to_string()
                .contains("checksum")
        );
    }

    /// A byte of the disk; one in two is of the only entry, in either copy, where the least damage changes most.
    fn places() -> impl Strategy<Value = usize> {
        let entry = (prop_oneof![Just(2 * 512), Just(90 * 512)], 128usize..256);
        prop_oneof![0usize..128 * 512, entry.prop_map(|(copy, at)| copy + at)]
    }

    proptest! {
        #[test]
        fn a_damaged_byte_changes_no_entry(at in places(), flip in 1u8..) {
            let mut bytes = disk();
            bytes[at] ^= flip;
            let read = read(&Disk(bytes), 128, 512).unwrap();
            prop_assert_eq!(read, expected());
        }
    }
}
