//! Time in which the machine was observed.
//!
//! A machine can stand still: a paused VM, a suspended host, a PID 1 that gets no processor. The clock of
//! the services (`CLOCK_BOOTTIME`) goes on meanwhile, or jumps. Nobody has failed in that time, and nobody
//! has proved to be well either, so it counts neither towards a timeout nor as health.
//!
//! The loop knows when it wanted to wake up. One that wakes up more than [`LEAP`] later was not there, and
//! the whole time since it last looked is a **gap**. Everybody who waits for minutes asks an
//! [`ObservedTime`]: the core gives a gap back to its services, the machine's own waits (a trial, lasting
//! health, the network, the stop of everything) run in observed time, which has no gaps.
//!
//! A machine that stands still again and again, such as one whose PID 1 is always some seconds late, must not have all
//! its waits last for ever. So from one gap to the end of the next [`LOOK_INTERVAL`] counts in any case, which is what a
//! stop may add unnoticed anyway, but no more than up to the deadline that was missed: it is due when the gap ends, and
//! nothing is overdue.
//!
//! Only a deadline that was missed shows a gap. Whoever waits long and wants to notice short ones wakes up
//! in between; see [`ObservedTime::next_look`].

use crate::Time;
use crate::event::Event;
use std::time::Duration;

/// A deadline that is noticed later than this was missed by the machine, not by a service: the event loop
/// takes milliseconds, a paused VM takes seconds.
pub const LEAP: Duration = Duration::from_secs(2);

/// How often a loop looks that has something to observe. A gap up to this long and [`LEAP`] is not noticed.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ObservedTime {
    /// When the last look was.
    last: Time,
    /// When the next was to be, at the latest.
    due: Option<Time>,
    /// All gaps together.
    unobserved: Time,
    /// Observed since the last gap; none if there was no gap yet.
    since_gap: Option<Time>,
}

impl ObservedTime {
    /// Somebody looks, at this time. Gives the gap that ends now, if there was one.
    pub fn look(&mut self, now: Time) -> Option<Time> {
        let last = std::mem::replace(&mut self.last, now);
        let passed = now.saturating_sub(last);
        let missed = self.due.take().filter(|due| now > due.saturating_add(LEAP));
        let Some(due) = missed else {
            self.since_gap = self.since_gap.map(|since| since.saturating_add(passed));
            return None;
        };
        let counted = self
            .since_gap
            .map_or(Time::ZERO, |since| LOOK_INTERVAL.saturating_sub(since))
            .min(due.saturating_sub(last));
        let gap = passed.saturating_sub(counted);
        self.unobserved = self.unobserved.saturating_add(gap);
        self.since_gap = Some(Time::ZERO);
        Some(gap)
    }

    /// The next look is to be at this time, at the latest; at any time if there is none.
    pub fn wait_until(&mut self, due: Option<Time>) {
        self.due = due;
    }

    /// When a loop that observes something has to look next, whatever else it waits for.
    #[must_use]
    pub fn next_look(&self) -> Time {
        self.last.saturating_add(LOOK_INTERVAL)
    }

    /// The time of the last look, without the gaps before it.
    #[must_use]
    pub fn now(&self) -> Time {
        self.last.saturating_sub(self.unobserved)
    }

    /// What an observed time is by the clock, if no further gap comes before it.
    #[must_use]
    pub fn by_clock(&self, observed: Time) -> Time {
        observed.saturating_add(self.unobserved)
    }

    /// All gaps so far.
    #[must_use]
    pub fn unobserved(&self) -> Time {
        self.unobserved
    }
}

/// Tells that the machine stood still for so long.
#[must_use]
pub fn gap_event(gap: Time) -> Event {
    Event::new("time.gap")
        .with_ms("gap_ms", gap)
        .with("then", "given back to whoever was being waited for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn a_deadline_that_is_missed_by_more_than_the_leap_shows_a_gap() {
        let mut time = ObservedTime::default();
        assert_eq!(time.look(at(10_000)), None, "nobody waited");
        time.wait_until(Some(at(15_000)));
        assert_eq!(
            time.look(at(17_000)),
            None,
            "late, but not by more than LEAP"
        );
        assert_eq!(time.now(), at(17_000));
        time.wait_until(Some(at(22_000)));
        assert_eq!(time.look(at(24_001)), Some(at(7_001)));
        assert_eq!((time.now(), time.unobserved()), (at(17_000), at(7_001)));
        assert_eq!(time.by_clock(at(18_000)), at(25_001));
        assert_eq!(time.look(at(900_000)), None, "nobody waited");
        assert_eq!(time.now(), at(892_999));
    }

    #[test]
    fn who_is_always_late_gets_only_a_part_of_the_time_back() {
        let mut time = ObservedTime::default();
        let mut clock = 0;
        for _ in 0..100 {
            time.wait_until(Some(time.next_look()));
            clock += 10_000;
            time.look(at(clock));
        }
        // Five of each ten seconds count, but for the first.
        assert_eq!(time.now(), at(99 * 5_000));
    }

    proptest! {
        /// However often the machine stands still: from one gap to the end of the next there is an interval of observed
        /// time. So what is given back is at most the longest of the stops for each of these intervals.
        #[test]
        fn what_is_given_back_is_bounded_by_what_was_observed(
            course in proptest::collection::vec((1u64..6_000, 0u64..20_000), 1..200),
        ) {
            let mut time = ObservedTime::default();
            let (mut clock, mut gaps, mut longest) = (0, 0u32, Time::ZERO);
            time.look(at(0));
            for (awake, stopped) in course {
                time.wait_until(Some(time.next_look()));
                clock += awake + stopped;
                if let Some(gap) = time.look(at(clock)) {
                    gaps += 1;
                    longest = longest.max(gap);
                }
            }
            prop_assert!(time.now() >= LOOK_INTERVAL.saturating_mul(gaps.saturating_sub(1)));
            prop_assert!(time.unobserved() <= longest.saturating_mul(gaps));
            prop_assert_eq!(time.now() + time.unobserved(), at(clock));
        }

        /// No deadline passes inside a gap: what is next in observed time when it ends is at most the deadline itself.
        #[test]
        fn a_deadline_is_never_overdue_after_a_gap(
            course in proptest::collection::vec((0u64..10_000, 0u64..20_000), 1..200),
        ) {
            let mut time = ObservedTime::default();
            let mut clock = 0;
            time.look(at(0));
            for (wait, late) in course {
                let due = time.now() + at(wait);
                time.wait_until(Some(time.by_clock(due)));
                clock += wait + late;
                if time.look(at(clock)).is_some() {
                    prop_assert!(time.now() <= due);
                }
            }
        }

        /// Observed time goes on as the clock does while looks are punctual, and a stop of any length adds
        /// at most what passes unnoticed.
        #[test]
        fn a_stop_adds_no_more_than_an_interval_and_a_leap(
            course in proptest::collection::vec((1u64..5000, 0u64..20_000_000), 1..50),
        ) {
            let mut time = ObservedTime::default();
            let (mut clock, mut before) = (0, Time::ZERO);
            time.look(at(0));
            for (awake, stopped) in course {
                time.wait_until(Some(time.next_look()));
                clock += awake + stopped;
                time.look(at(clock));
                let passed = time.now() - before;
                prop_assert!(passed <= LOOK_INTERVAL + LEAP);
                if stopped == 0 {
                    prop_assert_eq!(passed, at(awake));
                }
                before = time.now();
                prop_assert_eq!(time.by_clock(time.now()), at(clock));
            }
        }
    }
}
