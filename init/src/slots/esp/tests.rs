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
        let esp = Esp::at(&root);
        for (file, bytes) in files {
            std::fs::write(esp.folder().join(file), bytes).unwrap();
        }
        Self { root, esp }
    }

    fn files(&self) -> Vec<String> {
        self.esp.folder.files().unwrap()
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
    let found = disk.esp.list().unwrap();
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
fn too_many_files_are_told() {
    let disk = Disk::new("many", &[]);
    for number in 0..129 {
        std::fs::write(disk.esp.folder().join(format!("{number}.txt")), b"").unwrap();
    }
    let error = disk.esp.list().unwrap_err().to_string();
    assert!(error.contains("EFI/Linux: more than 128 files"), "{error}");
}

#[test]
fn what_is_missing_is_named() {
    let disk = Disk::new("missing", &[]);
    std::fs::remove_dir(disk.esp.folder()).unwrap();
    let error = disk.esp.list().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("EFI/Linux"));
    let error = Esp::mount(Path::new("/dev/no-such-disk"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("ESP /dev/no-such-disk: mount as vfat: "),
        "{error}"
    );
}
