//! All that is known of the network at one moment, for a person who has no address, or for a program.
//!
//! Plain data, filled in by the driver and shown by `initctl net`; the control socket gives it as JSON.
//! What is absent is not known or does not apply. Times are whole seconds. Links, addresses and
//! routes stand in the order in which they count.
//!
//! A reader may be older or newer than netcfg: what it does not know it ignores, what is missing is
//! as in [`Default`].

use serde::{Deserialize, Serialize};

/// Warnings that are kept.
pub const WARNINGS_MAX: usize = 8;

/// The network of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of netcfg.
    pub version: String,
    /// Seconds since the kernel started, when this was said.
    pub now_s: u64,
    /// All Ethernet links, managed or not.
    pub links: Vec<LinkStatus>,
    /// The link by which traffic to everywhere leaves.
    pub default_link: Option<String>,
    /// The names that programs can resolve with.
    pub resolver: ResolverStatus,
    /// The host name that a lease gave.
    pub hostname: Option<String>,
    /// What the clock was last found to be off by, and against whom.
    pub clock: Option<ClockStatus>,
    /// What of the sandbox is not in force; see [`crate::sandbox`].
    pub sandbox_gap: Option<String>,
    /// The newest [`WARNINGS_MAX`], the newest last.
    pub warnings: Vec<Warning>,
}

/// What `resolv.conf` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolverStatus {
    /// Where it is.
    pub path: String,
    /// Servers, in the order in which they are asked.
    pub servers: Vec<String>,
    /// Domains that are tried for short names.
    pub search: Vec<String>,
}

/// The last comparison with a time server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockStatus {
    /// Milliseconds to be added to the clock then; negative when it was ahead.
    pub offset_ms: i64,
    /// The server.
    pub server: String,
    /// So many seconds ago.
    pub ago_s: u64,
}

/// A warning that was told as `net.warning`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warning {
    /// Seconds since the kernel started.
    pub at_s: u64,
    /// About which link, if it is about one.
    pub link: Option<String>,
    /// What kind it is of.
    pub reason: String,
    /// Its further fields, as `key=value`.
    pub detail: String,
}

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its address, as `02:00:00:00:00:01`.
    pub mac: String,
    /// The driver of its device; a link made of software has none.
    pub driver: Option<String>,
    /// Its device's place below `/sys/devices`.
    pub path: Option<String>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it can carry frames.
    pub carrier: bool,
    /// Its MTU.
    pub mtu: u32,
    /// The entry of the configuration that covers it, as `network.link[0]`; without one the link is
    /// left alone.
    pub managed_by: Option<String>,
    /// What it is for, where the configuration says so.
    pub role: Option<String>,
    /// Metric of its routes; less is better.
    pub metric: Option<u32>,
    /// Addresses.
    pub addresses: Vec<AddressStatus>,
    /// Routes of ours.
    pub routes: Vec<RouteStatus>,
    /// The client of DHCPv4, where there is one.
    pub dhcp4: Option<Dhcp4Status>,
    /// The client of DHCPv6, where there is one.
    pub dhcp6: Option<Dhcp6Status>,
    /// What routers advertise, once one did.
    pub ra: Option<RaStatus>,
    /// DNS servers it brought.
    pub dns: Vec<String>,
    /// Search domains it brought.
    pub search: Vec<String>,
    /// Time servers it brought.
    pub ntp: Vec<String>,
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The configuration.
    Static,
    /// A lease.
    Dhcp4,
    /// A lease, of IPv6.
    Dhcp6,
    /// A router's advertisement.
    Ra,
    /// The kernel by itself: the link-local one.
    Kernel,
    /// Somebody else, or a kind that this reader does not know. It is left alone.
    #[default]
    #[serde(other)]
    Foreign,
}

impl Source {
    /// One word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Source::Static => "static",
            Source::Dhcp4 => "dhcp4",
            Source::Dhcp6 => "dhcp6",
            Source::Ra => "ra",
            Source::Kernel => "kernel",
            Source::Foreign => "foreign",
        }
    }
}

/// An address of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressStatus {
    /// With its prefix.
    pub address: String,
    /// Where it comes from.
    pub source: Source,
    /// How long it is valid; without an end if absent.
    pub valid_s: Option<u64>,
}

/// A route of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteStatus {
    /// Where to: `default`, or a prefix.
    pub to: String,
    /// Over which router; absent when the destination is on the link.
    pub via: Option<String>,
    /// Metric; less is better.
    pub metric: u32,
    /// Largest packet, where it is less than what the link can do.
    pub mtu: Option<u32>,
}

/// The client of DHCPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dhcp4Status {
    /// `selecting`, `requesting`, `rebooting`, `bound`, `renewing`, `rebinding`, `waiting` for a carrier.
    pub phase: String,
    /// Of the lease.
    pub address: Option<String>,
    /// Who gave it.
    pub server: Option<String>,
    /// Its whole time; without an end if absent while there is an address.
    pub lease_s: Option<u64>,
    /// Until its server is asked for more time.
    pub renew_in_s: Option<u64>,
    /// Until any server is asked.
    pub rebind_in_s: Option<u64>,
    /// Until it is taken away.
    pub expires_in_s: Option<u64>,
    /// Whether this lease was confirmed since the link last got its carrier.
    pub verified: bool,
    /// Messages, since the start of netcfg.
    pub counters: Counters,
}

/// Messages of one client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Sent.
    pub sent: u64,
    /// Received, for us and well-formed.
    pub received: u64,
    /// Received and not followed: malformed, of others, or of no use.
    pub refused: u64,
    /// Options of wrong length, ignored.
    pub bad_options: u64,
    /// Refusals of our address by a server.
    pub naks: u64,
    /// Addresses given back because somebody has them already.
    pub declines: u64,
}

/// The client of DHCPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dhcp6Status {
    /// What routers ask for: `stateless`, `stateful`.
    pub mode: String,
    /// `soliciting`, `requesting`, `bound`, `renewing`, `rebinding`, `asking` for information, `informed`.
    pub phase: String,
    /// Of the lease.
    pub address: Option<String>,
    /// Who gave it, by its identifier.
    pub server: Option<String>,
    /// Until its server is asked for more time.
    pub renew_in_s: Option<u64>,
    /// Until any server is asked.
    pub rebind_in_s: Option<u64>,
    /// Until it is taken away.
    pub expires_in_s: Option<u64>,
    /// Messages, since the start of netcfg.
    pub counters: Counters,
}

/// What routers advertise on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RaStatus {
    /// Addresses come by DHCPv6 (RFC 4861, section 4.2: M).
    pub managed: bool,
    /// Other things come by DHCPv6 (the same: O).
    pub other: bool,
    /// DNS servers (RFC 8106).
    pub dns: Vec<String>,
    /// Search domains (RFC 8106).
    pub search: Vec<String>,
}

impl Status {
    /// The link of this name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&LinkStatus> {
        self.links.iter().find(|link| link.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_or_newer_answer_is_read() {
        let text = r#"{ "now_s": 5, "weather": "fine", "links": [
            { "name": "eth0", "addresses": [ { "address": "fe80::1/64", "source": "tunnel" } ] } ] }"#;
        let status: Status = serde_json::from_str(text).expect("a status");
        let link = status.link("eth0").expect("the link");
        assert_eq!(link.addresses[0].source, Source::Foreign);
        assert_eq!((status.now_s, link.mtu), (5, 0));
        assert!(status.link("eth1").is_none());
    }

    #[test]
    fn the_word_of_a_source_is_that_of_the_protocol() {
        for source in [
            Source::Static,
            Source::Dhcp4,
            Source::Dhcp6,
            Source::Ra,
            Source::Kernel,
            Source::Foreign,
        ] {
            let text = serde_json::to_string(&source).expect("json");
            assert_eq!(text, format!("\"{}\"", source.word()));
        }
    }
}
