//! The codec against arbitrary bytes, and against `dhcproto` on messages that are in order. The
//! numbers of properties are those of the reference for this crate.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode};
use dhcproto::{Decodable, Decoder, Encodable};
use netcfg::cidr::Cidr;
use netcfg::dhcp4::arp::Arp;
use netcfg::dhcp4::frame::{self, Checksum};
use netcfg::dhcp4::lease::{Lease, Refused};
use netcfg::dhcp4::reply::Reply;
use netcfg::dhcp4::walk::walk;
use proptest::prelude::*;

/// The client's address.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// RFC 2131, section 2: the fixed part, cookie included.
const OPTIONS_AT: usize = 240;

/// So many cases; `PROPTEST_CASES` in the environment overrides it for a longer run.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

/// A reply header, options of known codes with lengths that are often right, and overload.
fn almost_replies() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![
        proptest::sample::select(vec![
            0u8, 1, 3, 6, 12, 15, 26, 28, 33, 42, 51, 52, 53, 54, 56, 58, 59, 61, 80, 81, 108, 114,
            119, 121, 249, 255
        ]),
        any::<u8>(),
    ];
    let length = prop_oneof![Just(1u8), Just(2), Just(4), Just(8), any::<u8>()];
    let option = (code, length, bytes(40))
        .prop_map(|(code, length, value)| [&[code, length][..], &value].concat());
    (
        proptest::collection::vec(option, 0..12),
        bytes(192),
        0u8..20,
    )
        .prop_map(|(options, fields, hlen)| {
            let mut message = vec![0; OPTIONS_AT];
            message[..3].copy_from_slice(&[2, 1, if hlen < 17 { 6 } else { hlen }]);
            message[44..44 + fields.len()].copy_from_slice(&fields);
            message[236..240].copy_from_slice(&[99, 130, 83, 99]);
            message.extend(options.concat());
            message
        })
}

proptest! {
    #![proptest_config(config(20_000))]

    /// Property 1: nothing panics, whatever the bytes.
    #[test]
    fn arbitrary_bytes_are_refused_or_read(payload in bytes(700)) {
        let _ = Reply::decode(&payload);
    }

    /// Properties 1 and 2: what is read is stable, and the codec reads all of the canonical form.
    #[test]
    fn almost_good_replies_are_read_and_stay_the_same(payload in almost_replies()) {
        let _ = Reply::decode(&payload);
        if let Ok(walked) = walk(&payload) {
            // The canonical form of a canonical form is itself.
            let again = walk(&walked.bytes).expect("canonical");
            prop_assert_eq!(&again.bytes, &walked.bytes);
            prop_assert_eq!(again.malformed, 0);
            let message = Message::decode(&mut Decoder::new(&walked.bytes)).expect("legal");
            let mut codes = walked_codes(&walked.bytes);
            codes.dedup();
            let read: Vec<u8> = message.opts().iter().map(|(code, _)| u8::from(*code)).collect();
            prop_assert_eq!(read, codes, "the codec stopped early");
        }
    }

    /// Property 1: a value that is cut into instances, over three areas, is the same value.
    #[test]
    fn split_and_overloaded_messages_are_read_as_whole_ones(
        dns in proptest::collection::vec(any::<u32>(), 1..12), cuts in any::<[u8; 2]>(), how in 1u8..=3,
    ) {
        let value: Vec<u8> = dns.iter().flat_map(|bits| bits.to_be_bytes()).collect();
        let option = |value: &[u8]| [&[6, u8::try_from(value.len()).expect("short")], value].concat();
        let whole = [header(), vec![53, 1, 5], option(&value), vec![255]].concat();
        let mut cuts = cuts.map(|cut| usize::from(cut) % (value.len() + 1));
        cuts.sort_unstable();
        let (first, rest) = value.split_at(cuts[0]);
        let (second, third) = rest.split_at(cuts[1] - cuts[0]);
        let mut split = [header(), vec![53, 1, 5, 52, 1, how], option(first)].concat();
        // RFC 3396: options, then file, then sname; what has no area stays in the options.
        let mut put = |flag: u8, at: usize, part: &[u8]| {
            let bytes = option(part);
            if how & flag != 0 {
                split[at..at + bytes.len()].copy_from_slice(&bytes);
                split[at + bytes.len()] = 255;
            } else {
                split.extend(bytes);
            }
        };
        if how == 1 {
            // The options come before the file: nothing may be left there for later.
            put(1, 108, &[second, third].concat());
        } else {
            put(1, 108, second);
            put(2, 44, third);
        }
        split.push(255);
        let read = |bytes: &[u8]| Reply::decode(bytes).expect("readable").dns;
        prop_assert_eq!(read(&split), read(&whole));
        prop_assert_eq!(read(&whole).len(), dns.len());
    }

    /// Property 6: whatever a server names, the times are in order.
    #[test]
    fn times_are_in_order(lease in 10u32.., t1: Option<u32>, t2: Option<u32>, small: bool) {
        let cut = |seconds: u32| if small { seconds % 100 } else { seconds };
        let lease = cut(lease).max(10);
        let mut options = vec![53, 1, 5, 54, 4, 10, 0, 0, 1, 51, 4];
        options.extend(lease.to_be_bytes());
        for (code, seconds) in [(58, t1), (59, t2)] {
            if let Some(seconds) = seconds {
                options.extend([code, 4]);
                options.extend(cut(seconds).to_be_bytes());
            }
        }
        let granted = Duration::from_secs(7);
        let lease_of = lease_from(&options, granted).expect("a lease");
        if let Some(end) = lease_of.times.end {
            prop_assert!(granted < end.renew && end.renew < end.rebind && end.rebind < end.expire);
            prop_assert_eq!(lease_of.seconds(), Some(lease.into()));
        } else {
            prop_assert_eq!(lease, u32::MAX);
        }
    }

    /// Property 12: the router counts unless there are good classless routes, of the new number
    /// or, failing that, of the old one; in any order.
    #[test]
    fn property_12_routers_count_without_classless_routes(
        new in proptest::option::of(any::<(u8, [u8; 4])>()),
        old in proptest::option::of(any::<(u8, [u8; 4])>()), order: bool,
    ) {
        let option = |code: u8, routes: Option<(u8, [u8; 4])>| match routes {
            None => vec![],
            // Widths above 32 make it malformed, and one of 40 makes it empty.
            Some((width, _)) if width % 41 == 40 => vec![code, 0],
            Some((width, via)) => {
                let width = width % 41;
                let net = vec![10; usize::from(width).div_ceil(8)];
                let value = [&[width][..], &net, &via].concat();
                [&[code, u8::try_from(value.len()).expect("short")][..], &value].concat()
            }
        };
        let good = |routes: Option<(u8, [u8; 4])>| {
            routes.filter(|(width, _)| width % 41 <= 32).map(|(_, via)| Ipv4Addr::from(via))
        };
        let mut parts = [
            vec![53, 1, 5, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 1, 0],
            vec![3, 4, 10, 0, 0, 1],
            vec![33, 8, 10, 9, 0, 1, 10, 0, 0, 2],
            option(121, new),
            option(249, old),
        ];
        if order {
            parts.reverse();
        }
        let lease = lease_from(&parts.concat(), Duration::ZERO).expect("a lease");
        let expected = good(new).or_else(|| good(old));
        prop_assert_eq!(lease.routes.first().map(|(_, via)| *via), expected);
        prop_assert_eq!(lease.routers.is_empty(), expected.is_some());
        prop_assert_eq!(lease.static_routes.is_empty(), expected.is_some());
    }

    /// Property 13: no text of a stranger gets through but names and links.
    #[test]
    fn property_13_texts_are_names_or_nothing(
        texts in proptest::collection::vec(
            (proptest::sample::select(vec![12u8, 15, 56, 114, 119]),
             prop_oneof![bytes(40), "[ -~]{0,40}".prop_map(String::into_bytes),
                         "[a-z.]{1,20}".prop_map(String::into_bytes)]), 1..6),
    ) {
        let mut message = [header(), vec![53, 1, 5]].concat();
        for (code, text) in &texts {
            message.extend([*code, u8::try_from(text.len()).expect("short")]);
            message.extend(text);
        }
        let reply = Reply::decode(&message).expect("readable");
        let names = reply.hostname.iter().chain(&reply.domain).chain(&reply.search);
        for name in names {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            prop_assert!(name.bytes().all(plain) && !name.starts_with('-'), "{}", name);
        }
        let link = reply.captive_portal.unwrap_or_default();
        prop_assert!(link.bytes().all(|b| b.is_ascii_graphic() && !b"\"'`<>\\".contains(&b)));
        let words = reply.message.unwrap_or_default();
        prop_assert!(words.bytes().all(|b| (b' '..=b'~').contains(&b)));
    }

    /// ARP frames are read or refused, and what is read is written the same.
    #[test]
    fn arbitrary_arp_frames_are_refused_or_read(payload in bytes(60), good: bool) {
        let mut payload = payload;
        if good && payload.len() >= 8 {
            payload[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        }
        if let Some(arp) = Arp::decode(&payload) {
            prop_assert_eq!(arp.encode(), &payload[..28]);
        }
    }

    #[test]
    fn arbitrary_packets_are_refused_or_read(packet in bytes(400), partial: bool) {
        let checksum = if partial { Checksum::Partial } else { Checksum::Complete };
        let _ = frame::parse(&packet, checksum);
    }

    #[test]
    fn a_damaged_packet_is_no_other_message(payload in bytes(300), at: usize, bit in 0u8..8) {
        let mut packet = frame::build(&payload).expect("fits");
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        prop_assert_eq!(frame::parse(&packet, Checksum::Complete), Some(&payload[..]));
        let at = at % packet.len();
        packet[at] ^= 1 << bit;
        // A single bit cannot hide in these sums, but may switch the UDP one off.
        let seen = frame::parse(&packet, Checksum::Complete);
        prop_assert!(seen.is_none() || packet[26..28] == [0, 0]);
    }

    /// Property 2: what `dhcproto` writes, we read, field by field.
    #[test]
    fn good_messages_are_read_as_they_were_meant(
        xid: u32, address: u32, server: u32, lease: u32, t1: u32, t2: u32, mtu: u16,
        routers in proptest::collection::vec(any::<u32>(), 1..80),
        dns in proptest::collection::vec(any::<u32>(), 1..5),
        routes in proptest::collection::vec((any::<u32>(), 0u8..=32, any::<u32>()), 1..60),
        name in "[a-z]([a-z0-9]{0,20})(\\.[a-z]{1,10}){0,3}",
    ) {
        let none = Ipv4Addr::UNSPECIFIED;
        let all = |list: &[u32]| list.iter().map(|bits| Ipv4Addr::from_bits(*bits)).collect::<Vec<_>>();
        let nets: Vec<(Cidr, Ipv4Addr)> = routes
            .iter()
            .map(|(to, width, via)| {
                let to = Cidr::new(Ipv4Addr::from_bits(*to), *width).expect("short enough").network();
                (to, Ipv4Addr::from_bits(*via))
            })
            .collect();
        let mut message = Message::new_with_id(xid, none, address.into(), none, none, &MAC);
        message.set_opcode(Opcode::BootReply).set_htype(HType::Eth);
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(MessageType::Ack));
        options.insert(DhcpOption::ServerIdentifier(server.into()));
        options.insert(DhcpOption::AddressLeaseTime(lease));
        options.insert(DhcpOption::Renewal(t1));
        options.insert(DhcpOption::Rebinding(t2));
        options.insert(DhcpOption::InterfaceMtu(mtu));
        options.insert(DhcpOption::Router(all(&routers)));
        options.insert(DhcpOption::DomainNameServer(all(&dns)));
        options.insert(DhcpOption::Hostname(name.clone()));
        options.insert(DhcpOption::DomainName(name.clone()));
        let mut bytes = message.to_vec().expect("encodes");
        // The option list of the crate wants another crate's type for routes: by hand.
        prop_assert_eq!(bytes.pop(), Some(255));
        let mut value = Vec::new();
        for (to, via) in &nets {
            value.push(to.prefix());
            value.extend(&to.address().octets()[..usize::from(to.prefix()).div_ceil(8)]);
            value.extend(via.octets());
        }
        for part in value.chunks(255) {
            bytes.push(121);
            bytes.push(u8::try_from(part.len()).expect("at most 255"));
            bytes.extend(part);
        }
        bytes.push(255);

        let reply = Reply::decode(&bytes).expect("a good message");
        prop_assert_eq!(reply.xid, xid);
        prop_assert_eq!(reply.yiaddr.to_bits(), address);
        prop_assert_eq!(reply.server.map(Ipv4Addr::to_bits), Some(server));
        prop_assert_eq!(reply.lease_time, Some(lease));
        prop_assert_eq!((reply.t1, reply.t2, reply.mtu), (Some(t1), Some(t2), Some(mtu)));
        prop_assert_eq!(reply.routers, all(&routers));
        prop_assert_eq!(reply.dns, all(&dns));
        prop_assert_eq!(reply.routes, nets);
        prop_assert_eq!(reply.hostname.as_ref(), Some(&name));
        prop_assert_eq!(reply.domain.as_ref(), Some(&name));
        prop_assert_eq!(reply.malformed, 0);
    }
}

/// A reply header for us, without options.
fn header() -> Vec<u8> {
    let mut message = vec![0; OPTIONS_AT];
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[16..20].copy_from_slice(&[10, 0, 0, 9]);
    message[28..34].copy_from_slice(&MAC);
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    message
}

/// The option codes of a canonical message, in order.
fn walked_codes(bytes: &[u8]) -> Vec<u8> {
    let mut codes = Vec::new();
    let mut rest = &bytes[OPTIONS_AT..];
    while let [code, length, tail @ ..] = rest {
        codes.push(*code);
        rest = &tail[usize::from(*length)..];
    }
    codes
}

/// The lease of an ACK with these options.
fn lease_from(options: &[u8], granted: Duration) -> Result<Lease, Refused> {
    let ack = [&header(), options].concat();
    Lease::from_reply(&Reply::decode(&ack).expect("an ACK"), granted, &ack)
}

/// An ACK as `dhcproto` writes it.
fn ack() -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(1, none, Ipv4Addr::new(10, 0, 0, 9), none, none, &MAC);
    message.set_opcode(Opcode::BootReply).set_htype(HType::Eth);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(MessageType::Ack));
    options.insert(DhcpOption::AddressLeaseTime(60));
    message.to_vec().expect("encodes")
}

/// The two defects that the walk keeps away from the codec, shown in the codec itself.
#[test]
fn what_breaks_the_codec_does_not_reach_it() {
    let mut long = ack();
    long[2] = 200;
    let decoded = Message::decode(&mut Decoder::new(&long)).expect("the codec takes it");
    // `chaddr()` would slice 200 bytes out of 16 now.
    assert_eq!(decoded.hlen(), 200);
    assert!(Reply::decode(&long).is_err());

    let mut odd = ack();
    odd.splice(240..240, [3, 5, 1, 2, 3, 4, 5]);
    let decoded = Message::decode(&mut Decoder::new(&odd)).expect("the codec takes it");
    assert!(
        decoded.opts().is_empty(),
        "the codec stops at the first malformed option"
    );
    let reply = Reply::decode(&odd).expect("readable");
    assert_eq!(reply.lease_time, Some(60));
    assert_eq!(reply.malformed, 1);
}
