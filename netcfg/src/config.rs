//! What the image says about its links: the value under the key `network` of `init.toml`.
//!
//! ```toml
//! [[network.link]]
//! match = { name = "eth*" }      # or mac = "52:54:00:12:34:56"; the first entry that matches wins
//! dhcp4 = true
//! ipv6 = "auto"                  # what the kernel does by itself, or "off"
//! address = ["192.0.2.10/24"]    # beside, or instead of, a lease
//! gateway = "192.0.2.1"
//! dns = ["192.0.2.53"]           # before those of a lease
//! metric = 100
//! mtu = 1400
//! ```
//!
//! Without any entry every physical Ethernet link gets DHCPv4. What is not done yet (static
//! IPv6 addresses, for one) cannot be written: the parser says so, with line and column.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::cidr::{Cidr, is_host_address};
use crate::mac::Mac;

/// The value of `network`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// What to do with which link; the first match wins, a link without one is left alone.
    #[serde(default = "any_ethernet")]
    pub link: Vec<LinkConfig>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            link: any_ethernet(),
        }
    }
}

fn any_ethernet() -> Vec<LinkConfig> {
    vec![LinkConfig::default()]
}

/// One `[[network.link]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LinkConfig {
    /// Which links this is about.
    pub r#match: Match,
    /// Whether to get an address by DHCPv4.
    pub dhcp4: bool,
    /// What IPv6 does.
    pub ipv6: Ipv6,
    /// Fixed IPv4 addresses.
    pub address: Vec<Cidr>,
    /// The router of the fixed addresses.
    pub gateway: Option<Ipv4Addr>,
    /// Fixed DNS servers.
    pub dns: Vec<IpAddr>,
    /// Priority of the routes, less is better; by default 1000 and the index of the link.
    pub metric: Option<u32>,
    /// MTU to set on the link.
    pub mtu: Option<u32>,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            r#match: Match::default(),
            dhcp4: true,
            ipv6: Ipv6::Auto,
            address: Vec::new(),
            gateway: None,
            dns: Vec::new(),
            metric: None,
            mtu: None,
        }
    }
}

/// Which links an entry is about. All that is said must hold; with nothing said, it is every
/// Ethernet link that is not virtual (no bridge, veth, tunnel...).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Match {
    /// A name, with `*` for any characters and `?` for one.
    pub name: Option<String>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
}

impl Match {
    /// Whether a link of this name, address and kind is meant.
    pub fn covers(&self, name: &str, mac: Mac, is_virtual: bool) -> bool {
        let Match {
            name: pattern,
            mac: wanted,
        } = self;
        if pattern.is_none() && wanted.is_none() {
            return !is_virtual;
        }
        pattern
            .as_ref()
            .is_none_or(|pattern| glob(pattern.as_bytes(), name.as_bytes()))
            && wanted.is_none_or(|wanted| wanted == mac)
    }
}

/// What IPv6 does on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// The kernel's own autoconfiguration.
    Auto,
    /// None at all.
    Off,
}

/// A setting that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network.link[{index}]: {what}")]
pub struct ConfigError {
    /// Which entry, from 0.
    pub index: usize,
    /// What is wrong and what to do about it.
    pub what: String,
}

impl Config {
    /// Checks what the grammar alone cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (index, link) in self.link.iter().enumerate() {
            link.validate()
                .map_err(|what| ConfigError { index, what })?;
        }
        Ok(())
    }

    /// The entry for a link, if it is ours to manage.
    pub fn entry(&self, name: &str, mac: Mac, is_virtual: bool) -> Option<&LinkConfig> {
        self.link
            .iter()
            .find(|link| link.r#match.covers(name, mac, is_virtual))
    }
}

impl LinkConfig {
    fn validate(&self) -> Result<(), String> {
        if self.r#match.name.as_deref() == Some("") {
            return Err("`match.name` is empty; leave it out to match every Ethernet link".into());
        }
        if let Some(bad) = self.address.iter().find(|a| !a.is_usable_by_a_host()) {
            return Err(format!("`address` {bad} cannot belong to a host"));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.address.iter().find(|a| !seen.insert(a.address())) {
            return Err(format!("`address` {} is there twice", twice.address()));
        }
        if let Some(gateway) = self.gateway {
            if self.address.is_empty() {
                return Err(format!(
                    "`gateway` {gateway} needs an `address`; a lease brings its own router"
                ));
            }
            if !is_host_address(gateway) {
                return Err(format!("`gateway` {gateway} cannot belong to a host"));
            }
            if self.address.iter().any(|a| a.address() == gateway) {
                return Err(format!(
                    "`gateway` {gateway} is this machine's own `address`"
                ));
            }
        }
        if let Some(bad) = self
            .dns
            .iter()
            .find(|dns| dns.is_unspecified() || dns.is_multicast())
        {
            return Err(format!("`dns` {bad} cannot be a server"));
        }
        // RFC 791 needs 68 bytes, RFC 8200 needs 1280 for IPv6; 65535 is the largest packet.
        let least = if self.ipv6 == Ipv6::Off { 576 } else { 1280 };
        match self.mtu {
            Some(mtu) if !(least..=65535).contains(&mtu) => Err(format!(
                "`mtu` {mtu} is not within {least} and 65535{}",
                if (576..1280).contains(&mtu) {
                    "; IPv6 needs 1280, or set `ipv6 = \"off\"`"
                } else {
                    ""
                }
            )),
            _ => Ok(()),
        }
    }
}

/// Shell-like matching with `*` and `?`, in time proportional to pattern times text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // After a `*`: where the pattern goes on, and how much text the star has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || Some(byte) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    p = after;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn nothing_said_means_dhcp_on_every_physical_link() {
        for text in ["", "[network]"] {
            let config = parse(text).expect(text);
            let mac = Mac([2, 0, 0, 0, 0, 1]);
            assert!(
                config
                    .entry("eth0", mac, false)
                    .is_some_and(|link| link.dhcp4)
            );
            assert!(config.entry("veth0", mac, true).is_none());
        }
        assert!(
            parse("[network]\nlink = []")
                .expect("empty")
                .link
                .is_empty()
        );
    }

    #[test]
    fn a_full_entry() {
        let config = parse(
            r#"
            [[network.link]]
            match = { name = "eth*", mac = "52:54:00:12:34:56" }
            dhcp4 = false
            ipv6 = "off"
            address = ["192.0.2.10/24"]
            gateway = "192.0.2.1"
            dns = ["192.0.2.53", "2001:db8::53"]
            metric = 7
            mtu = 1400
            "#,
        )
        .expect("valid");
        let mac = "52:54:00:12:34:56".parse().expect("mac");
        let link = config.entry("eth7", mac, true).expect("matches");
        assert_eq!(link.address, ["192.0.2.10/24".parse().expect("cidr")]);
        assert!(config.entry("eth7", Mac([0; 6]), true).is_none());
        assert!(config.entry("wlan0", mac, true).is_none());
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_named() {
        for (text, expected) in [
            ("speed = 10", "unknown field `speed`"),
            ("match = { driver = \"x\" }", "unknown field `driver`"),
            ("match = { name = \"\" }", "`match.name` is empty"),
            ("ipv6 = \"dhcp\"", "unknown variant `dhcp`"),
            ("address = [\"2001:db8::1/64\"]", "not an IPv4 address"),
            ("address = [\"192.0.2.0/24\"]", "cannot belong to a host"),
            (
                "address = [\"192.0.2.1/24\", \"192.0.2.1/25\"]",
                "there twice",
            ),
            ("gateway = \"192.0.2.1\"", "needs an `address`"),
            (
                "address = [\"192.0.2.1/24\"]\ngateway = \"192.0.2.1\"",
                "own `address`",
            ),
            (
                "address = [\"192.0.2.1/24\"]\ngateway = \"224.0.0.1\"",
                "cannot belong",
            ),
            ("dns = [\"0.0.0.0\"]", "cannot be a server"),
            ("mtu = 1000", "IPv6 needs 1280"),
            ("mtu = 70000", "65535"),
        ] {
            let error = parse(&format!("[[network.link]]\n{text}")).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse("[[network.link]]\nmtu = 1000\nipv6 = \"off\"").is_ok());
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("eth*", "eth0", true),
            ("eth*", "eth", true),
            ("eth?", "eth0", true),
            ("eth?", "eth10", false),
            ("e*0", "enp0s10", true),
            ("e*1", "enp0s10", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*a*b*c", "xxaxxbxxcxbc", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }
}
