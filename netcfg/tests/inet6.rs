//! IPv6 in network namespaces: what the kernel takes from router advertisements, what is left to
//! netcfg of them, and DHCPv6 against dnsmasq.

mod bed;

use std::time::Instant;

use serde_json::json;

use bed::capture::judge;
use bed::tools::run;
use bed::{Bed, PATIENCE};

/// The server's end gets a global address; dnsmasq advertises its network.
fn with_router(bed: &Bed) {
    // Without this it says with every answer that it is no router (RFC 4861, section 7.3.3).
    run(bed
        .server
        .command("sysctl")
        .args(["-q", "-w", "net.ipv6.conf.all.forwarding=1"]));
    bed.server
        .ip(&["addr", "add", "fd00:7::1/64", "dev", "srv", "nodad"]);
}

fn v6(bed: &Bed) -> String {
    bed.client_ip(&["-6", "addr", "show", "dev", "eth0", "scope", "global"])
}

#[test]
fn a_network_of_ipv6_alone() {
    let bed = Bed::new();
    bed.config("[[network.link]]\nmatch = { name = \"eth*\" }\ndhcp4 = false\n");
    with_router(&bed);
    let _server = bed.dnsmasq(
        7,
        &[
            "--enable-ra",
            "--dhcp-range=fd00:7::,ra-only",
            "--dhcp-option=option6:dns-server,[fd00:7::53]",
            "--dhcp-option=option6:domain-search,lan.example",
        ],
    );
    let mut netcfg = bed.netcfg();
    let event = netcfg.event("net.address", &[("link", "eth0")]);
    assert!(event.get("address").starts_with("fd00:7::"), "{event:?}");
    assert!(event.get("gateway").starts_with("fe80::"), "{event:?}");
    assert!(v6(&bed).contains("fd00:7::"));
    // The metric of the link is that of the kernel's route, too.
    let routes = bed.client_ip(&["-6", "route", "show", "default"]);
    assert!(routes.contains("proto ra metric 10"), "{routes}");
    // The option may come before or after the address; then it is in the file.
    bed.wait_resolv_conf("nameserver fd00:7::53\nsearch lan.example\n");
    netcfg.never_said(&["warning"]);
}

#[test]
fn information_by_dhcpv6_when_the_router_says_so() {
    let bed = Bed::new();
    with_router(&bed);
    let capture = bed.capture();
    let _server = bed.dnsmasq(
        7,
        &[
            "--enable-ra",
            "--dhcp-range=fd00:7::,ra-stateless",
            "--dhcp-option=option6:ntp-server,[fd00:7::123]",
        ],
    );
    let mut netcfg = bed.netcfg();
    netcfg.event("net.address", &[("gateway", "10.7.0.1")]);
    // A router advertises no time servers: that one is known can only come from the answer.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = bed.shown();
        if shown["ntp"] == json!(["fd00:7::123"]) {
            break;
        }
        assert!(Instant::now() < deadline, "{shown}");
    }
    drop(netcfg);
    assert_eq!(judge(&[capture.stop()], &bed.folder), []);
}

#[test]
fn an_address_by_dhcpv6_is_kept_over_a_restart() {
    let bed = Bed::new();
    with_router(&bed);
    let capture = bed.capture();
    let _server = bed.dnsmasq(
        7,
        &[
            "--enable-ra",
            "--dhcp-range=fd00:7::50,fd00:7::99,64,2m",
            "--dhcp-option=option6:dns-server,[fd00:7::53]",
        ],
    );
    let mut netcfg = bed.netcfg();
    let leased = |line: &str| {
        let found = line.contains("net.address") && line.contains("address=fd00:7::");
        found.then_some(())
    };
    netcfg.wait_line("the leased address", leased);
    let before = v6(&bed);
    assert!(before.contains("/128"), "{before}");
    let mut monitor = bed.monitor();
    netcfg.kill();
    let mut netcfg = bed.netcfg();
    netcfg.wait_line("the address again", leased);
    bed.client_ip(&["addr", "add", "192.0.2.1/32", "dev", "lo"]);
    monitor.wait_line("the end", |line| line.contains("192.0.2.1").then_some(()));
    assert!(!monitor.said("Deleted"), "{:?}", monitor.seen);
    assert!(bed.resolv_conf().contains("nameserver fd00:7::53"));
    drop(netcfg);
    assert_eq!(judge(&[capture.stop()], &bed.folder), []);
}

#[test]
fn ipv6_that_is_fixed() {
    let bed = Bed::new();
    bed.config(
        r#"
        [[network.link]]
        match = { name = "eth0" }
        dhcp4 = false
        address = ["fd00:9::10/64"]
        gateway = "fe80::1"
        metric = 50
        [[network.link.route]]
        to = "fd00:77::/48"
        via = "fd00:9::1"
        "#,
    );
    let mut monitor = bed.monitor();
    let mut netcfg = bed.netcfg();
    netcfg.event(
        "net.address",
        &[("address", "fd00:9::10/64"), ("gateway", "fe80::1")],
    );
    let default = "default via fe80::1 dev eth0 proto dhcp metric 50";
    let others = [
        "fd00:77::/48 via fd00:9::1 dev eth0 proto dhcp metric 50",
        "fd00:9::/64 dev eth0 proto dhcp metric 50",
    ];
    let routes = bed.client_ip(&["-6", "route", "show"]);
    for wanted in others.into_iter().chain([default]) {
        assert!(routes.contains(wanted), "{wanted}: {routes}");
    }
    // Nothing to do a second time: what is there is not set again when something else is missing. The default route
    // comes last, so that all that was set before it has been told when it is back.
    for _ in 0..2 {
        bed.client_ip(&["-6", "route", "del", "default", "dev", "eth0"]);
        monitor.wait_line("its end", |line| {
            (line.contains("Deleted") && line.contains("default via fe80::1")).then_some(())
        });
        monitor.wait_line("the default route", |line| {
            (!line.contains("Deleted") && line.contains(default)).then_some(())
        });
    }
    let times = |what: &str| {
        let lines = monitor.seen.iter();
        let set = lines.filter(|line| line.contains(what) && !line.contains("Deleted"));
        set.count()
    };
    for (what, expected) in [(others[0], 1), (others[1], 1), (default, 3)] {
        assert_eq!(times(what), expected, "{what}: {:?}", monitor.seen);
    }
    netcfg.never_said(&["warning"]);
}
