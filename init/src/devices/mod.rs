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
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// sysfs nests devices a dozen levels deep; this bounds a walk through a strange one.
const DEPTH_MAX: u32 = 32;

/// Loads the drivers of all devices that are there.
pub fn coldplug(modules: &Modules, failed: &mut dyn FnMut(&str, io::Error)) {
    for modalias in modaliases() {
        modules.load_for(&modalias, failed);
    }
}

/// Whether this name is one by which a network card may ask for its driver: a virtual machine's own
/// device, or a PCI device of the base class 2 (PCI Code and ID Assignment specification).
#[must_use]
pub fn may_be_network(modalias: &str) -> bool {
    modalias.starts_with("virtio:") || modalias.starts_with("pci:") && modalias.contains("bc02")
}

/// By which names the devices that are there ask for their drivers, each once.
#[must_use]
pub fn modaliases() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/devices"), DEPTH_MAX, &mut found);
    found
}

fn walk(directory: &Path, depth: u32, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_directory && depth > 0 {
            walk(&entry.path(), depth - 1, found);
        } else if entry.file_name() == "modalias" {
            // An unreadable one belongs to a device that is just going away.
            let modalias = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if !modalias.trim().is_empty() {
                found.insert(modalias.trim().to_owned());
            }
        }
    }
}
