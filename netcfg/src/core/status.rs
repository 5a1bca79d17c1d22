//! Answers to the control socket: the status of everything, and orders.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::Core;
use super::interface::Command;
use super::port::Port;
use crate::config::Role;
use crate::control::protocol::{Reply, Verb};
use crate::desired;
use crate::dhcp4;
use crate::dhcp6::client::Mode;
use crate::link::Link;
use crate::ra::Flags;
use crate::reconcile::SeenAddress;
use crate::status::{
    AddressStatus, ClockStatus, Counters, Dhcp4Status, Dhcp6Status, LinkStatus, RaStatus,
    ResolverStatus, RouteStatus, Source, Status,
};

/// Seconds until `at`, as whole seconds that are still there.
fn left(now: Duration, at: Option<Duration>) -> Option<u64> {
    at.map(|at| at.saturating_sub(now).as_secs())
}

impl Core {
    /// Carries out what was asked at the control socket: the answer, or why there is none, and
    /// what is to be done.
    pub fn ask(&mut self, now: Duration, verb: &Verb) -> (Result<Reply, String>, Vec<Command>) {
        let (name, v4, v6) = match verb {
            Verb::Net {} => return (Ok(Reply::net(self.status(now))), Vec::new()),
            Verb::Renew { link } => (
                link,
                dhcp4::client::Event::Renew,
                crate::dhcp6::client::Event::Renew,
            ),
            Verb::Release { link } => (
                link,
                dhcp4::client::Event::Release,
                crate::dhcp6::client::Event::Release,
            ),
        };
        self.out.now = now;
        let Some(port) = self.ports.values_mut().find(|port| port.link.name == *name) else {
            let known: Vec<&str> = self.ports.values().map(|p| &p.link.name[..]).collect();
            let why = format!(
                "{name} is no link that the configuration covers; there are: {}",
                known.join(", ")
            );
            return (Err(why), Vec::new());
        };
        if !port.leases() {
            let why = format!("{name} gets no address by DHCP: there is nothing to ask for");
            return (Err(why), Vec::new());
        }
        self.unsettled |= port.step(v4, &mut self.out);
        self.unsettled |= port.step6(v6, &mut self.out);
        self.tick();
        (Ok(Reply::done()), self.out.take())
    }

    /// All that is known.
    pub fn status(&self, now: Duration) -> Status {
        let mut ranked: Vec<(Option<u32>, LinkStatus)> = self
            .links
            .iter()
            .map(|link| match self.ports.get(&link.index) {
                Some(port) => (port.desired().rank(), self.managed(now, port)),
                None => (Some(u32::MAX), self.described(now, link)),
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| rank.unwrap_or(u32::MAX - 1));
        let resolver = self.resolv_conf.as_deref().unwrap_or_default();
        let words = |key: &'static str| {
            resolver
                .lines()
                .filter_map(move |line| line.strip_prefix(key))
                .flat_map(|rest| rest.split(' ').filter(|word| !word.is_empty()))
                .map(str::to_owned)
                .collect()
        };
        let defaults = self
            .seen
            .routes
            .iter()
            .filter(|s| s.route.to.prefix_len() == 0);
        let default = defaults.min_by_key(|s| (s.route.to.addr().is_ipv6(), s.route.metric));
        let leases = || self.ports.values().filter_map(Port::lease);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_s: now.as_secs(),
            links: ranked.into_iter().map(|(_, link)| link).collect(),
            default_link: default.map(|seen| self.name(seen.link)),
            resolver: ResolverStatus {
                path: self.resolver_path.clone(),
                servers: words("nameserver"),
                search: words("search"),
            },
            hostname: leases().find_map(|lease| lease.hostname.clone()),
            clock: self.time.last.map(|offset| ClockStatus {
                offset_ms: offset.nanoseconds / 1_000_000,
                server: offset.server.to_string(),
                ago_s: now.saturating_sub(offset.at).as_secs(),
            }),
            sandbox_gap: self.sandbox_gap.clone(),
            warnings: self.out.latest(),
        }
    }

    /// What can be said of any link.
    fn described(&self, now: Duration, link: &Link) -> LinkStatus {
        let here = self.seen.addresses.iter().filter(|s| s.link == link.index);
        LinkStatus {
            name: link.name.clone(),
            index: link.index,
            mac: link.mac.to_string(),
            driver: link.device.driver.clone(),
            path: link.device.path.clone(),
            up: link.up,
            carrier: link.carrier,
            mtu: link.mtu,
            addresses: here.map(|seen| address(now, seen, None)).collect(),
            ..LinkStatus::default()
        }
    }

    /// What can be said of a link of ours.
    fn managed(&self, now: Duration, port: &Port) -> LinkStatus {
        let link = &port.link;
        let desired = port.desired();
        let here = self.seen.addresses.iter().filter(|s| s.link == link.index);
        let routes = self.seen.routes.iter();
        let routes = routes.filter(|seen| seen.ours && seen.link == link.index);
        let texts = |list: &[String]| list.to_vec();
        LinkStatus {
            managed_by: Some(format!("network.link[{}]", port.entry)),
            role: Some(
                match port.config.role {
                    Role::Uplink => "uplink",
                    Role::Local => "local",
                }
                .to_owned(),
            ),
            metric: Some(desired::metric(&port.config, link.index)),
            addresses: here.map(|seen| address(now, seen, Some(port))).collect(),
            routes: routes
                .map(|seen| RouteStatus {
                    to: match seen.route.to.prefix_len() {
                        0 => "default".to_owned(),
                        _ => seen.route.to.to_string(),
                    },
                    via: seen.route.via.map(|via| via.to_string()),
                    metric: seen.route.metric,
                    mtu: seen.route.mtu,
                })
                .collect(),
            dhcp4: dhcp4_status(now, port),
            dhcp6: dhcp6_status(now, port),
            ra: ra_status(port),
            dns: desired.dns.iter().map(ToString::to_string).collect(),
            search: texts(&desired.search),
            ntp: desired.ntp.iter().map(ToString::to_string).collect(),
            ..self.described(now, link)
        }
    }
}

fn address(now: Duration, seen: &SeenAddress, port: Option<&Port>) -> AddressStatus {
    let net = seen.address.net;
    let fixed = port.is_some_and(|port| port.config.address.contains(&net));
    let source = match net {
        _ if seen.ours && fixed => Source::Static,
        IpNet::V4(_) if seen.ours => Source::Dhcp4,
        IpNet::V6(_) if seen.ours => Source::Dhcp6,
        IpNet::V6(net) if net.addr().is_unicast_link_local() => Source::Kernel,
        // The kernel's own of a router's prefix: they end, as those that people set do not.
        IpNet::V6(_) if seen.address.until.is_some() => Source::Ra,
        _ => Source::Foreign,
    };
    AddressStatus {
        address: net.to_string(),
        source,
        valid_s: left(now, seen.address.until),
    }
}

fn dhcp4_status(now: Duration, port: &Port) -> Option<Dhcp4Status> {
    let client = port.client()?;
    let counters = client.counters();
    let lease = client.applied();
    let questions = lease.map(|lease| lease.times.questions());
    Some(Dhcp4Status {
        phase: client.phase_name().to_owned(),
        address: lease.map(|lease| lease.address.to_string()),
        server: lease.map(|lease| lease.server.to_string()),
        lease_s: lease.and_then(|lease| lease.seconds()),
        renew_in_s: left(now, questions.map(|questions| questions.renew)),
        rebind_in_s: left(now, questions.map(|questions| questions.rebind)),
        expires_in_s: left(now, lease.and_then(|lease| lease.times.expire())),
        verified: lease.is_some() && port.verified(),
        counters: Counters {
            sent: counters.sent,
            received: counters.received,
            refused: counters.unreadable
                + counters.not_ours
                + counters.unexpected
                + counters.refused,
            bad_options: counters.malformed_options,
            naks: counters.naks,
            declines: counters.conflicts,
        },
    })
}

fn dhcp6_status(now: Duration, port: &Port) -> Option<Dhcp6Status> {
    let inet6 = port.inet6_state()?;
    let mode = match inet6.mode() {
        Mode::Off => return None,
        Mode::Stateless => "stateless",
        Mode::Stateful => "stateful",
    };
    let client = inet6.client();
    let counters = client.counters();
    let lease = client.applied();
    let first = lease.and_then(|lease| lease.hosts().first().copied());
    Some(Dhcp6Status {
        mode: mode.to_owned(),
        phase: client.phase_name().to_owned(),
        address: first.map(|address| IpNet::from(IpAddr::V6(address)).to_string()),
        server: lease.map(|lease| lease.server.iter().map(|b| format!("{b:02x}")).collect()),
        renew_in_s: left(now, lease.and_then(|lease| lease.times.renew)),
        rebind_in_s: left(now, lease.and_then(|lease| lease.times.rebind)),
        expires_in_s: left(now, lease.and_then(|lease| lease.expire())),
        counters: Counters {
            sent: counters.sent,
            received: counters.received,
            refused: counters.unreadable
                + counters.not_ours
                + counters.unexpected
                + counters.refused,
            bad_options: counters.malformed_options,
            naks: 0,
            declines: counters.declined,
        },
    })
}

fn ra_status(port: &Port) -> Option<RaStatus> {
    let flags = Flags::from_bits(port.link.inet6_flags);
    let facts = port.inet6_state().filter(|_| flags.advertised)?.facts();
    Some(RaStatus {
        managed: flags.managed,
        other: flags.other,
        dns: facts.dns().iter().map(ToString::to_string).collect(),
        search: facts.search(),
    })
}
