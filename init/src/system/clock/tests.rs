//! The policy against honest measurements, and against a netcfg that says anything.

use super::*;
use proptest::prelude::*;

/// 2025-01-01.
const BUILT: Time = Time::from_secs(1_735_689_600);
const DAY: Time = Time::from_secs(86_400);
const SECOND: i64 = 1_000_000_000;

fn s(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

fn event(offset: i64, at: Time) -> Event {
    Event::new("net.time")
        .with("server", "192.0.2.1")
        .with("offset_ns", offset)
        .with("delay_us", 900)
        .with("stratum", 2)
        .with("at_ns", at.as_nanos())
        .with("servers", 1)
        .with("agreeing", 1)
        .with("configured", 0)
}

/// So many servers answered, agree, and are configured.
type Voices = (u64, u64, u64);

/// One server of a lease.
const LEASE: Voices = (1, 1, 0);
const CONFIGURED: Voices = (1, 1, 1);
const MAJORITY: Voices = (3, 2, 0);
const TWO_CONFIGURED: Voices = (2, 2, 2);
const MIXED_MAJORITY: Voices = (3, 2, 1);

fn said(offset: i64, at: Time, (servers, agreeing, configured): Voices) -> Measured {
    Measured {
        servers,
        agreeing,
        configured,
        ..measured(offset, at)
    }
}

fn decide_by(clock: &mut Clock, now: u64, wall: Time, offset: i64, voices: Voices) -> Decision {
    clock.decide(s(now), wall, &said(offset, s(now), voices))
}

fn measured(offset: i64, at: Time) -> Measured {
    Measured::read(&event(offset, at)).unwrap()
}

fn decide(clock: &mut Clock, now: u64, wall: Time, offset: i64) -> Decision {
    clock.decide(s(now), wall, &measured(offset, s(now)))
}

#[test]
fn a_clock_from_before_the_build_is_set_to_it() {
    let clock = Clock::new(BUILT);
    assert_eq!(clock.missing(Time::ZERO), Some(BUILT));
    assert_eq!(clock.missing(BUILT - s(1)), Some(s(1)));
    assert_eq!(clock.missing(BUILT), None);
    assert_eq!(clock.missing(BUILT + DAY), None);
}

#[test]
fn the_first_offset_sets_the_clock_and_later_ones_do_not() {
    let mut clock = Clock::new(BUILT);
    let year = 365 * 86_400;
    let step = decide_by(&mut clock, 5, BUILT, year * SECOND, CONFIGURED);
    assert_eq!(step, Decision::Step(DAY * 365));
    let wall = BUILT + DAY * 365;
    assert_eq!(decide(&mut clock, 70, wall, SECOND), Decision::Slew(SECOND));
    assert!(matches!(
        decide(&mut clock, 140, wall, year * SECOND),
        Decision::Refuse(_)
    ));
}

#[test]
fn a_small_first_offset_is_the_first_as_well() {
    let mut clock = Clock::new(BUILT);
    let small = 100_000_000;
    assert_eq!(decide(&mut clock, 5, BUILT, small), Decision::Slew(small));
    let later = decide(&mut clock, 70, BUILT, 9 * SECOND);
    assert_eq!(later, Decision::Slew(9 * SECOND));
}

#[test]
fn backward_the_clock_is_only_slewed() {
    let mut clock = Clock::new(BUILT);
    let wall = BUILT + DAY;
    let hour = 3600 * SECOND;
    assert_eq!(decide(&mut clock, 5, wall, -hour), Decision::Slew(-hour));
    assert!(matches!(
        decide(&mut clock, 70, wall, -hour - 1),
        Decision::Refuse(_)
    ));
    // What is not followed does not count as the first one.
    let mut clock = Clock::new(BUILT);
    let refused = decide(&mut clock, 5, wall, -hour - 1);
    assert!(matches!(refused, Decision::Refuse(_)));
    assert_eq!(decide(&mut clock, 6, wall, hour), Decision::Step(s(3600)));
}

#[test]
fn impossible_times_are_refused_and_do_not_count_as_first() {
    let mut clock = Clock::new(BUILT);
    for offset in [-2 * SECOND, i64::MIN, i64::MAX, 31 * 366 * 86_400 * SECOND] {
        assert!(matches!(
            decide(&mut clock, 5, BUILT + s(1), offset),
            Decision::Refuse(_)
        ));
    }
    let step = decide(&mut clock, 6, BUILT + s(1), SECOND);
    assert_eq!(step, Decision::Step(s(1)));
}

#[test]
fn a_measurement_counts_only_while_it_is_of_the_present_clock() {
    let mut clock = Clock::new(BUILT);
    let wall = BUILT + DAY;
    let mut at = |now, at| clock.decide(s(now), wall, &measured(SECOND, s(at)));
    assert_eq!(at(100, 83), Decision::Pass, "old");
    assert_eq!(at(100, 101), Decision::Pass, "of the future");
    assert_eq!(at(100, 90), Decision::Step(s(1)));
    // Measured before the clock was set, or too soon after.
    assert_eq!(at(110, 99), Decision::Pass);
    assert_eq!(at(115, 115), Decision::Pass);
    assert_eq!(at(116, 100), Decision::Pass);
    assert_eq!(at(116, 116), Decision::Slew(SECOND));
}

#[test]
fn a_malformed_word_is_told_once_an_hour() {
    let good = event(1, s(1));
    assert!(Measured::read(&good).is_some());
    for (servers, agreeing, configured) in [(0, 0, 0), (1, 0, 0), (1, 2, 0), (2, 1, 2)] {
        let event = Event::new("net.time")
            .with("servers", servers)
            .with("agreeing", agreeing)
            .with("configured", configured);
        let fields = good.fields().filter(|(key, _)| event.field(key).is_none());
        let event = fields.fold(event.clone(), |event, (key, value)| {
            event.with(key.to_owned(), value)
        });
        assert_eq!(Measured::read(&event), None, "{event:?}");
    }
    for bad in [
        Event::new("net.time"),
        Event::new("net.time").with("offset_ns", "1e9"),
        good.clone().with("at_ns", "").with("x", ""),
    ] {
        // The last has its fields twice; the first of each counts.
        assert_eq!(Measured::read(&bad).is_some(), bad.field("x").is_some());
    }
    let form = |stratum: &str, delay: &str| {
        Event::new("net.time")
            .with("server", "x")
            .with("offset_ns", 1)
            .with("delay_us", delay)
            .with("stratum", stratum)
            .with("at_ns", 1)
            .with("servers", 1)
            .with("agreeing", 1)
            .with("configured", 0)
    };
    assert!(Measured::read(&form("1", "3000000")).is_some());
    for (stratum, delay) in [("0", "1"), ("16", "1"), ("1", "3000001"), ("1", "-1")] {
        assert_eq!(Measured::read(&form(stratum, delay)), None);
    }
    let mut told: Vec<Event> = Vec::new();
    let mut clock = Clock::new(BUILT);
    for now in [1, 2, 3600, 3601] {
        clock.take(&Event::new("net.time"), s(now), &mut told);
    }
    assert_eq!(told.len(), 2);
}

#[test]
fn one_server_of_a_lease_moves_a_right_clock_by_a_day_at_most() {
    let day = 86_400 * SECOND;
    for voices in [LEASE, (2, 2, 0), (4, 2, 0)] {
        let mut clock = Clock::new(BUILT);
        let far = decide_by(&mut clock, 5, BUILT, day + 1, voices);
        assert!(matches!(far, Decision::Refuse(_)), "{voices:?}");
        let near = decide_by(&mut clock, 6, BUILT, day, voices);
        assert_eq!(near, Decision::Step(DAY));
    }
    for voices in [CONFIGURED, MAJORITY, TWO_CONFIGURED] {
        let mut clock = Clock::new(BUILT);
        let far = decide_by(&mut clock, 5, BUILT, 400 * day, voices);
        assert_eq!(far, Decision::Step(DAY * 400), "{voices:?}");
    }
    // Without a battery the clock is known to be wrong.
    let mut clock = Clock::new(BUILT);
    clock.unset = true;
    let far = decide_by(&mut clock, 5, BUILT, 400 * day, LEASE);
    assert_eq!(far, Decision::Step(DAY * 400));
}

#[test]
fn a_clock_that_was_put_years_ahead_is_mended_at_the_next_boot() {
    let wall = BUILT + DAY * 10_000;
    let back = -9_000 * 86_400 * SECOND;
    for voices in [LEASE, CONFIGURED, (2, 2, 1), (4, 2, 0)] {
        let refused = decide_by(&mut Clock::new(BUILT), 5, wall, back, voices);
        assert!(matches!(refused, Decision::Refuse(_)), "{voices:?}");
    }
    for voices in [MAJORITY, TWO_CONFIGURED, MIXED_MAJORITY] {
        let mut clock = Clock::new(BUILT);
        let step = decide_by(&mut clock, 5, wall, back, voices);
        assert_eq!(step, Decision::StepBack(DAY * 9_000), "{voices:?}");
        // Once a boot, and never to before the build.
        let again = decide_by(&mut clock, 70, wall, back, voices);
        assert!(matches!(again, Decision::Refuse(_)));
        let early = decide_by(&mut Clock::new(BUILT), 5, wall, back * 2, voices);
        assert!(matches!(early, Decision::Refuse(_)));
    }
}

#[test]
fn the_battery_clock_keeps_no_long_step_that_one_source_made() {
    let minutes = 600 * SECOND;
    for (voices, kept) in [
        (LEASE, false),
        (MAJORITY, false),
        (CONFIGURED, false),
        (TWO_CONFIGURED, true),
        (MIXED_MAJORITY, true),
    ] {
        let mut clock = Clock::new(BUILT);
        let step = said(minutes, s(5), voices);
        assert_eq!(clock.decide(s(5), BUILT, &step), Decision::Step(s(600)));
        let proven = Synchronised::Within(step.delay);
        let told = |clock: &Clock| clock.synchronised(&step) == proven;
        assert_eq!(told(&clock), kept, "{voices:?}");
        // Neither do small corrections after it prove it, unless others say so.
        let _ = decide_by(&mut clock, 70, BUILT, 1000, voices);
        assert_eq!(told(&clock), kept, "{voices:?}");
        let _ = decide_by(&mut clock, 140, BUILT, 1000, TWO_CONFIGURED);
        assert!(told(&clock));
    }
    let mut clock = Clock::new(BUILT);
    let _ = decide_by(&mut clock, 5, BUILT, 60 * SECOND, LEASE);
    assert!(!clock.unproven, "an honest server slews that back");
}

/// Counts that [`Measured::read`] lets through.
fn voices() -> impl Strategy<Value = Voices> {
    (1u64..5)
        .prop_flat_map(|servers| (Just(servers), 1..=servers))
        .prop_flat_map(|(servers, agreeing)| (Just(servers), Just(agreeing), 0..=agreeing))
}

fn offsets() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        any::<i32>().prop_map(|o| i64::from(o) * 1000),
        any::<i32>().prop_map(|o| i64::from(o) * 1_000_000),
        any::<i32>().prop_map(|o| i64::from(o) * SECOND / 4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..Default::default() })]

    /// Whatever netcfg says: at most one step, to a possible time, back only by several servers; nothing within
    /// sixteen seconds of another; nothing beyond an hour by slewing; the battery clock keeps no long
    /// step of one source.
    #[test]
    fn whatever_is_said_the_policy_holds(
        start in 0u64..4_000_000_000,
        words in proptest::collection::vec((offsets(), 0u64..100, -20i64..20, voices()), 0..60),
    ) {
        let mut clock = Clock::new(BUILT);
        let mut wall = s(start);
        wall += clock.missing(wall).unwrap_or_default();
        let (mut now, mut last, mut settled) = (s(30), None::<Time>, false);
        let mut long = false;
        for (offset, wait, age, voices) in words {
            now += s(wait);
            wall += s(wait);
            let at = s(now.as_secs().saturating_add_signed(-age));
            let measured = said(offset, at, voices);
            let decision = clock.decide(now, wall, &measured);
            match decision {
                Decision::Step(forward) => {
                    prop_assert!(!settled, "a step after the first good offset");
                    prop_assert!(forward > STEP_MIN);
                    prop_assert!(forward <= ALONE_MAX || voices.2 > 0 || voices.1 * 2 > voices.0 && voices.0 > 2);
                    wall += forward;
                    prop_assert!(wall >= BUILT && wall <= BUILT + LIFE);
                    long = forward > PROVEN_MAX;
                }
                Decision::StepBack(by) => {
                    prop_assert!(!settled && voices.1 >= 2);
                    wall = wall.saturating_sub(by);
                    prop_assert!(wall >= BUILT);
                    long = true;
                }
                Decision::Slew(by) => prop_assert!(Time::from_nanos(by.unsigned_abs()) <= SLEW_MAX),
                Decision::Refuse(_) | Decision::Pass => continue,
            }
            prop_assert!(at <= now && now - at <= FRESH);
            prop_assert!(last.is_none_or(|last| now - last >= PACE && at > last));
            let proven = voices.2 >= 1 && voices.1 >= 2 && (voices.2 >= 2 || voices.0 >= 3);
            long = long && !proven;
            prop_assert!(!long || clock.synchronised(&measured) == Synchronised::Unproven);
            settled = true;
            last = Some(now);
        }
    }
}
