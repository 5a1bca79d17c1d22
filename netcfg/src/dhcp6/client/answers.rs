//! What the client makes of answers: whether one is for us, whether we asked, and what follows.

use std::time::Duration;

use super::{Action, Client, Held, Note, Offer, Phase, Why};
use crate::dhcp4::pace;
use crate::dhcp6::lease::{Lease6, Refused};
use crate::dhcp6::pace::ALLOWED_LONGEST_WAIT;
use crate::dhcp6::reply::{Code, Kind, Reply};

/// RFC 8415, section 18.2.1: an offer with this preference is not compared with others.
const TAKE_AT_ONCE: u8 = 255;

impl Client {
    pub(super) fn receive(&mut self, now: Duration, payload: &[u8]) {
        let Ok(reply) = Reply::decode(payload) else {
            self.counters.unreadable += 1;
            return;
        };
        // RFC 8415, sections 16.3 and 16.10: both ids must be there, and ours be ours.
        let ours = reply.client.as_ref() == Some(&self.identity.duid());
        let (true, Some(server)) = (ours, reply.server.clone()) else {
            self.counters.not_ours += 1;
            return;
        };
        self.counters.received += 1;
        self.counters.malformed_options += u64::from(reply.malformed);
        let asked = self.exchange.asked;
        let open = asked.filter(|_| reply.xid == self.exchange.xid);
        let expected = open.is_some_and(|asked| match reply.kind {
            Kind::Advertise => self.advertise(now, &reply, server),
            Kind::Reply => self.reply(now, asked, &reply, server),
        });
        if !expected {
            self.counters.unexpected += 1;
        }
    }

    /// RFC 8415, sections 21.24 and 21.25.
    fn learn_longest_waits(&mut self, reply: &Reply) {
        let allowed = |seconds: Option<u32>| {
            let seconds = seconds.filter(|seconds| ALLOWED_LONGEST_WAIT.contains(seconds))?;
            Some(Duration::from_secs(seconds.into()))
        };
        self.solicit_longest = allowed(reply.sol_max_rt).unwrap_or(self.solicit_longest);
        self.inform_longest = allowed(reply.inf_max_rt).unwrap_or(self.inform_longest);
    }

    /// Until the first timeout offers are compared, after it the first one is taken.
    fn advertise(&mut self, now: Duration, reply: &Reply, server: Vec<u8>) -> bool {
        if !matches!(self.phase, Phase::Soliciting { .. }) {
            return false;
        }
        // Also of a server that has no address for us (RFC 8415, section 18.2.9).
        self.learn_longest_waits(reply);
        let lease = match Lease6::from_reply(reply, self.identity.iaid(), now, now) {
            Ok(lease) => lease,
            Err(why) => {
                self.refuse(reply, server, why);
                return true;
            }
        };
        let shunned = self.shunned.has(&server, now);
        let offer = Offer {
            server,
            addresses: lease.hosts(),
            preference: reply.preference,
            shunned,
        };
        let at_once = offer.preference == TAKE_AT_ONCE || self.exchange.sent > 1;
        if at_once && !shunned {
            self.request(now, offer);
        } else if let Phase::Soliciting { best } = &mut self.phase {
            let rank = |offer: &Offer| (!offer.shunned, offer.preference);
            if best.as_ref().is_none_or(|best| rank(&offer) > rank(best)) {
                *best = Some(offer);
            }
        }
        true
    }

    /// A REPLY counts when it answers the exchange that is open, and from the server that was
    /// chosen, where one was.
    fn reply(&mut self, now: Duration, asked: Duration, reply: &Reply, server: Vec<u8>) -> bool {
        let leased_by = self.held.as_ref().map(|held| &held.lease.server);
        let from_whom_asked = match &self.phase {
            // RFC 8415, section 18.2.10: without the option it is no answer to a SOLICIT.
            Phase::Soliciting { .. } => reply.rapid_commit,
            Phase::Requesting { offer } => offer.server == server,
            Phase::Extending { any_server, .. } => *any_server || leased_by == Some(&server),
            Phase::Releasing { server: asked, .. } | Phase::Declining { server: asked, .. } => {
                *asked == server
            }
            Phase::Confirming { .. } | Phase::Informing => true,
            Phase::Off | Phase::HoldBack { .. } | Phase::Bound { .. } | Phase::Informed { .. } => {
                false
            }
        };
        if !from_whom_asked {
            return false;
        }
        self.learn_longest_waits(reply);
        match self.phase {
            Phase::Soliciting { .. } => match self.lease(now, asked, reply, &server) {
                Ok(lease) => self.bind(now, lease),
                Err(Refused::Over) => self.begin(now),
                Err(_) => self.shunned.add(server, now),
            },
            Phase::Requesting { .. } => match self.lease(now, asked, reply, &server) {
                Ok(lease) => self.bind(now, lease),
                Err(Refused::Over) => self.begin(now),
                Err(Refused::Status(Code::UnspecFail | Code::UseMulticast)) => {}
                Err(_) => self.refused(now, server),
            },
            Phase::Extending { .. } => self.extended(now, asked, reply, server),
            Phase::Confirming { .. } => self.confirmed(now, reply, server),
            Phase::Informing => match Lease6::information(reply, now) {
                Ok(lease) => self.inform(lease),
                Err(why) => self.refuse(reply, server, why),
            },
            _ => self.farewell_done(now),
        }
        true
    }

    fn lease(
        &mut self,
        now: Duration,
        asked: Duration,
        reply: &Reply,
        server: &[u8],
    ) -> Result<Lease6, Refused> {
        let lease = Lease6::from_reply(reply, self.identity.iaid(), asked, now);
        lease.inspect_err(|why| self.refuse(reply, server.to_vec(), *why))
    }

    fn refuse(&mut self, reply: &Reply, server: Vec<u8>, why: Refused) {
        self.counters.refused += 1;
        let of_association = reply.association(self.identity.iaid());
        let words = [Some(&reply.status), of_association.map(|ia| &ia.status)];
        let mut words = words.into_iter().flatten().map(|status| &status.message);
        self.out.push(Action::Note(Note::Refused {
            server,
            why,
            message: words
                .find(|words| !words.is_empty())
                .cloned()
                .unwrap_or_default(),
        }));
    }

    fn bind(&mut self, now: Duration, lease: Lease6) {
        self.refusals = 0;
        self.shunned.clear();
        self.wish = lease.hosts();
        let times = lease.times;
        let renew = times.renew.map(|renew| {
            // Some fuzz, so that machines that booted together drift apart.
            let early = self.rng.up_to(renew.saturating_sub(times.granted) / 32);
            (renew - early).max(now + Duration::from_secs(1))
        });
        self.phase = Phase::Bound { renew };
        self.out.push(Action::Apply(Box::new(lease.clone())));
        self.held = Some(Held {
            lease,
            applied: true,
        });
    }

    fn inform(&mut self, lease: Lease6) {
        self.phase = Phase::Informed {
            refresh: lease.times.renew,
        };
        self.out.push(Action::Apply(Box::new(lease.clone())));
        self.held = Some(Held {
            lease,
            applied: true,
        });
    }

    /// The answer to a RENEW or REBIND.
    fn extended(&mut self, now: Duration, asked: Duration, reply: &Reply, server: Vec<u8>) {
        let result = self.lease(now, asked, reply, &server);
        let Some(before) = self.held.as_ref().map(|held| &held.lease) else {
            return;
        };
        let spoken = reply.association(self.identity.iaid());
        match result {
            Ok(mut lease) => {
                if let Some(spoken) = spoken {
                    lease.inherit(before, spoken);
                }
                self.bind(now, lease);
            }
            // RFC 8415, section 18.2.10.1: the server knows nothing of it, and is asked to know.
            Err(Refused::Status(Code::NoBinding)) => {
                let offer = Offer {
                    addresses: before.hosts(),
                    preference: reply.preference,
                    shunned: false,
                    server,
                };
                self.request(now, offer);
            }
            Err(Refused::Status(Code::NotOnLink)) => {
                self.drop_lease(Why::Refused);
                self.resume(now);
            }
            Err(Refused::NoAddress) => {
                let taken = |address| {
                    spoken.is_some_and(|spoken| {
                        let mut all = spoken.addresses.iter();
                        all.any(|granted| granted.address == address && granted.valid == 0)
                    })
                };
                if before.hosts().into_iter().all(taken) {
                    self.drop_lease(Why::Refused);
                    self.resume(now);
                }
            }
            Err(Refused::Over) => self.begin(now),
            // It cannot just now: asked again in time.
            Err(_) => {}
        }
    }

    /// The answer to a CONFIRM. It has no lifetimes: those that are known go on.
    fn confirmed(&mut self, now: Duration, reply: &Reply, server: Vec<u8>) {
        match reply.status.code {
            Code::Success => {
                if let Some(held) = self.held.as_mut().filter(|held| !held.applied) {
                    held.applied = true;
                    self.out.push(Action::Apply(Box::new(held.lease.clone())));
                }
                self.resume(now);
            }
            Code::NotOnLink => {
                self.refuse(reply, server, Refused::Status(Code::NotOnLink));
                self.drop_lease(Why::Refused);
                self.resume(now);
            }
            _ => {}
        }
    }

    /// The server does not stand by its offer: others first, and not at once. One that offers and
    /// refuses, again and again, must not make us flood its network.
    fn refused(&mut self, now: Duration, server: Vec<u8>) {
        self.refusals = self.refusals.saturating_add(1);
        self.wish.clear();
        self.shunned.add(server, now);
        self.phase = Phase::HoldBack {
            until: now + pace::after_nak(self.refusals, &mut self.rng),
        };
    }
}
