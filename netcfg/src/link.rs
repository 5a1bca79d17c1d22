//! A network link as the kernel describes it, and where it sits in the machine.

use crate::mac::Mac;

/// An Ethernet link, or something that looks like one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it can carry frames, which implies `up`.
    pub carrier: bool,
    /// Whether it is made of software: veth, bridge, tunnel, VLAN...
    pub is_virtual: bool,
    /// `IFLA_INET6_FLAGS` of `linux/if_link.h`: what router advertisements said, among others.
    pub inet6_flags: u32,
    /// The device behind it; virtual links have none.
    pub device: Device,
}

/// The hardware behind a link, as sysfs tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The name of its driver, such as `virtio_net`.
    pub driver: Option<String>,
    /// Where it is plugged in, such as `pci-0000:00:03.0`; see [`path_of`].
    pub path: Option<String>,
}

/// The persistent path of a device from its folder beneath `/sys/devices`, in the form of udev's
/// `ID_PATH`: `pci-0000:00:03.0`, or `platform-NAME` where there is no PCI. What lies between,
/// bridges and the virtio layer, changes nothing about which slot it is.
pub fn path_of(folder: &str) -> Option<String> {
    let below = folder.rsplit_once("devices/").map(|(_, below)| below)?;
    let parts: Vec<&str> = below.split('/').collect();
    let pci = parts.iter().rev().find(|part| is_pci_address(part));
    if let Some(address) = pci {
        return Some(format!("pci-{address}"));
    }
    let [first, platform, ..] = parts.as_slice() else {
        return None;
    };
    (*first == "platform").then(|| format!("platform-{platform}"))
}

/// `0000:00:03.0`: domain, bus, device and function, in hexadecimal.
fn is_pci_address(part: &str) -> bool {
    let hex = |text: &str, least: usize| {
        text.len() >= least && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut fields = part.split([':', '.']);
    let four = [fields.next(), fields.next(), fields.next(), fields.next()];
    let [Some(domain), Some(bus), Some(device), Some(function)] = four else {
        return false;
    };
    fields.next().is_none()
        && hex(domain, 4)
        && hex(bus, 2)
        && hex(device, 2)
        && hex(function, 1)
        && part.matches(':').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_slot_and_nothing_else() {
        for (folder, path) in [
            (
                "/sys/devices/pci0000:00/0000:00:03.0/virtio0",
                Some("pci-0000:00:03.0"),
            ),
            (
                "../../devices/pci0000:00/0000:00:1c.4/0000:3b:00.1",
                Some("pci-0000:3b:00.1"),
            ),
            (
                "/sys/devices/platform/a003e00.virtio_mmio/virtio1",
                Some("platform-a003e00.virtio_mmio"),
            ),
            ("/sys/devices/virtual/net/veth0", None),
            ("/sys/devices/", None),
            ("", None),
        ] {
            assert_eq!(path_of(folder).as_deref(), path, "{folder}");
        }
    }
}
