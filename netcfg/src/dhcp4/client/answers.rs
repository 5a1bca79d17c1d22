//! What the client makes of answers: whether one is for us, whether we asked, and what follows.

use std::time::Duration;

use super::{Action, Asked, Client, Note, Phase, Why};
use crate::dhcp4::lease::{Lease, Refused};
use crate::dhcp4::pace;
use crate::dhcp4::reply::{Kind, NotAReply, Reply};

impl Client {
    pub(super) fn receive(&mut self, now: Duration, payload: &[u8]) {
        let reply = match Reply::decode(payload) {
            Ok(reply) => reply,
            Err(NotAReply::ForceRenew) => {
                self.counters.force_renews += 1;
                return;
            }
            Err(_) => {
                self.counters.unreadable += 1;
                return;
            }
        };
        // RFC 6842: an id that is not ours is for somebody else behind the same address.
        let other_id = |id: &Vec<u8>| *id != self.identity.client_id();
        if reply.chaddr != self.identity.mac || reply.client_id.as_ref().is_some_and(other_id) {
            self.counters.not_ours += 1;
            return;
        }
        self.counters.received += 1;
        self.counters.malformed_options += u64::from(reply.malformed);
        let expected = match reply.kind {
            Kind::Offer => self.offer(now, &reply, payload),
            Kind::Ack => self.ack(now, &reply, payload),
            Kind::Nak => self.nak(now, reply),
        };
        if expected {
            // There is a server: it decides, not the lease of before.
            self.fallback = None;
        } else {
            self.counters.unexpected += 1;
        }
    }

    fn offer(&mut self, now: Duration, reply: &Reply, payload: &[u8]) -> bool {
        let Phase::Selecting {
            attempt,
            asked,
            parked,
            ..
        } = &self.phase
        else {
            return false;
        };
        let (started, taken) = (attempt.started, parked.is_some());
        let Some(asked) = asked.iter().find(|asked| asked.xid == reply.xid).copied() else {
            return false;
        };
        if self.prefers_ipv6(now, reply) {
            return true;
        }
        let Some(offer) = self.lease(now, reply, payload) else {
            return true;
        };
        if !self.shunned.has(&offer.server, now) {
            self.request(now, started, asked, offer);
        } else if let (false, Phase::Selecting { parked, .. }) = (taken, &mut self.phase) {
            *parked = Some((asked, offer));
        }
        true
    }

    /// An ACK counts when it answers a REQUEST that is still open, for the address that was
    /// asked for, and from the server that was chosen, where one was; or a DISCOVER that allowed
    /// to be answered so (RFC 4039).
    fn ack(&mut self, now: Duration, reply: &Reply, payload: &[u8]) -> bool {
        let held = self.held.as_ref().map(|held| held.lease.address.address());
        let again = |asked: &&Asked| asked.xid == reply.xid && held == Some(reply.yiaddr);
        let granted = match &self.phase {
            Phase::Requesting { asked, offer, .. } => (asked.xid == reply.xid
                && reply.server == Some(offer.server)
                && reply.yiaddr == offer.address.address())
            .then_some(offer.times.granted),
            Phase::Rebooting { asked, .. } => Some(asked).filter(again).map(|asked| asked.at),
            Phase::Selecting { asked, reboot, .. } => {
                let rapid = self.identity.rapid_commit && reply.rapid_commit;
                let rapid = |asked: &&Asked| rapid && asked.xid == reply.xid;
                let reboot = reboot.as_ref().filter(again);
                reboot
                    .or_else(|| asked.iter().find(rapid))
                    .map(|asked| asked.at)
            }
            Phase::Extending { asked, .. } => asked.iter().find(again).map(|asked| asked.at),
            Phase::Off
            | Phase::Released
            | Phase::HoldBack { .. }
            | Phase::Ipv6Only { .. }
            | Phase::Probing
            | Phase::Bound { .. } => None,
        };
        let Some(granted) = granted else { return false };
        if self.prefers_ipv6(now, reply) {
            return true;
        }
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
            Ok(mut lease) => {
                self.identity.drop_own_name(&mut lease);
                Some(Box::new(lease))
            }
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
        self.tries = 0;
        self.shunned.clear();
        self.wish = Some(lease.address.address());
        self.take(now, lease);
    }

    /// A NAK counts when it answers an open REQUEST. Where a server was chosen, it alone can say
    /// no: another one's NAK would otherwise starve us for as long as it lives. Where everybody
    /// was asked, anybody can.
    fn nak(&mut self, now: Duration, reply: Reply) -> bool {
        let leased_by = self.held.as_ref().map(|held| held.lease.server);
        let (obey, at_once) = match &self.phase {
            Phase::Requesting { asked, offer, .. } => (
                asked.xid == reply.xid && reply.server == Some(offer.server),
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
            | Phase::Released
            | Phase::HoldBack { .. }
            | Phase::Ipv6Only { .. }
            | Phase::Selecting { reboot: None, .. }
            | Phase::Probing
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
            let until = now + pace::after_nak(self.naks, &mut self.rng);
            if let Some(server) = reply.server {
                // From when asking begins again.
                self.shunned.add(server, until);
            }
            self.phase = Phase::HoldBack { until };
        }
        true
    }
}
