//! What must hold whatever strangers send: one judge for each target, over any bytes.
//!
//! The fuzz targets run them on what libFuzzer makes up, and `tests/corpus.rs` on the files that
//! it found worth keeping. A judge panics when something does not hold. It knows no more of the
//! code than its public interface says, and asserts of a field only what is promised of that
//! field, so that a new one changes nothing here.
//!
//! Where a checksum or a length would keep nearly all made-up bytes out, the judge makes it right
//! and looks at both: the bytes as they are, and as a sender would have finished them.

#![allow(dead_code, reason = "each fuzz target uses one of them")]

#[path = "machine.rs"]
mod machine;

use std::time::Duration;

use dhcproto::v4::Message;
use dhcproto::{Decodable, Decoder};
use netcfg::dhcp4::arp::{self, Arp};
use netcfg::dhcp4::frame::{self, Checksum};
use netcfg::dhcp4::lease::Lease;
use netcfg::dhcp4::reply::Reply;
use netcfg::dhcp4::walk::walk;
use netcfg::dhcp6::lease::Lease6;
use netcfg::dhcp6::{self, hosts};
use netcfg::mac::Mac;
use netcfg::ntp::packet;
use netcfg::ra::{self, Facts, What};
use netcfg::rtnl;
use netcfg::store::{self, Clocks};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

/// RFC 2131, section 2: the fixed part, cookie included.
const OPTIONS_AT: usize = 240;

/// What a lease lasts at least, in seconds.
const SHORTEST_LEASE: u32 = 10;

/// Servers, or domains, that are kept of routers.
const MOST_OF_ROUTERS: usize = 8;

/// When leases begin, as time since boot.
const START: Duration = Duration::from_secs(100);

fn s(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// Text for people, which ends up in a log.
fn is_plain(text: &str) -> bool {
    text.len() <= 128 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// A name that means nothing else to anything that reads one (RFC 1123, section 2.1).
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(label)
}

/// The bytes are what happens to a whole machine.
pub fn machine(bytes: &[u8]) {
    machine::run(bytes);
}

/// The bytes are the payload of a datagram to the DHCPv4 client port.
pub fn dhcp4_reply(bytes: &[u8]) {
    let reply = Reply::decode(bytes);
    assert_eq!(reply, Reply::decode(bytes), "read twice, read differently");
    let Ok(reply) = reply else { return };

    for name in [&reply.hostname, &reply.domain].into_iter().flatten() {
        assert!(is_name(name), "{name:?}");
    }
    assert!(reply.message.as_deref().is_none_or(is_plain), "{reply:?}");
    for (to, _) in &reply.routes {
        assert!(to.prefix() <= 32 && to.network() == *to, "{to}");
    }
    // What is kept of a lease is read again as what it was.
    let walked = walk(bytes).expect("it was read");
    let mut again = Reply::decode(&walked.bytes).expect("it was read");
    assert_eq!(again.malformed, 0);
    again.malformed = reply.malformed;
    assert_eq!(again, reply);

    if let Ok(lease) = Lease::from_reply(&reply, START, bytes) {
        assert_eq!(lease.ack, bytes);
        assert_eq!(lease.address.address(), reply.yiaddr);
        sane(&lease);
    }
}

/// What is promised of any lease.
fn sane(lease: &Lease) {
    assert!(lease.address.is_usable_by_a_host(), "{lease:?}");
    assert!(lease.address.prefix() > 0, "{lease:?}");
    assert!(lease.mtu.is_none_or(|mtu| mtu >= 576), "{lease:?}");
    for name in [&lease.hostname, &lease.domain].into_iter().flatten() {
        assert!(is_name(name), "{name:?}");
    }
    if let Some(end) = lease.times.end {
        let order = [lease.times.granted, end.renew, end.rebind, end.expire];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        assert!(end.expire - lease.times.granted >= s(SHORTEST_LEASE));
    }
}

/// The bytes are what a reply has beside its header: one byte each for how much of `file` and
/// `sname` follows, those two, and the option area.
pub fn dhcp4_options(bytes: &[u8]) {
    let [file, sname, rest @ ..] = bytes else {
        return;
    };
    let (file, rest) = rest.split_at(rest.len().min((file % 129).into()));
    let (sname, area) = rest.split_at(rest.len().min((sname % 65).into()));
    let mut message = vec![0; OPTIONS_AT];
    // A BOOTREPLY for an Ethernet address, with the cookie of RFC 2131, section 3.
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    let bare = message.clone();
    message[44..][..sname.len()].copy_from_slice(sname);
    message[108..][..file.len()].copy_from_slice(file);
    message.extend_from_slice(area);

    let walked = walk(&message).expect("the header is good");
    let (header, canonical) = walked.bytes.split_at(OPTIONS_AT);
    assert_eq!(header, bare, "nothing but the options is left");
    assert!(canonical.len() <= 64 + 128 + area.len() + 1);
    let again = walk(&walked.bytes).expect("canonical");
    assert_eq!(again.bytes, walked.bytes);
    assert_eq!(again.malformed, 0);

    // The codec stops, with success, where it dislikes something: it must like all of it.
    let mut codes = vec![];
    let mut area = canonical;
    while let [code, length, rest @ ..] = area {
        codes.push(*code);
        area = &rest[usize::from(*length)..];
    }
    assert_eq!(area, [255], "options, one after the other, and an end");
    assert!(codes.is_sorted());
    codes.dedup();
    let decoded = Message::decode(&mut Decoder::new(&walked.bytes)).expect("canonical");
    let read = decoded.opts().iter().map(|(code, _)| u8::from(*code));
    assert!(read.eq(codes.iter().copied()), "the codec did not read all");
}

/// The bytes are what a packet socket received.
pub fn dhcp4_frame(bytes: &[u8]) {
    frames(bytes);
    let mut packet = bytes.to_vec();
    let Some(header) = packet.first().map(|first| usize::from(first & 15) * 4) else {
        return;
    };
    if header < 20 || packet.len() < header + 8 {
        return;
    }
    let sum = ones(0, &packet[..header]) - word(&packet, 10);
    set_sum(&mut packet, 10, sum);
    frames(&packet);
    let (at, udp) = (header + 6, usize::from(word_at(&packet, header + 4)));
    if let Some(datagram) = packet.get(header..header + udp)
        && udp >= 8
    {
        // RFC 768: addresses, protocol and length count as well.
        let sum = ones(17 + word(&packet, header + 4), &packet[12..20]);
        let sum = ones(sum, datagram) - word(&packet, at);
        set_sum(&mut packet, at, sum);
        frames(&packet);
    }
}

fn frames(packet: &[u8]) {
    let complete = frame::parse(packet, Checksum::Complete);
    let partial = frame::parse(packet, Checksum::Partial);
    assert!(complete.is_none() || complete == partial, "stricter only");
    if let Some(payload) = partial {
        let (outer, inner) = (packet.as_ptr_range(), payload.as_ptr_range());
        assert!(outer.start <= inner.start && inner.end <= outer.end);
        let total = usize::from(word_at(packet, 2));
        assert!(payload.len() + 28 <= total.min(packet.len()));
    }
}

fn word_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    word_at(bytes, at).into()
}

fn ones(sum: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        rest => u32::from(rest[0]) << 8,
    });
    sum + words.sum::<u32>()
}

/// RFC 1071. The field itself is no part of `sum`.
fn set_sum(bytes: &mut [u8], at: usize, sum: u32) {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let sum = !u16::try_from(folded & 0xffff).expect("masked");
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The bytes are the type and the flags of a netlink message and what follows its header.
pub fn netlink(bytes: &[u8]) {
    let [t0, t1, f0, f1, payload @ ..] = bytes else {
        return;
    };
    let length = u32::try_from(16 + payload.len()).expect("short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([*t0, *t1, *f0, *f1, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(payload);
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&message) else {
        return;
    };
    let _ = rtnl::change(&message.payload);
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message),
        ) => {
            let _ = rtnl::is_idle_loopback(message);
            if let Some(link) = rtnl::link(message) {
                assert!(!link.name.is_empty());
                assert!(link.up || !link.carrier, "a carrier implies up");
            }
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message),
        ) => {
            if let Some(seen) = rtnl::address(message, START) {
                let net = seen.address.net;
                assert_eq!(net.prefix_len(), message.header.prefix_len);
                for until in [seen.address.preferred, seen.address.until] {
                    assert!(until.is_none_or(|until| until >= START));
                }
                let _ = rtnl::address_attributes(&seen.address, START);
            }
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message),
        ) => {
            if let Some(seen) = rtnl::route(message) {
                // What would be written to remove it means the same route.
                if let Some(written) = rtnl::route_message(seen.link, &seen.route) {
                    let again = rtnl::route(&written).expect("a unicast route");
                    assert_eq!((again.link, again.route), (seen.link, seen.route));
                    assert!(again.ours);
                }
            }
        }
        _ => {}
    }
}

/// The bytes are a netlink datagram, if the first is odd. Otherwise they are what a router says,
/// in pieces: a gap in seconds (one byte), a length (one byte) and so many bytes of options.
pub fn ra(bytes: &[u8]) {
    let Some((first, mut rest)) = bytes.split_first() else {
        return;
    };
    let (mut now, mut facts) = (START, Facts::new());
    if first % 2 == 1 {
        return hear(&mut facts, now, rest);
    }
    while let [gap, length, tail @ ..] = rest {
        now += s((*gap).into());
        let (options, tail) = tail.split_at(tail.len().min((*length).into()));
        rest = tail;
        hear(&mut facts, now, &user_options(2, options));
    }
}

/// `RTM_NEWNDUSEROPT` as the kernel writes it, about a router at fe80::1.
fn user_options(link: u32, options: &[u8]) -> Vec<u8> {
    let mut body = vec![10, 0];
    body.extend(u16::try_from(options.len()).expect("short").to_ne_bytes());
    body.extend(link.to_ne_bytes());
    body.extend([134, 0, 0, 0, 0, 0, 0, 0]);
    body.extend_from_slice(options);
    body.extend([20u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat());
    body.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let length = u32::try_from(16 + body.len()).expect("short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([68u16.to_ne_bytes(), [0; 2]].concat());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn hear(facts: &mut Facts, now: Duration, datagram: &[u8]) {
    let parsed = ra::parse(datagram);
    assert_eq!(parsed, ra::parse(datagram), "read twice, read differently");
    let _ = facts.expire(now);
    for option in parsed.options {
        match &option.what {
            What::Servers(servers) => {
                assert!(!servers.is_empty() && servers.iter().all(hosts::may_be_a_server));
            }
            What::Domains(names) => {
                assert!(!names.is_empty() && names.iter().all(|name| is_name(name)));
            }
        }
        let before = (facts.dns(), facts.search());
        let changed = facts.step(now, option);
        let (dns, search) = (facts.dns(), facts.search());
        assert_eq!(changed, before != (dns.clone(), search.clone()));
        assert!(dns.len() <= MOST_OF_ROUTERS && search.len() <= MOST_OF_ROUTERS);
        assert!(distinct(&dns) && distinct(&search));
        assert!(facts.deadline().is_none_or(|deadline| deadline > now));
        assert!(!facts.expire(now), "nothing stays that is over");
    }
}

fn distinct<T: PartialEq>(list: &[T]) -> bool {
    let mut places = list.iter().enumerate();
    places.all(|(at, value)| !list[..at].contains(value))
}

/// The bytes are the payload of a datagram to the DHCPv6 client port.
pub fn dhcp6_reply(bytes: &[u8]) {
    let reply = dhcp6::reply::Reply::decode(bytes);
    assert_eq!(reply, dhcp6::reply::Reply::decode(bytes));
    let Ok(reply) = reply else { return };

    assert!(reply.xid < 1 << 24);
    for duid in [&reply.client, &reply.server].into_iter().flatten() {
        // RFC 8415, section 11.1.
        assert!((3..=130).contains(&duid.len()));
    }
    for name in &reply.search {
        assert!(is_name(name), "{name:?}");
    }
    for list in [&reply.dns, &reply.ntp] {
        assert!(list.len() <= 8 && list.iter().all(hosts::may_be_a_server));
    }
    assert!(reply.search.len() <= 8 && reply.associations.len() <= 4);
    assert!(is_plain(&reply.status.message));

    let now = START + s(reply.xid & 63);
    for association in &reply.associations {
        assert!(is_plain(&association.status.message));
        assert!(association.addresses.len() <= 8);
        if let Ok(lease) = Lease6::from_reply(&reply, association.id, START, now) {
            assert!((1..=4).contains(&lease.addresses.len()));
            sane6(&lease, now);
        }
    }
    if let Ok(lease) = Lease6::information(&reply, START) {
        assert!(lease.hosts().is_empty());
        assert!(lease.times.renew.is_none_or(|at| at >= START + s(600)));
    }
}

/// What is promised of any lease with addresses.
fn sane6(lease: &Lease6, now: Duration) {
    assert!(distinct(&lease.hosts()));
    for address in &lease.addresses {
        assert!(hosts::may_be_ours(&address.address) && address.is_valid_at(now));
        if let Some(valid) = address.valid {
            assert!(valid - lease.times.granted >= s(SHORTEST_LEASE));
            assert!(address.preferred.is_some_and(|until| until <= valid));
        }
    }
    let times = lease.times;
    // No server can have us come back all the time.
    assert!(times.renew.is_none_or(|at| at >= times.granted + s(5)));
    if let (Some(renew), Some(rebind)) = (times.renew, times.rebind) {
        assert!(renew <= rebind, "{times:?}");
    }
    if let (Some(rebind), Some(expiry)) = (times.rebind, lease.next_expiry()) {
        assert!(rebind < expiry, "{times:?}");
    }
}

/// The bytes are the payload of an ARP frame.
pub fn arp(bytes: &[u8]) {
    let Some(arp) = Arp::decode(bytes) else {
        return;
    };
    assert_eq!(Some(&arp.encode()[..]), bytes.get(..arp::LENGTH));
    assert_eq!(arp.sender_mac.0[0] & 1, 0, "a card has no group address");
}

/// The bytes are the payload of a datagram from a time server.
pub fn ntp(bytes: &[u8]) {
    let field = |at: usize| {
        let field = bytes.get(at..at + 8)?;
        Some(u64::from_be_bytes(field.try_into().expect("eight")))
    };
    // It is an answer to the question whose number it carries, and to no other.
    let nonce = field(24).unwrap_or_default();
    assert!(packet::decode(bytes, !nonce).is_err());
    let Ok(reply) = packet::decode(bytes, nonce) else {
        return;
    };
    assert_eq!(bytes.len(), packet::LENGTH);
    let packet::Reply::Time(answer) = reply else {
        assert_eq!(bytes[1], 0, "a kiss has stratum 0");
        return;
    };
    assert!(answer.leap < 3 && (1..16).contains(&answer.stratum));
    // As ntpd has it.
    assert!(answer.distance <= Duration::from_millis(1500));
    // 2025-01-01. Whatever it says, it means one time in the 136 years after that.
    let floor = Duration::from_secs(1_735_689_600);
    for time in [answer.received, answer.sent] {
        assert_ne!(time.0, 0);
        let meant = time.since_1970(floor);
        assert!(floor <= meant && meant < floor + Duration::from_secs(1 << 32));
    }
}

/// The bytes are the file of a lease, or such a file without its sum.
pub fn lease_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    kept(text);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    kept(&format!("{text}sum {hash:016x}\n"));
}

fn kept(text: &str) {
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    for (boot_id, since_boot) in [("a", 1000), ("b", 30)] {
        let clocks = Clocks {
            boot_id: boot_id.to_owned(),
            since_boot: s(since_boot),
            wall: 1_700_000_000,
        };
        let Some(saved) = store::read(text, mac, &clocks) else {
            continue;
        };
        assert!(saved.lease.times.granted <= clocks.since_boot);
        let written = store::write(&saved.lease, &clocks);
        if saved.applied {
            sane(&saved.lease);
            let again = store::read(&written, mac, &clocks);
            assert_eq!(again, Some(saved), "written and read");
        } else {
            let boot = text.lines().nth(1);
            assert_ne!(boot, Some(&*format!("boot {boot_id}")));
            assert!(saved.lease.address.is_usable_by_a_host());
        }
    }
}
