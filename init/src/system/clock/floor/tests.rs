//! The kept time: where a clock begins, what is kept, and how a wrong one is mended.

use super::super::{Decision, LIFE, Measured};
use super::*;
use proptest::prelude::*;

/// 2025-01-01.
const BUILT: Time = Time::from_secs(1_735_689_600);
const DAY: Time = Time::from_secs(86_400);
const HOUR: Time = Time::from_secs(3_600);

fn s(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

/// A measurement of the true time, by so many servers of which so many are configured.
fn measured(wall: Time, truth: Time, now: Time, servers: u64, configured: u64) -> Measured {
    let behind =
        i128::try_from(truth.as_nanos()).unwrap() - i128::try_from(wall.as_nanos()).unwrap();
    Measured {
        offset: i64::try_from(behind).unwrap(),
        delay: Time::from_millis(1),
        at: now,
        server: "192.0.2.1".into(),
        servers,
        agreeing: servers,
        configured,
    }
}

#[test]
fn the_clock_begins_at_the_kept_time_if_that_is_later_and_possible() {
    let clock = Clock::new(BUILT);
    let kept = BUILT + DAY * 100;
    assert_eq!(clock.missing_of(kept, BUILT), Some(DAY * 100));
    assert_eq!(clock.missing_of(kept, kept), None);
    assert_eq!(
        clock.missing_of(kept, kept + s(1)),
        None,
        "a battery clock that runs"
    );
    assert_eq!(
        clock.missing_of(BUILT - s(1), Time::ZERO),
        None,
        "before the build"
    );
    assert_eq!(clock.missing_of(BUILT + LIFE + s(1), BUILT), None);
    assert_eq!(clock.missing_of(Time::MAX, BUILT), None);
}

#[test]
fn a_kept_time_that_cannot_be_right_is_told_and_moves_nothing() {
    let kept = BUILT + LIFE + s(1);
    let (mut clock, mut told) = (Clock::new(BUILT), Vec::new());
    clock.begin_at(Ok(Some(kept)), &mut told);
    let names: Vec<&str> = told.iter().map(Event::name).collect();
    assert_eq!(names, ["clock.warning"], "{told:?}");
    assert_eq!(
        told[0].field("kept"),
        Some(kept.as_secs().to_string().as_str())
    );
    assert!(!clock.unset);
}

#[test]
fn what_one_source_asked_for_is_not_kept_and_the_rest_once_a_day() {
    let follows = |servers, configured| {
        let mut clock = Clock::new(BUILT);
        assert!(!clock.is_to_keep(s(1)), "nobody has told the time yet");
        let step = measured(BUILT, BUILT + HOUR, s(5), servers, configured);
        assert_eq!(clock.decide(s(5), BUILT, &step), Decision::Step(HOUR));
        clock
    };
    assert!(!follows(1, 0).is_to_keep(s(5)));
    assert!(
        !follows(3, 0).is_to_keep(s(5)),
        "three servers of a lease are one source"
    );
    let mut clock = follows(2, 2);
    let kept: Vec<u64> = (5..=2 * 86_400 + 5)
        .filter(|at| clock.is_to_keep(s(*at)))
        .collect();
    assert_eq!(kept, [5, 86_405, 172_805]);
}

#[test]
fn what_is_written_is_read_and_what_is_no_number_is_an_error() {
    let root = std::env::temp_dir().join(format!("init-test-floor-{}", std::process::id()));
    std::fs::create_dir_all(root.join("state")).unwrap();
    let owner = rustix::process::geteuid().as_raw();
    let folder = || StateDir::open_below(&root, "state", owner);
    assert_eq!(read(folder()), Ok(None));
    write(&folder().unwrap(), 1_735_689_600).unwrap();
    assert_eq!(read(folder()), Ok(Some(BUILT)));
    for wrong in ["-1", "x", "99999999999999999999", "\u{0}"] {
        folder().unwrap().write(CLOCK, wrong.as_bytes()).unwrap();
        assert!(read(folder()).unwrap_err().contains("no number of seconds"));
    }
    std::fs::remove_dir_all(root).unwrap();
}

proptest! {
    /// Whatever was kept, the clock goes forward only, and to nothing but a possible time that was kept.
    #[test]
    fn no_kept_time_takes_the_clock_back_or_out_of_bounds(kept in any::<u64>(), wall in 0u64..8_000_000_000) {
        let clock = Clock::new(BUILT);
        if let Some(forward) = clock.missing_of(s(kept), s(wall)) {
            prop_assert_eq!(s(wall) + forward, s(kept));
            prop_assert!(!forward.is_zero() && s(kept) >= BUILT && s(kept) <= BUILT + LIFE);
        }
    }

    /// A kept time that is years ahead locks nobody out: the servers that may mend a clock set it back once, and what
    /// it shows then is kept at once, so the next boot begins right.
    #[test]
    fn a_wrong_kept_time_is_mended_by_those_who_may(
        ahead in 3_601u64..LIFE.as_secs() / 2,
        truth in 0u64..LIFE.as_secs() / 2,
        majority in any::<bool>(),
    ) {
        let (truth, kept) = (BUILT + s(truth), BUILT + s(truth) + s(ahead));
        let mut clock = Clock::new(BUILT);
        let mut wall = truth;
        if let Some(forward) = clock.missing_of(kept, wall) {
            clock.unset = true;
            wall += forward;
        }
        prop_assert_eq!(wall, kept);
        let alone = measured(wall, truth, s(5), 1, 1);
        prop_assert!(matches!(clock.decide(s(5), wall, &alone), Decision::Refuse(_)));
        prop_assert!(!clock.is_to_keep(s(5)), "a time that the servers deny is not kept again");
        let (servers, configured) = if majority { (3, 1) } else { (2, 2) };
        let mends = measured(wall, truth, s(70), servers, configured);
        prop_assert_eq!(clock.decide(s(70), wall, &mends), Decision::StepBack(s(ahead)));
        wall -= s(ahead);
        prop_assert_eq!(wall, truth);
        prop_assert!(clock.is_to_keep(s(70)));
        let again = measured(wall, wall - HOUR * 2, s(140), servers, configured);
        prop_assert!(matches!(clock.decide(s(140), wall, &again), Decision::Refuse(_)));
    }
}
