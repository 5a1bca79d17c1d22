//! What the client learns from ARP: whether somebody else has its address, which card the gateway
//! has, and with that whether a silent network is the one it was in before.
//!
//! **The lease of before.** RFC 2131, section 3.2 allows a client whom nobody answers to use a
//! lease that still runs. An appliance wants that: it shall come up when the DHCP server is the
//! machine that is down. But the cable may be in another network now. So the gateway of the lease
//! must answer by ARP with the card it had when the lease was last confirmed (the idea of
//! RFC 4436), and nobody may answer for the address itself. Both questions are probes without a
//! sender address, so that in a wrong network no table changes. A lease without a remembered
//! gateway, or of unknown age, is never used so. Asking servers goes on meanwhile.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Action, Client, Held, Note, Phase, To, Why};
use crate::dhcp4::arp::{Arp, Op};
use crate::dhcp4::conflict::{Conflict, Guard, Heard, Say, WINDOW, claims, wants};
use crate::dhcp4::lease::Lease;
use crate::dhcp4::pace;
use crate::dhcp4::request::{Ask, Form};
use crate::mac::Mac;

/// Silence of all servers before the lease of before is considered.
const SILENCE: Duration = Duration::from_secs(4);
/// RFC 2131, section 3.1 (5): at least so long after a DECLINE.
const AFTER_DECLINE: Duration = Duration::from_secs(10);
/// RFC 5227, section 1.1: `MAX_CONFLICTS` and `RATE_LIMIT_INTERVAL`.
const MAX_CONFLICTS: u32 = 10;
const RATE_LIMIT: Duration = Duration::from_secs(60);
/// How often the gateway is asked, and how long each answer may take.
const GATEWAY_TRIES: u32 = 3;
const GATEWAY_WAIT: Duration = Duration::from_secs(1);
/// When to try again what the budget did not let through.
const LATER: Duration = Duration::from_secs(1);

/// Which card has the gateway's address?
#[derive(Debug)]
pub(super) struct Question {
    gateway: Ipv4Addr,
    left: u32,
    again: Duration,
}

/// The way to the lease of before.
#[derive(Debug)]
pub(super) struct Fallback {
    sent: u32,
    again: Duration,
    /// The gateway answered with the card it had; at `again` the address counts as free.
    known: bool,
}

impl Client {
    /// Nothing more by ARP: there is no address, or no carrier.
    pub(super) fn be_quiet(&mut self) {
        self.guard = None;
        self.question = None;
        self.fallback = None;
    }

    /// When [`Client::talk`] has something to do.
    pub(super) fn talk_deadline(&self) -> Option<Duration> {
        let guard = self.guard.as_ref().and_then(Guard::deadline);
        let question = self.question.as_ref().map(|question| question.again);
        let fallback = self.fallback.as_ref().map(|fallback| fallback.again);
        [guard, question, fallback].into_iter().flatten().min()
    }

    /// The carrier is back, or somebody wants to know: our address is probed and announced
    /// again, for neighbours and switches may have changed. One that is not applied becomes what
    /// to fall back to.
    pub(super) fn watch_again(&mut self, now: Duration) {
        let Some(held) = self.held.as_ref() else {
            return;
        };
        if self.identity.conflict == Conflict::Off {
            return;
        }
        if held.applied {
            self.guard = Some(Guard::beside_use(held.lease.address.address(), now));
        } else if held.trusted && fallback_gateway(held).is_some() {
            self.fallback = Some(Fallback {
                sent: 0,
                again: now + SILENCE,
                known: false,
            });
        }
    }

    /// The lease was granted: it is applied, or first probed.
    pub(super) fn take(&mut self, now: Duration, mut lease: Lease) {
        let before = self.held.take();
        if let Some(before) = &before
            && before.lease.gateway() == lease.gateway()
        {
            lease.gateway_mac = before.lease.gateway_mac;
        }
        let address = lease.address.address();
        let applied = before.as_ref().filter(|before| before.applied);
        let in_use = applied.is_some_and(|before| before.lease.address.address() == address);
        let probe = match self.identity.conflict {
            Conflict::Off => false,
            // Where addresses were handed out twice, the next one is probed first.
            Conflict::Background => self.conflicts > 0,
            Conflict::Strict => true,
        };
        if probe && !in_use {
            if applied.is_some() {
                self.out.push(Action::Withdraw(Why::Replaced));
            }
            self.question = None;
            self.guard = Some(Guard::before_use(address, now, &mut self.rng));
            self.phase = Phase::Probing;
            self.held = Some(Held {
                lease,
                applied: false,
                trusted: false,
            });
            return;
        }
        if self.guard.as_ref().is_none_or(|g| g.address() != address) {
            let guard = Guard::beside_use(address, now);
            self.watch(now, &lease, guard);
        }
        self.install(now, lease);
    }

    fn watch(&mut self, now: Duration, lease: &Lease, guard: Guard) {
        if self.identity.conflict == Conflict::Off {
            return;
        }
        self.guard = Some(guard);
        self.question = lease.gateway().map(|gateway| Question {
            gateway,
            left: GATEWAY_TRIES,
            again: now + WINDOW,
        });
    }

    /// Uses a lease that a server confirmed.
    fn install(&mut self, now: Duration, lease: Lease) {
        let renew = lease.times.questions().renew;
        // RFC 2131, 4.4.5: some fuzz, so that machines that booted together drift apart.
        let early = self.rng.up_to((renew - lease.times.granted) / 32);
        let renew = (renew - early).max(now + Duration::from_secs(1));
        self.phase = Phase::Bound { renew };
        self.out.push(Action::Apply {
            lease: Box::new(lease.clone()),
            verified: true,
        });
        self.held = Some(Held {
            lease,
            applied: true,
            trusted: true,
        });
    }

    /// Says by ARP what is due.
    pub(super) fn talk(&mut self, now: Duration) {
        self.talk_of_address(now);
        self.talk_of_gateway(now);
        self.talk_of_fallback(now);
    }

    fn talk_of_address(&mut self, now: Duration) {
        if self.applied().is_none() && !matches!(self.phase, Phase::Probing) {
            self.guard = None;
            self.question = None;
        }
        let Some(guard) = &mut self.guard else { return };
        if matches!(self.phase, Phase::Probing) && guard.is_free(now) {
            guard.used(now);
            let guard = guard.clone();
            if let Some(held) = self.held.take() {
                self.watch(now, &held.lease, guard);
                self.install(now, held.lease);
            }
        }
        let Some(guard) = &mut self.guard else { return };
        let Some(say) = guard.due(now) else { return };
        if !self.arp_budget.take(now) {
            self.counters.suppressed += 1;
            guard.postpone(now + LATER);
            return;
        }
        guard.said(now, &mut self.rng);
        if guard.is_settled() {
            self.conflicts = 0;
        }
        let (mac, address) = (self.identity.mac, guard.address());
        self.emit(match say {
            Say::Probe => Arp::probe(mac, address),
            Say::Announce => Arp::announcement(mac, address),
        });
    }

    fn talk_of_gateway(&mut self, now: Duration) {
        let Some(question) = self.question.as_mut().filter(|q| now >= q.again) else {
            return;
        };
        let own = self.held.as_ref().map(|held| held.lease.address.address());
        let (Some(own), 1..) = (own, question.left) else {
            self.question = None;
            return;
        };
        question.again = now + GATEWAY_WAIT;
        if !self.arp_budget.take(now) {
            self.counters.suppressed += 1;
            return;
        }
        question.left -= 1;
        let gateway = question.gateway;
        self.emit(Arp::question(self.identity.mac, own, gateway));
    }

    fn talk_of_fallback(&mut self, now: Duration) {
        let asking = matches!(
            self.phase,
            Phase::Rebooting { .. } | Phase::Selecting { .. }
        );
        let held = self.held.as_ref().filter(|held| asking && !held.applied);
        let lease = held.and_then(|held| Some((held.lease.clone(), fallback_gateway(held)?)));
        let (Some(fallback), Some((lease, (gateway, _)))) = (&mut self.fallback, lease) else {
            self.fallback = None;
            return;
        };
        if now < fallback.again {
            return;
        }
        if fallback.known {
            self.use_unverified(now, lease);
            return;
        }
        let address = lease.address.address();
        fallback.again = now + pace::retry(fallback.sent, &mut self.rng);
        fallback.sent = fallback.sent.saturating_add(1);
        for target in [address, gateway] {
            if self.arp_budget.take(now) {
                self.emit(Arp::probe(self.identity.mac, target));
            } else {
                self.counters.suppressed += 1;
            }
        }
    }

    /// Uses the lease of before; the phase goes on asking for a server.
    fn use_unverified(&mut self, now: Duration, lease: Lease) {
        let mut guard = Guard::beside_use(lease.address.address(), now);
        // It has been probed.
        guard.used(now);
        self.guard = Some(guard);
        self.fallback = None;
        if let Some(held) = &mut self.held {
            held.applied = true;
        }
        self.out.push(Action::Apply {
            lease: Box::new(lease),
            verified: false,
        });
        self.talk_of_address(now);
    }

    fn emit(&mut self, arp: Arp) {
        self.counters.arps_sent += 1;
        self.out.push(Action::Arp(arp.encode()));
    }

    /// An ARP frame of a neighbour.
    pub(super) fn hear(&mut self, now: Duration, payload: &[u8]) {
        let Some(arp) = Arp::decode(payload) else {
            return;
        };
        if arp.sender_mac == self.identity.mac {
            return;
        }
        self.hear_gateway(now, &arp);
        let heard = self
            .guard
            .as_mut()
            .map_or(Heard::Nothing, |g| g.hear(now, &arp, self.identity.mac));
        match heard {
            Heard::Nothing => {}
            Heard::Defend => self.defend(now, arp.sender_mac),
            Heard::Lost => self.give_up(now, arp.sender_mac),
        }
    }

    fn hear_gateway(&mut self, now: Duration, arp: &Arp) {
        let answer = arp.op == Op::Reply && arp.target_mac == self.identity.mac;
        if let Some(question) = &self.question
            && answer
            && claims(arp, question.gateway)
        {
            self.question = None;
            if let Some(held) = &mut self.held
                && held.lease.gateway_mac.replace(arp.sender_mac) != Some(arp.sender_mac)
            {
                let lease = Box::new(held.lease.clone());
                self.out.push(Action::Remember(lease));
            }
        }
        let Some(held) = self.held.as_ref() else {
            return;
        };
        let address = held.lease.address.address();
        let (Some(fallback), Some((gateway, mac))) = (&mut self.fallback, fallback_gateway(held))
        else {
            return;
        };
        if fallback.sent == 0 {
            return;
        }
        if claims(arp, address) || wants(arp, address) {
            // Whoever has it now: it is not worth asking for any more.
            self.note_conflict(address, arp.sender_mac);
            self.drop_lease(Why::Conflict);
        } else if answer && !fallback.known && claims(arp, gateway) && arp.sender_mac == mac {
            fallback.known = true;
            fallback.again = now + WINDOW;
        }
    }

    /// RFC 5227, section 2.4 (b).
    fn defend(&mut self, now: Duration, mac: Mac) {
        let Some(guard) = &self.guard else { return };
        let address = guard.address();
        if self.arp_budget.take(now) {
            self.emit(Arp::announcement(self.identity.mac, address));
        } else {
            self.counters.suppressed += 1;
        }
        self.out.push(Action::Note(Note::Defended { address, mac }));
    }

    /// Leaves the address to `mac` and tells the server (RFC 2131, section 3.1 (5)).
    fn give_up(&mut self, now: Duration, mac: Mac) {
        let Some(held) = &self.held else { return };
        let (address, server) = (held.lease.address.address(), held.lease.server);
        self.conflicts = self.conflicts.saturating_add(1);
        self.note_conflict(address, mac);
        self.drop_lease(Why::Conflict);
        let xid = self.rng.next_u32();
        let form = Form::first(&self.identity);
        let ask = Ask::Decline { address, server };
        self.send(now, To::Broadcast, ask, xid, now, form);
        let wait = if self.conflicts < MAX_CONFLICTS {
            AFTER_DECLINE
        } else {
            RATE_LIMIT
        };
        self.phase = Phase::HoldBack { until: now + wait };
    }

    fn note_conflict(&mut self, address: Ipv4Addr, mac: Mac) {
        self.counters.conflicts += 1;
        self.out.push(Action::Note(Note::Conflict { address, mac }));
    }
}

/// The gateway of a lease and the card it had.
fn fallback_gateway(held: &Held) -> Option<(Ipv4Addr, Mac)> {
    Some((held.lease.gateway()?, held.lease.gateway_mac?))
}
