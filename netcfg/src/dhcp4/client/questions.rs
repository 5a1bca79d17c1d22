//! What the client asks: DISCOVER and REQUEST, again and again, each in its phase.

use std::time::Duration;

use super::{Action, Asked, Attempt, Client, Note, Phase, To};
use crate::dhcp4::lease::{Lease, Times};
use crate::dhcp4::pace;
use crate::dhcp4::request::{self, Ask};

/// Unanswered DISCOVERs (about seven seconds) before a person should hear of it.
const SILENCE: u32 = 3;
/// Requests for more time whose answers are still accepted. Each has its own transaction id, so
/// that an answer tells which of them it confirms, and the lease runs from that one.
const REMEMBERED_REQUESTS: usize = 8;

impl Client {
    /// Starts looking for a server.
    pub(super) fn discover(&mut self, now: Duration, reboot: Option<Asked>) {
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

    pub(super) fn discover_again(&mut self, now: Duration) {
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
    pub(super) fn request(&mut self, now: Duration, attempt: Attempt, offer: Box<Lease>) {
        self.phase = Phase::Requesting {
            attempt: Attempt {
                sent: 0,
                again: now,
                ..attempt
            },
            // The lease runs from the first REQUEST: its repetitions share the id, and an ACK
            // does not tell which of them it answers.
            offer: Box::new(Lease {
                times: Times {
                    granted: now,
                    end: None,
                },
                ..*offer
            }),
        };
        self.request_again(now);
    }

    pub(super) fn request_again(&mut self, now: Duration) {
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
    pub(super) fn extend(&mut self, now: Duration) {
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

    pub(super) fn send(
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
}
