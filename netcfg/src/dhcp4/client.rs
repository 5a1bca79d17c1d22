//! The DHCPv4 client of one link as a pure state machine (RFC 2131, section 4.4).
//!
//! [`Client::step`] takes the time and one event and gives back what is to be done;
//! [`Client::deadline`] says when to call it again at the latest. There is no clock, no socket
//! and no randomness in here but a generator with a seed: the same events at the same times give
//! the same actions, byte for byte. Time is the time since boot, suspend included.
//!
//! ```text
//!            carrier, no lease              carrier, a lease is remembered
//!   Off ───────────────────────▶ Selecting ◀──400 ms── Rebooting ◀── Off
//!                     DISCOVER  │  ▲   ▲  silence        │ REQUEST (INIT-REBOOT)
//!                         OFFER │  │   │                 │ ACK        NAK: Selecting
//!                               ▼  │   └──── NAK ──┐     ▼
//!                          Requesting ──── ACK ────┼──▶ Bound ──T1──▶ Renewing ──T2──▶ Rebinding
//!                               │ NAK              │      ▲              │ ACK            │ ACK
//!                               ▼                  │      └──────────────┴────────────────┘
//!                           HoldBack ──────────────┘         expiry: Selecting
//! ```
//!
//! Beside the phase there is the lease that is *held*. It may be applied to the link in phases
//! other than Bound: after a short loss of carrier the address stays while the client asks
//! whether it is still good. Two rules hold in every phase and are checked before anything else
//! happens in a step: a lease that is over is withdrawn, and one whose carrier is away for
//! longer than [`GRACE`] is withdrawn but remembered.
//!
//! What differs from the letter of the RFC, and why:
//! - no random delay before the first DISCOVER (4.4.1): it protects a building full of desktops
//!   after a power cut, and costs each of our boots seconds. Retries are jittered.
//! - the lease from before is asked for and, 400 ms later, a DISCOVER goes out beside it: a
//!   server that does not know the old address may stay silent, and waiting for it costs seconds.
//! - a server that refused or never confirmed its own offer is passed over for a minute when
//!   there is another.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::lease::{Lease, Refused};
use super::pace::{self, Budget};
use super::reply::{Kind, Reply};
use super::request::{self, Ask, Identity};
use crate::rng::Rng;

/// How long the carrier may be away before the address goes: a flapping port, a restarted
/// switch or a migrated machine should not break connections.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long a remembered lease is asked for alone, before DISCOVER goes out beside it.
const OVERLAP: Duration = Duration::from_millis(400);
/// REQUESTs for one offer before it is given up (1 + 2 + 4 + 8 s).
const REQUESTS: u32 = 4;
/// How long a server that broke its own offer is passed over.
const SHUN: Duration = Duration::from_secs(60);
/// At most so many servers are remembered for that; the wire may have liars by the thousand.
const MAX_SHUNNED: usize = 8;
/// Unanswered DISCOVERs (about seven seconds) before a person should hear of it.
const SILENCE: u32 = 3;
/// Requests for more time whose answers are still accepted. Each has its own transaction id, so
/// that an answer tells which of them it confirms, and the lease runs from that one.
const REMEMBERED_REQUESTS: usize = 8;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The link can carry frames.
    CarrierUp,
    /// It cannot, or is gone.
    CarrierDown,
    /// The payload of a datagram to the client port of this link.
    Payload(&'a [u8]),
    /// Nothing but time passing.
    Timer,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this DHCP message.
    Send {
        /// How.
        to: To,
        /// The message.
        payload: Vec<u8>,
    },
    /// This lease is now the one of the link: configure it, or refresh its lifetimes, and keep
    /// it for the next start.
    Apply(Box<Lease>),
    /// Take the lease off the link.
    Withdraw(Why),
    /// Do not keep the lease for the next start any more.
    Forget,
    /// Something a person may want to know.
    Note(Note),
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// From no address to everybody on the link, as a raw packet.
    Broadcast,
    /// From the leased address to everybody on the link.
    BroadcastFromLease,
    /// From the leased address to one server.
    Unicast(Ipv4Addr),
}

/// Why an address was withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The lease is over.
    Expired,
    /// The server said no.
    Nak,
    /// The carrier is away.
    Carrier,
}

/// Things that are no action but worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A server said no.
    Nak {
        /// Which.
        server: Option<Ipv4Addr>,
        /// Its words, printable.
        message: Option<String>,
    },
    /// An offer or confirmation that gives no usable lease.
    Refused {
        /// From whom.
        server: Option<Ipv4Addr>,
        /// What is wrong with it.
        why: Refused,
    },
    /// Nobody answered for a while.
    Silence {
        /// DISCOVERs sent so far.
        sent: u32,
    },
}

/// What was dropped, and how often; for whoever asks why there is no address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages sent.
    pub sent: u64,
    /// Messages not sent because of the [budget](Budget).
    pub suppressed: u64,
    /// Payloads that are no DHCP answer.
    pub unreadable: u64,
    /// Answers to somebody else.
    pub not_ours: u64,
    /// Answers to us that nobody asked for (any more).
    pub unexpected: u64,
    /// Options ignored because they were malformed.
    pub malformed_options: u64,
    /// Offers and confirmations without a usable lease.
    pub refused: u64,
    /// NAKs obeyed.
    pub naks: u64,
}

/// Which sockets the present phase needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// Whole packets, address or not.
    pub raw: bool,
    /// UDP on the client port, as soon as there is an address; open while bound even when nothing
    /// is asked, for without it the kernel tells the server that the port is unreachable.
    pub udp: bool,
}

/// A message that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    xid: u32,
    at: Duration,
}

/// A message sent again and again under one transaction id.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    xid: u32,
    started: Duration,
    sent: u32,
    again: Duration,
    with_mtu: bool,
}

#[derive(Debug)]
enum Phase {
    Off,
    HoldBack {
        until: Duration,
    },
    Rebooting {
        asked: Asked,
        until: Duration,
    },
    Selecting {
        attempt: Attempt,
        /// An offer of a shunned server, taken when nobody else offers.
        parked: Option<Box<Lease>>,
        /// The question of Rebooting; its ACK is still welcome.
        reboot: Option<Asked>,
    },
    Requesting {
        attempt: Attempt,
        offer: Box<Lease>,
    },
    Bound {
        renew: Option<Duration>,
    },
    /// Renewing and Rebinding: the same but for whom is asked and when it ends.
    Extending {
        any_server: bool,
        started: Duration,
        again: Duration,
        until: Duration,
        asked: Vec<Asked>,
    },
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    applied: bool,
}

/// A lease from before: from the last run of this program, or of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The lease; its times are on our clock.
    pub lease: Lease,
    /// Whether its address is on the link right now.
    pub applied: bool,
}

/// The client of one link.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    rng: Rng,
    budget: Budget,
    phase: Phase,
    held: Option<Held>,
    /// The address to wish for in a DISCOVER.
    wish: Option<Ipv4Addr>,
    carrier_lost: Option<Duration>,
    naks: u32,
    shunned: Vec<(Ipv4Addr, Duration)>,
    counters: Counters,
    out: Vec<Action>,
}

impl Client {
    /// A client on a link without carrier. With a carrier, [`Event::CarrierUp`] comes next.
    pub fn new(identity: Identity, rng: Rng, now: Duration, saved: Option<Saved>) -> Client {
        let wish = saved.as_ref().map(|saved| saved.lease.address.address());
        let held = saved
            .filter(|saved| saved.applied || saved.lease.times.is_valid_at(now))
            .map(|Saved { lease, applied }| Held { lease, applied });
        Client {
            identity,
            rng,
            budget: Budget::new(now),
            phase: Phase::Off,
            carrier_lost: held.as_ref().map(|_| now),
            held,
            wish,
            naks: 0,
            shunned: Vec::new(),
            counters: Counters::default(),
            out: Vec::new(),
        }
    }

    /// One event at one time. What was due by then happens first.
    #[must_use]
    pub fn step(&mut self, now: Duration, event: Event<'_>) -> Vec<Action> {
        self.enforce(now);
        self.tick(now);
        match event {
            Event::Timer => {}
            Event::CarrierUp => self.carrier_up(now),
            Event::CarrierDown => self.carrier_down(now),
            Event::Payload(payload) => self.receive(now, payload),
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Client::step`] must be called again, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Off => None,
            Phase::HoldBack { until } | Phase::Rebooting { until, .. } => Some(*until),
            Phase::Selecting { attempt, .. } | Phase::Requesting { attempt, .. } => {
                Some(attempt.again)
            }
            Phase::Bound { renew } => *renew,
            Phase::Extending { again, until, .. } => Some(*again.min(until)),
        };
        let applied = self.held.as_ref().filter(|held| held.applied);
        let expiry = applied.and_then(|held| held.lease.times.expire());
        let grace = applied
            .and(self.carrier_lost)
            .map(|lost| lost.saturating_add(GRACE));
        [phase, expiry, grace].into_iter().flatten().min()
    }

    /// The lease that is on the link.
    pub fn applied(&self) -> Option<&Lease> {
        let held = self.held.as_ref().filter(|held| held.applied);
        held.map(|held| &held.lease)
    }

    /// Whether there is a lease to ask for again, on the link or not.
    pub fn remembers(&self) -> bool {
        self.held.is_some()
    }

    /// The sockets to listen on.
    pub fn sockets(&self) -> Sockets {
        Sockets {
            raw: matches!(
                self.phase,
                Phase::Rebooting { .. } | Phase::Selecting { .. } | Phase::Requesting { .. }
            ),
            udp: self.applied().is_some(),
        }
    }

    /// A word for the phase, as RFC 2131 has it.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Off => "off",
            Phase::HoldBack { .. } => "init",
            Phase::Rebooting { .. } => "rebooting",
            Phase::Selecting { .. } => "selecting",
            Phase::Requesting { .. } => "requesting",
            Phase::Bound { .. } => "bound",
            Phase::Extending {
                any_server: false, ..
            } => "renewing",
            Phase::Extending {
                any_server: true, ..
            } => "rebinding",
        }
    }

    /// What was sent and dropped so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The two rules that hold in every phase.
    fn enforce(&mut self, now: Duration) {
        let Some(held) = &mut self.held else { return };
        if !held.lease.times.is_valid_at(now) {
            self.drop_lease(Why::Expired);
            if matches!(self.phase, Phase::Bound { .. } | Phase::Extending { .. }) {
                self.discover(now, None);
            }
            return;
        }
        let away = self
            .carrier_lost
            .is_some_and(|lost| now >= lost.saturating_add(GRACE));
        if held.applied && away {
            held.applied = false;
            self.out.push(Action::Withdraw(Why::Carrier));
        }
    }

    /// Forgets the lease, and takes it off the link if it is there.
    fn drop_lease(&mut self, why: Why) {
        let Some(held) = self.held.take() else { return };
        if held.applied {
            self.out.push(Action::Withdraw(why));
        }
        self.out.push(Action::Forget);
        // A refused address is not worth wishing for; an expired one may still be free.
        self.wish = (why == Why::Expired).then_some(held.lease.address.address());
    }

    fn carrier_up(&mut self, now: Duration) {
        self.carrier_lost = None;
        if !matches!(self.phase, Phase::Off) {
            return;
        }
        let Some(held) = &self.held else {
            return self.discover(now, None);
        };
        // Perhaps the cable is in another socket now: ask before trusting, but keep the address
        // that is there until somebody says no.
        let address = held.lease.address.address();
        let asked = Asked {
            xid: self.rng.next_u32(),
            at: now,
        };
        self.phase = Phase::Rebooting {
            asked,
            until: now + OVERLAP,
        };
        self.send(
            now,
            To::Broadcast,
            Ask::Reboot { address },
            asked.xid,
            now,
            true,
        );
    }

    fn carrier_down(&mut self, now: Duration) {
        if self.carrier_lost.is_none() {
            self.carrier_lost = Some(now);
        }
        self.phase = Phase::Off;
    }

    /// What the phase wants done by now.
    fn tick(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::HoldBack { until } if now >= *until => self.discover(now, None),
            Phase::Rebooting { asked, until } if now >= *until => {
                let asked = *asked;
                self.discover(now, Some(asked));
            }
            Phase::Selecting {
                attempt, parked, ..
            } if now >= attempt.again => match parked.take() {
                Some(offer) => {
                    let attempt = *attempt;
                    self.request(now, attempt, offer);
                }
                None => self.discover_again(now),
            },
            Phase::Requesting { attempt, offer } if now >= attempt.again => {
                if attempt.sent >= REQUESTS {
                    let server = offer.server;
                    self.shun(now, server);
                    self.discover(now, None);
                } else {
                    self.request_again(now);
                }
            }
            Phase::Bound { renew: Some(renew) } if now >= *renew => self.extend(now),
            Phase::Extending { again, until, .. } if now >= *again || now >= *until => {
                self.extend(now);
            }
            _ => {}
        }
    }

    /// Starts looking for a server.
    fn discover(&mut self, now: Duration, reboot: Option<Asked>) {
        self.phase = Phase::Selecting {
            attempt: Attempt {
                xid: self.rng.next_u32(),
                started: reboot.map_or(now, |asked| asked.at),
                sent: 0,
                again: now,
                with_mtu: true,
            },
            parked: None,
            reboot,
        };
        self.discover_again(now);
    }

    fn discover_again(&mut self, now: Duration) {
        let Phase::Selecting { attempt, .. } = &mut self.phase else {
            return;
        };
        attempt.again = now + pace::retry(attempt.sent, &mut self.rng);
        attempt.sent = attempt.sent.saturating_add(1);
        // Azure's server is silent when asked for the MTU: leave that out now and then, but not
        // for the first frame or two, which a slow switch port may have swallowed.
        attempt.with_mtu = attempt.sent < 3 || attempt.sent.is_multiple_of(2);
        let attempt = *attempt;
        if attempt.sent == SILENCE + 1 {
            self.out.push(Action::Note(Note::Silence { sent: SILENCE }));
        }
        let ask = Ask::Discover { wish: self.wish };
        self.send(
            now,
            To::Broadcast,
            ask,
            attempt.xid,
            attempt.started,
            attempt.with_mtu,
        );
    }

    /// Takes an offer, under the transaction id it came with.
    fn request(&mut self, now: Duration, attempt: Attempt, offer: Box<Lease>) {
        self.phase = Phase::Requesting {
            attempt: Attempt {
                sent: 0,
                again: now,
                ..attempt
            },
            // The lease runs from the first REQUEST: its repetitions share the id, and an ACK
            // does not tell which of them it answers.
            offer: Box::new(Lease {
                times: super::lease::Times {
                    granted: now,
                    end: None,
                },
                ..*offer
            }),
        };
        self.request_again(now);
    }

    fn request_again(&mut self, now: Duration) {
        let Phase::Requesting { attempt, offer } = &mut self.phase else {
            return;
        };
        attempt.again = now + pace::retry(attempt.sent, &mut self.rng);
        attempt.sent += 1;
        let attempt = *attempt;
        let ask = Ask::Select {
            address: offer.address.address(),
            server: offer.server,
        };
        self.send(
            now,
            To::Broadcast,
            ask,
            attempt.xid,
            attempt.started,
            attempt.with_mtu,
        );
    }

    /// Asks for more time: the server until T2, everybody after.
    fn extend(&mut self, now: Duration) {
        let Some((lease, end)) = self
            .held
            .as_ref()
            .and_then(|held| Some((&held.lease, held.lease.times.end?)))
        else {
            // No lease, or one without end: nothing to extend.
            return;
        };
        let (address, server) = (lease.address.address(), lease.server);
        let any_server = now >= end.rebind;
        let until = if any_server { end.expire } else { end.rebind };
        let (started, mut asked) = match &mut self.phase {
            Phase::Extending {
                any_server: same,
                started,
                asked,
                ..
            } => {
                let asked = std::mem::take(asked);
                (if *same == any_server { *started } else { now }, asked)
            }
            _ => (now, Vec::new()),
        };
        if asked.len() >= REMEMBERED_REQUESTS {
            asked.remove(0);
        }
        let xid = self.rng.next_u32();
        asked.push(Asked { xid, at: now });
        let attempt_started = asked.first().map_or(now, |first| first.at);
        self.phase = Phase::Extending {
            any_server,
            started,
            again: now + pace::extend(now, started, until),
            until,
            asked,
        };
        let to = if any_server {
            To::BroadcastFromLease
        } else {
            To::Unicast(server)
        };
        self.send(now, to, Ask::Extend { address }, xid, attempt_started, true);
    }

    fn send(
        &mut self,
        now: Duration,
        to: To,
        ask: Ask,
        xid: u32,
        started: Duration,
        with_mtu: bool,
    ) {
        if !self.budget.take(now) {
            self.counters.suppressed += 1;
            return;
        }
        self.counters.sent += 1;
        let secs = now.saturating_sub(started).as_secs();
        let secs = u16::try_from(secs).unwrap_or(u16::MAX);
        let payload = request::encode(&self.identity, ask, xid, secs, with_mtu);
        self.out.push(Action::Send { to, payload });
    }

    fn receive(&mut self, now: Duration, payload: &[u8]) {
        let Ok(reply) = Reply::decode(payload) else {
            self.counters.unreadable += 1;
            return;
        };
        // RFC 6842: an id that is not ours is for somebody else behind the same address.
        let other_id = |id: &Vec<u8>| *id != self.identity.client_id();
        if reply.chaddr != self.identity.mac || reply.client_id.as_ref().is_some_and(other_id) {
            self.counters.not_ours += 1;
            return;
        }
        self.counters.malformed_options += u64::from(reply.malformed);
        let expected = match reply.kind {
            Kind::Offer => self.offer(now, &reply, payload),
            Kind::Ack => self.ack(now, &reply, payload),
            Kind::Nak => self.nak(now, reply),
        };
        if !expected {
            self.counters.unexpected += 1;
        }
    }

    fn offer(&mut self, now: Duration, reply: &Reply, payload: &[u8]) -> bool {
        let (attempt, taken) = match &self.phase {
            Phase::Selecting {
                attempt, parked, ..
            } if attempt.xid == reply.xid => (*attempt, parked.is_some()),
            _ => return false,
        };
        let Some(offer) = self.lease(now, reply, payload) else {
            return true;
        };
        self.shunned.retain(|(_, until)| now < *until);
        if !self
            .shunned
            .iter()
            .any(|(server, _)| *server == offer.server)
        {
            self.request(now, attempt, offer);
        } else if let (false, Phase::Selecting { parked, .. }) = (taken, &mut self.phase) {
            *parked = Some(offer);
        }
        true
    }

    /// An ACK counts when it answers a REQUEST that is still open, for the address that was
    /// asked for, and from the server that was chosen, where one was.
    fn ack(&mut self, now: Duration, reply: &Reply, payload: &[u8]) -> bool {
        let held = self.held.as_ref().map(|held| held.lease.address.address());
        let granted = match &self.phase {
            Phase::Requesting { attempt, offer } => (attempt.xid == reply.xid
                && reply.server == Some(offer.server)
                && reply.yiaddr == offer.address.address())
            .then_some(offer.times.granted),
            Phase::Rebooting { asked, .. }
            | Phase::Selecting {
                reboot: Some(asked),
                ..
            } => (asked.xid == reply.xid && held == Some(reply.yiaddr)).then_some(asked.at),
            Phase::Extending { asked, .. } => asked
                .iter()
                .find(|asked| asked.xid == reply.xid && held == Some(reply.yiaddr))
                .map(|asked| asked.at),
            Phase::Off
            | Phase::HoldBack { .. }
            | Phase::Selecting { reboot: None, .. }
            | Phase::Bound { .. } => None,
        };
        let Some(granted) = granted else { return false };
        if let Some(lease) = self.lease(granted, reply, payload) {
            if lease.times.is_valid_at(now) {
                self.bind(now, *lease);
            } else {
                self.refuse(reply, Refused::Over);
            }
        }
        true
    }

    fn lease(&mut self, granted: Duration, reply: &Reply, payload: &[u8]) -> Option<Box<Lease>> {
        match Lease::from_reply(reply, granted, payload) {
            Ok(lease) => Some(Box::new(lease)),
            Err(why) => {
                self.refuse(reply, why);
                None
            }
        }
    }

    fn refuse(&mut self, reply: &Reply, why: Refused) {
        self.counters.refused += 1;
        self.out.push(Action::Note(Note::Refused {
            server: reply.server,
            why,
        }));
    }

    fn bind(&mut self, now: Duration, lease: Lease) {
        self.naks = 0;
        self.shunned.clear();
        self.wish = Some(lease.address.address());
        let renew = lease.times.end.map(|end| {
            // RFC 2131, 4.4.5: some fuzz, so that machines that booted together drift apart.
            let early = self.rng.up_to((end.renew - lease.times.granted) / 32);
            (end.renew - early).max(now + Duration::from_secs(1))
        });
        self.phase = Phase::Bound { renew };
        self.out.push(Action::Apply(Box::new(lease.clone())));
        self.held = Some(Held {
            lease,
            applied: true,
        });
    }

    /// A NAK counts when it answers an open REQUEST. Where a server was chosen, it alone can say
    /// no: another one's NAK would otherwise starve us for as long as it lives. Where everybody
    /// was asked, anybody can.
    fn nak(&mut self, now: Duration, reply: Reply) -> bool {
        let leased_by = self.held.as_ref().map(|held| held.lease.server);
        let (obey, at_once) = match &self.phase {
            Phase::Requesting { attempt, offer } => (
                attempt.xid == reply.xid && reply.server == Some(offer.server),
                false,
            ),
            Phase::Rebooting { asked, .. }
            | Phase::Selecting {
                reboot: Some(asked),
                ..
            } => (asked.xid == reply.xid, true),
            Phase::Extending {
                any_server, asked, ..
            } => {
                let ours = asked.iter().any(|asked| asked.xid == reply.xid);
                (ours && (*any_server || reply.server == leased_by), true)
            }
            Phase::Off
            | Phase::HoldBack { .. }
            | Phase::Selecting { reboot: None, .. }
            | Phase::Bound { .. } => (false, false),
        };
        if !obey {
            return false;
        }
        self.counters.naks += 1;
        self.naks = self.naks.saturating_add(1);
        self.out.push(Action::Note(Note::Nak {
            server: reply.server,
            message: reply.message,
        }));
        if at_once {
            self.drop_lease(Why::Nak);
        }
        self.wish = None;
        if at_once && self.naks == 1 {
            self.discover(now, None);
        } else {
            if let Some(server) = reply.server {
                self.shun(now, server);
            }
            self.phase = Phase::HoldBack {
                until: now + pace::after_nak(self.naks, &mut self.rng),
            };
        }
        true
    }

    fn shun(&mut self, now: Duration, server: Ipv4Addr) {
        self.shunned
            .retain(|(known, until)| *known != server && now < *until);
        if self.shunned.len() >= MAX_SHUNNED {
            self.shunned.remove(0);
        }
        self.shunned.push((server, now + SHUN));
    }
}
