//! What the driver tells: events for machines and people, warnings that cannot flood.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Outlet;
use crate::desired::Desired;
use crate::dhcp4::client::{Note, Why};
use crate::dhcp4::lease::Lease;

/// The same warning about the same link is told once in this time: some are caused by whoever
/// sends us frames.
const QUIET: Duration = Duration::from_secs(60);

/// The way out for events.
pub struct Reporter<'a> {
    outlet: &'a mut dyn Outlet,
    told: BTreeMap<(String, &'static str), Duration>,
}

impl<'a> Reporter<'a> {
    /// Everything goes to `outlet`.
    pub fn new(outlet: &'a mut dyn Outlet) -> Reporter<'a> {
        Reporter {
            outlet,
            told: BTreeMap::new(),
        }
    }

    /// Tells an event.
    pub fn event(&mut self, name: &str, fields: &[(&str, String)]) {
        self.outlet.event(name, fields);
    }

    /// Tells that something is not as it should be, though work goes on.
    pub fn warning(
        &mut self,
        now: Duration,
        link: &str,
        reason: &'static str,
        details: &[(&str, String)],
    ) {
        let quiet_since = |told: &Duration| now.saturating_sub(*told) < QUIET;
        let key = (link.to_owned(), reason);
        if self.told.get(&key).is_some_and(quiet_since) {
            return;
        }
        self.told.insert(key, now);
        let mut fields = vec![("link", link.to_owned()), ("reason", reason.to_owned())];
        if link.is_empty() {
            fields.remove(0);
        }
        fields.extend(details.iter().map(|(key, value)| (*key, value.clone())));
        self.outlet.event("net.warning", &fields);
    }

    /// A warning that comes from the DHCP client.
    pub fn note(&mut self, now: Duration, link: &str, note: Note) {
        let server = |server: Option<std::net::Ipv4Addr>| {
            (
                "server",
                server.map_or_else(|| "none".to_owned(), |s| s.to_string()),
            )
        };
        match note {
            Note::Nak {
                server: from,
                message,
            } => {
                let text = message.unwrap_or_default();
                self.warning(now, link, "dhcp-nak", &[server(from), ("message", text)]);
            }
            Note::Refused { server: from, why } => {
                let why = why.to_string();
                self.warning(now, link, "dhcp-refused", &[server(from), ("detail", why)]);
            }
            Note::Silence { sent } => {
                self.warning(now, link, "dhcp-silence", &[("sent", sent.to_string())]);
            }
        }
    }
}

/// The fields of `net.address` for a link in this state.
pub fn address_fields(
    link: &str,
    desired: &Desired,
    lease: Option<&Lease>,
) -> Vec<(&'static str, String)> {
    let mut fields = vec![("link", link.to_owned())];
    let leased = lease.map(|lease| lease.address);
    let shown = leased.or_else(|| desired.addresses.first().map(|address| address.cidr));
    fields.extend(shown.map(|cidr| ("address", cidr.to_string())));
    fields.extend(
        desired
            .gateway()
            .map(|gateway| ("gateway", gateway.to_string())),
    );
    if !desired.dns.is_empty() {
        let servers: Vec<String> = desired.dns.iter().map(ToString::to_string).collect();
        fields.push(("dns", servers.join(",")));
    }
    if let Some(lease) = lease {
        fields.push(("lease_s", lease_seconds(lease)));
        fields.push(("server", lease.server.to_string()));
        fields.extend(lease.mtu.map(|mtu| ("mtu", mtu.to_string())));
        fields.extend(lease.domain.clone().map(|domain| ("domain", domain)));
        fields.extend(lease.hostname.clone().map(|name| ("hostname", name)));
    }
    fields
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
    }
}
