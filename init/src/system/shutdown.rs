//! The end of a running machine, after its services are stopped or given up.
//!
//! Whatever still runs is killed, what is written goes to the disk, `/var` is unmounted, and the
//! kernel is told to reboot or switch off. The verified root needs nothing: it was never written,
//! and a mapping cannot be taken away from under `/`. The watchdog is fed at each step and goes on through
//! the reset, so a step that hangs, at a dead disk, ends as one too.

use crate::devices::watchdog::Watchdog;
use crate::emit::Emitter;
use crate::failure;
use crate::manager::Verb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::WaitOptions;
use std::io;
use supervisor::Time;
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;

/// How long the kernel may take to end what was killed.
const KILL_WAIT: Time = Time::from_secs(2);

/// Ends the machine. Does not return.
pub fn finish(emitter: &mut Emitter, verb: Verb, watchdog: &mut Watchdog) -> ! {
    emitter.use_console();
    kill_the_rest();
    watchdog.step();
    rustix::fs::sync();
    watchdog.step();
    for target in ["/var", "/tmp"] {
        if let Err(e) = unmount(target, UnmountFlags::NOFOLLOW) {
            let seen = format!("unmount {target}: {}", io::Error::from(e));
            emitter.emit(Event::new("shutdown.warning").with("seen", seen));
        }
    }
    watchdog.step();
    rustix::fs::sync();
    watchdog.step();
    failure::reset(emitter, verb.command(), verb.name())
}

/// Kills every process but us (kill(2): -1 leaves out the caller), and reaps until none is left.
fn kill_the_rest() {
    let end = now() + KILL_WAIT;
    loop {
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        match rustix::process::wait(WaitOptions::NOHANG) {
            // ECHILD: nobody is left.
            Err(rustix::io::Errno::CHILD) => return,
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => {
                let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
                    tv_sec: 0,
                    tv_nsec: 1_000_000,
                });
            }
        }
        if now() >= end {
            return;
        }
    }
}
