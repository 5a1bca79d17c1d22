//! When to send again: RFC 8415, section 15, with the constants of its section 7.6.
//!
//! The random delays of up to a second before the first SOLICIT, CONFIRM and INFORMATION-REQUEST
//! (SOL_MAX_DELAY and its like) are left out: they protect a building full of desktops after a
//! power cut, and cost each of our boots half a second. Retries are jittered as they should be.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::rng::Rng;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How one kind of message is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// IRT: the first wait.
    pub first: Duration,
    /// MRT: the longest wait.
    pub longest: Duration,
    /// Whether the first wait is never shorter than `first` (RFC 8415, section 18.2.1): within
    /// it, advertisements are collected.
    pub at_least_first: bool,
}

impl Schedule {
    const fn new(first: Duration, longest: Duration) -> Schedule {
        Schedule {
            first,
            longest,
            at_least_first: false,
        }
    }

    /// `SOL_TIMEOUT`, and the longest wait in force.
    pub const fn solicit(longest: Duration) -> Schedule {
        Schedule {
            first: s(1),
            longest,
            at_least_first: true,
        }
    }

    /// `REQ_TIMEOUT`, `REQ_MAX_RT`.
    pub const REQUEST: Schedule = Schedule::new(s(1), s(30));
    /// `CNF_TIMEOUT`, `CNF_MAX_RT`.
    pub const CONFIRM: Schedule = Schedule::new(s(1), s(4));
    /// `REL_TIMEOUT` and `DEC_TIMEOUT`. These two have a largest count and no longest wait, and end
    /// long before this one.
    pub const FAREWELL: Schedule = Schedule::new(s(1), s(3600));

    /// `INF_TIMEOUT`, and the longest wait in force.
    pub const fn inform(longest: Duration) -> Schedule {
        Schedule::new(s(1), longest)
    }

    /// `REN_TIMEOUT` and `REB_TIMEOUT`, `REN_MAX_RT` and `REB_MAX_RT`. A phase of less than forty
    /// seconds would see a single try with that, so its first wait is a quarter of it.
    pub fn extend(phase: Option<Duration>) -> Schedule {
        let first = phase.map_or(s(10), |phase| (phase / 4).clamp(s(1), s(10)));
        Schedule::new(first, s(600))
    }

    /// The wait after the one before: around twice as long, a tenth either way.
    pub fn wait(&self, before: Option<Duration>, rng: &mut Rng) -> Duration {
        let tenth = |of: Duration| of / 10;
        let Some(before) = before else {
            if self.at_least_first {
                return self.first + Duration::from_micros(1) + rng.up_to(tenth(self.first));
            }
            return rng.around(self.first, tenth(self.first));
        };
        let wait = rng.around(before.saturating_mul(2), tenth(before));
        if wait <= self.longest {
            wait
        } else {
            rng.around(self.longest, tenth(self.longest))
        }
    }
}

/// `SOL_MAX_RT` and `INF_MAX_RT`, unless a server says otherwise.
pub const LONGEST_WAIT: Duration = s(3600);
/// RFC 8415, sections 21.24 and 21.25: what a server may say in their place, in seconds.
pub const ALLOWED_LONGEST_WAIT: RangeInclusive<u32> = 60..=86_400;
/// `REQ_MAX_RC`.
pub const REQUESTS: u32 = 10;
/// `REL_MAX_RC` and `DEC_MAX_RC`.
pub const FAREWELLS: u32 = 4;
/// `CNF_MAX_RD`.
pub const CONFIRMING: Duration = s(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(schedule: Schedule, count: usize, seed: u64) -> Vec<Duration> {
        let mut rng = Rng::new(seed);
        let mut before = None;
        (0..count)
            .map(|_| {
                let wait = schedule.wait(before, &mut rng);
                before = Some(wait);
                wait
            })
            .collect()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        for seed in 0..200 {
            let all = waits(Schedule::REQUEST, 12, seed);
            assert!((s(1) * 9 / 10..=s(1) * 11 / 10).contains(&all[0]));
            for pair in all.windows(2) {
                let doubled = pair[0] * 19 / 10..=pair[0] * 21 / 10;
                let longest = s(27)..=s(33);
                assert!(
                    doubled.contains(&pair[1]) || longest.contains(&pair[1]),
                    "{all:?}"
                );
            }
            assert!(all[11] >= s(27));
        }
    }

    #[test]
    fn the_first_solicit_waits_for_more_than_its_time() {
        for seed in 0..1000 {
            let first = waits(Schedule::solicit(LONGEST_WAIT), 1, seed)[0];
            assert!(first > s(1) && first <= s(1) * 11 / 10 + Duration::from_micros(1));
        }
    }

    #[test]
    fn a_short_phase_sees_more_than_one_try() {
        assert_eq!(Schedule::extend(None).first, s(10));
        assert_eq!(Schedule::extend(Some(s(1000))).first, s(10));
        assert_eq!(Schedule::extend(Some(s(20))).first, s(5));
        assert_eq!(Schedule::extend(Some(s(2))).first, s(1));
    }
}
