//! The core of the network part: what is to be done, given what happened. Pure.
//!
//! [`Core::step`] takes the time and one [`Input`] and gives back [`Command`]s; the driver carries
//! them out in order and brings the answers before anything else. There is no clock, no socket and
//! no randomness in here but a seed.
//!
//! It goes round in three movements:
//!
//! - **look**: dump the links, find those that the configuration covers, give each a [`Port`] with
//!   its clients, and tell the clients of carriers;
//! - **step**: give a client what happened (a datagram, a deadline), and pass on what it wants;
//! - **settle**: compare what the links should have with what they have, apply the difference, and
//!   look again until there is none. Only then is `resolv.conf` written, and only after that is
//!   the event told, so that whoever reads it finds everything in place (or has read a warning
//!   before). What is slow and nobody waits for comes last.
//!
//! A notification of the kernel says no more than that something is different: the answer is always
//! a new dump. So a lost notification, a restart of this program and somebody else's `ip addr del`
//! are one case. What fails is told and tried again, later and later.

mod inet6;
mod interface;
mod port;
mod report;
mod settle;
mod status;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::interface::{Command, Doing, Event, Failure, Input, Setting, Socket};
use self::port::Port;
use self::report::Out;
use self::settle::Settling;
use self::time::Time;
use crate::config::Config;
use crate::dhcp4::arp::Arp;
use crate::dhcp4::client;
use crate::dhcp4::pace::{self, Budget};
use crate::dhcp6;
use crate::link::Link;
use crate::ra;
use crate::reconcile::Seen;
use crate::rng::Rng;
use crate::store::{self, Clocks};

/// For so long after it was first in vain, making a VLAN is tried again without a word: the kernel's
/// module for it is loaded by another process that starts with this one.
const MODULE_PATIENCE: Duration = Duration::from_secs(5);

/// The state of the network part.
#[derive(Debug)]
pub struct Core {
    config: Config,
    rng: Rng,
    time: Time,
    ports: BTreeMap<u32, Port>,
    /// All links, managed or not, as they were when last asked for.
    links: Vec<Link>,
    /// What the kernel had when it was last asked.
    seen: Seen,
    out: Out,
    /// Links or addresses may have changed.
    look: bool,
    /// What is and what should be may differ.
    unsettled: bool,
    /// A settling that waits for an answer.
    settling: Option<Settling>,
    /// A route of ours waits for its place.
    blocked: bool,
    /// The loopback link could not be switched on.
    loopback_failed: bool,
    /// Failures in a row, and when to try again.
    failures: u32,
    retry: Option<Duration>,
    /// Against somebody who undoes what we do as fast as we do it.
    budget: Budget,
    /// What `resolv.conf` holds, once known.
    resolv_conf: Option<String>,
    /// VLANs that were asked for, by name and the number of the link that carries them.
    vlans: BTreeSet<(String, u32)>,
    /// When making one was in vain for the first time.
    vlan_failed: Option<Duration>,
    /// What of the sandbox is not in force.
    sandbox_gap: Option<String>,
    resolver_path: String,
}

/// What a core begins with.
#[derive(Debug, Clone)]
pub struct Start {
    /// The time since boot.
    pub now: Duration,
    /// When the program was built, since 1970: no time before that is possible.
    pub built: Duration,
    /// For transaction ids and jitter, which everybody on the wire may know.
    pub seed: u64,
    /// For the numbers by which the answers of time servers are known. Nobody must be able to
    /// guess it; it is no function of the other.
    pub time_seed: u64,
    /// Where `resolv.conf` is, for people.
    pub resolv_conf: String,
}

impl Core {
    /// A core that has seen nothing, and what it wants first.
    pub fn new(config: Config, start: Start) -> (Core, Vec<Command>) {
        let Start {
            now,
            built,
            seed,
            time_seed,
            resolv_conf: resolver_path,
        } = start;
        let core = Core {
            config,
            rng: Rng::new(seed),
            time: Time::new(time_seed, now, built),
            ports: BTreeMap::new(),
            links: Vec::new(),
            seen: Seen::default(),
            out: Out::default(),
            look: false,
            unsettled: false,
            settling: None,
            blocked: false,
            loopback_failed: false,
            failures: 0,
            retry: None,
            budget: Budget::new(now),
            resolv_conf: None,
            vlans: BTreeSet::new(),
            vlan_failed: None,
            sandbox_gap: None,
            resolver_path,
        };
        // What an earlier run wrote comes before anything that could lead to writing it anew.
        let first = vec![Command::LoopbackUp, Command::ReadResolvConf, Command::Look];
        (core, first)
    }

    /// One input at one time. What was due by then happens as well.
    #[must_use]
    pub fn step(&mut self, now: Duration, input: Input<'_>) -> Vec<Command> {
        self.out.now = now;
        self.take(input);
        self.tick();
        self.out.take()
    }

    /// When [`Core::step`] must be called again, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let clients = self.ports.values().filter_map(Port::deadline);
        let rest = [self.retry, self.time.deadline()];
        clients.chain(rest.into_iter().flatten()).min()
    }

    fn take(&mut self, input: Input<'_>) {
        match input {
            Input::Timer => {}
            Input::Changed => {
                self.look = true;
                self.unsettled = true;
            }
            Input::RouteGone { ours } => self.unsettled |= ours || self.blocked,
            Input::Links(links) => self.links(links),
            Input::Seen(seen) => self.seen(seen),
            Input::Lease { link, text, clocks } => self.lease(link, text.as_deref(), &clocks),
            Input::Gap(what, detail) => {
                if what == "sandbox" {
                    self.sandbox_gap = Some(detail.clone());
                }
                self.out.warning("", what, vec![("detail", detail)]);
            }
            Input::ResolvConf(text) => self.resolv_conf = text,
            Input::Applied(failures) => self.applied(failures),
            Input::Written(failure) => self.written(failure),
            Input::Dhcp4 { link, payload } => {
                self.client(link, client::Event::Payload(payload));
            }
            Input::Arp { link, payload } => self.arp(link, payload),
            Input::Dhcp6 { link, payload } => {
                if let Some(port) = self.ports.get_mut(&link) {
                    let event = dhcp6::client::Event::Payload(payload);
                    self.unsettled |= port.step6(event, &mut self.out);
                }
            }
            Input::RouterOptions(datagram) => {
                for option in ra::parse(datagram).options {
                    if let Some(port) = self.ports.get_mut(&option.link) {
                        self.unsettled |= port.router_option(option, self.out.now);
                    }
                }
            }
            Input::Ntp {
                from,
                bytes,
                at,
                wall,
            } => self.time.receive([at, wall], from, bytes, &mut self.out),
            Input::Failed(failure) => self.failure(failure),
        }
    }

    fn client(&mut self, link: u32, event: client::Event<'_>) {
        if let Some(port) = self.ports.get_mut(&link) {
            self.unsettled |= port.step(event, &mut self.out);
        }
    }

    /// Two of our own links may be on one wire: what one says is no neighbour of the other.
    fn arp(&mut self, link: u32, payload: &[u8]) {
        let sender = Arp::decode(payload).map(|arp| arp.sender_mac);
        let own = |sender| self.links.iter().any(|link| link.mac == sender);
        if sender.is_some_and(|sender| !own(sender)) {
            self.client(link, client::Event::Arp(payload));
        }
    }

    /// What is due.
    fn tick(&mut self) {
        let now = self.out.now;
        if self.retry.is_some_and(|retry| now >= retry) {
            self.retry = None;
            self.look = true;
            self.unsettled = true;
            if std::mem::take(&mut self.loopback_failed) {
                self.out.push(Command::LoopbackUp);
            }
        }
        for port in self.ports.values_mut() {
            if port.deadline().is_some_and(|deadline| now >= deadline) {
                self.unsettled |= port.tick(&mut self.out);
            }
        }
        self.time.tick(&mut self.out);
        // In the middle of a settling nothing else is started: it ends before other news come.
        if self.settling.is_some() {
            return;
        }
        if std::mem::take(&mut self.look) {
            self.out.push(Command::Look);
        }
        if self.unsettled {
            self.settle();
        }
    }

    /// Compares the links with the ports: new ones, gone ones, carriers.
    fn links(&mut self, links: Vec<Link>) {
        self.links.clone_from(&links);
        let same = |index: u32, port: &Port| {
            // A number with another address is another card.
            let mut links = links.iter();
            links.any(|link| link.index == index && link.mac == port.link.mac)
        };
        let gone: Vec<u32> = self
            .ports
            .iter()
            .filter(|(index, port)| !same(**index, port))
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            if let Some(port) = self.ports.remove(&index) {
                port.gone(&mut self.out);
                self.unsettled = true;
            }
        }
        self.make_vlans(&links);
        // Without any link of ours there is still a file to write.
        self.unsettled |= self.resolv_conf.is_none();
        for link in links {
            if let Some(port) = self.ports.get_mut(&link.index) {
                self.unsettled |= port.update(&link, &mut self.out);
                port.prepare(&mut self.out);
            } else if let Some((entry, config)) = self.config.entry(&link) {
                let (index, mac) = (link.index, link.mac);
                let seed = self.rng.next_u64();
                let now = self.out.now;
                let mut port = Port::new(link.clone(), (entry, config.clone()), seed, now);
                port.prepare(&mut self.out);
                if !link.carrier {
                    // It is about to come up, or has no cable; down after up is another matter.
                    self.out.routine("net.link", port.link_fields());
                }
                if port.wants_lease() {
                    // First whether its address is still there.
                    self.out.push(Command::See);
                    self.out.push(Command::ReadLease { link: index, mac });
                } else {
                    port.update(&link, &mut self.out);
                }
                self.ports.insert(index, port);
                self.unsettled = true;
            }
        }
    }

    /// Asks for the VLANs whose carrier is there, once for each.
    fn make_vlans(&mut self, links: &[Link]) {
        for vlan in &self.config.vlan {
            let carrier = links.iter().find(|link| link.name == vlan.link);
            let there = links.iter().any(|link| link.name == vlan.name);
            let Some(carrier) = carrier else { continue };
            let key = (vlan.name.clone(), carrier.index);
            if there {
                // So that it is made again, should somebody remove it.
                self.vlans.remove(&key);
            } else if self.vlans.insert(key) {
                self.out.push(Command::AddVlan {
                    name: vlan.name.clone(),
                    link: carrier.index,
                    id: vlan.id,
                });
            }
        }
    }

    /// A new port learns which lease was kept for it, and begins.
    fn lease(&mut self, link: u32, text: Option<&str>, clocks: &Clocks) {
        let seed = self.rng.next_u64();
        let Some(port) = self.ports.get_mut(&link).filter(|port| port.wants_lease()) else {
            return;
        };
        let mut saved = text.and_then(|text| store::read(text, port.link.mac, clocks));
        if let Some(saved) = &mut saved {
            // Of this boot; but is it still there?
            saved.applied &=
                self.seen.addresses.iter().any(|seen| {
                    seen.link == link && seen.address.net == saved.lease.address.into()
                });
        }
        port.start(seed, saved, &self.out);
        let described = port.link.clone();
        self.unsettled |= port.update(&described, &mut self.out);
    }

    fn failure(&mut self, failure: Failure) {
        let Failure { doing, link, why } = failure;
        let name = match doing {
            Doing::Loopback => "lo".to_owned(),
            _ => link.map(|link| self.name(link)).unwrap_or_default(),
        };
        let (reason, again) = match doing {
            Doing::Asking => ("netlink", true),
            Doing::Preparing | Doing::Loopback => ("link-up", true),
            Doing::Setting => ("sysctl", false),
            Doing::Making => ("link-new", true),
            Doing::Opening(_) => ("socket", false),
            Doing::Sending => ("send", false),
            Doing::Receiving => ("receive", false),
            Doing::Storing => ("lease-store", false),
        };
        match doing {
            Doing::Asking => self.settling = None,
            Doing::Loopback => self.loopback_failed = true,
            _ => {}
        }
        let mut patient = false;
        if doing == Doing::Making {
            self.vlans.clear();
            let first = *self.vlan_failed.get_or_insert(self.out.now);
            patient = self.out.now.saturating_sub(first) < MODULE_PATIENCE;
        }
        if let Some(port) = link.and_then(|link| self.ports.get_mut(&link)) {
            match doing {
                Doing::Preparing => port.prepared = false,
                Doing::Opening(socket) => port.lost_socket(socket),
                _ => {}
            }
        }
        if !patient {
            self.out.warning(&name, reason, vec![("detail", why)]);
        }
        if again {
            self.try_again();
        }
    }

    /// Plans another try.
    fn try_again(&mut self) {
        if self.retry.is_none() {
            let wait = pace::retry(self.failures, &mut self.rng);
            self.retry = Some(self.out.now + wait);
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn name(&self, link: u32) -> String {
        let port = self.ports.get(&link);
        port.map_or_else(|| link.to_string(), |port| port.link.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_that_cannot_be_made_is_tried_again_and_told_only_if_that_goes_on() {
        let text = "[[vlan]]\nname = 'eth0.7'\nlink = 'eth0'\nid = 7\n[[link]]\ndhcp4 = false";
        let start = Start {
            now: Duration::ZERO,
            built: Duration::ZERO,
            seed: 1,
            time_seed: 2,
            resolv_conf: String::new(),
        };
        let (mut core, _) = Core::new(toml::from_str(text).unwrap(), start);
        let link = Link {
            index: 2,
            name: "eth0".to_owned(),
            ..Link::default()
        };
        let mut now = Duration::ZERO;
        let mut tries = 0;
        loop {
            let wanted = core.step(now, Input::Links(vec![link.clone()]));
            let vlan = |command: &Command| matches!(command, Command::AddVlan { id: 7, .. });
            assert!(wanted.iter().any(vlan), "not tried again: {wanted:?}");
            tries += 1;
            let failure = Failure {
                doing: Doing::Making,
                link: Some(2),
                why: "not supported".to_owned(),
            };
            let said = core.step(now, Input::Failed(failure));
            let warning = |command: &Command| matches!(command, Command::Event(event) if event.name == "net.warning");
            let told = said.iter().any(warning);
            assert_eq!(told, now >= MODULE_PATIENCE, "at {now:?}: {said:?}");
            if told {
                break;
            }
            now = core.deadline().expect("another try");
        }
        assert!(tries > 2, "{tries}");
    }
}
