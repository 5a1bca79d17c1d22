//! What the core tells: events for machines and people, warnings that cannot flood.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::interface::{Command, Event};
use crate::desired::Desired;
use crate::dhcp4::client::{Note, Why};
use crate::dhcp4::lease::Lease;
use crate::mac::Mac;
use crate::status::{WARNINGS_MAX, Warning};

/// The same warning about the same link is told once in this time: some are caused by whoever
/// sends us frames.
const QUIET: Duration = Duration::from_secs(60);

/// Commands being put together in one step.
#[derive(Debug, Default)]
pub struct Out {
    /// The time of this step.
    pub now: Duration,
    commands: Vec<Command>,
    told: BTreeMap<(String, &'static str), Duration>,
    latest: VecDeque<Warning>,
}

impl Out {
    /// Wants `command` done after those before.
    pub fn push(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// The place of what is pushed next.
    pub fn mark(&self) -> usize {
        self.commands.len()
    }

    /// Wants `command` done before what was pushed since `mark`.
    pub fn insert(&mut self, mark: usize, command: Command) {
        self.commands.insert(mark.min(self.commands.len()), command);
    }

    /// What is to be done.
    pub fn take(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// Tells an event.
    pub fn event(&mut self, name: &'static str, fields: Vec<(&'static str, String)>) {
        let routine = false;
        self.push(Command::Event(Event {
            name,
            fields,
            routine,
        }));
    }

    /// Tells an event that is as in any good start.
    pub fn routine(&mut self, name: &'static str, fields: Vec<(&'static str, String)>) {
        let routine = true;
        self.push(Command::Event(Event {
            name,
            fields,
            routine,
        }));
    }

    /// Tells that something is not as it should be, though work goes on. An empty `link` is none.
    pub fn warning(
        &mut self,
        link: &str,
        reason: &'static str,
        details: Vec<(&'static str, String)>,
    ) {
        let now = self.now;
        self.told
            .retain(|_, told| now.saturating_sub(*told) < QUIET);
        let key = (link.to_owned(), reason);
        if self.told.contains_key(&key) {
            return;
        }
        self.told.insert(key, now);
        if self.latest.len() >= WARNINGS_MAX {
            self.latest.pop_front();
        }
        let texts: Vec<String> = details.iter().map(|(k, v)| format!("{k}={v}")).collect();
        self.latest.push_back(Warning {
            at_s: now.as_secs(),
            link: (!link.is_empty()).then(|| link.to_owned()),
            reason: reason.to_owned(),
            detail: texts.join(" "),
        });
        let mut fields = vec![("link", link.to_owned()), ("reason", reason.to_owned())];
        if link.is_empty() {
            fields.remove(0);
        }
        fields.extend(details);
        self.event("net.warning", fields);
    }

    /// The newest warnings, the newest last.
    pub fn latest(&self) -> Vec<Warning> {
        self.latest.iter().cloned().collect()
    }

    /// A warning that comes from the DHCP client.
    pub fn note(&mut self, link: &str, note: Note) {
        let server = |server: Option<Ipv4Addr>| {
            let text = server.map_or_else(|| "none".to_owned(), |server| server.to_string());
            ("server", text)
        };
        let (reason, details) = match note {
            Note::Nak {
                server: from,
                message,
            } => (
                "dhcp-nak",
                vec![server(from), ("message", message.unwrap_or_default())],
            ),
            Note::Refused { server: from, why } => (
                "dhcp-refused",
                vec![server(from), ("detail", why.to_string())],
            ),
            Note::Silence { sent } => ("dhcp-silence", vec![("sent", sent.to_string())]),
            Note::Conflict { address, mac } => ("address-conflict", neighbour(address, mac)),
            Note::Defended { address, mac } => ("address-defended", neighbour(address, mac)),
            Note::Ipv6Only { seconds } => ("ipv6-only", vec![("seconds", seconds.to_string())]),
        };
        self.warning(link, reason, details);
    }
}

fn neighbour(address: Ipv4Addr, mac: Mac) -> Vec<(&'static str, String)> {
    vec![("address", address.to_string()), ("mac", mac.to_string())]
}

/// The fields of `net.address` for a link in this state.
pub fn address_fields(
    link: &str,
    desired: &Desired,
    lease: Option<&Lease>,
) -> Vec<(&'static str, String)> {
    let mut fields = vec![("link", link.to_owned())];
    let leased = lease.map(|lease| lease.address.to_string());
    let fixed = desired.addresses.first().map(|a| a.net.to_string());
    fields.extend(leased.or(fixed).map(|address| ("address", address)));
    fields.extend(
        desired
            .gateway()
            .map(|gateway| ("gateway", gateway.to_string())),
    );
    if !desired.dns.is_empty() {
        fields.push(("dns", servers(desired)));
    }
    if let Some(lease) = lease {
        fields.push(("lease_s", lease_seconds(lease)));
        fields.push(("server", lease.server.to_string()));
        fields.extend(lease.mtu.map(|mtu| ("mtu", mtu.to_string())));
        fields.extend(lease.domain.clone().map(|domain| ("domain", domain)));
        fields.extend(lease.hostname.clone().map(|name| ("hostname", name)));
        let portal = lease.captive_portal.clone();
        fields.extend(portal.map(|portal| ("captive_portal", portal)));
    }
    fields
}

/// The DNS servers for a field.
pub fn servers(desired: &Desired) -> String {
    let servers: Vec<String> = desired.dns.iter().map(ToString::to_string).collect();
    servers.join(",")
}

/// The lease time for a field.
pub fn lease_seconds(lease: &Lease) -> String {
    lease
        .seconds()
        .map_or_else(|| "infinite".to_owned(), |s| s.to_string())
}

/// The reason of `net.lost`.
pub const fn why(why: Why) -> &'static str {
    match why {
        Why::Expired => "expired",
        Why::Nak => "nak",
        Why::Carrier => "carrier",
        Why::Conflict => "conflict",
        Why::Replaced => "replaced",
        Why::Released => "released",
        Why::Ipv6Only => "ipv6-only",
    }
}
