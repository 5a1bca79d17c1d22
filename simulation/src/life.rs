//! What the processes of a service do: by themselves, and as their service's troubles have it.

use super::invariants::Checked;
use super::random::between;
use super::stimulus::{KINDS, Kind};
use super::world::{What, World};
use std::time::Duration;
use supervisor::config::ServiceType;
use supervisor::core::{Id, Input, Notification, ProbeKind, Program as Part};
use supervisor::spec::Spec;

const SECOND: Duration = Duration::from_secs(1);

/// So often an abusive process wants more time before it gives up.
const PLEAS: u8 = 24;

/// What a process says by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Saying {
    Ready,
    Ping,
    /// So much more time.
    Extend(Duration),
    /// An hour, and again soon, so many times.
    Plead(u8),
    /// It gives up.
    Leaving,
}

/// A service's processes, as the kernel has them.
pub struct Life {
    /// Grows with each process; what concerns an older one is void.
    pub incarnation: u64,
    /// How many main processes there were.
    pub instance: u64,
    pub part: Option<Part>,
    pub tree: bool,
    /// Whether the empty tree is going to be told.
    pub going: bool,
    /// Whether the whole tree was sent the stop signal.
    pub signalled: bool,
    /// Until when each trouble lasts.
    pub until: [Duration; KINDS],
    pub salts: [u64; KINDS],
    pub asked: [Option<u64>; 3],
    pub last_asked: [u64; 3],
    /// How often it means to ping.
    pub interval: Duration,
    pub begun: Duration,
}

impl Life {
    pub fn new(spec: &Spec) -> Self {
        Self {
            incarnation: 0,
            instance: 0,
            part: None,
            tree: false,
            going: false,
            signalled: false,
            until: [Duration::ZERO; KINDS],
            salts: [0; KINDS],
            asked: [None; 3],
            last_asked: [0; 3],
            interval: spec.watchdog.unwrap_or_default(),
            begun: Duration::ZERO,
        }
    }
}

impl World<'_> {
    /// Whether a service has this trouble now; asking for it is its effect.
    pub(super) fn suffers(&mut self, place: usize, kind: Kind) -> bool {
        let suffers = self.lives[place].until[kind as usize] > self.now;
        if suffers {
            self.model.coverage.effect(kind);
        }
        suffers
    }

    fn salt(&self, place: usize, kind: Kind) -> u64 {
        self.lives[place].salts[kind as usize]
    }

    fn say(&mut self, place: usize, delay: Duration, saying: Saying) {
        let incarnation = self.lives[place].incarnation;
        self.after(delay, What::Say(place, incarnation, saying));
    }

    pub(super) fn end(&mut self, place: usize, delay: Duration, number: i32, signal: bool) {
        let incarnation = self.lives[place].incarnation;
        self.after(delay, What::End(place, incarnation, number, signal));
    }

    /// A process was made: what it is going to do.
    pub(super) fn begins(&mut self, place: usize, part: Part) {
        let life = &mut self.lives[place];
        if part == Part::Main {
            life.instance += 1;
            life.begun = self.now;
        }
        let hash = self.program.hash(place, self.lives[place].incarnation, 1);
        if let Part::PreStart(_) = part {
            if self.suffers(place, Kind::ReadyEarly) {
                self.say(place, between(hash, 1, 9), Saying::Ready);
            }
            let delay = between(hash, 10, 2_000);
            match self.suffers(place, Kind::CheckFails) {
                true if hash.is_multiple_of(3) => {}
                true => self.end(place, delay, 1, false),
                false => self.end(place, delay, 0, false),
            }
            return;
        }
        // The program is executed at once, or when the disk has it; or never, which is the end of it.
        let mut executes = true;
        if self.suffers(place, Kind::CrashOnStart) {
            let (number, signal) = [
                (1, false),
                (11, true),
                (127, false),
                (126, false),
                (0, false),
                (255, false),
            ][usize::try_from(hash % 6).unwrap_or(0)];
            self.end(place, between(hash, 1, 1_500), number, signal);
            executes = !matches!(number, 126 | 127);
        }
        if executes {
            let incarnation = self.lives[place].incarnation;
            let delay = between(hash / 11, 0, 40);
            self.after(delay, What::Executed(place, incarnation));
        }
        match self.program.specs[place].kind {
            ServiceType::Notify => self.will_be_ready(place, hash),
            ServiceType::Oneshot if !self.suffers(place, Kind::Hang) => {
                self.end(place, between(hash, 50, 10_000), 0, false);
            }
            ServiceType::Exec | ServiceType::Probe | ServiceType::Oneshot => {}
        }
    }

    fn will_be_ready(&mut self, place: usize, hash: u64) {
        let spec = &self.program.specs[place];
        let bound = spec.start_timeout;
        if let Some(interval) = spec.watchdog {
            self.lives[place].interval = interval;
            self.say(place, interval.mul_f64(0.8), Saying::Ping);
        }
        if self.suffers(place, Kind::Hang) || self.suffers(place, Kind::ReadyNever) {
            return;
        }
        if self.suffers(place, Kind::ExtendAbusive) {
            return self.say(place, bound / 2, Saying::Plead(PLEAS));
        }
        if self.suffers(place, Kind::ExtendHonest) {
            self.say(place, bound.mul_f64(0.8), Saying::Extend(bound));
            return self.say(place, bound.mul_f64(1.5), Saying::Ready);
        }
        let delay = if self.suffers(place, Kind::ReadyLate) {
            bound.mul_f64(0.8 + (hash % 5) as f64 * 0.1)
        } else {
            between(hash, 20, 3_000).min(bound / 2)
        };
        self.say(place, delay, Saying::Ready);
        if self.suffers(place, Kind::ReadyTwice) {
            self.say(place, delay + between(hash, 0, 2_000), Saying::Ready);
        }
    }

    pub(super) fn says(&mut self, place: usize, saying: Saying) -> Checked {
        let what = match saying {
            Saying::Ready => Notification::Ready,
            Saying::Extend(more) => Notification::ExtendTimeout(more),
            Saying::Plead(left) => {
                if left > 0 {
                    let spec = &self.program.specs[place];
                    let soon = spec.start_timeout.min(spec.stop_timeout.max(SECOND)) / 2;
                    self.say(place, soon, Saying::Plead(left - 1));
                }
                Notification::ExtendTimeout(SECOND * 3600)
            }
            Saying::Leaving => {
                let hash = self.program.hash(place, self.lives[place].incarnation, 8);
                if !self.suffers(place, Kind::Hang) {
                    self.end(place, between(hash, 1, 5_000), 0, false);
                }
                Notification::Stopping
            }
            Saying::Ping => {
                let interval = self.lives[place].interval;
                if interval.is_zero() {
                    return Ok(());
                }
                self.say(place, interval.mul_f64(0.8), Saying::Ping);
                if self.suffers(place, Kind::PingsStop) || self.suffers(place, Kind::Hang) {
                    return Ok(());
                }
                Notification::Watchdog
            }
        };
        self.feed(Input::Notify(Id(place), what))
    }

    pub(super) fn signalled(&mut self, place: usize, signal: i32) {
        let Some(part) = self.lives[place].part else {
            return;
        };
        let spec = &self.program.specs[place];
        let (stop, timeout, reload) = (spec.stop_signal, spec.stop_timeout, spec.reload_signal);
        let hash = self.program.hash(place, self.lives[place].incarnation, 2);
        if Some(signal) == reload && signal != stop {
            if !self.suffers(place, Kind::Hang) && !self.suffers(place, Kind::ReadyNever) {
                self.say(place, between(hash, 1, 4_000), Saying::Ready);
            }
            return;
        }
        if self.suffers(place, Kind::IgnoresTerm) || self.suffers(place, Kind::Hang) {
            return;
        }
        if part == Part::Main && self.suffers(place, Kind::ExtendAbusive) {
            return self.say(place, timeout / 2, Saying::Plead(PLEAS));
        }
        if part == Part::Main && self.suffers(place, Kind::ExtendHonest) {
            self.say(place, timeout.mul_f64(0.8), Saying::Extend(timeout));
            return self.end(place, timeout.mul_f64(1.5), 0, false);
        }
        match hash % 4 {
            0 => self.end(place, between(hash, 1, 3_000), 15, true),
            1 => self.end(place, between(hash, 1, 40), 1, false),
            _ => self.end(place, between(hash, 1, 400), 0, false),
        }
    }

    /// Every process gets the stop signal. What the main process leaves goes after it.
    pub(super) fn tree_signalled(&mut self, place: usize, signal: i32) {
        self.lives[place].signalled = true;
        if self.lives[place].part.is_some() {
            self.signalled(place, signal);
        } else {
            self.rest_goes(place);
        }
    }

    /// The rest of the tree goes by itself: at once, late, or never.
    pub(super) fn rest_goes(&mut self, place: usize) {
        let incarnation = self.lives[place].incarnation;
        let hash = self.program.hash(place, incarnation, 6);
        self.lives[place].going = true;
        let delay = match self.suffers(place, Kind::Lingers) {
            _ if self.border == Some(self.now) => Duration::ZERO,
            false => between(hash, 0, 5),
            true if hash.is_multiple_of(2) => return,
            true => between(hash, 100, 40_000),
        };
        self.after(delay, What::Gone(place, incarnation));
    }

    /// Every process gets SIGKILL; when that is seen, and whether, is the kernel's business.
    pub(super) fn kill(&mut self, place: usize) {
        let (alive, incarnation) = (
            self.lives[place].part.is_some(),
            self.lives[place].incarnation,
        );
        let hash = self.program.hash(place, incarnation, 3);
        let quick = between(hash, 0, 6);
        self.lives[place].going = true;
        if !self.suffers(place, Kind::StuckTree) {
            if alive {
                self.end(place, quick, 9, true);
            }
            return self.after(
                quick + between(hash / 7, 0, 5),
                What::Gone(place, incarnation),
            );
        }
        match self.salt(place, Kind::StuckTree).wrapping_add(hash) % 5 {
            // Neither is ever seen.
            0 => {}
            // The tree is told to be empty before the main process is reaped.
            1 | 2 if alive => {
                self.after(quick, What::Gone(place, incarnation));
                self.end(place, quick + between(hash, 1, 8_000), 9, true);
            }
            // The main process can be reaped, a child is stuck.
            1..=3 => {
                if alive {
                    self.end(place, quick, 9, true);
                }
                self.after(between(hash, 500, 15_000), What::Gone(place, incarnation));
            }
            // The main process itself is stuck.
            _ => {
                let late = between(hash, 3_000, 14_000);
                if alive {
                    self.end(place, late, 9, true);
                }
                self.after(late + quick, What::Gone(place, incarnation));
            }
        }
    }

    /// A probe asks; the answer is up to what the service suffers.
    pub(super) fn asked(&mut self, place: usize, kind: ProbeKind, attempt: u64) {
        self.lives[place].last_asked[kind as usize] = attempt;
        let Some(probe) = self.program.specs[place].probe(kind) else {
            return;
        };
        let (timeout, interval) = (probe.timeout, probe.interval);
        let hash = self.program.hash(
            place,
            self.lives[place].incarnation,
            attempt * 4 + kind as u64,
        );
        let mut latency = between(hash, 0, 60).min(timeout / 2);
        let warm = self.lives[place].begun + interval.mul_f64((hash % 16) as f64 / 10.0);
        let mut good = kind == ProbeKind::Liveness || self.now >= warm || !hash.is_multiple_of(3);
        if self.suffers(place, Kind::Hang) {
            return;
        }
        if self.suffers(place, Kind::Unresponsive) {
            if self.salt(place, Kind::Unresponsive).is_multiple_of(2) {
                return;
            }
            good = false;
        }
        if kind == ProbeKind::Readiness && self.suffers(place, Kind::Unfit) {
            good = false;
            // Some notice by themselves that they are of no use.
            if (hash / 64).is_multiple_of(6) {
                self.say(place, timeout + between(hash, 1, 500), Saying::Leaving);
            }
        }
        if self.suffers(place, Kind::SlowAnswers) {
            latency = timeout.mul_f64(0.5 + (hash % 10) as f64 * 0.08);
        }
        self.after(latency, What::Answer(place, kind, attempt, good));
    }

    pub(super) fn reboot(&mut self, place: usize) {
        if self.suffers(place, Kind::RebootGranted) {
            return self.after(
                between(self.lives[place].incarnation, 1, 500),
                What::StopAll,
            );
        }
        let late = self.suffers(place, Kind::RebootRefused);
        let hash = self.program.hash(place, self.lives[place].incarnation, 5);
        let delay = if late {
            between(hash, 1_000, 600_000)
        } else {
            between(hash, 0, 50)
        };
        self.after(delay, What::Refusal(place));
    }
}
