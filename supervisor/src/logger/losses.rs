//! What was lost, by source and reason: counted, told on the console, reported to PID 1.
//!
//! A line that is lost is lost at one place: the console's queue was full, the service was over
//! its rate limit, or the files did not take it. Each loss is counted once and told once, as
//! `log.lost service=NAME lines=N reason=console|rate|file`; PID 1 gets the sums.

use super::protocol::Report;
use crate::Time;
use crate::event::Event;

/// How often one source tells of lines that the files lost, at most. A disk stays full for days,
/// and the console must not fill with that.
const FILE_PAUSE: Time = Time::from_secs(10);

/// Where a line was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The console did not take it.
    Console,
    /// Its service was over its rate limit.
    Rate,
    /// The files did not take it.
    File,
}

const REASONS: [Reason; 3] = [Reason::Console, Reason::Rate, Reason::File];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    console: u64,
    rate: u64,
    file: u64,
}

impl Counts {
    fn of(&mut self, reason: Reason) -> &mut u64 {
        match reason {
            Reason::Console => &mut self.console,
            Reason::Rate => &mut self.rate,
            Reason::File => &mut self.file,
        }
    }
}

#[derive(Debug, Default)]
struct Source {
    name: String,
    total: Counts,
    untold: Counts,
    reported: Counts,
    /// When the next loss of the files may be told.
    file_due: Time,
}

/// See the module.
#[derive(Debug)]
pub struct Losses {
    sources: Vec<Source>,
}

impl Losses {
    /// Nothing was lost so far.
    #[must_use]
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let sources = names.map(|name| Source {
            name: name.to_owned(),
            ..Source::default()
        });
        Self {
            sources: sources.collect(),
        }
    }

    /// Counts.
    pub fn add(&mut self, source: usize, reason: Reason, lines: u64) {
        if let Some(source) = self.sources.get_mut(source) {
            *source.total.of(reason) += lines;
            *source.untold.of(reason) += lines;
        }
    }

    /// Something to tell now. With it, it counts as told.
    pub fn confession(&mut self, now: Time) -> Option<Event> {
        for source in &mut self.sources {
            for (reason, word) in REASONS.into_iter().zip(["console", "rate", "file"]) {
                let waits = reason == Reason::File && now < source.file_due;
                let lines = source.untold.of(reason);
                if *lines == 0 || waits {
                    continue;
                }
                let event = Event::new("log.lost")
                    .with("service", &source.name)
                    .with("lines", std::mem::take(lines))
                    .with("reason", word);
                if reason == Reason::File {
                    source.file_due = now + FILE_PAUSE;
                }
                return Some(event);
            }
        }
        None
    }

    /// Nothing waits for its time any more: there will be no other occasion.
    pub fn hurry(&mut self) {
        for source in &mut self.sources {
            source.file_due = Time::ZERO;
        }
    }

    /// When there is something to tell that is not to be told before.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let waiting = self.sources.iter().filter(|s| s.untold.file > 0);
        waiting.map(|s| s.file_due).min()
    }

    /// Whether PID 1 does not know the sums.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.sources.iter().any(|s| s.total != s.reported)
    }

    /// Reports every sum that changed; `send` says whether it went out. Ends at the first that
    /// did not, and says whether all did.
    pub fn report(&mut self, mut send: impl FnMut(&Report) -> bool) -> bool {
        for source in self.sources.iter_mut().filter(|s| s.total != s.reported) {
            let report = Report::Lost {
                service: source.name.clone(),
                console: source.total.console,
                rate: source.total.rate,
                file: source.total.file,
            };
            if !send(&report) {
                return false;
            }
            source.reported = source.total;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(losses: &mut Losses, now: Time) -> Vec<String> {
        std::iter::from_fn(|| losses.confession(now))
            .map(|e| {
                let field = |key| e.field(key).unwrap().to_owned();
                [field("service"), field("lines"), field("reason")].join(" ")
            })
            .collect()
    }

    #[test]
    fn each_loss_is_told_once_and_the_sums_grow() {
        let mut losses = Losses::new(["init", "a"].into_iter());
        losses.add(1, Reason::Rate, 5);
        losses.add(0, Reason::Console, 1);
        losses.add(1, Reason::Rate, 2);
        assert_eq!(
            told(&mut losses, Time::ZERO),
            ["init 1 console", "a 7 rate"]
        );
        assert!(told(&mut losses, Time::ZERO).is_empty());
        losses.add(1, Reason::Console, 1);
        let mut reports = Vec::new();
        assert!(losses.report(|r| {
            reports.push(r.clone());
            true
        }));
        let lost = |service: &str, console, rate, file| Report::Lost {
            service: service.into(),
            console,
            rate,
            file,
        };
        assert_eq!(reports, [lost("init", 1, 0, 0), lost("a", 1, 7, 0)]);
        assert!(!losses.changed());
    }

    #[test]
    fn a_report_that_did_not_go_out_is_made_again() {
        let mut losses = Losses::new(["init"].into_iter());
        losses.add(0, Reason::File, 1);
        assert!(!losses.report(|_| false));
        assert!(losses.changed());
    }

    #[test]
    fn losses_of_the_files_are_told_at_once_and_then_rarely() {
        let mut losses = Losses::new(["a"].into_iter());
        let at = Time::from_secs(100);
        losses.add(0, Reason::File, 1);
        assert_eq!(told(&mut losses, at), ["a 1 file"]);
        losses.add(0, Reason::File, 2);
        assert!(told(&mut losses, at).is_empty());
        assert_eq!(losses.due(), Some(at + FILE_PAUSE));
        losses.add(0, Reason::File, 3);
        assert_eq!(told(&mut losses, at + FILE_PAUSE), ["a 5 file"]);
        assert_eq!(losses.due(), None);
        losses.add(0, Reason::File, 1);
        losses.hurry();
        assert_eq!(told(&mut losses, at), ["a 1 file"]);
    }
}
