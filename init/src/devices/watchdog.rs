//! The hardware watchdog: what brings a machine back whose kernel or PID 1 hangs.
//!
//! It counts down and resets the machine unless it is fed (kernel:
//! `Documentation/watchdog/watchdog-api.rst`). Nobody is at the machine, and a new version that hangs in
//! its initramfs has no other way back to the old one. So:
//!
//! * **Armed first.** Its driver is the first that the initramfs stage loads ([`Watchdog::arm_early`]). A
//!   machine without one says so and goes on; if a driver turns up later, the running system arms it
//!   ([`Watchdog::arm`]). One is enough: the first.
//! * **The timeout is what the driver keeps, not what was wished.** A driver refuses what is beyond it,
//!   and some round: it is offered less until it takes it, and read back.
//! * **Passed on over the execution of the next stage**, open ([`Watchdog::pass_on`]). Closing it without
//!   the magic `V` keeps most drivers counting, but not all, and the kernel complains.
//! * **Fed by the loop**, in thirds of the timeout, and only if there is progress ([`Rhythm`]).
//! * **Never disarmed.** Nobody writes `V`, and the kernel is told to leave it alone in its own part of a
//!   reboot ([`CORE_PARAMETERS`]): what hangs there is reset as well.
//!
//! softdog, a timer of the kernel that plays the watchdog, is not loaded unasked: where the clock goes on
//! while a virtual machine stands still, it would reset the machine before anybody had a turn to feed it. A
//! device of the hypervisor stands still with the machine.

use super::modules::Modules;
use crate::sys::{self, WatchdogCall};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::time::Duration;
use supervisor::Time;
use supervisor::event::{Event, EventSink};
use supervisor::logger::{now, passed};

/// Where the kernel has the drivers of watchdogs.
const DRIVERS: &str = "drivers/watchdog/";

/// Without this, drivers stop their watchdog when the kernel begins to reboot (kernel:
/// `drivers/watchdog/watchdog_core.c`, `stop_on_reboot`), and a device that does not shut down is the end.
const CORE_PARAMETERS: &CStr = c"stop_on_reboot=0";

/// The first watchdog, below `/dev`. `/dev/watchdog` is the same one, under its old name.
pub const FIRST: &str = "watchdog0";

/// `WDIOF_CARDRESET`, a bit of the boot status: the last reset was this watchdog's.
const CARD_RESET: i32 = 0x20;

/// A driver that does not say its timeout is taken to have a very short one.
const UNKNOWN: Time = Time::from_secs(3);

/// How long after its time something may still be undone. A loop that turns does what is due in
/// milliseconds; this is for a machine that is out of breath.
pub const GRACE: Time = Time::from_secs(10);

/// When to feed.
///
/// At a third of the timeout at the latest, so that one feeding that is late by as long again is no
/// harm; and from half of that on at any turn that comes anyway, so that a machine with a probe each
/// few seconds does not wake up for it at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    interval: Time,
    last: Time,
}

impl Rhythm {
    /// For a watchdog that was just fed.
    #[must_use]
    pub fn new(timeout: Time, now: Time) -> Self {
        Self {
            interval: timeout / 3,
            last: now,
        }
    }

    /// When the loop has to turn for it.
    #[must_use]
    pub fn due(&self) -> Time {
        self.last.saturating_add(self.interval)
    }

    /// A turn of the loop, after which the earliest thing still to be done is due at `owed`: whether the
    /// watchdog is to be fed now. If it is not for want of progress, that is looked at again an
    /// interval later, so that the loop does not spin meanwhile.
    pub fn turn(&mut self, now: Time, owed: Option<Time>) -> bool {
        if now < self.last.saturating_add(self.interval / 2) {
            return false;
        }
        self.last = now;
        progress(now, owed)
    }
}

/// Whether the machine makes progress: what it owes is being done.
///
/// That the loop turns is not enough: it could turn and do nothing. Every state of a service that is to
/// pass has its time (a start, a stop, a delay, the next probe, the wait for a dependency that is down), and so
/// has the stopping of the machine; what follows when a required service does not get well, ends for good or is
/// blocked is a reboot or a degraded machine, and a new try. So progress is that nothing is long overdue. A
/// machine that is degraded has told so and owes nothing: it is fed, or its reset would undo the decision
/// to stay up.
#[must_use]
pub fn progress(now: Time, owed: Option<Time>) -> bool {
    owed.is_none_or(|due| now <= due.saturating_add(GRACE))
}

/// Offers a driver this timeout, then halves of it, until it takes one.
fn offer(wanted: Duration, mut set: impl FnMut(i32) -> io::Result<i32>) -> Option<i32> {
    let first = i32::try_from(wanted.as_secs()).unwrap_or(i32::MAX).max(1);
    let halves = std::iter::successors(Some(first), |seconds| Some(seconds / 2));
    halves
        .take_while(|seconds| *seconds > 0)
        .find_map(|seconds| set(seconds).ok())
}

/// The machine's watchdog, if it has one that is armed.
#[derive(Debug, Default)]
pub struct Watchdog(Option<Armed>);

#[derive(Debug)]
struct Armed {
    device: OwnedFd,
    rhythm: Rhythm,
}

impl Watchdog {
    /// Loads the driver for the machine's watchdog and arms it, or tells that there is none.
    ///
    /// Needs `/sys` and `/dev`. To be kept: what is dropped is not fed any more.
    #[must_use]
    pub fn arm_early(modules: &Modules, wanted: Duration, sink: &mut dyn EventSink) -> Self {
        // Also for a driver that comes later. It may be built in, then the command line has to say it.
        let _ = modules.load_with("watchdog", CORE_PARAMETERS);
        for modalias in super::watchdog_modaliases() {
            let mut failed = |name: &str, e| warn(sink, &format!("{name}: {e}"));
            modules.load_from(DRIVERS, &modalias, &mut failed);
        }
        let mut watchdog = Self::default();
        if !watchdog.arm_first(wanted, sink) {
            sink.emit(Event::new("init.watchdog").with("device", "none"));
        }
        watchdog
    }

    /// Takes over what the stage before passed on, if it did. Needs `/proc`.
    #[must_use]
    pub fn take_over() -> Self {
        let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
        let is_watchdog = |path: &Path| {
            std::fs::read_link(path).is_ok_and(|to| {
                to.to_str()
                    .is_some_and(|to| to.starts_with("/dev/watchdog"))
            })
        };
        let number = open
            .flatten()
            .filter(|entry| is_watchdog(&entry.path()))
            .find_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(number.and_then(|number| passed(number).ok()).map(Armed::of))
    }

    /// Arms the first watchdog unless one is armed; false if there is none.
    pub fn arm_first(&mut self, wanted: Duration, sink: &mut dyn EventSink) -> bool {
        let there = self.0.is_some() || Path::new("/dev").join(FIRST).exists();
        if there {
            self.arm(FIRST, wanted, sink);
        }
        there
    }

    /// Arms this device unless one is armed, and tells it.
    pub fn arm(&mut self, name: &str, wanted: Duration, sink: &mut dyn EventSink) {
        if self.0.is_some() {
            return;
        }
        // Opening starts it (watchdog-api.rst).
        let path = format!("/dev/{name}");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let device = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(device) => device,
            Err(e) => return warn(sink, &format!("{path}: {}", io::Error::from(e))),
        };
        let set = |seconds| sys::watchdog(&device, WatchdogCall::SetTimeout, seconds);
        if offer(wanted, set).is_none() {
            warn(sink, &format!("{path}: keeps its own timeout"));
        }
        let armed = Armed::of(device);
        let mut event = Event::new("init.watchdog").with("device", name);
        if let Ok(identity) = sys::watchdog_identity(&armed.device) {
            event = event.with("identity", identity);
        }
        match armed.timeout() {
            Some(timeout) => event = event.with("timeout_s", timeout.as_secs()),
            None => event = event.with("timeout_s", "unknown"),
        }
        if sys::watchdog(&armed.device, WatchdogCall::BootStatus, 0)
            .is_ok_and(|bits| bits & CARD_RESET != 0)
        {
            event = event.with("last_reset", "watchdog");
        }
        sink.emit(event);
        self.0 = Some(armed);
    }

    /// Keeps it open over the execution of the next stage, which takes it over.
    pub fn pass_on(&self) {
        if let Some(armed) = &self.0 {
            // Fails for a descriptor that is not open only.
            let _ = rustix::io::fcntl_setfd(&armed.device, FdFlags::empty());
        }
    }

    /// When the loop has to turn for it, if ever.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.0.as_ref().map(|armed| armed.rhythm.due())
    }

    /// How long whoever feeds it may be silent.
    #[must_use]
    pub fn interval(&self) -> Option<Time> {
        self.0.as_ref().map(|armed| armed.rhythm.interval)
    }

    /// A turn of the loop: feeds it if it is time and there is progress, see [`Rhythm::turn`].
    pub fn turn(&mut self, now: Time, owed: Option<Time>) {
        if let Some(armed) = &mut self.0
            && armed.rhythm.turn(now, owed)
        {
            armed.feed();
        }
    }

    /// Feeds it: a step is done, and the next may take the whole timeout.
    pub fn step(&mut self) {
        if let Some(armed) = &mut self.0 {
            armed.feed();
            armed.rhythm.last = now();
        }
    }
}

impl Armed {
    fn of(device: OwnedFd) -> Self {
        let mut armed = Self {
            device,
            rhythm: Rhythm::new(UNKNOWN, now()),
        };
        armed.feed();
        armed.rhythm = Rhythm::new(armed.timeout().unwrap_or(UNKNOWN), now());
        armed
    }

    /// What the driver says.
    fn timeout(&self) -> Option<Time> {
        let seconds = sys::watchdog(&self.device, WatchdogCall::Timeout, 0).ok()?;
        let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        seconds.map(Time::from_secs)
    }

    fn feed(&self) {
        // A driver that fails here brings about what it is for.
        let _ = sys::watchdog(&self.device, WatchdogCall::KeepAlive, 0);
    }
}

fn warn(sink: &mut dyn EventSink, seen: &str) {
    let event = Event::new("boot.warning").with("what", "watchdog");
    sink.emit(event.with("seen", seen));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A driver that takes what is in its range.
    fn driver(least: i32, most: i32) -> impl FnMut(i32) -> io::Result<i32> {
        move |seconds| {
            let taken = (least..=most).contains(&seconds).then_some(seconds);
            taken.ok_or_else(|| io::ErrorKind::InvalidInput.into())
        }
    }

    #[test]
    fn a_driver_gets_what_it_can_keep() {
        let minute = Duration::from_secs(60);
        assert_eq!(offer(minute, driver(1, 2046)), Some(60));
        assert_eq!(offer(minute, driver(1, 59)), Some(30));
        assert_eq!(offer(minute, driver(1, 1)), Some(1));
        assert_eq!(offer(minute, driver(61, 100)), None);
        assert_eq!(offer(Duration::ZERO, driver(1, 9)), Some(1));
        assert_eq!(offer(Duration::MAX, driver(1, 2)), Some(1));
    }

    #[test]
    fn what_is_long_overdue_is_no_progress() {
        let at = Time::from_secs(100);
        assert!(progress(at, None));
        assert!(progress(at, Some(at)));
        assert!(progress(at + GRACE, Some(at)));
        assert!(!progress(at + GRACE + Time::from_millis(1), Some(at)));
        // A machine that ought to have ended is not fed, and one that has got on is fed again.
        let mut rhythm = Rhythm::new(Time::from_secs(60), at);
        let later = rhythm.due();
        assert!(!rhythm.turn(later, Some(at)));
        assert!(rhythm.due() > later, "the loop would spin");
        assert!(rhythm.turn(rhythm.due(), None));
    }

    #[test]
    fn none_is_never_due() {
        let mut none = Watchdog::default();
        none.turn(Time::from_secs(9), None);
        none.step();
        none.pass_on();
        assert_eq!((none.due(), none.interval()), (None, None));
    }

    proptest! {
        #[test]
        fn at_least_half_of_what_a_driver_can_keep(wanted in 1u64..5000, most in 1i32..5000) {
            let taken = offer(Duration::from_secs(wanted), driver(1, most)).unwrap();
            prop_assert!(taken <= most && taken.unsigned_abs() as u64 <= wanted);
            prop_assert!(u64::from(taken.unsigned_abs()) * 2 + 1 >= wanted.min(most.unsigned_abs().into()));
        }

        /// Whatever else makes the loop turn, it is fed in time, and never more often than needed.
        #[test]
        fn a_loop_that_turns_when_due_feeds_in_time(
            timeout in 1u64..4000,
            pauses in proptest::collection::vec(0u64..2000, 1..200),
        ) {
            let timeout = Time::from_secs(timeout);
            let mut now = Time::from_secs(1);
            let mut rhythm = Rhythm::new(timeout, now);
            let mut fed = now;
            for pause in pauses {
                now = (now + Time::from_secs(pause)).min(rhythm.due());
                if rhythm.turn(now, Some(now)) {
                    prop_assert!(now - fed <= timeout / 3);
                    prop_assert!(now - fed >= timeout / 6);
                    fed = now;
                }
                prop_assert!(rhythm.due() > now && rhythm.due() - fed <= timeout / 3);
            }
        }
    }
}
