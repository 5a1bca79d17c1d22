use super::super::disk::tests::Memory;
use super::super::names::tests::encode;
use super::*;

const SECTOR: usize = 512;
const CLUSTERS: usize = 65600;
/// 32 reserved sectors, then two FATs.
const FAT: usize = 32 * SECTOR;
const FAT_SECTORS: usize = 513;
const DATA: usize = FAT + 2 * FAT_SECTORS * SECTOR;

/// A volume: `EFI/Linux/a.efi` of 1200 bytes in the clusters 5, 6 and 9, `b.efi` of 100 in 7.
struct Sample(Memory);

impl Sample {
    fn new() -> Self {
        let mut bytes = vec![0; DATA + CLUSTERS * SECTOR];
        let total = u32::try_from(bytes.len() / SECTOR).unwrap();
        for (at, value) in [(11, 512_u16), (14, 32)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        (bytes[13], bytes[16]) = (1, 2);
        let size = u32::try_from(FAT_SECTORS).unwrap();
        for (at, value) in [(32, total), (36, size), (44, 2)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let mut sample = Self(Memory(bytes));
        for (cluster, next) in [
            (0, 0x0fff_fff8),
            (1, MASK),
            (2, MASK),
            (3, MASK),
            (4, MASK),
            (5, 6),
            (6, 9),
            (7, MASK),
            (9, MASK),
        ] {
            sample.link(cluster, next);
        }
        sample.write(2, &encode("EFI", b"EFI        ", 3, 0, true));
        sample.write(3, &encode("Linux", b"LINUX      ", 4, 0, true));
        let mut folder = encode("a.efi", b"A       EFI", 5, 1200, false);
        folder.extend(encode("b.efi", b"B       EFI", 7, 100, false));
        sample.write(4, &folder);
        for (cluster, letter) in [(5, b'1'), (6, b'2'), (9, b'3'), (7, b'b')] {
            sample.write(cluster, &[letter; SECTOR]);
        }
        sample
    }

    /// Sets an entry of both FATs.
    fn link(&mut self, cluster: usize, next: u32) {
        for fat in [FAT, FAT + FAT_SECTORS * SECTOR] {
            let at = fat + cluster * 4;
            self.0.0[at..at + 4].copy_from_slice(&next.to_le_bytes());
        }
    }

    fn write(&mut self, cluster: usize, bytes: &[u8]) {
        let at = DATA + (cluster - 2) * SECTOR;
        self.0.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn part(&self) -> Part<'_> {
        Part::new(&self.0, &(0..self.0.0.len() as u64)).unwrap()
    }

    fn open(&self) -> Volume<'_> {
        Volume::open(self.part()).unwrap()
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let volume = self.open();
        volume.read(volume.find(path).context("no such file")?)
    }
}

#[test]
fn files_are_read_through_their_chains() {
    let sample = Sample::new();
    let volume = sample.open();
    assert_eq!((&volume.faults, &volume.notes), (&vec![], &vec![]));
    assert_eq!((volume.crossed(), volume.lost()), (vec![], 0));
    let names: Vec<_> = volume.files("efi/linux").map(|(name, _)| name).collect();
    assert_eq!(names, ["a.efi", "b.efi"]);
    let bytes = sample.read("efi/LINUX/a.efi").unwrap();
    assert_eq!((bytes.len(), bytes[1023], bytes[1024]), (1200, b'2', b'3'));
}

#[test]
fn broken_chains_are_told_when_the_file_is_read() {
    for (cluster, next, why) in [
        (6, 5, "circle"),
        (6, 0, "free cluster 6"),
        (6, 0x0fff_fff7, "no cluster"),
        (6, 1, "no cluster"),
        (6, MASK, "2 clusters instead of 3"),
    ] {
        let mut sample = Sample::new();
        sample.link(cluster, next);
        let error = sample.read("EFI/Linux/a.efi").unwrap_err().to_string();
        assert!(error.contains(why), "{next}: {error}");
        assert_eq!(sample.read("EFI/Linux/b.efi").unwrap(), [b'b'; 100]);
    }
}

#[test]
fn a_folder_in_a_circle_is_a_fault() {
    let mut sample = Sample::new();
    sample.link(4, 4);
    let volume = sample.open();
    assert!(volume.faults[0].contains("EFI/Linux: its chain goes in a circle"));
    let mut sample = Sample::new();
    sample.write(4, &encode("Linux", b"LINUX      ", 4, 0, true));
    let error = Volume::open(sample.part()).unwrap_err().to_string();
    assert!(error.contains("within themselves"), "{error}");
}

#[test]
fn a_cluster_of_two_files_is_told_and_a_file_of_two_names_apart() {
    let mut sample = Sample::new();
    sample.link(7, 9);
    let expected = [("EFI/Linux/a.efi", "EFI/Linux/b.efi")];
    assert_eq!(sample.open().crossed(), expected);
    let mut sample = Sample::new();
    let mut folder = encode("a.efi", b"A       EFI", 5, 1200, false);
    folder.extend(encode("c.efi", b"C       EFI", 5, 1200, false));
    sample.write(4, &folder);
    let volume = sample.open();
    assert!(volume.crossed().is_empty());
    assert_eq!(volume.shared(), [("EFI/Linux/a.efi", "EFI/Linux/c.efi")]);
    // What b.efi had is in no file now.
    assert_eq!(volume.lost(), 1);
}

#[test]
fn the_same_name_twice_is_a_fault() {
    let mut sample = Sample::new();
    let mut folder = encode("a.efi", b"A       EFI", 5, 1200, false);
    folder.extend(encode("A.EFI", b"B       EFI", 7, 100, false));
    sample.write(4, &folder);
    assert!(sample.open().faults[0].ends_with("A.EFI twice"));
}

#[test]
fn what_a_check_would_mend_is_noted() {
    let mut sample = Sample::new();
    sample.0.0[FAT + FAT_SECTORS * SECTOR + 4000] = 1;
    sample.0.0[65] = 1;
    let notes = sample.open().notes;
    assert_eq!(
        notes,
        [
            "the two FATs of the ESP differ",
            "the ESP was not unmounted"
        ]
    );
}

#[test]
fn a_bad_boot_sector_is_no_volume() {
    for (at, value) in [
        (510, 0),
        (11, 1),
        (13, 3),
        (16, 3),
        (37, 1),
        (33, 0),
        (22, 1),
    ] {
        let mut sample = Sample::new();
        sample.0.0[at] = value;
        assert!(Volume::open(sample.part()).is_err(), "{at}");
    }
    let small = Memory(vec![0; 100]);
    assert!(Volume::open(Part::new(&small, &(0..100)).unwrap()).is_err());
}
