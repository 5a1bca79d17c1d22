//! Options of Router Advertisements as the kernel passes them on, and what is kept of them.

use std::net::Ipv6Addr;
use std::time::Duration;

use netcfg::ra::{Facts, Parsed, UserOption, What, parse};
use proptest::prelude::*;

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const LINK: u32 = 7;

/// What is kept at most of each kind.
const KEPT: usize = 8;

/// And for how long: three times the longest interval of advertisements (RFC 8319, section 4).
const LONGEST: Duration = Duration::from_secs(3 * 65_535);

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

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn padded(mut bytes: Vec<u8>, to: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
    bytes
}

/// The message of the kernel (net/ipv6/ndisc.c, `ndisc_ra_useropt`).
fn message(kind: u16, router: Option<Ipv6Addr>, options: &[u8]) -> Vec<u8> {
    let length = u16::try_from(options.len()).expect("short");
    let mut body = vec![10, 0];
    body.extend(length.to_ne_bytes());
    body.extend(LINK.to_ne_bytes());
    body.extend([134, 0, 0, 0, 0, 0, 0, 0]);
    body.extend(options);
    if let Some(router) = router {
        body.extend([20u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat());
        body.extend(router.octets());
    }
    let length = u32::try_from(16 + body.len()).expect("short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(body);
    padded(message, 4)
}

fn option(kind: u8, lifetime: u32, value: &[u8]) -> Vec<u8> {
    let mut option = vec![kind, 0, 0, 0];
    option.extend(lifetime.to_be_bytes());
    option.extend(value);
    let mut option = padded(option, 8);
    option[1] = u8::try_from(option.len() / 8).expect("short");
    option
}

fn rdnss(lifetime: u32, servers: &[Ipv6Addr]) -> Vec<u8> {
    let value: Vec<u8> = servers.iter().flat_map(|server| server.octets()).collect();
    option(25, lifetime, &value)
}

fn dnssl(lifetime: u32, names: &[&str]) -> Vec<u8> {
    let mut value = Vec::new();
    for name in names {
        for label in name.split('.') {
            value.push(u8::try_from(label.len()).expect("short"));
            value.extend(label.bytes());
        }
        value.push(0);
    }
    option(31, lifetime, &value)
}

fn parsed(options: &[u8]) -> Parsed {
    parse(&message(68, Some(ROUTER), options))
}

fn said(lifetime: u32, what: What) -> UserOption {
    UserOption {
        link: LINK,
        router: ROUTER,
        lifetime,
        what,
    }
}

fn server(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
}

#[test]
fn what_the_kernel_passes_on_is_read() {
    let one = parsed(&rdnss(1800, &[server(1), server(2)]));
    let servers = What::Servers(vec![server(1), server(2)]);
    assert_eq!(one.options, [said(1800, servers.clone())]);
    let two = parsed(&dnssl(u32::MAX, &["lab.example", "example"]));
    let domains = What::Domains(vec!["lab.example".into(), "example".into()]);
    assert_eq!(two.options, [said(u32::MAX, domains.clone())]);
    // Several messages in a datagram, and several options in a message.
    let both = [
        message(68, Some(ROUTER), &rdnss(1, &[server(1), server(2)])),
        message(16, None, &[1, 2, 3]),
        message(
            68,
            Some(ROUTER),
            &[
                dnssl(2, &["lab.example", "example"]),
                rdnss(3, &[server(1), server(2)]),
            ]
            .concat(),
        ),
    ];
    let all = parse(&both.concat());
    let expected = [said(1, servers.clone()), said(2, domains), said(3, servers)];
    assert_eq!((&all.options[..], all.malformed), (&expected[..], 0));
}

#[test]
fn what_is_not_known_is_nothing() {
    assert_eq!(parse(&[]), Parsed::default());
    // Captive portal, PREF64, prefix information.
    for kind in [37, 38, 3] {
        assert_eq!(parsed(&option(kind, 1, &[1; 24])), Parsed::default());
    }
    let mut other = message(68, Some(ROUTER), &rdnss(1, &[server(1)]));
    other[16 + 8] = 137;
    assert_eq!(parse(&other), Parsed::default());
}

#[test]
fn what_is_malformed_is_left_out_alone() {
    let good = rdnss(9, &[server(1)]);
    for bad in [
        // Lengths 1, 2 and 4 of RDNSS: none, or a part of an address.
        option(25, 1, &[]),
        option(25, 1, &[0xfd; 8]),
        option(25, 1, &[0xfd; 24]),
        // Nobody can be at any of these.
        rdnss(1, &[Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST]),
        // No name, a compressed one, one that runs past the end, one with a dot of its own.
        option(31, 1, &[]),
        option(31, 1, &[0; 8]),
        option(31, 1, b"\x03lab\xc0\x00\x00\x00"),
        option(31, 1, b"\x09lab\x00\x00\x00\x00"),
        option(31, 1, b"\x05a.lab\0"),
        option(31, 1, b"\x05a lab\0"),
    ] {
        let read = parsed(&[&bad[..], &good].concat());
        assert_eq!(read.options.len(), 1, "{bad:?}");
        assert_eq!(read.malformed, 1, "{bad:?}");
    }
    // A length of zero, or past the end, ends it.
    for bad in [[25, 0, 0, 0, 0, 0, 0, 1], [25, 9, 0, 0, 0, 0, 0, 1]] {
        let read = parsed(&[&good[..], &bad, &good].concat());
        assert_eq!((read.options.len(), read.malformed), (1, 1));
    }
    // No router, or half of one.
    assert_eq!(parse(&message(68, None, &good)).malformed, 1);
    let whole = message(68, Some(ROUTER), &good);
    for length in 1..whole.len() {
        let read = parse(&whole[..length]);
        assert_eq!((read.options.len(), read.malformed), (0, 1), "{length}");
    }
}

#[test]
fn facts_stand_for_their_lifetime() {
    let mut facts = Facts::new();
    let servers = |all: &[u16]| What::Servers(all.iter().copied().map(server).collect());
    assert!(facts.step(s(0), said(60, servers(&[1, 2]))));
    assert!(facts.step(s(0), said(u32::MAX, What::Domains(vec!["lab".into()]))));
    // Said again: more time, nothing new, the same order.
    assert!(!facts.step(s(30), said(60, servers(&[2, 1]))));
    assert_eq!(facts.dns(), [server(1), server(2)]);
    assert_eq!(facts.deadline(), Some(s(90)));
    // Taken back at once.
    assert!(facts.step(s(40), said(0, servers(&[1, 9]))));
    assert_eq!(facts.dns(), [server(2)]);
    assert!(!facts.expire(s(89)));
    assert!(facts.expire(s(90)));
    // However long a router says, it has to be said again.
    assert_eq!((facts.dns(), facts.deadline()), (vec![], Some(LONGEST)));
    assert_eq!(facts.search(), ["lab"]);
    assert!(facts.expire(LONGEST) && facts.search().is_empty());
    assert!(facts.step(s(0), said(60, servers(&[1]))));
    assert!(facts.clear() && !facts.clear());
    assert_eq!(facts, Facts::new());
}

#[test]
fn only_routers_of_the_link_are_listened_to() {
    let mut facts = Facts::new();
    assert_eq!(facts.ignored(), 0);
    let mut far = said(60, What::Servers(vec![server(1)]));
    far.router = server(1);
    assert!(!facts.step(s(0), far));
    assert_eq!((facts.dns(), facts.ignored()), (vec![], 1));
}

#[test]
fn of_too_many_the_longest_lived_are_kept() {
    let mut facts = Facts::new();
    for last in 0..8 {
        let lifetime = 100 + u32::from(last);
        assert!(facts.step(s(0), said(lifetime, What::Servers(vec![server(last)]))));
    }
    assert!(!facts.step(s(0), said(100, What::Servers(vec![server(20)]))));
    assert!(facts.step(s(0), said(u32::MAX, What::Servers(vec![server(21)]))));
    let kept = facts.dns();
    assert_eq!(kept.len(), KEPT);
    assert!(!kept.contains(&server(0)) && kept.contains(&server(1)));
    assert!(kept.contains(&server(21)));
}

/// Something to say, more or less.
fn options() -> impl Strategy<Value = UserOption> {
    let lifetime = prop_oneof![Just(0u32), Just(u32::MAX), 1u32..300];
    let servers = proptest::collection::vec(0u16..24, 1..12)
        .prop_map(|all| What::Servers(all.into_iter().map(server).collect()));
    let domains = proptest::collection::vec(0u16..24, 1..12).prop_map(|all| {
        What::Domains(all.into_iter().map(|number| format!("d{number}")).collect())
    });
    (lifetime, prop_oneof![servers, domains]).prop_map(|(lifetime, what)| said(lifetime, what))
}

proptest! {
    #![proptest_config(config(5_000))]

    #[test]
    fn arbitrary_datagrams_are_refused_or_read(
        datagram in proptest::collection::vec(any::<u8>(), 0..300),
        options in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = parse(&datagram);
        let _ = parsed(&options);
    }

    /// What was written is read, whatever the bytes around are damaged to.
    #[test]
    fn good_options_are_read_as_they_were_meant(
        lifetime: u32, servers in proptest::collection::vec(1u16..999, 1..20),
        names in proptest::collection::vec("[a-z]{1,9}(\\.[a-z]{1,9}){0,3}", 1..9),
        at: usize, bit in 0u8..8,
    ) {
        let servers: Vec<Ipv6Addr> = servers.into_iter().map(server).collect();
        let names_ref: Vec<&str> = names.iter().map(String::as_str).collect();
        let options = [rdnss(lifetime, &servers), dnssl(lifetime, &names_ref)].concat();
        let read = parsed(&options);
        prop_assert_eq!(read.malformed, 0);
        let expected = [said(lifetime, What::Servers(servers)), said(lifetime, What::Domains(names))];
        prop_assert_eq!(&read.options[..], &expected);
        let mut damaged = message(68, Some(ROUTER), &options);
        let at = at % damaged.len();
        damaged[at] ^= 1 << bit;
        prop_assert!(parse(&damaged).options.len() <= 2);
    }

    /// Against a plain model: an entry is there exactly while its latest word stands, as long as
    /// there is room for all.
    #[test]
    fn facts_are_bounded_and_end_in_time(
        steps in proptest::collection::vec((options(), 0u64..200), 0..30),
    ) {
        let mut facts = Facts::new();
        let mut now = s(1);
        for (option, gap) in steps {
            let (dns, search) = (facts.dns(), facts.search());
            let changed = facts.step(now, option.clone());
            prop_assert_eq!(changed, (facts.dns(), facts.search()) != (dns, search));
            prop_assert!(facts.dns().len() <= KEPT && facts.search().len() <= KEPT);
            prop_assert!(facts.deadline().is_none_or(|deadline| deadline > now));
            let (servers, domains) = match &option.what {
                What::Servers(all) => (all.clone(), vec![]),
                What::Domains(all) => (vec![], all.clone()),
            };
            if option.lifetime == 0 {
                prop_assert!(servers.iter().all(|server| !facts.dns().contains(server)));
                prop_assert!(domains.iter().all(|domain| !facts.search().contains(domain)));
            } else if option.lifetime == u32::MAX && facts.dns().len() < KEPT {
                prop_assert!(servers.iter().all(|server| facts.dns().contains(server)));
            }
            now += s(gap);
            let due = facts.deadline().is_some_and(|deadline| deadline <= now);
            prop_assert_eq!(facts.expire(now), due);
        }
    }
}
