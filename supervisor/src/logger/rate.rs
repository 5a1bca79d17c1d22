//! How many lines a service may say in a while.
//!
//! The law is that of systemd's journal (journald.conf(5), `RateLimitIntervalSec=`): a window
//! starts with the first line that comes when none is open; within it so many lines pass, and
//! the others are counted. The count is told when the window has ended. Time is handed in.

use crate::Time;

/// The limit of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Lines that pass in a window.
    pub burst: u64,
    /// How long a window is. Zero: there is no limit.
    pub window: Time,
}

/// Judges the lines of one service.
#[derive(Debug)]
pub struct RateLimit {
    limit: Limit,
    /// When the present window began.
    begun: Option<Time>,
    passed: u64,
    /// Lines over the limit in the present window.
    over: u64,
    /// The same of windows that have ended, not yet told.
    ended: u64,
}

impl RateLimit {
    /// Starts without a window. No limit: every line passes.
    #[must_use]
    pub fn new(limit: Option<Limit>) -> Self {
        Self {
            limit: limit.unwrap_or(Limit {
                burst: 0,
                window: Time::ZERO,
            }),
            begun: None,
            passed: 0,
            over: 0,
            ended: 0,
        }
    }

    /// Whether a line that comes now passes. If not, it is counted.
    pub fn offer(&mut self, now: Time) -> bool {
        if self.limit.window.is_zero() {
            return true;
        }
        if self.end().is_none_or(|end| now >= end) {
            self.ended += self.over;
            (self.begun, self.passed, self.over) = (Some(now), 0, 0);
        }
        let passes = self.passed < self.limit.burst;
        if passes {
            self.passed += 1;
        } else {
            self.over += 1;
        }
        passes
    }

    /// When there is something to tell; `None` if nothing was held back.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        if self.ended > 0 {
            return Some(Time::ZERO);
        }
        self.end().filter(|_| self.over > 0)
    }

    /// Lines held back in windows that have ended and were not yet told. Each is told once.
    pub fn settle(&mut self, now: Time) -> u64 {
        if self.end().is_some_and(|end| now >= end) {
            self.close();
        }
        std::mem::take(&mut self.ended)
    }

    /// The same, the present window included: there will be no other occasion.
    pub fn finish(&mut self) -> u64 {
        self.close();
        std::mem::take(&mut self.ended)
    }

    fn close(&mut self) {
        self.ended += std::mem::take(&mut self.over);
        (self.begun, self.passed) = (None, 0);
    }

    fn end(&self) -> Option<Time> {
        self.begun
            .map(|begun| begun.saturating_add(self.limit.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limited(burst: u64, millis: u64) -> RateLimit {
        RateLimit::new(Some(Limit {
            burst,
            window: Time::from_millis(millis),
        }))
    }

    #[test]
    fn a_burst_passes_and_the_rest_is_told_when_the_window_ends() {
        let at = Time::from_millis;
        let mut rate = limited(2, 100);
        assert_eq!(rate.due(), None);
        let passed: Vec<bool> = (0..5).map(|i| rate.offer(at(50 + i))).collect();
        assert_eq!(passed, [true, true, false, false, false]);
        assert_eq!(rate.due(), Some(at(150)), "the first line began the window");
        assert_eq!(rate.settle(at(149)), 0);
        assert_eq!(rate.settle(at(150)), 3);
        assert_eq!(rate.due(), None);
        assert!(rate.offer(at(151)), "a new window");
    }

    #[test]
    fn a_line_that_comes_late_loses_no_count() {
        let mut rate = limited(0, 10);
        assert!(!rate.offer(Time::ZERO));
        assert!(!rate.offer(Time::from_millis(10)));
        assert_eq!(rate.due(), Some(Time::ZERO), "the first window is over");
        assert_eq!(rate.settle(Time::from_millis(10)), 1);
        assert_eq!(rate.finish(), 1);
    }

    #[test]
    fn without_a_limit_everything_passes_and_nothing_is_due() {
        for mut rate in [RateLimit::new(None), limited(1, 0)] {
            assert!((0..1000).all(|_| rate.offer(Time::ZERO)));
            assert_eq!((rate.due(), rate.finish()), (None, 0));
        }
    }

    proptest! {
        #[test]
        fn shown_and_lost_are_what_was_offered(
            burst in 0u64..5,
            window in 0u64..50,
            steps in proptest::collection::vec((0u64..30, any::<bool>()), 0..200),
        ) {
            let mut rate = limited(burst, window);
            let (mut now, mut offered, mut shown, mut lost) = (Time::ZERO, 0, 0, 0);
            let mut shown_at = Vec::new();
            for (pause, settles) in steps {
                now += Time::from_millis(pause);
                if settles {
                    lost += rate.settle(now);
                } else {
                    offered += 1;
                    if rate.offer(now) {
                        shown += 1;
                        shown_at.push(now);
                    }
                }
                if let Some(due) = rate.due() {
                    prop_assert!(due <= now + Time::from_millis(window));
                }
            }
            lost += rate.finish();
            prop_assert_eq!(shown + lost, offered);
            // Two windows can touch, never three.
            if window > 0 {
                for first in &shown_at {
                    let end = *first + Time::from_millis(window);
                    let within = shown_at.iter().filter(|t| **t >= *first && **t < end).count();
                    prop_assert!(within as u64 <= 2 * burst);
                }
            }
        }
    }
}
