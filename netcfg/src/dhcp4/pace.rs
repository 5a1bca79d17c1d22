//! When to send again, and how often at most.

use std::time::Duration;

use crate::rng::Rng;

/// Longest wait between two broadcasts (RFC 2131, section 4.1).
const SLOWEST: Duration = Duration::from_secs(64);

/// Shortest wait in RENEWING and REBINDING (RFC 2131, section 4.4.5).
const EXTEND_FLOOR: Duration = Duration::from_secs(60);

/// How long to wait for an answer to send number `attempt` (from 0) before the next.
///
/// RFC 2131, section 4.1: 4 s, doubling to 64 s, each moved by up to one second either way. At
/// boot a switch port or a bridge often loses just the first frame, so two quicker tries come
/// before: 1 s and 2 s, jittered by a quarter.
pub fn retry(attempt: u32, rng: &mut Rng) -> Duration {
    let base = Duration::from_secs(1 << attempt.min(6)).min(SLOWEST);
    let spread = Duration::from_secs(1).min(base / 4);
    rng.around(base, spread)
}

/// How long to wait before asking again for more time, when `deadline` ends the present phase:
/// half of what is left of it, but not less than a minute (RFC 2131, section 4.4.5). A phase of
/// less than four minutes would see a single try with that, so its floor is a quarter of it.
pub fn extend(now: Duration, started: Duration, deadline: Duration) -> Duration {
    let floor = (deadline.saturating_sub(started) / 4).clamp(Duration::from_secs(1), EXTEND_FLOOR);
    (deadline.saturating_sub(now) / 2).max(floor)
}

/// How long to hold back after NAK number `naks` (from 1) in a row: a server that offers and
/// refuses, again and again, must not make us flood its network.
pub fn after_nak(naks: u32, rng: &mut Rng) -> Duration {
    retry(naks.saturating_sub(1), rng)
}

/// A bound on what we send, whatever the world does to us: flapping carriers, lying servers.
///
/// A token bucket: [`Budget::BURST`] frames at once, one more every [`Budget::REFILL`]. A frame
/// without a token is not sent, which the state machine survives as it survives a lost frame.
#[derive(Debug, Clone)]
pub struct Budget {
    tokens: u32,
    counted: Duration,
}

impl Budget {
    /// Frames that may go at once.
    pub const BURST: u32 = 10;
    /// The pace after that. Leases of the shortest kind renew within it.
    pub const REFILL: Duration = Duration::from_secs(4);

    /// A full bucket.
    pub const fn new(now: Duration) -> Budget {
        Budget {
            tokens: Budget::BURST,
            counted: now,
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        while self.tokens < Budget::BURST && now.saturating_sub(self.counted) >= Budget::REFILL {
            self.tokens += 1;
            self.counted += Budget::REFILL;
        }
        if self.tokens == Budget::BURST {
            self.counted = now;
        }
        let granted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn retries_slow_down_to_64_seconds() {
        let mut rng = Rng::new(3);
        for (attempt, low, high) in [
            (0, 750, 1250),
            (1, 1500, 2500),
            (2, 3000, 5000),
            (3, 7000, 9000),
            (6, 63_000, 65_000),
            (60, 63_000, 65_000),
            (u32::MAX, 63_000, 65_000),
        ] {
            for _ in 0..50 {
                let wait = retry(attempt, &mut rng).as_millis();
                assert!((low..=high).contains(&wait), "attempt {attempt}: {wait} ms");
            }
        }
    }

    #[test]
    fn asking_for_time_halves_down_to_a_minute() {
        assert_eq!(extend(s(1000), s(1000), s(2000)), s(500));
        assert_eq!(extend(s(1950), s(1000), s(2000)), s(60));
        // A lease of ten seconds: T1 at 5, T2 at 8.75.
        assert_eq!(
            extend(s(5), s(5), Duration::from_millis(8750)),
            Duration::from_millis(1875)
        );
        assert_eq!(extend(s(9), s(5), s(8)), s(1));
    }

    #[test]
    fn the_budget_bounds_any_minute() {
        let mut budget = Budget::new(s(0));
        let sent = (0..60_000)
            .filter(|ms| budget.take(Duration::from_millis(*ms)))
            .count();
        assert_eq!(sent, 10 + 14);
        // It fills up again, but not beyond its brim.
        let sent = (0..100).filter(|_| budget.take(s(10_000))).count();
        assert_eq!(sent, 10);
    }
}
