//! More than one link: which is which, which way is taken, and who is asked for names.

mod bed;

use std::collections::BTreeSet;

use bed::Bed;
use bed::server::dnsmasq;

/// Both links have a lease.
fn both(netcfg: &mut bed::Process) {
    let mut missing = BTreeSet::from(["eth0", "eth1"]);
    netcfg.wait_line("both addresses", |line| {
        let event = bed::Event::parse(line);
        if event.name == "net.address" {
            missing.remove(event.get("link"));
        }
        missing.is_empty().then_some(())
    });
}

#[test]
fn the_better_metric_is_the_way_and_its_servers_are_asked_first() {
    let bed = Bed::new();
    let second = bed.second_cable(9);
    bed.config(
        r#"
        [[network.link]]
        match = { name = "eth1" }
        metric = 50
        [[network.link]]
        match = { name = "eth*" }
        metric = 90
        "#,
    );
    let _servers = [
        bed.dnsmasq(7, &["--dhcp-option=6,10.7.0.3"]),
        dnsmasq::start_with(&second, 9, (50, 99), 120, &["--dhcp-option=6,10.9.0.3"]),
    ];
    let mut netcfg = bed.netcfg();
    both(&mut netcfg);
    let routes = bed.routes();
    for wanted in [
        "default via 10.9.0.1 dev eth1 proto dhcp src 10.9.0.",
        "default via 10.7.0.1 dev eth0 proto dhcp src 10.7.0.",
    ] {
        assert!(routes.contains(wanted), "{wanted}: {routes}");
    }
    let way = bed.client_ip(&["route", "get", "198.51.100.1"]);
    assert!(way.contains("via 10.9.0.1 dev eth1"), "{way}");
    let servers = "nameserver 10.9.0.3\nnameserver 10.7.0.3\n";
    assert!(bed.resolv_conf().contains(servers), "{}", bed.resolv_conf());

    // The better way ends: the other one is there already.
    bed.client_ip(&["link", "del", "eth1"]);
    netcfg.event("net.lost", &[("link", "eth1"), ("reason", "gone")]);
    let way = bed.client_ip(&["route", "get", "198.51.100.1"]);
    assert!(way.contains("via 10.7.0.1 dev eth0"), "{way}");
}

#[test]
fn a_local_link_is_no_way_out() {
    let bed = Bed::new();
    let second = bed.second_cable(9);
    bed.config(
        r#"
        [[network.link]]
        match = { name = "eth1" }
        role = "local"
        route = [{ to = "198.51.100.0/24", via = "10.9.0.7" }]
        metric = 10
        [[network.link]]
        match = { name = "eth0" }
        "#,
    );
    let _servers = [
        bed.dnsmasq(7, &["--dhcp-option=6,10.7.0.3"]),
        dnsmasq::start_with(&second, 9, (50, 99), 120, &["--dhcp-option=6,10.9.0.3"]),
    ];
    let mut netcfg = bed.netcfg();
    both(&mut netcfg);
    let routes = bed.routes();
    assert!(!routes.contains("default via 10.9.0.1"), "{routes}");
    assert!(
        routes.contains("198.51.100.0/24 via 10.9.0.7 dev eth1"),
        "{routes}"
    );
    assert!(routes.contains("10.9.0.0/24 dev eth1"), "{routes}");
    assert!(
        !bed.resolv_conf().contains("10.9.0.3"),
        "{}",
        bed.resolv_conf()
    );
    // It is meant to have none. The leases of both are kept after all has been told.
    bed.wait_kept_leases(2);
    netcfg.never_said(&["no-default-route"]);
}

/// The kernel answers on each link for the addresses of all: seen from the wire, our own other card
/// has our address.
#[test]
fn two_links_on_one_wire_are_no_conflict() {
    let bed = Bed::switched();
    bed.second_port();
    let server = bed.dnsmasq(7, &["--dhcp-option=option:T1,4"]);
    let mut netcfg = bed.netcfg();
    both(&mut netcfg);
    // The first probe comes before there is an address to answer for. After a loss of carrier the
    // address is probed while it is there.
    bed.bridge_port(false);
    netcfg.event("net.link", &[("link", "eth0"), ("state", "down")]);
    bed.bridge_port(true);
    netcfg.event("net.address", &[("link", "eth0")]);
    // The probes and the announcements of both are over by their first renewals.
    let mut missing = BTreeSet::from(["eth0", "eth1"]);
    netcfg.wait_line("both renewals", |line| {
        let event = bed::Event::parse(line);
        if event.name == "net.renewed" {
            missing.remove(event.get("link"));
        }
        missing.is_empty().then_some(())
    });
    netcfg.never_said(&["conflict", "net.lost"]);
    // All that the server has said: to both, and neither has declined.
    let said = server.kill();
    let cards: BTreeSet<_> = said
        .iter()
        .filter_map(|line| line.split_once(" DHCPACK("))
        .filter_map(|(_, line)| line.split_whitespace().nth(2))
        .collect();
    assert_eq!(cards.len(), 2, "{said:?}");
    let declined = said.iter().find(|line| line.contains("DHCPDECLINE"));
    assert_eq!(declined, None, "{said:?}");
}

#[test]
fn what_no_entry_covers_is_left_alone() {
    let bed = Bed::new();
    let _second = bed.second_cable(9);
    bed.config("[[network.link]]\nmatch = { name = \"eth0\" }\n");
    let _server = bed.dnsmasq(7, &[]);
    let mut netcfg = bed.netcfg();
    netcfg.event("net.address", &[("link", "eth0")]);
    let other = bed.client_ip(&["link", "show", "eth1"]);
    assert!(other.contains("state DOWN"), "{other}");
    // The loopback link is nobody's, and needed by everybody.
    let loopback = bed.client_ip(&["addr", "show", "lo"]);
    assert!(loopback.contains("127.0.0.1/8"), "{loopback}");
}
