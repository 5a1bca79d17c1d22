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
    let step = decide(&mut clock, 5, BUILT, year * SECOND);
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

    /// Whatever netcfg says: at most one step, forward, to a possible time; nothing within sixteen
    /// seconds of another; nothing beyond an hour by slewing.
    #[test]
    fn whatever_is_said_the_policy_holds(
        start in 0u64..4_000_000_000,
        said in proptest::collection::vec((offsets(), 0u64..100, -20i64..20), 0..60),
    ) {
        let mut clock = Clock::new(BUILT);
        let mut wall = s(start);
        wall += clock.missing(wall).unwrap_or_default();
        let (mut now, mut last, mut settled) = (s(30), None::<Time>, false);
        for (offset, wait, age) in said {
            now += s(wait);
            wall += s(wait);
            let at = s(now.as_secs().saturating_add_signed(-age));
            let decision = clock.decide(now, wall, &measured(offset, at));
            match decision {
                Decision::Step(forward) => {
                    prop_assert!(!settled, "a step after the first good offset");
                    prop_assert!(forward > STEP_MIN);
                    wall += forward;
                    prop_assert!(wall >= BUILT && wall <= BUILT + LIFE);
                }
                Decision::Slew(by) => prop_assert!(Time::from_nanos(by.unsigned_abs()) <= SLEW_MAX),
                Decision::Refuse(_) | Decision::Pass => continue,
            }
            prop_assert!(at <= now && now - at <= FRESH);
            prop_assert!(last.is_none_or(|last| now - last >= PACE && at > last));
            settled = true;
            last = Some(now);
        }
    }
}
