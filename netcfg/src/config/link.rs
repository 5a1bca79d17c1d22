//! One `[[network.link]]`: which links it is about, and what they get.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::glob;
use super::is_server;
use crate::desired::{is_destination, is_host};
use crate::dhcp4::conflict::Conflict;
use crate::dhcp4::request::ClientId;
use crate::dhcp4::walk::is_name;
use crate::link::Link;
use crate::mac::Mac;

/// What to do with the links that [`match`](LinkConfig::match) covers.
///
/// | key | default | meaning |
/// | --- | --- | --- |
/// | `match` | every physical Ethernet link | see [`Match`] |
/// | `dhcp4` | `true` | get an address by DHCPv4; `dhcp = { .. }` has the details, see [`Dhcp`] |
/// | `ipv6` | `"auto"` | `"auto"`: SLAAC by the kernel, DNS from router advertisements, DHCPv6 when they ask for it; `"off"`: none at all |
/// | `role` | `"uplink"` | `"local"`: no default route, no DNS, no time servers by this link |
/// | `address` | none | fixed addresses, beside or instead of a lease |
/// | `gateway` | none | the router of the fixed addresses; one, or one of each family in a list |
/// | `route` | none | further routes: `[{ to = "198.51.100.0/24", via = "192.0.2.2" }]`; without `via` on the link itself |
/// | `dns`, `search` | none | before those of a lease |
/// | `metric` | 1000 and the link's number | priority of the routes, less is better |
/// | `mtu` | the link's own | set on the link; the MTU of a lease goes on its routes instead |
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LinkConfig {
    /// Which links this is about.
    pub r#match: Match,
    /// Whether to get an address by DHCPv4.
    pub dhcp4: bool,
    /// How to ask for it.
    pub dhcp: Dhcp,
    /// What IPv6 does.
    pub ipv6: Ipv6,
    /// What the link is for.
    pub role: Role,
    /// Fixed addresses.
    #[serde(deserialize_with = "addresses")]
    pub address: Vec<IpNet>,
    /// The routers of the fixed addresses, at most one of each family.
    #[serde(deserialize_with = "one_or_many")]
    pub gateway: Vec<IpAddr>,
    /// Fixed routes.
    pub route: Vec<RouteConfig>,
    /// Fixed DNS servers.
    pub dns: Vec<IpAddr>,
    /// Fixed search domains.
    pub search: Vec<String>,
    /// Priority of the routes, less is better.
    pub metric: Option<u32>,
    /// MTU to set on the link.
    pub mtu: Option<u32>,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            r#match: Match::default(),
            dhcp4: true,
            dhcp: Dhcp::default(),
            ipv6: Ipv6::Auto,
            role: Role::Uplink,
            address: Vec::new(),
            gateway: Vec::new(),
            route: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
            metric: None,
            mtu: None,
        }
    }
}

/// Which links an entry is about. All that is said must hold; with nothing said, it is every
/// Ethernet link that is not virtual (no bridge, veth, tunnel...). In texts `*` stands for any
/// characters and `?` for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Match {
    /// The name.
    pub name: Option<String>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
    /// The driver, such as `virtio_net`.
    pub driver: Option<String>,
    /// The slot, such as `pci-0000:00:03.0`.
    pub path: Option<String>,
}

impl Match {
    /// Whether `link` is meant.
    pub fn covers(&self, link: &Link) -> bool {
        if *self == Match::default() {
            return !link.is_virtual;
        }
        let Match {
            name,
            mac,
            driver,
            path,
        } = self;
        let fits = |pattern: &Option<String>, text: Option<&str>| {
            pattern
                .as_ref()
                .is_none_or(|pattern| text.is_some_and(|text| glob::fits(pattern, text)))
        };
        fits(name, Some(&link.name))
            && mac.is_none_or(|mac| mac == link.mac)
            && fits(driver, link.device.driver.as_deref())
            && fits(path, link.device.path.as_deref())
    }
}

/// How DHCPv4 asks. All of it has good defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Dhcp {
    /// Option 61: who we are to the server.
    pub client_id: ClientId,
    /// Option 12: the name we would like to have in DNS.
    pub hostname: Option<String>,
    /// Option 60: what kind of machine we are.
    pub vendor_class: Option<String>,
    /// Asks for answers by broadcast, for networks that deliver no others before there is an
    /// address. Without it that is tried by itself when nobody answers.
    pub broadcast: bool,
    /// Option 80: an address in one round trip, where the server can (RFC 4039).
    pub rapid_commit: bool,
    /// Whether somebody else may have our address already (RFC 5227).
    pub conflict_detection: Conflict,
    /// Option 108: no IPv4 address where the network says that IPv6 is enough (RFC 8925). Off by
    /// default: a program that knows an IPv4 address by number cannot reach it then.
    pub ipv6_only_preferred: bool,
    /// Which routes of option 121 are taken.
    pub classless_routes: ClasslessRoutes,
}

impl Default for Dhcp {
    fn default() -> Dhcp {
        Dhcp {
            client_id: ClientId::Mac,
            hostname: None,
            vendor_class: None,
            broadcast: false,
            rapid_commit: true,
            conflict_detection: Conflict::Background,
            ipv6_only_preferred: false,
            classless_routes: ClasslessRoutes::All,
        }
    }
}

/// Which routes of option 121 are taken. A server on the same wire can divert traffic with them
/// past a tunnel (CVE-2024-3661).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClasslessRoutes {
    /// All that make sense.
    All,
    /// The default route, and those to private networks (RFC 1918).
    Private,
}

/// What IPv6 does on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// What router advertisements say.
    Auto,
    /// None at all.
    Off,
}

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The way to everywhere.
    Uplink,
    /// Only what is on the link, and its further routes.
    Local,
}

/// One fixed route.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteConfig {
    /// Where to.
    #[serde(deserialize_with = "network")]
    pub to: IpNet,
    /// Over which router; without it, the destination is on the link itself.
    #[serde(default)]
    pub via: Option<IpAddr>,
}

impl LinkConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        for (key, text) in [
            ("name", &self.r#match.name),
            ("driver", &self.r#match.driver),
            ("path", &self.r#match.path),
        ] {
            if text.as_deref() == Some("") {
                return Err(format!("`match.{key}` is empty; leave it out to match any"));
            }
        }
        self.validate_addresses()?;
        self.validate_gateways()?;
        self.validate_routes()?;
        if let Some(bad) = self.dns.iter().find(|dns| !is_server(dns)) {
            return Err(format!("`dns` {bad} cannot be a server"));
        }
        if let Some(bad) = self.search.iter().find(|name| !is_name(name.as_bytes())) {
            return Err(format!("`search` {bad:?} cannot be a domain"));
        }
        if let Some(name) = &self.dhcp.hostname
            && !is_name(name.as_bytes())
        {
            return Err(format!("`dhcp.hostname` {name:?} cannot be a host name"));
        }
        // RFC 2132, section 9.13: one byte at least; an option holds 255.
        if let Some(class) = &self.dhcp.vendor_class
            && !((1..=255).contains(&class.len()) && class.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(format!(
                "`dhcp.vendor-class` {class:?} is not 1 to 255 printable characters"
            ));
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

    fn validate_addresses(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for net in &self.address {
            if !is_host(net) {
                return Err(format!("`address` {net} cannot belong to a host"));
            }
            if let IpNet::V6(v6) = net {
                if v6.addr().is_unicast_link_local() {
                    return Err(format!("`address` {net}: these are made by the kernel"));
                }
                if self.ipv6 == Ipv6::Off {
                    return Err(format!("`address` {net} cannot be set while `ipv6` is off"));
                }
            }
            if !seen.insert(net.addr()) {
                return Err(format!("`address` {} is there twice", net.addr()));
            }
        }
        Ok(())
    }

    fn validate_gateways(&self) -> Result<(), String> {
        for gateway in &self.gateway {
            let (family, host) = match gateway {
                IpAddr::V4(_) => ("IPv4", 32),
                IpAddr::V6(_) => ("IPv6", 128),
            };
            let same = |other: &IpAddr| other.is_ipv4() == gateway.is_ipv4();
            if !self.address.iter().any(|net| same(&net.addr())) {
                return Err(format!(
                    "`gateway` {gateway} needs an {family} `address`; a lease brings its own router"
                ));
            }
            if self.gateway.iter().filter(|other| same(other)).count() > 1 {
                return Err(format!("only one {family} `gateway` can be used"));
            }
            if !IpNet::new(*gateway, host).is_ok_and(|net| is_host(&net)) {
                return Err(format!("`gateway` {gateway} cannot belong to a host"));
            }
            if self.address.iter().any(|net| net.addr() == *gateway) {
                return Err(format!(
                    "`gateway` {gateway} is this machine's own `address`"
                ));
            }
            if self.role == Role::Local {
                return Err(format!(
                    "`gateway` {gateway} makes no sense with `role = \"local\"`"
                ));
            }
        }
        Ok(())
    }

    fn validate_routes(&self) -> Result<(), String> {
        for route in &self.route {
            let to = route.to;
            if !is_destination(&to) {
                return Err(format!("`route` {to} cannot be routed"));
            }
            let same = |other: &IpAddr| other.is_ipv4() == to.addr().is_ipv4();
            if let Some(via) = route.via.filter(|via| !same(via)) {
                return Err(format!("`route` {to} via {via}: different families"));
            }
            let automatic = match to {
                IpNet::V4(_) => self.dhcp4,
                IpNet::V6(_) => self.ipv6 == Ipv6::Auto,
            };
            if !automatic && !self.address.iter().any(|net| same(&net.addr())) {
                return Err(format!(
                    "`route` {to} needs an `address` of the same family"
                ));
            }
        }
        Ok(())
    }
}

fn net(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a prefix length, such as \"192.0.2.10/24\"")
    })
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parsed: Result<_, _> = texts.iter().map(|text| net(text)).collect();
    parsed.map_err(serde::de::Error::custom)
}

fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    net(&text)
        .map(|net| net.trunc())
        .map_err(serde::de::Error::custom)
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an address, or a list of addresses")]
    enum OneOrMany {
        One(IpAddr),
        Many(Vec<IpAddr>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}
