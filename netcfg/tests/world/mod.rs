//! A simulated wire: one client, some servers and neighbours, loss, delay, outages, restarts, and
//! a [checker](check) that looks at every single step. Time is simulated; a day takes
//! milliseconds. One seed is one run.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of the world"
)]

pub mod check;
pub mod server;

use std::time::Duration;

use dhcproto::v4::Message;
use dhcproto::{Decodable, Decoder};
use netcfg::dhcp4::arp::Arp;
use netcfg::dhcp4::client::{Action, Client, Counters, Event, Note, To};
use netcfg::dhcp4::request::Identity;
use netcfg::mac::Mac;
use netcfg::rng::Rng;
use netcfg::store::{self, Clocks};

use check::Checker;
pub use server::{Manner, Neighbour, Server, reply};

pub const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub const IDENTITY: Identity = Identity::new(MAC);
/// What the wall clock says when the world begins.
const NOON: u64 = 1_800_000_000;

#[derive(Debug, Clone)]
enum Frame {
    Dhcp(Vec<u8>),
    Arp(Vec<u8>),
}

/// How the client is started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The process alone; what is on the link stays there.
    Process,
    /// The machine, after being off for so many seconds.
    Machine { off: u64 },
    /// The machine, and its wall clock has forgotten the time.
    MachineWithoutClock { off: u64 },
    /// The machine, and the lease file is torn.
    MachineWithoutFile,
}

pub struct World {
    /// Time of the world; the client counts from its boot.
    pub now: Duration,
    pub client: Client,
    pub identity: Identity,
    pub servers: Vec<Server>,
    pub neighbours: Vec<Neighbour>,
    /// Frames lost, of 256, each way.
    pub loss: u8,
    /// T1 and T2 that servers name beside the lease time.
    pub times: Option<(u32, u32)>,
    pub checker: Checker,
    carrier: bool,
    booted: Duration,
    boots: u32,
    /// The lease file.
    pub file: Option<String>,
    rng: Rng,
    wire: Vec<(Duration, Frame)>,
    /// What the client has to have counted since it began, and the datagrams that it got.
    tally: Counters,
    payloads: u64,
    /// Everything the client did, for comparing runs.
    pub log: Vec<(Duration, Action)>,
}

impl World {
    pub fn new(seed: u64, servers: Vec<Server>, loss: u8) -> World {
        World::with(IDENTITY, seed, servers, loss)
    }

    pub fn with(identity: Identity, seed: u64, servers: Vec<Server>, loss: u8) -> World {
        let now = Duration::from_millis(1500);
        let mut rng = Rng::new(seed);
        let client = Client::new(identity.clone(), Rng::new(rng.next_u64()), now, None);
        World {
            now,
            client,
            identity,
            neighbours: servers
                .iter()
                .map(|server| Neighbour::gateway(server.id.octets()[2]))
                .collect(),
            servers,
            loss,
            times: None,
            checker: Checker::default(),
            carrier: false,
            booted: Duration::ZERO,
            boots: 1,
            file: None,
            rng,
            wire: vec![],
            tally: Counters::default(),
            payloads: 0,
            log: vec![],
        }
    }

    /// Time since boot.
    pub fn clock(&self) -> Duration {
        self.now - self.booted
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            boot_id: format!("boot-{}", self.boots),
            since_boot: self.clock(),
            wall: NOON + self.now.as_secs(),
        }
    }

    /// Starts the client anew from its file. The carrier is down until the next event.
    pub fn restart(&mut self, how: Restart) {
        let on_link = match how {
            Restart::Process => self.checker.applied.take(),
            _ => {
                self.checker.applied = None;
                None
            }
        };
        if how != Restart::Process {
            self.boots += 1;
            if let Restart::Machine { off } | Restart::MachineWithoutClock { off } = how {
                self.now += Duration::from_secs(off);
            }
            self.booted = self.now;
            self.now += Duration::from_millis(1500);
            self.wire.clear();
        }
        if how == Restart::MachineWithoutFile {
            let torn = self.rng.next_u32() as usize;
            self.file = self
                .file
                .take()
                .map(|file| file[..torn % file.len().max(1)].to_owned());
        }
        let mut clocks = self.clocks();
        if let Restart::MachineWithoutClock { .. } = how {
            clocks.wall = self.clock().as_secs();
        }
        let text = self.file.as_deref();
        let mut saved = text.and_then(|text| store::read(text, MAC, &clocks));
        if let Some(saved) = &mut saved {
            assert_ne!(how, Restart::MachineWithoutFile, "a torn file was read");
            let address = saved.lease.address.address();
            saved.applied &= on_link.as_ref().is_some_and(|on| on.address == address);
            if saved.applied {
                self.checker.applied = on_link;
            }
        }
        self.checker.age_known =
            saved.is_some() && !matches!(how, Restart::MachineWithoutClock { .. });
        self.checker.restart();
        self.tally = Counters::default();
        self.payloads = 0;
        self.carrier = false;
        let rng = Rng::new(self.rng.next_u64());
        self.client = Client::new(self.identity.clone(), rng, self.clock(), saved);
        // A lease that ended meanwhile goes with the first step; until then the kernel sees to it.
        self.step(Event::Timer);
    }

    /// Gives the client an event, checks what it does, and puts it on the wire.
    pub fn step(&mut self, event: Event<'_>) {
        let now = self.now;
        match event {
            Event::Payload(payload) => {
                self.payloads += 1;
                self.checker.payload(payload);
            }
            Event::Arp(payload) => self.note_gateway(payload),
            // In whatever network it comes back, the gateway has to answer there.
            Event::CarrierDown => self.carrier = false,
            Event::CarrierUp if !self.carrier => {
                self.carrier = true;
                self.checker.gateway_answered = false;
            }
            _ => {}
        }
        let actions = self.client.step(self.clock(), event);
        for action in actions {
            self.act(&action);
            self.log.push((now, action));
        }
        self.checker.after_step(now, self.client.applied());
        self.counted();
        if let Some(lease) = self.client.applied() {
            assert!(lease.times.is_valid_at(self.clock()), "after its lease");
        }
        if let Some(deadline) = self.client.deadline() {
            assert!(
                deadline > self.clock(),
                "a busy loop: {deadline:?} at {:?}, {:?}",
                self.clock(),
                self.client
            );
        }
        let sockets = self.client.sockets();
        assert_eq!(sockets.udp, self.checker.applied.is_some());
    }

    /// Whoever asks why there is no address is told what there was.
    fn counted(&self) {
        let counted = self.client.counters();
        let seen = |of: &Counters| [of.sent, of.arps_sent, of.naks, of.refused, of.conflicts];
        assert_eq!(seen(&counted), seen(&self.tally));
        let dropped = counted.not_ours + counted.unreadable + counted.force_renews;
        assert_eq!(counted.received + dropped, self.payloads);
    }

    fn note_gateway(&mut self, payload: &[u8]) {
        let gateways = &self.neighbours;
        if let Some(arp) = Arp::decode(payload) {
            let known = |n: &Neighbour| n.mac == arp.sender_mac && n.address == arp.sender;
            self.checker.gateway_answered |= gateways.iter().any(known);
        }
    }

    fn act(&mut self, action: &Action) {
        let now = self.now;
        match action {
            Action::Send { to, payload } => {
                self.tally.sent += 1;
                self.checker.send(now, *to, payload);
                self.transmit(payload);
            }
            Action::Arp(payload) => {
                let arp = Arp::decode(payload).expect("legal");
                assert_eq!(payload.len(), 28);
                self.tally.arps_sent += 1;
                self.checker.arp(now, &arp);
                self.transmit_arp(&arp, payload);
            }
            Action::Apply { lease, verified } => {
                if *verified {
                    self.checker.apply(now, lease);
                    self.file = Some(store::write(lease, &self.clocks()));
                } else {
                    self.checker.apply_unverified(lease);
                }
            }
            Action::Remember(lease) => {
                assert!(self.checker.applied.is_some(), "nothing to remember");
                self.file = Some(store::write(lease, &self.clocks()));
            }
            Action::Withdraw(_) => {
                assert!(self.checker.applied.take().is_some(), "withdrawn twice");
            }
            Action::Forget => {
                self.file = None;
                self.checker.saved = None;
            }
            Action::Note(Note::Nak { .. }) => self.tally.naks += 1,
            Action::Note(Note::Refused { .. }) => self.tally.refused += 1,
            Action::Note(Note::Conflict { .. }) => self.tally.conflicts += 1,
            Action::Note(_) => {}
        }
    }

    fn lost(&mut self) -> bool {
        self.rng.next_u64() % 256 < u64::from(self.loss)
    }

    fn transmit(&mut self, payload: &[u8]) {
        let Ok(asked) = Message::decode(&mut Decoder::new(payload)) else {
            return;
        };
        for at in 0..self.servers.len() {
            let delay = Duration::from_micros(200) + self.rng.up_to(Duration::from_millis(30));
            if self.lost() || self.servers[at].is_dead(self.now) {
                continue;
            }
            let times = self.times;
            let Some(answer) = self.servers[at].answer(&asked, times, &mut self.rng) else {
                continue;
            };
            if !self.lost() {
                let frame = Frame::Dhcp(answer.clone());
                self.wire.push((self.now + delay, frame));
            }
            // Now and then a frame comes twice, and late.
            if self.rng.next_u64().is_multiple_of(16) {
                let late = self.rng.up_to(Duration::from_secs(20));
                self.wire
                    .push((self.now + delay + late, Frame::Dhcp(answer)));
            }
        }
    }

    fn transmit_arp(&mut self, arp: &Arp, payload: &[u8]) {
        // Some bridges send back what they were sent.
        if self.rng.next_u64().is_multiple_of(4) {
            let echo = Frame::Arp(payload.to_vec());
            self.wire.push((self.now + Duration::from_micros(50), echo));
        }
        for at in 0..self.neighbours.len() {
            let delay = Duration::from_micros(50) + self.rng.up_to(Duration::from_millis(2));
            if let Some(answer) = self.neighbours[at].answer(arp)
                && !self.lost()
            {
                self.wire.push((self.now + delay, Frame::Arp(answer)));
            }
        }
    }

    /// Lets the world turn until `end`, or until `stop` says so. True when it did.
    pub fn run_until(&mut self, end: Duration, stop: impl Fn(&World) -> bool) -> bool {
        loop {
            if stop(self) {
                return true;
            }
            let arrival = self.wire.iter().map(|(at, _)| *at).min();
            let deadline = self.client.deadline().map(|at| at + self.booted);
            let next = [arrival, deadline].into_iter().flatten().min();
            match next.filter(|next| *next <= end) {
                None => {
                    self.now = end.max(self.now);
                    self.step(Event::Timer);
                    return stop(self);
                }
                Some(next) => self.now = next.max(self.now),
            }
            match self.wire.iter().position(|(at, _)| *at <= self.now) {
                Some(at) => match self.wire.swap_remove(at).1 {
                    Frame::Dhcp(payload) => self.step(Event::Payload(&payload)),
                    Frame::Arp(payload) => self.step(Event::Arp(&payload)),
                },
                None => self.step(Event::Timer),
            }
        }
    }

    /// Lets the world turn for `time`.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// Whether the client has an address.
    pub fn is_bound(&self) -> bool {
        self.client.applied().is_some()
    }

    /// Whether the client has an address that a server of now has granted.
    pub fn is_verified(&self) -> bool {
        self.is_bound() && matches!(self.client.phase_name(), "bound" | "renewing" | "rebinding")
    }

    pub fn did(&self, what: impl Fn(&Action) -> bool) -> bool {
        self.log.iter().any(|(_, action)| what(action))
    }

    pub fn noted(&self, what: impl Fn(&Note) -> bool) -> bool {
        self.did(|action| matches!(action, Action::Note(note) if what(note)))
    }

    pub fn sent_since(&self, at: Duration) -> Vec<To> {
        let since = self.log.iter().filter(|(when, _)| *when >= at);
        since
            .filter_map(|(_, action)| match action {
                Action::Send { to, .. } => Some(*to),
                _ => None,
            })
            .collect()
    }

    pub fn arps_since(&self, at: Duration) -> Vec<Arp> {
        let since = self.log.iter().filter(|(when, _)| *when >= at);
        since
            .filter_map(|(_, action)| match action {
                Action::Arp(payload) => Arp::decode(payload),
                _ => None,
            })
            .collect()
    }
}
