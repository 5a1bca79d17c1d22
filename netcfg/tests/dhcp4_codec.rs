//! The codec against arbitrary bytes, and against `dhcproto` on messages that are in order.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode};
use dhcproto::{Decodable, Decoder, Encodable};
use netcfg::cidr::Cidr;
use netcfg::dhcp4::frame::{self, Checksum};
use netcfg::dhcp4::reply::Reply;
use netcfg::dhcp4::walk::{OPTIONS_AT, walk};
use proptest::prelude::*;

/// The client's address.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

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
            0u8, 1, 3, 6, 12, 15, 26, 51, 52, 53, 54, 56, 58, 59, 61, 121, 255
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

    #[test]
    fn arbitrary_bytes_are_refused_or_read(payload in bytes(700)) {
        let _ = Reply::decode(&payload);
    }

    #[test]
    fn almost_good_replies_are_read_and_stay_the_same(payload in almost_replies()) {
        let _ = Reply::decode(&payload);
        if let Ok(walked) = walk(&payload) {
            // The canonical form of a canonical form is itself.
            let again = walk(&walked.bytes).expect("canonical");
            prop_assert_eq!(&again.bytes, &walked.bytes);
            prop_assert_eq!(again.malformed, 0);
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

    /// What `dhcproto` writes, we read, field by field.
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
