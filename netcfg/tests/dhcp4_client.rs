//! The client in a simulated world: whatever happens there, it never uses an address it has no
//! right to, and with an honest server in reach it always ends up with one.

mod world;

use std::time::Duration;

use netcfg::dhcp4::client::{Action, Client, Event, Saved, To, Why};
use netcfg::rng::Rng;
use proptest::prelude::*;

use world::{IDENTITY, Manner, Server, World};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many cases; `PROPTEST_CASES` in the environment overrides it for a longer run.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn lease_times() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(10),
        10u32..120,
        600u32..100_000,
        Just(u32::MAX - 1),
        Just(u32::MAX),
    ]
}

fn manners() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Forgetful),
        Just(Manner::Refusing),
        Just(Manner::Stingy),
        Just(Manner::Lying),
    ]
}

/// One honest server and up to two others, in any order.
fn servers() -> impl Strategy<Value = Vec<Server>> {
    (
        lease_times(),
        proptest::collection::vec((manners(), 10u32..4000), 0..3),
        any::<bool>(),
    )
        .prop_map(|(lease, others, first)| {
            let honest = Server::new(0, Manner::Honest, lease);
            let others = others
                .into_iter()
                .zip(1..)
                .map(|((manner, lease), number)| Server::new(number, manner, lease));
            if first {
                std::iter::once(honest).chain(others).collect()
            } else {
                others.chain(std::iter::once(honest)).collect()
            }
        })
}

proptest! {
    #![proptest_config(config(200))]

    /// Loss up to 60 % each way, liars and refusers beside: still bound in the end.
    #[test]
    fn with_an_honest_server_it_always_ends_bound(
        seed: u64, servers in servers(), loss in 0u8..150,
    ) {
        let mut world = World::new(seed, servers, loss);
        world.step(Event::CarrierUp);
        prop_assert!(world.run_until(s(4 * 3600), World::is_bound), "{:?}", world.client);
    }

    /// The only server dies and comes back: nothing is used while nobody grants it, and then it
    /// is bound again without any help.
    #[test]
    fn it_comes_back_when_the_server_does(
        seed: u64, lease in lease_times(), death in 20u64..20_000, pause in 1u64..100_000, loss in 0u8..100,
    ) {
        let mut server = Server::new(0, Manner::Honest, lease);
        server.dead = vec![(s(death), s(death + pause))];
        let mut world = World::new(seed, vec![server], loss);
        world.step(Event::CarrierUp);
        world.run_until(s(death + pause), |_| false);
        prop_assert!(world.run_until(s(death + pause + 4 * 3600), World::is_bound));
    }

    /// Carriers come and go at any pace. The invariants of the world hold, and after the last
    /// carrier there is an address again.
    #[test]
    fn flapping_carriers_break_nothing(
        seed: u64, servers in servers(), gaps in proptest::collection::vec(0u64..20_000, 0..60),
    ) {
        let mut world = World::new(seed, servers, 30);
        for (index, gap) in gaps.iter().enumerate() {
            let event = if index % 2 == 0 { Event::CarrierUp } else { Event::CarrierDown };
            world.step(event);
            let end = world.now + Duration::from_millis(*gap);
            world.run_until(end, |_| false);
        }
        world.step(Event::CarrierUp);
        let end = world.now + s(4 * 3600);
        prop_assert!(world.run_until(end, World::is_bound), "{:?}", world.client);
    }

    /// A day of honest service with some loss: no interruption for leases of a sensible length.
    #[test]
    fn a_lease_is_kept_without_interruption(seed: u64, lease in 600u32..100_000, loss in 0u8..40) {
        let mut world = World::new(seed, vec![Server::new(0, Manner::Honest, lease)], loss);
        world.step(Event::CarrierUp);
        prop_assert!(world.run_until(s(600), World::is_bound));
        let lost = world.run_until(s(86_400), |world| !world.is_bound());
        prop_assert!(!lost, "lost at {:?}", world.now);
        let extended = world.log.iter().any(|(_, action)| {
            matches!(action, Action::Send { to: To::Unicast(_), .. })
        });
        prop_assert!(extended || lease > 80_000);
    }

    /// The same seed and the same events give the same actions, byte for byte.
    #[test]
    fn runs_can_be_repeated(seed: u64, servers in servers(), loss in 0u8..200) {
        let run = || {
            let mut world = World::new(seed, servers.clone(), loss);
            world.step(Event::CarrierUp);
            world.run_until(s(7200), |_| false);
            world.log
        };
        prop_assert_eq!(run(), run());
    }
}

proptest! {
    #![proptest_config(config(2000))]

    /// Arbitrary events at arbitrary times, bytes and broken replies among them: the world's
    /// checker sees every step, and nothing panics.
    #[test]
    fn nothing_that_arrives_confuses_it(
        seed: u64,
        events in proptest::collection::vec((0u8..8, 0u64..400_000, proptest::collection::vec(any::<u8>(), 0..400)), 0..60),
    ) {
        let mut rng = Rng::new(seed);
        let mut world = World::new(seed, vec![Server::new(0, Manner::Honest, 60)], 40);
        world.step(Event::CarrierUp);
        for (kind, gap, bytes) in events {
            match kind {
                0 => world.step(Event::CarrierUp),
                1 => world.step(Event::CarrierDown),
                2 => world.step(Event::Payload(&bytes)),
                3 | 4 => {
                    // A reply to the latest transaction, with some bytes replaced.
                    let xid = world.log.iter().rev().find_map(|(_, action)| match action {
                        Action::Send { payload, .. } => payload.get(4..8)?.try_into().ok(),
                        _ => None,
                    });
                    let kind = if kind == 3 {
                        dhcproto::v4::MessageType::Ack
                    } else {
                        dhcproto::v4::MessageType::Nak
                    };
                    let server = &world.servers[0];
                    let xid = u32::from_be_bytes(xid.unwrap_or_default());
                    let mut reply = world::reply(xid, kind, server.id, server.address, rng.next_u32());
                    for byte in bytes.iter().take(4) {
                        let at = rng.next_u32() as usize % reply.len();
                        reply[at] = *byte;
                    }
                    world.step(Event::Payload(&reply));
                }
                5 => {
                    // The machine sleeps: no timer fires in between.
                    world.now += Duration::from_millis(gap);
                    world.step(Event::Timer);
                }
                _ => {
                    let end = world.now + Duration::from_millis(gap);
                    world.run_until(end, |_| false);
                }
            }
        }
    }
}

/// A world in which the client has just been bound.
fn bound(lease: u32) -> World {
    let mut world = World::new(1, vec![Server::new(0, Manner::Honest, lease)], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(10), World::is_bound));
    world
}

fn sent_since(world: &World, at: Duration) -> Vec<To> {
    let since = world.log.iter().filter(|(when, _)| *when >= at);
    since
        .filter_map(|(_, action)| match action {
            Action::Send { to, .. } => Some(*to),
            _ => None,
        })
        .collect()
}

#[test]
fn the_first_frame_goes_out_with_the_carrier() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::CarrierUp);
    assert_eq!(sent_since(&world, world.now), [To::Broadcast]);
}

#[test]
fn a_silent_server_is_asked_in_unicast_then_everybody_until_the_end() {
    let mut world = bound(3600);
    let start = world.now;
    world.servers[0].dead = vec![(start, s(1_000_000))];
    world.run_until(start + s(3000), |_| false);
    let renewing = sent_since(&world, start + s(1));
    assert!(renewing.len() >= 3 && renewing.iter().all(|to| matches!(to, To::Unicast(_))));
    world.run_until(start + s(3590), |_| false);
    let rebinding = sent_since(&world, start + s(3160));
    assert!(rebinding.len() >= 2 && rebinding.iter().all(|to| *to == To::BroadcastFromLease));
    assert!(world.is_bound());
    world.run_until(start + s(3601), |_| false);
    assert!(!world.is_bound());
    assert!(
        world
            .log
            .iter()
            .any(|(_, a)| *a == Action::Withdraw(Why::Expired))
    );
}

#[test]
fn a_short_loss_of_carrier_keeps_the_address_and_asks_for_it() {
    let mut world = bound(3600);
    world.step(Event::CarrierDown);
    world.run_until(world.now + s(4), |_| false);
    assert!(world.is_bound());
    let back = world.now;
    world.step(Event::CarrierUp);
    assert_eq!(sent_since(&world, back), [To::Broadcast]);
    world.run_until(back + s(1), |_| false);
    assert_eq!(world.client.phase_name(), "bound");
    assert!(
        world
            .log
            .iter()
            .all(|(_, a)| !matches!(a, Action::Withdraw(_)))
    );
}

#[test]
fn a_long_loss_of_carrier_takes_the_address_and_remembers_it() {
    let mut world = bound(3600);
    let address = world.servers[0].address;
    world.step(Event::CarrierDown);
    world.run_until(world.now + s(6), |_| false);
    assert!(!world.is_bound() && world.client.remembers());
    assert!(
        world
            .log
            .iter()
            .any(|(_, a)| *a == Action::Withdraw(Why::Carrier))
    );
    world.step(Event::CarrierUp);
    assert_eq!(world.client.phase_name(), "rebooting");
    world.run_until(world.now + s(1), World::is_bound);
    let lease = world.client.applied().expect("bound again");
    assert_eq!(lease.address.address(), address);
}

#[test]
fn in_another_network_a_silent_server_costs_400_milliseconds() {
    let mut world = bound(3600);
    world.servers = vec![Server::new(7, Manner::Honest, 3600)];
    world.step(Event::CarrierDown);
    world.run_until(world.now + s(1), |_| false);
    let back = world.now;
    world.step(Event::CarrierUp);
    let there = world.servers[0].address;
    world.run_until(back + Duration::from_millis(500), |_| false);
    let lease = world.client.applied().expect("bound");
    assert_eq!(lease.address.address(), there);
}

#[test]
fn a_nak_for_the_old_address_leads_to_a_new_one_at_once() {
    let mut world = bound(3600);
    let mut refusing = Server::new(7, Manner::Refusing, 3600);
    refusing.dead = vec![(world.now + s(1) + Duration::from_millis(100), s(1_000_000))];
    world.servers = vec![refusing, Server::new(8, Manner::Honest, 3600)];
    world.step(Event::CarrierDown);
    world.run_until(world.now + s(1), |_| false);
    let back = world.now;
    world.step(Event::CarrierUp);
    world.run_until(back + Duration::from_millis(50), |world| !world.is_bound());
    assert!(
        world
            .log
            .iter()
            .any(|(_, a)| *a == Action::Withdraw(Why::Nak))
    );
    assert!(world.log.iter().any(|(_, a)| *a == Action::Forget));
    assert!(world.run_until(back + s(5), World::is_bound));
}

#[test]
fn a_nak_of_another_server_changes_nothing() {
    let mut world = bound(3600);
    let renewal = world.now + s(2000);
    // From T1 on, the server is dead and another one says no to all it hears.
    world.servers[0].dead = vec![(world.now + s(1), s(3000))];
    world.servers.push(Server::new(9, Manner::Refusing, 3600));
    world.run_until(renewal, |_| false);
    assert_eq!(world.client.phase_name(), "renewing");
    assert!(world.client.counters().unexpected > 0);
    assert_eq!(world.client.counters().naks, 0);
    assert!(world.is_bound());
}

#[test]
fn an_offer_to_another_question_is_ignored() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::CarrierUp);
    let Some((_, Action::Send { payload, .. })) = world.log.first().cloned() else {
        panic!("nothing sent");
    };
    let xid = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
    let server = Server::new(0, Manner::Honest, 60);
    let offer = |xid| {
        let kind = dhcproto::v4::MessageType::Offer;
        world::reply(xid, kind, server.id, server.address, 60)
    };
    world.step(Event::Payload(&offer(xid ^ 1)));
    assert_eq!(world.client.phase_name(), "selecting");
    assert_eq!(world.client.counters().unexpected, 1);
    world.step(Event::Payload(&offer(xid)));
    assert_eq!(world.client.phase_name(), "requesting");
}

#[test]
fn a_saved_lease_is_asked_for_and_an_expired_one_only_wished_for() {
    let lease = bound(3600).client.applied().expect("bound").clone();
    let at = |now, applied| {
        let saved = Saved {
            lease: lease.clone(),
            applied,
        };
        let mut client = Client::new(IDENTITY, Rng::new(5), now, Some(saved));
        let actions = client.step(now, Event::CarrierUp);
        (client.phase_name(), client.applied().is_some(), actions)
    };
    let (phase, applied, actions) = at(s(100), false);
    assert_eq!((phase, applied, actions.len()), ("rebooting", false, 1));
    let (phase, applied, _) = at(s(100), true);
    assert_eq!((phase, applied), ("rebooting", true));
    let (phase, applied, _) = at(s(100_000), false);
    assert_eq!((phase, applied), ("selecting", false));
    // What is on the link and over goes before anything else happens.
    let (phase, applied, actions) = at(s(100_000), true);
    assert_eq!((phase, applied), ("selecting", false));
    assert_eq!(
        actions[..2],
        [Action::Withdraw(Why::Expired), Action::Forget]
    );
}
