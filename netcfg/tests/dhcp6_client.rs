//! The DHCPv6 client in a simulated world: whatever happens there, it never uses an address it has
//! no right to, and with an honest server in reach it always ends up with one.

mod world6;

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::v6::{DhcpOption, Message, MessageType, OptionCode, Status};
use netcfg::dhcp6::client::{Action, Event, Mode, Note, Why};
use netcfg::dhcp6::lease::Refused;
use proptest::prelude::*;

use world6::{Answer, IDENTITY, Manner, Seconds, Server, World, addresses_of, server_of};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const MONTH: Duration = s(30 * 86_400);
const DAY: Duration = s(86_400);

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

fn seconds() -> impl Strategy<Value = Seconds> {
    let valid = prop_oneof![
        Just(10u32),
        10u32..120,
        600u32..100_000,
        Just(u32::MAX - 1),
        Just(u32::MAX),
    ];
    let any_time = || prop_oneof![3 => Just(0u32), 1 => 1u32..20_000, 1 => any::<u32>()];
    (valid, any_time(), any_time(), 1u32..5).prop_map(|(valid, t1, t2, part)| {
        let (t1, t2) = if t2 > 0 && t1 > t2 {
            (t2, t1)
        } else {
            (t1, t2)
        };
        [
            t1,
            t2,
            if part < 4 { valid / 4 * part } else { valid },
            valid,
        ]
    })
}

fn manners() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Forgetful),
        Just(Manner::Refusing),
        Just(Manner::Stingy),
        Just(Manner::Lying),
    ]
}

fn preferences() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![Just(None), Just(Some(255u8)), any::<u8>().prop_map(Some)]
}

/// One honest server and up to two others, in any order.
fn servers() -> impl Strategy<Value = Vec<Server>> {
    let honest = (seconds(), preferences(), any::<bool>());
    let other = (manners(), 10u32..4000, preferences(), any::<bool>());
    let others = proptest::collection::vec(other, 0..3);
    (honest, others, any::<bool>()).prop_map(|(honest, others, first)| {
        let (seconds, preference, rapid_commit) = honest;
        let honest = Server {
            seconds,
            preference,
            rapid_commit,
            ..Server::new(0, Manner::Honest, 0)
        };
        let mut all: Vec<Server> = others
            .into_iter()
            .zip(1..)
            .map(
                |((manner, valid, preference, rapid_commit), number)| Server {
                    preference,
                    rapid_commit,
                    ..Server::new(number, manner, valid)
                },
            )
            .collect();
        all.insert(if first { 0 } else { all.len() }, honest);
        all
    })
}

fn start(world: &mut World) {
    world.step(Event::Mode(Mode::Stateful));
    world.step(Event::LinkUp);
}

proptest! {
    #![proptest_config(config(200))]

    /// Loss up to 60 % each way, liars and refusers beside: still bound in the end.
    #[test]
    fn with_an_honest_server_it_always_ends_bound(
        seed: u64, servers in servers(), loss in 0u8..150,
    ) {
        let mut world = World::new(seed, servers, loss);
        start(&mut world);
        prop_assert!(world.run_until(MONTH, World::is_bound), "{:?}", world.client);
    }

    /// The only server dies and comes back: nothing is used while nobody grants it, and then it
    /// is bound again without any help.
    #[test]
    fn it_comes_back_when_the_server_does(
        seed: u64, seconds in seconds(), rapid_commit: bool, death in 20u64..500,
        pause in 1u64..100_000, loss in 0u8..100,
    ) {
        let back = s(death + pause);
        let server = Server {
            dead: vec![(s(death), back)],
            seconds,
            rapid_commit,
            ..Server::new(0, Manner::Honest, 0)
        };
        let mut world = World::new(seed, vec![server], loss);
        start(&mut world);
        world.run_until(back, |_| false);
        prop_assert!(world.run_until(back + MONTH, World::is_bound), "{:?}", world.client);
    }

    /// A carrier that comes and goes, on a link with all kinds of servers.
    #[test]
    fn flapping_links_end_bound(
        seed: u64, servers in servers(), gaps in proptest::collection::vec(0u64..20_000, 0..20),
    ) {
        let mut world = World::new(seed, servers, 30);
        world.step(Event::Mode(Mode::Stateful));
        for (index, gap) in gaps.iter().enumerate() {
            world.step(if index % 2 == 0 { Event::LinkUp } else { Event::LinkDown });
            let end = world.now + ms(*gap);
            world.run_until(end, |_| false);
        }
        world.step(Event::LinkUp);
        let end = world.now + MONTH;
        prop_assert!(world.run_until(end, World::is_bound), "{:?}", world.client);
    }

    /// A day of honest service with some loss: no interruption for leases of a sensible length.
    #[test]
    fn a_lease_is_kept_without_interruption(seed: u64, valid in 1200u32..100_000, loss in 0u8..40) {
        let mut world = World::new(seed, vec![Server::new(0, Manner::Honest, valid)], loss);
        start(&mut world);
        prop_assert!(world.run_until(DAY, World::is_bound));
        let bound = world.now;
        let lost = world.run_until(bound + DAY, |world| !world.is_bound());
        prop_assert!(!lost, "lost at {:?}", world.now);
        let sent = world.sent_since(bound);
        let renewed = sent.iter().any(|(_, asked)| asked.msg_type() == MessageType::Renew);
        prop_assert!(renewed);
    }

    /// Information needs no address, and comes to who asks long enough.
    #[test]
    fn information_always_arrives(seed: u64, servers in servers(), loss in 0u8..150) {
        let mut world = World::new(seed, servers, loss);
        world.step(Event::Mode(Mode::Stateless));
        world.step(Event::LinkUp);
        let told = world.run_until(MONTH, |world| world.client.applied().is_some());
        prop_assert!(told, "{:?}", world.client);
        prop_assert!(!world.is_bound());
    }

    /// The same seed and the same events give the same actions, byte for byte.
    #[test]
    fn runs_can_be_repeated(seed: u64, servers in servers(), loss in 0u8..200) {
        let run = || {
            let mut world = World::new(seed, servers.clone(), loss);
            start(&mut world);
            world.run_until(s(600), |_| false);
            world.log
        };
        prop_assert_eq!(run(), run());
    }

    /// Any events in any order: the checker of the world looks at every step.
    #[test]
    fn whatever_happens_the_rules_hold(
        seed: u64, servers in servers(), loss in 0u8..100,
        events in proptest::collection::vec((0u8..14, 0u64..40_000, any::<u8>()), 0..40),
    ) {
        let mut world = World::new(seed, servers, loss);
        start(&mut world);
        for (kind, gap, byte) in events {
            match kind {
                0 => world.step(Event::LinkUp),
                1 => world.step(Event::LinkDown),
                2 => world.step(Event::Mode(Mode::Off)),
                3 => world.step(Event::Mode(Mode::Stateless)),
                4 | 5 => world.step(Event::Mode(Mode::Stateful)),
                6 => world.step(Event::Release),
                7 => world.step(Event::Renew),
                8 => {
                    let applied = world.client.applied();
                    let ours = applied.and_then(|lease| lease.hosts().first().copied());
                    world.step(Event::AddressConflict(ours.unwrap_or(Ipv6Addr::LOCALHOST)));
                }
                9 => world.step(Event::Payload(&[byte; 24])),
                10 => {
                    // An answer to the last question, damaged somewhere or not at all.
                    if let Some((_, asked)) = world.sent_since(Duration::ZERO).pop() {
                        let server = server_of(&asked).unwrap_or_else(|| vec![0, 3, 0, 1, byte]);
                        let there = Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, byte.into());
                        let lifetime = u32::from(byte) * 8;
                        let mut bytes = Answer::new(asked.xid(), &server)
                            .granting(there, [lifetime / 4, lifetime / 2, lifetime, lifetime])
                            .bytes();
                        let at = usize::from(byte) * 7;
                        if at > 4 && at < bytes.len() {
                            bytes[at] ^= byte;
                        }
                        world.step(Event::Payload(&bytes));
                    }
                }
                11 => {
                    // The machine sleeps: no timer fires in between.
                    world.now += s(gap);
                    world.step(Event::Timer);
                }
                _ => {
                    let end = world.now + ms(gap * 50);
                    world.run_until(end, |_| false);
                }
            }
        }
        // Afterwards it is as good as new.
        world.step(Event::Mode(Mode::Off));
        world.step(Event::Mode(Mode::Stateful));
        world.step(Event::LinkUp);
        let end = world.now + MONTH;
        prop_assert!(world.run_until(end, World::is_bound), "{:?}", world.client);
    }
}

const HERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x50);
const THERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x51);
const HOUR: Seconds = [900, 1800, 2700, 3600];

/// Each bad one takes minutes to be found out, and is preferred to all others.
#[test]
fn two_that_never_confirm_hide_no_third_for_ever() {
    let bad = |number| Server {
        preference: Some(255),
        ..Server::new(number, Manner::Forgetful, 3600)
    };
    let honest = Server::new(0, Manner::Honest, 3600);
    let mut world = World::new(1, vec![bad(1), bad(2), honest], 0);
    start(&mut world);
    let end = world.now + s(3600);
    assert!(world.run_until(end, World::is_bound), "{:?}", world.client);
}

/// A world without servers whose client has just sent its first SOLICIT.
fn soliciting() -> World {
    let mut world = World::new(1, vec![], 0);
    start(&mut world);
    world
}

/// A world in which the client has just been bound; its server is honest.
fn bound() -> World {
    let server = Server {
        seconds: HOUR,
        rapid_commit: true,
        ..Server::new(0, Manner::Honest, 0)
    };
    let mut world = World::new(1, vec![server], 0);
    start(&mut world);
    assert!(world.run_until(s(10), World::is_bound));
    world
}

fn last(world: &World) -> Message {
    let (_, asked) = world.sent_since(Duration::ZERO).pop().expect("sent");
    asked
}

fn kinds(sent: &[(Duration, Message)]) -> Vec<MessageType> {
    sent.iter().map(|(_, asked)| asked.msg_type()).collect()
}

/// An answer of server 0 to the last question.
fn answer(world: &World) -> Answer {
    Answer::new(last(world).xid(), &Server::new(0, Manner::Honest, 0).duid)
}

fn say(world: &mut World, answer: &Answer) {
    world.step(Event::Payload(&answer.bytes()));
}

fn withdrawn(world: &World) -> Vec<Why> {
    let all = world.log.iter();
    all.filter_map(|(_, action)| match action {
        Action::Withdraw(why) => Some(*why),
        _ => None,
    })
    .collect()
}

#[test]
fn nothing_is_said_before_a_router_and_the_link_are_there() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::LinkUp);
    world.run_until(s(100), |_| false);
    assert!(world.log.is_empty() && !world.client.wants_socket());
    world.step(Event::Mode(Mode::Stateful));
    assert_eq!(kinds(&world.sent_since(s(100))), [MessageType::Solicit]);
    assert_eq!(world.sent_since(s(100))[0].0, world.now);
    assert!(world.client.wants_socket());
    world.step(Event::LinkDown);
    assert_eq!(world.client.deadline(), None);
    assert!(!world.client.wants_socket());
}

#[test]
fn with_rapid_commit_one_round_trip_is_enough() {
    let world = bound();
    assert_eq!(
        kinds(&world.sent_since(Duration::ZERO)),
        [MessageType::Solicit]
    );
    let lease = world.client.applied().expect("bound");
    assert_eq!(lease.hosts(), [HERE]);
    assert!(world.now < ms(1600));
}

#[test]
fn a_reply_to_a_solicit_must_say_that_it_is_one() {
    let mut world = soliciting();
    let mut reply = answer(&world).granting(HERE, HOUR);
    say(&mut world, &reply);
    assert_eq!(world.client.phase_name(), "soliciting");
    assert_eq!(world.client.counters().unexpected, 1);
    reply.rapid_commit = true;
    say(&mut world, &reply);
    assert_eq!(world.client.phase_name(), "bound");
}

#[test]
fn the_best_offer_of_the_first_second_is_taken() {
    let offering = |number, preference| Server {
        preference,
        ..Server::new(number, Manner::Honest, 3600)
    };
    let servers = vec![
        offering(0, Some(7)),
        offering(1, Some(9)),
        offering(2, None),
    ];
    let mut world = World::new(3, servers, 0);
    start(&mut world);
    let began = world.now;
    assert!(
        !world.run_until(began + s(1), |world| world.client.phase_name()
            != "soliciting")
    );
    assert!(world.run_until(began + ms(1200), World::is_bound));
    assert_eq!(
        world.client.applied().expect("bound").hosts(),
        [world.servers[1].address]
    );
}

#[test]
fn the_highest_preference_is_taken_at_once_and_so_is_any_late_offer() {
    let mut world = soliciting();
    let mut offer = answer(&world).granting(HERE, HOUR);
    offer.kind = MessageType::Advertise;
    offer.preference = Some(255);
    say(&mut world, &offer);
    assert_eq!(world.client.phase_name(), "requesting");
    assert_eq!(addresses_of(&last(&world)), [HERE]);
    assert_eq!(server_of(&last(&world)), Some(offer.server.clone()));

    let mut world = soliciting();
    world.run_until(world.now + ms(1500), |_| false);
    offer.xid = last(&world).xid();
    offer.preference = None;
    say(&mut world, &offer);
    assert_eq!(world.client.phase_name(), "requesting");
}

#[test]
fn repetitions_keep_their_id_and_tell_how_long_it_has_been() {
    let mut world = soliciting();
    world.run_until(s(30), |_| false);
    let sent = world.sent_since(Duration::ZERO);
    assert_eq!(sent.len(), 5);
    let elapsed: Vec<u16> = sent
        .iter()
        .map(|(at, asked)| {
            assert_eq!(asked.xid(), sent[0].1.xid());
            let Some(DhcpOption::ElapsedTime(elapsed)) = asked.opts().get(OptionCode::ElapsedTime)
            else {
                panic!("no elapsed time");
            };
            assert_eq!(u128::from(*elapsed), (*at - sent[0].0).as_millis() / 10);
            *elapsed
        })
        .collect();
    assert_eq!(elapsed[0], 0);
    assert!(elapsed[1] > 100 && elapsed.is_sorted());
    assert!(
        world
            .log
            .iter()
            .any(|(_, action)| *action == Action::Note(Note::Silence { sent: 3 }))
    );
}

#[test]
fn only_the_chosen_server_and_only_our_question_count() {
    let mut world = soliciting();
    let mut offer = answer(&world).granting(HERE, HOUR);
    offer.kind = MessageType::Advertise;
    offer.preference = Some(255);
    say(&mut world, &offer);
    let good = answer(&world).granting(HERE, HOUR);
    let mut wrong = vec![good.clone(); 3];
    wrong[0].xid[0] ^= 1;
    wrong[1].server[9] ^= 1;
    wrong[2].client[9] ^= 1;
    for wrong in &wrong {
        say(&mut world, wrong);
        assert_eq!(world.client.phase_name(), "requesting");
    }
    // The offer again is no answer to the request.
    say(&mut world, &offer);
    let counters = world.client.counters();
    assert_eq!((counters.unexpected, counters.not_ours), (3, 1));
    say(&mut world, &good);
    assert_eq!(world.client.phase_name(), "bound");
    // And nothing more is granted by the same answer.
    say(&mut world, &good);
    assert_eq!(world.client.counters().unexpected, 4);
}

#[test]
fn a_server_that_does_not_confirm_its_offer_is_passed_over() {
    for manner in [Manner::Forgetful, Manner::Refusing] {
        let loud = Server {
            preference: Some(255),
            ..Server::new(1, manner, 3600)
        };
        let servers = vec![loud, Server::new(0, Manner::Honest, 3600)];
        let mut world = World::new(5, servers, 0);
        start(&mut world);
        assert!(world.run_until(s(600), World::is_bound), "{manner:?}");
        let sent = kinds(&world.sent_since(Duration::ZERO));
        let tries = if manner == Manner::Forgetful { 10 } else { 1 };
        let requests = sent.iter().filter(|kind| **kind == MessageType::Request);
        assert_eq!(requests.count(), tries + 1, "{manner:?}: {sent:?}");
    }
}

#[test]
fn a_server_that_cannot_just_now_is_asked_again() {
    let mut world = soliciting();
    let mut offer = answer(&world).granting(HERE, HOUR);
    offer.kind = MessageType::Advertise;
    offer.preference = Some(255);
    say(&mut world, &offer);
    for status in [Status::UnspecFail, Status::UseMulticast] {
        let mut busy = answer(&world).without_addresses();
        busy.status = Some(status);
        say(&mut world, &busy);
        assert_eq!(world.client.phase_name(), "requesting");
    }
    world.run_until(world.now + s(2), |_| false);
    assert_eq!(last(&world).msg_type(), MessageType::Request);
    assert!(world.log.iter().any(|(_, action)| matches!(
        action,
        Action::Note(Note::Refused { why: Refused::Status(_), message, .. }) if message == "as it is"
    )));
}

#[test]
fn a_silent_server_is_asked_alone_then_everybody_until_the_end() {
    let mut world = bound();
    let start = world.now;
    world.servers[0].dead = vec![(start, MONTH)];
    world.run_until(start + s(1799), |_| false);
    let renewing = world.sent_since(start + s(1));
    assert!(renewing.len() >= 3);
    assert!(
        renewing
            .iter()
            .all(|(_, asked)| asked.msg_type() == MessageType::Renew)
    );
    assert!(renewing[0].0 >= start + s(870) && renewing[0].0 <= start + s(900));
    world.run_until(start + s(3590), |_| false);
    let rebinding = world.sent_since(start + s(1801));
    assert!(rebinding.len() >= 3);
    assert!(
        rebinding
            .iter()
            .all(|(_, asked)| asked.msg_type() == MessageType::Rebind)
    );
    assert!(
        rebinding
            .iter()
            .all(|(_, asked)| addresses_of(asked) == [HERE])
    );
    assert!(world.is_bound());
    world.run_until(start + s(3601), |_| false);
    assert_eq!(withdrawn(&world), [Why::Expired]);
    // Its old address is wished for.
    assert_eq!(last(&world).msg_type(), MessageType::Solicit);
    assert_eq!(addresses_of(&last(&world)), [HERE]);
}

#[test]
fn a_server_that_forgot_us_is_asked_to_remember() {
    let mut world = bound();
    world.servers.clear();
    world.step(Event::Renew);
    assert_eq!(last(&world).msg_type(), MessageType::Renew);
    let mut forgot = answer(&world);
    forgot.ia_status = Some(Status::NoBinding);
    say(&mut world, &forgot);
    assert!(world.is_bound());
    assert_eq!(last(&world).msg_type(), MessageType::Request);
    assert_eq!(addresses_of(&last(&world)), [HERE]);
}

#[test]
fn a_server_that_takes_the_address_away_is_obeyed() {
    let mut world = bound();
    world.servers.clear();
    world.step(Event::Renew);
    // Nothing said of it is not the same as taken.
    let nothing = answer(&world);
    say(&mut world, &nothing);
    assert!(world.is_bound());
    let taken = answer(&world).granting(HERE, [0; 4]);
    say(&mut world, &taken);
    assert_eq!(withdrawn(&world), [Why::Refused]);
    assert_eq!(last(&world).msg_type(), MessageType::Solicit);
    assert!(addresses_of(&last(&world)).is_empty());
}

#[test]
fn a_server_moves_us_from_one_address_to_another() {
    let mut world = bound();
    world.servers.clear();
    world.step(Event::Renew);
    let began = world.now;
    let moved = answer(&world)
        .granting(THERE, HOUR)
        .granting(HERE, [0, 0, 0, 60]);
    say(&mut world, &moved);
    assert_eq!(
        world.client.applied().expect("bound").hosts(),
        [THERE, HERE]
    );
    world.run_until(began + s(61), |_| false);
    assert_eq!(world.client.applied().expect("bound").hosts(), [THERE]);
    assert!(withdrawn(&world).is_empty());
    assert!(
        matches!(world.log.last(), Some((_, Action::Apply(lease))) if lease.hosts() == [THERE])
    );
}

#[test]
fn a_short_loss_of_carrier_keeps_the_address_and_asks_for_it() {
    let mut world = bound();
    world.step(Event::LinkDown);
    world.run_until(world.now + s(4), |_| false);
    let back = world.now;
    world.step(Event::LinkUp);
    assert_eq!(kinds(&world.sent_since(back)), [MessageType::Confirm]);
    assert_eq!(world.client.phase_name(), "confirming");
    world.run_until(back + s(1), |_| false);
    assert_eq!(world.client.phase_name(), "bound");
    assert!(withdrawn(&world).is_empty());
}

#[test]
fn a_long_loss_of_carrier_takes_the_address_and_gives_it_back() {
    let mut world = bound();
    let granted = world.client.applied().cloned();
    world.step(Event::LinkDown);
    world.run_until(world.now + s(6), |_| false);
    assert_eq!(withdrawn(&world), [Why::Carrier]);
    world.step(Event::LinkUp);
    assert!(world.run_until(world.now + s(1), World::is_bound));
    assert_eq!(world.client.applied().cloned(), granted);
}

#[test]
fn in_another_network_the_address_goes_at_once() {
    let mut world = bound();
    world.servers.clear();
    world.step(Event::LinkDown);
    world.step(Event::LinkUp);
    let mut no = answer(&world).without_addresses();
    no.status = Some(Status::NotOnLink);
    say(&mut world, &no);
    assert_eq!(withdrawn(&world), [Why::Refused]);
    assert_eq!(last(&world).msg_type(), MessageType::Solicit);
}

#[test]
fn when_nobody_confirms_an_address_in_use_is_kept_and_another_is_not() {
    for (away, kept) in [(s(1), true), (s(10), false)] {
        let mut world = bound();
        world.servers.clear();
        world.step(Event::LinkDown);
        world.run_until(world.now + away, |_| false);
        world.step(Event::LinkUp);
        let back = world.now;
        world.run_until(back + s(11), |_| false);
        assert_eq!(world.is_bound(), kept);
        let phase = if kept { "bound" } else { "soliciting" };
        assert_eq!(world.client.phase_name(), phase);
        if !kept {
            assert_eq!(addresses_of(&last(&world)), [HERE]);
        }
    }
}

#[test]
fn information_is_asked_for_and_refreshed() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::Mode(Mode::Stateless));
    world.step(Event::LinkUp);
    assert_eq!(last(&world).msg_type(), MessageType::InformationRequest);
    let mut told = answer(&world).without_addresses();
    told.numbers = vec![(OptionCode::InformationRefreshTime, 1200)];
    say(&mut world, &told);
    let began = world.now;
    let lease = world.client.applied().expect("told").clone();
    assert!(lease.addresses.is_empty() && lease.dns.len() == 1);
    assert_eq!(world.client.phase_name(), "informed");
    assert_eq!(world.client.deadline(), Some(began + s(1200)));
    world.run_until(began + s(1200), |_| false);
    assert_eq!(
        kinds(&world.sent_since(began + s(1200))),
        [MessageType::InformationRequest]
    );
    // It stands until somebody says something else.
    world.run_until(began + s(7200), |_| false);
    assert_eq!(world.client.applied(), Some(&lease));
}

#[test]
fn information_is_asked_for_again_whoever_says_that_it_need_not_be() {
    let mut world = World::new(1, vec![], 0);
    world.step(Event::Mode(Mode::Stateless));
    world.step(Event::LinkUp);
    let mut told = answer(&world).without_addresses();
    told.numbers = vec![(OptionCode::InformationRefreshTime, u32::MAX)];
    say(&mut world, &told);
    assert_eq!(world.client.phase_name(), "informed");
    assert_eq!(world.client.deadline(), Some(world.now + s(86_400)));
}

#[test]
fn information_goes_when_routers_do_not_offer_it_any_more() {
    let mut world = World::new(1, vec![Server::new(0, Manner::Honest, 60)], 0);
    world.step(Event::Mode(Mode::Stateless));
    world.step(Event::LinkUp);
    world.run_until(s(10), |_| false);
    world.step(Event::Mode(Mode::Off));
    assert!(world.client.applied().is_some());
    world.run_until(s(86_500), |_| false);
    assert_eq!(withdrawn(&world), [Why::Mode]);
    assert_eq!(world.client.phase_name(), "off");
}

#[test]
fn an_address_is_more_than_information_and_stays_when_routers_disagree() {
    let mut world = World::new(1, vec![Server::new(0, Manner::Honest, 60)], 0);
    world.step(Event::Mode(Mode::Stateless));
    world.step(Event::LinkUp);
    world.run_until(s(10), |_| false);
    assert!(world.client.applied().is_some() && !world.is_bound());
    world.step(Event::Mode(Mode::Stateful));
    assert!(world.run_until(s(20), World::is_bound));
    let sent = world.client.counters().sent;
    for mode in [Mode::Off, Mode::Stateless, Mode::Stateful, Mode::Off] {
        world.step(Event::Mode(mode));
    }
    assert!(world.is_bound());
    assert_eq!(world.client.counters().sent, sent);
    // Not even when there is time to think about it.
    assert!(!world.run_until(s(1000), |world| !world.is_bound()));
}

#[test]
fn a_released_address_is_not_used_any_more_when_the_server_hears_of_it() {
    let mut world = bound();
    let began = world.now;
    world.step(Event::Release);
    let at = |wanted: fn(&Action) -> bool| world.log.iter().position(|(_, a)| wanted(a));
    let gone = at(|action| *action == Action::Withdraw(Why::Released)).expect("withdrawn");
    assert!(matches!(world.log[gone + 1], (_, Action::Send { .. })));
    assert_eq!(addresses_of(&last(&world)), [HERE]);
    world.run_until(began + s(3600), |_| false);
    let sent = kinds(&world.sent_since(began));
    assert_eq!(
        sent.iter()
            .filter(|kind| **kind == MessageType::Release)
            .count(),
        1
    );
    assert_eq!(world.client.phase_name(), "off");
}

#[test]
fn a_release_that_nobody_answers_ends() {
    let mut world = bound();
    world.servers.clear();
    let began = world.now + ms(1);
    world.now = began;
    world.step(Event::Release);
    world.run_until(began + s(3600), |_| false);
    assert_eq!(kinds(&world.sent_since(began)), [MessageType::Release; 4]);
    assert_eq!(world.client.phase_name(), "off");
    world.step(Event::Mode(Mode::Stateful));
    assert_eq!(world.client.phase_name(), "soliciting");
}

#[test]
fn an_address_that_somebody_else_uses_is_declined() {
    let mut world = bound();
    let began = world.now + ms(1);
    world.now = began;
    world.step(Event::AddressConflict(THERE));
    assert!(world.is_bound());
    world.step(Event::AddressConflict(HERE));
    assert_eq!(withdrawn(&world), [Why::Conflict]);
    assert_eq!(kinds(&world.sent_since(began)), [MessageType::Decline]);
    assert_eq!(addresses_of(&last(&world)), [HERE]);
    world.run_until(began + s(9), |_| false);
    assert_eq!(world.client.phase_name(), "waiting");
    world.run_until(began + s(11), |_| false);
    assert_eq!(
        kinds(&world.sent_since(began)),
        [MessageType::Decline, MessageType::Solicit]
    );
    assert_eq!(world.client.counters().declined, 1);
    assert!(
        world.sent_since(began + s(1))[0]
            .1
            .opts()
            .get(OptionCode::ClientId)
            .is_some()
    );
}

#[test]
fn what_is_left_of_a_lease_is_asked_for_before_it_ends() {
    let mut world = bound();
    world.servers.clear();
    world.step(Event::Renew);
    let moved = answer(&world)
        .granting(THERE, HOUR)
        .granting(HERE, [0, 0, 0, 60]);
    say(&mut world, &moved);
    let began = world.now;
    world.step(Event::AddressConflict(THERE));
    assert_eq!(world.client.applied().expect("bound").hosts(), [HERE]);
    let told = answer(&world).without_addresses();
    say(&mut world, &told);
    world.run_until(began + s(30), |_| false);
    assert_eq!(last(&world).msg_type(), MessageType::Renew);
    assert!(world.is_bound());
}

#[test]
fn a_server_may_set_the_longest_wait_within_reason() {
    // Seconds said, and the most that is then waited between two SOLICITs.
    for (said, most) in [(60, 66), (59, 3960), (86_401, 3960), (7200, 7920)] {
        let mut world = soliciting();
        let mut none = answer(&world);
        none.kind = MessageType::Advertise;
        none.ia_status = Some(Status::NoAddrsAvail);
        none.numbers = vec![(OptionCode::SolMaxRt, said)];
        say(&mut world, &none);
        assert_eq!(world.client.phase_name(), "soliciting");
        world.run_until(s(100_000), |_| false);
        let sent = world.sent_since(Duration::ZERO);
        let gaps = sent
            .windows(2)
            .map(|pair| (pair[1].0 - pair[0].0).as_secs());
        let longest = gaps.max().expect("some");
        assert!(
            (most * 8 / 10..=most).contains(&longest),
            "{said}: {longest}"
        );
    }
}

#[test]
fn an_answer_is_counted_from_the_question_it_can_belong_to() {
    // The server was dead for a day; its lease is of an hour.
    let server = Server {
        dead: vec![(s(0), DAY)],
        rapid_commit: true,
        ..Server::new(0, Manner::Honest, 3600)
    };
    let mut world = World::new(1, vec![server], 0);
    start(&mut world);
    assert!(world.run_until(DAY + s(7200), World::is_bound));
    let lease = world.client.applied().expect("bound");
    assert!(lease.expire().expect("ends") > world.now + s(3590));
}

#[test]
fn who_we_are_is_the_hardware() {
    assert_eq!(IDENTITY.duid(), [0, 3, 0, 1, 2, 0, 0, 0, 0, 9]);
    assert_eq!(IDENTITY.iaid(), 9);
}
