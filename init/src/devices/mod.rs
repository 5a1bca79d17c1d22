//! Devices: drivers for what the kernel found, and partitions among what it made.
//!
//! A device asks for its driver by a modalias. [`coldplug`] goes over those that were there before
//! us; [`uevent`] brings the later ones. The initramfs stage does both until the root's partitions
//! are there; on the running system the role `devices` does it for good, as a child of PID 1, since
//! probing hardware can take as long as it likes.

pub mod disks;
pub mod dm;
pub mod gpt;
pub mod modules;
pub mod uevent;

use modules::Modules;
use std::io;
use std::path::Path;

/// sysfs nests devices a dozen levels deep; this bounds a walk through a strange one.
const DEPTH_MAX: u32 = 32;

/// Loads the drivers of all devices that are there. Returns how many modules were new.
pub fn coldplug(modules: &Modules, failed: &mut dyn FnMut(&str, io::Error)) -> usize {
    walk(Path::new("/sys/devices"), modules, DEPTH_MAX, failed)
}

fn walk(
    directory: &Path,
    modules: &Modules,
    depth: u32,
    failed: &mut dyn FnMut(&str, io::Error),
) -> usize {
    let mut loaded = 0;
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    for entry in entries.flatten() {
        let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_directory && depth > 0 {
            loaded += walk(&entry.path(), modules, depth - 1, failed);
        } else if entry.file_name() == "modalias" {
            // An unreadable one belongs to a device that is just going away.
            let modalias = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if !modalias.trim().is_empty() {
                loaded += modules.load_for(modalias.trim(), failed);
            }
        }
    }
    loaded
}
