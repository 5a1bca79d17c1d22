//! One probe of one service: when to ask, and what the answers add up to.
//!
//! A probe is idle until it is due, then in flight until its answer or its timeout, then due
//! again one `interval` after it was asked. `failures` bad answers in a row make the verdict
//! bad, `successes` good ones make it good; in between it stays as it is.
//!
//! A timeout that is noticed much later than it fell due proves nothing about the service: the
//! machine itself stood still (a paused VM, a suspended host). Such an attempt is dropped and
//! asked again.

use crate::Time;
use crate::spec::Probe;
use std::time::Duration;

/// A timeout noticed later than this after it fell due is the machine's fault, not the
/// service's: the event loop takes milliseconds, a paused VM takes seconds.
const LEAP: Duration = Duration::from_secs(2);

/// Which of a service's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Holds the others back until it succeeded.
    Startup,
    /// Decides about readiness.
    Readiness,
    /// Decides about health.
    Liveness,
}

impl ProbeKind {
    /// Its name in `init.toml` and in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

/// What a probe's answers add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `successes` good answers in a row.
    Good,
    /// `failures` bad answers in a row.
    Bad,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask, with this attempt number.
    Ask(u64),
    /// The attempt in flight timed out; cancel it. Its verdict follows if it changed.
    TimedOut(Option<Verdict>),
}

/// The course of one probe.
#[derive(Debug)]
pub struct Track {
    probe: Probe,
    phase: Phase,
    attempt: u64,
    good: u32,
    bad: u32,
}

#[derive(Debug)]
enum Phase {
    Off,
    Idle { due: Time },
    InFlight { asked: Time },
}

impl Track {
    /// A probe that is off.
    #[must_use]
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            phase: Phase::Off,
            attempt: 0,
            good: 0,
            bad: 0,
        }
    }

    /// What is asked.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Switches it on, due at once. Nothing happens if it is on.
    pub fn on(&mut self, now: Time) {
        if matches!(self.phase, Phase::Off) {
            self.phase = Phase::Idle { due: now };
            (self.good, self.bad) = (0, 0);
        }
    }

    /// Switches it off; true if an attempt is in flight and must be cancelled.
    pub fn off(&mut self) -> bool {
        let was = std::mem::replace(&mut self.phase, Phase::Off);
        matches!(was, Phase::InFlight { .. })
    }

    /// When [`Track::due`] has something to say.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Off => None,
            Phase::Idle { due } => Some(due),
            Phase::InFlight { asked } => Some(asked + self.probe.timeout),
        }
    }

    /// What is due now, if anything.
    pub fn due(&mut self, now: Time) -> Option<Due> {
        match self.phase {
            Phase::Idle { due } if due <= now => {
                self.attempt += 1;
                self.phase = Phase::InFlight { asked: now };
                Some(Due::Ask(self.attempt))
            }
            Phase::InFlight { asked } if asked + self.probe.timeout <= now => {
                let late = now - (asked + self.probe.timeout);
                if late > LEAP {
                    self.phase = Phase::Idle { due: now };
                    return Some(Due::TimedOut(None));
                }
                Some(Due::TimedOut(self.count(asked, now, false)))
            }
            _ => None,
        }
    }

    /// An attempt was answered. The verdict is given each time a threshold is reached or kept.
    pub fn answered(&mut self, now: Time, attempt: u64, good: bool) -> Option<Verdict> {
        match self.phase {
            Phase::InFlight { asked } if attempt == self.attempt => self.count(asked, now, good),
            _ => None,
        }
    }

    fn count(&mut self, asked: Time, now: Time, good: bool) -> Option<Verdict> {
        self.phase = Phase::Idle {
            due: (asked + self.probe.interval).max(now),
        };
        if good {
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            (self.good >= self.probe.successes).then_some(Verdict::Good)
        } else {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            (self.bad >= self.probe.failures).then_some(Verdict::Bad)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ProbeTarget;

    fn track() -> Track {
        Track::new(Probe {
            target: ProbeTarget::Tcp("127.0.0.1:1".parse().unwrap()),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            failures: 2,
            successes: 1,
        })
    }

    const fn s(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let mut track = track();
        track.on(s(10));
        assert_eq!(track.due(s(10)), Some(Due::Ask(1)));
        assert_eq!(track.answered(s(11), 1, false), None);
        assert_eq!(track.deadline(), Some(s(15)));
        assert_eq!(track.due(s(14)), None);
        assert_eq!(track.due(s(15)), Some(Due::Ask(2)));
        assert_eq!(track.due(s(17)), Some(Due::TimedOut(Some(Verdict::Bad))));
        assert_eq!(track.due(s(20)), Some(Due::Ask(3)));
        assert_eq!(
            track.answered(s(20), 2, false),
            None,
            "an old attempt's answer"
        );
        assert_eq!(track.answered(s(20), 3, true), Some(Verdict::Good));
    }

    #[test]
    fn a_pause_of_the_machine_is_no_failure() {
        let mut track = track();
        track.on(s(0));
        assert_eq!(track.due(s(0)), Some(Due::Ask(1)));
        assert_eq!(track.due(s(3600)), Some(Due::TimedOut(None)));
        assert_eq!(track.due(s(3600)), Some(Due::Ask(2)));
        assert_eq!(
            track.answered(s(3600), 2, false),
            None,
            "counted as the first failure"
        );
    }
}
