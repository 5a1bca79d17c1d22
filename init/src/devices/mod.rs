//! Devices: drivers for what the kernel found, and partitions among what it made.
//!
//! A device asks for its driver by a modalias. [`coldplug`] goes over those that were there before
//! us; [`uevent`] brings the later ones. The initramfs stage does both until the root's partitions
//! are there; on the running system the role `devices` does it for good, as a child of PID 1, since
//! probing hardware can take as long as it likes.

pub mod disks;
pub mod dm;
pub mod gpt;
pub mod gpt_edit;
pub mod modules;
pub mod uevent;
pub mod watchdog;

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

/// The buses of virtual machines' own devices. They have few devices, so a look at them is quick,
/// where a walk over all devices is not.
const OWN_BUSES: [&str; 3] = ["virtio", "vmbus", "xen"];

/// By which names a virtual machine's own devices ask for their drivers.
#[must_use]
pub fn own_modaliases() -> BTreeSet<String> {
    OWN_BUSES.into_iter().flat_map(on_bus).collect()
}

/// By which names whatever may be a network card asks for its driver: a virtual machine's own
/// devices, and PCI devices of the base class 2 (PCI Code and ID Assignment specification).
#[must_use]
pub fn network_modaliases() -> BTreeSet<String> {
    let mut found = own_modaliases();
    found.extend(on_bus("pci").into_iter().filter(|m| m.contains("bc02")));
    found
}

/// By which names whatever may be a watchdog asks for its driver: cards, and what the firmware describes.
#[must_use]
pub fn watchdog_modaliases() -> BTreeSet<String> {
    ["pci", "platform"].into_iter().flat_map(on_bus).collect()
}

/// By which names power buttons ask for their driver.
#[must_use]
pub fn power_button_modaliases() -> BTreeSet<String> {
    let found = on_bus("acpi").into_iter();
    found.filter(|name| is_power_button(name)).collect()
}

/// By which names input devices ask for the driver that shows their events.
#[must_use]
pub fn input_modaliases() -> BTreeSet<String> {
    in_folder("/sys/class/input").into_iter().collect()
}

/// The ACPI identifiers of a power button: that of the fixed hardware, as the kernel names it (`drivers/acpi/scan.c`),
/// and that of one that is a device (ACPI specification, "Control Method Power Button").
fn is_power_button(modalias: &str) -> bool {
    let mut words = modalias.split(':');
    words.next() == Some("acpi") && words.any(|id| matches!(id, "LNXPWRBN" | "PNP0C0C"))
}

fn on_bus(bus: &str) -> Vec<String> {
    in_folder(&format!("/sys/bus/{bus}/devices"))
}

/// By which names the devices that a folder of sysfs has ask for their drivers.
fn in_folder(folder: &str) -> Vec<String> {
    let devices = std::fs::read_dir(folder);
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path.join("modalias")).ok();
    let names = devices
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| read(e.path()));
    names
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_button_is_known_by_its_name() {
        for name in ["acpi:LNXPWRBN:", "acpi:PNP0C0C:", "acpi:QEMU0001:PNP0C0C:"] {
            assert!(is_power_button(name), "{name}");
        }
        for name in ["acpi:LNXSLPBN:", "acpi:PNP0C0CX:", "input:LNXPWRBN:", ""] {
            assert!(!is_power_button(name), "{name}");
        }
    }
}
