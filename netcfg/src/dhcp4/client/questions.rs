//! What the client asks: DISCOVER and REQUEST, again and again, each in its phase.

use std::time::Duration;

use super::{Action, Asked, Attempt, Client, Note, Phase, To};
use crate::dhcp4::lease::{Lease, Times};
use crate::dhcp4::pace;
use crate::dhcp4::request::{self, Ask, Form};

/// How long a remembered lease is asked for alone, before DISCOVER goes out beside it.
const OVERLAP: Duration = Duration::from_millis(400);
/// Unanswered DISCOVERs (about seven seconds) before a person should hear of it.
const SILENCE: u32 = 3;
/// Messages of one kind whose answers are still accepted. Each has its own transaction id, so
/// that an answer tells which of them it confirms, and the lease runs from that one. Eight
/// DISCOVERs take two minutes: a cloud was seen to need one for its offer.
const REMEMBERED: usize = 8;

impl Client {
    /// Asks for the lease that is held, as after a reboot.
    pub(super) fn reboot(&mut self, now: Duration) {
        let Some(held) = &self.held else { return };
        let address = held.lease.address.address();
        let asked = self.new_question(now, Form::first(&self.identity));
        self.phase = Phase::Rebooting {
            asked,
            until: now + OVERLAP,
        };
        let ask = Ask::Reboot { address };
        self.send(now, To::Broadcast, ask, asked.xid, now, asked.form);
    }

    /// Starts looking for a server.
    pub(super) fn discover(&mut self, now: Duration, reboot: Option<Asked>) {
        self.phase = Phase::Selecting {
            attempt: Attempt {
                started: reboot.map_or(now, |asked| asked.at),
                sent: 0,
                again: now,
            },
            asked: Vec::new(),
            parked: None,
            reboot,
        };
        self.discover_again(now);
    }

    pub(super) fn discover_again(&mut self, now: Duration) {
        let mut question = self.new_question(now, Form::first(&self.identity));
        let Phase::Selecting { attempt, asked, .. } = &mut self.phase else {
            return;
        };
        attempt.again = now + pace::retry(attempt.sent, &mut self.rng);
        attempt.sent = attempt.sent.saturating_add(1);
        self.tries = self.tries.saturating_add(1);
        question.form = Form::of(&self.identity, self.tries);
        remember(asked, question);
        let attempt = *attempt;
        if attempt.sent == SILENCE + 1 {
            self.out.push(Action::Note(Note::Silence { sent: SILENCE }));
        }
        let ask = Ask::Discover { wish: self.wish };
        let Asked { xid, form, .. } = question;
        self.send(now, To::Broadcast, ask, xid, attempt.started, form);
    }

    /// Takes an offer, under the transaction id and in the form that it answered.
    pub(super) fn request(
        &mut self,
        now: Duration,
        started: Duration,
        asked: Asked,
        offer: Box<Lease>,
    ) {
        self.phase = Phase::Requesting {
            attempt: Attempt {
                started,
                sent: 0,
                again: now,
            },
            asked,
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
        let Phase::Requesting {
            attempt,
            asked,
            offer,
        } = &mut self.phase
        else {
            return;
        };
        attempt.again = now + pace::retry(attempt.sent, &mut self.rng);
        attempt.sent += 1;
        let (attempt, asked) = (*attempt, *asked);
        let ask = Ask::Select {
            address: offer.address.address(),
            server: offer.server,
        };
        let Asked { xid, form, .. } = asked;
        self.send(now, To::Broadcast, ask, xid, attempt.started, form);
    }

    /// Asks for more time: the server until T2, everybody after. A lease without end that nobody confirms goes on, and
    /// other servers are looked for beside it.
    pub(super) fn extend(&mut self, now: Duration) {
        let Some(lease) = self.held.as_ref().map(|held| &held.lease) else {
            return;
        };
        let end = lease.times.questions();
        if now >= end.expire {
            return self.start(now);
        }
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
        let question = self.new_question(now, Form::first(&self.identity));
        remember(&mut asked, question);
        let first = asked.first().map_or(now, |first| first.at);
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
        let ask = Ask::Extend { address };
        self.send(now, to, ask, question.xid, first, question.form);
    }

    fn new_question(&mut self, now: Duration, form: Form) -> Asked {
        let xid = self.rng.next_u32();
        Asked { xid, at: now, form }
    }

    pub(super) fn send(
        &mut self,
        now: Duration,
        to: To,
        ask: Ask,
        xid: u32,
        started: Duration,
        form: Form,
    ) {
        if !self.budget.take(now) {
            self.counters.suppressed += 1;
            return;
        }
        self.counters.sent += 1;
        let secs = now.saturating_sub(started).as_secs();
        let secs = u16::try_from(secs).unwrap_or(u16::MAX);
        let payload = request::encode(&self.identity, ask, xid, secs, form);
        self.out.push(Action::Send { to, payload });
    }
}

fn remember(asked: &mut Vec<Asked>, question: Asked) {
    if asked.len() >= REMEMBERED {
        asked.remove(0);
    }
    asked.push(question);
}
