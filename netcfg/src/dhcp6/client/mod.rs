//! The DHCPv6 client of one link as a pure state machine (RFC 8415, section 18.2).
//!
//! [`Client::step`] takes the time and one event and gives back what is to be done;
//! [`Client::deadline`] says when to call it again at the latest. As in
//! [`dhcp4`](crate::dhcp4::client) there is no clock, no socket and no randomness in here but a
//! generator with a seed. Time is the time since boot, suspend included.
//!
//! ```text
//!         M: an address                                O: information only
//!   Off ───────────────▶ Soliciting ◀─── HoldBack     Off ──▶ Informing ──REPLY──▶ Informed
//!              ADVERTISE │   │ REPLY with     ▲                   ▲                    │
//!                        ▼   │ rapid commit   │ refused           └─── refresh time ───┘
//!                  Requesting┼────────────────┤
//!                      REPLY │                │ told
//!                            ▼                │
//!    Confirming ──REPLY──▶ Bound ──conflict─▶ Declining          Bound ──▶ Releasing ──▶ Off
//!        ▲                   │ T1   ▲
//!     carrier is back        ▼      │ REPLY
//!                       Extending ──┘   the server until T2, anybody after it;
//!                            │          without an answer Soliciting when the last address goes
//! ```
//!
//! There is one exchange at a time and one transaction id to it, as the RFC has it. Beside the
//! phase there is the lease that is *held*, as in `dhcp4`: it stays on the link in phases other
//! than Bound, and two rules hold in every phase: an address that is over is withdrawn, and a
//! lease whose carrier is away for longer than [`GRACE`] is withdrawn but remembered, to be
//! confirmed when the carrier is back.
//!
//! A REPLY tells which exchange it ends, but not which of its repetitions it answers, and it may have
//! waited while the machine was suspended. So the lease runs from the first of them. One that would be
//! over by that count, because its server was dead for hours, is asked for in a new exchange.
//!
//! What a router's flags say decides what is looked for, not what is kept: while there is a lease, it is
//! used and extended until it ends. Two routers that disagree would otherwise take the address
//! away every few seconds.
//!
//! What differs from the letter of the RFC, and why:
//! - no random delay before the first message: see [`pace`](super::pace).
//! - the server unicast option is not followed, and UseMulticast is not needed: every message goes
//!   to everybody, which costs nothing and cannot be misled.
//! - a server that refused or never confirmed its own offer is passed over for a minute when there is
//!   another.
//! - reconfiguration is neither announced nor accepted: without authentication it is a way for
//!   anybody to make us talk.

mod answers;
mod interface;
mod questions;

use std::net::Ipv6Addr;
use std::time::Duration;

pub use self::interface::{Action, Counters, Event, Mode, Note, Why};
use super::lease::Lease6;
use super::pace::{CONFIRMING, FAREWELLS, LONGEST_WAIT, REQUESTS};
use super::request::Identity;
pub use crate::dhcp4::client::GRACE;
use crate::dhcp4::pace::Budget;
use crate::rng::Rng;
use crate::shun::Shunned;

/// `All_DHCP_Relay_Agents_and_Servers` (RFC 8415, section 7.1), on the link in question.
pub const TO: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// RFC 8415, section 7.2.
pub const CLIENT_PORT: u16 = 546;
/// RFC 8415, section 7.2.
pub const SERVER_PORT: u16 = 547;

/// How long nothing is asked for after an address was declined; RFC 2131, section 3.1 has the
/// number, RFC 8415 none.
const AFTER_DECLINE: Duration = Duration::from_secs(10);

/// A message sent again and again under one transaction id.
#[derive(Debug, Clone, Default)]
struct Exchange {
    xid: u32,
    started: Duration,
    sent: u32,
    wait: Option<Duration>,
    again: Duration,
    /// When it first really went out.
    asked: Option<Duration>,
}

/// What an ADVERTISE has to say.
#[derive(Debug, Clone)]
struct Offer {
    server: Vec<u8>,
    addresses: Vec<Ipv6Addr>,
    preference: u8,
    shunned: bool,
}

#[derive(Debug)]
enum Phase {
    Off,
    HoldBack {
        until: Duration,
    },
    Soliciting {
        /// The best offer of those that came before the first timeout.
        best: Option<Offer>,
    },
    Requesting {
        offer: Offer,
    },
    Confirming {
        until: Duration,
    },
    Bound {
        renew: Option<Duration>,
    },
    /// Renewing and Rebinding: the same but for whom is asked and when it ends.
    Extending {
        any_server: bool,
        started: Duration,
        until: Option<Duration>,
    },
    Informing,
    Informed {
        refresh: Option<Duration>,
    },
    Releasing {
        addresses: Vec<Ipv6Addr>,
        server: Vec<u8>,
    },
    Declining {
        address: Ipv6Addr,
        server: Vec<u8>,
    },
}

#[derive(Debug)]
struct Held {
    lease: Lease6,
    applied: bool,
}

/// The client of one link.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    rng: Rng,
    budget: Budget,
    mode: Mode,
    up: bool,
    phase: Phase,
    exchange: Exchange,
    held: Option<Held>,
    /// Addresses to wish for in a SOLICIT.
    wish: Vec<Ipv6Addr>,
    carrier_lost: Option<Duration>,
    /// Refusals in a row.
    refusals: u32,
    shunned: Shunned<Vec<u8>>,
    /// `SOL_MAX_RT` and `INF_MAX_RT` in force.
    solicit_longest: Duration,
    inform_longest: Duration,
    counters: Counters,
    out: Vec<Action>,
}

impl Client {
    /// A client on a link that is down, with nothing to look for.
    pub fn new(identity: Identity, rng: Rng, now: Duration) -> Client {
        Client {
            identity,
            rng,
            budget: Budget::new(now),
            mode: Mode::Off,
            up: false,
            phase: Phase::Off,
            exchange: Exchange::default(),
            held: None,
            wish: Vec::new(),
            carrier_lost: None,
            refusals: 0,
            shunned: Shunned::default(),
            solicit_longest: LONGEST_WAIT,
            inform_longest: LONGEST_WAIT,
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
            Event::Mode(mode) => self.set_mode(now, mode),
            Event::LinkUp => self.link_up(now),
            Event::LinkDown => self.link_down(now),
            Event::Payload(payload) => self.receive(now, payload),
            Event::Release => self.release(now),
            Event::Renew => self.renew_now(now),
            Event::AddressConflict(address) => self.conflict(now, address),
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Client::step`] must be called again, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let again = self.exchange.again;
        let phase = match &self.phase {
            Phase::Off => None,
            Phase::HoldBack { until } => Some(*until),
            Phase::Soliciting { .. }
            | Phase::Requesting { .. }
            | Phase::Informing
            | Phase::Releasing { .. }
            | Phase::Declining { .. } => Some(again),
            Phase::Confirming { until } => Some(again.min(*until)),
            Phase::Extending { until, .. } => Some(until.map_or(again, |until| again.min(until))),
            Phase::Bound { renew: at } | Phase::Informed { refresh: at } => *at,
        };
        let applied = self.applied();
        let expiry = applied.and_then(Lease6::next_expiry);
        let grace = applied
            .and(self.carrier_lost)
            .map(|lost| lost.saturating_add(GRACE));
        [phase, expiry, grace].into_iter().flatten().min()
    }

    /// The lease that is on the link.
    pub fn applied(&self) -> Option<&Lease6> {
        let held = self.held.as_ref().filter(|held| held.applied);
        held.map(|held| &held.lease)
    }

    /// Whether to listen on the client port.
    pub fn wants_socket(&self) -> bool {
        !matches!(self.phase, Phase::Off)
    }

    /// A word for the phase, as RFC 8415 has it.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Off => "off",
            Phase::HoldBack { .. } => "waiting",
            Phase::Soliciting { .. } => "soliciting",
            Phase::Requesting { .. } => "requesting",
            Phase::Confirming { .. } => "confirming",
            Phase::Bound { .. } => "bound",
            Phase::Extending {
                any_server: false, ..
            } => "renewing",
            Phase::Extending {
                any_server: true, ..
            } => "rebinding",
            Phase::Informing => "informing",
            Phase::Informed { .. } => "informed",
            Phase::Releasing { .. } => "releasing",
            Phase::Declining { .. } => "declining",
        }
    }

    /// What was sent and dropped so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The two rules that hold in every phase.
    fn enforce(&mut self, now: Duration) {
        let Some(held) = &mut self.held else { return };
        let before = held.lease.addresses.len();
        held.lease
            .addresses
            .retain(|address| address.is_valid_at(now));
        let left = held.lease.addresses.len();
        if left == 0 && before > 0 {
            self.drop_lease(Why::Expired);
            if matches!(
                self.phase,
                Phase::Bound { .. } | Phase::Extending { .. } | Phase::Confirming { .. }
            ) {
                self.resume(now);
            }
            return;
        }
        if left < before && held.applied {
            self.out.push(Action::Apply(Box::new(held.lease.clone())));
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
        // A refused address is not worth wishing for; an expired one may still be free.
        if why != Why::Expired {
            self.wish.clear();
        }
    }

    /// Whether there is a lease with an address, on the link or not.
    fn has_address(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| !held.lease.addresses.is_empty())
    }

    fn set_mode(&mut self, now: Duration, mode: Mode) {
        let before = std::mem::replace(&mut self.mode, mode);
        if !self.up || self.has_address() || before == mode {
            return;
        }
        match self.phase {
            // What is said last is said to the end.
            Phase::Releasing { .. } | Phase::Declining { .. } => {}
            // Kept until it would be asked for again.
            Phase::Informed { .. } if mode != Mode::Stateful => {}
            _ => self.resume(now),
        }
    }

    fn link_up(&mut self, now: Duration) {
        self.carrier_lost = None;
        if std::mem::replace(&mut self.up, true) {
            return;
        }
        if self.has_address() {
            // Perhaps the cable is in another socket now: ask before trusting, but keep the
            // address that is there until somebody says no.
            self.phase = Phase::Confirming {
                until: now + CONFIRMING,
            };
            self.begin(now);
        } else {
            self.resume(now);
        }
    }

    fn link_down(&mut self, now: Duration) {
        self.up = false;
        if self.carrier_lost.is_none() {
            self.carrier_lost = Some(now);
        }
        self.phase = Phase::Off;
    }

    /// What to do when nothing else is under way.
    fn resume(&mut self, now: Duration) {
        if !self.up {
            self.phase = Phase::Off;
        } else if self.has_address() {
            let renew = self.held.as_ref().and_then(|held| held.lease.times.renew);
            match renew {
                Some(renew) if now >= renew => self.extend(now),
                renew => self.phase = Phase::Bound { renew },
            }
        } else {
            match self.mode {
                Mode::Off => {
                    self.drop_lease(Why::Mode);
                    self.phase = Phase::Off;
                }
                Mode::Stateless => {
                    self.phase = Phase::Informing;
                    self.begin(now);
                }
                Mode::Stateful => {
                    self.phase = Phase::Soliciting { best: None };
                    self.begin(now);
                }
            }
        }
    }

    /// What the phase wants done by now.
    fn tick(&mut self, now: Duration) {
        let due = now >= self.exchange.again;
        match &mut self.phase {
            Phase::HoldBack { until } if now >= *until => self.resume(now),
            Phase::Soliciting { best } if due => match best.take() {
                Some(offer) => self.request(now, offer),
                None => self.transmit(now),
            },
            Phase::Requesting { offer } if due => {
                if self.exchange.sent >= REQUESTS {
                    let server = std::mem::take(&mut offer.server);
                    self.shunned.add(server, now);
                    self.resume(now);
                } else {
                    self.transmit(now);
                }
            }
            Phase::Confirming { until } if now >= *until => self.unconfirmed(now),
            Phase::Confirming { .. } | Phase::Informing if due => self.transmit(now),
            Phase::Bound { renew: Some(renew) } if now >= *renew => self.extend(now),
            Phase::Extending {
                until: Some(until), ..
            } if now >= *until => self.extend(now),
            Phase::Extending { .. } if due => self.transmit(now),
            Phase::Informed {
                refresh: Some(refresh),
            } if now >= *refresh => self.resume(now),
            Phase::Releasing { .. } | Phase::Declining { .. } if due => {
                if self.exchange.sent >= FAREWELLS {
                    self.farewell_done(now);
                } else {
                    self.transmit(now);
                }
            }
            _ => {}
        }
    }
}
