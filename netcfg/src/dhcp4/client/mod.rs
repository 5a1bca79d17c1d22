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
//! Three more phases stand beside: *Probing* between an ACK and Bound where the address is probed
//! before it is used; *Ipv6Only*, in which the client keeps quiet because the network asked for
//! it (RFC 8925); *Released*, in which it waits to be told to start again. Rapid commit
//! (RFC 4039) leads from Selecting straight to Bound.
//!
//! Beside the phase there is the lease that is *held*. It may be applied to the link in phases
//! other than Bound: after a short loss of carrier the address stays while the client asks
//! whether it is still good. Two rules hold in every phase and are checked before anything else
//! happens in a step: a lease that is over is withdrawn, and one whose carrier is away for
//! longer than [`GRACE`] is withdrawn but remembered.
//!
//! What goes on by ARP is in `neighbours`: somebody else with our address, the gateway by which a
//! network is known again, and the remembered lease that is used while no server answers at all.
//!
//! What differs from the letter of the RFC, and why:
//! - no random delay before the first DISCOVER (4.4.1): it protects a building full of desktops
//!   after a power cut, and costs each of our boots seconds. Retries are jittered.
//! - the lease from before is asked for and, 400 ms later, a DISCOVER goes out beside it: a
//!   server that does not know the old address may stay silent, and waiting for it costs seconds.
//! - each DISCOVER has its own transaction id, the last few of which are answered: a rapid commit
//!   then tells from when on its lease runs.
//! - a lease without end (3.3) is asked for again after a day, and after two as at a new carrier: nobody else would be
//!   heard for as long as the carrier stays if the server that granted it is gone. It is kept until somebody says no
//!   or grants another one.
//! - a server that refused or never confirmed its own offer is passed over for a minute when
//!   there is another.

mod answers;
mod interface;
mod neighbours;
mod orders;
mod questions;

use std::net::Ipv4Addr;
use std::time::Duration;

pub use self::interface::{Action, Counters, Event, Note, Saved, Sockets, To, Why};
use self::neighbours::{Fallback, Question};
use super::conflict::{Conflict, Guard};
use super::lease::Lease;
use super::pace::Budget;
use super::request::{Form, Identity};
use crate::rng::Rng;
use crate::shun::Shunned;

/// How long the carrier may be away before the address goes: a flapping port, a restarted
/// switch or a migrated machine should not break connections.
pub const GRACE: Duration = Duration::from_secs(5);
/// REQUESTs for one offer before it is given up (1 + 2 + 4 + 8 s).
const REQUESTS: u32 = 4;

/// A message that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    xid: u32,
    at: Duration,
    form: Form,
}

/// A question that is asked again and again.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    started: Duration,
    sent: u32,
    again: Duration,
}

#[derive(Debug)]
enum Phase {
    Off,
    Released,
    HoldBack {
        until: Duration,
    },
    Ipv6Only {
        until: Duration,
    },
    Rebooting {
        asked: Asked,
        until: Duration,
    },
    Selecting {
        attempt: Attempt,
        asked: Vec<Asked>,
        /// An offer of a shunned server, taken when nobody else offers.
        parked: Option<(Asked, Box<Lease>)>,
        /// The question of Rebooting; its ACK is still welcome.
        reboot: Option<Asked>,
    },
    Requesting {
        attempt: Attempt,
        asked: Asked,
        offer: Box<Lease>,
    },
    /// The lease is held, and applied when its guard says so.
    Probing,
    Bound {
        renew: Duration,
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
    /// Whether it can be used without a server: it was used before, and its age is known.
    trusted: bool,
}

/// The client of one link.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    rng: Rng,
    budget: Budget,
    /// ARP has its own, so that neither can silence the other.
    arp_budget: Budget,
    phase: Phase,
    held: Option<Held>,
    /// Watches the address that is applied or probed.
    guard: Option<Guard>,
    /// The gateway's address is being asked for.
    question: Option<Question>,
    /// Nobody answered since the carrier came, and there is a lease to fall back to.
    fallback: Option<Fallback>,
    /// The address to wish for in a DISCOVER.
    wish: Option<Ipv4Addr>,
    carrier_lost: Option<Duration>,
    /// DISCOVERs since the last lease. They decide the form of the next, so that a bad server that
    /// answers every first one cannot hide a good one that needs another form.
    tries: u32,
    naks: u32,
    /// Addresses lost to somebody else in a row.
    conflicts: u32,
    shunned: Shunned<Ipv4Addr>,
    counters: Counters,
    out: Vec<Action>,
}

impl Client {
    /// A client on a link without carrier. With a carrier, [`Event::CarrierUp`] comes next.
    pub fn new(identity: Identity, rng: Rng, now: Duration, saved: Option<Saved>) -> Client {
        let wish = saved.as_ref().map(|saved| saved.lease.address.address());
        let held = saved
            .filter(|saved| saved.applied || saved.lease.times.is_valid_at(now))
            .map(|mut saved| {
                identity.drop_own_name(&mut saved.lease);
                Held {
                    lease: saved.lease,
                    applied: saved.applied,
                    trusted: saved.age_known,
                }
            });
        Client {
            identity,
            rng,
            budget: Budget::new(now),
            arp_budget: Budget::new(now),
            phase: Phase::Off,
            carrier_lost: held.as_ref().map(|_| now),
            held,
            guard: None,
            question: None,
            fallback: None,
            wish,
            tries: 0,
            naks: 0,
            conflicts: 0,
            shunned: Shunned::default(),
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
            Event::Arp(payload) => self.hear(now, payload),
            Event::Renew => self.renew(now),
            Event::Release => self.release(now),
        }
        self.talk(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Client::step`] must be called again, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Off | Phase::Released | Phase::Probing => None,
            Phase::HoldBack { until }
            | Phase::Ipv6Only { until }
            | Phase::Rebooting { until, .. } => Some(*until),
            Phase::Selecting { attempt, .. } | Phase::Requesting { attempt, .. } => {
                Some(attempt.again)
            }
            Phase::Bound { renew } => Some(*renew),
            Phase::Extending { again, until, .. } => Some(*again.min(until)),
        };
        let applied = self.held.as_ref().filter(|held| held.applied);
        let expiry = applied.and_then(|held| held.lease.times.expire());
        let grace = applied
            .and(self.carrier_lost)
            .map(|lost| lost.saturating_add(GRACE));
        [phase, expiry, grace, self.talk_deadline()]
            .into_iter()
            .flatten()
            .min()
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

    /// The sockets to listen on. In `HoldBack` the packet socket stays: DECLINE goes out by it.
    pub fn sockets(&self) -> Sockets {
        let applied = self.applied().is_some();
        let guards = applied || matches!(self.phase, Phase::Probing) || self.fallback.is_some();
        Sockets {
            raw: matches!(
                self.phase,
                Phase::Rebooting { .. }
                    | Phase::Selecting { .. }
                    | Phase::Requesting { .. }
                    | Phase::HoldBack { .. }
            ),
            udp: applied,
            arp: guards && self.identity.conflict != Conflict::Off,
        }
    }

    /// A word for the phase, as RFC 2131 has it.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Off => "off",
            Phase::Released => "released",
            Phase::HoldBack { .. } => "init",
            Phase::Ipv6Only { .. } => "ipv6-only",
            Phase::Rebooting { .. } => "rebooting",
            Phase::Selecting { .. } => "selecting",
            Phase::Requesting { .. } => "requesting",
            Phase::Probing => "probing",
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
            if matches!(
                self.phase,
                Phase::Probing | Phase::Bound { .. } | Phase::Extending { .. }
            ) {
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
        self.be_quiet();
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
        if matches!(self.phase, Phase::Off | Phase::Released) {
            self.start(now);
        }
    }

    fn carrier_down(&mut self, now: Duration) {
        if self.carrier_lost.is_none() {
            self.carrier_lost = Some(now);
        }
        self.phase = Phase::Off;
        self.be_quiet();
    }

    /// From the beginning: with the lease that is held, or without one.
    fn start(&mut self, now: Duration) {
        if self.held.is_none() {
            return self.discover(now, None);
        }
        // Perhaps the cable is in another socket now: ask before trusting, but keep the address
        // that is there until somebody says no.
        self.reboot(now);
        self.watch_again(now);
    }

    /// What the phase wants done by now.
    fn tick(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::HoldBack { until } | Phase::Ipv6Only { until } if now >= *until => {
                self.discover(now, None);
            }
            Phase::Rebooting { asked, until } if now >= *until => {
                let asked = *asked;
                self.discover(now, Some(asked));
            }
            Phase::Selecting {
                attempt, parked, ..
            } if now >= attempt.again => match parked.take() {
                Some((asked, offer)) => {
                    let started = attempt.started;
                    self.request(now, started, asked, offer);
                }
                None => self.discover_again(now),
            },
            Phase::Requesting { attempt, offer, .. } if now >= attempt.again => {
                if attempt.sent >= REQUESTS {
                    let server = offer.server;
                    self.shunned.add(server, now);
                    self.discover(now, None);
                } else {
                    self.request_again(now);
                }
            }
            Phase::Bound { renew } if now >= *renew => self.extend(now),
            Phase::Extending { again, until, .. } if now >= *again || now >= *until => {
                self.extend(now);
            }
            _ => {}
        }
    }
}
