//! The rows of the matrix: what happens to a lease, whoever serves it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::bed::Event;
use crate::bed::frame::{ACK, DECLINE, DISCOVER, Dhcp, NAK, OFFER, REQUEST};
use crate::bed::reply::Draft;
use crate::bed::server::{Kind, Server};
use crate::bed::wire::{Answering, Wire};
use crate::lab::Lab;

/// RFC 4039, section 4.
const RAPID_COMMIT: u8 = 80;

/// Whether it is the question of INIT-REBOOT (RFC 2131, table 5).
fn is_reboot(message: &Dhcp) -> bool {
    message.kind() == REQUEST
        && message.ciaddr().is_unspecified()
        && message.option(50).is_some()
        && message.option(54).is_none()
}

/// Whether it asks for more time, and at which server (RFC 2131, table 5).
fn is_extension(message: &Dhcp, to: Ipv4Addr) -> bool {
    message.kind() == REQUEST
        && !message.ciaddr().is_unspecified()
        && message.option(50).is_none()
        && message.option(54).is_none()
        && message.destination == to
}

/// The address of an event without its prefix.
fn bare(event: &Event) -> Ipv4Addr {
    let (address, _) = event.get("address").split_once('/').expect("a prefix");
    address.parse().expect("an address")
}

/// Nothing known: everything the server has to give is in place.
pub fn fresh(lab: &mut Lab) {
    let server = Server::new(7);
    let _server = lab.serve(&server);
    let mut netcfg = lab.bed.netcfg();
    let event = lab.address(&mut netcfg, &[("link", "eth0")]);
    assert!(event.get("address").ends_with("/24"), "{event:?}");
    let last = bare(&event).octets()[3];
    assert!((50..=99).contains(&last), "{event:?}");
    for (field, value) in [
        ("gateway", "10.7.0.1"),
        ("dns", "10.7.0.3,10.7.0.4"),
        ("domain", "lan.example"),
        ("lease_s", "3600"),
        ("server", "10.7.0.1"),
    ] {
        assert_eq!(event.get(field), value, "{field}");
    }
    lab.default_route("10.7.0.1");
    let subnet = "10.7.0.0/24 dev eth0 proto dhcp scope link";
    assert!(lab.bed.routes().contains(subnet), "{}", lab.bed.routes());
    let text = lab.bed.resolv_conf();
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "nameserver 10.7.0.3",
            "nameserver 10.7.0.4",
            "search lan.example"
        ]
    );
    // The last thing that follows.
    lab.bed.wait_kept();
    netcfg.never_said(&["net.warning"]);
}

/// A restart after which the link is empty: the same address, asked for and not looked for.
pub fn saved_lease(lab: &mut Lab) {
    let _server = lab.serve(&Server::new(7));
    let mut netcfg = lab.bed.netcfg();
    let before = lab.address(&mut netcfg, &[]).get("address").to_owned();
    lab.bed.wait_kept();
    netcfg.kill();
    lab.bed.forget_network();
    let mut netcfg = lab.bed.netcfg();
    lab.address(&mut netcfg, &[("address", &before)]);
    lab.default_route("10.7.0.1");
    let requests = lab.captured().requests();
    let reboot = requests.iter().find(|message| is_reboot(message));
    let asked = reboot.and_then(|message| message.address_option(50));
    let (before, _) = before.split_once('/').expect("a prefix");
    assert_eq!(asked, Some(before.parse().expect("an address")));
}

/// A restart with a lease that this server never gave, and about which it is silent if it can be.
pub fn stale_lease(lab: &mut Lab) {
    let server = lab.serve(&Server::new(7));
    let mut netcfg = lab.bed.netcfg();
    let before = lab.address(&mut netcfg, &[]);
    lab.bed.wait_kept();
    netcfg.kill();
    server.terminate();
    lab.bed.forget_network();
    lab.forget_server();
    let _server = lab.serve(&lab.silent(Server {
        pool: (150, 199),
        ..Server::new(7)
    }));
    let mut netcfg = lab.bed.netcfg();
    let event = lab.address(&mut netcfg, &[]);
    let last = bare(&event).octets()[3];
    assert!((150..=199).contains(&last), "{event:?}");
    let requests = lab.captured().requests();
    let asked = requests
        .iter()
        .any(|message| message.address_option(50) == Some(bare(&before)));
    assert!(asked, "it did not even ask for {}", bare(&before));
}

/// Another network while netcfg was away, and a server that says so.
pub fn nak(lab: &mut Lab) {
    let server = lab.serve(&Server::new(7));
    let mut netcfg = lab.bed.netcfg();
    lab.address(&mut netcfg, &[("gateway", "10.7.0.1")]);
    lab.bed.wait_kept();
    netcfg.kill();
    server.terminate();
    lab.forget_server();
    lab.bed.server.renumber("10.8.0.1/24");
    let _server = lab.serve(&Server::new(8));
    let mut netcfg = lab.bed.netcfg();
    netcfg.event("net.lost", &[("reason", "nak")]);
    lab.address(&mut netcfg, &[("gateway", "10.8.0.1")]);
    lab.default_route("10.8.0.1");
    assert!(!lab.bed.routes().contains("10.7.0"), "{}", lab.bed.routes());
    let replies = lab.captured().replies();
    assert!(replies.iter().any(|message| message.kind() == NAK));
}

/// The server is away for a moment, and knows its leases when it is back.
pub fn server_restart(lab: &mut Lab) {
    let server = lab.timed(7, 60, 3, 15);
    let first = lab.serve(&server);
    let mut netcfg = lab.bed.netcfg();
    let before = lab.address(&mut netcfg, &[]).get("address").to_owned();
    first.terminate();
    let _second = lab.serve(&server);
    netcfg.event("net.renewed", &[("address", &before)]);
    assert_eq!(lab.bed.addresses().join(" "), before);
    netcfg.never_said(&["net.lost"]);
}

/// At T1 the server is asked for more time, and gives it.
pub fn renew(lab: &mut Lab) {
    let _server = lab.serve(&lab.timed(7, 60, 3, 40));
    let mut netcfg = lab.bed.netcfg();
    let before = lab.address(&mut netcfg, &[]).get("address").to_owned();
    for _ in 0..2 {
        netcfg.event("net.renewed", &[("address", &before)]);
    }
    assert_eq!(lab.bed.addresses().join(" "), before);
    lab.default_route("10.7.0.1");
    netcfg.never_said(&["net.lost"]);
    let server = Ipv4Addr::new(10, 7, 0, 1);
    let requests = lab.captured().requests();
    assert!(requests.iter().filter(|m| is_extension(m, server)).count() >= 2);
}

/// The server is not where it was: at T2 everybody is asked, and it answers from its new address.
pub fn rebind(lab: &mut Lab) {
    let server = lab.timed(7, 40, 3, 8);
    let first = lab.serve(&server);
    let mut netcfg = lab.bed.netcfg();
    let before = lab.address(&mut netcfg, &[("server", "10.7.0.1")]);
    first.terminate();
    lab.bed.server.renumber("10.7.0.2/24");
    let _second = lab.serve(&server);
    // Renewed or, because another one gave it, told anew.
    let after = netcfg.wait_line("an answer from 10.7.0.2", |line| {
        let event = Event::parse(line);
        (event.get("server") == "10.7.0.2").then_some(event)
    });
    assert_eq!(after.get("address"), before.get("address"));
    assert_eq!(lab.bed.addresses().join(" "), before.get("address"));
    netcfg.never_said(&["net.lost"]);
    let requests = lab.captured().requests();
    assert!(
        requests
            .iter()
            .any(|m| is_extension(m, Ipv4Addr::BROADCAST))
    );
}

/// Nobody gives more time: the address goes, and all that hangs on it. Then somebody is back.
pub fn expiry(lab: &mut Lab) {
    let server = lab.timed(7, 12, 4, 8);
    let first = lab.serve(&server);
    let mut netcfg = lab.bed.netcfg();
    let before = lab.address(&mut netcfg, &[]).get("address").to_owned();
    first.terminate();
    netcfg.event("net.lost", &[("reason", "expired"), ("address", &before)]);
    // The event tells the decision; the kernel has its own clock and may be a moment behind.
    lab.bed.wait_addresses(&[]);
    assert!(!lab.bed.routes().contains("eth0"), "{}", lab.bed.routes());
    let _second = lab.serve(&server);
    lab.address(&mut netcfg, &[]);
    lab.default_route("10.7.0.1");
}

/// The cable is out for less than the time of grace: the address stays, and is asked for again.
pub fn carrier_flap(lab: &mut Lab) {
    let _server = lab.serve(&Server::new(7));
    let mut netcfg = lab.bed.netcfg();
    let before = lab.address(&mut netcfg, &[]).get("address").to_owned();
    lab.bed.carrier(false);
    netcfg.event("net.link", &[("state", "down")]);
    assert_eq!(lab.bed.addresses().join(" "), before);
    lab.bed.carrier(true);
    netcfg.event("net.link", &[("state", "up")]);
    lab.address(&mut netcfg, &[("address", &before)]);
    lab.default_route("10.7.0.1");
    netcfg.never_said(&["net.lost"]);
    assert!(lab.captured().requests().iter().any(is_reboot));
}

/// The cable goes into another network, whose server is silent about strangers if it can be.
pub fn moved(lab: &mut Lab) {
    let first = lab.serve(&Server::new(7));
    let mut netcfg = lab.bed.netcfg();
    lab.address(&mut netcfg, &[("gateway", "10.7.0.1")]);
    first.terminate();
    lab.forget_server();
    lab.bed.carrier(false);
    netcfg.event("net.link", &[("state", "down")]);
    lab.bed.server.renumber("10.8.0.1/24");
    lab.bed.carrier(true);
    lab.bed.switch_on();
    let _second = lab.serve(&lab.silent(Server::new(8)));
    lab.address(&mut netcfg, &[("gateway", "10.8.0.1")]);
    lab.default_route("10.8.0.1");
    let routes = lab.bed.routes();
    assert!(!routes.contains("10.7.0"), "{routes}");
    let text = lab.bed.resolv_conf();
    assert!(
        text.contains("10.8.0.3") && !text.contains("10.7.0.3"),
        "{text}"
    );
}

/// A network of one, with a router outside of it (GCP, Hetzner, OVH).
pub fn off_link_gateway(lab: &mut Lab) {
    // Not on `srv`: a server would serve from it, too.
    lab.bed
        .server
        .ip(&["addr", "add", "172.31.1.1/32", "dev", "lo"]);
    let _server = lab.serve(&Server {
        lone: true,
        router: Ipv4Addr::new(172, 31, 1, 1),
        ..Server::new(7)
    });
    let mut netcfg = lab.bed.netcfg();
    let event = lab.address(&mut netcfg, &[("gateway", "172.31.1.1")]);
    assert!(event.get("address").ends_with("/32"), "{event:?}");
    lab.default_route("172.31.1.1");
    // The kernel agrees that it leads somewhere.
    let way = lab.bed.client_ip(&["route", "get", "198.51.100.1"]);
    let wanted = format!("via 172.31.1.1 dev eth0 src {}", bare(&event));
    assert!(way.contains(&wanted), "{way}");
}

/// Classless routes, which replace the router.
pub fn option_121(lab: &mut Lab) {
    let server = Server::new(7);
    let _server = lab.serve(&Server {
        routes: vec![
            ("198.51.100.0/24", server.address(8)),
            ("0.0.0.0/0", server.address(9)),
        ],
        ..server
    });
    let mut netcfg = lab.bed.netcfg();
    lab.address(&mut netcfg, &[("gateway", "10.7.0.9")]);
    lab.default_route("10.7.0.9");
    let routes = lab.bed.routes();
    let wanted = "198.51.100.0/24 via 10.7.0.8 dev eth0 proto dhcp";
    assert!(routes.contains(wanted), "{routes}");
    assert!(!routes.contains("via 10.7.0.1 "), "{routes}");
}

/// The MTU goes onto the routes, and the link keeps its own.
pub fn mtu(lab: &mut Lab) {
    let _server = lab.serve(&Server {
        mtu: Some(1400),
        ..Server::new(7)
    });
    let mut netcfg = lab.bed.netcfg();
    lab.address(&mut netcfg, &[("mtu", "1400")]);
    let routes = lab.bed.routes();
    assert_eq!(routes.matches("mtu 1400").count(), 2, "{routes}");
    let link = lab.bed.client_ip(&["link", "show", "eth0"]);
    assert!(link.contains("mtu 1500"), "{link}");
}

/// RFC 4039: two messages instead of four, where the server knows how. Where it does not, it answers as if it had not
/// been asked.
pub fn rapid_commit(lab: &mut Lab) {
    let (knows, asked, answered): (_, &[u8], &[u8]) = match lab.kind {
        Kind::Dnsmasq => (true, &[DISCOVER], &[ACK]),
        Kind::Kea | Kind::Isc | Kind::Udhcpd => (false, &[DISCOVER, REQUEST], &[OFFER, ACK]),
    };
    let _server = lab.serve(&Server {
        rapid_commit: knows,
        ..Server::new(7)
    });
    let mut netcfg = lab.bed.netcfg();
    lab.address(&mut netcfg, &[]);
    lab.default_route("10.7.0.1");
    let captured = lab.captured();
    let kinds = |messages: &[Dhcp]| {
        let mut kinds: Vec<u8> = messages.iter().map(Dhcp::kind).collect();
        // Whoever waits too long asks again.
        kinds.dedup();
        kinds
    };
    let (requests, replies) = (captured.requests(), captured.replies());
    assert_eq!(kinds(&requests), asked);
    assert_eq!(kinds(&replies), answered);
    let commits = |message: &&Dhcp| message.option(RAPID_COMMIT).is_some();
    let discovers = requests.iter().filter(|m| m.kind() == DISCOVER);
    assert!(discovers.clone().all(|message| commits(&message)));
    let committed = replies.iter().filter(commits).count();
    assert_eq!(committed, if knows { replies.len() } else { 0 });
}

/// A server whose every answer to who has no address is a broadcast. Kea does so only for who asks for it, and is
/// tried with both.
pub fn broadcast_only(lab: &mut Lab) {
    let unasked = match lab.kind {
        Kind::Dnsmasq | Kind::Isc | Kind::Udhcpd => true,
        Kind::Kea => false,
    };
    let _server = lab.serve(&Server {
        broadcast_only: unasked,
        ..Server::new(7)
    });
    if !unasked {
        let mut netcfg = lab.bed.netcfg();
        lab.address(&mut netcfg, &[]);
        netcfg.kill();
        lab.bed.forget_network();
        lab.bed.forget_leases();
        lab.bed
            .config("[[network.link]]\nmatch = { name = \"eth*\" }\ndhcp = { broadcast = true }\n");
    }
    let mut netcfg = lab.bed.netcfg();
    lab.address(&mut netcfg, &[]);
    lab.default_route("10.7.0.1");
    let captured = lab.captured();
    let requests = captured.requests();
    let (mut broadcast, mut unicast) = (0, 0);
    for reply in captured.replies() {
        let mut questions = requests.iter();
        let question = questions.find(|question| question.xid() == reply.xid());
        let asks = question.expect("an answer to us").wants_broadcast();
        let expected = unasked || asks;
        assert_eq!(reply.destination == Ipv4Addr::BROADCAST, expected);
        *if expected {
            &mut broadcast
        } else {
            &mut unicast
        } += 1;
    }
    assert!(broadcast >= 2, "{broadcast}");
    assert_eq!(unicast >= 2, !unasked, "{unicast}");
}

/// Somebody has the address already, and the server does not know.
pub fn duplicate_address(lab: &mut Lab) {
    let _server = lab.serve(&Server::new(7));
    let mut netcfg = lab.bed.netcfg();
    let taken = lab.address(&mut netcfg, &[]);
    netcfg.kill();
    lab.bed.forget_network();
    lab.bed.forget_leases();
    // The server has given it to us, and will again.
    let _other = lab.bed.host("other", taken.get("address"));
    let mut netcfg = lab.bed.netcfg();
    let address = taken.get("address");
    netcfg.event("net.lost", &[("reason", "conflict"), ("address", address)]);
    let event = lab.address(&mut netcfg, &[]);
    assert_ne!(event.get("address"), address);
    lab.default_route("10.7.0.1");
    let requests = lab.captured().requests();
    let decline = requests.iter().find(|message| message.kind() == DECLINE);
    let declined = decline.and_then(|message| message.address_option(50));
    assert_eq!(declined, Some(bare(&taken)));
}

/// Two servers of one network offer: one is chosen, and it is the one that is asked again.
pub fn two_servers_offer(lab: &mut Lab) {
    let server = lab.timed(7, 60, 3, 40);
    let host = lab.bed.host("second", "10.7.0.2/24");
    let _first = lab.serve(&server);
    let second = Server {
        pool: (150, 199),
        ..server
    };
    let _second = lab.kind.start(&host, &second);
    let mut netcfg = lab.bed.netcfg();
    let event = lab.address(&mut netcfg, &[]);
    let pool = match event.get("server") {
        "10.7.0.1" => 50..=99,
        "10.7.0.2" => 150..=199,
        _ => panic!("{event:?}"),
    };
    assert!(pool.contains(&bare(&event).octets()[3]), "{event:?}");
    for _ in 0..2 {
        netcfg.event(
            "net.renewed",
            &[
                ("address", event.get("address")),
                ("server", event.get("server")),
            ],
        );
    }
    assert_eq!(lab.bed.addresses().join(" "), event.get("address"));
    netcfg.never_said(&["net.lost"]);
    let captured = lab.captured();
    let offers = captured.replies().into_iter();
    let offers = offers.filter(|message| message.kind() == OFFER);
    let offering: BTreeSet<_> = offers.map(|offer| offer.address_option(54)).collect();
    let both = ["10.7.0.1", "10.7.0.2"].map(|id| Some(id.parse().expect("an address")));
    assert_eq!(offering, BTreeSet::from(both));
    let chosen = event.get("server").parse().expect("an address");
    let mut requests = captured.requests();
    requests.retain(|message| message.kind() == REQUEST);
    let (selecting, renewing): (Vec<_>, Vec<_>) =
        requests.iter().partition(|m| m.option(54).is_some());
    assert!(!selecting.is_empty() && renewing.len() >= 2);
    assert!(
        selecting
            .iter()
            .all(|m| m.address_option(54) == Some(chosen))
    );
    assert!(renewing.iter().all(|m| is_extension(m, chosen)));
}

/// Beside the server somebody says no to every request, which is not his to say.
pub fn one_of_two_says_no(lab: &mut Lab) {
    // Not an address that the server hands out (50 to 99).
    let host = lab.bed.host("naysayer", "10.7.0.166/24");
    let own = Ipv4Addr::new(10, 7, 0, 166);
    let _naysayer = Answering::start(Wire::open(&host), move |question| {
        let nak = Draft::new(question, NAK, [2, 0, 0, 0, 0, 66], own).frame();
        if question.kind() == REQUEST {
            vec![nak]
        } else {
            vec![]
        }
    });
    let _server = lab.serve(&lab.timed(7, 60, 3, 40));
    let mut netcfg = lab.bed.netcfg();
    let event = lab.address(&mut netcfg, &[("server", "10.7.0.1")]);
    netcfg.event("net.renewed", &[("address", event.get("address"))]);
    assert_eq!(lab.bed.addresses().join(" "), event.get("address"));
    netcfg.never_said(&["net.lost", "dhcp-nak"]);
    let replies = lab.captured().replies();
    assert!(replies.iter().any(|message| message.kind() == NAK));
}

/// Of ten frames three are lost, some come twice, late and in another order, in both directions.
pub fn lossy_relay(lab: &mut Lab) {
    let _server = lab.serve(&lab.timed(7, 60, 3, 20));
    let mut netcfg = lab.bed.netcfg();
    let event = lab.address(&mut netcfg, &[]);
    lab.default_route("10.7.0.1");
    netcfg.event("net.renewed", &[("address", event.get("address"))]);
    assert_eq!(lab.bed.addresses().join(" "), event.get("address"));
    assert!(lab.bed.lost() > 0, "nothing was lost");
}
