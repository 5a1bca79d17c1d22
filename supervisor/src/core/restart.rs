//! The restart law of one service: whether, when, and when no more.
//!
//! The first restart comes after `initial` (at once by default), the following ones after
//! `base`, doubled each time up to `max`, each varied by `jitter` so that a fleet does not
//! return in lockstep. The count starts anew only after `reset-after` of sustained *health*:
//! a service that starts well and dies a minute later, again and again, is not well. Apart from
//! the delays, more than `restarts` within `within` end the matter as OTP has it: the level
//! above decides. What an operator asks for is no restart by this law and does not use it up.

use crate::Time;
use crate::spec::{Spec, backoff_delay};
use std::collections::VecDeque;

/// What the law says about a service that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this delay.
    After(Time),
    /// It used up its restarts.
    Exhausted,
}

/// The memory that the law needs of one service.
#[derive(Debug, Default)]
pub struct Restarts {
    /// Restarts since the last sustained health.
    in_a_row: u32,
    /// When the restarts of the current window were decided.
    window: VecDeque<Time>,
    /// All restarts since boot.
    total: u64,
}

impl Restarts {
    /// All restarts since boot.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Restarts that still count against the intensity.
    #[must_use]
    pub fn recent(&self, spec: &Spec, now: Time) -> u32 {
        let within = spec.intensity.within;
        let recent = self.window.iter().filter(|at| is_recent(**at, within, now));
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }

    /// The service was healthy for long enough: the next delay is the first again.
    pub fn sustained(&mut self) {
        self.in_a_row = 0;
    }

    /// Everything counts anew, delays and intensity.
    pub fn forget(&mut self) {
        self.in_a_row = 0;
        self.window.clear();
    }

    /// Decides about one restart and remembers it.
    pub fn decide(&mut self, spec: &Spec, now: Time, random: &mut Random) -> Verdict {
        let within = spec.intensity.within;
        while self
            .window
            .front()
            .is_some_and(|at| !is_recent(*at, within, now))
        {
            self.window.pop_front();
        }
        if self.window.len() >= spec.intensity.restarts as usize {
            return Verdict::Exhausted;
        }
        self.window.push_back(now);
        self.total += 1;
        let delay = backoff_delay(&spec.backoff, self.in_a_row);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Verdict::After(random.vary(delay, spec.backoff.jitter))
    }
}

fn is_recent(at: Time, within: Time, now: Time) -> bool {
    now.saturating_sub(at) < within
}

/// The generator for jitter: SplitMix64 (Steele, Lea, Flood 2014). Not for secrets.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A delay varied at random by this share of it, either way.
    pub fn vary(&mut self, delay: Time, jitter: f64) -> Time {
        let factor = 1.0 + jitter * (2.0 * self.unit() - 1.0);
        delay.mul_f64(factor.max(0.0))
    }

    /// The next number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 53 bits fit a double exactly.
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of SplitMix64 with the seed 1234567, as other implementations have them.
    const REFERENCE: [u64; 3] = [
        6_457_827_717_110_365_317,
        3_203_168_211_198_807_973,
        9_817_491_932_198_370_423,
    ];

    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        for number in REFERENCE {
            let share = number as f64 / 2f64.powi(64);
            assert!((random.unit() - share).abs() < 1e-15, "{share}");
        }
    }

    #[test]
    fn a_low_number_makes_a_delay_shorter() {
        let delay = Random::new(1_234_567).vary(Time::from_secs(100), 0.5);
        // The first number is 0.35 of the whole range, so it is 0.15 of the way from the middle down.
        assert_eq!(delay.as_millis(), 85_007);
    }
}
