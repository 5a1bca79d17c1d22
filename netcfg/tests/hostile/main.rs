//! netcfg against a server that means harm.
//!
//! The server is our own, at the other end of the cable: it sees each question and answers with
//! raw frames, with the right transaction id. Two tables say with what. An answer of the
//! [first](ignored) must not become a lease: hundreds of them come before each honest answer,
//! in every phase, and netcfg must take only that. An answer of the [second](poison) is a lease,
//! but what is meant to hurt in it must come to nothing: netcfg takes it, and the kernel's state
//! and `resolv.conf` are looked at after each, as an offer with its confirmation and as a
//! renewal.
//!
//! What netcfg has read is known from the kernel, which shows how much waits in its sockets: no
//! answer is lost because there were too many, and none is waited for in vain.

#![deny(unsafe_code)]

#[path = "../bed/mod.rs"]
mod bed;
mod ignored;
mod poison;
mod session;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;

use bed::frame::{ACK, DISCOVER, Dhcp, OFFER, REQUEST};
use bed::reply::Draft;
use session::Session;

/// The server, honest or not.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// Somebody else.
const EVIL: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 66);
/// What the server gives.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 50);

/// What netcfg waits for when an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Offer,
    Ack,
    Renew,
}

/// What is done to an honest answer.
struct Case {
    name: String,
    /// Where it makes sense.
    phases: &'static [Phase],
    edit: Box<dyn Fn(&mut Draft)>,
}

/// A lease of an hour, to be renewed after a second.
fn honest(question: &Dhcp, kind: u8) -> Draft {
    let mut draft = Draft::new(question, kind, [2, 0, 0, 0, 0, 1], SERVER);
    draft.yiaddr = ADDRESS;
    for (code, value) in [
        (1, [255, 255, 255, 0]),
        (3, SERVER.octets()),
        (6, [10, 7, 0, 3]),
        (51, 3600_u32.to_be_bytes()),
        (58, 1_u32.to_be_bytes()),
        (59, 3000_u32.to_be_bytes()),
    ] {
        draft.set(code, value);
    }
    draft
}

/// Sends all cases of a phase as answers to `question`.
fn volley(session: &mut Session, question: &Dhcp, phase: Phase) {
    let kind = if phase == Phase::Offer { OFFER } else { ACK };
    for (number, case) in ignored::all().iter().enumerate() {
        if !case.phases.contains(&phase) {
            continue;
        }
        let mut draft = honest(question, kind);
        ignored::mark(&mut draft, phase, number);
        (case.edit)(&mut draft);
        session.send(&draft.frame(), &case.name);
    }
    if phase != Phase::Renew {
        // The kernel's UDP would put it together.
        let mut draft = honest(question, kind);
        ignored::mark(&mut draft, phase, 9999);
        for frame in draft.two_fragments() {
            session.send(&frame, "a message in two fragments");
        }
    }
}

/// The case whose mark an address is, for the report of a failure.
fn marked(address: Option<Ipv4Addr>) -> String {
    let Some([10, 66, high, low]) = address.map(|address| address.octets()) else {
        return format!("{address:?}");
    };
    let number = usize::from(high) * 200 + usize::from(low) - 1;
    ignored::all()
        .get(number)
        .map(|case| case.name.clone())
        .unwrap_or_default()
}

#[test]
fn what_is_no_lease_is_ignored() {
    let mut session = Session::new();
    session.start();

    let discover = session.discover();
    volley(&mut session, &discover, Phase::Offer);
    assert_eq!(session.bed.addresses(), [""; 0], "no address from an offer");
    session.send(&honest(&discover, OFFER).frame(), "the honest offer");
    let request = session.request();
    let chosen = request.address_option(54);
    assert_eq!(chosen, Some(SERVER), "it takes: {}", marked(chosen));
    assert_eq!(request.address_option(50), Some(ADDRESS));

    volley(&mut session, &request, Phase::Ack);
    assert_eq!(
        session.bed.addresses(),
        [""; 0],
        "no address without a good ACK"
    );
    session.send(&honest(&request, ACK).frame(), "the honest confirmation");
    let event = session.netcfg().event("net.address", &[]);
    let dns = event.get("dns").parse().ok();
    assert_eq!(
        dns,
        Some(Ipv4Addr::new(10, 7, 0, 3)),
        "it took: {}",
        marked(dns)
    );
    session.sane("the honest confirmation");

    let renewal = session.renewal();
    volley(&mut session, &renewal, Phase::Renew);
    session.sane("all there is");
    session.send(&honest(&renewal, ACK).frame(), "the honest renewal");
    let event = session
        .netcfg()
        .wait_line("an answer to the renewal", |line| {
            let event = bed::Event::parse(line);
            matches!(
                event.name.as_str(),
                "net.renewed" | "net.address" | "net.lost"
            )
            .then_some(event)
        });
    assert_eq!(event.name, "net.renewed", "{event:?}");
    session.sane("the honest renewal");
    assert!(session.bed.resolv_conf().contains("nameserver 10.7.0.3\n"));
    session.judged();
}

#[test]
fn a_burst_of_frames_without_a_message_does_not_make_it_deaf() {
    let mut session = Session::new();
    session.start();
    let discover = session.discover();
    let mut noise = honest(&discover, OFFER);
    // Behind Ethernet (14 bytes) and IP (20), the sum of UDP is at 6.
    noise.damage = Some(Box::new(|frame| frame[14 + 20 + 6] ^= 0x55));
    let mut frames = vec![noise.frame(); 100];
    frames.push(honest(&discover, OFFER).frame());
    session.burst(&frames);
    // One question may have been due while netcfg stood still. A client that does not hear asks again
    // and again, and reads on only when its timer wakes it for that.
    let answer = session.message();
    let answer = if answer.kind() == DISCOVER {
        session.message()
    } else {
        answer
    };
    assert_eq!(answer.kind(), REQUEST, "it has not heard the offer");
    session.send(&honest(&answer, ACK).frame(), "the honest confirmation");
    session.told("a burst");
    session.sane("a burst");
}

/// Beds at a time: each case waits a second for its renewal.
const BEDS: usize = 12;

#[test]
fn poison_in_a_lease_hurts_nobody() {
    let beds: Vec<_> = (0..BEDS)
        .map(|bed| {
            thread::spawn(move || {
                let mut session = Session::new();
                for case in poison::all().iter().skip(bed).step_by(BEDS) {
                    swallow(&mut session, case);
                }
                session.judged();
            })
        })
        .collect();
    let failed = beds
        .into_iter()
        .map(thread::JoinHandle::join)
        .filter(Result::is_err);
    assert_eq!(
        failed.count(),
        0,
        "beds in which something went wrong: see above"
    );
}

/// One poisoned lease, as offer and confirmation of a new one, and as more time for an old one.
fn swallow(session: &mut Session, case: &Case) {
    let poisoned = |question: &Dhcp, kind| {
        let mut draft = honest(question, kind);
        (case.edit)(&mut draft);
        draft.frame()
    };
    session.forget();
    session.start();
    let discover = session.discover();
    session.send(&poisoned(&discover, OFFER), &case.name);
    let request = session.request();
    assert_eq!(request.address_option(50), Some(ADDRESS), "{}", case.name);
    session.send(&poisoned(&request, ACK), &case.name);
    session.told(&case.name);
    session.sane(&case.name);
    session.bed.wait_kept();

    session.start();
    let reboot = session.request();
    session.send(&honest(&reboot, ACK).frame(), "an honest confirmation");
    session.told(&case.name);
    let renewal = session.renewal();
    session.send(&poisoned(&renewal, ACK), &case.name);
    session.told(&case.name);
    session.sane(&case.name);
}

#[test]
fn no_two_of_more_than_two_hundred_answers_are_alike() {
    let question = Dhcp {
        source_mac: [2, 0, 0, 0, 0, 9],
        source: Ipv4Addr::UNSPECIFIED,
        destination: Ipv4Addr::BROADCAST,
        message: [&[1, 1, 6, 0, 1, 2, 3, 4][..], &[0; 232]].concat(),
    };
    let (mut names, mut frames) = (BTreeSet::new(), BTreeSet::new());
    for (table, cases) in [("ignored", ignored::all()), ("poison", poison::all())] {
        assert!(cases.len() > 200, "{table}: {}", cases.len());
        for case in cases {
            let kind = if case.phases == [Phase::Offer] {
                OFFER
            } else {
                ACK
            };
            let mut draft = honest(&question, kind);
            (case.edit)(&mut draft);
            let frame = draft.frame();
            assert_ne!(frame, honest(&question, kind).frame(), "{}", case.name);
            assert!(frames.insert(frame), "{table}, {}: sent before", case.name);
            assert!(
                names.insert((table, case.name.clone())),
                "{table}: two {}",
                case.name
            );
        }
    }
}
