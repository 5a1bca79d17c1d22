//! Time since boot, and a timer on it.
//!
//! The clock runs on during suspend and is never set: a lease that ended while the machine
//! slept is over when it wakes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::store::Clocks;
use crate::sys;

/// No time before this one is possible when the file of the program does not say when it was
/// built: 2025-01-01.
const OLDEST: Duration = Duration::from_secs(1_735_689_600);

/// The time since boot.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The wall clock, since 1970.
pub fn wall() -> Duration {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.unwrap_or_default()
}

/// When this program was built, since 1970: the image gives all its files that time.
pub fn built() -> Duration {
    let modified = fs::metadata("/proc/self/exe").and_then(|file| file.modified());
    let since = modified.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default());
    since.unwrap_or_default().max(OLDEST)
}

/// All clocks, for the lease file.
pub fn clocks() -> Clocks {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Clocks {
        boot_id: boot_id.trim().to_owned(),
        since_boot: now(),
        wall: wall().as_secs(),
    }
}

/// Wakes the driver at a time since boot.
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
}

impl Timer {
    /// A timer that is not set. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Timer {
            fd: sys::watch(fd)?,
        })
    }

    /// Sets it to `deadline`, or to never.
    pub fn set(&self, deadline: Option<Duration>) -> io::Result<()> {
        // Zero would switch it off; a deadline in the past fires at once.
        let at = deadline.map_or(Duration::ZERO, |at| at.max(Duration::from_nanos(1)));
        let value = Timespec {
            tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at.subsec_nanos().into(),
        };
        let once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spec = Itimerspec {
            it_interval: once,
            it_value: value,
        };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }

    /// Ready when the deadline has passed.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut guard = ready!(self.fd.poll_read_ready(cx))?;
        // Setting it again makes it unreadable; until then it may as well be polled again.
        guard.clear_ready();
        Poll::Ready(Ok(()))
    }
}
