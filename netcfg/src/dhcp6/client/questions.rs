//! What the client asks, again and again, each in its phase.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::{AFTER_DECLINE, Action, Client, Exchange, Mode, Note, Offer, Phase, Why};
use crate::dhcp6::lease::Lease6;
use crate::dhcp6::pace::Schedule;
use crate::dhcp6::request::{self, Ask};

/// Unanswered messages (about seven seconds) before a person should hear of it.
const SILENCE: u32 = 3;
impl Client {
    /// Starts the exchange of the phase that was just entered.
    pub(super) fn begin(&mut self, now: Duration) {
        self.exchange = Exchange {
            xid: self.rng.next_u32() >> 8,
            started: now,
            again: now,
            ..Exchange::default()
        };
        self.transmit(now);
    }

    /// Sends the message of the exchange, for the first time or again.
    pub(super) fn transmit(&mut self, now: Duration) {
        let Some((payload, schedule)) = self.question(now) else {
            return;
        };
        let wait = schedule.wait(self.exchange.wait, &mut self.rng);
        self.exchange.wait = Some(wait);
        self.exchange.again = now + wait;
        self.exchange.sent = self.exchange.sent.saturating_add(1);
        if self.exchange.sent == SILENCE + 1
            && matches!(self.phase, Phase::Soliciting { .. } | Phase::Informing)
        {
            self.out.push(Action::Note(Note::Silence { sent: SILENCE }));
        }
        if !self.budget.take(now) {
            self.counters.suppressed += 1;
            return;
        }
        self.counters.sent += 1;
        self.exchange.asked.get_or_insert(now);
        self.out.push(Action::Send { payload });
    }

    /// What the phase asks, and how often; `None` if it asks nothing.
    fn question(&self, now: Duration) -> Option<(Vec<u8>, Schedule)> {
        let lease = self.held.as_ref().map(|held| &held.lease);
        let addresses = lease.map(Lease6::hosts).unwrap_or_default();
        let addresses = &addresses[..];
        let (ask, schedule) = match &self.phase {
            Phase::Off | Phase::HoldBack { .. } | Phase::Bound { .. } | Phase::Informed { .. } => {
                return None;
            }
            Phase::Soliciting { .. } => (
                Ask::Solicit { wish: &self.wish },
                Schedule::solicit(self.solicit_longest),
            ),
            Phase::Requesting { offer } => (
                Ask::Request {
                    server: &offer.server,
                    addresses: &offer.addresses,
                },
                Schedule::REQUEST,
            ),
            Phase::Confirming { .. } => (Ask::Confirm { addresses }, Schedule::CONFIRM),
            Phase::Extending {
                any_server,
                started,
                until,
            } => {
                let ask = if *any_server {
                    Ask::Rebind { addresses }
                } else {
                    let server = lease.map_or(&[][..], |lease| &lease.server);
                    Ask::Renew { server, addresses }
                };
                let phase = until.map(|until| until.saturating_sub(*started));
                (ask, Schedule::extend(phase))
            }
            Phase::Informing => (Ask::Inform, Schedule::inform(self.inform_longest)),
            Phase::Releasing { addresses, server } => {
                (Ask::Release { server, addresses }, Schedule::FAREWELL)
            }
            Phase::Declining { address, server } => {
                let addresses = std::slice::from_ref(address);
                (Ask::Decline { server, addresses }, Schedule::FAREWELL)
            }
        };
        let elapsed = now.saturating_sub(self.exchange.started).as_millis() / 10;
        // RFC 8415, section 21.9: the largest value stands for all that are larger.
        let elapsed = u16::try_from(elapsed).unwrap_or(u16::MAX);
        let payload = request::encode(&self.identity, ask, self.exchange.xid, elapsed);
        Some((payload, schedule))
    }

    /// Takes an offer.
    pub(super) fn request(&mut self, now: Duration, offer: Offer) {
        self.phase = Phase::Requesting { offer };
        self.begin(now);
    }

    /// Asks for more time: the server until T2, everybody after.
    pub(super) fn extend(&mut self, now: Duration) {
        let Some(lease) = self.held.as_ref().map(|held| &held.lease) else {
            return;
        };
        let any_server = lease.times.rebind.is_some_and(|rebind| now >= rebind);
        let until = if any_server {
            lease.expire()
        } else {
            lease.times.rebind
        };
        self.phase = Phase::Extending {
            any_server,
            started: now,
            until,
        };
        self.begin(now);
    }

    /// Nobody said whether the lease is good here. One that is still on the link is used on
    /// (RFC 8415, section 18.2.3); one that is not is only wished for.
    pub(super) fn unconfirmed(&mut self, now: Duration) {
        if self.applied().is_none() {
            self.held = None;
        }
        self.resume(now);
    }

    pub(super) fn renew_now(&mut self, now: Duration) {
        match self.phase {
            Phase::Bound { .. } | Phase::Extending { .. } => self.extend(now),
            Phase::Soliciting { .. } | Phase::HoldBack { .. } => self.resume(now),
            Phase::Informing | Phase::Informed { .. } => self.resume(now),
            Phase::Off
            | Phase::Requesting { .. }
            | Phase::Confirming { .. }
            | Phase::Releasing { .. }
            | Phase::Declining { .. } => {}
        }
    }

    /// RFC 8415, section 18.2.7: the address is not used any more when the server hears of it.
    pub(super) fn release(&mut self, now: Duration) {
        self.mode = Mode::Off;
        let lease = self.held.as_ref().map(|held| held.lease.clone());
        self.drop_lease(Why::Released);
        self.phase = Phase::Off;
        if let Some(lease) = lease.filter(|lease| self.up && !lease.addresses.is_empty()) {
            self.phase = Phase::Releasing {
                addresses: lease.hosts(),
                server: lease.server,
            };
            self.begin(now);
        }
    }

    /// RFC 8415, section 18.2.8.
    pub(super) fn conflict(&mut self, now: Duration, address: Ipv6Addr) {
        let Some(held) = self.held.as_mut().filter(|held| held.applied) else {
            return;
        };
        if !held.lease.give_up(address, now) {
            return;
        }
        let left = held.lease.addresses.len();
        self.counters.declined += 1;
        self.out.push(Action::Note(Note::Conflict { address }));
        let server = held.lease.server.clone();
        if left == 0 {
            self.drop_lease(Why::Conflict);
        } else {
            self.out.push(Action::Apply(Box::new(held.lease.clone())));
        }
        if self.up {
            self.phase = Phase::Declining { address, server };
            self.begin(now);
        }
    }

    /// A RELEASE or DECLINE was answered, or repeated often enough.
    pub(super) fn farewell_done(&mut self, now: Duration) {
        self.phase = match self.phase {
            Phase::Declining { .. } => Phase::HoldBack {
                until: now + AFTER_DECLINE,
            },
            // There may have been a new Mode meanwhile.
            _ => return self.resume(now),
        };
    }
}
