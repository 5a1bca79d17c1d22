//! What cannot be gone on with, and what the machine does then.
//!
//! Nobody is at the machine. So a failure says what was done, what was looked for and what was seen
//! instead, as one event, and the machine then does what the policy says: reboot, so that the loader
//! counts the try and falls back to the other slot in the end, or halt, for somebody who reads the
//! console. It never just stands there: a halt is told as such.

use crate::cmdline::OnFailure;
use crate::devices::watchdog::Watchdog;
use crate::emit::Emitter;
use rustix::system::RebootCommand;
use std::fmt;
use std::time::Duration;
use supervisor::event::{Event, EventSink};

/// Why a boot cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step, as `root` or `config`.
    pub what: &'static str,
    /// What it looked for or wanted.
    pub looked_for: String,
    /// What it saw instead.
    pub seen: String,
}

impl Failure {
    /// Of a step that wanted something and got an error or a sight.
    pub fn new(what: &'static str, looked_for: impl fmt::Display, seen: impl fmt::Display) -> Self {
        Self {
            what,
            looked_for: looked_for.to_string(),
            seen: seen.to_string(),
        }
    }
}

/// Time for a person, or a recorder, at the console before the screen is lost.
const REBOOT_DELAY: i64 = 3;

/// The longest wait for the console's last bytes.
const DRAIN: Duration = Duration::from_millis(500);

/// Tells the failure and ends the boot by the policy. A machine that is to stay is kept from its watchdog.
pub fn end(
    emitter: &mut Emitter,
    failure: &Failure,
    policy: OnFailure,
    watchdog: &mut Watchdog,
) -> ! {
    watchdog.step();
    let Failure {
        what,
        looked_for,
        seen,
    } = failure;
    emitter.emit(
        Event::new("boot.failed")
            .with("what", what)
            .with("looked_for", looked_for)
            .with("seen", seen)
            .with("then", policy.name()),
    );
    emitter.drain(DRAIN);
    match policy {
        OnFailure::Reboot => {
            pause(REBOOT_DELAY);
            rustix::fs::sync();
            reset(emitter, RebootCommand::Restart, "reboot")
        }
        OnFailure::Halt => {
            rustix::fs::sync();
            let interval = watchdog.interval().map(|i| i.as_secs().max(1));
            let interval = interval.and_then(|i| i64::try_from(i).ok());
            loop {
                pause(interval.unwrap_or(i64::MAX));
                watchdog.step();
            }
        }
    }
}

/// The end of the machine's running: reboot or power off, at once.
pub fn reset(emitter: &mut Emitter, command: RebootCommand, verb: &str) -> ! {
    emitter.emit(Event::new("shutdown.done").with("verb", verb));
    emitter.drain(DRAIN);
    let refused = rustix::system::reboot(command);
    // reboot(2) returns only if it failed. PID 1 must not end: the kernel would panic, which
    // `panic=` turns into the reboot that was wanted.
    emitter.emit(
        Event::new("init.crash")
            .with("what", "reboot refused")
            .with("error", format!("{refused:?}")),
    );
    std::process::abort()
}

fn pause(seconds: i64) {
    let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    });
}
