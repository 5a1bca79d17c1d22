//! The machine that this runs on, as an update sees it.

use super::install::{Disk, Machine, Place};
use crate::cmdline::Cmdline;
use crate::devices::disks::{self, Partition};
use crate::slots::marks::{self, Marks};
use crate::slots::{Esp, Uki, efivar, layout, uki};
use crate::state::StateDir;
use std::path::{Path, PathBuf};

/// What runs, by the verified root (os-release(5)).
const OS_RELEASE: &str = "/usr/lib/os-release";

/// Finds it all; nothing is changed.
///
/// # Errors
/// What is missing, and where it was looked for.
pub fn find() -> Result<Machine, String> {
    let running = running()?;
    let efivars = PathBuf::from(efivar::DIRECTORY);
    let loader = efivar::read(&efivars).device;
    let mut unreadable = Vec::new();
    let partitions = disks::partitions(&mut |disk, e| unreadable.push(format!("{disk}: {e}")));
    let layout = layout::find(&partitions, &running.roothash, loader).map_err(|what| {
        let also: String = unreadable.iter().map(|e| format!("; {e}")).collect();
        format!("{what}{also}")
    })?;
    let esp = Esp::mount(&layout.esp.path(), &running.image).map_err(|e| e.to_string())?;
    Ok(Machine {
        disk: disk(&layout.disk)?,
        root: place(&layout.other.root)?,
        verity: place(&layout.other.verity)?,
        running,
        layout,
        esp,
        efivars,
        state: StateDir::open().map_err(|e| e.to_string())?,
        marks: Marks::new(Path::new(marks::DIRECTORY)),
    })
}

/// The running version: its names from the verified root, its roothash from the kernel's command line, which
/// that root was verified against.
fn running() -> Result<Uki, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
    let line = Cmdline::parse(&read("/proc/cmdline")?);
    let release = read(OS_RELEASE)?;
    let field = |key: &str| {
        uki::os_release(&release, key)
            .filter(|value| uki::is_name(value))
            .ok_or_else(|| {
                format!("{OS_RELEASE}: no {key}=, so no version can be compared with it")
            })
    };
    Ok(Uki {
        image: field("IMAGE_ID")?,
        version: field("IMAGE_VERSION")?,
        roothash: line
            .roothash
            .ok_or("/proc/cmdline: no roothash=, so the root is not one of two slots")?,
    })
}

fn disk(name: &str) -> Result<Disk, String> {
    let sys = Path::new("/sys/class/block").join(name);
    let block = number(&sys.join("queue/logical_block_size"))?.max(1);
    // sysfs counts in sectors of 512 whatever the block size is.
    let blocks = number(&sys.join("size"))?.saturating_mul(512) / block;
    Ok(Disk {
        path: Path::new("/dev").join(name),
        blocks,
        block,
    })
}

fn place(partition: &Partition) -> Result<Place, String> {
    let path = Path::new("/sys/class/block").join(&partition.name);
    let number = number(&path.join("partition"))?;
    Ok(Place {
        path: partition.path(),
        number: u32::try_from(number).map_err(|e| format!("{}: {e}", path.display()))?,
    })
}

fn number(path: &Path) -> Result<u64, String> {
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    text.trim().parse().map_err(|e| wrong(&e))
}
