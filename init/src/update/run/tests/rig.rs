//! A machine that is made of files: a disk with a table, two partitions, an ESP, firmware variables; and versions for it.

use super::super::*;
use crate::devices::disks::Partition;
use crate::devices::gpt::{self, Guid};
use crate::slots::{Esp, Layout, Slot, layout};
use crate::state::StateDir;
use crate::update::fetch::tests::Shelf;
use crate::update::hash::Digest;
use crate::update::install::{Disk, Place};
use crate::update::keys::tests::pair;
use crate::update::verity::tests::tree;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;

pub(super) const BLOCKS: u64 = 256;
pub(super) const RUNNING: [u8; 32] = hash(0x11, 0x12);
pub(super) const OLD: [u8; 32] = hash(0x21, 0x22);
pub(super) const SLOT_SIZE: usize = 1 << 20;
pub(super) const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
pub(super) const TYPES: [&str; 5] = [
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
];

/// A roothash of two different halves.
pub(super) const fn hash(data: u8, tree: u8) -> [u8; 32] {
    let mut hash = [data; 32];
    let mut at = 16;
    while at < 32 {
        hash[at] = tree;
        at += 1;
    }
    hash
}

/// The machine's files, in a folder of their own that goes with it.
pub(super) struct Rig(pub(super) PathBuf);

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Rig {
    /// Version 1 runs and is good; the other slot has version 0.
    pub(super) fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("init-update-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let rig = Self(folder);
        fs::create_dir_all(rig.linux()).unwrap();
        fs::create_dir_all(rig.path("efivars")).unwrap();
        fs::create_dir_all(rig.path("keys")).unwrap();
        fs::create_dir(rig.path("var")).unwrap();
        fs::write(rig.path("disk"), disk()).unwrap();
        for slot in ["root", "verity"] {
            fs::write(rig.path(slot), vec![0xee; SLOT_SIZE]).unwrap();
        }
        fs::write(rig.path("keys/one.pem"), pair(1).1).unwrap();
        rig.entry("astromesh-os_1.efi", &uki("1", RUNNING));
        rig.entry("astromesh-os_0.efi", &uki("0", OLD));
        rig.variable("StubImageIdentifier", "\\EFI\\Linux\\astromesh-os_1.efi");
        rig
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The folder of the record.
    pub(super) fn var(&self) -> StateDir {
        let owner = rustix::process::geteuid().as_raw();
        StateDir::open_below(&self.0, "var", owner).unwrap()
    }

    pub(super) fn linux(&self) -> PathBuf {
        self.path("esp/EFI/Linux")
    }

    pub(super) fn entry(&self, name: &str, bytes: &[u8]) {
        fs::write(self.linux().join(name), bytes).unwrap();
    }

    pub(super) fn variable(&self, name: &str, value: &str) {
        let mut bytes = vec![7, 0, 0, 0];
        bytes.extend(value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        fs::write(self.path("efivars").join(format!("{name}-{VENDOR}")), bytes).unwrap();
    }

    fn guids(&self) -> Vec<Guid> {
        let disk = File::open(self.path("disk")).unwrap();
        let entries = gpt::read(&disk, BLOCKS, 512).unwrap();
        entries.into_iter().map(|entry| entry.guid).collect()
    }

    pub(super) fn machine(&self) -> Machine {
        let partitions: Vec<Partition> = (1..)
            .zip(self.guids())
            .zip(TYPES)
            .map(|((number, guid), kind)| Partition {
                name: format!("vda{number}"),
                disk: "vda".into(),
                number: format!("254:{number}"),
                size: SLOT_SIZE as u64,
                type_guid: Guid::parse(kind).unwrap(),
                guid,
            })
            .collect();
        let slot = |letter, at: usize| Slot {
            letter,
            root: partitions[at].clone(),
            verity: partitions[at + 1].clone(),
        };
        Machine {
            running: Uki {
                image: "astromesh-os".into(),
                version: "1".into(),
                roothash: RUNNING,
            },
            layout: Layout {
                disk: "vda".into(),
                esp: partitions[0].clone(),
                running: slot('a', 1),
                other: slot('b', 3),
            },
            disk: Disk {
                path: self.path("disk"),
                blocks: BLOCKS,
                block: 512,
            },
            root: Place {
                path: self.path("root"),
                number: 4,
            },
            verity: Place {
                path: self.path("verity"),
                number: 5,
            },
            esp: Esp::at(&self.path("esp"), "astromesh-os"),
            efivars: self.path("efivars"),
            state: self.var(),
            marks: crate::slots::marks::Marks::new(&self.0),
        }
    }

    pub(super) fn update(
        &self,
        shelf: &mut Shelf,
        before: &mut dyn FnMut(&Step) -> Result<(), End>,
    ) -> (Result<(), End>, Heard) {
        let mut heard = Heard::default();
        let origin = Origin {
            source: shelf,
            manifest: "update.json",
            keys: &self.path("keys"),
            trusted: &mut || (),
        };
        let machine = || Ok(self.machine());
        let result = update(origin, machine, &mut |_| (), &mut heard, before);
        (result, heard)
    }

    pub(super) fn install(&self, shelf: &mut Shelf) -> (Result<(), End>, Heard) {
        self.update(shelf, &mut |_| Ok(()))
    }

    /// Everything that lasts: all files and what is in them.
    pub(super) fn state(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, all);
                } else {
                    all.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.0, &mut all);
        all
    }

    /// What must hold at any moment: the running version boots, and what else would boot is whole.
    pub(super) fn assert_safe(&self, bundle: &Bundle, when: &str) {
        let found = self.machine().esp.list().unwrap().found;
        let running = found.iter().find(|f| f.name.file() == "astromesh-os_1.efi");
        assert_eq!(
            running.map(|f| f.uki.clone()),
            Some(Ok(self.machine().running)),
            "{when}"
        );
        let guids = self.guids();
        assert_eq!((guids[1], guids[2]), layout::halves(&RUNNING), "{when}");
        let one_shot = efivar::read(&self.path("efivars")).one_shot;
        let whole = fs::read(self.path("root"))
            .unwrap()
            .starts_with(&bundle.root)
            && fs::read(self.path("verity"))
                .unwrap()
                .starts_with(&bundle.verity)
            && (guids[3], guids[4]) == layout::halves(&bundle.roothash);
        let untouched = fs::read(self.path("root")).unwrap() == vec![0xee; SLOT_SIZE];
        for other in found
            .iter()
            .filter(|f| f.name.file() != "astromesh-os_1.efi")
        {
            match &other.uki {
                Ok(uki) if uki.version == "0" => assert!(untouched, "{when}: a stale entry"),
                Ok(uki) if uki.version == "2" => assert!(whole, "{when}: published too early"),
                wrong => panic!("{when}: {wrong:?}"),
            }
        }
        if let Some(id) = one_shot {
            assert!(
                found.iter().any(|f| f.name.id() == id),
                "{when}: armed too early"
            );
        }
    }
}

#[derive(Default)]
pub(super) struct Heard(pub(super) Vec<(String, Vec<(String, String)>)>);

impl Outlet for Heard {
    fn event(&mut self, name: &str, fields: &[(&str, String)]) {
        let fields = fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
        self.0.push((name.to_owned(), fields.collect()));
    }
}

impl Heard {
    pub(super) fn last(&self) -> (&str, BTreeMap<&str, &str>) {
        let (name, fields) = self.0.last().unwrap();
        let fields = fields.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        (name, fields.collect())
    }
}

/// A version as it is published.
#[derive(Clone)]
pub(super) struct Bundle {
    pub(super) root: Vec<u8>,
    pub(super) verity: Vec<u8>,
    pub(super) uki: Vec<u8>,
    pub(super) roothash: [u8; 32],
    pub(super) manifest: serde_json::Value,
}

impl Bundle {
    pub(super) fn new(version: &str) -> Self {
        let root: Vec<u8> = (0..512 * 1024usize)
            .map(|i| (i / 300).to_le_bytes()[0])
            .collect();
        let (verity, roothash) = tree(&root, 4096, version.as_bytes());
        let mut bundle = Self {
            uki: uki(version, roothash),
            manifest: json!({
                "format": 1, "image": "astromesh-os", "version": version, "architecture": ARCHITECTURE,
                "roothash": Digest(roothash).to_string(),
            }),
            root,
            verity,
            roothash,
        };
        bundle.describe();
        bundle
    }

    /// Has the manifest say what the files are.
    pub(super) fn describe(&mut self) {
        let part = |name: &str, bytes: &[u8]| json!({"name": name, "size": bytes.len(), "sha256": Digest::of(bytes).to_string()});
        self.manifest["root"] = part("root.raw", &self.root);
        self.manifest["verity"] = part("verity.raw", &self.verity);
        self.manifest["uki"] = part("os.efi", &self.uki);
    }

    pub(super) fn shelf(&self) -> Shelf {
        let manifest = self.manifest.to_string().into_bytes();
        let signature = pair(1).0.sign(&manifest);
        Shelf::of(&[
            ("update.json", &manifest),
            ("update.json.sig", signature.as_ref()),
            ("root.raw", &self.root),
            ("verity.raw", &self.verity),
            ("os.efi", &self.uki),
        ])
    }
}

/// A PE program with the sections that count.
pub(super) fn uki(version: &str, roothash: [u8; 32]) -> Vec<u8> {
    const TABLE: usize = 0x80 + 24 + 240;
    let release = format!("IMAGE_ID=astromesh-os\nIMAGE_VERSION={version}\n");
    let cmdline = format!("roothash={} quiet", Digest(roothash));
    let sections = [
        (".linux", vec![0xaa; 700]),
        (".osrel", release.into_bytes()),
        (".cmdline", cmdline.into_bytes()),
    ];
    let mut file = vec![0; 1024];
    let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &[0x80]);
    put(&mut file, 0x80, b"PE\0\0\x64\x86\x03");
    put(&mut file, 0x80 + 20, &[240]);
    put(&mut file, 0x80 + 24, &[0x0b, 0x02]);
    put(&mut file, 0x80 + 24 + 108, &[16]);
    for (number, (name, bytes)) in sections.iter().enumerate() {
        let number_of = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
        let (header, start) = (TABLE + 40 * number, file.len());
        let padded = bytes.len().next_multiple_of(512);
        put(&mut file, header, name.as_bytes());
        put(&mut file, header + 8, &number_of(bytes.len()));
        put(&mut file, header + 16, &number_of(padded));
        put(&mut file, header + 20, &number_of(start));
        file.extend(bytes);
        file.resize(start + padded, 0);
    }
    file
}

/// A disk with a table of five partitions of ten blocks each, and its backup.
pub(super) fn disk() -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
            })
        })
    };
    let mut entries = vec![0u8; 128 * 128];
    let (running, old) = (layout::halves(&RUNNING), layout::halves(&OLD));
    let guids = [Guid([9; 16]), running.0, running.1, old.0, old.1];
    for (number, (entry, (kind, guid))) in entries
        .chunks_mut(128)
        .zip(TYPES.iter().zip(guids))
        .enumerate()
    {
        let first = 50 + 10 * number as u64;
        entry[..16].copy_from_slice(&Guid::parse(kind).unwrap().0);
        entry[16..32].copy_from_slice(&guid.0);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&(first + 9).to_le_bytes());
    }
    let mut disk = vec![0u8; usize::try_from(BLOCKS * 512).unwrap()];
    for (own, other, at) in [(1, BLOCKS - 1, 2), (BLOCKS - 1, 1, BLOCKS - 33)] {
        let mut header = vec![0u8; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&[0, 0, 1, 0]);
        header[12] = 92;
        for (place, value) in [
            (24, own),
            (32, other),
            (40, 40),
            (48, BLOCKS - 34),
            (72, at),
        ] {
            header[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[80] = 128;
        header[84] = 128;
        header[88..92].copy_from_slice(&crc(&entries).to_le_bytes());
        let sum = crc(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        let at = |block: u64| usize::try_from(block * 512).unwrap();
        let (own, start) = (at(own), if own == 1 { at(2) } else { at(BLOCKS - 33) });
        disk[own..own + 92].copy_from_slice(&header);
        disk[start..start + entries.len()].copy_from_slice(&entries);
    }
    disk
}
