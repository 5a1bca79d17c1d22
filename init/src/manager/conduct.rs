//! How a role of init may behave on its channel to PID 1: pure rules, no descriptor, no clock.
//!
//! Any of our roles may be in a stranger's hands: one reads the network, one what services write. A role that sends
//! without end must not keep PID 1 busy, nor fill the console, the kernel's log and the record of this boot. So each
//! message is judged when it comes:
//!
//! * a message is **taken** while the role keeps to its rates;
//! * one that is **malformed**, or tells an event beyond what the role may tell ([`EVENTS_BURST`]), is dropped and
//!   counted; the counts are told in one `service.warning`, at most every [`TELL_PAUSE`];
//! * a role that is far beyond that ([`TOLERANCE`]) is **condemned**: PID 1 kills it, and drops what that process has
//!   sent until then, for nothing. The supervisor starts a successor, which is another process and is judged anew.
//!   A pid is used again some time, and the successor may get it: it is held against nobody after [`FORGET_AFTER`].

use supervisor::Time;
use supervisor::event::Event;
use supervisor::token_bucket::TokenBucket;

/// Bytes of events that a role may tell at once: more than a machine with a hundred links tells when all come
/// up, and less than half of the record of a boot.
pub const EVENTS_BURST: u32 = 24 * 1024;

/// In the long run a role may tell two or three events a second.
const EVENTS_REFILL: Time = Time::from_millis(4);

/// What a successor may tell in any case: its first events steer the boot.
const SUCCESSOR: u32 = 4 * 1024;

/// Messages that a role may send at once; a channel holds some three hundred. Each malformed one counts for
/// [`MALFORMED`].
pub const TOLERANCE: u32 = 4_000;

/// In the long run a role may send two hundred messages a second.
const TOLERANCE_REFILL: Time = Time::from_millis(5);

/// Our own roles send none that are malformed, so two hundred are enough to know.
const MALFORMED: u32 = 20;

/// When nothing of a process that was killed can be on its way any more: the kernel ends it at once, and what it
/// left in its channel is read in a few turns of the loop.
const FORGET_AFTER: Time = Time::from_secs(30);

/// Between two warnings about one role.
const TELL_PAUSE: Time = Time::from_secs(10);

/// What is to become of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is taken.
    Take,
    /// It is dropped.
    Drop,
    /// It is dropped, and its sender is to be killed: why.
    Condemn(String),
}

/// See the module.
#[derive(Debug)]
pub struct Conduct {
    events: TokenBucket,
    tolerance: TokenBucket,
    /// The process that was condemned, and until when what it sent before its end may still be on the way.
    condemned: Option<(i32, Time)>,
    /// Since the last warning.
    malformed: u64,
    suppressed: u64,
    /// When the next warning may be told.
    tell_at: Time,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            events: TokenBucket::new(EVENTS_BURST, EVENTS_REFILL),
            tolerance: TokenBucket::new(TOLERANCE, TOLERANCE_REFILL),
            condemned: None,
            malformed: 0,
            suppressed: 0,
            tell_at: Time::ZERO,
        }
    }
}

impl Conduct {
    /// For the child of a role, which passes on what the child tells: half of what the role may tell itself, so that
    /// it has something left for its own events.
    #[must_use]
    pub fn of_child() -> Self {
        Self {
            events: TokenBucket::new(EVENTS_BURST / 2, EVENTS_REFILL.saturating_mul(2)),
            ..Self::default()
        }
    }

    /// Judges a message of this process, which is well-formed or not, and tells so many bytes of events.
    pub fn judge(&mut self, now: Time, sender: i32, well_formed: bool, tells: u32) -> Judgement {
        if self
            .condemned
            .is_some_and(|(pid, until)| pid == sender && now < until)
        {
            self.suppressed = self.suppressed.saturating_add(1);
            return Judgement::Drop;
        }
        if self.condemned.take().is_some() {
            // A channel keeps the order: nothing of the condemned process comes any more.
            self.tolerance.at_least(now, TOLERANCE);
            self.events.at_least(now, SUCCESSOR);
        }
        let taken = well_formed && self.events.take(now, tells);
        if !well_formed {
            self.malformed = self.malformed.saturating_add(1);
        } else if !taken {
            self.suppressed = self.suppressed.saturating_add(1);
        }
        let weight = if well_formed { 1 } else { MALFORMED };
        if !self.tolerance.take(now, weight) {
            self.condemned = Some((sender, now.saturating_add(FORGET_AFTER)));
            self.tell_at = now;
            return Judgement::Condemn(if well_formed {
                "sends messages without end".to_owned()
            } else {
                "sends malformed messages without end".to_owned()
            });
        }
        if taken {
            Judgement::Take
        } else {
            Judgement::Drop
        }
    }

    /// This process did what no role of ours does: it sent descriptors. Says why it is to be killed, unless that
    /// was said of it before.
    pub fn condemn(&mut self, now: Time, sender: i32) -> Option<String> {
        self.malformed = self.malformed.saturating_add(1);
        let condemned = (sender, now.saturating_add(FORGET_AFTER));
        let before = self.condemned.replace(condemned);
        if before.is_some_and(|(pid, until)| pid == sender && now < until) {
            return None;
        }
        self.tell_at = now;
        Some("sends descriptors".to_owned())
    }

    /// When [`Conduct::warning`] has something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        (self.malformed > 0 || self.suppressed > 0).then_some(self.tell_at)
    }

    /// What was dropped, if it is time to tell that.
    pub fn warning(&mut self, now: Time, service: &str) -> Option<Event> {
        self.deadline().filter(|due| *due <= now)?;
        self.tell_at = now + TELL_PAUSE;
        Some(
            Event::new("service.warning")
                .with("service", service)
                .with("what", "channel")
                .with("error", "messages to init were dropped")
                .with("malformed", std::mem::take(&mut self.malformed))
                .with("suppressed", std::mem::take(&mut self.suppressed)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(100);

    fn counts(event: &Event) -> [u64; 2] {
        ["malformed", "suppressed"].map(|key| event.field(key).unwrap().parse().unwrap())
    }

    #[test]
    fn a_role_that_keeps_to_its_rates_is_heard_completely() {
        let mut conduct = Conduct::default();
        // A machine with a hundred links comes up, and then something happens every second, for a day.
        let burst = std::iter::repeat_n(START, 200);
        let day = (0..86_400).map(|second| START + Time::from_secs(second));
        for now in burst.chain(day) {
            assert_eq!(conduct.judge(now, 7, true, 120), Judgement::Take);
        }
        assert_eq!(conduct.deadline(), None);
    }

    #[test]
    fn events_beyond_the_rate_are_dropped_and_told_by_number_in_one_event() {
        let mut conduct = Conduct::default();
        let judged = (0..1_000).map(|_| conduct.judge(START, 7, true, 100));
        let taken = judged.filter(|j| *j == Judgement::Take).count();
        assert_eq!(taken, EVENTS_BURST as usize / 100);
        let told = conduct.warning(START, "netcfg").unwrap();
        assert_eq!(counts(&told), [0, 1_000 - taken as u64]);
        // More of it is told later, also if nothing comes any more.
        assert_eq!(conduct.judge(START, 7, true, 100), Judgement::Drop);
        assert_eq!(conduct.warning(START, "netcfg"), None);
        let due = conduct.deadline().unwrap();
        assert_eq!(due, START + TELL_PAUSE);
        assert_eq!(counts(&conduct.warning(due, "netcfg").unwrap()), [0, 1]);
        assert_eq!(conduct.deadline(), None);
        // And it may tell again what it is due in this time.
        assert_eq!(conduct.judge(due, 7, true, 2_000), Judgement::Take);
    }

    #[test]
    fn a_flood_and_garbage_condemn_a_process_once_and_its_successor_is_heard() {
        for (well_formed, most) in [(true, TOLERANCE), (false, TOLERANCE / MALFORMED)] {
            let mut conduct = Conduct::default();
            let mut until = || {
                (1..).find(|_| {
                    let judgement = conduct.judge(START, 7, well_formed, 100);
                    matches!(judgement, Judgement::Condemn(_))
                })
            };
            assert_eq!(until(), Some(most + 1));
            // What it sent before its end is not held against anybody.
            for _ in 0..100_000 {
                assert_eq!(conduct.judge(START, 7, true, 100), Judgement::Drop);
            }
            let told = conduct.warning(START, "netcfg").unwrap();
            assert!(counts(&told).iter().sum::<u64>() > 100_000);
            for _ in 0..SUCCESSOR / 100 {
                assert_eq!(conduct.judge(START, 8, true, 100), Judgement::Take);
            }
            let again = (0..=TOLERANCE).map(|_| conduct.judge(START, 8, true, 100));
            assert_eq!(
                again.filter(|j| matches!(j, Judgement::Condemn(_))).count(),
                1
            );
        }
    }

    #[test]
    fn a_successor_that_gets_the_pid_of_who_was_killed_is_heard() {
        let mut conduct = Conduct::default();
        assert!(conduct.condemn(START, 7).is_some());
        let late = START + FORGET_AFTER;
        for (now, judgement) in [(START, Judgement::Drop), (late, Judgement::Take)] {
            assert_eq!(conduct.judge(now, 7, true, 100), judgement);
        }
        assert!(conduct.condemn(late, 7).is_some());
    }

    #[test]
    fn pauses_do_not_hide_a_flood() {
        let mut conduct = Conduct::default();
        // Ten seconds of silence after each burst of what the channel holds ten times over.
        let mut now = START;
        let condemned = (0..10).any(|_| {
            now += Time::from_secs(10);
            (0..3_000).any(|_| {
                let judgement = conduct.judge(now, 7, true, 100);
                matches!(judgement, Judgement::Condemn(_))
            })
        });
        assert!(condemned);
    }
}
