//! The client in a simulated world, by stories: one situation each, and what comes of it.

mod world;

use std::time::Duration;

use netcfg::dhcp4::client::{Action, Client, Event, Note, Saved, To, Why};
use netcfg::dhcp4::request::Identity;
use netcfg::rng::Rng;

use world::{IDENTITY, Manner, Server, World};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A world in which the client has just been bound.
fn bound(lease: u32) -> World {
    let mut world = World::new(1, vec![Server::new(0, Manner::Honest, lease)], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(10), World::is_bound));
    world
}

#[test]
fn the_first_frame_goes_out_with_the_carrier() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::CarrierUp);
    assert_eq!(world.sent_since(world.now), [To::Broadcast]);
}

#[test]
fn a_silent_server_is_asked_in_unicast_then_everybody_until_the_end() {
    let mut world = bound(3600);
    let start = world.now;
    world.servers[0].dead = vec![(start, s(1_000_000))];
    world.run_until(start + s(3000), |_| false);
    let renewing = world.sent_since(start + s(1));
    assert!(renewing.len() >= 3 && renewing.iter().all(|to| matches!(to, To::Unicast(_))));
    world.run_until(start + s(3590), |_| false);
    let rebinding = world.sent_since(start + s(3160));
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
fn a_lease_without_end_is_renewed_each_day_and_kept_when_nobody_answers() {
    const DAY: u64 = 86_400;
    let mut world = bound(u32::MAX);
    let start = world.now + s(1);
    world.run_for(s(10 * DAY));
    let renewing = world.sent_since(start);
    assert!((10..=11).contains(&renewing.len()), "{renewing:?}");
    assert!(renewing.iter().all(|to| matches!(to, To::Unicast(_))));

    let (died, address) = (world.now, world.servers[0].address);
    world.servers[0].dead = vec![(died, s(u64::from(u32::MAX)))];
    world.run_for(s(DAY * 7 / 2));
    let asked = world.sent_since(died);
    for way in [To::BroadcastFromLease, To::Broadcast] {
        assert!(asked.contains(&way), "{way:?} is missing of {asked:?}");
    }
    let lease = world.client.applied().expect("kept");
    assert_eq!(lease.address.address(), address);
    assert!(!world.did(|a| matches!(a, Action::Withdraw(_))));
    assert!(world.noted(|note| matches!(note, Note::Silence { .. })));
}

#[test]
fn a_lease_without_end_of_a_server_that_is_gone_gives_way_to_another() {
    let mut world = bound(u32::MAX);
    // The one that is there now does not know of the lease and says nothing to it.
    world.servers = vec![Server::new(7, Manner::Honest, 3600)];
    let there = world.servers[0].address;
    let has_moved = move |world: &World| {
        let lease = world.client.applied();
        lease.is_some_and(|lease| lease.address.address() == there)
    };
    let end = world.now + s(2 * 86_400 + 10);
    assert!(world.run_until(end, has_moved));
}

#[test]
fn a_short_loss_of_carrier_keeps_the_address_and_asks_for_it() {
    let mut world = bound(3600);
    world.step(Event::CarrierDown);
    world.run_until(world.now + s(4), |_| false);
    assert!(world.is_bound());
    let back = world.now;
    world.step(Event::CarrierUp);
    assert_eq!(world.sent_since(back), [To::Broadcast]);
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
            age_known: true,
        };
        let mut client = Client::new(IDENTITY, Rng::new(5), now, Some(saved));
        let actions = client.step(now, Event::CarrierUp);
        (client.phase_name(), client.applied().is_some(), actions)
    };
    let (phase, applied, actions) = at(s(100), false);
    assert_eq!((phase, applied, actions.len()), ("rebooting", false, 1));
    // What is on the link is announced beside.
    let (phase, applied, actions) = at(s(100), true);
    assert_eq!((phase, applied, actions.len()), ("rebooting", true, 2));
    assert!(matches!(actions[1], Action::Arp(_)));
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

#[test]
fn a_rapid_commit_binds_with_one_answer() {
    let mut world = World::new(1, vec![Server::new(0, Manner::Rapid, 3600)], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(10), World::is_bound));
    assert_eq!(world.sent_since(s(0)), [To::Broadcast], "DISCOVER alone");
    // Who does not allow it gets an offer.
    let identity = Identity {
        rapid_commit: false,
        ..IDENTITY
    };
    let mut world = World::with(identity, 1, vec![Server::new(0, Manner::Rapid, 3600)], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(10), World::is_bound));
    assert_eq!(world.sent_since(s(0)).len(), 2);
}

#[test]
fn an_ack_to_a_discover_counts_only_as_a_rapid_commit() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::CarrierUp);
    let Some((_, Action::Send { payload, .. })) = world.log.first().cloned() else {
        panic!("nothing sent");
    };
    let xid = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
    let server = Server::new(0, Manner::Honest, 60);
    let kind = dhcproto::v4::MessageType::Ack;
    let mut ack = world::reply(xid, kind, server.id, server.address, 60);
    world.step(Event::Payload(&ack));
    assert!(!world.is_bound());
    assert_eq!(world.client.counters().unexpected, 1);
    assert_eq!(ack.pop(), Some(255));
    ack.extend([80, 0, 255]);
    world.step(Event::Payload(&ack));
    assert!(world.is_bound());
}

#[test]
fn a_server_that_hears_only_broadcast_requests_is_found() {
    let mut world = World::new(1, vec![Server::new(0, Manner::BroadcastOnly, 3600)], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(10), World::is_bound));
    // Configured so, with the first frame.
    let identity = Identity {
        broadcast: true,
        ..IDENTITY
    };
    let server = Server::new(0, Manner::BroadcastOnly, 3600);
    let mut world = World::with(identity, 1, vec![server], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(2), World::is_bound));
}

#[test]
fn a_network_without_ipv4_is_left_alone() {
    let mut server = Server::new(0, Manner::Honest, 3600);
    server.ipv6_only = Some(10);
    let identity = Identity {
        ipv6_only: true,
        ..IDENTITY
    };
    let mut world = World::with(identity, 1, vec![server.clone()], 0);
    world.step(Event::CarrierUp);
    world.run_for(s(290));
    assert_eq!(world.client.phase_name(), "ipv6-only");
    assert!(world.noted(|note| *note == Note::Ipv6Only { seconds: 300 }));
    assert_eq!(world.sent_since(s(0)).len(), 1, "no REQUEST");
    world.run_for(s(20));
    assert_eq!(
        world.sent_since(s(0)).len(),
        2,
        "asked again after the wait"
    );
    // Who needs IPv4 takes it.
    let mut world = World::new(1, vec![server], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(10), World::is_bound));
}

#[test]
fn a_lease_goes_when_the_network_turns_to_ipv6() {
    let identity = Identity {
        ipv6_only: true,
        ..IDENTITY
    };
    let mut world = World::with(identity, 1, vec![Server::new(0, Manner::Honest, 3600)], 0);
    world.step(Event::CarrierUp);
    assert!(world.run_until(s(10), World::is_bound));
    world.servers[0].ipv6_only = Some(1800);
    world.run_for(s(2000));
    assert!(world.did(|a| *a == Action::Withdraw(Why::Ipv6Only)));
    assert!(!world.is_bound() && world.file.is_none());
}

#[test]
fn one_false_word_takes_ipv4_away_for_an_hour_and_no_longer() {
    let identity = Identity {
        ipv6_only: true,
        ..IDENTITY
    };
    let mut server = Server::new(0, Manner::Honest, 3600);
    server.ipv6_only = Some(u32::MAX);
    let mut world = World::with(identity, 1, vec![server], 0);
    world.step(Event::CarrierUp);
    world.run_for(s(60));
    assert_eq!(world.client.phase_name(), "ipv6-only");
    world.servers[0].ipv6_only = None;
    world.run_for(s(3600));
    assert!(world.is_bound(), "{:?}", world.client);
}

#[test]
fn a_released_address_is_given_back_and_asked_for_on_demand_only() {
    let mut world = bound(3600);
    let start = world.now;
    let server = world.servers[0].id;
    world.step(Event::Release);
    assert_eq!(world.sent_since(start)[..], [To::Unicast(server)]);
    assert!(world.did(|a| *a == Action::Withdraw(Why::Released)));
    assert!(world.file.is_none() && !world.is_bound());
    world.run_for(s(10_000));
    assert_eq!(world.client.phase_name(), "released");
    assert_eq!(world.sent_since(start).len(), 1);
    world.step(Event::Renew);
    assert!(world.run_until(world.now + s(2), World::is_bound));
    world.step(Event::Release);
    world.step(Event::CarrierDown);
    world.step(Event::CarrierUp);
    assert!(world.run_until(world.now + s(2), World::is_bound));
}

#[test]
fn renewing_on_demand_asks_the_server_and_never_floods() {
    for lease in [3600, u32::MAX] {
        let mut world = bound(lease);
        world.run_for(s(100));
        let start = world.now;
        world.step(Event::Renew);
        assert_eq!(world.sent_since(start).len(), 1);
        world.run_for(s(1));
        assert_eq!(world.client.phase_name(), "bound");
        let renewed = |a: &(Duration, Action)| {
            a.0 > start && matches!(a.1, Action::Apply { verified: true, .. })
        };
        assert!(world.log.iter().any(renewed));
        // The world counts what is sent.
        for _ in 0..1000 {
            world.step(Event::Renew);
            world.run_for(Duration::from_millis(100));
        }
        assert!(world.is_bound());
        assert!(!world.did(|a| matches!(a, Action::Withdraw(_))));
    }
}

#[test]
fn a_forced_renewal_is_not_obeyed() {
    let mut world = bound(3600);
    let server = &world.servers[0];
    let kind = dhcproto::v4::MessageType::ForceRenew;
    let forced = world::reply(0, kind, server.id, server.address, 60);
    let before = world.log.len();
    world.step(Event::Payload(&forced));
    assert_eq!(world.log.len(), before);
    assert_eq!(world.client.counters().force_renews, 1);
}

#[test]
fn our_own_name_is_no_news() {
    let identity = Identity {
        hostname: Some("Box-7.example".to_owned()),
        ..IDENTITY
    };
    let lease = |name: &str| {
        let mut lease = bound(3600).client.applied().expect("bound").clone();
        lease.hostname = Some(name.to_owned());
        identity.drop_own_name(&mut lease);
        lease.hostname
    };
    assert_eq!(lease("box-7"), None);
    assert_eq!(lease("BOX-7.lan."), None);
    assert_eq!(lease("box-8"), Some("box-8".to_owned()));
}
