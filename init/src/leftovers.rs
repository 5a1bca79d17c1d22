//! The end of the processes that are left when the services were stopped or given up.
//!
//! Mostly none is. Where one service took all the time there is for stopping, those that stop after it were
//! never asked, and would lose what they have not written; so every process is sent TERM first, and KILL
//! only after [`TERM_WAIT`], as systemd-shutdown(8) does. The caller is PID 1: what is left are its children,
//! or become that when their parents end. How many there were after each of the two signals is told: those that did not end
//! on TERM may not have written everything, and those that did not on KILL keep `/var` busy.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::WaitOptions;
use rustix::thread::{Timespec, nanosleep};
use supervisor::Time;
use supervisor::event::{Event, EventSink};
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

/// More processes are not looked at.
const COUNT_MAX: usize = 10_000;

/// The flag of a kernel thread (kernel: `include/linux/sched.h`), which no signal ends.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Ends every process but the caller. `wait` is called before each wait and signal: it feeds the watchdog.
pub fn end(sink: &mut dyn EventSink, mut wait: impl FnMut()) {
    wait();
    let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
    if reaped_within(TERM_WAIT, &mut wait) {
        return;
    }
    let after_term = left();
    // Killed anew after each look, as a process can make another between two kills.
    let all = reaped_within(KILL_WAIT, || {
        wait();
        // kill(2): -1 leaves out the caller.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    });
    let after_kill = if all { 0 } else { left() };
    sink.emit(
        Event::new("shutdown.warning")
            .with("seen", "processes left")
            .with("after_term", after_term)
            .with("after_kill", after_kill),
    );
}

/// How many processes there are besides the caller.
fn left() -> usize {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != std::process::id());
    let stat = |pid: &u32| std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    others
        .take(COUNT_MAX)
        .filter(|pid| runs(&String::from_utf8_lossy(&stat(pid))).unwrap_or(false))
        .count()
}

/// Whether this is a process that runs: no kernel thread, and none that waits to be reaped (proc_pid_stat(5)).
fn runs(stat: &str) -> Option<bool> {
    // The name is in parentheses, and may have some itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    Some(!matches!(state, "Z" | "X") && flags & PF_KTHREAD == 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_runs_unless_it_is_a_kernel_thread_or_a_zombie() {
        let ours = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(runs(&ours), Some(true));
        for (stat, expected) in [
            ("7 (a) Z (b) S 1 7 7 0 -1 4194560 0", Some(true)),
            ("7 (sh) Z 1 7 7 0 -1 4194560 0", Some(false)),
            ("7 (sh) D 1 7 7 0 -1 4194560 0", Some(true)),
            ("2 (kthreadd) S 0 0 0 0 -1 2129984 0", Some(false)),
            ("7 (sh) S 1 7", None),
            ("", None),
        ] {
            assert_eq!(runs(stat), expected, "{stat}");
        }
    }
}
