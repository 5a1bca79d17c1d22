//! An ESP in a folder: names, what a power cut leaves, and what must not be touched.

use super::*;
use crate::slots::uki::tests::uki;

struct Disk {
    root: PathBuf,
    esp: Esp,
}

impl Disk {
    fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        let root = std::env::temp_dir().join(format!("esp-{name}-{}", std::process::id()));
        std::fs::create_dir_all(root.join(FOLDER)).unwrap();
        let esp = Esp::at(&root, "os");
        for (file, bytes) in files {
            std::fs::write(esp.folder().join(file), bytes).unwrap();
        }
        Self { root, esp }
    }

    /// All that is there, whatever it is.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.esp.folder()).unwrap();
        let mut files: Vec<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files
    }

    fn inode(&self, file: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.esp.folder().join(file))
            .unwrap()
            .ino()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.root).unwrap();
    }
}

fn name(file: &str) -> EntryName {
    EntryName::parse(file).unwrap()
}

#[test]
fn entries_are_listed_with_what_they_say() {
    let (one, two) = (uki("1", &[1; 32]), uki("2", &[2; 32]));
    let disk = Disk::new(
        "list",
        &[
            ("os_2+0-0.efi", &two),
            ("os_1.efi", &one),
            ("os_3.efi", &two[..600]),
            ("os_4.efi.new", &one),
            ("readme.txt", b"x"),
        ],
    );
    std::fs::create_dir(disk.esp.folder().join("os_1.efi.extra.d")).unwrap();
    std::fs::create_dir(disk.esp.folder().join("folder.efi")).unwrap();
    let found = disk.esp.list().unwrap().found;
    let names: Vec<String> = found.iter().map(|f| f.name.file()).collect();
    assert_eq!(names, ["os_1.efi", "os_2+0-0.efi", "os_3.efi"]);
    assert_eq!(found[0].uki.as_ref().unwrap().version, "1");
    assert_eq!(found[1].uki.as_ref().unwrap().roothash, [2; 32]);
    assert_eq!(found[1].bytes, two.len() as u64);
    let why = found[2].uki.clone().unwrap_err();
    assert!(
        why.contains("EFI/Linux/os_3.efi: ") && why.contains("cut short"),
        "{why}"
    );
    assert!(disk.esp.free().unwrap() > 0);
}

#[test]
fn a_rename_is_done_once() {
    let disk = Disk::new("rename", &[("os_2+0-1.efi", b"two")]);
    let (from, to) = (name("os_2+0-1.efi"), name("os_2.efi"));
    for _ in 0..2 {
        disk.esp.rename(&from, &to).unwrap();
        assert_eq!(disk.files(), ["os_2.efi"]);
    }
    disk.esp.rename(&to, &to).unwrap();
    let error = disk.esp.rename(&from, &name("os_9.efi")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(
        error
            .to_string()
            .contains("EFI/Linux/os_2+0-1.efi: rename to os_9.efi")
    );
}

#[test]
fn a_rename_never_replaces_another_entry() {
    let disk = Disk::new("exists", &[("os_2+0-1.efi", b"two"), ("os_2.efi", b"six")]);
    let error = disk.esp.rename(&name("os_2+0-1.efi"), &name("os_2.efi"));
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.files(), ["os_2+0-1.efi", "os_2.efi"]);
}

#[test]
fn a_rename_that_was_cut_short_is_completed() {
    // Both names, which on FAT are for the same clusters.
    let disk = Disk::new("both", &[("os_2+0-1.efi", b"two"), ("os_2.efi", b"two")]);
    let before = disk.inode("os_2.efi");
    disk.esp
        .rename(&name("os_2+0-1.efi"), &name("os_2.efi"))
        .unwrap();
    assert_eq!(disk.files(), ["os_2.efi"]);
    assert_ne!(disk.inode("os_2.efi"), before, "it has clusters of its own");
    assert_eq!(
        std::fs::read(disk.esp.folder().join("os_2.efi")).unwrap(),
        b"two"
    );

    let disk = Disk::new("empty", &[("os_2+0-1.efi", b"two"), ("os_2.efi", b"")]);
    disk.esp
        .rename(&name("os_2+0-1.efi"), &name("os_2.efi"))
        .unwrap();
    assert_eq!(disk.files(), ["os_2.efi"]);
    assert_eq!(
        std::fs::read(disk.esp.folder().join("os_2.efi")).unwrap(),
        b"two"
    );
}

#[test]
fn a_removal_leaves_twins_whole() {
    let disk = Disk::new(
        "twins",
        &[
            ("os_1.efi", b"one"),
            ("os_2+0-1.efi", b"two"),
            ("os_2+0-0.efi", b"two"),
            ("os_2.efi", b"two"),
            // What an earlier copy has left: it is not written into.
            ("os_2.efi.0.twin", b"two"),
        ],
    );
    let inode = |file: &str| disk.inode(file);
    let before = ["os_1.efi", "os_2+0-0.efi", "os_2.efi"].map(inode);
    for _ in 0..2 {
        disk.esp.remove(&name("os_2+0-1.efi")).unwrap();
        assert_eq!(
            disk.files(),
            ["os_1.efi", "os_2+0-0.efi", "os_2.efi", "os_2.efi.0.twin"]
        );
    }
    let after = ["os_1.efi", "os_2+0-0.efi", "os_2.efi"].map(inode);
    assert_eq!(after[0], before[0]);
    assert!(after[1] != before[1] && after[2] != before[2]);
    disk.esp.sweep().unwrap();
    assert_eq!(disk.files(), ["os_1.efi", "os_2+0-0.efi", "os_2.efi"]);
    for file in ["os_2+0-0.efi", "os_2.efi"] {
        assert_eq!(std::fs::read(disk.esp.folder().join(file)).unwrap(), b"two");
    }
}

#[test]
fn what_was_on_its_way_is_swept_and_entries_are_not() {
    let disk = Disk::new(
        "sweep",
        &[
            ("os_2.efi", b"two"),
            ("os_2+0-0.efi.new", b"two"),
            ("x.txt", b"x"),
        ],
    );
    disk.esp.sweep().unwrap();
    assert_eq!(disk.files(), ["os_2.efi", "x.txt"]);
    assert_eq!(
        std::fs::read(disk.esp.folder().join("os_2.efi")).unwrap(),
        b"two"
    );
    disk.esp.flush().unwrap();
}

#[test]
fn a_finished_file_becomes_an_entry() {
    let disk = Disk::new(
        "place",
        &[("os_2+0-0.efi.new", b"two"), ("os_1.efi", b"one")],
    );
    let error = disk.esp.place("os_2+0-0.efi.new", &name("os_1.efi"));
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    disk.esp
        .place("os_2+0-0.efi.new", &name("os_2+0-0.efi"))
        .unwrap();
    assert_eq!(disk.files(), ["os_1.efi", "os_2+0-0.efi"]);
    let error = disk.esp.place("os_2+0-0.efi.new", &name("os_3.efi"));
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn an_entry_is_found_by_what_its_name_means() {
    let disk = Disk::new(
        "resolve",
        &[("os_1+3.efi", b"one"), ("os_2+03-1.efi", b"two")],
    );
    disk.esp
        .rename(&name("os_1+3-0.efi"), &name("os_1.efi"))
        .unwrap();
    disk.esp.remove(&name("os_2+3-1.efi")).unwrap();
    assert_eq!(disk.files(), ["os_1.efi"]);
}

#[test]
fn our_entries_are_found_whatever_else_is_in_the_folder() {
    let one = uki("1", &[1; 32]);
    let disk = Disk::new("many", &[("os_1.efi", &one), ("OS_2+0-1.efi", b"two")]);
    let file = |name: String| std::fs::write(disk.esp.folder().join(name), b"").unwrap();
    (0..200).for_each(|number| file(format!("{number}.txt")));
    let entries = disk.esp.list().unwrap();
    assert_eq!((entries.found.len(), entries.surplus()), (2, None));
    (0..200).for_each(|number| file(format!("{number}.new")));
    let entries = disk.esp.list().unwrap();
    assert_eq!((entries.found.len(), entries.surplus()), (2, None));
    (0..200)
        .for_each(|n| std::fs::remove_file(disk.esp.folder().join(format!("{n}.new"))).unwrap());
    // Of other systems, and with names that are sorted before and after ours.
    (0..100).for_each(|number| file(format!("a_{number}.efi")));
    (0..100).for_each(|number| file(format!("z_{number}.efi")));
    let entries = disk.esp.list().unwrap();
    let names: Vec<String> = entries
        .found
        .iter()
        .map(|found| found.name.file())
        .collect();
    for ours in ["os_1.efi", "OS_2+0-1.efi"] {
        assert!(names.iter().any(|name| name == ours), "{ours}: {names:?}");
    }
    assert_eq!((names.len(), entries.left_out), (128, 74));
    let why = entries.surplus().unwrap();
    assert!(
        why.contains("EFI/Linux") && why.contains("74") && why.contains("128"),
        "{why}"
    );
    disk.esp
        .rename(&name("OS_2+0-1.efi"), &name("OS_2.efi"))
        .unwrap();
    disk.esp.remove(&name("os_1.efi")).unwrap();
    assert!(disk.files().contains(&"OS_2.efi".to_owned()));
    assert!(!disk.files().contains(&"os_1.efi".to_owned()));
}

#[test]
fn a_directory_at_the_name_of_a_blessed_entry_gives_way() {
    let disk = Disk::new("blessed", &[("os_2+2-1.efi", &uki("2", &[2; 32]))]);
    let (from, to) = (name("os_2+2-1.efi"), name("os_2.efi"));
    std::fs::create_dir_all(disk.esp.folder().join("os_2.efi/full")).unwrap();
    let told = disk.esp.rename(&from, &to).unwrap().unwrap();
    assert!(
        told.contains("EFI/Linux/os_2.efi: a directory was there"),
        "{told}"
    );
    assert!(disk.esp.folder().join("os_2.efi").is_file());
    let aside = disk.esp.folder().join("os_2.efi.obstructed-1");
    assert!(aside.join("full").is_dir());
}

#[test]
fn a_folder_that_no_fat_could_hold_is_told() {
    let disk = Disk::new("endless", &[]);
    for number in 0..=65_536 {
        std::fs::write(disk.esp.folder().join(number.to_string()), b"").unwrap();
    }
    let error = disk.esp.list().unwrap_err().to_string();
    assert!(
        error.contains("EFI/Linux: more than 65536 files"),
        "{error}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let disk = Disk::new("missing", &[]);
    std::fs::remove_dir(disk.esp.folder()).unwrap();
    let error = disk.esp.list().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("EFI/Linux"));
    let error = Esp::mount(Path::new("/dev/no-such-disk"), "os")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("ESP /dev/no-such-disk: mount as vfat: "),
        "{error}"
    );
}
