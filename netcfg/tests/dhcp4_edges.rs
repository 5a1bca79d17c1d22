//! The client at its edges, by stories: who may say what and when, how often it asks, and what it counts.

mod world;

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};
use netcfg::dhcp4::arp::{Arp, Op};
use netcfg::dhcp4::client::{Action, Event, Note, To};
use netcfg::mac::Mac;

use world::{MAC, Manner, Neighbour, Restart, Server, World, reply};

const OTHER: Mac = Mac([2, 0, 0, 0, 0, 7]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);
const HOUR: u32 = 3600;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A world in which nobody answers by himself, and the client has just asked.
fn asking() -> World {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::CarrierUp);
    world
}

/// The same, and a server's offer was taken.
fn requesting() -> World {
    let mut world = asking();
    say(&mut world, MessageType::Offer, SERVER, HOUR);
    assert_eq!(world.client.phase_name(), "requesting");
    world
}

/// The same, and it was confirmed.
fn bound(lease: u32) -> World {
    let mut world = asking();
    say(&mut world, MessageType::Offer, SERVER, lease);
    say(&mut world, MessageType::Ack, SERVER, lease);
    assert_eq!(world.client.phase_name(), "bound");
    world
}

/// All that was sent, with its time.
fn sent(world: &World) -> Vec<(Duration, Message)> {
    let log = world.log.iter();
    log.filter_map(|(at, action)| match action {
        Action::Send { payload, .. } => {
            let message = Message::decode(&mut Decoder::new(payload));
            Some((*at, message.expect("legal")))
        }
        _ => None,
    })
    .collect()
}

fn last(world: &World) -> Message {
    sent(world).pop().expect("something was sent").1
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().expect("a kind")
}

/// A server answers the last question.
fn say(world: &mut World, kind: MessageType, server: Ipv4Addr, lease: u32) {
    let answer = reply(last(world).xid(), kind, server, ADDRESS, lease);
    world.step(Event::Payload(&answer));
}

/// The same with another transaction id.
fn say_to_another(world: &mut World, kind: MessageType, server: Ipv4Addr) {
    let answer = reply(last(world).xid() ^ 1, kind, server, ADDRESS, HOUR);
    world.step(Event::Payload(&answer));
}

/// An answer to the last question with one more option.
fn with_option(world: &World, kind: MessageType, option: &[u8]) -> Vec<u8> {
    let mut answer = reply(last(world).xid(), kind, SERVER, ADDRESS, HOUR);
    assert_eq!(answer.pop(), Some(255));
    answer.extend(option);
    answer.push(255);
    answer
}

#[test]
fn an_expired_address_is_wished_for_and_one_in_use_is_not() {
    let wish = |world: &World| {
        let message = last(world);
        assert_eq!(kind(&message), MessageType::Discover);
        message.opts().get(OptionCode::RequestedIpAddress).cloned()
    };
    let mut world = bound(60);
    world.run_for(s(61));
    let wanted = DhcpOption::RequestedIpAddress(ADDRESS);
    assert_eq!(wish(&world), Some(wanted));
    let mut world = bound(HOUR);
    world.step(Event::Arp(&Arp::announcement(OTHER, ADDRESS).encode()));
    world.run_for(s(11));
    assert_eq!(wish(&world), None);
}

#[test]
fn nothing_is_asked_before_the_wait_after_a_conflict_is_over() {
    let mut world = bound(HOUR);
    world.step(Event::Arp(&Arp::announcement(OTHER, ADDRESS).encode()));
    let told = sent(&world).len();
    for _ in 0..9 {
        world.now += s(1);
        world.step(Event::Timer);
        assert_eq!(world.client.phase_name(), "init");
    }
    assert_eq!(sent(&world).len(), told);
}

#[test]
fn an_offer_that_is_never_confirmed_is_asked_for_four_times() {
    let mut world = World::new(1, vec![Server::new(0, Manner::Forgetful, HOUR)], 0);
    world.step(Event::CarrierUp);
    world.run_for(s(30));
    let kinds: Vec<_> = sent(&world).iter().map(|(_, m)| kind(m)).collect();
    let [discover, request] = [MessageType::Discover, MessageType::Request];
    let first = [discover, request, request, request, request, discover];
    assert_eq!(kinds[..6], first);
}

#[test]
fn the_lease_of_an_offer_that_waited_runs_from_the_request() {
    let mut world = World::new(1, vec![Server::new(0, Manner::Forgetful, HOUR)], 0);
    world.step(Event::CarrierUp);
    // It has broken its word: from now on its offers wait for better ones.
    world.run_for(s(17));
    world.servers[0].manner = Manner::Honest;
    assert!(world.run_until(s(100), World::is_bound));
    // The first of those with this transaction id.
    let (xid, sent) = (last(&world).xid(), sent(&world));
    let asks = |message: &Message| message.xid() == xid && kind(message) == MessageType::Request;
    let first = sent.iter().find(|(_, message)| asks(message));
    let lease = world.client.applied().expect("bound");
    assert_eq!(Some(lease.times.granted), first.map(|(at, _)| *at));
}

#[test]
fn an_answer_with_another_client_id_is_for_another() {
    let mut world = asking();
    let theirs = with_option(&world, MessageType::Offer, &[61, 7, 1, 2, 0, 0, 0, 0, 8]);
    world.step(Event::Payload(&theirs));
    assert_eq!(world.client.counters().not_ours, 1);
    assert_eq!(world.client.phase_name(), "selecting");
    let ours = with_option(&world, MessageType::Offer, &[61, 7, 1, 2, 0, 0, 0, 0, 9]);
    world.step(Event::Payload(&ours));
    assert_eq!(world.client.phase_name(), "requesting");
}

#[test]
fn an_offer_that_is_no_lease_is_told_and_a_bad_option_counted() {
    let mut world = asking();
    say(&mut world, MessageType::Offer, SERVER, 3);
    assert!(world.noted(|note| matches!(
        note,
        Note::Refused {
            server: Some(SERVER),
            ..
        }
    )));
    // An MTU of one byte.
    let odd = with_option(&world, MessageType::Offer, &[26, 1, 7]);
    world.step(Event::Payload(&odd));
    assert_eq!(world.client.counters().malformed_options, 1);
    // Twice the same.
    world.step(Event::Payload(&odd));
    assert_eq!(world.client.counters().unexpected, 1);
    let forced = reply(
        last(&world).xid(),
        MessageType::ForceRenew,
        SERVER,
        ADDRESS,
        HOUR,
    );
    world.step(Event::Payload(&forced));
    world.step(Event::Payload(&[0; 20]));
    let counters = world.client.counters();
    assert_eq!((counters.force_renews, counters.unreadable), (1, 1));
}

#[test]
fn whoever_was_not_asked_says_no_in_vain() {
    // The chosen server alone, and to this question: then the client waits before it asks again.
    let mut world = requesting();
    say(&mut world, MessageType::Nak, STRANGER, HOUR);
    say_to_another(&mut world, MessageType::Nak, SERVER);
    assert_eq!(world.client.phase_name(), "requesting");
    say(&mut world, MessageType::Nak, SERVER, HOUR);
    assert_eq!(world.client.phase_name(), "init");

    // While renewing the server of the lease.
    let mut world = bound(HOUR);
    world.run_for(s(1900));
    assert_eq!(world.client.phase_name(), "renewing");
    say(&mut world, MessageType::Nak, STRANGER, HOUR);
    say_to_another(&mut world, MessageType::Nak, SERVER);
    assert_eq!(world.client.phase_name(), "renewing");
    say(&mut world, MessageType::Nak, SERVER, HOUR);
    assert_eq!(world.client.phase_name(), "selecting");

    // While rebinding anybody.
    let mut world = bound(HOUR);
    world.run_for(s(3300));
    assert_eq!(world.client.phase_name(), "rebinding");
    say_to_another(&mut world, MessageType::Nak, STRANGER);
    assert_eq!(world.client.phase_name(), "rebinding");
    say(&mut world, MessageType::Nak, STRANGER, HOUR);
    assert_eq!(world.client.phase_name(), "selecting");
}

#[test]
fn a_renewal_asks_no_neighbour_again() {
    let mut world = bound(HOUR);
    world.run_for(s(1900));
    let renewed = world.now;
    say(&mut world, MessageType::Ack, SERVER, HOUR);
    assert_eq!(world.client.phase_name(), "bound");
    world.run_for(s(10));
    assert_eq!(world.arps_since(renewed), []);
}

#[test]
fn a_renewal_is_early_by_a_part_of_its_wait_alone() {
    let mut world = World::new(1, vec![Server::new(0, Manner::Honest, HOUR)], 0);
    world.run_for(s(1_000_000));
    world.step(Event::CarrierUp);
    let start = world.now;
    assert!(world.run_until(start + s(10), World::is_bound));
    world.run_until(start + s(1740), |_| false);
    assert_eq!(world.client.phase_name(), "bound");
    assert_eq!(world.sent_since(start + s(1)), []);
}

#[test]
fn a_silent_gateway_is_asked_three_times() {
    let mut world = bound(HOUR);
    world.run_for(s(600));
    let question = Arp::question(MAC, ADDRESS, SERVER);
    let asked = world.arps_since(s(0));
    assert_eq!(asked.iter().filter(|arp| **arp == question).count(), 3);
}

#[test]
fn the_card_of_the_gateway_is_learnt_from_its_answer_to_us_alone() {
    let mut world = bound(HOUR);
    world.run_for(ms(300));
    let known = |world: &World| world.client.applied().expect("bound").gateway_mac;
    let question = Arp::question(OTHER, SERVER, ADDRESS);
    let to_us = Arp {
        target_mac: MAC,
        ..question
    };
    let to_another = Arp {
        op: Op::Reply,
        target_mac: Mac([2, 0, 0, 0, 0, 5]),
        ..question
    };
    for arp in [to_us, to_another] {
        world.step(Event::Arp(&arp.encode()));
        assert_eq!(known(&world), None, "{arp:?}");
    }
    let answer = Arp {
        op: Op::Reply,
        ..to_us
    };
    world.step(Event::Arp(&answer.encode()));
    assert_eq!(known(&world), Some(OTHER));
}

/// The machine was off, knows its network, and nobody answers but the test.
fn in_silence() -> World {
    let mut world = World::new(1, vec![Server::new(0, Manner::Honest, HOUR)], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(20), World::is_bound));
    world.run_for(s(5));
    world.restart(Restart::Machine { off: 60 });
    world.servers[0].dead = vec![(s(0), s(1_000_000))];
    world.step(Event::CarrierUp);
    world
}

#[test]
fn a_network_is_known_again_by_the_gateway_alone_and_its_address_gets_time_to_be_claimed() {
    let mut world = in_silence();
    world.neighbours.clear();
    world.run_for(ms(4100));
    let gateway = Neighbour::gateway(0);
    let address = world.servers[0].address;
    let answer = |mac, sender, op| Arp {
        op,
        target_mac: MAC,
        ..Arp::question(mac, sender, address)
    };
    for arp in [
        answer(OTHER, STRANGER, Op::Reply),
        answer(OTHER, gateway.address, Op::Reply),
        answer(gateway.mac, STRANGER, Op::Reply),
        answer(gateway.mac, gateway.address, Op::Request),
    ] {
        world.step(Event::Arp(&arp.encode()));
        world.run_for(ms(300));
        assert!(!world.is_bound(), "{arp:?}");
    }
    // The world's checker has to know who the gateway is.
    world.neighbours.push(gateway.clone());
    let arp = answer(gateway.mac, gateway.address, Op::Reply);
    world.step(Event::Arp(&arp.encode()));
    world.run_for(ms(199));
    assert!(!world.is_bound());
    world.run_for(ms(2));
    assert!(world.is_bound());
}

#[test]
fn the_tenth_conflict_in_a_row_slows_it_down() {
    let mut world = World::new(1, vec![Server::new(0, Manner::Honest, HOUR)], 0);
    for number in 0..20 {
        let mut neighbour = Neighbour::gateway(100 + number);
        neighbour.address = [10, 0, 0, 50 + number].into();
        world.neighbours.push(neighbour);
    }
    world.step(Event::CarrierUp);
    world.run_for(s(400));
    let sent = sent(&world);
    let pairs = sent.windows(2).map(|pair| (&pair[0], &pair[1]));
    let waits = pairs
        .filter(|(first, _)| kind(&first.1) == MessageType::Decline)
        .map(|(first, next)| (next.0 - first.0).as_secs());
    let waits: Vec<u64> = waits.take(11).collect();
    assert_eq!(waits, [[10; 9].as_slice(), &[60, 60]].concat());
}

#[test]
fn an_order_to_renew_extends_a_lease_with_an_end_and_starts_over_without() {
    for (lease, to) in [(HOUR, To::Unicast(SERVER)), (u32::MAX, To::Broadcast)] {
        let mut world = bound(lease);
        world.run_for(s(10));
        let start = world.now;
        world.step(Event::Renew);
        assert_eq!(world.sent_since(start), [to]);
    }
}

#[test]
fn silence_is_told_after_three_questions() {
    let mut world = asking();
    let told = |world: &World| world.noted(|note| *note == Note::Silence { sent: 3 });
    assert!(world.run_until(s(100), told));
    assert_eq!(sent(&world).len(), 4);
    assert!(!world.noted(|note| matches!(note, Note::Silence { sent } if *sent != 3)));
}

/// The carrier goes and comes.
fn flap(world: &mut World, times: u32) {
    for _ in 0..times {
        world.step(Event::CarrierDown);
        world.step(Event::CarrierUp);
    }
}

#[test]
fn what_the_budget_does_not_let_through_is_counted() {
    let suppressed = |world: &World| world.client.counters().suppressed;
    // Questions to servers: ten, and two too many.
    let mut world = World::new(1, vec![], 0);
    flap(&mut world, 12);
    assert_eq!((sent(&world).len(), suppressed(&world)), (10, 2));

    // To neighbours: one probe each time after that of the start, and as many questions after two.
    let mut world = bound(HOUR);
    flap(&mut world, 12);
    assert_eq!(suppressed(&world), (12 - 9) + (12 - 8));

    // By now a probe, two announcements and three questions for the gateway have gone.
    let mut world = bound(HOUR);
    world.run_for(s(3));
    assert_eq!(world.arps_since(s(0)).len(), 6);
    flap(&mut world, 4);
    assert_eq!(suppressed(&world), 0);
    // Another address: neither its probe nor the question for its gateway goes.
    say(&mut world, MessageType::Nak, SERVER, HOUR);
    say(&mut world, MessageType::Offer, STRANGER, HOUR);
    say(&mut world, MessageType::Ack, STRANGER, HOUR);
    assert_eq!(suppressed(&world), 1);
    world.run_for(ms(300));
    assert_eq!(suppressed(&world), 2);

    // Defence.
    let mut world = bound(HOUR);
    world.run_for(s(3));
    flap(&mut world, 4);
    // The announcement after the probe.
    world.run_for(ms(300));
    let before = suppressed(&world);
    world.step(Event::Arp(&Arp::announcement(OTHER, ADDRESS).encode()));
    assert!(world.noted(|note| matches!(note, Note::Defended { .. })));
    assert_eq!(suppressed(&world), before + 1);
}

#[test]
fn what_is_not_asked_about_the_lease_of_before_is_counted() {
    let mut world = in_silence();
    world.neighbours.clear();
    let mut least = 2;
    for _ in 0..14 {
        flap(&mut world, 1);
        world.run_for(ms(3990));
        let before = world.client.counters();
        world.run_for(ms(20));
        let after = world.client.counters();
        let went = after.arps_sent - before.arps_sent;
        let asked = after.sent - before.sent;
        assert_eq!(went + (after.suppressed - before.suppressed), 2, "{asked}");
        least = least.min(went);
    }
    // At this pace one of the two goes, in the end.
    assert_eq!(least, 1);
}
