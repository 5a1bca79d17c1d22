//! How many events a service may bring about by what it says, or by children that die for want of memory.
//!
//! Every event is kept, shown and written, and only so many are kept: whoever may cause as many as he
//! likes makes PID 1 forget what happened before. So those about a service that follow from what it *says*
//! (notifications, not its end or its probes), and from its kills for want of memory, pass a token bucket of its
//! own. What finds it empty is counted, and the count told by one event when [`PERIOD`] has passed. Time is
//! handed in.

use crate::Time;
use crate::token_bucket::TokenBucket;

/// Events at once: a service that starts and reloads says a handful.
pub const BURST: u32 = 10;

/// After which time one more may follow, in the long run.
pub const REFILL: Time = Time::from_secs(10);

/// An instance has at least so many, as its readiness is told however many were started before it: how often
/// it is started is for the restart law to bound.
const EACH_INSTANCE: u32 = 4;

/// When the count is told, from the first event that was suppressed on.
pub const PERIOD: Time = Time::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct EventLimit {
    bucket: TokenBucket,
    suppressed: u64,
    due: Option<Time>,
}

impl Default for EventLimit {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::new(BURST, REFILL),
            suppressed: 0,
            due: None,
        }
    }
}

impl EventLimit {
    /// Whether an event that comes now is told. If not, it is counted.
    pub fn passes(&mut self, now: Time) -> bool {
        let passes = self.bucket.take(now, 1);
        if !passes {
            self.suppressed = self.suppressed.saturating_add(1);
            self.due.get_or_insert_with(|| now.saturating_add(PERIOD));
        }
        passes
    }

    /// A new instance speaks from now on.
    pub fn renew(&mut self, now: Time) {
        self.bucket.at_least(now, EACH_INSTANCE);
    }

    /// When [`settle`](Self::settle) has something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// How many were suppressed, if that is to be told now.
    pub fn settle(&mut self, now: Time) -> Option<u64> {
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_too_much_is_counted_and_told_once() {
        let mut limit = EventLimit::default();
        let now = Time::from_secs(100);
        let passed = (0..200_000).filter(|_| limit.passes(now)).count();
        assert_eq!(passed, 10);
        assert_eq!(limit.settle(now), None);
        assert_eq!(limit.deadline(), Some(now + PERIOD));
        assert_eq!(limit.settle(now + PERIOD), Some(199_990));
        assert_eq!((limit.settle(now + PERIOD), limit.deadline()), (None, None));
    }

    #[test]
    fn a_new_instance_is_heard_however_many_there_were() {
        let mut limit = EventLimit::default();
        let now = Time::from_secs(100);
        for _ in 0..100 {
            limit.renew(now);
            assert!(limit.passes(now) && limit.passes(now), "ready, healthy");
        }
        assert_eq!(limit.deadline(), None);
    }

    proptest! {
        #[test]
        fn every_event_is_told_or_counted(pauses in proptest::collection::vec(0u64..4000, 1..300)) {
            let (mut limit, mut now) = (EventLimit::default(), Time::ZERO);
            let (mut told, mut counted) = (0u64, 0u64);
            for pause in &pauses {
                now += Time::from_millis(*pause);
                told += u64::from(limit.passes(now));
                counted += limit.settle(now).unwrap_or(0);
            }
            counted += limit.settle(now + PERIOD).unwrap_or(0);
            prop_assert_eq!(told + counted, pauses.len() as u64);
            prop_assert!(told <= u64::from(BURST) + now.as_secs() / REFILL.as_secs());
        }
    }
}
