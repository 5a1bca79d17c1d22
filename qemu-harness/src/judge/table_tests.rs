use super::super::disk::tests::Memory;
use super::*;
use proptest::prelude::*;

const SECTORS: u64 = 256;
/// Sectors of the entries of a table of 16.
const ENTRIES: u64 = 4;

fn put(bytes: &mut [u8], at: u64, value: &[u8]) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Writes a copy of a table of three partitions whose header is at `lba`.
fn write(bytes: &mut [u8], lba: u64, alternate: u64, entries: u64, uuid: u8) {
    let mut array = vec![0; 16 * 128];
    for (number, (first, last)) in (0..).zip([(10_u64, 19_u64), (20, 99), (100, 200)]) {
        let at = number * 128;
        array[at..at + 16].fill(0x11);
        array[at + 16] = uuid;
        array[at + 17] = u8::try_from(number).unwrap();
        array[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
        array[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        array[at + 56] = b'n';
    }
    let mut header = vec![0; 92];
    header[..8].copy_from_slice(SIGNATURE);
    put(&mut header, 8, &0x1_0000_u32.to_le_bytes());
    put(&mut header, 12, &92_u32.to_le_bytes());
    for (at, value) in [
        (24, lba),
        (32, alternate),
        (40, 8),
        (48, 240),
        (72, entries),
    ] {
        put(&mut header, at, &u64::to_le_bytes(value));
    }
    for (at, value) in [(80, 16), (84, 128), (88, crc32(&array))] {
        put(&mut header, at, &u32::to_le_bytes(value));
    }
    let sum = crc32(&header);
    put(&mut header, 16, &sum.to_le_bytes());
    put(bytes, entries * SECTOR, &array);
    put(bytes, lba * SECTOR, &header);
}

fn disk() -> Memory {
    let mut bytes = vec![0; usize::try_from(SECTORS * SECTOR).unwrap()];
    bytes[450] = 0xee;
    bytes[454] = 1;
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    write(&mut bytes, 1, SECTORS - 1, 2, 7);
    write(&mut bytes, SECTORS - 1, 1, SECTORS - 1 - ENTRIES, 7);
    Memory(bytes)
}

#[test]
fn a_good_table_has_nothing_to_be_said_of() {
    let tables = Tables::read(&disk()).unwrap();
    assert_eq!((tables.complaints(), tables.notes()), (vec![], vec![]));
    let (which, table) = tables.used().unwrap();
    assert_eq!((which, table.partitions.len()), (Which::Primary, 3));
    let first = &table.partitions[0];
    assert_eq!(
        (first.number, first.range.clone(), first.name.as_str()),
        (1, 5120..10240, "n")
    );
    assert_eq!(first.uuid, "00000007-0000-0000-0000-000000000000");
}

#[test]
fn a_bad_primary_leaves_the_backup() {
    let mut disk = disk();
    disk.0[600] ^= 1;
    let tables = Tables::read(&disk).unwrap();
    assert_eq!(tables.complaints(), Vec::<String>::new());
    assert!(
        tables.notes()[0].contains("primary"),
        "{:?}",
        tables.notes()
    );
    assert_eq!(tables.used().unwrap().0, Which::Backup);
}

#[test]
fn a_backup_that_is_not_in_the_last_sector_does_not_replace_the_primary() {
    let mut disk = disk();
    disk.0.extend([0; 1024]);
    assert!(Tables::read(&disk).unwrap().backup.is_ok());
    disk.0[600] ^= 1;
    assert_eq!(Tables::read(&disk).unwrap().complaints().len(), 1);
}

#[test]
fn copies_that_differ_are_noted() {
    let mut disk = disk();
    write(&mut disk.0, SECTORS - 1, 1, SECTORS - 1 - ENTRIES, 8);
    let tables = Tables::read(&disk).unwrap();
    assert_eq!(tables.complaints(), Vec::<String>::new());
    assert!(
        tables.notes()[0].ends_with("partition 1 partition 2 partition 3"),
        "{:?}",
        tables.notes()
    );
}

#[test]
fn linux_wants_the_protective_mbr() {
    for at in [450, 454, 510] {
        let mut disk = disk();
        disk.0[at] ^= 2;
        let complaints = Tables::read(&disk).unwrap().complaints();
        assert!(complaints[0].contains("MBR"), "{at}: {complaints:?}");
    }
}

#[test]
fn a_backup_that_points_elsewhere_is_bad() {
    let mut disk = disk();
    write(&mut disk.0, SECTORS - 1, 3, SECTORS - 1 - ENTRIES, 7);
    let notes = Tables::read(&disk).unwrap().notes();
    assert!(notes[0].contains("AlternateLBA"), "{notes:?}");
}

#[test]
fn the_sum_is_the_known_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

proptest! {
    /// Every bit of header and entries is covered by one of the two sums.
    #[test]
    fn one_flipped_bit_costs_one_copy(
        backup in any::<bool>(),
        at in prop_oneof![0..92_u64, 512..2560_u64],
        bit in 0..8_u32,
    ) {
        let mut disk = disk();
        let place = match (backup, at < 512) {
            (false, _) => SECTOR + at,
            (true, true) => (SECTORS - 1) * SECTOR + at,
            (true, false) => (SECTORS - 1 - ENTRIES) * SECTOR + at - 512,
        };
        disk.0[usize::try_from(place).unwrap()] ^= 1 << bit;
        let tables = Tables::read(&disk).unwrap();
        prop_assert_eq!(tables.complaints(), Vec::<String>::new());
        prop_assert_eq!(tables.primary.is_ok(), backup);
        prop_assert_eq!(tables.backup.is_ok(), !backup);
        prop_assert_eq!(tables.used().unwrap().1.partitions.len(), 3);
    }

    #[test]
    fn noise_is_no_table(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
        let tables = Tables::read(&Memory(noise)).unwrap();
        prop_assert!(tables.used().is_none());
        prop_assert!(!tables.complaints().is_empty());
    }
}
