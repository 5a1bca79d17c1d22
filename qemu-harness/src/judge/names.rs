//! The entries of one FAT directory, with their long names (Microsoft FAT32 File System
//! Specification 1.03, sections 6 and 7).
//!
//! A long name is a run of slots before the short entry, last part first. After a cut the slots and the
//! entry may be of different times: then the sum does not fit, firmware and Linux use the short name, and the
//! run is counted as orphaned.

/// Size of an entry or slot.
pub const ENTRY: usize = 32;
const END: u8 = 0;
const DELETED: u8 = 0xe5;
/// Attributes of a slot of a long name; of the volume's label; of a directory.
const LONG: u8 = 0x0f;
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
/// Marks the slot with the name's end.
const LAST: u8 = 0x40;
/// Slots for 255 units, 13 in each.
const MOST_SLOTS: u8 = 20;
/// Where the units are in a slot.
const UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// An entry as it is in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The long name, or the short one in the letters that Linux shows.
    pub name: String,
    /// A folder.
    pub directory: bool,
    /// The first cluster; 0 when it is empty.
    pub first: u32,
    /// Bytes; 0 for a folder.
    pub size: u32,
}

/// What a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Its entries, without `.` and `..` and the volume's label.
    pub entries: Vec<Entry>,
    /// Runs of slots that belong to no entry.
    pub orphans: usize,
    /// Names that cannot be: what is wrong with each.
    pub faults: Vec<String>,
}

/// Reads the entries of a directory.
#[must_use]
pub fn list(bytes: &[u8]) -> Listing {
    let mut listing = Listing::default();
    let mut run = Run::default();
    for entry in bytes.as_chunks::<ENTRY>().0 {
        match entry[0] {
            END => break,
            DELETED => {
                listing.orphans += usize::from(run.begun());
                run = Run::default();
            }
            // The upper two bits of the attributes are reserved.
            _ if entry[11] & 0x3f == LONG => {
                if run.add(entry).is_err() {
                    listing.orphans += 1;
                }
            }
            _ => {
                let long = run.name(checksum(&entry[..11]));
                if run.begun() && long.is_none() {
                    listing.orphans += 1;
                }
                run = Run::default();
                if entry[11] & VOLUME == 0 && !entry.starts_with(b".") {
                    push(&mut listing, entry, long);
                }
            }
        }
    }
    listing.orphans += usize::from(run.begun());
    listing
}

fn push(listing: &mut Listing, entry: &[u8; ENTRY], long: Option<Vec<u16>>) {
    let name = match long {
        Some(units) => String::from_utf16(&units).map_err(|_| {
            let shown = String::from_utf16_lossy(&units);
            format!("the name {shown:?} is no UTF-16")
        }),
        None => short(entry),
    };
    let half = |at: usize| u32::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
    let directory = entry[11] & DIRECTORY != 0;
    match name {
        Ok(name) => listing.entries.push(Entry {
            name,
            directory,
            first: half(20) << 16 | half(26),
            size: if directory {
                0
            } else {
                half(30) << 16 | half(28)
            },
        }),
        Err(why) => listing.faults.push(why),
    }
}

/// Slots seen so far of one long name.
#[derive(Default)]
struct Run {
    /// Units in the order of the name, of slots from the end on.
    units: Vec<u16>,
    /// The number of the last slot seen; 1 completes the name.
    at: u8,
    sum: u8,
}

impl Run {
    fn begun(&self) -> bool {
        self.at != 0
    }

    /// Adds a slot; an error is a run that it does not continue and that is thereby lost.
    fn add(&mut self, slot: &[u8; ENTRY]) -> Result<(), ()> {
        let number = slot[0] & !LAST;
        let begins = slot[0] & LAST != 0;
        let fits = !begins && self.at > 1 && number == self.at - 1 && slot[13] == self.sum;
        let lost = self.begun() && !fits;
        if begins || lost {
            *self = Self::default();
        }
        let usable = (1..=MOST_SLOTS).contains(&number);
        if (begins || fits) && usable {
            self.at = number;
            self.sum = slot[13];
            let part = UNITS.map(|at| u16::from_le_bytes([slot[at], slot[at + 1]]));
            self.units.splice(0..0, part);
        }
        let ignored = !(begins || fits) || !usable;
        if lost || ignored { Err(()) } else { Ok(()) }
    }

    /// The name, when it is whole and of the short entry with this sum.
    fn name(&self, sum: u8) -> Option<Vec<u16>> {
        let units = || self.units.iter().copied().take_while(|unit| *unit != 0);
        (self.at == 1 && self.sum == sum && units().next().is_some()).then(|| units().collect())
    }
}

/// The sum of a short name, which its long name carries.
#[must_use]
pub fn checksum(short: &[u8]) -> u8 {
    short
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The short name; bits 3 and 4 of byte 12 say that base and extension are in small letters (as Windows NT,
/// Linux's vfat and EDK II have it).
fn short(entry: &[u8; ENTRY]) -> Result<String, String> {
    let part = |bytes: &[u8], small: bool| {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        let text = text.trim_end().to_owned();
        if small { text.to_lowercase() } else { text }
    };
    let base = part(&entry[..8], entry[12] & 0x08 != 0);
    let extension = part(&entry[8..11], entry[12] & 0x10 != 0);
    let name = if extension.is_empty() {
        base
    } else {
        format!("{base}.{extension}")
    };
    let legal = |c: char| c.is_ascii() && !c.is_ascii_control() && !"\"*+,/:;<=>?[\\]|".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(legal) {
        return Err(format!("the short name {name:?} cannot be"));
    }
    Ok(name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The slots and the entry of a file, as a driver writes them.
    pub fn encode(name: &str, short: &[u8; 11], first: u32, size: u32, directory: bool) -> Vec<u8> {
        let mut units: Vec<u16> = name.encode_utf16().collect();
        if !units.len().is_multiple_of(13) {
            units.push(0);
        }
        while !units.len().is_multiple_of(13) {
            units.push(0xffff);
        }
        let count = units.len() / 13;
        let mut bytes = Vec::new();
        for number in (1..=count).rev() {
            let mut slot = [0; ENTRY];
            slot[0] = u8::try_from(number).unwrap() | if number == count { LAST } else { 0 };
            slot[11] = LONG;
            slot[13] = checksum(short);
            for (at, unit) in UNITS.iter().zip(&units[(number - 1) * 13..]) {
                slot[*at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            bytes.extend(slot);
        }
        let mut entry = [0; ENTRY];
        entry[..11].copy_from_slice(short);
        entry[11] = if directory { DIRECTORY } else { 0x20 };
        let [a, b, c, d] = first.to_le_bytes();
        [entry[26], entry[27], entry[20], entry[21]] = [a, b, c, d];
        entry[28..].copy_from_slice(&size.to_le_bytes());
        bytes.extend(entry);
        bytes
    }

    const SHORT: &[u8; 11] = b"ASTROM~1EFI";

    #[test]
    fn a_lost_slot_leaves_the_short_name() {
        let whole = encode("astromesh-os_2+0-0.efi", SHORT, 9, 7, false);
        let listing = list(&whole);
        assert_eq!(listing.entries[0].name, "astromesh-os_2+0-0.efi");
        assert_eq!((listing.entries[0].first, listing.orphans), (9, 0));
        // The first slot, the second, the sum in it, the entry.
        for damage in [0, 32, 45, 64] {
            let mut bytes = whole.clone();
            bytes[damage] = DELETED;
            let listing = list(&bytes);
            let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
            let expected: &[&str] = if damage == 64 { &[] } else { &["ASTROM~1.EFI"] };
            assert_eq!(names, expected, "{damage}");
            assert!(listing.orphans > 0, "{damage}");
        }
    }

    #[test]
    fn short_names_have_small_letters() {
        let mut entry = [0_u8; 32];
        entry[..11].copy_from_slice(b"SYSTEMD    ");
        entry[12] = 0x08;
        assert_eq!(list(&entry).entries[0].name, "systemd");
        entry[0] = b'*';
        assert_eq!(list(&entry).faults.len(), 1);
    }

    #[test]
    fn a_name_that_is_no_text_is_a_fault() {
        let mut bytes = encode("x.efi", b"X       EFI", 3, 1, false);
        bytes[1..3].copy_from_slice(&0xd800_u16.to_le_bytes());
        let listing = list(&bytes);
        assert_eq!((listing.entries.len(), listing.faults.len()), (0, 1));
    }

    proptest! {
        #[test]
        fn names_come_back(names in prop::collection::vec("[a-z0-9+_.-]{1,60}", 0..6), size in any::<u32>()) {
            let mut bytes = Vec::new();
            for name in &names {
                bytes.extend(encode(name, SHORT, 5, size, false));
            }
            let listing = list(&bytes);
            let found: Vec<_> = listing.entries.iter().map(|entry| &entry.name).collect();
            prop_assert_eq!(found, names.iter().collect::<Vec<_>>());
            prop_assert!(listing.entries.iter().all(|entry| entry.size == size));
            prop_assert_eq!(listing.orphans, 0);
        }

        #[test]
        fn noise_is_read(noise in prop::collection::vec(any::<u8>(), 0..1024)) {
            let listing = list(&noise);
            prop_assert!(listing.entries.len() <= noise.len() / ENTRY);
        }
    }
}
