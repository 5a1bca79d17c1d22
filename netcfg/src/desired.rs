//! From configuration and what was learnt to the state one link should have.
//!
//! Pure, and total: for every lease, however strange, there is exactly one state, and it holds
//! nothing that would send traffic to ourselves, to a multicast group or to nowhere.
//!
//! What the kernel does by itself from router advertisements (addresses, the default route of
//! IPv6) is not in here: it carries the kernel's mark, and is left alone as all that is foreign.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cidr::{Cidr, is_host_address};
use crate::config::{ClasslessRoutes, LinkConfig, Role};
use crate::dhcp4::lease::Lease;
use crate::dhcp6::lease::Lease6;
use crate::link::Link;
use crate::ra::Facts;

/// An address with the time it stays valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Address and prefix.
    pub net: IpNet,
    /// Until when it is used for new connections; `None` for ever.
    pub preferred: Option<Duration>,
    /// When the kernel removes it by itself, should we not be there; `None` for never.
    pub until: Option<Duration>,
    /// The broadcast address, if it is not the last one of the prefix.
    pub broadcast: Option<Ipv4Addr>,
}

/// A route of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// Over which router; `None` when the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// The router is on the link although no prefix says so (GCP, Hetzner, OVH).
    pub onlink: bool,
    /// The source address, and with it the life of the route: it goes when the address goes. None
    /// with IPv6, where the kernel refuses one whose duplicate detection still runs.
    pub source: Option<IpAddr>,
    /// Priority; less is better.
    pub metric: u32,
    /// Largest packet on this route, where it is less than what the link can do. On the route
    /// and not on the link: setting a link's MTU resets some cards, which loses the carrier,
    /// which loses the lease, which sets the MTU back...
    pub mtu: Option<u32>,
}

/// Everything that one link should have. Order is priority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes: on-link first, since gateways may depend on them; the default route last.
    pub routes: Vec<Route>,
    /// DNS servers.
    pub dns: Vec<NameServer>,
    /// Search domains.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
}

/// What was learnt about a link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Learnt<'a> {
    /// The lease of DHCPv4 that is in force.
    pub lease: Option<&'a Lease>,
    /// The lease of DHCPv6 that is in force.
    pub lease6: Option<&'a Lease6>,
    /// What routers said.
    pub facts: Option<&'a Facts>,
}

/// A DNS server. One of a link-local address is of no use without its link (RFC 4007, section 11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// Its link, where that matters.
    pub link: Option<String>,
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NameServer { address, link } = self;
        match link {
            Some(link) => write!(f, "{address}%{link}"),
            None => write!(f, "{address}"),
        }
    }
}

/// Everything, in IPv4.
const DEFAULT_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

/// Route metric of a link for which none is configured: all links differ.
const DEFAULT_METRIC: u32 = 1000;

/// What the kernel makes of a larger MTU of a route (`ip_metrics_convert` of net/ipv4/metrics.c).
const LARGEST_ROUTE_MTU: u32 = 65_535 - 15;

/// The priority of the routes of a link.
pub fn metric(config: &LinkConfig, index: u32) -> u32 {
    config
        .metric
        .unwrap_or_else(|| DEFAULT_METRIC.saturating_add(index))
}

/// Whether a host can have this address in this prefix.
pub fn is_host(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => {
            Cidr::new(net.addr(), net.prefix_len()).is_some_and(Cidr::is_usable_by_a_host)
        }
        IpNet::V6(net) => is_host_v6(net),
    }
}

/// RFC 4291: not the unspecified address, loopback, multicast, or one that holds an IPv4 address.
fn is_host_v6(net: &Ipv6Net) -> bool {
    let address = net.addr();
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.to_ipv4_mapped().is_some())
}

/// Whether traffic to this network can leave the machine: not loopback, multicast or reserved.
pub fn is_destination(to: &IpNet) -> bool {
    match to {
        IpNet::V4(net) => net.prefix_len() == 0 || is_host_address(net.network()),
        IpNet::V6(net) => {
            let address = net.network();
            net.prefix_len() == 0 || !(address.is_loopback() || address.is_multicast())
        }
    }
}

impl Desired {
    /// The state of `link`.
    pub fn new(config: &LinkConfig, learnt: Learnt<'_>, link: &Link) -> Desired {
        let metric = metric(config, link.index);
        let mut desired = Desired::default();
        let uplink = config.role == Role::Uplink;
        if uplink {
            let fixed = config.dns.iter().map(|dns| name_server(*dns, link));
            desired.dns.extend(fixed);
            desired.search.clone_from(&config.search);
        }
        for net in &config.address {
            desired.address(*net, [None, None], metric, None);
        }
        let lease = learnt.lease.filter(|_| config.dhcp4);
        desired.fixed_routes(config, lease, metric);
        if let Some(lease) = lease {
            desired.lease(lease, config, metric, link);
        }
        if let Some(lease) = learnt.lease6 {
            for address in &lease.addresses {
                let net = IpNet::from(IpAddr::V6(address.address));
                desired.address(net, [address.preferred, address.valid], metric, None);
            }
        }
        if uplink {
            desired.learnt_v6(learnt, link);
        }
        if !uplink {
            desired.routes.retain(|route| route.to.prefix_len() > 0);
        }
        // Links before gateways, long prefixes before short: each route finds its router.
        desired
            .routes
            .sort_by_key(|route| (route.via.is_some(), 128 - route.to.prefix_len(), *route));
        desired
    }

    /// The gateways and routes of the configuration. They win over those of a lease.
    fn fixed_routes(&mut self, config: &LinkConfig, lease: Option<&Lease>, metric: u32) {
        let gateways = config.gateway.iter().map(|via| {
            let all = match via {
                IpAddr::V4(_) => DEFAULT_V4,
                IpAddr::V6(_) => Ipv6Net::default().into(),
            };
            (all, Some(*via))
        });
        let routes = config.route.iter().map(|route| (route.to, route.via));
        let leased = lease.map(|lease| IpNet::from(lease.address));
        for (to, via) in gateways.chain(routes) {
            let own = config.address.iter().copied().chain(leased);
            let same: Vec<IpNet> = own
                .filter(|own| own.addr().is_ipv4() == to.addr().is_ipv4())
                .collect();
            let covering = via.and_then(|via| same.iter().find(|own| own.contains(&via)));
            let source = covering.or_else(|| same.first()).map(IpNet::addr);
            if to.addr().is_ipv4() && source.is_none() {
                // No address yet to send from.
                continue;
            }
            let link_local = matches!(via, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
            self.put(Route {
                to,
                via,
                onlink: via.is_some() && covering.is_none() && !link_local,
                source: source.filter(IpAddr::is_ipv4),
                metric,
                mtu: None,
            });
        }
    }

    /// The servers of DHCPv6 and of the routers.
    fn learnt_v6(&mut self, learnt: Learnt<'_>, link: &Link) {
        if let Some(lease) = learnt.lease6 {
            for dns in &lease.dns {
                self.server(IpAddr::V6(*dns), link);
            }
            self.search.extend(lease.search.iter().cloned());
            self.ntp
                .extend(lease.ntp.iter().map(|ntp| IpAddr::V6(*ntp)));
        }
        if let Some(facts) = learnt.facts {
            for dns in facts.dns() {
                self.server(IpAddr::V6(dns), link);
            }
            self.search.extend(facts.search());
        }
    }

    fn lease(&mut self, lease: &Lease, config: &LinkConfig, metric: u32, link: &Link) {
        let mtu = lease.mtu.map(|mtu| u32::from(mtu).min(LARGEST_ROUTE_MTU));
        let mtu = mtu.filter(|mtu| *mtu < link.mtu);
        let own = lease.address;
        let there = |a: &Address| a.net.addr() == IpAddr::V4(own.address());
        if !self.addresses.iter().any(there) {
            let until = lease.times.expire();
            self.address(own.into(), [until, until], metric, mtu);
            if let Some(address) = self.addresses.last_mut() {
                address.broadcast = lease.broadcast;
            }
        }
        if lease.routes.is_empty() {
            // RFC 2132, section 3.5: in order of preference; we use the first that makes sense.
            let usable =
                |router: &&Ipv4Addr| is_host_address(**router) && **router != own.address();
            if let Some(router) = lease.routers.iter().find(usable) {
                self.route(Cidr::DEFAULT, *router, own, metric, mtu);
            }
            let mut routes = lease.static_routes.clone();
            routes.sort();
            for (to, via) in &routes {
                self.route(*to, *via, own, metric, mtu);
            }
        } else {
            // RFC 3442: with this option the routers of option 3 do not count, default or not.
            let mut routes = lease.routes.clone();
            // Whatever order the server gives them in: the same routes.
            routes.sort();
            for (to, via) in &routes {
                let private = to.prefix() == 0 || is_private(*to);
                if config.dhcp.classless_routes == ClasslessRoutes::All || private {
                    self.route(*to, *via, own, metric, mtu);
                }
            }
        }
        if config.role == Role::Local {
            return;
        }
        for dns in &lease.dns {
            self.server(IpAddr::V4(*dns), link);
        }
        // RFC 3397, section 4: the list is what is searched; the domain is where we are.
        self.search.extend(lease.search.iter().cloned());
        if lease.search.is_empty() {
            self.search.extend(lease.domain.clone());
        }
        self.ntp
            .extend(lease.ntp.iter().map(|ntp| IpAddr::V4(*ntp)));
    }

    /// A DNS server that was learnt.
    fn server(&mut self, dns: IpAddr, link: &Link) {
        // A resolver on the machine itself is a setting for it, not for its network.
        let elsewhere = match dns {
            IpAddr::V4(v4) => is_host_address(v4),
            IpAddr::V6(v6) => is_host_v6(&v6.into()),
        };
        let dns = name_server(dns, link);
        if elsewhere && !self.dns.contains(&dns) {
            self.dns.push(dns);
        }
    }

    fn address(
        &mut self,
        net: IpNet,
        [preferred, until]: [Option<Duration>; 2],
        metric: u32,
        mtu: Option<u32>,
    ) {
        self.addresses.push(Address {
            net,
            preferred,
            until,
            broadcast: None,
        });
        // The route to the subnet is ours and not the kernel's, so that it has metric and MTU.
        if net.prefix_len() < net.max_prefix_len() {
            self.put(Route {
                to: net.trunc(),
                via: None,
                onlink: false,
                source: net.addr().is_ipv4().then(|| net.addr()),
                metric,
                mtu,
            });
        }
    }

    /// Adds a route unless its destination or router cannot be meant.
    fn route(&mut self, to: Cidr, via: Ipv4Addr, own: Cidr, metric: u32, mtu: Option<u32>) {
        let to = IpNet::from(to.network());
        // RFC 3442: router 0.0.0.0 means that the destination is on the link.
        let on_link = via.is_unspecified();
        if !is_destination(&to)
            || to == IpNet::from(Cidr::host(own.address()))
            || !(on_link || (is_host_address(via) && via != own.address()))
        {
            return;
        }
        let in_subnet = own.prefix() < 32 && own.contains(via);
        self.put(Route {
            to,
            via: (!on_link).then_some(IpAddr::V4(via)),
            onlink: !on_link && !in_subnet,
            source: Some(IpAddr::V4(own.address())),
            metric,
            mtu,
        });
    }

    /// The first route to a destination counts.
    fn put(&mut self, route: Route) {
        if self.routes.iter().all(|other| other.to != route.to) {
            self.routes.push(route);
        }
    }

    /// Its place among the links: less comes first.
    pub fn rank(&self) -> Option<u32> {
        self.routes.iter().map(|route| route.metric).min()
    }

    /// The router of the default route, if there is one; that of IPv4 first.
    pub fn gateway(&self) -> Option<IpAddr> {
        let defaults = || {
            self.routes
                .iter()
                .filter(|route| route.to.prefix_len() == 0)
        };
        let v4 = defaults().find(|route| route.to.addr().is_ipv4());
        v4.or_else(|| defaults().next()).and_then(|route| route.via)
    }

    /// Whether traffic to everywhere in IPv4 leaves by this link.
    pub fn has_default_route(&self) -> bool {
        self.routes.iter().any(|route| route.to == DEFAULT_V4)
    }
}

fn name_server(address: IpAddr, link: &Link) -> NameServer {
    let near = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    NameServer {
        address,
        link: near.then(|| link.name.clone()),
    }
}

/// RFC 1918.
fn is_private(to: Cidr) -> bool {
    let address = to.network().address();
    match address.octets() {
        [10, ..] => to.prefix() >= 8,
        [172, 16..=31, ..] => to.prefix() >= 12,
        [192, 168, ..] => to.prefix() >= 16,
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::RouteConfig;
    use crate::dhcp4::lease::Times;

    /// A lease of an hour without options.
    pub fn lease(address: &str) -> Lease {
        Lease {
            address: address.parse().expect("cidr"),
            server: Ipv4Addr::new(10, 0, 0, 1),
            routers: vec![],
            routes: vec![],
            static_routes: vec![],
            dns: vec![],
            domain: None,
            search: vec![],
            hostname: None,
            ntp: vec![],
            captive_portal: None,
            broadcast: None,
            gateway_mac: None,
            mtu: None,
            times: Times {
                granted: Duration::from_secs(10),
                end: None,
            },
            ack: vec![],
        }
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    /// The second link, as Ethernet is.
    fn link() -> Link {
        Link {
            index: 2,
            mtu: 1500,
            ..Link::default()
        }
    }

    fn with(config: &LinkConfig, lease: Option<&Lease>) -> Desired {
        let learnt = Learnt {
            lease,
            ..Learnt::default()
        };
        Desired::new(config, learnt, &link())
    }

    fn report(desired: &Desired) -> Vec<String> {
        desired.dns.iter().map(ToString::to_string).collect()
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    fn of(lease: &Lease) -> Desired {
        with(&LinkConfig::default(), Some(lease))
    }

    fn shown(desired: &Desired) -> Vec<String> {
        let show = |route: &Route| {
            let via = route
                .via
                .map(|via| format!(" via {via}"))
                .unwrap_or_default();
            format!(
                "{}{via}{}",
                route.to,
                if route.onlink { " onlink" } else { "" }
            )
        };
        desired.routes.iter().map(show).collect()
    }

    #[test]
    fn a_plain_lease() {
        let lease = Lease {
            routers: vec![Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 3)],
            dns: vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::LOCALHOST],
            domain: Some("example.net".into()),
            mtu: Some(1400),
            ..lease("10.0.2.15/24")
        };
        let desired = of(&lease);
        assert_eq!(shown(&desired), ["10.0.2.0/24", "0.0.0.0/0 via 10.0.2.2"]);
        assert!(
            desired
                .routes
                .iter()
                .all(|route| route.metric == 1002 && route.mtu == Some(1400))
        );
        assert_eq!(report(&desired), ["10.0.2.3"]);
        assert_eq!(desired.search, ["example.net"]);
        // The kernel has a bound of its own; what it would make of more never is what was set.
        let huge = Lease {
            mtu: Some(65_534),
            ..lease.clone()
        };
        let wide = Link {
            mtu: 65_535,
            ..link()
        };
        let learnt = Learnt {
            lease: Some(&huge),
            ..Learnt::default()
        };
        let desired = Desired::new(&LinkConfig::default(), learnt, &wide);
        assert_eq!(desired.routes[0].mtu, Some(65_520));
        // An MTU above that of the link is none.
        let large = Lease {
            mtu: Some(9000),
            ..lease
        };
        assert!(of(&large).routes.iter().all(|route| route.mtu.is_none()));
    }

    #[test]
    fn a_router_outside_of_the_prefix_is_on_the_link() {
        let hetzner = Lease {
            routers: vec![Ipv4Addr::new(172, 31, 1, 1)],
            ..lease("203.0.113.7/32")
        };
        assert_eq!(shown(&of(&hetzner)), ["0.0.0.0/0 via 172.31.1.1 onlink"]);
        let gcp = Lease {
            routers: vec![Ipv4Addr::new(10, 128, 0, 1)],
            routes: vec![
                (Cidr::DEFAULT, Ipv4Addr::new(10, 128, 0, 1)),
                (cidr("10.128.0.1/32"), Ipv4Addr::UNSPECIFIED),
            ],
            ..lease("10.128.0.9/32")
        };
        assert_eq!(
            shown(&of(&gcp)),
            ["10.128.0.1/32", "0.0.0.0/0 via 10.128.0.1 onlink"]
        );
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let lease = Lease {
            routers: vec![Ipv4Addr::new(10, 0, 2, 2)],
            routes: vec![
                (cidr("192.168.0.0/16"), Ipv4Addr::new(10, 0, 2, 9)),
                (cidr("192.168.7.0/24"), Ipv4Addr::new(10, 0, 2, 8)),
            ],
            ..lease("10.0.2.15/24")
        };
        let desired = of(&lease);
        assert_eq!(
            shown(&desired),
            [
                "10.0.2.0/24",
                "192.168.7.0/24 via 10.0.2.8",
                "192.168.0.0/16 via 10.0.2.9"
            ]
        );
        assert!(!desired.has_default_route());
    }

    #[test]
    fn routes_that_make_no_sense_are_left_out() {
        let own = Ipv4Addr::new(10, 0, 2, 15);
        let good = Ipv4Addr::new(10, 0, 2, 2);
        let lease = Lease {
            routers: vec![own, Ipv4Addr::LOCALHOST, good],
            routes: vec![
                (cidr("127.0.0.0/8"), good),
                (cidr("224.0.0.0/4"), good),
                (cidr("240.0.0.0/4"), good),
                (Cidr::host(own), good),
                (cidr("192.0.2.0/24"), own),
                (cidr("192.0.2.0/24"), Ipv4Addr::BROADCAST),
                (cidr("198.51.100.0/24"), good),
            ],
            ..lease("10.0.2.15/24")
        };
        assert_eq!(
            shown(&of(&lease)),
            ["10.0.2.0/24", "198.51.100.0/24 via 10.0.2.2"]
        );
        let routers_only = Lease {
            routes: vec![],
            ..lease
        };
        assert_eq!(
            shown(&of(&routers_only)),
            ["10.0.2.0/24", "0.0.0.0/0 via 10.0.2.2"]
        );
    }

    #[test]
    fn fixed_addresses_need_no_lease() {
        let config = LinkConfig {
            address: vec![net("192.0.2.10/24"), net("198.51.100.1/32")],
            gateway: vec![IpAddr::from([192, 0, 2, 1])],
            dns: vec![IpAddr::from([9, 9, 9, 9])],
            metric: Some(5),
            ..LinkConfig::default()
        };
        let fixed = with(&config, None);
        assert_eq!(shown(&fixed), ["192.0.2.0/24", "0.0.0.0/0 via 192.0.2.1"]);
        assert_eq!(fixed.routes[1].source, Some(IpAddr::from([192, 0, 2, 10])));
        // With a lease beside it the fixed gateway stays, having the same metric.
        let lease = Lease {
            routers: vec![Ipv4Addr::new(10, 0, 0, 1)],
            dns: vec![Ipv4Addr::new(10, 0, 0, 1)],
            ..lease("10.0.0.9/24")
        };
        let both = with(&config, Some(&lease));
        assert_eq!(both.addresses.len(), 3);
        assert_eq!(
            both.routes
                .iter()
                .filter(|route| route.to == DEFAULT_V4)
                .count(),
            1
        );
        assert_eq!(report(&both), ["9.9.9.9", "10.0.0.1"]);
        let no_dhcp = LinkConfig {
            dhcp4: false,
            ..config
        };
        assert_eq!(with(&no_dhcp, Some(&lease)).addresses.len(), 2);
    }

    #[test]
    fn both_families_can_be_fixed() {
        let config = LinkConfig {
            dhcp4: false,
            address: vec![net("192.0.2.10/24"), net("2001:db8::10/64")],
            gateway: vec![
                "192.0.2.1".parse().expect("address"),
                "fe80::1".parse().expect("address"),
            ],
            route: vec![
                RouteConfig {
                    to: net("2001:db8:7::/48"),
                    via: Some("2001:db8::7".parse().expect("address")),
                },
                RouteConfig {
                    to: net("198.51.100.0/24"),
                    via: Some("203.0.113.1".parse().expect("address")),
                },
            ],
            ..LinkConfig::default()
        };
        let desired = with(&config, None);
        assert_eq!(
            shown(&desired),
            [
                "2001:db8::/64",
                "192.0.2.0/24",
                "2001:db8:7::/48 via 2001:db8::7",
                "198.51.100.0/24 via 203.0.113.1 onlink",
                "0.0.0.0/0 via 192.0.2.1",
                "::/0 via fe80::1",
            ]
        );
        assert_eq!(desired.gateway(), Some(IpAddr::from([192, 0, 2, 1])));
        let v6 = desired.routes.iter().filter(|r| r.to.addr().is_ipv6());
        assert!(v6.clone().count() == 3 && v6.clone().all(|route| route.source.is_none()));
    }

    #[test]
    fn a_local_link_leads_nowhere_else() {
        let lease = Lease {
            routers: vec![Ipv4Addr::new(10, 0, 0, 1)],
            dns: vec![Ipv4Addr::new(10, 0, 0, 1)],
            domain: Some("lan.example".into()),
            ..lease("10.0.0.9/24")
        };
        let config = LinkConfig {
            role: Role::Local,
            ..LinkConfig::default()
        };
        let desired = with(&config, Some(&lease));
        assert_eq!(shown(&desired), ["10.0.0.0/24"]);
        assert!(desired.dns.is_empty() && desired.search.is_empty());
    }

    #[test]
    fn routes_past_a_tunnel_can_be_refused() {
        let via = Ipv4Addr::new(10, 0, 0, 1);
        let split = ["0.0.0.0/1", "128.0.0.0/1", "172.0.0.0/8", "192.168.0.0/15"];
        let good = ["0.0.0.0/0", "172.16.0.0/12", "192.168.7.0/24"];
        let lease = Lease {
            routes: split
                .iter()
                .chain(&good)
                .map(|to| (cidr(to), via))
                .collect(),
            ..lease("10.0.0.9/24")
        };
        let mut config = LinkConfig::default();
        assert_eq!(with(&config, Some(&lease)).routes.len(), 1 + 6);
        config.dhcp.classless_routes = ClasslessRoutes::Private;
        assert_eq!(
            shown(&with(&config, Some(&lease))),
            [
                "10.0.0.0/24",
                "192.168.7.0/24 via 10.0.0.1",
                "172.16.0.0/12 via 10.0.0.1",
                "0.0.0.0/0 via 10.0.0.1"
            ]
        );
    }
}
