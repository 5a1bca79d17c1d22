//! The DHCPv6 client at its edges, by stories: whose word counts, when it asks, and what it counts.

mod world6;

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::v6::MessageType;
use netcfg::dhcp6::client::{Action, Event, Mode, Note};

use world6::{Answer, Manner, Seconds, Server, World, server_of};

const HERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x50);
const THERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x51);
const HOUR: Seconds = [900, 1800, 2700, 3600];

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A world in which nobody answers by himself, and the client has just asked.
fn soliciting() -> World {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::LinkUp);
    world.step(Event::Mode(Mode::Stateful));
    world
}

/// An answer of a server to the last question.
fn answer(world: &World, server: u8) -> Answer {
    let (_, asked) = world.sent_since(s(0)).pop().expect("sent");
    Answer::new(asked.xid(), &Server::new(server, Manner::Honest, 0).duid)
}

fn say(world: &mut World, answer: &Answer) {
    world.step(Event::Payload(&answer.bytes()));
}

/// The same, and a server has granted an address.
fn bound() -> World {
    let mut world = soliciting();
    let mut granted = answer(&world, 0).granting(HERE, HOUR);
    granted.rapid_commit = true;
    say(&mut world, &granted);
    assert_eq!(world.client.phase_name(), "bound");
    world
}

fn kinds(world: &World) -> Vec<MessageType> {
    let sent = world.sent_since(s(0));
    sent.iter().map(|(_, asked)| asked.msg_type()).collect()
}

/// How many were sent when it was told that nobody answers.
fn silences(world: &World) -> Vec<(usize, u32)> {
    let mut sent = 0;
    let mut told = vec![];
    for (_, action) in &world.log {
        match action {
            Action::Send { .. } => sent += 1,
            Action::Note(Note::Silence { sent: said }) => told.push((sent, *said)),
            _ => {}
        }
    }
    told
}

#[test]
fn what_routers_ask_for_is_begun_once_and_with_a_link() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::Mode(Mode::Stateful));
    assert!(world.log.is_empty());
    world.step(Event::LinkUp);
    world.step(Event::Mode(Mode::Stateful));
    assert_eq!(kinds(&world), [MessageType::Solicit]);

    let mut world = bound();
    world.step(Event::Mode(Mode::Stateless));
    assert_eq!(world.client.phase_name(), "bound");
    assert_eq!(kinds(&world), [MessageType::Solicit]);
    // Nor does it put an end to the question whether the address is still good.
    world.step(Event::LinkDown);
    world.step(Event::LinkUp);
    world.step(Event::Mode(Mode::Stateful));
    assert_eq!(world.client.phase_name(), "confirming");
}

#[test]
fn what_is_said_last_is_said_to_the_end() {
    let mut world = bound();
    world.step(Event::AddressConflict(HERE));
    world.step(Event::Mode(Mode::Stateless));
    let farewell = [MessageType::Solicit, MessageType::Decline];
    assert_eq!(kinds(&world), farewell);
    let told = answer(&world, 0).without_addresses();
    say(&mut world, &told);
    assert_eq!(world.client.phase_name(), "waiting");
}

#[test]
fn of_equal_offers_the_first_is_taken() {
    let mut world = soliciting();
    for server in [3, 1, 5] {
        let mut offer = answer(&world, server).granting(HERE, HOUR);
        offer.kind = MessageType::Advertise;
        say(&mut world, &offer);
    }
    world.run_until(world.now + s(2), |_| false);
    let sent = world.sent_since(s(0));
    assert_eq!(sent[1].1.msg_type(), MessageType::Request);
    let first = Server::new(3, Manner::Honest, 0).duid;
    assert_eq!(server_of(&sent[1].1), Some(first));
}

#[test]
fn an_address_is_taken_away_by_a_lifetime_of_zero_of_its_own() {
    let mut world = bound();
    world.step(Event::Renew);
    let another = answer(&world, 0).granting(THERE, [0, 0, 0, 0]);
    say(&mut world, &another);
    assert!(world.is_bound());
    world.step(Event::Renew);
    let short = answer(&world, 0).granting(HERE, [0, 0, 3, 3]);
    say(&mut world, &short);
    assert!(world.is_bound());
    world.step(Event::Renew);
    let taken = answer(&world, 0).granting(HERE, [0, 0, 0, 0]);
    say(&mut world, &taken);
    assert!(!world.is_bound());
}

#[test]
fn silence_is_told_after_three_questions_and_not_of_a_farewell() {
    let mut world = soliciting();
    world.run_until(s(3000), |_| false);
    assert_eq!(silences(&world), [(3, 3)]);
    let mut world = bound();
    world.step(Event::Release);
    world.run_until(s(3000), |_| false);
    assert_eq!(kinds(&world)[1..], [MessageType::Release; 4]);
    assert_eq!(silences(&world), []);
}

#[test]
fn what_is_dropped_is_counted() {
    // Ten questions at once, and two too many.
    let mut world = soliciting();
    for _ in 0..11 {
        world.step(Event::LinkDown);
        world.step(Event::LinkUp);
    }
    assert_eq!(kinds(&world).len(), 10);
    assert_eq!(world.client.counters().suppressed, 2);

    // DNS servers of three bytes.
    let mut world = soliciting();
    let mut offer = answer(&world, 0).granting(HERE, HOUR);
    offer.kind = MessageType::Advertise;
    let odd = [offer.bytes(), vec![0, 23, 0, 3, 1, 2, 3]].concat();
    world.step(Event::Payload(&odd));
    assert_eq!(world.client.counters().malformed_options, 1);
}
