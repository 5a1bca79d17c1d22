//! The DHCPv6 codec against arbitrary bytes, and against `dhcproto` on messages that are in order.

use std::net::Ipv6Addr;

use dhcproto::v6::{
    DhcpOption, IAAddr, IANA, Message, MessageType, NtpSuboption, OptionCode, Status, StatusCode,
    UnknownOption,
};
use dhcproto::{Decodable, Decoder, Encodable};
use netcfg::dhcp6::hosts;
use netcfg::dhcp6::reply::{Code, Kind, Reply};
use netcfg::dhcp6::request::{Ask, Identity, encode};
use netcfg::mac::Mac;
use proptest::prelude::*;

/// So many cases, unless `PROPTEST_CASES` in the environment says otherwise.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let said = std::env::var_os("PROPTEST_CASES");
    ProptestConfig {
        cases: said.map_or(cases, |_| default.cases),
        failure_persistence: None,
        ..default
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

fn address() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from)
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short");
    [&code.to_be_bytes(), &length.to_be_bytes(), value].concat()
}

/// An answer with options of known codes, some of a right length and some inside others.
fn almost_replies() -> impl Strategy<Value = Vec<u8>> {
    let code = || {
        prop_oneof![
            proptest::sample::select(vec![1u16, 2, 3, 5, 7, 13, 14, 23, 24, 32, 56, 82, 83]),
            0u16..100,
        ]
    };
    let leaf = (code(), bytes(40)).prop_map(|(code, value)| option(code, &value));
    let nested = leaf.prop_recursive(3, 24, 4, move |inner| {
        let head = prop_oneof![Just(12usize), Just(24), 0usize..26];
        (code(), head, proptest::collection::vec(inner, 0..4))
            .prop_map(|(code, head, inner)| option(code, &[vec![9; head], inner.concat()].concat()))
    });
    (
        prop_oneof![Just(2u8), Just(7u8)],
        proptest::collection::vec(nested, 0..8),
        bytes(8),
    )
        .prop_map(|(kind, options, tail)| [vec![kind, 1, 2, 3], options.concat(), tail].concat())
}

proptest! {
    #![proptest_config(config(5_000))]

    #[test]
    fn arbitrary_bytes_are_refused_or_read(payload in bytes(700), kind in 0u8..9) {
        let _ = Reply::decode(&payload);
        let _ = Reply::decode(&[&[kind], &payload[..]].concat());
    }

    #[test]
    fn almost_good_answers_are_read_within_bounds(payload in almost_replies()) {
        let reply = Reply::decode(&payload).expect("has a header");
        prop_assert!(reply.associations.len() <= 4 && reply.dns.len() <= 8);
        prop_assert!(reply.search.len() <= 8 && reply.ntp.len() <= 8);
        prop_assert!(reply.associations.iter().all(|ia| ia.addresses.len() <= 8));
    }

    /// What `dhcproto` writes, we read, field by field.
    #[test]
    fn good_messages_are_read_as_they_were_meant(
        xid: [u8; 3], id: u32, t1: u32, t2: u32, preference: u8, refresh: u32, sol: u32, inf: u32,
        status in 0u16..9,
        server in proptest::collection::vec(any::<u8>(), 3..=130),
        granted in proptest::collection::vec((address(), any::<u32>(), any::<u32>()), 0..8),
        dns in proptest::collection::vec(address(), 1..8),
        ntp in proptest::collection::vec(address(), 1..8),
        search in proptest::collection::vec("[a-z]([a-z0-9]{0,20})(\\.[a-z]{1,10}){0,3}", 1..8),
    ) {
        let mut message = Message::new_with_id(MessageType::Reply, xid);
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(vec![0, 3, 0, 1, 1, 2, 3, 4, 5, 6]));
        options.insert(DhcpOption::ServerId(server.clone()));
        options.insert(DhcpOption::Preference(preference));
        options.insert(DhcpOption::RapidCommit);
        options.insert(DhcpOption::StatusCode(StatusCode {
            status: Status::from(status),
            msg: "words".to_owned(),
        }));
        options.insert(DhcpOption::DomainNameServers(dns.clone()));
        options.insert(DhcpOption::NtpServer(
            ntp.iter().copied().map(NtpSuboption::ServerAddress).collect(),
        ));
        // By hand: the crate compresses names, which RFC 8415, section 10 forbids.
        let mut names = Vec::new();
        for label in search.iter().flat_map(|name| name.split('.').chain([""])) {
            names.push(u8::try_from(label.len()).expect("short"));
            names.extend(label.bytes());
        }
        let names = UnknownOption::new(OptionCode::DomainSearchList, names);
        options.insert(DhcpOption::Unknown(names));
        options.insert(DhcpOption::InformationRefreshTime(refresh));
        for (code, number) in [(OptionCode::SolMaxRt, sol), (OptionCode::InfMaxRt, inf)] {
            let data = number.to_be_bytes().to_vec();
            options.insert(DhcpOption::Unknown(UnknownOption::new(code, data)));
        }
        options.insert(DhcpOption::IANA(IANA {
            id,
            t1,
            t2,
            opts: granted.iter().map(|(addr, preferred, valid)| DhcpOption::IAAddr(IAAddr {
                addr: *addr,
                preferred_life: *preferred,
                valid_life: *valid,
                opts: std::iter::empty().collect(),
            })).collect(),
        }));
        let bytes = message.to_vec().expect("encodes");
        let reply = Reply::decode(&bytes).expect("a good message");
        prop_assert_eq!(reply.malformed, 0);
        prop_assert_eq!(reply.kind, Kind::Reply);
        prop_assert_eq!(reply.xid, message.xid_num());
        prop_assert_eq!(reply.server, Some(server));
        prop_assert_eq!(reply.client, Some(vec![0, 3, 0, 1, 1, 2, 3, 4, 5, 6]));
        prop_assert_eq!(reply.preference, preference);
        prop_assert!(reply.rapid_commit);
        let code = match status {
            0 => Code::Success,
            1 => Code::UnspecFail,
            2 => Code::NoAddrsAvail,
            3 => Code::NoBinding,
            4 => Code::NotOnLink,
            5 => Code::UseMulticast,
            other => Code::Other(other),
        };
        prop_assert_eq!(reply.status.code, code);
        prop_assert_eq!(&reply.status.message, "words");
        let usable = |mut all: Vec<Ipv6Addr>| {
            all.retain(hosts::may_be_a_server);
            all
        };
        prop_assert_eq!(reply.dns, usable(dns));
        let unicast = ntp.into_iter().filter(|address| !address.is_multicast()).collect();
        prop_assert_eq!(reply.ntp, usable(unicast));
        let oracle = Message::decode(&mut Decoder::new(&bytes)).expect("legal");
        let Some(DhcpOption::DomainSearchList(names)) =
            oracle.opts().get(OptionCode::DomainSearchList)
        else {
            panic!("no search list");
        };
        let names = names.iter().map(|name| name.to_ascii().trim_end_matches('.').to_owned());
        prop_assert_eq!(&reply.search, &names.collect::<Vec<_>>());
        prop_assert_eq!(reply.search, search);
        prop_assert_eq!(reply.refresh, Some(refresh));
        prop_assert_eq!((reply.sol_max_rt, reply.inf_max_rt), (Some(sol), Some(inf)));
        let [association] = &reply.associations[..] else {
            panic!("one association");
        };
        prop_assert_eq!((association.id, association.t1, association.t2), (id, t1, t2));
        let read: Vec<_> = association
            .addresses
            .iter()
            .map(|granted| (granted.address, granted.preferred, granted.valid))
            .collect();
        prop_assert_eq!(read, granted);
    }

    /// What we write, `dhcproto` reads, and writes the same again.
    #[test]
    fn what_we_say_is_what_was_meant(
        kind in 0u8..8, mac: [u8; 6], xid in 0u32..1 << 24, elapsed: u16,
        server in proptest::collection::vec(any::<u8>(), 3..=130),
        addresses in proptest::collection::vec(address(), 0..5),
    ) {
        let identity = Identity { mac: Mac(mac) };
        let (server, addresses) = (&server[..], &addresses[..]);
        let (ask, said) = match kind {
            0 => (Ask::Solicit { wish: addresses }, MessageType::Solicit),
            1 => (Ask::Request { server, addresses }, MessageType::Request),
            2 => (Ask::Confirm { addresses }, MessageType::Confirm),
            3 => (Ask::Renew { server, addresses }, MessageType::Renew),
            4 => (Ask::Rebind { addresses }, MessageType::Rebind),
            5 => (Ask::Inform, MessageType::InformationRequest),
            6 => (Ask::Release { server, addresses }, MessageType::Release),
            _ => (Ask::Decline { server, addresses }, MessageType::Decline),
        };
        let bytes = encode(&identity, ask, xid, elapsed);
        let message = Message::decode(&mut Decoder::new(&bytes)).expect("legal");
        prop_assert_eq!(message.to_vec().expect("encodes"), bytes);
        prop_assert_eq!((message.msg_type(), message.xid_num()), (said, xid));
        let get = |code| message.opts().get(code).cloned();
        prop_assert_eq!(
            get(OptionCode::ClientId),
            Some(DhcpOption::ClientId([&[0, 3, 0, 1][..], &mac].concat()))
        );
        prop_assert_eq!(get(OptionCode::ElapsedTime), Some(DhcpOption::ElapsedTime(elapsed)));
        let for_one = [1, 3, 6, 7].contains(&kind);
        prop_assert_eq!(
            get(OptionCode::ServerId),
            for_one.then(|| DhcpOption::ServerId(server.to_vec()))
        );
        prop_assert_eq!(get(OptionCode::RapidCommit).is_some(), kind == 0);
        let wanted: Option<Vec<u16>> = match get(OptionCode::ORO) {
            Some(DhcpOption::ORO(list)) => Some(list.opts.into_iter().map(u16::from).collect()),
            _ => None,
        };
        let expected = match kind {
            0 | 1 | 3 | 4 => Some(vec![23, 24, 56, 82]),
            5 => Some(vec![23, 24, 56, 32, 83]),
            _ => None,
        };
        prop_assert_eq!(wanted, expected);
        match get(OptionCode::IANA) {
            None => prop_assert_eq!(kind, 5),
            Some(DhcpOption::IANA(association)) => {
                prop_assert_eq!(association.id, identity.iaid());
                prop_assert_eq!((association.t1, association.t2), (0, 0));
                let listed: Vec<Ipv6Addr> = association
                    .opts
                    .iter()
                    .map(|option| match option {
                        DhcpOption::IAAddr(address) => address.addr,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                prop_assert_eq!(listed, addresses);
            }
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// What the crate does with an answer that it must never see, and what the walk does.
#[test]
fn what_breaks_the_codec_does_not_reach_it() {
    // A preference of two bytes: the crate reads one and loses its step.
    let odd = [
        vec![7, 0, 0, 1],
        option(7, &[9, 9]),
        option(23, &[0xfd; 16]),
    ]
    .concat();
    let decoded = Message::decode(&mut Decoder::new(&odd)).expect("the codec takes it");
    assert!(decoded.opts().get(OptionCode::DomainNameServers).is_none());
    let reply = Reply::decode(&odd).expect("readable");
    assert_eq!((reply.dns.len(), reply.malformed), (1, 1));

    // A status code of one byte: the crate subtracts two from its length.
    let short = [vec![7, 0, 0, 1], option(13, &[0]), option(7, &[9])].concat();
    let reply = Reply::decode(&short).expect("readable");
    assert_eq!((reply.preference, reply.malformed), (9, 1));
}
