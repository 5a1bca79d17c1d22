//! The client and its neighbours, by stories: addresses that are in use, and the lease of before in
//! a network where no server answers.

mod world;

use std::time::Duration;

use netcfg::dhcp4::arp::{Arp, Op};
use netcfg::dhcp4::client::{Action, Event, Note, To, Why};
use netcfg::dhcp4::conflict::Conflict;
use netcfg::dhcp4::request::Identity;
use netcfg::mac::Mac;

use world::{IDENTITY, MAC, Manner, Neighbour, Restart, Server, World};

const OTHER: Mac = Mac([2, 0, 0, 0, 0, 7]);

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn with(conflict: Conflict) -> World {
    let identity = Identity {
        conflict,
        ..IDENTITY
    };
    let mut world = World::with(identity, 1, vec![Server::new(0, Manner::Honest, 3600)], 0);
    world.step(Event::CarrierUp);
    world
}

fn bound(conflict: Conflict) -> World {
    let mut world = with(conflict);
    assert!(world.run_until(s(20), World::is_bound));
    world
}

/// `OTHER` says that the address of the client is its own.
fn claim(world: &World) -> Vec<u8> {
    Arp::announcement(OTHER, world.servers[0].address).encode()
}

#[test]
fn in_the_background_the_address_is_used_at_once() {
    let mut world = bound(Conflict::Background);
    let start = world.now;
    assert!(start < s(2));
    let address = world.servers[0].address;
    assert_eq!(world.arps_since(s(0)), [Arp::probe(MAC, address)]);
    assert!(world.client.sockets().arp);
    world.run_for(s(5));
    let gateway = world.servers[0].id;
    let later = world.arps_since(start + ms(1));
    let announcement = Arp::announcement(MAC, address);
    let question = Arp::question(MAC, address, gateway);
    assert_eq!(later, [announcement, question, announcement]);
    // Then it is quiet until the next event.
    world.run_for(s(1000));
    assert_eq!(world.arps_since(start + s(5)), []);
}

#[test]
fn strictly_the_address_is_used_when_nobody_answered() {
    let mut world = with(Conflict::Strict);
    world.run_for(s(3));
    assert_eq!(world.client.phase_name(), "probing");
    assert!(!world.is_bound() && world.client.sockets().arp);
    assert!(world.run_until(s(10), World::is_bound));
    assert!(world.now >= s(5));
    assert!(
        world
            .arps_since(s(0))
            .iter()
            .filter(|a| a.sender.is_unspecified())
            .count()
            == 3
    );
}

#[test]
fn without_detection_there_is_no_arp() {
    let mut world = bound(Conflict::Off);
    world.run_for(s(10_000));
    assert!(!world.client.sockets().arp);
    assert_eq!(world.client.counters().arps_sent, 0);
    let claim = claim(&world);
    world.step(Event::Arp(&claim));
    assert!(world.is_bound());
}

#[test]
fn a_claim_within_the_window_declines_the_address() {
    for frame in [Arp::announcement, Arp::probe] {
        let mut world = bound(Conflict::Background);
        let start = world.now;
        let address = world.servers[0].address;
        world.step(Event::Arp(&frame(OTHER, address).encode()));
        assert!(world.did(|a| *a == Action::Withdraw(Why::Conflict)));
        assert!(world.did(|a| *a == Action::Forget));
        assert!(world.client.sockets().raw, "the DECLINE needs it");
        let conflict = Note::Conflict {
            address,
            mac: OTHER,
        };
        assert!(world.noted(|note| *note == conflict));
        // DECLINE, ten seconds of nothing, DISCOVER.
        assert_eq!(world.sent_since(start + ms(1)).len(), 0);
        assert_eq!(world.sent_since(start).last(), Some(&To::Broadcast));
        world.run_until(start + s(9), |_| false);
        assert_eq!(world.sent_since(start + ms(1)), []);
        assert!(world.run_until(start + s(20), World::is_bound));
        let lease = world.client.applied().expect("bound");
        assert_ne!(lease.address.address(), address, "the server knows now");
    }
}

#[test]
fn a_probe_of_another_after_the_window_is_its_business() {
    let mut world = bound(Conflict::Background);
    world.run_for(s(5));
    let probe = Arp::probe(OTHER, world.servers[0].address).encode();
    let before = world.log.len();
    world.step(Event::Arp(&probe));
    assert_eq!(world.log.len(), before);
}

#[test]
fn a_claim_is_defended_and_a_second_one_believed() {
    let mut world = bound(Conflict::Background);
    world.run_for(s(100));
    let (start, claim) = (world.now, claim(&world));
    world.step(Event::Arp(&claim));
    assert!(world.is_bound());
    assert_eq!(world.arps_since(start).len(), 1);
    world.run_for(s(11));
    world.step(Event::Arp(&claim));
    assert!(world.is_bound());
    world.run_for(s(9));
    world.step(Event::Arp(&claim));
    assert!(!world.is_bound());
}

#[test]
fn a_storm_of_claims_makes_no_storm() {
    let mut world = bound(Conflict::Background);
    for _ in 0..3000 {
        // The world counts what is sent.
        let claim = claim(&world);
        world.step(Event::Arp(&claim));
        world.run_for(ms(100));
    }
    // It ends when the storm does.
    assert!(world.run_until(world.now + s(100), World::is_bound));
}

#[test]
fn our_own_frames_come_back_and_mean_nothing() {
    let mut world = bound(Conflict::Background);
    let own = Arp::announcement(MAC, world.servers[0].address).encode();
    for _ in 0..10 {
        world.step(Event::Arp(&own));
        world.run_for(ms(150));
    }
    assert!(world.is_bound());
    assert_eq!(world.client.counters().conflicts, 0);
}

#[test]
fn the_address_is_announced_again_after_a_loss_of_carrier() {
    let mut world = bound(Conflict::Background);
    world.run_for(s(100));
    world.step(Event::CarrierDown);
    world.run_for(s(1));
    let back = world.now;
    world.step(Event::CarrierUp);
    world.run_for(s(5));
    let announcement = Arp::announcement(MAC, world.servers[0].address);
    assert!(world.arps_since(back).contains(&announcement));
}

/// A machine that was bound, knows its gateway, and starts again in silence.
fn in_silence(how: Restart) -> World {
    let mut world = bound(Conflict::Background);
    world.run_for(s(5));
    assert!(world.did(|a| matches!(a, Action::Remember(_))));
    world.servers[0].dead = vec![(world.now, s(1_000_000))];
    world.restart(how);
    world
}

/// Something that is different after the restart.
type Change = fn(&mut World);

fn unverified(world: &World) -> bool {
    world.did(|a| {
        matches!(
            a,
            Action::Apply {
                verified: false,
                ..
            }
        )
    })
}

#[test]
fn in_silence_the_lease_of_before_is_used_when_the_gateway_is_known() {
    let mut world = in_silence(Restart::Machine { off: 60 });
    let start = world.now;
    world.step(Event::CarrierUp);
    world.run_until(start + ms(3900), |_| false);
    assert!(!world.is_bound() && world.client.sockets().arp);
    assert!(world.run_until(start + ms(4500), World::is_bound));
    assert!(unverified(&world));
    assert_eq!(world.client.phase_name(), "selecting");
    // Asking goes on, and the lease ends when it would have.
    let asked = world.sent_since(world.now).len();
    world.run_for(s(600));
    assert!(world.sent_since(start).len() > asked + 5);
    assert!(world.is_bound());
    world.run_for(s(3600));
    assert!(!world.is_bound());
    assert!(world.did(|a| *a == Action::Withdraw(Why::Expired)));
}

#[test]
fn a_server_that_wakes_confirms_or_replaces_the_lease_of_before() {
    for moved in [false, true] {
        let mut world = in_silence(Restart::Machine { off: 60 });
        world.step(Event::CarrierUp);
        world.run_for(s(30));
        assert!(world.is_bound() && !world.is_verified());
        if moved {
            world.servers = vec![Server::new(3, Manner::Honest, 3600)];
        }
        world.servers[0].dead = vec![];
        assert!(world.run_until(world.now + s(100), World::is_verified));
        let lease = world.client.applied().expect("bound");
        assert_eq!(lease.address.address(), world.servers[0].address);
    }
}

#[test]
fn the_lease_of_before_is_not_used_in_another_network() {
    // Another gateway, no gateway, an owner of our address, an unknown age, no file.
    let cases: [(Restart, Change); 5] = [
        (Restart::Machine { off: 60 }, |world| {
            world.neighbours[0].mac = OTHER;
        }),
        (Restart::Machine { off: 60 }, |world| {
            world.neighbours.clear();
        }),
        (Restart::Machine { off: 60 }, |world| {
            world.neighbours.push(Neighbour {
                mac: OTHER,
                address: world.servers[0].address,
            });
        }),
        (Restart::MachineWithoutClock { off: 60 }, |_| {}),
        (Restart::MachineWithoutFile, |_| {}),
    ];
    for (how, change) in cases {
        let mut world = in_silence(how);
        change(&mut world);
        world.step(Event::CarrierUp);
        world.run_for(s(1000));
        assert!(!unverified(&world), "{how:?}");
        assert!(!world.is_bound(), "{how:?}");
    }
}

#[test]
fn a_server_that_answers_decides_over_the_lease_of_before() {
    let mut world = in_silence(Restart::Machine { off: 60 });
    // It offers, and never confirms: but it is there.
    world.servers = vec![Server::new(4, Manner::Forgetful, 3600)];
    world.step(Event::CarrierUp);
    world.run_for(s(600));
    assert!(!unverified(&world));
}

#[test]
fn the_card_of_the_gateway_is_learnt_once_and_kept_over_renewals() {
    let mut world = bound(Conflict::Background);
    world.run_for(s(5));
    let gateway = Neighbour::gateway(0);
    let known = |world: &World| world.client.applied().expect("bound").gateway_mac;
    assert_eq!(known(&world), Some(gateway.mac));
    world.run_for(s(4000));
    assert_eq!(known(&world), Some(gateway.mac));
    let remembered = world
        .log
        .iter()
        .filter(|(_, a)| matches!(a, Action::Remember(_)));
    assert_eq!(remembered.count(), 1);
    // Nobody else changes it unasked.
    let answer = Arp {
        op: Op::Reply,
        target_mac: MAC,
        ..Arp::question(OTHER, gateway.address, world.servers[0].address)
    };
    world.step(Event::Arp(&answer.encode()));
    assert_eq!(known(&world), Some(gateway.mac));
}
