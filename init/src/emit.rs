//! The one emitter of PID 1: every event passes here.
//!
//! An event goes to the kernel's log, to the console, and into the record of this boot. None of
//! the ways may block: before the `logger` runs, the line is written to the console itself,
//! opened non-blocking; after that, into the logger's pipe. What finds no room is counted, and the
//! count is told with the next event that does (`lost=N`).

use crate::kmsg_logger::{self, Kmsg};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::time::Duration;
use supervisor::Time;
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;

/// Syslog severity `info`: below the console's level, so that the kernel does not show there
/// what we show ourselves.
const SEVERITY: u8 = 6;

/// Events of one boot that are kept for its report; a boot has a few dozen.
const RECORD_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Emitter {
    kmsg: &'static Kmsg,
    out: Option<OwnedFd>,
    lost: u64,
    record: Vec<(Time, String)>,
}

impl Emitter {
    /// Emits to the console itself. Without a console, only to the kernel's log.
    #[must_use]
    pub fn direct() -> Self {
        Self {
            kmsg: kmsg_logger::install(),
            out: open_console(),
            lost: 0,
            record: Vec::new(),
        }
    }

    /// From now on emits into this pipe, which must be non-blocking.
    pub fn use_pipe(&mut self, pipe: OwnedFd) {
        self.out = Some(pipe);
    }

    /// From now on emits to the console itself again.
    pub fn use_console(&mut self) {
        self.out = open_console();
    }

    /// The lines of this boot so far, oldest first.
    #[must_use]
    pub fn record(&self) -> &[(Time, String)] {
        &self.record
    }

    /// Waits until the console sent what it was given, at most for `limit`.
    ///
    /// For the last moment before a reboot, which would cut the line off.
    pub fn drain(&self, limit: Duration) {
        let end = now() + limit;
        while let Some(out) = &self.out {
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
        self.kmsg.write(SEVERITY, &line);
        if self.record.len() < RECORD_MAX {
            self.record.push((at, line.clone()));
        }
        line.push('\n');
        match &self.out {
            Some(out) => match rustix::io::write(out, line.as_bytes()) {
                Ok(count) if count == line.len() => self.lost = 0,
                Ok(_) | Err(_) => self.lost += 1,
            },
            None => self.lost = 0,
        }
    }
}

/// Non-blocking and never as a controlling terminal: PID 1 must not wait for a serial line, nor
/// be hung up by it.
fn open_console() -> Option<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/console", flags, Mode::empty()).ok()
}
