//! How often and how fast to try again: pure.
//!
//! A try that brought something renews the patience: a long file over a line that breaks every
//! few megabytes arrives. But each renewal costs bytes that arrived, and a file has an end, so there is an end to it.

use std::time::Duration;

/// Tries in a row that bring too little.
const TRIES: u32 = 6;

/// The first wait; each is twice as long as the one before.
const FIRST: Duration = Duration::from_secs(1);

/// Bytes that renew the patience, unless more than that were skipped to come to them.
const WORTH: u64 = 64 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
    bytes: u64,
    /// Bytes of this try that were known already.
    skipped: u64,
}

impl Patience {
    /// Bytes came.
    pub fn progress(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes >= WORTH.max(self.skipped) {
            *self = Self::default();
        }
    }

    /// So much came that was known already: this try is worth something only if it brings as much again.
    pub fn skipped(&mut self, bytes: u64) {
        self.skipped = bytes;
    }

    /// It failed; after which wait to try again, if at all.
    pub fn failed(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        self.bytes = 0;
        self.skipped = 0;
        let doublings = self.failures.saturating_sub(1);
        (self.failures < TRIES).then(|| FIRST.saturating_mul(1 << doublings.min(16)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patience_ends_and_is_renewed_by_progress() {
        let mut patience = Patience::default();
        let waits = |patience: &mut Patience| -> Vec<u64> {
            std::iter::from_fn(|| patience.failed().map(|w| w.as_secs())).collect()
        };
        assert_eq!(waits(&mut patience), [1, 2, 4, 8, 16]);
        assert_eq!(patience.failed(), None);
        patience.progress(1 << 20);
        assert_eq!(waits(&mut patience), [1, 2, 4, 8, 16]);
    }

    proptest! {
        #[test]
        fn tries_are_bounded_by_the_bytes_that_came(pieces in proptest::collection::vec(0usize..100_000, 1..200)) {
            let mut patience = Patience::default();
            let (mut total, mut tries) = (0, 0);
            for piece in pieces {
                patience.progress(piece);
                total += piece as u64;
                tries += 1;
                if patience.failed().is_none() {
                    break;
                }
            }
            prop_assert!(tries <= u64::from(TRIES) * (total / WORTH + 1));
        }
    }
}
