//! From configuration and lease to the state one link should have.
//!
//! Pure, and total: for every lease, however strange, there is exactly one state, and it holds
//! nothing that would send traffic to ourselves, to a multicast group or to nowhere.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::cidr::{Cidr, is_host_address};
use crate::config::LinkConfig;
use crate::dhcp4::lease::Lease;

/// An address with the time it stays valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Address and prefix.
    pub cidr: Cidr,
    /// When the kernel removes it by itself, should we not be there; `None` for never.
    pub until: Option<Duration>,
}

/// A route of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub to: Cidr,
    /// Over which router; `None` when the destination is on the link itself.
    pub via: Option<Ipv4Addr>,
    /// The router is on the link although no prefix says so (GCP, Hetzner, OVH).
    pub onlink: bool,
    /// The source address, and with it the life of the route: it goes when the address goes.
    pub source: Ipv4Addr,
    /// Priority; less is better.
    pub metric: u32,
    /// Largest packet on this route, where it is less than what the link can do. On the route
    /// and not on the link: setting a link's MTU resets some cards, which loses the carrier,
    /// which loses the lease, which sets the MTU back...
    pub mtu: Option<u32>,
}

/// Everything IPv4 that one link should have. Order is priority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes: on-link first, since gateways may depend on them; the default route last.
    pub routes: Vec<Route>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub domains: Vec<String>,
}

/// Route metric of a link for which none is configured: all links differ.
const DEFAULT_METRIC: u32 = 1000;

impl Desired {
    /// The state of a link with index `index` and MTU `link_mtu`.
    pub fn new(config: &LinkConfig, lease: Option<&Lease>, index: u32, link_mtu: u32) -> Desired {
        let metric = config
            .metric
            .unwrap_or_else(|| DEFAULT_METRIC.saturating_add(index));
        let mut desired = Desired {
            dns: config.dns.clone(),
            ..Desired::default()
        };
        for cidr in &config.address {
            desired.address(*cidr, None, metric, None);
        }
        if let (Some(gateway), Some(first)) = (config.gateway, config.address.first()) {
            let covering = config.address.iter().find(|cidr| cidr.contains(gateway));
            let from = covering.unwrap_or(first);
            desired.route(Cidr::DEFAULT, gateway, *from, metric, None);
        }
        if let Some(lease) = lease.filter(|_| config.dhcp4) {
            desired.lease(lease, metric, link_mtu);
        }
        // Links before gateways, long prefixes before short: each route finds its router.
        desired
            .routes
            .sort_by_key(|route| (route.via.is_some(), 32 - route.to.prefix(), *route));
        desired
            .routes
            .dedup_by_key(|route| (route.to, route.metric));
        desired
    }

    fn lease(&mut self, lease: &Lease, metric: u32, link_mtu: u32) {
        let mtu = lease.mtu.map(u32::from).filter(|mtu| *mtu < link_mtu);
        let own = lease.address;
        if self
            .addresses
            .iter()
            .all(|a| a.cidr.address() != own.address())
        {
            self.address(own, lease.times.expire(), metric, mtu);
        }
        if lease.routes.is_empty() {
            // RFC 2132, section 3.5: in order of preference; we use the first that makes sense.
            let usable =
                |router: &&Ipv4Addr| is_host_address(**router) && **router != own.address();
            if let Some(router) = lease.routers.iter().find(usable) {
                self.route(Cidr::DEFAULT, *router, own, metric, mtu);
            }
        } else {
            // RFC 3442: with this option the routers of option 3 do not count, default or not.
            for (to, via) in &lease.routes {
                self.route(*to, *via, own, metric, mtu);
            }
        }
        for dns in &lease.dns {
            let dns = IpAddr::V4(*dns);
            // A resolver on the machine itself is a setting for it, not for its network.
            let elsewhere = !(dns.is_loopback() || dns.is_unspecified() || dns.is_multicast());
            if elsewhere && !self.dns.contains(&dns) {
                self.dns.push(dns);
            }
        }
        self.domains.extend(lease.domain.clone());
    }

    fn address(&mut self, cidr: Cidr, until: Option<Duration>, metric: u32, mtu: Option<u32>) {
        self.addresses.push(Address { cidr, until });
        // The route to the subnet is ours and not the kernel's, so that it has metric and MTU.
        if cidr.prefix() < 32 {
            self.routes.push(Route {
                to: cidr.network(),
                via: None,
                onlink: false,
                source: cidr.address(),
                metric,
                mtu,
            });
        }
    }

    /// Adds a route unless its destination or router cannot be meant.
    fn route(&mut self, to: Cidr, via: Ipv4Addr, own: Cidr, metric: u32, mtu: Option<u32>) {
        let to = to.network();
        let reachable = to == Cidr::DEFAULT || is_host_address(to.address()) || to.prefix() == 0;
        // RFC 3442: router 0.0.0.0 means that the destination is on the link.
        let on_link = via.is_unspecified();
        if !reachable
            || to == Cidr::host(own.address())
            || !(on_link || (is_host_address(via) && via != own.address()))
        {
            return;
        }
        let in_subnet = own.prefix() < 32 && own.contains(via);
        self.routes.push(Route {
            to,
            via: (!on_link).then_some(via),
            onlink: !on_link && !in_subnet,
            source: own.address(),
            metric,
            mtu,
        });
    }

    /// The router of the default route, if there is one.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let default = self.routes.iter().find(|route| route.to == Cidr::DEFAULT);
        default.and_then(|route| route.via)
    }

    /// Whether traffic to everywhere leaves by this link.
    pub fn has_default_route(&self) -> bool {
        self.routes.iter().any(|route| route.to == Cidr::DEFAULT)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dhcp4::lease::Times;

    /// A lease of an hour without options.
    pub fn lease(address: &str) -> Lease {
        Lease {
            address: address.parse().expect("cidr"),
            server: Ipv4Addr::new(10, 0, 0, 1),
            routers: vec![],
            routes: vec![],
            dns: vec![],
            domain: None,
            hostname: None,
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

    fn of(lease: &Lease) -> Desired {
        Desired::new(&LinkConfig::default(), Some(lease), 2, 1500)
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
        assert_eq!(desired.dns, [IpAddr::from([10, 0, 2, 3])]);
        assert_eq!(desired.domains, ["example.net"]);
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
            address: vec![cidr("192.0.2.10/24"), cidr("198.51.100.1/32")],
            gateway: Some(Ipv4Addr::new(192, 0, 2, 1)),
            dns: vec![IpAddr::from([9, 9, 9, 9])],
            metric: Some(5),
            ..LinkConfig::default()
        };
        let fixed = Desired::new(&config, None, 2, 1500);
        assert_eq!(shown(&fixed), ["192.0.2.0/24", "0.0.0.0/0 via 192.0.2.1"]);
        assert_eq!(fixed.routes[1].source, Ipv4Addr::new(192, 0, 2, 10));
        // With a lease beside it the fixed gateway stays, having the same metric.
        let lease = Lease {
            routers: vec![Ipv4Addr::new(10, 0, 0, 1)],
            dns: vec![Ipv4Addr::new(10, 0, 0, 1)],
            ..lease("10.0.0.9/24")
        };
        let both = Desired::new(&config, Some(&lease), 2, 1500);
        assert_eq!(both.addresses.len(), 3);
        assert_eq!(
            both.routes
                .iter()
                .filter(|route| route.to == Cidr::DEFAULT)
                .count(),
            1
        );
        assert_eq!(
            both.dns,
            [IpAddr::from([9, 9, 9, 9]), IpAddr::from([10, 0, 0, 1])]
        );
        let no_dhcp = LinkConfig {
            dhcp4: false,
            ..config
        };
        assert_eq!(
            Desired::new(&no_dhcp, Some(&lease), 2, 1500)
                .addresses
                .len(),
            2
        );
    }
}
