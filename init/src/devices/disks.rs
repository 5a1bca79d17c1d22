//! Partitions by their GUIDs, from sysfs and the tables on the disks.

use crate::devices::gpt::{self, Guid};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A partition that the kernel knows and that stands in its disk's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name in `/dev` and sysfs, as `vda2`.
    pub name: String,
    /// Its disk's name, as `vda`.
    pub disk: String,
    /// Its device number as `major:minor`.
    pub number: String,
    /// Its size in bytes.
    pub size: u64,
    /// What it is for.
    pub type_guid: Guid,
    /// Its own GUID.
    pub guid: Guid,
}

impl Partition {
    /// Its device node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// All partitions now. A disk whose table cannot be read has none here; the reason is told.
pub fn partitions(unreadable: &mut dyn FnMut(&str, &io::Error)) -> Vec<Partition> {
    let Ok(entries) = std::fs::read_dir("/sys/class/block") else {
        return Vec::new();
    };
    let mut names: Vec<PathBuf> = entries
        .flatten()
        .filter_map(|e| std::fs::canonicalize(e.path()).ok())
        .collect();
    names.sort();
    let mut found = Vec::new();
    for disk in names.iter().filter(|path| !path.join("partition").exists()) {
        let inside: Vec<&PathBuf> = names
            .iter()
            .filter(|path| path.parent() == Some(disk.as_path()) && path.join("partition").exists())
            .collect();
        if inside.is_empty() {
            continue;
        }
        match table(disk) {
            Ok(entries) => found.extend(
                inside
                    .into_iter()
                    .filter_map(|path| partition(path, disk, &entries)),
            ),
            Err(e) => unreadable(&base(disk), &e),
        }
    }
    found
}

fn table(disk: &Path) -> io::Result<Vec<gpt::Entry>> {
    let block = number(&disk.join("queue/logical_block_size")).unwrap_or(512);
    let sectors = number(&disk.join("size")).unwrap_or(0);
    let device = File::open(Path::new("/dev").join(base(disk)))?;
    // sysfs counts in sectors of 512 whatever the block size is.
    gpt::read(&device, sectors.saturating_mul(512) / block.max(1), block)
}

fn partition(path: &Path, disk: &Path, entries: &[gpt::Entry]) -> Option<Partition> {
    let wanted = number(&path.join("partition"))?;
    let entry = entries.iter().find(|e| u64::from(e.number) == wanted)?;
    Some(Partition {
        name: base(path),
        disk: base(disk),
        number: std::fs::read_to_string(path.join("dev"))
            .ok()?
            .trim()
            .to_owned(),
        size: number(&path.join("size"))?.checked_mul(512)?,
        type_guid: entry.type_guid,
        guid: entry.guid,
    })
}

/// The number in a file of sysfs.
#[must_use]
pub fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn base(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}
