//! What the client is told to do: by people, and by a network that would rather be without IPv4.

use std::time::Duration;

use super::{Action, Client, Note, Phase, To, Why};
use crate::dhcp4::reply::Reply;
use crate::dhcp4::request::{Ask, Form};

impl Client {
    /// Asks for more time now where there is a lease with an end; starts over elsewhere. However
    /// often it is called, what is sent stays within the budget.
    pub(super) fn renew(&mut self, now: Duration) {
        let ends = self
            .held
            .as_ref()
            .is_some_and(|held| held.lease.times.end.is_some());
        match self.phase {
            // Without carrier nothing can be asked; a probe in progress is an answer coming.
            Phase::Off | Phase::Probing => {}
            Phase::Bound { .. } | Phase::Extending { .. } if ends => self.extend(now),
            _ => self.start(now),
        }
    }

    /// Gives the address back (RFC 2131, section 4.4.6) and waits to be told to start again. The
    /// message is not answered; if it is lost, the server learns it from the end of the lease.
    pub(super) fn release(&mut self, now: Duration) {
        let applied = self.applied().map(|lease| (lease.address, lease.server));
        if let Some((address, server)) = applied
            && !matches!(self.phase, Phase::Off)
        {
            let ask = Ask::Release {
                address: address.address(),
                server,
            };
            let xid = self.rng.next_u32();
            let form = Form::first(&self.identity);
            self.send(now, To::Unicast(server), ask, xid, now, form);
        }
        self.drop_lease(Why::Released);
        self.wish = None;
        if !matches!(self.phase, Phase::Off) {
            self.phase = Phase::Released;
        }
    }

    /// Whether `reply` says to do without IPv4 for a while (RFC 8925, section 3.2), and we can:
    /// then there is nothing more to ask for. An offer may say so without any address in it.
    pub(super) fn prefers_ipv6(&mut self, now: Duration, reply: &Reply) -> bool {
        let wait = reply.ipv6_only_wait.filter(|_| self.identity.ipv6_only);
        let Some(wait) = wait else { return false };
        self.drop_lease(Why::Ipv6Only);
        let seconds = wait.as_secs();
        self.out.push(Action::Note(Note::Ipv6Only { seconds }));
        self.phase = Phase::Ipv6Only {
            until: now.saturating_add(wait),
        };
        true
    }
}
