//! One probe of one service: when to ask, and what the answers add up to.
//!
//! A probe is off, or idle until it is due, then in flight until its answer or its timeout, then due
//! again one `interval` after it was asked. `failures` bad answers in a row make the verdict
//! bad, `successes` good ones make it good; in between it stays as it is.
//!
//! A timeout that is noticed long after it fell due proves nothing about the service, since the
//! machine itself stood still. The core gives such a gap back ([`Track::forgive`]) before anything is
//! judged.

use crate::Time;
use crate::spec::Probe;
use crate::status::{ProbeAnswer, ProbeStatus};
use std::collections::VecDeque;

/// Answers that are kept to be shown.
const HISTORY: usize = 8;

/// The longest text of a fault that is kept.
const FAULT_MAX: usize = 160;

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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

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
    /// The attempt in flight timed out; cancel it. Its verdict follows if there is one.
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
    record: Record,
}

#[derive(Debug)]
enum Phase {
    Off,
    Idle { due: Time },
    InFlight { asked: Time },
}

/// What is told of a probe since boot.
#[derive(Debug, Default)]
struct Record {
    good: u64,
    bad: u64,
    latency_sum: Time,
    latency_max: Time,
    history: VecDeque<Answer>,
}

#[derive(Debug)]
struct Answer {
    at: Time,
    latency: Time,
    fault: Option<String>,
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
            record: Record::default(),
        }
    }

    /// What is asked.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Whether it is switched on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !matches!(self.phase, Phase::Off)
    }

    /// Switches it on, due at once. Nothing happens if it is on.
    pub fn on(&mut self, now: Time) {
        if !self.is_on() {
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

    /// The machine stood still for so long: an attempt in flight has that much more time.
    pub fn forgive(&mut self, gap: Time) {
        if let Phase::InFlight { asked } = &mut self.phase {
            *asked += gap;
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
                let why = format!("no answer within {} ms", self.probe.timeout.as_millis());
                Some(Due::TimedOut(self.count(asked, now, Err(why))))
            }
            _ => None,
        }
    }

    /// An attempt was answered. The verdict is given each time a threshold is reached or kept.
    pub fn answered(
        &mut self,
        now: Time,
        attempt: u64,
        result: Result<(), String>,
    ) -> Option<Verdict> {
        match self.phase {
            Phase::InFlight { asked } if attempt == self.attempt => self.count(asked, now, result),
            _ => None,
        }
    }

    fn count(&mut self, asked: Time, now: Time, result: Result<(), String>) -> Option<Verdict> {
        self.phase = Phase::Idle {
            due: (asked + self.probe.interval).max(now),
        };
        let good = result.is_ok();
        self.record
            .note(now, now.saturating_sub(asked), result.err());
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

    /// What was wrong at the last bad answer.
    #[must_use]
    pub fn last_fault(&self) -> &str {
        let faults = self.record.history.iter().rev();
        faults
            .filter_map(|answer| answer.fault.as_deref())
            .next()
            .unwrap_or_default()
    }

    /// Bad answers in a row, up to now.
    #[must_use]
    pub fn bad_in_a_row(&self) -> u32 {
        self.bad
    }

    /// To be shown.
    #[must_use]
    pub fn status(&self, kind: ProbeKind) -> ProbeStatus {
        let ms = crate::millis;
        let history = self.record.history.iter().map(|answer| ProbeAnswer {
            at_ms: ms(answer.at),
            latency_ms: ms(answer.latency),
            fault: answer.fault.clone(),
        });
        ProbeStatus {
            kind: kind.name().to_owned(),
            target: self.probe.target.to_string(),
            interval_ms: ms(self.probe.interval),
            timeout_ms: ms(self.probe.timeout),
            failures: self.probe.failures,
            successes: self.probe.successes,
            active: self.is_on(),
            good: self.record.good,
            bad: self.record.bad,
            latency_sum_ms: ms(self.record.latency_sum),
            latency_max_ms: ms(self.record.latency_max),
            history: history.collect(),
        }
    }
}

impl Record {
    fn note(&mut self, at: Time, latency: Time, fault: Option<String>) {
        match &fault {
            None => self.good += 1,
            Some(_) => self.bad += 1,
        }
        self.latency_sum += latency;
        self.latency_max = self.latency_max.max(latency);
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        let fault = fault.map(|text| text.chars().take(FAULT_MAX).collect());
        self.history.push_back(Answer { at, latency, fault });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ProbeTarget;
    use std::time::Duration;

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

    fn bad() -> Result<(), String> {
        Err("x".into())
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let mut track = track();
        track.on(s(10));
        assert_eq!(track.due(s(10)), Some(Due::Ask(1)));
        assert_eq!(track.answered(s(11), 1, bad()), None);
        assert_eq!(track.deadline(), Some(s(15)));
        assert_eq!(track.due(s(14)), None);
        assert_eq!(track.due(s(15)), Some(Due::Ask(2)));
        assert_eq!(track.due(s(17)), Some(Due::TimedOut(Some(Verdict::Bad))));
        assert_eq!(track.last_fault(), "no answer within 2000 ms");
        assert_eq!(track.due(s(20)), Some(Due::Ask(3)));
        assert_eq!(
            track.answered(s(20), 2, bad()),
            None,
            "an old attempt's answer"
        );
        assert_eq!(track.answered(s(20), 3, Ok(())), Some(Verdict::Good));
        let status = track.status(ProbeKind::Liveness);
        assert_eq!(
            (status.good, status.bad, status.latency_sum_ms),
            (1, 2, 3_000)
        );
    }

    #[test]
    fn a_gap_is_given_back() {
        let mut track = track();
        track.on(s(0));
        assert_eq!(track.due(s(0)), Some(Due::Ask(1)));
        track.forgive(s(3600));
        assert_eq!(track.due(s(3601)), None);
        assert_eq!(track.due(s(3602)), Some(Due::TimedOut(None)));
    }
}
