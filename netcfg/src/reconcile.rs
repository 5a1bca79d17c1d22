//! From what is to what should be, in the fewest steps that never leave a hole.
//!
//! The difference between the desired state of our links and a dump of the kernel's, as a list
//! of operations. A restart, a lost netlink message and somebody else's `ip addr del` are all
//! the same case: dump, compare, apply. Applying the plan of a state to that state gives no
//! further plan.
//!
//! Two rules. Nothing is changed or removed that does not carry our mark ([`OUR_PROTOCOL`]),
//! not even when it is in the way: that is reported as a conflict instead. And what is new is
//! added before what is old goes, so that a default route exists at every step when it exists
//! at both ends, and an address that stays is never away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use crate::desired::{Address, Desired, Route};

/// How our addresses (`IFA_PROTO`) and routes (`rtm_protocol`) are marked: `RTPROT_DHCP` of
/// `linux/rtnetlink.h`, which `ip route` shows as `proto dhcp`. No other DHCP client runs here.
pub const OUR_PROTOCOL: u8 = 16;

/// The kernel keeps lifetimes in whole seconds of a clock that stops during suspend.
const LIFETIME_TOLERANCE: Duration = Duration::from_secs(3);

/// An address in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenAddress {
    /// Index of its link.
    pub link: u32,
    /// Address and lifetime.
    pub address: Address,
    /// Whether it carries our mark.
    pub ours: bool,
    /// How far its duplicate detection is.
    pub detection: Detection,
}

/// How far the kernel is with finding out whether somebody else has an address (RFC 4862, section
/// 5.4). It does so for IPv6 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detection {
    /// The address can be used.
    Passed,
    /// Not yet: nothing can be sent from it.
    Running,
    /// Somebody else has it.
    Failed,
}

/// A unicast route of the main table in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenRoute {
    /// Index of its link.
    pub link: u32,
    /// The route.
    pub route: Route,
    /// Whether it carries our mark.
    pub ours: bool,
}

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Addresses of all links.
    pub addresses: Vec<SeenAddress>,
    /// Routes of the main table.
    pub routes: Vec<SeenRoute>,
}

/// What one link should have.
#[derive(Debug, Clone, Copy)]
pub struct Intent<'a> {
    /// Index of the link.
    pub link: u32,
    /// Its state.
    pub desired: &'a Desired,
    /// What an earlier run left there and this one has no answer for yet.
    pub undecided: Undecided,
}

/// For which families this run has not had an answer yet: what an earlier run left there stays
/// until it has, so that a restart breaks no connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undecided {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Undecided {
    /// Whether there is any such family.
    pub fn any(self) -> bool {
        self.v4 || self.v6
    }

    fn covers(self, net: &IpNet) -> bool {
        match net {
            IpNet::V4(_) => self.v4,
            IpNet::V6(_) => self.v6,
        }
    }
}

/// One change. Adding replaces what has the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Adds an address, or refreshes its lifetime.
    SetAddress(u32, Address),
    /// Adds a route, or replaces the one with the same destination and metric.
    SetRoute(u32, Route),
    /// Removes exactly this route.
    RemoveRoute(u32, Route),
    /// Removes this address.
    RemoveAddress(u32, IpNet),
}

/// What to do, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Op>,
    /// Routes whose destination and metric are taken by somebody else's, or by those of a link
    /// that comes first.
    pub conflicts: Vec<(u32, Route)>,
}

/// What makes a route unique for the kernel, within a table.
fn key(route: &Route) -> (IpNet, u32) {
    (route.to, route.metric)
}

/// The plan that turns `seen` into what `intents` say. Links without an intent are left alone.
pub fn plan(intents: &[Intent<'_>], seen: &Seen) -> Plan {
    let mut plan = Plan::default();
    for intent in intents {
        for address in &intent.desired.addresses {
            if !seen.has_address(intent.link, address) {
                plan.ops.push(Op::SetAddress(intent.link, *address));
            }
        }
    }

    let mut present: BTreeMap<(IpNet, u32), Vec<&SeenRoute>> = BTreeMap::new();
    for seen in &seen.routes {
        present.entry(key(&seen.route)).or_default().push(seen);
    }
    let mut claimed = BTreeSet::new();
    for intent in intents {
        for route in &intent.desired.routes {
            let there = present.get(&key(route)).map_or(&[][..], Vec::as_slice);
            let same = |seen: &&SeenRoute| seen.link == intent.link && seen.route == *route;
            if !claimed.insert(key(route)) {
                plan.conflicts.push((intent.link, *route));
            } else if there.iter().any(same) {
                // It is there, whoever put it.
            } else if there.iter().any(|seen| !seen.ours) {
                plan.conflicts.push((intent.link, *route));
            } else {
                plan.ops.push(Op::SetRoute(intent.link, *route));
            }
        }
    }

    for intent in intents {
        let ours = |seen: &&SeenRoute| {
            seen.ours && seen.link == intent.link && !intent.undecided.covers(&seen.route.to)
        };
        for seen in seen.routes.iter().filter(ours) {
            // One of a claimed key is either wanted or replaced.
            if !claimed.contains(&key(&seen.route)) {
                plan.ops.push(Op::RemoveRoute(intent.link, seen.route));
            }
        }
    }
    for intent in intents {
        let ours = |seen: &&SeenAddress| {
            seen.ours && seen.link == intent.link && !intent.undecided.covers(&seen.address.net)
        };
        for seen in seen.addresses.iter().filter(ours) {
            let net = seen.address.net;
            if intent
                .desired
                .addresses
                .iter()
                .all(|address| address.net != net)
            {
                plan.ops.push(Op::RemoveAddress(intent.link, net));
            }
        }
    }
    plan
}

impl Seen {
    fn has_address(&self, link: u32, wanted: &Address) -> bool {
        self.addresses.iter().any(|seen| {
            seen.link == link
                && seen.address.net == wanted.net
                // Somebody else's lasts as long as they want.
                && (!seen.ours
                    || about(seen.address.until, wanted.until)
                        && about(seen.address.preferred, wanted.preferred))
        })
    }
}

/// Whether two lifetimes are the same, as far as the kernel can keep them.
fn about(seen: Option<Duration>, wanted: Option<Duration>) -> bool {
    match (seen, wanted) {
        (None, None) => true,
        (Some(seen), Some(wanted)) => seen.abs_diff(wanted) <= LIFETIME_TOLERANCE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    /// A kernel of addresses and routes, and nothing else.
    fn apply(seen: &mut Seen, op: Op) {
        match op {
            Op::SetAddress(link, address) => {
                let foreign =
                    |s: &SeenAddress| !s.ours && s.link == link && s.address.net == address.net;
                assert!(
                    !seen.addresses.iter().any(foreign),
                    "a foreign address was changed"
                );
                seen.addresses
                    .retain(|s| !(s.link == link && s.address.net == address.net));
                seen.addresses.push(SeenAddress {
                    link,
                    address,
                    ours: true,
                    detection: Detection::Passed,
                });
            }
            Op::SetRoute(link, route) => {
                // NLM_F_REPLACE takes the first with the same key, on whatever link.
                if let Some(at) = seen
                    .routes
                    .iter()
                    .position(|s| key(&s.route) == key(&route))
                {
                    assert!(seen.routes[at].ours, "a foreign route was replaced");
                    seen.routes.remove(at);
                }
                seen.routes.push(SeenRoute {
                    link,
                    route,
                    ours: true,
                });
            }
            Op::RemoveRoute(link, route) => {
                let at = seen
                    .routes
                    .iter()
                    .position(|s| s.link == link && s.route == route);
                assert!(
                    seen.routes.remove(at.expect("exists")).ours,
                    "a foreign route was removed"
                );
            }
            Op::RemoveAddress(link, net) => {
                let at = seen
                    .addresses
                    .iter()
                    .position(|s| s.link == link && s.address.net == net);
                assert!(
                    seen.addresses.remove(at.expect("exists")).ours,
                    "a foreign address was removed"
                );
            }
        }
    }

    /// Few values, so that things collide.
    fn nets() -> impl Strategy<Value = IpNet> {
        let v4 = (0u8..3, prop_oneof![Just(0u8), Just(24), Just(32)]).prop_map(|(net, prefix)| {
            IpNet::new(Ipv4Addr::new(10, 0, net, 7).into(), prefix).expect("short enough")
        });
        let v6 =
            (0u16..3, prop_oneof![Just(0u8), Just(64), Just(128)]).prop_map(|(net, prefix)| {
                let address = Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, 7);
                IpNet::new(address.into(), prefix).expect("short enough")
            });
        prop_oneof![2 => v4, 1 => v6]
    }

    fn addresses() -> impl Strategy<Value = Address> {
        let times = proptest::option::of((0u64..100, 0u64..100));
        (nets(), times).prop_map(|(net, times)| {
            let least = if net.addr().is_ipv4() { 24 } else { 64 };
            let seconds = Duration::from_secs;
            Address {
                net: IpNet::new(net.addr(), net.prefix_len().max(least)).expect("short enough"),
                preferred: times.map(|(a, b)| seconds(a.min(b))),
                until: times.map(|(a, b)| seconds(a.max(b))),
                broadcast: None,
            }
        })
    }

    fn routes() -> impl Strategy<Value = Route> {
        (nets(), proptest::option::of(1u8..3), any::<bool>(), 0u32..2).prop_map(
            |(to, via, onlink, metric)| Route {
                to: to.trunc(),
                via: via.map(|via| match to {
                    IpNet::V4(_) => IpAddr::from([10, 0, 0, via]),
                    IpNet::V6(_) => Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(via)).into(),
                }),
                onlink,
                source: to.addr().is_ipv4().then(|| IpAddr::from([10, 0, 0, 7])),
                metric,
                mtu: None,
            },
        )
    }

    fn desired() -> impl Strategy<Value = Desired> {
        let addresses = proptest::collection::vec(addresses(), 0..4);
        let routes = proptest::collection::vec(routes(), 0..5);
        (addresses, routes).prop_map(|(mut addresses, mut routes)| {
            addresses.sort_by_key(|address| address.net);
            addresses.dedup_by_key(|address| address.net);
            routes.sort_by_key(key);
            routes.dedup_by_key(|route| key(route));
            Desired {
                addresses,
                routes,
                ..Desired::default()
            }
        })
    }

    fn seen() -> impl Strategy<Value = Seen> {
        let address =
            (1u32..4, addresses(), any::<bool>()).prop_map(|(link, address, ours)| SeenAddress {
                link,
                address,
                ours,
                detection: Detection::Passed,
            });
        let route = (1u32..4, routes(), any::<bool>()).prop_map(|(link, route, ours)| SeenRoute {
            link,
            route,
            ours,
        });
        (
            proptest::collection::vec(address, 0..6),
            proptest::collection::vec(route, 0..8),
        )
            .prop_map(|(mut addresses, mut routes)| {
                addresses.sort_by_key(|s| (s.link, s.address.net));
                addresses.dedup_by_key(|s| (s.link, s.address.net));
                routes.sort_by_key(|s| key(&s.route));
                routes.dedup_by_key(|s| key(&s.route));
                Seen { addresses, routes }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_plan_leads_there_and_stays_there(a in desired(), b in desired(), start in seen()) {
            let intents = [
                Intent { link: 1, desired: &a, undecided: Undecided::default() },
                Intent { link: 2, desired: &b, undecided: Undecided::default() },
            ];
            let first = plan(&intents, &start);
            let mut now = start.clone();
            for op in &first.ops {
                apply(&mut now, *op);
            }
            let again = plan(&intents, &now);
            prop_assert_eq!(&again.ops, &[]);
            prop_assert_eq!(&again.conflicts, &first.conflicts);
            for intent in &intents {
                for address in &intent.desired.addresses {
                    prop_assert!(now.has_address(intent.link, address));
                }
                for route in &intent.desired.routes {
                    let there = now.routes.iter().any(|s| s.link == intent.link && s.route == *route);
                    prop_assert!(there || first.conflicts.contains(&(intent.link, *route)));
                }
                let ours = now.addresses.iter().filter(|s| s.ours && s.link == intent.link);
                for seen in ours {
                    prop_assert!(intent.desired.addresses.iter().any(|a| a.net == seen.address.net));
                }
                for seen in now.routes.iter().filter(|s| s.ours && s.link == intent.link) {
                    prop_assert!(intent.desired.routes.contains(&seen.route));
                }
            }
        }

        #[test]
        fn what_is_not_ours_survives(a in desired(), start in seen()) {
            let mut now = start.clone();
            for op in plan(&[Intent { link: 1, desired: &a, undecided: Undecided::default() }], &start).ops {
                apply(&mut now, op);
            }
            for foreign in start.routes.iter().filter(|s| !s.ours || s.link == 3) {
                // A route of ours on another link may lose its key to a wanted one.
                if foreign.ours && a.routes.iter().any(|r| key(r) == key(&foreign.route)) {
                    continue;
                }
                prop_assert!(now.routes.contains(foreign));
            }
            for foreign in start.addresses.iter().filter(|s| !s.ours) {
                let same = |s: &SeenAddress| {
                    s.link == foreign.link && s.address.net == foreign.address.net
                };
                prop_assert!(now.addresses.iter().any(same));
            }
        }

        #[test]
        fn a_default_route_is_there_at_every_step(a in desired(), start in seen(), v4: bool) {
            let default = |seen: &Seen| {
                let is_default = |to: &IpNet| to.prefix_len() == 0 && to.addr().is_ipv4() == v4;
                seen.routes.iter().any(|s| s.link == 1 && is_default(&s.route.to))
            };
            let plan = plan(&[Intent { link: 1, desired: &a, undecided: Undecided::default() }], &start);
            let mut now = start.clone();
            let mut steps = vec![default(&now)];
            for op in plan.ops {
                apply(&mut now, op);
                steps.push(default(&now));
            }
            if steps.first() == Some(&true) && steps.last() == Some(&true) {
                prop_assert!(steps.iter().all(|there| *there));
            }
        }

        #[test]
        fn an_undecided_link_loses_nothing(a in desired(), start in seen()) {
            let undecided = Undecided { v4: true, v6: true };
            let ops = plan(&[Intent { link: 1, desired: &a, undecided }], &start).ops;
            let removals = ops.iter().filter(|op| matches!(op, Op::RemoveAddress(..) | Op::RemoveRoute(..)));
            prop_assert_eq!(removals.count(), 0);
        }
    }
}
