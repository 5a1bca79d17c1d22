//! Numbers out of a seed: the same seed gives the same numbers on every machine.
//!
//! [`Random`] is a sequence, for what is made once. [`mix`] is a hash, for what an instance does: it depends
//! on nothing but who the instance is, so a history with one stimulus less keeps all the rest.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014), as a sequence.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(mix(&[seed]))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        finish(self.0)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let place = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from[place]
    }

    /// Milliseconds between both, short ones as likely as long ones: each doubling has the same chance.
    pub fn spread(&mut self, low: u64, high: u64) -> Duration {
        let doublings = u64::from((high / low).max(1).ilog2()) + 1;
        let least = low << self.below(doublings);
        Duration::from_millis((least + self.below(least)).min(high))
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of all parts.
pub fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(GOLDEN, |sum, part| {
        finish(sum.wrapping_add(GOLDEN) ^ finish(part.wrapping_add(GOLDEN)))
    })
}

/// Milliseconds between both out of a hash.
pub fn between(hash: u64, low: u64, high: u64) -> Duration {
    Duration::from_millis(low + hash % (high - low + 1))
}
