//! Leases and configurations of the field, and what becomes of them.

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
