//! IPv6 in network namespaces: what the kernel takes from router advertisements, what is left to
//! netcfg of them, and DHCPv6 against dnsmasq.

mod bed;

use bed::Bed;
use bed::capture::judge;
use bed::tools::run;

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
    while !bed
        .resolv_conf()
        .contains("nameserver fd00:7::53\nsearch lan.example\n")
    {
        bed.server.ip(&["addr", "show", "dev", "srv"]);
    }
    assert!(!netcfg.said("warning"), "{:?}", netcfg.seen);
}

#[test]
fn information_by_dhcpv6_when_the_router_says_so() {
    let bed = Bed::new();
    with_router(&bed);
    let capture = bed.capture();
    let mut server = bed.dnsmasq(
        7,
        &[
            "--enable-ra",
            "--dhcp-range=fd00:7::,ra-stateless",
            "--dhcp-option=option6:ntp-server,[fd00:7::123]",
        ],
    );
    let mut netcfg = bed.netcfg();
    netcfg.event("net.address", &[("gateway", "10.7.0.1")]);
    server.wait_line("an INFORMATION-REQUEST", |line| {
        line.contains("DHCPINFORMATION-REQUEST").then_some(())
    });
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
    let mut netcfg = bed.netcfg();
    netcfg.event(
        "net.address",
        &[("address", "fd00:9::10/64"), ("gateway", "fe80::1")],
    );
    let routes = bed.client_ip(&["-6", "route", "show"]);
    for wanted in [
        "default via fe80::1 dev eth0 proto dhcp metric 50",
        "fd00:77::/48 via fd00:9::1 dev eth0 proto dhcp metric 50",
        "fd00:9::/64 dev eth0 proto dhcp metric 50",
    ] {
        assert!(routes.contains(wanted), "{wanted}: {routes}");
    }
    // Nothing to do a second time: no route of ours is set again and again.
    assert!(!netcfg.said("warning"), "{:?}", netcfg.seen);
}
