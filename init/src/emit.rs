//! The one emitter of PID 1: every event passes here.
//!
//! An event goes to the kernel's log, to the console, and into the record of this boot. None of
//! the ways may block: before the `logger` runs, the line is written to the console itself,
//! opened non-blocking; after that, into the logger's pipe; and to the console itself again while the
//! logger does not come back, or nobody would hear of that. What finds no room is counted, and the
//! count is told with the next event that does (`lost=N`).

use crate::kmsg_logger::{self, Kmsg};
use crate::record::Record;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::time::Duration;
use supervisor::Time;
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;

/// Syslog severity `info`: below the console's level, so that the kernel does not show there
/// what we show ourselves.
const SEVERITY: u8 = 6;

/// See the module.
#[derive(Debug)]
pub struct Emitter {
    kmsg: Option<&'static Kmsg>,
    /// The console itself, or the standard output of a container.
    console: Option<OwnedFd>,
    /// To the logger.
    pipe: Option<OwnedFd>,
    /// Whether the pipe is to be used, once there is one.
    through_logger: bool,
    /// Since the last event that found room.
    lost: u64,
    lost_total: u64,
    record: Record,
    /// How many of the newest were not taken by [`Emitter::fresh`] yet.
    fresh: usize,
}

impl Emitter {
    /// Emits to the kernel's log and the console itself. Without a console, only to the kernel's log.
    #[must_use]
    pub fn direct() -> Self {
        Self::new(Some(kmsg_logger::install()), open_console())
    }

    /// Emits to this descriptor only, which must be non-blocking: in a container the kernel's log and
    /// its console are not ours.
    #[must_use]
    pub fn contained(out: Option<OwnedFd>) -> Self {
        Self::new(None, out)
    }

    fn new(kmsg: Option<&'static Kmsg>, console: Option<OwnedFd>) -> Self {
        Self {
            kmsg,
            console,
            pipe: None,
            through_logger: true,
            lost: 0,
            lost_total: 0,
            record: Record::default(),
            fresh: 0,
        }
    }

    /// From now on emits into the logger's pipe, which must be non-blocking.
    pub fn use_pipe(&mut self, pipe: OwnedFd) {
        self.pipe = Some(pipe);
    }

    /// Whether the logger is there to read its pipe. While it is not, events go to the console itself.
    pub fn logger_runs(&mut self, runs: bool) {
        self.through_logger = runs;
    }

    /// From now on emits to the console itself again, opened anew: it may have been hung up.
    pub fn use_console(&mut self) {
        self.pipe = None;
        if self.kmsg.is_some() {
            self.console = open_console();
        }
    }

    fn out(&self) -> Option<&OwnedFd> {
        let pipe = self.pipe.as_ref().filter(|_| self.through_logger);
        pipe.or(self.console.as_ref())
    }

    /// The newest so many events of this boot, oldest first, as far as they are kept.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = (Time, Event)> {
        self.record.from(self.record.len().saturating_sub(count))
    }

    /// What happened since the last call, oldest first.
    pub fn fresh(&mut self) -> impl Iterator<Item = (Time, Event)> {
        let count = std::mem::take(&mut self.fresh);
        self.newest(count)
    }

    /// Events that found no room on their way to the console, since the start.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost_total
    }

    /// Waits until the console sent what it was given, at most for `limit`.
    ///
    /// For the last moment before a reboot, which would cut the line off.
    pub fn drain(&self, limit: Duration) {
        let end = now() + limit;
        while let Some(out) = self.out() {
            if crate::sys::unsent(out) == 0 || now() >= end {
                break;
            }
            let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
                tv_sec: 0,
                tv_nsec: 2_000_000,
            });
        }
    }
}

impl EventSink for Emitter {
    fn emit(&mut self, event: Event) {
        let at = now();
        let event = if self.lost > 0 {
            event.with("lost", self.lost)
        } else {
            event
        };
        let mut line = event.line(at);
        if let Some(kmsg) = self.kmsg {
            kmsg.write(SEVERITY, &line);
        }
        if self.record.push(at, &event) {
            self.fresh = self.fresh.saturating_add(1);
        }
        line.push('\n');
        let fits = self.out().is_none_or(|out| {
            let written = rustix::io::write(out, line.as_bytes());
            written.is_ok_and(|count| count == line.len())
        });
        if fits {
            self.lost = 0;
        } else {
            self.lost += 1;
            self.lost_total += 1;
        }
    }
}

/// Non-blocking and never as a controlling terminal: PID 1 must not wait for a serial line, nor
/// be hung up by it.
fn open_console() -> Option<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/console", flags, Mode::empty()).ok()
}
