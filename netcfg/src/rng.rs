//! The only randomness of the core: a small generator with a seed handed in.
//!
//! Transaction ids and jitter must differ between machines, not resist cryptanalysis: whoever
//! sees our broadcast DISCOVER knows its xid anyway. So the driver seeds this from the kernel
//! and every run can be repeated from the seed alone.

use std::time::Duration;

/// `SplitMix64` (Steele, Lea, Flood 2014): 64 bits of state, every seed good.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same sequence.
    pub const fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 32 bits, from the better half.
    pub fn next_u32(&mut self) -> u32 {
        u32::try_from(self.next_u64() >> 32).unwrap_or_default()
    }

    /// A duration in `0..=limit`, to the microsecond.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.next_u64() % (micros + 1))
    }

    /// `middle` moved by at most `spread` either way, never below zero.
    pub fn around(&mut self, middle: Duration, spread: Duration) -> Duration {
        middle.saturating_sub(spread) + self.up_to(spread.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let (mut a, mut b, mut c) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let (a, b, c): (Vec<_>, Vec<_>, Vec<_>) = (
            (0..8).map(|_| a.next_u64()).collect(),
            (0..8).map(|_| b.next_u64()).collect(),
            (0..8).map(|_| c.next_u64()).collect(),
        );
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn jitter_stays_in_its_range() {
        let mut rng = Rng::new(1);
        let (middle, spread) = (Duration::from_secs(4), Duration::from_secs(1));
        let drawn: Vec<_> = (0..1000).map(|_| rng.around(middle, spread)).collect();
        assert!(
            drawn
                .iter()
                .all(|d| *d >= middle - spread && *d <= middle + spread)
        );
        assert!(drawn.iter().any(|d| *d < middle) && drawn.iter().any(|d| *d > middle));
        assert_eq!(rng.up_to(Duration::ZERO), Duration::ZERO);
    }
}
