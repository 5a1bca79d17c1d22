use super::*;
use proptest::prelude::*;

const SECTOR: usize = 512;
const BLOCK: u64 = 512;
/// Blocks of a disk whose last partition ends where the disk does.
const BLOCKS: u64 = 6 * 2048 + 40;
const VAR: u32 = 6;

/// What a disk is after a cut: all that was flushed, and any part of the rest.
#[derive(Clone)]
struct Disk {
    bytes: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl FileExt for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = &self.bytes[usize::try_from(offset).unwrap().min(self.bytes.len())..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unreachable!("a table is changed by its steps")
    }
}

impl Disk {
    fn do_step(&mut self, step: &Step) {
        match step {
            Step::Write { offset, bytes } => {
                assert!(bytes.len().is_multiple_of(SECTOR) && offset.is_multiple_of(512));
                self.pending
                    .push((usize::try_from(*offset).unwrap(), bytes.clone()));
            }
            Step::Flush => self.flush(),
        }
    }

    fn flush(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            self.bytes[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// The plug is pulled: of each sector that waits `fate` says how many of its bytes arrive.
    fn cut(mut self, mut fate: impl FnMut() -> usize) -> Self {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            for (place, sector) in bytes.chunks(SECTOR).enumerate() {
                let at = offset + place * SECTOR;
                let arrived = fate().min(SECTOR);
                self.bytes[at..at + arrived].copy_from_slice(&sector[..arrived]);
            }
        }
        self
    }

    fn run(mut self, table: &Table) -> Self {
        table.steps().iter().for_each(|step| self.do_step(step));
        assert!(self.pending.is_empty(), "the end is not flushed");
        self
    }

    fn blocks(&self) -> u64 {
        self.bytes.len() as u64 / BLOCK
    }

    fn table(&self) -> io::Result<Table> {
        Table::read(self, self.blocks(), BLOCK)
    }
}

fn root() -> Guid {
    Guid::parse("4f68bce3-e8cd-4db1-96e7-fbcaf984b709").unwrap()
}

/// A disk with the partitions 1 to 6, the last up to its end; with room in front of the first one
/// or with the table filling all of it.
fn disk(room: bool, count: u32) -> Disk {
    let mut entries = vec![0; count as usize * ENTRY_LEN];
    for (number, entry) in (1..=VAR).zip(entries.chunks_exact_mut(ENTRY_LEN)) {
        put(entry, 0, &root().0);
        put(entry, 16, &[u8::try_from(number).unwrap(); 16]);
        let start = if number == 1 && !room {
            34
        } else {
            u64::from(number) * 1024 + 1024
        };
        let end = if number == VAR {
            BLOCKS - 40
        } else {
            start + 1024
        };
        put(entry, 32, &start.to_le_bytes());
        put(entry, 40, &(end - 1).to_le_bytes());
    }
    let mut header = [0; HEADER_LEN];
    put(&mut header, 0, b"EFI PART\0\0\x01\0\x5c");
    put(
        &mut header,
        40,
        &if room { 2048u64 } else { 34 }.to_le_bytes(),
    );
    put(&mut header, 80, &count.to_le_bytes());
    put(&mut header, 84, &128u32.to_le_bytes());
    let mut mbr = vec![0; MBR_LEN];
    mbr[446 + 4] = 0xee;
    mbr[446 + 8] = 1;
    put(
        &mut mbr,
        446 + 12,
        &u32::try_from(BLOCKS - 1).unwrap().to_le_bytes(),
    );
    put(&mut mbr, 510, &[0x55, 0xaa]);
    let mut disk = Disk {
        bytes: vec![0; usize::try_from(BLOCKS * BLOCK).unwrap()],
        pending: Vec::new(),
    };
    disk.bytes[..MBR_LEN].copy_from_slice(&mbr);
    let table = Table {
        block: BLOCK,
        blocks: BLOCKS,
        mbr,
        primary: None,
        backup: None,
        header,
        entries,
    };
    disk.run(&table)
}

/// How the disk was left by whoever was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Whole,
    PrimaryDamaged,
    BackupDamaged,
    /// The backup has the change, the primary has not yet.
    BackupAhead,
    /// The primary has the change in the page cache, and of half a sector of it the disk knows nothing.
    Unflushed,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    relabel: bool,
    grow: bool,
}

impl Change {
    fn make(self, table: &mut Table) {
        if self.relabel {
            table.relabel(2, Guid([0xaa; 16]), "root_2").unwrap();
            table.relabel(5, Guid([0xbb; 16]), "verity_2").unwrap();
        }
        if self.grow {
            table.grow_last(VAR).unwrap();
        }
    }
}

fn put_before(mut disk: Disk, before: Before, change: Change) -> Disk {
    let last = disk.bytes.len() - SECTOR;
    match before {
        Before::Whole => {}
        Before::PrimaryDamaged => disk.bytes[SECTOR + 60] ^= 1,
        Before::BackupDamaged => disk.bytes[last + 60] ^= 1,
        Before::BackupAhead => {
            let mut table = disk.table().unwrap();
            change.make(&mut table);
            let mut steps = Vec::new();
            table.add_backup(&mut steps);
            steps.iter().for_each(|step| disk.do_step(step));
        }
        Before::Unflushed => {
            let whole = disk.bytes[SECTOR..3 * SECTOR].to_vec();
            disk.bytes[3 * SECTOR - 256..3 * SECTOR].fill(0x5a);
            disk.pending.push((SECTOR, whole));
        }
    }
    disk
}

fn any_change() -> impl Strategy<Value = Change> {
    (0..3).prop_map(|n| Change {
        relabel: n != 1,
        grow: n != 0,
    })
}

/// By how many blocks the disk has grown; the new backup may lie over the old one.
fn any_growth() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1u64..70, Just(2048), Just(5000)]
}

fn any_before() -> impl Strategy<Value = Before> {
    prop_oneof![
        Just(Before::Whole),
        Just(Before::PrimaryDamaged),
        Just(Before::BackupDamaged),
        Just(Before::BackupAhead),
        Just(Before::Unflushed),
    ]
}

proptest! {
    #[test]
    fn a_cut_leaves_the_old_table_or_the_new(
        room in any::<bool>(),
        growth in any_growth(),
        before in any_before(),
        change in any_change(),
        at in 0usize..16,
        fates in proptest::collection::vec(prop_oneof![Just(0usize), Just(SECTOR), 1..SECTOR], 1..64),
        whole_sectors in any::<bool>(),
    ) {
        let mut disk = disk(room, 8);
        // Damage to the one copy that a grown disk has is the end of it.
        if !matches!(before, Before::PrimaryDamaged | Before::Unflushed) {
            disk.bytes.resize(disk.bytes.len() + usize::try_from(growth * BLOCK).unwrap(), 0);
        }
        let mut start = put_before(disk, before, change);
        // What is read is what the page cache has.
        let mut cache = start.clone();
        cache.flush();
        let mut table = cache.table().unwrap();
        let old = table.entries.clone();
        change.make(&mut table);
        let new = table.entries.clone();
        let steps = table.steps();
        for step in steps.iter().take(at) {
            start.do_step(step);
        }
        let mut fates = fates.into_iter().cycle();
        let fate = || {
            let arrived = fates.next().unwrap();
            if whole_sectors { arrived / SECTOR * SECTOR } else { arrived }
        };
        let unflushed = (at == 0 || steps.is_empty()) && before == Before::Unflushed;
        let after = start.cut(fate);

        let mut again = after.table().unwrap();
        prop_assert!(again.entries == old || again.entries == new, "a mixture");
        if !steps.is_empty() && steps.len() <= at {
            prop_assert!(again.entries == new, "the change is not there at the end");
            prop_assert!(again.steps().is_empty());
        }
        // Where a sector is whole or not there, the primary alone is always good.
        let good = before != Before::PrimaryDamaged && !unflushed;
        if whole_sectors && room && good {
            let primary = gpt::stored_at(&after, PRIMARY, BLOCK).unwrap();
            prop_assert!(primary.entries == old || primary.entries == new);
        }
        // The same change made again comes to the same end.
        change.make(&mut again);
        let end = after.run(&again);
        let read = end.table().unwrap();
        prop_assert_eq!(&read.entries, &new);
        prop_assert!(read.steps().is_empty());
        prop_assert_eq!(read.damage(), None);
        let backup = gpt::stored_at(&end, end.blocks() - 1, BLOCK).unwrap();
        prop_assert_eq!(&backup.entries, &new);
        let primary = gpt::stored_at(&end, PRIMARY, BLOCK).unwrap();
        prop_assert_eq!(u64_at(&primary.header, 32), end.blocks() - 1);
        prop_assert_eq!(u64_at(&primary.header, 72), PRIMARY_ENTRIES);
        prop_assert_eq!(u64_at(&end.bytes[446..], 12) & 0xffff_ffff, end.blocks() - 1);
    }

    #[test]
    fn damage_is_refused_or_does_no_harm(at in 0usize..34 * SECTOR, value in any::<u8>()) {
        let mut disk = disk(true, 8);
        disk.bytes[at] = value;
        let entries = disk.table().unwrap().entries;
        prop_assert_eq!(entries, self::disk(true, 8).table().unwrap().entries);
    }
}

#[test]
fn a_table_that_is_there_has_no_steps() {
    for room in [true, false] {
        let table = disk(room, 128).table().unwrap();
        assert_eq!((table.steps(), table.damage()), (vec![], None));
    }
}

#[test]
fn the_entry_keeps_all_that_is_not_changed() {
    let disk = disk(true, 128);
    let mut table = disk.table().unwrap();
    table.relabel(2, Guid([9; 16]), "größer").unwrap();
    let after = disk.clone().run(&table).table().unwrap();
    let (old, new) = (disk.table().unwrap().entries, &after.entries);
    assert_eq!(new[128..144], old[128..144]);
    assert_eq!(new[144..160], [9; 16]);
    assert_eq!(new[160..184], old[160..184]);
    let name: Vec<u16> = new[184..256]
        .chunks(2)
        .map(|u| u16::from_le_bytes([u[0], u[1]]))
        .collect();
    assert_eq!(
        String::from_utf16(&name).unwrap().trim_end_matches('\0'),
        "größer"
    );
    assert_eq!(new[..128], old[..128]);
    assert_eq!(new[256..], old[256..]);
    assert_eq!(u64_at(&after.header, 48), BLOCKS - 34);
}

#[test]
fn what_cannot_be_relabelled_is_named() {
    let mut table = disk(true, 8).table().unwrap();
    let mut say =
        |number, guid: u8, name: &str| table.relabel(number, Guid([guid; 16]), name).unwrap_err();
    assert!(say(7, 9, "x").contains("no partition 7"));
    assert!(say(300, 9, "x").contains("no partition 300"));
    assert!(say(2, 3, "x").contains("partition 3 has the GUID 03030303-"));
    assert!(say(2, 9, &"x".repeat(37)).contains("36 characters"));
    assert_eq!(table.relabel(2, Guid([2; 16]), &"x".repeat(36)), Ok(()));
}

#[test]
fn the_last_partition_grows_to_a_border() {
    let mut disk = disk(true, 8);
    assert_eq!(disk.table().unwrap().grow_last(VAR), Ok(false));
    // One block too few for another MiB, and the backup behind it.
    let grown = |disk: &Disk| {
        let mut table = disk.table().unwrap();
        let worth = table.grow_last(VAR).unwrap();
        (worth, table.extent(VAR).unwrap().end)
    };
    disk.bytes
        .resize(usize::try_from((7 * 2048 + 32) * BLOCK).unwrap(), 0);
    assert_eq!(grown(&disk), (false, 6 * 2048));
    disk.bytes
        .resize(usize::try_from((7 * 2048 + 33) * BLOCK).unwrap(), 0);
    assert_eq!(grown(&disk), (true, 7 * 2048));
    let error = disk.table().unwrap().grow_last(5).unwrap_err();
    assert!(error.contains("6 lies behind it"), "{error}");
    let error = disk.table().unwrap().grow_last(8).unwrap_err();
    assert!(error.contains("no partition 8"), "{error}");
}

#[test]
fn a_smaller_disk_and_a_foreign_layout_are_refused() {
    let mut small = disk(true, 8);
    small.bytes.truncate(small.bytes.len() - SECTOR);
    let error = small.table().unwrap_err().to_string();
    assert!(error.contains("larger disk"), "{error}");

    let mut outside = disk(true, 8);
    let mut table = outside.table().unwrap();
    put(table.entry_mut(VAR).unwrap(), 40, &BLOCKS.to_le_bytes());
    outside = outside.run(&table);
    let error = outside.table().unwrap_err().to_string();
    assert!(error.contains("partition 6 has the blocks"), "{error}");

    let mut neither = disk(true, 8);
    neither.bytes[SECTOR] ^= 1;
    let last = neither.bytes.len() - SECTOR;
    neither.bytes[last] ^= 1;
    assert!(neither.table().is_err());
    assert!(Table::read(&neither, 10, 512).is_err());
    assert!(Table::read(&neither, BLOCKS, 500).is_err());
}

#[test]
fn another_block_size_is_laid_out_alike() {
    // The same header serves; the places are counted in blocks of 4096 bytes.
    let mut disk = disk(true, 8);
    disk.bytes = vec![0; 4 << 20];
    let mut header = [0; HEADER_LEN];
    put(&mut header, 0, b"EFI PART\0\0\x01\0\x5c");
    put(&mut header, 40, &6u64.to_le_bytes());
    put(&mut header, 80, &128u32.to_le_bytes());
    put(&mut header, 84, &128u32.to_le_bytes());
    let mut entries = vec![0; 128 * ENTRY_LEN];
    put(&mut entries, 0, &root().0);
    put(&mut entries, 32, &256u64.to_le_bytes());
    put(&mut entries, 40, &511u64.to_le_bytes());
    let mut table = Table {
        block: 4096,
        blocks: 1024,
        mbr: vec![0; MBR_LEN],
        primary: None,
        backup: None,
        header,
        entries,
    };
    disk = disk.run(&table);
    table = Table::read(&disk, 1024, 4096).unwrap();
    assert_eq!(table.grow_last(1), Ok(true));
    assert_eq!(table.extent(1), Some(256..768));
    disk = disk.run(&table);
    assert_eq!(u64_at(&disk.bytes[4096..], 48), 1024 - 6);
    assert_eq!(
        gpt::stored_at(&disk, 1023, 4096).unwrap().entries,
        table.entries
    );
}
