//! The end of the processes that are left when the services were stopped or given up.
//!
//! Mostly none is. Where one service took all the time there is for stopping, those that stop after it were
//! never asked, and would lose what they have not written; so every process is sent TERM first, and KILL
//! only after [`TERM_WAIT`], as systemd-shutdown(8) does. The caller is PID 1: what is left are its children,
//! or become that when their parents end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::WaitOptions;
use rustix::thread::{Timespec, nanosleep};
use supervisor::Time;
use supervisor::logger::now;

/// How long they have to end of themselves.
const TERM_WAIT: Time = Time::from_secs(5);

/// How long the kernel may take to end what was killed.
const KILL_WAIT: Time = Time::from_secs(2);

/// How long to wait before the next look whether one of them has ended.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

/// Ends every process but the caller. `wait` is called before each wait and signal: it feeds the watchdog.
pub fn end(mut wait: impl FnMut()) {
    wait();
    let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
    if reaped_within(TERM_WAIT, &mut wait) {
        return;
    }
    // Killed anew after each look, as a process can make another between two kills.
    reaped_within(KILL_WAIT, || {
        wait();
        // kill(2): -1 leaves out the caller.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    });
}

/// Reaps until nobody is left, which is true, or the time is over. `wait` is called before each look.
fn reaped_within(time: Time, mut wait: impl FnMut()) -> bool {
    let end = now() + time;
    loop {
        wait();
        match rustix::process::wait(WaitOptions::NOHANG) {
            // Nobody is left.
            Err(Errno::CHILD) => return true,
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => {
                let _ = nanosleep(&PAUSE);
            }
        }
        if now() >= end {
            return false;
        }
    }
}
