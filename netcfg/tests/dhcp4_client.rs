//! The client in a simulated world, by properties: whatever happens there, it never uses an
//! address it has no right to, and with an honest server in reach it always ends up with one.
//!
//! The numbers are those of the reference for this crate; most of them are checked by the world
//! itself in every step of every run here. 1, 2, 12 and 13 are in `dhcp4_codec`.
//!
//! `PROPTEST_CASES=100000 cargo test --profile simulation -p netcfg --test dhcp4_client` is the
//! long run.

mod world;

use std::time::Duration;

use netcfg::dhcp4::client::{Action, Event, To, Why};
use netcfg::dhcp4::conflict::Conflict;
use netcfg::dhcp4::request::Identity;
use netcfg::rng::Rng;
use netcfg::store::{self, Clocks};
use proptest::prelude::*;

use world::{IDENTITY, MAC, Manner, Neighbour, Restart, Server, World};

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

fn good() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Honest),
        Just(Manner::Rapid),
        Just(Manner::BroadcastOnly),
    ]
}

fn bad() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Forgetful),
        Just(Manner::Refusing),
        Just(Manner::Stingy),
        Just(Manner::Meddling),
        Just(Manner::Lying),
    ]
}

fn conflicts() -> impl Strategy<Value = Conflict> {
    prop_oneof![
        Just(Conflict::Off),
        Just(Conflict::Background),
        Just(Conflict::Strict),
    ]
}

fn identities() -> impl Strategy<Value = Identity> {
    (any::<bool>(), any::<bool>(), any::<bool>(), conflicts()).prop_map(
        |(broadcast, rapid_commit, ipv6_only, conflict)| Identity {
            broadcast,
            rapid_commit,
            ipv6_only,
            conflict,
            ..IDENTITY
        },
    )
}

/// One good server and up to two others, in any order.
fn servers() -> impl Strategy<Value = Vec<Server>> {
    (
        good(),
        lease_times(),
        proptest::collection::vec((bad(), 10u32..4000), 0..3),
        any::<bool>(),
    )
        .prop_map(|(manner, lease, others, first)| {
            let honest = Server::new(0, manner, lease);
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

fn restarts() -> impl Strategy<Value = Restart> {
    prop_oneof![
        Just(Restart::Process),
        (0u64..20_000).prop_map(|off| Restart::Machine { off }),
        (0u64..20_000).prop_map(|off| Restart::MachineWithoutClock { off }),
        Just(Restart::MachineWithoutFile),
    ]
}

/// A reply to the latest question of the client, of any kind, with some bytes replaced.
fn forged(world: &World, rng: &mut Rng, ack: bool, bytes: &[u8]) -> Vec<u8> {
    let xid = world.log.iter().rev().find_map(|(_, action)| match action {
        Action::Send { payload, .. } => payload.get(4..8)?.try_into().ok(),
        _ => None,
    });
    let kind = if ack {
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
    reply
}

proptest! {
    #![proptest_config(config(500))]

    /// Property 11: loss up to 60 % each way, liars and refusers beside: bound in the end.
    #[test]
    fn property_11_with_an_honest_server_it_always_ends_bound(
        seed: u64, identity in identities(), servers in servers(), loss in 0u8..150,
    ) {
        let mut world = World::with(identity, seed, servers, loss);
        world.step(Event::CarrierUp);
        prop_assert!(world.run_until(s(4 * 3600), World::is_bound), "{:?}", world.client);
    }

    /// Property 11: the only server dies and comes back. Nothing is used while nobody grants it,
    /// and then the client is bound again without any help.
    #[test]
    fn property_11_it_comes_back_when_the_server_does(
        seed: u64, lease in lease_times(), death in 20u64..300, pause in 1u64..400, loss in 0u8..100,
    ) {
        let mut server = Server::new(0, Manner::Honest, lease);
        server.dead = vec![(s(death), s(death + pause))];
        let mut world = World::new(seed, vec![server], loss);
        world.step(Event::CarrierUp);
        world.run_until(s(death + pause), |_| false);
        prop_assert!(world.run_until(s(death + pause + 4 * 3600), World::is_bound));
    }

    /// Property 8: carriers come and go at any pace. After the last one there is an address
    /// again, and what comes back in time is asked for at once, without a Withdraw.
    #[test]
    fn property_8_flapping_carriers_break_nothing(
        seed: u64, servers in servers(), conflict in conflicts(),
        gaps in proptest::collection::vec(0u64..20_000, 0..12),
    ) {
        let identity = Identity { conflict, ..IDENTITY };
        let mut world = World::with(identity, seed, servers, 30);
        for (index, gap) in gaps.iter().enumerate() {
            let up = index % 2 == 0;
            let asks_at_once = up && world.client.remembers();
            world.step(if up { Event::CarrierUp } else { Event::CarrierDown });
            let before = world.log.len();
            if asks_at_once && world.client.remembers() {
                prop_assert_eq!(world.client.phase_name(), "rebooting");
            }
            world.run_for(Duration::from_millis(*gap));
            if !up {
                for (_, action) in &world.log[before..] {
                    let speaks = matches!(action, Action::Send { .. } | Action::Arp(_));
                    prop_assert!(!speaks, "without a carrier");
                    let away = *action == Action::Withdraw(Why::Carrier);
                    prop_assert!(!(away && *gap < 5000), "within the time of grace");
                }
            }
        }
        world.step(Event::CarrierUp);
        let end = world.now + s(4 * 3600);
        prop_assert!(world.run_until(end, World::is_bound), "{:?}", world.client);
    }

    /// Property 4: hours of honest service with some loss are no interruption for leases of a
    /// sensible length: an hour leaves a dozen tries, all of which are never lost.
    #[test]
    fn property_4_a_lease_is_kept_without_interruption(
        seed: u64, lease in 3600u32..10_000, conflict in conflicts(), loss in 0u8..24,
    ) {
        let identity = Identity { conflict, ..IDENTITY };
        let server = Server::new(0, Manner::Honest, lease);
        let mut world = World::with(identity, seed, vec![server], loss);
        world.step(Event::CarrierUp);
        prop_assert!(world.run_until(s(600), World::is_bound));
        let lost = world.run_until(s(12_000), |world| !world.is_bound());
        prop_assert!(!lost, "lost at {:?}", world.now);
        let extended = |a: &Action| matches!(a, Action::Send { to: To::Unicast(_), .. });
        prop_assert!(world.did(extended));
    }

    /// Property 6: until T2 the server alone is asked, after it everybody, each time after half
    /// of what is left but no sooner than a minute where there is as much.
    #[test]
    fn property_6_renewing_is_unicast_and_rebinding_broadcast(
        seed: u64, lease in 2400u32..100_000,
    ) {
        let mut world = World::new(seed, vec![Server::new(0, Manner::Honest, lease)], 0);
        world.step(Event::CarrierUp);
        prop_assert!(world.run_until(s(10), World::is_bound));
        let times = world.client.applied().expect("bound").times;
        let end = times.end.expect("ends");
        world.servers[0].dead = vec![(world.now, s(u64::from(u32::MAX)))];
        let start = world.now + Duration::from_millis(1);
        world.run_until(end.expire - Duration::from_millis(1), |_| false);
        prop_assert!(world.is_bound());
        let mut last = None;
        for (at, action) in world.log.iter().filter(|(at, _)| *at >= start) {
            let Action::Send { to, .. } = action else { continue };
            let until_t2 = *at < end.rebind;
            prop_assert_eq!(matches!(to, To::Unicast(_)), until_t2);
            prop_assert_eq!(*to == To::BroadcastFromLease, !until_t2);
            if let Some((before, same)) = last.replace((*at, until_t2)) && same == until_t2 {
                prop_assert!(*at - before >= s(60), "{:?} after {:?}", at, before);
            }
        }
        prop_assert!(last.is_some());
    }

    /// Property 7: a NAK of a server that was not chosen changes nothing, and a storm of NAKs
    /// makes the client slow, not loud.
    #[test]
    fn property_7_naks_of_others_change_nothing_and_storms_slow_down(
        seed: u64, other: u8, refusing in 1u8..4,
    ) {
        let mut world = World::new(seed, vec![Server::new(0, Manner::Honest, 3600)], 0);
        world.step(Event::CarrierUp);
        world.run_until(s(10), World::is_bound);
        world.servers[0].dead = vec![(world.now, s(1_000_000))];
        world.run_for(s(1900));
        prop_assert_eq!(world.client.phase_name(), "renewing");
        let Some(Action::Send { payload, .. }) = world.log.iter().rev().map(|(_, a)| a)
            .find(|a| matches!(a, Action::Send { .. })) else { panic!("nothing sent") };
        let xid = u32::from_be_bytes(payload[4..8].try_into().expect("four"));
        let id = std::net::Ipv4Addr::new(10, 1, 0, other);
        let nak = world::reply(xid, dhcproto::v4::MessageType::Nak, id, id, 0);
        let before = world.log.len();
        world.step(Event::Payload(&nak));
        prop_assert_eq!(world.log.len(), before);
        prop_assert!(world.is_bound());

        let refusing = (1..=refusing).map(|n| Server::new(n, Manner::Refusing, 60)).collect();
        let mut storm = World::new(seed, refusing, 0);
        storm.step(Event::CarrierUp);
        storm.run_for(s(400));
        // At the slowest pace, two messages and a NAK a minute.
        let late = storm.sent_since(s(200)).len();
        prop_assert!(late <= 2 * 200 / 60 + 6, "{} in 200 s", late);
    }

    /// Property 15: the same seed and the same events give the same actions, byte for byte.
    #[test]
    fn property_15_runs_can_be_repeated(
        seed: u64, identity in identities(), servers in servers(), loss in 0u8..200,
    ) {
        let run = || {
            let mut world = World::with(identity.clone(), seed, servers.clone(), loss);
            world.step(Event::CarrierUp);
            world.run_until(s(120), |_| false);
            world.log
        };
        prop_assert_eq!(run(), run());
    }

    /// Properties 3 and 11 with a neighbour that has the address: it is declined, and another one
    /// is found that nobody has.
    #[test]
    fn an_address_that_is_in_use_is_left_to_its_owner(
        seed: u64, strict: bool, manner in good(), taken in 1u8..4, lease in 600u32..100_000,
    ) {
        let conflict = if strict { Conflict::Strict } else { Conflict::Background };
        let identity = Identity { conflict, ..IDENTITY };
        let server = Server::new(0, manner, lease);
        let mut world = World::with(identity, seed, vec![server], 0);
        for number in 0..taken {
            let mut neighbour = Neighbour::gateway(200 + number);
            neighbour.address = [10, 0, 0, 50 + number].into();
            world.neighbours.push(neighbour);
        }
        world.step(Event::CarrierUp);
        let free = |world: &World| {
            world.client.applied().is_some_and(|l| l.address.address().octets()[3] >= 50 + taken)
        };
        prop_assert!(world.run_until(s(600), free), "{:?}", world.client);
        world.run_for(s(60));
        prop_assert!(free(&world));
        let applied = |a: &&(Duration, Action)| matches!(a.1, Action::Apply { .. });
        let applies = world.log.iter().filter(applied).count();
        // Strictly: nothing but the free one. Otherwise the first, which was used until its
        // owner spoke, and no other before it was probed.
        prop_assert_eq!(applies, if strict { 1 } else { 2 });
    }

    /// Properties 3, 4 and 10 over restarts: crashes of process and machine, with and without a
    /// clock or a whole file, into a network that may be silent.
    #[test]
    fn property_4_no_address_outlives_its_lease_over_restarts(
        seed: u64, lease in lease_times(), conflict in conflicts(), loss in 0u8..60,
        steps in proptest::collection::vec((restarts(), 0u64..200_000, any::<bool>()), 1..6),
    ) {
        let identity = Identity { conflict, ..IDENTITY };
        let mut world = World::with(identity, seed, vec![Server::new(0, Manner::Honest, lease)], loss);
        world.step(Event::CarrierUp);
        world.run_until(s(20), World::is_bound);
        world.run_for(s(5));
        for (how, gap, silent) in steps {
            world.restart(how);
            world.servers[0].dead = if silent {
                vec![(world.now, world.now + Duration::from_millis(gap))]
            } else {
                vec![]
            };
            world.step(Event::CarrierUp);
            world.run_for(Duration::from_millis(gap));
        }
        world.servers[0].dead = vec![];
        let end = world.now + s(4 * 3600);
        prop_assert!(world.run_until(end, World::is_verified), "{:?}", world.client);
    }

    /// Property 10: a file that was torn at any byte, filled with zeros from there, or has the
    /// rest of the one before, is the new lease, the old one or none.
    #[test]
    fn property_10_a_torn_file_is_the_old_lease_the_new_one_or_none(
        xid: u32, old in lease_times(), new in lease_times(), cut: u16, wall in 0u64..4_000_000_000,
    ) {
        let clocks = Clocks { boot_id: "b".into(), since_boot: s(100), wall };
        let lease = |seconds| {
            let id = std::net::Ipv4Addr::new(10, 0, 0, 1);
            let ack = world::reply(xid, dhcproto::v4::MessageType::Ack, id, [10, 0, 0, 9].into(), seconds);
            let reply = netcfg::dhcp4::reply::Reply::decode(&ack).expect("an ACK");
            netcfg::dhcp4::lease::Lease::from_reply(&reply, s(40), &ack).expect("a lease")
        };
        let (old, new) = (lease(old), lease(new));
        let (before, after) = (store::write(&old, &clocks), store::write(&new, &clocks));
        prop_assert_eq!(&store::read(&after, MAC, &clocks).expect("whole").lease, &new);
        let cut = usize::from(cut) % after.len();
        let zeros = "\0".repeat(after.len() - cut);
        for rest in ["", zeros.as_str(), before.get(cut..).unwrap_or_default()] {
            let torn = format!("{}{rest}", &after[..cut]);
            if let Some(read) = store::read(&torn, MAC, &clocks) {
                prop_assert!(read.lease == old || read.lease == new);
                prop_assert!(torn == before || torn == after);
            }
        }
    }
}

proptest! {
    #![proptest_config(config(2000))]

    /// Properties 3, 4 and 5 in anything: arbitrary events at arbitrary times, bytes and broken
    /// replies among them, orders, restarts. The world's checker sees every step; nothing panics.
    #[test]
    fn property_5_nothing_that_arrives_confuses_it(
        seed: u64, identity in identities(),
        events in proptest::collection::vec(
            (0u8..14, 0u64..100_000, proptest::collection::vec(any::<u8>(), 0..60)), 0..30),
    ) {
        let mut rng = Rng::new(seed);
        let mut world = World::with(identity, seed, vec![Server::new(0, Manner::Rapid, 60)], 40);
        world.step(Event::CarrierUp);
        for (kind, gap, bytes) in events {
            match kind {
                0 => world.step(Event::CarrierUp),
                1 => world.step(Event::CarrierDown),
                2 => world.step(Event::Payload(&bytes)),
                3 | 4 => {
                    let reply = forged(&world, &mut rng, kind == 3, &bytes);
                    world.step(Event::Payload(&reply));
                }
                5 => {
                    // The machine sleeps: no timer fires in between.
                    world.now += Duration::from_millis(gap);
                    world.step(Event::Timer);
                }
                6 => world.step(Event::Arp(&bytes)),
                7 => {
                    // Somebody claims the address there is, or any.
                    let address = world.servers[0].address.octets();
                    let frame = [
                        &[0, 1, 8, 0, 6, 4, 0, if gap % 2 == 0 { 1 } else { 2 }][..],
                        &[2, 9, 9, 9, 9, 9], &address, &MAC.0, &address,
                    ].concat();
                    world.step(Event::Arp(&frame));
                }
                8 => world.step(Event::Renew),
                9 => world.step(Event::Release),
                10 => {
                    let how = match gap % 4 {
                        0 => Restart::Process,
                        1 => Restart::Machine { off: gap / 1000 },
                        2 => Restart::MachineWithoutClock { off: gap / 1000 },
                        _ => Restart::MachineWithoutFile,
                    };
                    world.restart(how);
                    world.step(Event::CarrierUp);
                }
                _ => world.run_for(Duration::from_millis(gap)),
            }
        }
    }

    /// Property 5: any lease time, T1 and T2; the client rests between its steps, and floods
    /// nobody.
    #[test]
    fn property_5_no_times_make_a_busy_loop(
        seed: u64, identity in identities(), times in any::<[u32; 3]>(), odd in any::<[u8; 3]>(),
    ) {
        let odd_times = [0, 1, 2, 9, 10, 11, u32::MAX - 1, u32::MAX];
        let value = |index: usize| match usize::from(odd[index]) {
            odd if odd < 128 => odd_times[odd % odd_times.len()],
            _ => times[index],
        };
        let mut world = World::with(identity, seed, vec![Server::new(0, Manner::Honest, value(0))], 0);
        world.times = Some((value(1), value(2)));
        world.step(Event::CarrierUp);
        world.run_for(s(100));
        if value(0) < 10 {
            prop_assert!(!world.is_bound());
        }
    }
}
