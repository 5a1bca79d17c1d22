//! A token bucket: how much of something may be done at once, and how much in the long run.
//!
//! A full bucket holds the burst; each token that is taken comes back after the time that one takes. The state is
//! one point in time, the one at which the bucket will be full again (the "virtual scheduling" form of ITU-T
//! I.371, annex A), so nothing has to be counted up while nobody asks. Time is handed in.

use crate::Time;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    burst: u32,
    /// After how long a token that was taken is back.
    refill: Time,
    full_at: Time,
}

impl TokenBucket {
    /// A full bucket of this many tokens, of which each that is taken comes back after `refill`.
    #[must_use]
    pub const fn new(burst: u32, refill: Time) -> Self {
        Self {
            burst,
            refill,
            full_at: Time::ZERO,
        }
    }

    /// Takes so many tokens. `false`: so many are not there, and none was taken.
    pub fn take(&mut self, now: Time, tokens: u32) -> bool {
        let full_at = self
            .full_at
            .max(now)
            .saturating_add(self.refill.saturating_mul(tokens));
        let holds = full_at.saturating_sub(now) <= self.refill.saturating_mul(self.burst);
        if holds {
            self.full_at = full_at;
        }
        holds
    }

    /// Sees to it that so many tokens are there, as far as the bucket holds them.
    pub fn at_least(&mut self, now: Time, tokens: u32) {
        let missing = self
            .refill
            .saturating_mul(self.burst.saturating_sub(tokens));
        self.full_at = self.full_at.min(now.saturating_add(missing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Time = Time::from_secs(1);

    #[test]
    fn a_burst_and_then_as_much_as_comes_back() {
        let mut bucket = TokenBucket::new(3, SECOND);
        let now = Time::from_secs(100);
        assert!(bucket.take(now, 2) && bucket.take(now, 1));
        assert!(!bucket.take(now, 1));
        assert!(!bucket.take(now + SECOND * 9 / 10, 1));
        assert!(bucket.take(now + SECOND, 1));
        assert!(!bucket.take(now + SECOND, 1));
        assert!(!bucket.take(now + SECOND * 100, 4), "more than it holds");
        assert!(
            bucket.take(now + SECOND * 100, 3),
            "full again, and no more"
        );
        assert!(!bucket.take(now + SECOND * 100, 1));
    }

    #[test]
    fn somebody_new_gets_at_least_a_little() {
        let mut bucket = TokenBucket::new(10, SECOND);
        let now = Time::from_secs(100);
        assert!(bucket.take(now, 10));
        bucket.at_least(now, 2);
        assert!(bucket.take(now, 2) && !bucket.take(now, 1));
        bucket.at_least(now + SECOND * 5, 2);
        assert!(
            bucket.take(now + SECOND * 5, 5),
            "what came back is not taken away"
        );
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_burst_and_the_rate(takes in proptest::collection::vec((0u64..3000, 0u32..8), 1..200)) {
            let mut bucket = TokenBucket::new(10, SECOND);
            let (mut now, mut taken) = (Time::ZERO, 0u64);
            for (pause, tokens) in takes {
                now += Time::from_millis(pause);
                if bucket.take(now, tokens) {
                    taken += u64::from(tokens);
                }
                prop_assert!(taken <= 10 + now.as_secs());
            }
        }
    }
}
