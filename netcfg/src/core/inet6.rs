//! IPv6 of one link: what the kernel does by itself, watched, and what it leaves to us.
//!
//! The kernel makes the link-local address, asks for routers and takes addresses and routes from
//! what they advertise. What it leaves to us: DNS from their options ([`ra::Facts`]), and DHCPv6
//! when their flags ask for it. The DHCPv6 client may speak as soon as there is a link-local
//! address that passed duplicate detection.
//!
//! An address of the kernel's comes without any word of ours, so what is told is read from the
//! dumps: `net.address` for the first usable global address, again when that is gone and another
//! took its place, `net.lost` when there is none any more.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::interface::Command;
use super::report::Out;
use crate::dhcp4::client::GRACE;
use crate::dhcp6::client::{Action, Client, Event, Mode, Note, Why};
use crate::dhcp6::lease::Lease6;
use crate::dhcp6::request::Identity;
use crate::link::Link;
use crate::ra::{Facts, Flags, UserOption};
use crate::reconcile::{Detection, Seen};
use crate::rng::Rng;

/// How long a router has to answer: `MAX_RA_DELAY_TIME` of half a second (RFC 4861, section 10),
/// and some more.
const ROUTER_ANSWERS: Duration = Duration::from_secs(3);

/// The IPv6 of a link.
#[derive(Debug)]
pub struct Inet6 {
    client: Client,
    facts: Facts,
    /// What the routers ask for, and what of that the client knows.
    mode: Mode,
    asked: Option<Mode>,
    /// Whether the client knows that it can speak.
    up: bool,
    /// A router was asked to repeat what an earlier run has heard, and may answer until then.
    repeats_until: Option<Duration>,
    /// Since when the carrier is away.
    carrier_lost: Option<Duration>,
    /// Whether this run has an answer about the leased address.
    decided: bool,
    /// The address that was told last.
    told: Option<IpNet>,
    /// Why the next address that goes is gone.
    reason: &'static str,
}

impl Inet6 {
    /// Nothing is known yet of the link.
    pub fn new(link: &Link, seed: u64, now: Duration) -> Inet6 {
        let identity = Identity { mac: link.mac };
        Inet6 {
            client: Client::new(identity, Rng::new(seed), now),
            facts: Facts::new(),
            mode: Flags::from_bits(link.inet6_flags).mode(),
            asked: None,
            repeats_until: None,
            up: false,
            carrier_lost: None,
            decided: false,
            told: None,
            reason: "expired",
        }
    }

    /// When [`Inet6::step`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        let grace = self.carrier_lost.map(|lost| lost.saturating_add(GRACE));
        let facts = self.facts.deadline();
        [self.client.deadline(), facts, grace, self.repeats_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a router may be about to repeat what an earlier run has heard.
    pub fn awaits_router(&self) -> bool {
        self.repeats_until.is_some()
    }

    /// The lease that is in force.
    pub fn lease(&self) -> Option<&Lease6> {
        self.client.applied()
    }

    /// What routers said.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the routers ask for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether an address of an earlier run may still be confirmed.
    pub fn undecided(&self) -> bool {
        self.mode == Mode::Stateful && !self.decided
    }

    /// Whether the client wants its socket.
    pub fn wants_socket(&self) -> bool {
        self.client.wants_socket()
    }

    /// What is due. True when there is something to settle.
    pub fn tick(&mut self, link: &Link, out: &mut Out) -> bool {
        let mut unsettled = self.facts.expire(out.now);
        if self.repeats_until.is_some_and(|until| out.now >= until) {
            self.repeats_until = None;
            unsettled = true;
        }
        let lost = self.carrier_lost.map(|lost| lost.saturating_add(GRACE));
        if lost.is_some_and(|at| out.now >= at) {
            // Perhaps another network is at the end of the cable when it is back.
            self.carrier_lost = None;
            unsettled |= self.facts.clear();
        }
        if self.client.deadline().is_some_and(|at| out.now >= at) {
            unsettled |= self.step(Event::Timer, link, out);
        }
        unsettled
    }

    /// A router said something. True when there is something to settle.
    pub fn option(&mut self, option: UserOption, now: Duration) -> bool {
        self.repeats_until = None;
        self.facts.step(now, option)
    }

    /// The link changed. True when there is something to settle.
    pub fn update(&mut self, link: &Link, out: &mut Out) -> bool {
        if link.carrier {
            self.carrier_lost = None;
        } else if self.up {
            self.carrier_lost = self.carrier_lost.or(Some(out.now));
            self.up = false;
            return self.step(Event::LinkDown, link, out);
        }
        self.mode = Flags::from_bits(link.inet6_flags).mode();
        if self.asked == Some(self.mode) {
            return false;
        }
        self.asked = Some(self.mode);
        self.step(Event::Mode(self.mode), link, out)
    }

    /// What the kernel has changed. True when there is something to settle.
    pub fn see(&mut self, link: &Link, seen: &Seen, out: &mut Out) -> bool {
        let here = seen.addresses.iter().filter(|seen| seen.link == link.index);
        let mut unsettled = false;
        let local = |net: &IpNet| matches!(net, IpNet::V6(net) if is_link_local(net.addr()));
        let speaks = here
            .clone()
            .any(|seen| seen.detection == Detection::Passed && local(&seen.address.net));
        if link.carrier && speaks && !self.up {
            self.up = true;
            // The kernel asks routers when the link comes up, and does not keep all of their
            // answer. When one came before this run began, it has to be heard again.
            if self.facts == Facts::new() && Flags::from_bits(link.inet6_flags).advertised {
                self.repeats_until = Some(out.now + ROUTER_ANSWERS);
                out.push(Command::Solicit { link: link.index });
            }
            unsettled |= self.step(Event::LinkUp, link, out);
        }
        let failed = here.filter(|seen| seen.ours && seen.detection == Detection::Failed);
        for seen in failed {
            if let IpAddr::V6(address) = seen.address.net.addr()
                && self.lease().is_some_and(|l| l.hosts().contains(&address))
            {
                unsettled |= self.step(Event::AddressConflict(address), link, out);
            }
        }
        unsettled
    }

    /// Gives the client an event and does what it says. True when there is something to settle.
    pub fn step(&mut self, event: Event<'_>, link: &Link, out: &mut Out) -> bool {
        let before = self.lease().map(Lease6::hosts);
        let mut unsettled = false;
        for action in self.client.step(out.now, event) {
            match action {
                Action::Send { payload } => out.push(Command::Send6 {
                    link: link.index,
                    payload,
                }),
                Action::Apply(lease) => {
                    self.decided = true;
                    unsettled = true;
                    if let (Some(first), true) =
                        (lease.hosts().first(), before == Some(lease.hosts()))
                    {
                        let fields = vec![
                            ("link", link.name.clone()),
                            ("address", format!("{first}/128")),
                        ];
                        out.event("net.renewed", fields);
                    }
                }
                Action::Withdraw(why) => {
                    self.decided = true;
                    unsettled = true;
                    self.reason = reason(why);
                }
                Action::Note(note) => tell(&link.name, note, out),
            }
        }
        unsettled
    }

    /// Tells which global address there is, if that changed. `fixed` are those of the
    /// configuration, which are told otherwise.
    pub fn announce(
        &mut self,
        link: &Link,
        fixed: &[IpNet],
        seen: &Seen,
        dns: &str,
        out: &mut Out,
    ) {
        let mut usable: Vec<IpNet> = seen
            .addresses
            .iter()
            .filter(|seen| seen.link == link.index && seen.detection == Detection::Passed)
            .map(|seen| seen.address.net)
            .filter(|net| matches!(net, IpNet::V6(net) if !is_link_local(net.addr())))
            .filter(|net| !fixed.contains(net))
            .collect();
        usable.sort();
        if self.told.is_some_and(|told| usable.contains(&told)) {
            return;
        }
        let lost = std::mem::replace(&mut self.told, usable.first().copied());
        match (self.told, lost) {
            (Some(address), _) => {
                let mut fields = vec![
                    ("link", link.name.clone()),
                    ("address", address.to_string()),
                ];
                let router = seen.routes.iter().find(|seen| {
                    let to = seen.route.to;
                    seen.link == link.index && to.prefix_len() == 0 && to.addr().is_ipv6()
                });
                let via = router.and_then(|router| router.route.via);
                fields.extend(via.map(|via| ("gateway", via.to_string())));
                if !dns.is_empty() {
                    fields.push(("dns", dns.to_owned()));
                }
                out.event("net.address", fields);
            }
            (None, Some(address)) => {
                let fields = vec![
                    ("link", link.name.clone()),
                    ("address", address.to_string()),
                    ("reason", self.reason.to_owned()),
                ];
                out.event("net.lost", fields);
            }
            (None, None) => {}
        }
        self.reason = "expired";
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local()
}

/// The reason of `net.lost`.
const fn reason(why: Why) -> &'static str {
    match why {
        Why::Expired => "expired",
        Why::Refused => "nak",
        Why::Carrier => "carrier",
        Why::Conflict => "conflict",
        Why::Released => "released",
        Why::Mode => "mode",
    }
}

fn tell(link: &str, note: Note, out: &mut Out) {
    let (reason, details) = match note {
        Note::Refused {
            server,
            why,
            message,
        } => {
            let duid: String = server.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut details = vec![("server", duid), ("detail", why.to_string())];
            if !message.is_empty() {
                details.push(("message", message));
            }
            ("dhcp6-refused", details)
        }
        Note::Silence { sent } => ("dhcp6-silence", vec![("sent", sent.to_string())]),
        Note::Conflict { address } => ("dhcp6-conflict", vec![("address", address.to_string())]),
    };
    out.warning(link, reason, details);
}
