//! What becomes of a lease, for any lease: properties 9, 12 and 13 of a client that can be trusted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use netcfg::cidr::Cidr;
use netcfg::config::{ClasslessRoutes, LinkConfig};
use netcfg::desired::{Desired, Learnt, NameServer};
use netcfg::dhcp4::lease::{Lease, Times};
use netcfg::dns::resolv_conf;
use netcfg::link::Link;
use proptest::prelude::*;

/// So many cases; `PROPTEST_CASES` in the environment overrides it for a longer run.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Addresses of a few networks, and the ones that no host has.
fn addresses() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        4 => (0u8..3, 0u8..4).prop_map(|(net, host)| Ipv4Addr::new(10, 0, net, host)),
        1 => Just(Ipv4Addr::UNSPECIFIED),
        1 => Just(Ipv4Addr::LOCALHOST),
        1 => Just(Ipv4Addr::new(224, 0, 0, 1)),
        1 => Just(Ipv4Addr::BROADCAST),
        1 => Just(Ipv4Addr::new(172, 31, 1, 1)),
        1 => any::<u32>().prop_map(Ipv4Addr::from_bits),
    ]
}

fn networks() -> impl Strategy<Value = Cidr> {
    let prefix = prop_oneof![Just(0u8), Just(1), Just(8), Just(24), Just(32), 0u8..=32];
    (addresses(), prefix).prop_map(|(address, prefix)| Cidr::new(address, prefix).expect("short"))
}

fn own() -> impl Strategy<Value = Cidr> {
    let prefix = prop_oneof![Just(24u8), Just(32), Just(31), Just(8)];
    (1u8..4, prefix)
        .prop_map(|(host, prefix)| Cidr::new(Ipv4Addr::new(10, 0, 0, host), prefix).expect("short"))
        .prop_filter("a host's", |own| own.is_usable_by_a_host())
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}",
        ".{0,20}",
        Just("a\nnameserver 6.6.6.6".to_owned()),
        "[a-z]{60}(\\.[a-z]{60}){3}",
    ]
}

fn leases() -> impl Strategy<Value = Lease> {
    let pairs = || proptest::collection::vec((networks(), addresses()), 0..6);
    (
        own(),
        proptest::collection::vec(addresses(), 0..4),
        pairs(),
        pairs(),
        proptest::collection::vec(addresses(), 0..5),
        proptest::collection::vec(texts(), 0..4),
        proptest::option::of(576u16..),
    )
        .prop_map(
            |(address, routers, routes, static_routes, dns, search, mtu)| Lease {
                address,
                server: Ipv4Addr::new(10, 0, 0, 250),
                routers: if routes.is_empty() { routers } else { vec![] },
                static_routes: if routes.is_empty() {
                    static_routes
                } else {
                    vec![]
                },
                routes,
                dns,
                domain: None,
                search,
                hostname: None,
                ntp: vec![],
                captive_portal: None,
                broadcast: None,
                mtu,
                gateway_mac: None,
                times: Times {
                    granted: Duration::from_secs(1),
                    end: None,
                },
                ack: vec![],
            },
        )
}

fn desired(config: &LinkConfig, lease: &Lease, mtu: u32) -> Desired {
    let link = Link {
        index: 2,
        mtu,
        ..Link::default()
    };
    let learnt = Learnt {
        lease: Some(lease),
        ..Learnt::default()
    };
    Desired::new(config, learnt, &link)
}

/// Whether traffic to this network, or over this router, can be meant.
fn is_ordinary(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..=255)
}

proptest! {
    #![proptest_config(config(2000))]

    /// Property 9: the MTU of a lease is that of its routes, within 576 and what the link does.
    #[test]
    fn property_9_an_mtu_is_on_the_routes_and_within_bounds(
        lease in leases(), mtu in prop_oneof![Just(1500u32), 576u32..70_000],
    ) {
        for route in desired(&LinkConfig::default(), &lease, mtu).routes {
            if let Some(set) = route.mtu {
                prop_assert!((576..mtu).contains(&set) && set <= 65_520, "{set} of {mtu}");
                prop_assert_eq!(Some(set.min(65_520)), lease.mtu.map(|m| u32::from(m).min(65_520)));
            }
        }
    }

    /// Property 12: every route has a destination and a router that can be, a router that no
    /// prefix covers is on the link, each destination has one route, and order changes nothing.
    #[test]
    fn property_12_routes_make_sense_in_any_order(
        lease in leases(), seed: u64, private: bool,
    ) {
        let mut config = LinkConfig::default();
        if private {
            config.dhcp.classless_routes = ClasslessRoutes::Private;
        }
        let whole = desired(&config, &lease, 1500);
        let own = IpNet::from(lease.address);
        let mut seen = BTreeSet::new();
        for route in &whole.routes {
            prop_assert!(seen.insert(route.to), "two routes to {}", route.to);
            let IpAddr::V4(to) = route.to.addr() else { panic!("IPv6 of an IPv4 lease") };
            prop_assert!(route.to.prefix_len() == 0 || is_ordinary(to), "{route:?}");
            prop_assert!(route.to.prefix_len() < 32 || route.to.addr() != own.addr(), "{route:?}");
            if let Some(IpAddr::V4(via)) = route.via {
                prop_assert!(is_ordinary(via) && IpAddr::V4(via) != own.addr(), "{route:?}");
                let covered = own.prefix_len() < 32 && own.contains(&IpAddr::V4(via));
                prop_assert_eq!(route.onlink, !covered, "{:?}", route);
            }
            prop_assert_eq!(route.source, Some(own.addr()));
            if private && !lease.routes.is_empty() && route.to != own.trunc() {
                let home = to.is_private() || route.to.prefix_len() == 0;
                prop_assert!(home, "{route:?}");
            }
        }
        // Option 3 counts only where there are no classless routes: Lease keeps to that already.
        let default = whole.gateway();
        let usable = |via: &&Ipv4Addr| is_ordinary(**via) && IpAddr::V4(**via) != own.addr();
        if lease.routes.is_empty() && let Some(first) = lease.routers.iter().find(usable) {
            prop_assert_eq!(default, Some(IpAddr::V4(*first)));
        }
        let mut shuffled = lease.clone();
        let mut rng = netcfg::rng::Rng::new(seed);
        shuffled.routes.sort_by_cached_key(|_| rng.next_u64());
        shuffled.static_routes.sort_by_cached_key(|_| rng.next_u64());
        prop_assert_eq!(whole, desired(&config, &shuffled, 1500));
    }

    /// Property 13: whatever servers and names there are, the file has a comment of ours, at most
    /// three servers and one search list of at most 256 bytes, and no other byte.
    #[test]
    fn property_13_resolv_conf_holds_nothing_else(
        servers in proptest::collection::vec(
            (any::<u128>(), any::<u32>(), any::<bool>(), proptest::option::of(texts())), 0..6,
        ),
        domains in proptest::collection::vec(texts(), 0..8),
    ) {
        let servers: Vec<NameServer> = servers
            .into_iter()
            .map(|(v6, v4, six, link)| NameServer {
                address: if six {
                    Ipv6Addr::from_bits(v6).into()
                } else {
                    Ipv4Addr::from_bits(v4).into()
                },
                link,
            })
            .collect();
        let text = resolv_conf(&servers, &domains);
        let (first, body) = text.split_once('\n').expect("a first line");
        prop_assert!(first.starts_with("# "));
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b" \n.:_-%".contains(&byte);
        prop_assert!(body.bytes().all(good), "{body:?}");
        let (mut nameservers, mut searches) = (0, 0);
        for line in body.lines() {
            match line.split_once(' ') {
                Some(("nameserver", server)) => {
                    let address = server.split('%').next().unwrap_or_default();
                    prop_assert!(address.parse::<IpAddr>().is_ok(), "{line}");
                    nameservers += 1;
                }
                Some(("search", _)) => {
                    prop_assert!(line.len() <= 256, "{line}");
                    searches += 1;
                }
                _ => prop_assert!(false, "{line:?}"),
            }
        }
        prop_assert!(nameservers <= 3 && searches <= 1);
    }
}
