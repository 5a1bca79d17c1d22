//! Making the kernel's state what it should be, and telling when it is.

use std::collections::BTreeSet;

use super::Core;
use super::interface::Command;
use super::port::Port;
use crate::desired::Desired;
use crate::dns;
use crate::reconcile::{self, Intent, Op, Seen, Undecided};

/// Rounds of compare and apply at a time. One does it; a second may follow when the kernel took
/// more away than was asked for.
const ROUNDS: u32 = 4;

/// One going from what is to what should be.
#[derive(Debug, Default)]
pub(super) struct Settling {
    rounds: u32,
    /// Links on which something could not be done.
    broken: BTreeSet<u32>,
    /// Whether it is known that nothing differs any more.
    settled: bool,
}

/// What a link should have, and whether that is known yet.
struct Wanted {
    link: u32,
    desired: Desired,
    undecided: Undecided,
}

impl Core {
    /// Begins to settle. What changes from here on is compared anew once this has ended: in
    /// [`written`](Core::written), or with a dump that failed, which only
    /// [`try_again`](Core::try_again) repeats.
    pub(super) fn settle(&mut self) {
        self.unsettled = false;
        self.settling = Some(Settling::default());
        self.out.push(Command::See);
    }

    fn wanted(&self) -> Vec<Wanted> {
        let up = self.ports.values().filter(|port| port.link.up);
        up.map(|port| Wanted {
            link: port.link.index,
            desired: port.desired(),
            undecided: port.undecided(),
        })
        .collect()
    }

    /// What there is, as asked for by a settling or to know it.
    pub(super) fn seen(&mut self, seen: Seen) {
        self.seen = seen;
        for port in self.ports.values_mut() {
            port.see(&self.seen, &mut self.out);
        }
        let Some(mut settling) = self.settling.take() else {
            return;
        };
        let wanted = self.wanted();
        let intents: Vec<Intent<'_>> = wanted
            .iter()
            .map(|wanted| Intent {
                link: wanted.link,
                desired: &wanted.desired,
                undecided: wanted.undecided,
            })
            .collect();
        let plan = reconcile::plan(&intents, &self.seen);
        self.blocked = !plan.conflicts.is_empty();
        for (link, route) in &plan.conflicts {
            let details = vec![
                ("route", route.to.to_string()),
                ("metric", route.metric.to_string()),
            ];
            let name = self.name(*link);
            self.out.warning(&name, "route-taken", details);
        }
        // What failed is tried again later; the rest is as it should be.
        settling.settled = plan.ops.is_empty() || !settling.broken.is_empty();
        if settling.settled || settling.rounds >= ROUNDS {
            return self.write_resolv_conf(settling, &wanted);
        }
        if !self.budget.take(self.out.now) {
            let detail = "addresses or routes change as fast as they are set".to_owned();
            self.out.warning("", "contested", vec![("detail", detail)]);
            return self.write_resolv_conf(settling, &wanted);
        }
        settling.rounds += 1;
        self.settling = Some(settling);
        self.out.push(Command::Apply(plan.ops));
    }

    /// Tells the NTP client who its servers are, those of the best link first.
    fn tell_time(&mut self) {
        let mut wanted = self.wanted();
        wanted.sort_by_key(|wanted| wanted.desired.rank());
        let learnt = wanted.iter().flat_map(|wanted| &wanted.desired.ntp);
        let servers = self.config.ntp.iter().chain(learnt).copied().collect();
        let online = self.seen.routes.iter().any(|seen| {
            let up = self.ports.get(&seen.link).is_some_and(|p| p.link.carrier);
            up && seen.route.via.is_some()
        });
        let configured = &self.config.ntp;
        self.time.update(servers, configured, online, &mut self.out);
    }

    pub(super) fn applied(&mut self, failures: Vec<(Op, String)>) {
        let mut links = Vec::new();
        for (op, why) in failures {
            let (Op::SetAddress(link, _)
            | Op::SetRoute(link, _)
            | Op::RemoveRoute(link, _)
            | Op::RemoveAddress(link, _)) = op;
            links.push(link);
            let name = self.name(link);
            let detail = format!("{op:?}: {why}");
            self.out.warning(&name, "netlink", vec![("detail", detail)]);
        }
        if let Some(settling) = &mut self.settling {
            settling.broken.extend(links);
            self.out.push(Command::See);
        }
    }

    /// Writes the servers of all links, those of the best metric first.
    fn write_resolv_conf(&mut self, settling: Settling, wanted: &[Wanted]) {
        let mut ranked: Vec<&Desired> = wanted.iter().map(|wanted| &wanted.desired).collect();
        ranked.sort_by_key(|desired| desired.rank());
        let servers = ranked.iter().flat_map(|desired| &desired.dns);
        let search = ranked.iter().flat_map(|desired| &desired.search);
        let text = dns::resolv_conf(servers, search);
        // What an earlier run wrote stands until this one knows better.
        let knows_nothing = wanted.iter().all(|wanted| wanted.desired.dns.is_empty())
            && self.ports.values().any(Port::awaits_servers);
        let present = self.resolv_conf.as_ref();
        self.settling = Some(settling);
        if present.is_some_and(|present| *present == text || knows_nothing) {
            return self.written(None);
        }
        self.resolv_conf = Some(text.clone());
        self.out.push(Command::WriteResolvConf(text));
    }

    /// The last part: everything is in place, or known not to be.
    pub(super) fn written(&mut self, failure: Option<String>) {
        let Some(settling) = self.settling.take() else {
            return;
        };
        let written = failure.is_none();
        if let Some(why) = failure {
            self.resolv_conf = None;
            self.out.warning("", "resolv-conf", vec![("detail", why)]);
        }
        for port in self.ports.values_mut() {
            port.save(&mut self.out);
        }
        if settling.settled {
            for wanted in self.wanted() {
                if settling.broken.contains(&wanted.link) {
                    continue;
                }
                if let Some(port) = self.ports.get_mut(&wanted.link) {
                    port.announce(&wanted.desired, &self.seen, &mut self.out);
                }
            }
        }
        self.tell_time();
        // Nobody waits for these any more.
        for port in self.ports.values_mut() {
            port.close_sockets(&mut self.out);
            port.sync(&mut self.out);
        }
        // What failed waits for its next try; what is new does not wait for that.
        if settling.settled && written && settling.broken.is_empty() {
            self.failures = 0;
        } else {
            self.try_again();
        }
    }
}
