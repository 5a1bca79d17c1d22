//! Looking into a disk and damaging it from outside, on a small disk made here.

use std::fs;
use std::path::{Path, PathBuf};

use qemu_harness::damage::{flip_root, flip_verity, truncate_installed_uki, wipe_installed_uki};
use qemu_harness::esp::Esp;
use qemu_harness::paths::Paths;
use qemu_harness::tools::{Tools, run};
use qemu_harness::{assemble, gpt, tree};

const ROOTHASH: &str = "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f";

/// An ESP with one UKI, a root and its hash tree; nothing in the latter two.
fn disk(tools: &Tools, paths: &Paths, name: &str) -> PathBuf {
    let folder = paths
        .out
        .join(format!("test-esp-{name}-{}", std::process::id()));
    tree::remove(&folder).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let disk = folder.join("disk.raw");
    fs::File::create(&disk).unwrap().set_len(48 << 20).unwrap();
    let shown = disk.display().to_string();
    let (data, hash) = assemble::halves(ROOTHASH);
    let table = folder.join("table");
    let (esp, root, verity) = (qemu_harness::esp::ESP, gpt::ROOT, gpt::ROOT_VERITY);
    fs::write(
        &table,
        format!(
            "label: gpt\nsize=40M, type={esp}\nsize=1M, type={root}, uuid={data}\n\
             size=1M, type={verity}, uuid={hash}\n"
        ),
    )
    .unwrap();
    let mut sfdisk = tools.command("sfdisk");
    sfdisk.arg("--quiet").arg(&shown);
    let output = sfdisk
        .stdin(fs::File::open(&table).unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let start = gpt::partitions(tools, &disk).unwrap()[0].start;
    let sectors = (start / 512).to_string();
    run(tools
        .command("mkfs.fat")
        .args(["-F", "32", "--offset", &sectors, &shown, "40960"]))
    .unwrap();
    let image = format!("{shown}@@{start}");
    run(tools
        .command("mmd")
        .args(["-i", &image, "::/EFI", "::/EFI/Linux"]))
    .unwrap();
    disk
}

fn prepare(name: &str) -> (Tools, PathBuf) {
    let paths = Paths::discover().unwrap();
    let tools = Tools::prepare(&paths).unwrap();
    let disk = disk(&tools, &paths, name);
    (tools, disk)
}

fn remove(disk: &Path) {
    tree::remove(disk.parent().unwrap()).unwrap();
}

#[test]
fn ukis_are_written_read_renamed_and_removed() {
    let (tools, disk) = prepare("files");
    let esp = Esp::of(&tools, &disk).unwrap();
    assert_eq!(esp.entries().unwrap(), [""; 0]);
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    esp.write("astromesh-os_2+3-0.efi", &content).unwrap();
    esp.write("astromesh-os_1.efi", b"one").unwrap();
    assert_eq!(
        esp.entries().unwrap(),
        ["astromesh-os_1.efi", "astromesh-os_2+3-0.efi"]
    );
    assert_eq!(esp.entry_of("2").unwrap(), "astromesh-os_2+3-0.efi");
    assert!(esp.read("astromesh-os_2+3-0.efi").unwrap() == content);
    esp.write("astromesh-os_2+3-0.efi", b"two").unwrap();
    assert_eq!(esp.read("astromesh-os_2+3-0.efi").unwrap(), b"two");
    esp.rename("astromesh-os_2+3-0.efi", "astromesh-os_2+0-3.efi")
        .unwrap();
    assert_eq!(esp.entry_of("2").unwrap(), "astromesh-os_2+0-3.efi");
    assert!(esp.read("astromesh-os_2+3-0.efi").is_err());
    esp.remove("astromesh-os_1.efi").unwrap();
    assert_eq!(esp.entries().unwrap(), ["astromesh-os_2+0-3.efi"]);
    assert!(esp.entry_of("1").is_err());
    remove(&disk);
}

#[test]
fn what_is_installed_can_be_damaged_where_it_lies() {
    let (tools, disk) = prepare("damage");
    let esp = Esp::of(&tools, &disk).unwrap();
    esp.write("astromesh-os_2.efi", &[7; 5000]).unwrap();
    wipe_installed_uki(&tools, &disk, "2", 10..20).unwrap();
    let bytes = esp.read("astromesh-os_2.efi").unwrap();
    assert_eq!((bytes[9], bytes[10], bytes[19], bytes[20]), (7, 0, 0, 7));
    truncate_installed_uki(&tools, &disk, "2", 1234).unwrap();
    assert_eq!(esp.read("astromesh-os_2.efi").unwrap().len(), 1234);
    assert!(truncate_installed_uki(&tools, &disk, "2", 1234).is_err());
    assert!(wipe_installed_uki(&tools, &disk, "3", 0..1).is_err());

    flip_root(&tools, &disk, ROOTHASH, 4097).unwrap();
    flip_verity(&tools, &disk, ROOTHASH, 5).unwrap();
    let partitions = gpt::partitions(&tools, &disk).unwrap();
    let bytes = fs::read(&disk).unwrap();
    for (partition, at) in [(&partitions[1], 4097), (&partitions[2], 5)] {
        let start = usize::try_from(partition.start).unwrap();
        let end = start + usize::try_from(partition.size).unwrap();
        let set: Vec<usize> = (start..end).filter(|i| bytes[*i] != 0).collect();
        assert_eq!(set, [start + at]);
    }
    assert!(flip_root(&tools, &disk, ROOTHASH, 1 << 20).is_err());
    assert!(flip_root(&tools, &disk, &"0".repeat(64), 0).is_err());
    remove(&disk);
}
