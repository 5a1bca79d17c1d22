//! What the image says about its network: the value under the key `network` of `init.toml`.
//!
//! ```toml
//! [network]
//! ntp = ["192.0.2.123"]          # before those of a lease; addresses, for names need the clock
//!
//! [[network.vlan]]
//! name = "eth0.7"
//! link = "eth0"                  # the link that carries it
//! id = 7
//!
//! [[network.link]]
//! match = { name = "eth*" }      # the first entry that matches wins
//! dhcp4 = true
//! ```
//!
//! [`LinkConfig`] has the keys of a link. Without any entry every physical Ethernet link gets
//! DHCPv4 and what router advertisements bring.

mod glob;
mod link;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;

pub use self::link::{ClasslessRoutes, Dhcp, Ipv6, LinkConfig, Match, Role, RouteConfig};
use crate::link::Link;

/// The value of `network`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// What to do with which link; the first match wins, a link without one is left alone.
    #[serde(default = "any_ethernet")]
    pub link: Vec<LinkConfig>,
    /// VLANs to make.
    #[serde(default)]
    pub vlan: Vec<VlanConfig>,
    /// Time servers, best first.
    #[serde(default)]
    pub ntp: Vec<IpAddr>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            link: any_ethernet(),
            vlan: Vec::new(),
            ntp: Vec::new(),
        }
    }
}

fn any_ethernet() -> Vec<LinkConfig> {
    vec![LinkConfig::default()]
}

/// One `[[network.vlan]]`: a link made of the frames of another that carry a tag (IEEE 802.1Q).
/// What it does is said by the `[[network.link]]` that matches its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VlanConfig {
    /// The name of the new link.
    pub name: String,
    /// The name of the link that carries it.
    pub link: String,
    /// The tag, from 1 to 4094.
    pub id: u16,
}

/// A setting that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network.{entry}: {what}")]
pub struct ConfigError {
    /// Which entry, such as `link[0]`.
    pub entry: String,
    /// What is wrong and what to do about it.
    pub what: String,
}

impl Config {
    /// Checks what the grammar alone cannot; tells the first problem.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that [`Config::validate`] would find: of each entry the first.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let mut check = |entry: String, result: Result<(), String>| {
            problems.extend(result.err().map(|what| ConfigError { entry, what }));
        };
        for (index, link) in self.link.iter().enumerate() {
            check(format!("link[{index}]"), link.validate());
        }
        let mut names = BTreeSet::new();
        for (index, vlan) in self.vlan.iter().enumerate() {
            let twice = !names.insert(&vlan.name);
            check(format!("vlan[{index}]"), vlan.validate(twice));
        }
        if let Some(bad) = self.ntp.iter().find(|server| !is_server(server)) {
            check("ntp".into(), Err(format!("{bad} cannot be a server")));
        }
        problems
    }

    /// The entry for a link, if it is ours to manage.
    pub fn entry(&self, link: &Link) -> Option<(usize, &LinkConfig)> {
        let mut entries = self.link.iter().enumerate();
        entries.find(|(_, entry)| entry.r#match.covers(link))
    }
}

impl VlanConfig {
    fn validate(&self, twice: bool) -> Result<(), String> {
        for name in [&self.name, &self.link] {
            // dev_valid_name of net/core/dev.c: 15 bytes, no slash, colon or space.
            let good = (1..=15).contains(&name.len())
                && name != "."
                && name != ".."
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
            if !good {
                return Err(format!("`{name}` cannot be the name of a link"));
            }
        }
        if twice {
            return Err(format!("`name` {} is there twice", self.name));
        }
        if self.name == self.link {
            return Err(format!("{} cannot carry itself", self.name));
        }
        if !(1..=4094).contains(&self.id) {
            return Err(format!("`id` {} is not within 1 and 4094", self.id));
        }
        Ok(())
    }
}

/// Whether this can be the address of a server somewhere.
fn is_server(address: &IpAddr) -> bool {
    !(address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp4::request::ClientId;
    use crate::link::Device;
    use crate::mac::Mac;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        network: Config,
    }

    fn parse(text: &str) -> Result<Config, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.network.validate().map_err(|error| error.to_string())?;
        Ok(file.network)
    }

    fn link(name: &str, mac: Mac, is_virtual: bool) -> Link {
        Link {
            name: name.to_owned(),
            mac,
            is_virtual,
            ..Link::default()
        }
    }

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn nothing_said_means_dhcp_on_every_physical_link() {
        for text in ["", "[network]"] {
            let config = parse(text).expect(text);
            let entry = config.entry(&link("eth0", MAC, false));
            assert!(entry.is_some_and(|(_, entry)| entry.dhcp4));
            assert!(config.entry(&link("veth0", MAC, true)).is_none());
        }
        let none = parse("[network]\nlink = []").expect("empty");
        assert!(none.link.is_empty());
    }

    #[test]
    fn a_full_entry() {
        let config = parse(
            r#"
            [network]
            ntp = ["192.0.2.123", "2001:db8::123"]
            [[network.vlan]]
            name = "eth7.9"
            link = "eth7"
            id = 9
            [[network.link]]
            match = { name = "eth*", mac = "52:54:00:12:34:56" }
            dhcp4 = false
            ipv6 = "auto"
            role = "uplink"
            address = ["192.0.2.10/24", "2001:db8::10/64"]
            gateway = ["192.0.2.1", "fe80::1"]
            dns = ["192.0.2.53", "2001:db8::53"]
            search = ["lan.example"]
            metric = 7
            mtu = 1400
            [[network.link.route]]
            to = "198.51.100.0/24"
            via = "192.0.2.2"
            [network.link.dhcp]
            client-id = "duid"
            hostname = "agent-7"
            vendor-class = "astromesh"
            broadcast = true
            rapid-commit = false
            conflict-detection = "strict"
            ipv6-only-preferred = true
            classless-routes = "private"
            "#,
        )
        .expect("valid");
        let mac = "52:54:00:12:34:56".parse().expect("mac");
        let (index, entry) = config.entry(&link("eth7", mac, true)).expect("matches");
        assert_eq!((index, entry.address.len(), entry.gateway.len()), (0, 2, 2));
        assert_eq!(entry.dhcp.client_id, ClientId::Duid);
        assert!(config.entry(&link("eth7", MAC, true)).is_none());
        assert!(config.entry(&link("wlan0", mac, true)).is_none());
    }

    #[test]
    fn a_link_is_found_by_its_driver_and_its_slot() {
        let config = parse(
            r#"
            [[network.link]]
            match = { driver = "virtio_net", path = "pci-0000:00:0?.0" }
            "#,
        )
        .expect("valid");
        let at = |driver: &str, path: &str| {
            let device = Device {
                driver: Some(driver.to_owned()),
                path: Some(path.to_owned()),
            };
            let link = Link {
                device,
                ..link("x", MAC, true)
            };
            config.entry(&link).is_some()
        };
        assert!(at("virtio_net", "pci-0000:00:03.0"));
        assert!(!at("e1000", "pci-0000:00:03.0"));
        assert!(!at("virtio_net", "pci-0000:00:13.0"));
        assert!(config.entry(&link("x", MAC, false)).is_none(), "no device");
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_named() {
        for (text, expected) in [
            ("speed = 10", "unknown field `speed`"),
            ("match = { vendor = \"x\" }", "unknown field `vendor`"),
            ("match = { name = \"\" }", "`match.name` is empty"),
            ("ipv6 = \"dhcp\"", "unknown variant `dhcp`"),
            (
                "address = [\"2001:db8::1\"]",
                "not an address with a prefix",
            ),
            ("address = [\"192.0.2.0/24\"]", "cannot belong to a host"),
            ("address = [\"ff02::1/64\"]", "cannot belong to a host"),
            ("address = [\"fe80::1/64\"]", "made by the kernel"),
            (
                "address = [\"192.0.2.1/24\", \"192.0.2.1/25\"]",
                "there twice",
            ),
            (
                "address = [\"2001:db8::1/64\"]\nipv6 = \"off\"",
                "`ipv6` is off",
            ),
            ("gateway = \"192.0.2.1\"", "needs an IPv4 `address`"),
            ("gateway = \"fe80::1\"", "needs an IPv6 `address`"),
            (
                "address = [\"192.0.2.1/24\"]\ngateway = \"192.0.2.1\"",
                "own `address`",
            ),
            (
                "address = [\"192.0.2.1/24\"]\ngateway = \"224.0.0.1\"",
                "cannot belong",
            ),
            (
                "address = [\"192.0.2.1/24\"]\ngateway = [\"192.0.2.2\", \"192.0.2.3\"]",
                "one IPv4 `gateway`",
            ),
            (
                "role = \"local\"\naddress = [\"192.0.2.1/24\"]\ngateway = \"192.0.2.2\"",
                "role = ",
            ),
            ("dns = [\"0.0.0.0\"]", "cannot be a server"),
            ("search = [\"a b\"]", "cannot be a domain"),
            ("mtu = 1000", "IPv6 needs 1280"),
            ("mtu = 70000", "65535"),
            ("dhcp = { hostname = \"a b\" }", "cannot be a host name"),
            ("dhcp = { vendor-class = \"\" }", "vendor-class"),
            (
                "dhcp4 = false\nroute = [{ to = \"198.51.100.0/24\", via = \"192.0.2.1\" }]",
                "needs an `address`",
            ),
            (
                "address = [\"192.0.2.1/24\"]\nroute = [{ to = \"127.0.0.0/8\", via = \"192.0.2.2\" }]",
                "cannot be routed",
            ),
            (
                "address = [\"192.0.2.1/24\"]\nroute = [{ to = \"0.0.0.0/0\", via = \"fe80::1\" }]",
                "different families",
            ),
        ] {
            let error = parse(&format!("[[network.link]]\n{text}")).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (text, expected) in [
            ("[network]\nntp = [\"pool.ntp.org\"]", "invalid"),
            ("[network]\nntp = [\"0.0.0.0\"]", "cannot be a server"),
            (
                "[[network.vlan]]\nname = \"v\"\nlink = \"v\"\nid = 1",
                "carry itself",
            ),
            (
                "[[network.vlan]]\nname = \"v\"\nlink = \"e\"\nid = 4095",
                "4094",
            ),
            (
                "[[network.vlan]]\nname = \"a/b\"\nlink = \"e\"\nid = 1",
                "name of a link",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse("[[network.link]]\nmtu = 1000\nipv6 = \"off\"").is_ok());
    }
}
