//! netcfg between network namespaces against dnsmasq and Kea.
//!
//! What the tests look at is the kernel's state and the file, not what netcfg thinks they are;
//! what they wait for are its events.

mod bed;
/// The program under test; here its own tests are run.
#[allow(dead_code, reason = "its `main` is that of another program")]
#[path = "../examples/netcfg.rs"]
mod example;

use bed::Bed;
use bed::capture::{Capture, judge};

/// The address netcfg has now, after having told so.
fn address(bed: &Bed, event: &bed::Event) -> String {
    let address = event.get("address").to_owned();
    assert_eq!(bed.addresses().join(" "), address);
    address
}

/// tshark finds no fault with what was captured, which is at least so many messages of ours.
fn judged(bed: &Bed, capture: Capture, least: usize) {
    let captured = capture.stop();
    let messages = captured.requests().len();
    assert!(messages >= least, "{messages} messages");
    assert_eq!(judge(&[captured], &bed.folder), []);
}

#[test]
fn a_fresh_lease_from_dnsmasq() {
    let bed = Bed::new();
    let capture = bed.capture();
    let _server = bed.dnsmasq(
        7,
        &["--dhcp-option=6,10.7.0.3,10.7.0.4", "--domain=lan.example"],
    );
    let mut netcfg = bed.netcfg();
    netcfg.event("net.link", &[("link", "eth0"), ("state", "up")]);
    let event = netcfg.event("net.address", &[("link", "eth0")]);
    let address = address(&bed, &event);
    assert!(
        address.starts_with("10.7.0.") && address.ends_with("/24"),
        "{address}"
    );
    assert_eq!(event.get("gateway"), "10.7.0.1");
    assert_eq!(event.get("dns"), "10.7.0.3,10.7.0.4");
    assert_eq!(event.get("lease_s"), "120");
    assert_eq!(event.get("server"), "10.7.0.1");
    let routes = bed.routes();
    assert!(
        routes.contains("default via 10.7.0.1 dev eth0 proto dhcp"),
        "{routes}"
    );
    assert!(
        routes.contains("10.7.0.0/24 dev eth0 proto dhcp scope link"),
        "{routes}"
    );
    let resolv_conf = bed.resolv_conf();
    let body: Vec<&str> = resolv_conf.lines().skip(1).collect();
    assert_eq!(
        body,
        [
            "nameserver 10.7.0.3",
            "nameserver 10.7.0.4",
            "search lan.example"
        ]
    );
    let shown = bed.client_ip(&["addr", "show", "dev", "eth0"]);
    assert!(shown.contains("valid_lft 1"), "{shown}");
    // Nothing was wrong, and with no more than three capabilities.
    bed.wait_kept();
    netcfg.never_said(&["warning"]);
    judged(&bed, capture, 2);
}

#[test]
fn a_lease_from_kea_is_renewed() {
    let bed = Bed::new();
    let capture = bed.capture();
    let mut server = bed.kea(7, 30, 2, 20);
    let mut netcfg = bed.netcfg();
    let event = netcfg.event("net.address", &[("link", "eth0"), ("lease_s", "30")]);
    let before = address(&bed, &event);
    assert_eq!(event.get("domain"), "lan.example");
    for _ in 0..2 {
        netcfg.event("net.renewed", &[("link", "eth0"), ("address", &before)]);
    }
    assert_eq!(bed.addresses().join(" "), before);
    netcfg.never_said(&["net.lost"]);
    let mut granted = 0;
    server.wait_line("two renewals after the lease", |line| {
        granted += u32::from(line.contains("DHCP4_LEASE_ALLOC"));
        (granted == 3).then_some(())
    });
    judged(&bed, capture, 4);
}

#[test]
fn renewal_works_with_dnsmasq_and_breaks_no_address() {
    let bed = Bed::new();
    // Two minutes are the shortest lease that dnsmasq gives; asked for again sooner.
    let _server = bed.dnsmasq(7, &["--dhcp-option=option:T1,4"]);
    let mut monitor = bed.monitor();
    let mut netcfg = bed.netcfg();
    let event = netcfg.event("net.address", &[("link", "eth0")]);
    let before = address(&bed, &event);
    netcfg.event("net.renewed", &[("address", &before)]);
    // Something of our own, to know that the monitor has seen all before it.
    bed.client_ip(&["addr", "add", "192.0.2.1/32", "dev", "lo"]);
    monitor.wait_line("the end", |line| line.contains("192.0.2.1").then_some(()));
    assert!(
        monitor.said(&before) && !monitor.said("Deleted"),
        "{:?}",
        monitor.seen
    );
}

#[test]
fn a_lease_that_ends_is_taken_away_and_comes_back_with_the_server() {
    let bed = Bed::new();
    let server = bed.kea(7, 12, 4, 8);
    let mut netcfg = bed.netcfg();
    let event = netcfg.event("net.address", &[("lease_s", "12")]);
    let before = address(&bed, &event);
    server.terminate();
    netcfg.event("net.lost", &[("reason", "expired"), ("address", &before)]);
    let _server = bed.kea(7, 12, 4, 8);
    let event = netcfg.event("net.address", &[("link", "eth0")]);
    assert_eq!(address(&bed, &event), before, "the wish was granted");
    assert!(bed.routes().contains("default via 10.7.0.1"));
}

#[test]
fn a_short_loss_of_carrier_keeps_the_address() {
    let bed = Bed::new();
    let _server = bed.dnsmasq(7, &["--dhcp-authoritative"]);
    let mut netcfg = bed.netcfg();
    let before = netcfg.event("net.address", &[]).get("address").to_owned();
    bed.carrier(false);
    netcfg.event("net.link", &[("state", "down")]);
    assert_eq!(bed.addresses().join(" "), before);
    bed.carrier(true);
    netcfg.event("net.link", &[("state", "up")]);
    let event = netcfg.event("net.address", &[("address", &before)]);
    address(&bed, &event);
    netcfg.never_said(&["net.lost"]);
}

#[test]
fn a_long_loss_of_carrier_takes_the_address_away_until_it_is_back() {
    let bed = Bed::new();
    let _server = bed.kea(7, 3000, 1000, 2000);
    let mut netcfg = bed.netcfg();
    let before = netcfg.event("net.address", &[]).get("address").to_owned();
    bed.carrier(false);
    netcfg.event("net.lost", &[("reason", "carrier")]);
    bed.carrier(true);
    let event = netcfg.event("net.address", &[]);
    assert_eq!(address(&bed, &event), before);
}

#[test]
fn a_server_that_says_no_moves_us_at_once() {
    for authoritative in ["dnsmasq", "kea"] {
        let bed = Bed::new();
        let first = bed.dnsmasq(7, &[]);
        let mut netcfg = bed.netcfg();
        netcfg.event("net.address", &[("gateway", "10.7.0.1")]);
        first.terminate();
        bed.carrier(false);
        netcfg.event("net.link", &[("state", "down")]);
        bed.server.renumber("10.8.0.1/24");
        bed.carrier(true);
        netcfg.event("net.link", &[("state", "up")]);
        let _second = match authoritative {
            "kea" => bed.kea(8, 3000, 1000, 2000),
            _ => bed.dnsmasq(8, &["--dhcp-authoritative"]),
        };
        let event = netcfg.event("net.address", &[("gateway", "10.8.0.1")]);
        let now = address(&bed, &event);
        assert!(now.starts_with("10.8.0."), "{authoritative}: {now}");
        let routes = bed.routes();
        assert!(!routes.contains("10.7.0"), "{authoritative}: {routes}");
    }
}

#[test]
fn a_silent_server_in_another_network_moves_us_too() {
    let bed = Bed::new();
    let first = bed.dnsmasq(7, &[]);
    let mut netcfg = bed.netcfg();
    netcfg.event("net.address", &[("gateway", "10.7.0.1")]);
    first.terminate();
    bed.carrier(false);
    netcfg.event("net.link", &[("state", "down")]);
    bed.server.renumber("10.8.0.1/24");
    bed.carrier(true);
    // Not authoritative: it does not answer a request for somebody else's address.
    let _second = bed.dnsmasq(8, &[]);
    let event = netcfg.event("net.address", &[("gateway", "10.8.0.1")]);
    assert!(address(&bed, &event).starts_with("10.8.0."));
}

#[test]
fn a_nak_is_obeyed() {
    let bed = Bed::new();
    let first = bed.dnsmasq(7, &["--dhcp-authoritative"]);
    let mut netcfg = bed.netcfg();
    netcfg.event("net.address", &[("gateway", "10.7.0.1")]);
    bed.wait_kept();
    netcfg.kill();
    first.terminate();
    bed.server.renumber("10.8.0.1/24");
    let mut second = bed.dnsmasq(8, &["--dhcp-authoritative"]);
    // The next run asks for the old address first, which is still on the link.
    let mut netcfg = bed.netcfg();
    netcfg.event(
        "net.warning",
        &[("reason", "dhcp-nak"), ("server", "10.8.0.1")],
    );
    netcfg.event("net.lost", &[("reason", "nak")]);
    let event = netcfg.event("net.address", &[("gateway", "10.8.0.1")]);
    assert!(address(&bed, &event).starts_with("10.8.0."));
    second.wait_line("NAK", |line| line.contains("DHCPNAK").then_some(()));
}

#[test]
fn a_router_outside_of_the_prefix_works() {
    let bed = Bed::new();
    bed.server
        .ip(&["addr", "add", "172.31.1.1/32", "dev", "srv"]);
    let _server = bed.dnsmasq(
        7,
        &[
            "--dhcp-option-force=1,255.255.255.255",
            "--dhcp-option=3,172.31.1.1",
        ],
    );
    let mut netcfg = bed.netcfg();
    let event = netcfg.event("net.address", &[("gateway", "172.31.1.1")]);
    assert!(address(&bed, &event).ends_with("/32"));
    let routes = bed.routes();
    assert!(
        routes.contains("default via 172.31.1.1 dev eth0 proto dhcp"),
        "{routes}"
    );
    assert!(routes.contains("onlink"), "{routes}");
    // The kernel agrees that it leads somewhere.
    let way = bed.client_ip(&["route", "get", "198.51.100.1"]);
    assert!(way.contains("via 172.31.1.1 dev eth0 src 10.7.0."), "{way}");
}

#[test]
fn classless_routes_and_the_mtu_go_into_the_routes() {
    let bed = Bed::new();
    let _server = bed.dnsmasq(
        7,
        &[
            "--dhcp-option=3,10.7.0.1",
            "--dhcp-option=26,1400",
            "--dhcp-option=121,198.51.100.0/24,10.7.0.8,0.0.0.0/0,10.7.0.9",
        ],
    );
    let mut netcfg = bed.netcfg();
    netcfg.event("net.address", &[("gateway", "10.7.0.9"), ("mtu", "1400")]);
    let routes = bed.routes();
    assert!(routes.contains("default via 10.7.0.9 dev eth0"), "{routes}");
    assert!(
        routes.contains("198.51.100.0/24 via 10.7.0.8 dev eth0"),
        "{routes}"
    );
    assert!(
        !routes.contains("10.7.0.1 "),
        "option 121 replaces the router: {routes}"
    );
    assert_eq!(routes.matches("mtu 1400").count(), 3, "{routes}");
    let link = bed.client_ip(&["link", "show", "eth0"]);
    assert!(link.contains("mtu 1500"), "the link keeps its own: {link}");
}

#[test]
fn a_crash_breaks_nothing_and_the_next_run_takes_over() {
    let bed = Bed::new();
    let server = bed.dnsmasq(7, &[]);
    let mut netcfg = bed.netcfg();
    let before = netcfg.event("net.address", &[]).get("address").to_owned();
    // Saved after it was told: the next step of the state machine proves that it is there.
    let lease = bed.folder.join("state");
    let mut monitor = bed.monitor();
    for _ in 0..3 {
        netcfg.kill();
        assert_eq!(bed.addresses().join(" "), before);
        netcfg = bed.netcfg();
        netcfg.event("net.address", &[("address", &before)]);
    }
    assert_eq!(std::fs::read_dir(lease).expect("own folder").count(), 1);
    bed.client_ip(&["addr", "add", "192.0.2.1/32", "dev", "lo"]);
    monitor.wait_line("the end", |line| line.contains("192.0.2.1").then_some(()));
    assert!(!monitor.said("Deleted"), "{:?}", monitor.seen);
    // Four runs: one search, and then the same address, asked for without one.
    let said = server.kill();
    let count = |kind| said.iter().filter(|line| line.contains(kind)).count();
    assert_eq!(count("DHCPDISCOVER"), 1, "{said:?}");
    assert!(count("DHCPREQUEST") >= 4, "{said:?}");
}

#[test]
fn what_is_not_ours_stays() {
    let bed = Bed::new();
    bed.client_ip(&["link", "set", "eth0", "up"]);
    bed.client_ip(&["addr", "add", "192.0.2.77/24", "dev", "eth0"]);
    bed.client_ip(&[
        "route",
        "add",
        "198.51.100.0/24",
        "via",
        "192.0.2.1",
        "proto",
        "static",
    ]);
    let server = bed.kea(7, 12, 4, 8);
    let mut netcfg = bed.netcfg();
    netcfg.event("net.address", &[]);
    assert_eq!(bed.addresses().len(), 2);
    server.terminate();
    netcfg.event("net.lost", &[("reason", "expired")]);
    // That was the decision; the foreign ones stay when ours is gone.
    bed.wait_addresses(&["192.0.2.77/24"]);
    assert!(bed.routes().contains("198.51.100.0/24 via 192.0.2.1"));
}

#[test]
fn what_somebody_takes_away_is_put_back() {
    let bed = Bed::new();
    let _server = bed.dnsmasq(7, &[]);
    let mut netcfg = bed.netcfg();
    let ours = netcfg.event("net.address", &[]).get("address").to_owned();
    let mut monitor = bed.monitor();
    bed.client_ip(&["addr", "del", &ours, "dev", "eth0"]);
    // The address, then its route, then the default route: the last to come back.
    monitor.wait_line("its end", |line| {
        (line.contains("Deleted") && line.contains(&ours)).then_some(())
    });
    monitor.wait_line("the default route", |line| {
        (line.contains("default via 10.7.0.1") && !line.contains("Deleted")).then_some(())
    });
    assert_eq!(bed.addresses().join(" "), ours);
}

#[test]
fn a_link_that_comes_late_is_found_and_one_that_goes_is_let_go() {
    let bed = Bed::without_cable();
    let mut netcfg = bed.netcfg();
    bed.plug();
    let _server = bed.dnsmasq(7, &[]);
    netcfg.event("net.address", &[("link", "eth0")]);
    bed.client_ip(&["link", "del", "eth0"]);
    netcfg.event("net.lost", &[("link", "eth0"), ("reason", "gone")]);
    bed.plug();
    netcfg.event("net.address", &[("link", "eth0")]);
}

#[test]
fn fixed_addresses_need_no_server() {
    let bed = Bed::new();
    bed.config(
        r#"
        [[network.link]]
        match = { name = "eth0" }
        dhcp4 = false
        ipv6 = "off"
        address = ["192.0.2.10/24", "198.51.100.7/32"]
        gateway = "192.0.2.1"
        dns = ["9.9.9.9", "2620:fe::fe"]
        metric = 50
        mtu = 1400
        "#,
    );
    let mut netcfg = bed.netcfg();
    netcfg.event(
        "net.address",
        &[("address", "192.0.2.10/24"), ("gateway", "192.0.2.1")],
    );
    assert_eq!(bed.addresses(), ["192.0.2.10/24", "198.51.100.7/32"]);
    assert!(
        bed.routes()
            .contains("default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.10 metric 50")
    );
    assert!(
        bed.resolv_conf()
            .contains("nameserver 9.9.9.9\nnameserver 2620:fe::fe\n")
    );
    let link = bed.client_ip(&["addr", "show", "dev", "eth0"]);
    assert!(
        link.contains("mtu 1400") && !link.contains("inet6"),
        "{link}"
    );
    netcfg.never_said(&["warning"]);
}

#[test]
fn a_hostile_server_writes_no_file_of_ours() {
    let bed = Bed::new();
    // "a\nnameserver 6.6.6.6" as domain name, a host name with a command in it.
    let _server = bed.dnsmasq(
        7,
        &[
            "--dhcp-option-force=15,61:0a:6e:61:6d:65:73:65:72:76:65:72:20:36:2e:36:2e:36:2e:36",
            "--dhcp-option-force=12,24:28:72:65:62:6f:6f:74:29",
            "--dhcp-option=6,10.7.0.3,127.0.0.1,224.0.0.1",
            "--dhcp-option=121,127.0.0.0/8,10.7.0.9,224.0.0.0/4,10.7.0.9,0.0.0.0/0,10.7.0.1",
        ],
    );
    let mut netcfg = bed.netcfg();
    let event = netcfg.event("net.address", &[("dns", "10.7.0.3")]);
    assert_eq!((event.get("domain"), event.get("hostname")), ("", ""));
    assert_eq!(
        bed.resolv_conf().lines().skip(1).collect::<Vec<_>>(),
        ["nameserver 10.7.0.3"]
    );
    let routes = bed.routes();
    assert!(
        !routes.contains("127.0.0.0") && !routes.contains("224.0.0.0"),
        "{routes}"
    );
}

#[test]
fn a_bad_configuration_is_an_error_that_names_it() {
    let bed = Bed::without_cable();
    bed.config("[[network.link]]\ngateway = \"10.0.0.1\"\n");
    let said = bed.netcfg().wait_line("why", |line| {
        line.starts_with("netcfg: ").then(|| line.to_owned())
    });
    assert!(
        said.contains("network.link[0]") && said.contains("`gateway` 10.0.0.1"),
        "{said}"
    );
}
