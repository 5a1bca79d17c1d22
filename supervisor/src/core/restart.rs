//! The restart law of one service: whether, when, and when no more.
//!
//! The first restart comes after `initial` (at once by default), the following ones after
//! `base`, doubled each time up to `max`, each varied by `jitter` so that a fleet does not
//! return in lockstep. The count starts anew only after `reset-after` of sustained *health*:
//! a service that starts well and dies a minute later, again and again, is not well. Apart from
//! the delays, more than `restarts` within `within` end the matter as OTP has it: the level
//! above decides.

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

    /// The service had been healthy for so long when it ended.
    pub fn healthy_for(&mut self, spec: &Spec, duration: Time) {
        if duration >= spec.backoff.reset_after {
            self.in_a_row = 0;
        }
    }

    /// Decides about one restart and remembers it.
    pub fn decide(&mut self, spec: &Spec, now: Time, random: &mut Random) -> Verdict {
        while self
            .window
            .front()
            .is_some_and(|at| now.saturating_sub(*at) >= spec.intensity.within)
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
        let factor = 1.0 + spec.backoff.jitter * (2.0 * random.unit() - 1.0);
        Verdict::After(delay.mul_f64(factor.max(0.0)))
    }
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
