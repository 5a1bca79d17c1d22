//! netcfg at one end of a cable, a server of ours at the other.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use crate::ADDRESS;
use crate::bed::capture::{Capture, judge};
use crate::bed::frame::{DISCOVER, Dhcp, REQUEST};
use crate::bed::wire::Wire;
use crate::bed::{Bed, Event, PATIENCE, Process};

/// The largest MTU that a veth pair has: even what no wire carries gets through.
const MTU: &str = "65535";

pub struct Session {
    pub bed: Bed,
    wire: Wire,
    netcfg: Option<Process>,
    capture: Option<Capture>,
}

impl Session {
    pub fn new() -> Session {
        let bed = Bed::new();
        bed.server.ip(&["link", "set", "srv", "mtu", MTU]);
        bed.client_ip(&["link", "set", "eth0", "mtu", MTU]);
        let capture = Some(bed.capture());
        let wire = Wire::open(&bed.server);
        Session {
            bed,
            wire,
            netcfg: None,
            capture,
        }
    }

    /// Starts netcfg, instead of the one that runs.
    pub fn start(&mut self) {
        if let Some(netcfg) = self.netcfg.take() {
            netcfg.kill();
        }
        // What the one before still asked is not to be answered.
        while self.wire.next_within(Duration::ZERO).is_some() {}
        self.netcfg = Some(self.bed.netcfg());
    }

    /// Ends netcfg, and removes all that it left.
    pub fn forget(&mut self) {
        if let Some(netcfg) = self.netcfg.take() {
            netcfg.kill();
            self.bed.forget_network();
            self.bed.forget_leases();
        }
    }

    pub fn netcfg(&mut self) -> &mut Process {
        self.netcfg.as_mut().expect("started")
    }

    /// Waits until it has told that it has an address, or more time for it.
    pub fn told(&mut self, name: &str) {
        let what = format!("what it has after: {name}");
        self.netcfg().wait_line(&what, |line| {
            let event = Event::parse(line);
            matches!(event.name.as_str(), "net.renewed" | "net.address").then_some(())
        });
    }

    /// The next DISCOVER.
    pub fn discover(&self) -> Dhcp {
        self.wire
            .next("a DISCOVER", |message| message.kind() == DISCOVER)
    }

    /// The next REQUEST for an address.
    pub fn request(&self) -> Dhcp {
        self.wire.next("a REQUEST", |message| {
            message.kind() == REQUEST && message.ciaddr().is_unspecified()
        })
    }

    /// The next REQUEST for more time.
    pub fn renewal(&self) -> Dhcp {
        self.wire.next("a renewal", |message| {
            message.kind() == REQUEST && message.ciaddr() == ADDRESS
        })
    }

    /// Sends a frame, and waits until netcfg has read it, or the kernel thrown it away.
    pub fn send(&mut self, frame: &[u8], name: &str) {
        self.wire.send(frame);
        let deadline = Instant::now() + PATIENCE;
        while self.waiting() {
            assert!(self.netcfg().is_alive(), "it ended after: {name}");
            assert!(Instant::now() < deadline, "it hangs after: {name}");
            thread::yield_now();
        }
        assert!(self.netcfg().is_alive(), "it ended after: {name}");
    }

    /// Sends frames that netcfg finds in its socket all at once.
    pub fn burst(&mut self, frames: &[Vec<u8>]) {
        self.netcfg().pause();
        for frame in frames {
            self.wire.send(frame);
        }
        self.netcfg().resume();
    }

    /// The next message of the client.
    pub fn message(&self) -> Dhcp {
        self.wire.next("a message", |_| true)
    }

    /// Whether something waits in a socket of netcfg.
    fn waiting(&mut self) -> bool {
        let table = |name: &str, pid: u32| {
            fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default()
        };
        let pid = self.netcfg().pid();
        // sk RefCnt Type Proto Iface R Rmem User Inode
        let packet = table("packet", pid);
        let mut packet = packet
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        // sl local_address rem_address st tx_queue:rx_queue ...
        let udp = table("udp", pid);
        let mut udp = udp
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        packet.any(|words| words.get(7) == Some(&"801") && words[6] != "0")
            || udp.any(|words| {
                words.get(1).is_some_and(|local| local.ends_with(":0044"))
                    && !words[4].ends_with(":00000000")
            })
    }

    /// Nothing on the link, in the routes or in `resolv.conf` that had no right to be there.
    pub fn sane(&mut self, name: &str) {
        let addresses = self.bed.addresses();
        let [address] = &addresses[..] else {
            panic!("{name}: {addresses:?}");
        };
        assert!(address.starts_with("10.7.0.50/"), "{name}: {address}");
        for route in self.bed.routes().lines() {
            sane_route(name, route);
        }
        let link = self.bed.client_ip(&["link", "show", "eth0"]);
        assert!(link.contains(&format!("mtu {MTU}")), "{name}: {link}");
        sane_resolv_conf(name, &self.bed.resolv_conf());
        let told = self.netcfg().seen.last().cloned().unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" ._:/=,-".contains(&byte);
        assert!(told.bytes().all(plain), "{name}: {told}");
        assert!(self.netcfg().is_alive(), "{name}");
    }

    /// tshark finds no fault with what netcfg sent.
    pub fn judged(mut self) {
        let capture = self.capture.take().expect("it runs");
        assert_eq!(judge(&[capture.stop()], &self.bed.folder), []);
    }
}

/// Neither to where no route may lead, nor over what is no router.
fn sane_route(name: &str, route: &str) {
    let words: Vec<&str> = route.split_whitespace().collect();
    let after = |key: &str| {
        let at = words.iter().position(|word| *word == key)?;
        words.get(at + 1).copied()
    };
    let host = |text: &str| {
        let address: Ipv4Addr = text.parse().unwrap_or_else(|_| panic!("{name}: {route}"));
        address != ADDRESS && !matches!(address.octets()[0], 0 | 127 | 224..=255)
    };
    let to = words[0].split('/').next().unwrap_or_default();
    // A part of everything is allowed to begin with 0.
    // A network may begin with our address: that of a /31 does.
    let begins_with_us = words[0].starts_with("10.7.0.50/");
    let to_ok = to == "default" || words[0] == "0.0.0.0/1" || begins_with_us || host(to);
    let via_ok = after("via").is_none_or(host);
    let mtu_ok = after("mtu").is_none_or(|mtu| mtu.parse().is_ok_and(|mtu: u32| mtu >= 576));
    assert!(
        to_ok && via_ok && mtu_ok && after("dev") == Some("eth0"),
        "{name}: {route}"
    );
}

/// A first line of ours, then nothing but known words, addresses of hosts and names.
fn sane_resolv_conf(name: &str, text: &str) {
    let mut lines = text.lines();
    assert!(
        lines.next().is_some_and(|line| line.starts_with("# ")),
        "{name}: {text:?}"
    );
    let body = text.split_once('\n').map_or("", |(_, body)| body);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b" \n.:_-".contains(&byte);
    assert!(body.bytes().all(allowed), "{name}: {text:?}");
    assert!(!body.contains("6.6.6.6"), "{name}: {text:?}");
    for line in lines {
        match line.split_once(' ') {
            Some(("nameserver", server)) => {
                let server: Ipv4Addr = server.parse().unwrap_or_else(|_| panic!("{name}: {text}"));
                assert!(
                    !matches!(server.octets()[0], 0 | 127 | 224..=239),
                    "{name}: {text}"
                );
            }
            Some(("search", _)) => {}
            _ => panic!("{name}: {text:?}"),
        }
    }
}
