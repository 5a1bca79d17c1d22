//! The client against servers whose clocks are known, and against anything at all.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

/// 2025-01-01.
const FLOOR: Duration = Duration::from_secs(1_735_689_600);
const TO_UNIX: u64 = 2_208_988_800;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

fn socket(number: u8) -> SocketAddr {
    SocketAddr::new(address(number), packet::PORT)
}

fn timestamp(time: Duration) -> u64 {
    let fraction = (u64::from(time.subsec_nanos()) << 32) / 1_000_000_000;
    ((time.as_secs() + TO_UNIX) << 32) | fraction
}

/// The answer of a server whose clock shows `time`, to a question.
fn answer(question: &[u8], time: Duration) -> Vec<u8> {
    let mut bytes = vec![0; packet::LENGTH];
    bytes[..2].copy_from_slice(&[4 << 3 | 4, 2]);
    bytes[24..32].copy_from_slice(&question[40..48]);
    bytes[32..40].copy_from_slice(&timestamp(time).to_be_bytes());
    bytes[40..48].copy_from_slice(&timestamp(time).to_be_bytes());
    bytes
}

fn kiss(question: &[u8], code: &[u8; 4]) -> Vec<u8> {
    let mut bytes = answer(question, FLOOR);
    bytes[..2].copy_from_slice(&[3 << 6 | 4 << 3 | 4, 0]);
    bytes[12..16].copy_from_slice(code);
    bytes
}

/// A client, its clocks, and the questions that are out.
struct Scene {
    client: Client,
    now: Duration,
    /// What the wall clock shows is this and the time since boot.
    booted: Duration,
    out: BTreeMap<IpAddr, Vec<u8>>,
    offsets: Vec<Offset>,
    notes: Vec<Note>,
    sent: Vec<(Duration, IpAddr)>,
}

impl Scene {
    fn new(servers: u8) -> Scene {
        let mut scene = Scene {
            client: Client::new(Rng::new(7), s(3), FLOOR),
            now: s(3),
            booted: FLOOR + s(1000),
            out: BTreeMap::new(),
            offsets: vec![],
            notes: vec![],
            sent: vec![],
        };
        scene.give(Event::Servers((1..=servers).map(address).collect()));
        scene.give(Event::Online(true));
        scene
    }

    fn give(&mut self, event: Event<'_>) {
        let wall = self.booted + self.now;
        for action in self.client.step(self.now, wall, event) {
            match action {
                Action::Send { to, bytes } => {
                    self.sent.push((self.now, to));
                    self.out.insert(to, bytes);
                }
                Action::Offset(offset) => self.offsets.push(offset),
                Action::Note(note) => self.notes.push(note),
            }
        }
    }

    /// The answer of a server that is ahead of the wall clock by this.
    fn answer(&mut self, number: u8, ahead_ms: i64) {
        let question = self.out.remove(&address(number)).expect("a question");
        let wall = self.booted + self.now;
        let ahead = Duration::from_millis(ahead_ms.unsigned_abs());
        let time = if ahead_ms < 0 {
            wall - ahead
        } else {
            wall + ahead
        };
        let bytes = answer(&question, time);
        self.give(Event::Payload {
            from: socket(number),
            bytes: &bytes,
        });
    }

    /// A refusal or a complaint, as the server would send it.
    fn kiss(&mut self, number: u8, code: &[u8; 4]) {
        let question = self.out.remove(&address(number)).expect("a question");
        self.give(Event::Payload {
            from: socket(number),
            bytes: &kiss(&question, code),
        });
    }

    fn wait(&mut self) {
        self.now = self.client.deadline().expect("something to wait for");
        self.give(Event::Timer);
    }

    fn errors_ms(&self) -> Vec<i64> {
        let rounded = |offset: &Offset| (offset.nanoseconds + 500_000).div_euclid(1_000_000);
        self.offsets.iter().map(rounded).collect()
    }
}

#[test]
fn one_answer_of_one_server_is_enough() {
    let mut scene = Scene::new(1);
    assert_eq!(scene.sent, [(s(3), address(1))], "at once");
    scene.now += Duration::from_millis(40);
    scene.answer(1, 7000);
    // The answer took 40 ms, and the server is taken to have stamped it halfway.
    assert_eq!(scene.errors_ms(), [7020]);
    let [offset] = scene.offsets[..] else {
        panic!("one");
    };
    assert_eq!(offset.delay, Duration::from_millis(40));
    assert_eq!((offset.stratum, offset.at), (2, scene.now));
    assert!(!scene.client.listens());
    let next = scene.client.deadline().unwrap();
    assert!(next >= s(3 + 64) && next <= s(3 + 72), "{next:?}");
}

#[test]
fn a_clock_that_is_set_meanwhile_does_not_matter() {
    let mut scene = Scene::new(1);
    scene.booted += s(86_400);
    scene.now += Duration::from_millis(10);
    scene.answer(1, 0);
    assert_eq!(scene.errors_ms(), [5]);
}

#[test]
fn the_burst_slows_down_and_the_silence_is_told() {
    let mut scene = Scene::new(1);
    while scene.sent.len() < 9 {
        scene.wait();
    }
    let waits: Vec<f64> = scene
        .sent
        .windows(2)
        .map(|pair| (pair[1].0 - pair[0].0).as_secs_f64())
        .collect();
    for (wait, base) in waits
        .iter()
        .zip([2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0])
    {
        assert!((base..=base * 1.25).contains(wait), "{waits:?}");
    }
    let silences = [4, 8].map(|rounds| Note::Silence { rounds });
    assert_eq!(scene.notes, silences);
}

#[test]
fn a_good_clock_is_asked_about_less_often_and_a_bad_one_more() {
    let mut scene = Scene::new(1);
    let mut polls = vec![];
    for ahead in [5000, 1, 1, 1, 1, 50, 300] {
        scene.answer(1, ahead);
        polls.push((scene.client.deadline().unwrap() - scene.now).as_secs() / 64);
        scene.wait();
    }
    assert_eq!(polls[0], 1);
    assert!((2..=16).contains(&polls[1]) && polls[4] >= 16 && polls[5] >= 16);
    assert_eq!(polls[6], 1, "{polls:?}");
}

#[test]
fn a_round_waits_a_second_for_the_others() {
    let mut scene = Scene::new(4);
    assert_eq!(scene.sent.len(), 4);
    scene.now += Duration::from_millis(20);
    scene.answer(2, 90_000);
    let heard = scene.now;
    scene.now += Duration::from_millis(20);
    scene.answer(1, 10);
    assert!(scene.offsets.is_empty());
    scene.now += Duration::from_millis(20);
    scene.answer(4, 12);
    assert_eq!(scene.client.deadline(), Some(heard + WINDOW));
    scene.wait();
    assert_eq!(scene.offsets.len(), 1);
    assert_ne!(scene.offsets[0].server, address(2), "the falseticker");
}

#[test]
fn who_agrees_is_told() {
    let mut scene = Scene::new(4);
    for (server, ahead) in [(1, 0), (2, 9_000_000), (3, 1), (4, 2)] {
        scene.answer(server, ahead);
    }
    let [offset] = scene.offsets[..] else {
        panic!("one");
    };
    let agreeing = offset.agreeing.into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(offset.answered, 4);
    assert_eq!(agreeing, [address(1), address(3), address(4)]);
}

#[test]
fn without_a_majority_there_is_no_result() {
    let mut scene = Scene::new(3);
    for (number, ahead) in [(1, 0), (2, 10_000), (3, 20_000)] {
        scene.answer(number, ahead);
    }
    assert!(scene.offsets.is_empty());
    assert_eq!(scene.notes, [Note::Disagreement { answers: 3 }]);
}

#[test]
fn a_complaint_is_heeded() {
    let mut scene = Scene::new(1);
    scene.kiss(1, b"RATE");
    let pause = s(128);
    let server = address(1);
    assert_eq!(scene.notes, [Note::TooOften { server, pause }]);
    while scene.sent.len() < 6 {
        scene.wait();
    }
    assert!(scene.sent.windows(2).all(|p| p[1].0 - p[0].0 >= pause));
}

#[test]
fn one_refusal_takes_no_server_away() {
    let mut scene = Scene::new(1);
    scene.kiss(1, b"DENY");
    let (server, pause) = (address(1), s(128));
    assert_eq!(scene.notes, [Note::Refused { server, pause }]);
    while scene.sent.len() < 2 {
        scene.wait();
    }
    assert!(scene.sent[1].0 - scene.sent[0].0 >= pause);
    scene.answer(1, 5000);
    assert_eq!(scene.errors_ms(), [5000]);
    // It has told the time since, so silence alone does not count against it.
    while scene.sent.len() < 20 {
        scene.wait();
    }
    let given_up = |note: &Note| matches!(note, Note::GivenUp { .. });
    assert!(!scene.notes.iter().any(given_up), "{:?}", scene.notes);
}

#[test]
fn a_server_that_refuses_and_never_tells_the_time_is_given_up() {
    for code in [b"DENY", b"RSTR"] {
        let mut scene = Scene::new(1);
        scene.kiss(1, code);
        while scene.client.deadline().is_some() {
            scene.wait();
        }
        assert_eq!(scene.sent.len(), usize::from(REACH));
        let server = address(1);
        assert!(scene.notes.contains(&Note::GivenUp { server }));
        // Named again, it is still given up; gone and back, it is asked.
        scene.give(Event::Servers(vec![address(1)]));
        assert_eq!(scene.client.deadline(), None);
        scene.give(Event::Servers(vec![]));
        scene.give(Event::Servers(vec![address(1)]));
        assert!(scene.client.deadline().is_some());
    }
}

#[test]
fn an_unsynchronised_server_is_told_and_asked_again() {
    let mut scene = Scene::new(1);
    let mut bytes = answer(&scene.out[&address(1)], FLOOR);
    bytes[0] |= 3 << 6;
    let from = socket(1);
    scene.give(Event::Payload {
        from,
        bytes: &bytes,
    });
    let why = Wrong::Unsynchronised;
    let server = address(1);
    assert_eq!(scene.notes, [Note::Unusable { server, why }]);
    scene.wait();
    assert_eq!(scene.sent.len(), 2);
    // An answer that took more than three seconds says too little.
    scene.now += Duration::from_millis(3500);
    scene.answer(1, 0);
    let why = Wrong::Distance;
    assert_eq!(scene.notes[1..], [Note::Unusable { server, why }]);
}

#[test]
fn only_the_server_itself_answers() {
    let mut scene = Scene::new(2);
    let good = answer(&scene.out[&address(1)], FLOOR + s(5000));
    let mut wrong = good.clone();
    wrong[24] ^= 1;
    let elsewhere = SocketAddr::new(address(1), 124);
    for (from, bytes) in [
        (socket(2), &good),
        (socket(9), &good),
        (elsewhere, &good),
        (socket(1), &wrong),
    ] {
        scene.give(Event::Payload { from, bytes });
    }
    assert!(scene.notes.is_empty() && scene.client.deadline() == Some(scene.client.due));
    scene.give(Event::Payload {
        from: socket(1),
        bytes: &good,
    });
    assert_eq!(
        scene.client.deadline(),
        Some(scene.now + WINDOW),
        "the real one"
    );
    // Once.
    scene.give(Event::Payload {
        from: socket(1),
        bytes: &good,
    });
    assert!(scene.offsets.is_empty());
}

#[test]
fn offline_nothing_is_sent_or_believed() {
    let mut scene = Scene::new(1);
    scene.give(Event::Online(false));
    assert_eq!(scene.client.deadline(), None);
    scene.answer(1, 0);
    assert!(scene.offsets.is_empty());
    // A network that comes back does not wait for a burst that has slowed down.
    scene.now += s(1);
    scene.give(Event::Online(true));
    assert_eq!(scene.client.deadline(), Some(s(5)));
}

#[test]
fn an_answer_may_be_a_second_and_a_half_from_the_truth_and_no_more() {
    // How long it took in microseconds, of which half counts, and the root dispersion in 65,536ths of a second: 1.5 s,
    // and 1.47 s.
    for (took, dispersion, usable) in [
        (0, [0, 1, 0x80, 0], true),
        (2, [0, 1, 0x80, 0], false),
        (40_000, [0, 1, 0x78, 0x51], true),
    ] {
        let mut scene = Scene::new(1);
        scene.now += Duration::from_micros(took);
        let mut bytes = answer(&scene.out[&address(1)], scene.booted + scene.now);
        bytes[8..12].copy_from_slice(&dispersion);
        let from = socket(1);
        let bytes = &bytes[..];
        scene.give(Event::Payload { from, bytes });
        scene.wait();
        assert_eq!(
            scene.offsets.len(),
            usize::from(usable),
            "{:?}",
            scene.notes
        );
    }
}

#[test]
fn after_a_round_no_answer_is_awaited() {
    let mut scene = Scene::new(2);
    scene.answer(1, 0);
    assert!(scene.client.listens());
    scene.wait();
    assert_eq!(scene.offsets.len(), 1);
    assert!(!scene.client.listens(), "the second one is late");
    scene.wait();
    assert!(scene.client.listens());
    scene.give(Event::Online(false));
    assert!(!scene.client.listens());
}

#[test]
fn to_be_told_again_that_it_is_online_hurries_nothing() {
    let mut scene = Scene::new(1);
    for _ in 0..4 {
        scene.wait();
    }
    let due = scene.client.deadline();
    assert!(due > Some(scene.now + s(10)));
    scene.give(Event::Online(true));
    assert_eq!(scene.client.deadline(), due);
    scene.now += s(5);
    scene.give(Event::Online(false));
    scene.give(Event::Online(true));
    assert_eq!(scene.sent.last(), Some(&(scene.now, address(1))));
}

#[test]
fn a_server_that_complains_is_left_alone_for_as_long_and_no_longer() {
    for (seconds, asked) in [(127, 1), (128, 2)] {
        let mut scene = Scene::new(1);
        scene.kiss(1, b"RATE");
        scene.give(Event::Online(false));
        scene.now += s(seconds);
        scene.give(Event::Online(true));
        assert_eq!(scene.sent.len(), asked, "{seconds}");
    }
}

#[test]
fn each_complaint_doubles_the_pause() {
    let mut scene = Scene::new(1);
    scene.kiss(1, b"RATE");
    while scene.sent.len() < 2 {
        scene.wait();
    }
    scene.kiss(1, b"RATE");
    let server = address(1);
    let pauses = [128, 256].map(|pause| Note::TooOften {
        server,
        pause: s(pause),
    });
    scene
        .notes
        .retain(|note| matches!(note, Note::TooOften { .. }));
    assert_eq!(scene.notes, pauses);
}

#[test]
fn servers_are_few_and_reachable() {
    let mut scene = Scene::new(0);
    let mut addresses: Vec<IpAddr> = ["0.0.0.0", "224.0.1.1", "255.255.255.255", "127.0.0.1"]
        .iter()
        .chain(&["::", "::1", "ff05::101", "fe80::1", "::ffff:10.0.0.1"])
        .map(|text| text.parse().unwrap())
        .collect();
    scene.give(Event::Servers(addresses.clone()));
    assert_eq!(scene.client.deadline(), None);
    addresses.extend([1, 1, 2, 3, 4, 5].map(address));
    scene.give(Event::Servers(addresses));
    let asked: Vec<IpAddr> = scene.sent.iter().map(|(_, to)| *to).collect();
    assert_eq!(asked, [1, 2, 3, 4].map(address));
}

/// What may happen next.
#[derive(Debug, Clone)]
enum Step {
    Wait,
    Pass(u64),
    Online(bool),
    Servers(Vec<u8>),
    Answer(u8, i64),
    Kiss(u8, [u8; 4]),
    /// Bytes of anybody, with a mode and a length that are often right.
    Noise(u8, Vec<u8>),
    /// The last question's answer with one bit of its number changed.
    Forged(u8, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let server = 1u8..7;
    let step = prop_oneof![
        4 => Just(Step::Wait),
        2 => (0u64..3000).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Online),
        1 => proptest::collection::vec(0u8..7, 0..6).prop_map(Step::Servers),
        4 => (server.clone(), any::<i32>()).prop_map(|(n, a)| Step::Answer(n, a.into())),
        1 => (server.clone(), proptest::sample::select(vec![*b"DENY", *b"RATE", *b"STEP"]))
            .prop_map(|(n, code)| Step::Kiss(n, code)),
        2 => (server.clone(), proptest::collection::vec(any::<u8>(), 40..52)).prop_map(|(n, mut b)| {
            b[0] = 0x24;
            Step::Noise(n, b)
        }),
        2 => (server, 0usize..64).prop_map(|(n, bit)| Step::Forged(n, bit)),
    ];
    proptest::collection::vec(step, 0..80)
}

/// Plays, checks what must always hold, and gives all actions.
fn play(seed: u64, steps: &[Step]) -> Result<Vec<(Duration, Action)>, TestCaseError> {
    let mut client = Client::new(Rng::new(seed), s(1), FLOOR);
    let (mut now, booted) = (s(1), FLOOR + s(40_000_000));
    let mut questions: BTreeMap<IpAddr, Vec<u8>> = BTreeMap::new();
    let mut answered: Vec<IpAddr> = vec![];
    let mut all: Vec<(Duration, Action)> = vec![];
    for step in steps {
        let mut bytes = vec![];
        let mut good = None;
        let question = |n: &u8| {
            questions
                .get(&address(*n))
                .cloned()
                .unwrap_or_else(|| vec![0; 48])
        };
        let event = match step {
            Step::Wait => {
                now = client.deadline().unwrap_or(now);
                Event::Timer
            }
            Step::Pass(ms) => {
                now += Duration::from_millis(*ms);
                Event::Timer
            }
            Step::Online(online) => Event::Online(*online),
            Step::Servers(list) => Event::Servers(list.iter().map(|n| address(*n)).collect()),
            Step::Answer(n, ahead_ms) => {
                let ahead = Duration::from_millis(ahead_ms.unsigned_abs());
                let wall = booted + now;
                let time = if *ahead_ms < 0 {
                    wall - ahead
                } else {
                    wall + ahead
                };
                bytes = answer(&question(n), time);
                good = Some(address(*n));
                Event::Payload {
                    from: socket(*n),
                    bytes: &bytes,
                }
            }
            Step::Kiss(n, code) => {
                bytes = kiss(&question(n), code);
                Event::Payload {
                    from: socket(*n),
                    bytes: &bytes,
                }
            }
            Step::Noise(n, noise) => Event::Payload {
                from: socket(*n),
                bytes: noise,
            },
            Step::Forged(n, bit) => {
                bytes = answer(&question(n), booted + now);
                bytes[24 + bit / 8] ^= 1 << (bit % 8);
                Event::Payload {
                    from: socket(*n),
                    bytes: &bytes,
                }
            }
        };
        let harmless = matches!(step, Step::Noise(..) | Step::Forged(..));
        let before = format!("{:?}", (&client.servers, client.phase));
        let due = client.deadline().is_some_and(|deadline| deadline <= now);
        let actions = client.step(now, booted + now, event);
        if harmless && !due {
            prop_assert!(actions.is_empty(), "{step:?} {actions:?}");
            let after = format!("{:?}", (&client.servers, client.phase));
            prop_assert_eq!(before, after, "a stranger moved something");
        }
        answered.extend(good.filter(|server| questions.contains_key(server)));
        for action in actions {
            match &action {
                Action::Send { to, bytes } => {
                    prop_assert_eq!(bytes.len(), packet::LENGTH);
                    questions.insert(*to, bytes.clone());
                }
                Action::Offset(offset) => {
                    prop_assert!(answered.contains(&offset.server), "nobody said so");
                    prop_assert!(offset.at <= now && offset.delay <= s(3));
                }
                Action::Note(_) => {}
            }
            all.push((now, action));
        }
        prop_assert!(client.deadline().is_none_or(|deadline| deadline > now));
        prop_assert!(client.servers.len() <= SERVERS);
    }
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens(seed: u64, steps in steps()) {
        let all = play(seed, &steps)?;
        prop_assert_eq!(&all, &play(seed, &steps)?, "the same again");
        let sent: Vec<(Duration, &Vec<u8>)> = all
            .iter()
            .filter_map(|(at, action)| match action {
                Action::Send { bytes, .. } => Some((*at, bytes)),
                _ => None,
            })
            .collect();
        // The bucket's burst and a minute's refill.
        for (at, _) in &sent {
            let minute = sent.iter().filter(|(other, _)| other >= at && *other < *at + s(60));
            prop_assert!(minute.count() <= 25);
        }
        let mut numbers: Vec<&Vec<u8>> = sent.iter().map(|(_, bytes)| *bytes).collect();
        numbers.sort();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), sent.len(), "a number was used twice");
        // Once there was a result, rounds are at least a minute apart.
        let first = all.iter().position(|(_, action)| matches!(action, Action::Offset(_)));
        let after: Vec<Duration> = all[first.unwrap_or(all.len())..]
            .iter()
            .filter(|(_, action)| matches!(action, Action::Send { .. }))
            .map(|(at, _)| *at)
            .collect();
        prop_assert!(after.windows(2).all(|p| p[0] == p[1] || p[1] - p[0] >= MIN_POLL), "{after:?}");
    }

    /// Three honest servers and one liar, answers in any order and with any delays of a path: the
    /// liar is never the one believed, and the result is as good as the path.
    #[test]
    fn a_liar_never_wins(
        lie in prop_oneof![-4_000_000i64..-3_000, 3_000i64..4_000_000],
        liar in 1u8..5,
        delays in proptest::collection::vec(0u64..200, 4),
    ) {
        let mut scene = Scene::new(4);
        for number in 1..=4u8 {
            scene.now += Duration::from_millis(delays[usize::from(number - 1)]);
            scene.answer(number, if number == liar { lie } else { 0 });
        }
        prop_assert_eq!(scene.offsets.len(), 1);
        prop_assert_ne!(scene.offsets[0].server, address(liar));
        prop_assert!(scene.offsets[0].nanoseconds.abs() <= 400_000_000);
    }

    /// Somebody on the path answers most questions with a refusal before the server can. A server that gets through
    /// with the time once in seven questions is asked for good, and its time is taken each time.
    #[test]
    fn refusals_do_not_take_away_a_server_that_tells_the_time(
        forged in proptest::collection::vec((0u8..REACH - 1, any::<bool>()), 1..30),
    ) {
        let mut scene = Scene::new(1);
        for (count, code) in forged {
            for _ in 0..count {
                scene.kiss(1, if code { b"DENY" } else { b"RSTR" });
                let asked = scene.sent.len();
                while scene.sent.len() == asked {
                    scene.wait();
                }
            }
            let told = scene.offsets.len();
            scene.answer(1, 0);
            prop_assert_eq!(scene.offsets.len(), told + 1);
            let asked = scene.sent.len();
            while scene.sent.len() == asked {
                scene.wait();
            }
            let waits = scene.sent.windows(2).map(|p| p[1].0 - p[0].0);
            prop_assert!(waits.max() <= Some(MAX_POLL * 3), "it is hardly asked");
        }
    }
}
