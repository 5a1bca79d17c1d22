//! The wall clock: who may move it, and how far.
//!
//! netcfg measures, PID 1 sets; netcfg has no right to do so itself. What it says (`net.time`) is taken as
//! the word of a stranger, since it is made from what strangers sent: whoever owns the
//! network, or netcfg, can do to the clock what this policy permits and no more.
//!
//! * **At the start**, before anything runs, a clock from before the program was built is set to when
//!   it was built: a machine without a battery, or with a hypervisor that keeps no time. The image
//!   gives all its files that time, so it is read off the program's own file.
//! * **Until the first offset of this boot that is followed** the clock may be set *forward*, once, by
//!   any amount up to [`LIFE`] after the build. Programs survive time that passed without them.
//! * **After it**, and backward at all times, the clock is only *slewed*: it runs faster or slower by at
//!   most 500 parts in a million, which no program notices. A step back makes certificates, caches and
//!   logs of the last minutes lie in the future.
//! * An offset beyond [`SLEW_MAX`] would take months. It is told as `clock.warning` and not
//!   followed: a person has to look at why the machine's own clock was that wrong, and a reboot
//!   takes the forward ones.
//! * No correction follows another within [`PACE`], and none is made of a measurement from before the
//!   last one.
//!
//! No timer of this program notices any of it: they are on `CLOCK_BOOTTIME`, which is never set.
//! The machine's battery clock is written by the kernel, each eleven minutes while it is told that the
//! clock is synchronised (`STA_UNSYNC` is off; kernel: `kernel/time/ntp.c`).

use crate::sys::{self, Correction};
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};
use supervisor::Time;
use supervisor::event::{Event, EventSink};

/// The clock cannot be later than this after the build: thirty years, and well before what a
/// timestamp of NTP can tell.
const LIFE: Time = Time::from_secs(30 * 366 * 86_400);

/// Less is no reason to set the clock; the kernel's discipline takes it in (RFC 5905: `STEPT`).
const STEP_MIN: Time = Time::from_millis(128);

/// More is not slewed.
const SLEW_MAX: Time = Time::from_secs(3600);

/// The shortest time between two corrections. netcfg measures each 64 s at most.
const PACE: Time = Time::from_secs(16);

/// A measurement that took longer to get here says nothing of the present clock.
const FRESH: Time = Time::from_secs(16);

/// The longest way of an answer that netcfg believes.
const DELAY_MAX: Time = Time::from_secs(3);

/// Between two warnings.
const QUIET: Time = Time::from_secs(3600);

/// One measurement, as netcfg tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Nanoseconds that the clock is behind.
    offset: i64,
    delay: Time,
    at: Time,
    server: String,
}

impl Measured {
    /// Reads `net.time`; `None` if it is not as it should be.
    fn read(event: &Event) -> Option<Self> {
        let number = |key| event.field(key)?.parse::<u64>().ok();
        let measured = Self {
            offset: event.field("offset_ns")?.parse().ok()?,
            delay: Time::from_micros(number("delay_us")?),
            at: Time::from_nanos(number("at_ns")?),
            server: event.field("server")?.to_owned(),
        };
        let known = (1..16).contains(&number("stratum")?);
        (known && measured.delay <= DELAY_MAX).then_some(measured)
    }

    /// How far off, either way.
    fn distance(&self) -> Time {
        Time::from_nanos(self.offset.unsigned_abs())
    }
}

/// What is to be done about a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it comes too soon, or too late.
    Pass,
    /// The clock is set forward by this.
    Step(Time),
    /// The clock is brought there gently.
    Slew(i64),
    /// It is told, and not followed.
    Refuse(&'static str),
}

/// What PID 1 knows of the clock.
#[derive(Debug)]
pub struct Clock {
    /// When the program was built, since 1970. It was never earlier.
    built: Time,
    /// Whether an offset was followed in this boot.
    settled: bool,
    corrected: Option<Time>,
    warned: Option<Time>,
}

impl Clock {
    /// For a program that was built then.
    #[must_use]
    pub fn new(built: Time) -> Self {
        Self {
            built,
            settled: false,
            corrected: None,
            warned: None,
        }
    }

    /// Looks at the clock before anything runs, and at least has it show the time of the build.
    #[must_use]
    pub fn start(sink: &mut dyn EventSink) -> Self {
        let clock = Self::new(built());
        let wall = wall();
        if let Some(forward) = clock.missing(wall) {
            let set = Event::new("clock.set").with("reason", "build time");
            clock.step(wall, forward, set, sink);
        }
        clock
    }

    /// By how much the clock is before the build.
    fn missing(&self, wall: Time) -> Option<Time> {
        let missing = self.built.saturating_sub(wall);
        (!missing.is_zero()).then_some(missing)
    }

    /// Decides about a measurement that arrives at `now`, while the clock shows `wall`.
    fn decide(&mut self, now: Time, wall: Time, measured: &Measured) -> Decision {
        let fresh = measured.at <= now && now - measured.at <= FRESH;
        let early = |last: Time| measured.at <= last || now.saturating_sub(last) < PACE;
        if !fresh || self.corrected.is_some_and(early) {
            return Decision::Pass;
        }
        let distance = measured.distance();
        let target = if measured.offset < 0 {
            wall.checked_sub(distance)
        } else {
            wall.checked_add(distance)
        };
        let possible = self.built..=self.built.saturating_add(LIFE);
        if !target.is_some_and(|target| possible.contains(&target)) {
            return Decision::Refuse("before the build of this image, or more than 30 years after");
        }
        let step = !self.settled && measured.offset > 0 && distance > STEP_MIN;
        if !step && distance > SLEW_MAX {
            return Decision::Refuse(
                "more than an hour off, which is not slewed; reboot if behind",
            );
        }
        self.settled = true;
        self.corrected = Some(now);
        if step {
            Decision::Step(distance)
        } else {
            Decision::Slew(measured.offset)
        }
    }

    /// Does what follows from a `net.time`.
    pub fn take(&mut self, event: &Event, now: Time, sink: &mut dyn EventSink) {
        let Some(measured) = Measured::read(event) else {
            return self.warn(
                now,
                Event::new("clock.warning").with("seen", "a malformed net.time"),
                sink,
            );
        };
        let wall = wall();
        match self.decide(now, wall, &measured) {
            Decision::Pass => {}
            Decision::Step(forward) => {
                let set = Event::new("clock.set").with("reason", "ntp");
                let set = set.with("offset_ms", forward.as_millis());
                self.step(wall, forward, set.with("server", &measured.server), sink);
                let _ = sys::correct_clock(Correction::Synchronised(measured.delay));
            }
            Decision::Slew(offset) => {
                let small = measured.distance() <= STEP_MIN;
                let correction = if small {
                    // What is left of an earlier large one would come on top.
                    let _ = sys::correct_clock(Correction::Glide(0));
                    Correction::Discipline(offset, measured.delay)
                } else {
                    Correction::Glide(offset / 1000)
                };
                let event = Event::new("clock.slew")
                    .with("offset_ms", milliseconds(offset))
                    .with("server", &measured.server);
                match sys::correct_clock(correction) {
                    Ok(()) => sink.emit(event),
                    Err(e) => self.warn(now, refused(&e), sink),
                }
            }
            Decision::Refuse(why) => {
                let event = Event::new("clock.warning")
                    .with("seen", why)
                    .with("offset_ms", milliseconds(measured.offset))
                    .with("server", &measured.server)
                    .with("then", "the clock is left as it is");
                self.warn(now, event, sink);
            }
        }
    }

    /// Sets the clock forward and tells `set`.
    fn step(&self, wall: Time, forward: Time, set: Event, sink: &mut dyn EventSink) {
        let correction = Correction::Forward(forward);
        sink.emit(match sys::correct_clock(correction) {
            Ok(()) => set
                .with("from", wall.as_secs())
                .with("to", wall.saturating_add(forward).as_secs()),
            Err(e) => refused(&e),
        });
    }

    fn warn(&mut self, now: Time, event: Event, sink: &mut dyn EventSink) {
        let quiet = |warned: Time| now.saturating_sub(warned) < QUIET;
        if !self.warned.is_some_and(quiet) {
            self.warned = Some(now);
            sink.emit(event);
        }
    }
}

fn refused(error: &std::io::Error) -> Event {
    Event::new("clock.warning").with("seen", format!("adjtimex: {error}"))
}

fn milliseconds(nanoseconds: i64) -> i64 {
    nanoseconds / 1_000_000
}

/// What the clock shows, since 1970; nothing if it shows an earlier time.
fn wall() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.unwrap_or_default()
}

/// When this program was built; 1970 if nobody knows, which forbids nothing.
fn built() -> Time {
    let seconds = std::fs::metadata("/proc/self/exe").map(|file| file.mtime());
    Time::from_secs(
        seconds
            .ok()
            .and_then(|s| u64::try_from(s).ok())
            .unwrap_or(0),
    )
}

#[cfg(test)]
mod tests;
