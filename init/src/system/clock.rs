//! The wall clock: who may move it, and how far.
//!
//! netcfg measures, PID 1 sets; netcfg has no right to do so itself. What it says (`net.time`) is taken as
//! the word of a stranger, since it is made from what strangers sent: whoever owns the
//! network, or netcfg, can do to the clock what this policy permits and no more.
//!
//! * **At the start**, before anything runs, a clock from before the program was built is set to when
//!   it was built: a machine without a battery, or with a hypervisor that keeps no time. The image
//!   gives all its files that time, so it is read off the program's own file. Once `/var` is there, the same goes
//!   for the time that the last boot kept ([`floor`]).
//! * **Until the first offset of this boot that is followed** the clock may be set, once, to a time from
//!   the build to [`LIFE`] after it. *Forward* by up to [`ALONE_MAX`] whoever says so: programs survive time
//!   that passed without them. By more only if a configured server or a majority of three or more says
//!   so, or if the clock was found to be unset at the start: a lease's one server could move a clock that was right
//!   by years. *Back* by more than [`SLEW_MAX`] only if a majority of three or more, or two configured servers, say
//!   so: that mends a clock which somebody had put into the future, while certificates, caches and logs of the
//!   last minutes suffer.
//! * **After it** the clock is only *slewed*: it runs faster or slower by at most 500 parts in a million,
//!   which no program notices.
//! * An offset beyond [`SLEW_MAX`] would take months. It is told as `clock.warning` and not
//!   followed: a person has to look at why the machine's own clock was that wrong.
//! * **After a step of more than [`PROVEN_MAX`] that no configured server and another one back** the battery clock
//!   is not written, until they do. So what one lease's servers said, however many it names, ends with the boot.
//! * No correction follows another within [`PACE`], and none is made of a measurement from before the
//!   last one.
//!
//! No timer of this program notices any of it: they are on `CLOCK_BOOTTIME`, which is never set.
//! The machine's battery clock is written by the kernel, each eleven minutes while it is told that the
//! clock is synchronised (`STA_UNSYNC` is off; kernel: `kernel/time/ntp.c`).

pub mod floor;

use crate::sys::{self, Correction, Synchronised};
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};
use supervisor::Time;
use supervisor::event::{Event, EventSink};

/// The clock cannot be later than this after the build: thirty years, and well before what a
/// timestamp of NTP can tell.
const LIFE: Time = Time::from_secs(30 * 366 * 86_400);

/// The longest step forward that one server of a lease is believed.
const ALONE_MAX: Time = Time::from_secs(86_400);

/// The longest step after which the battery clock is written whoever said so: far from [`SLEW_MAX`], within
/// which an honest server mends it again.
const PROVEN_MAX: Time = Time::from_secs(60);

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
    /// How many servers answered, how many of these agree, and how many of those are configured.
    servers: u64,
    agreeing: u64,
    configured: u64,
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
            servers: number("servers")?,
            agreeing: number("agreeing")?,
            configured: number("configured")?,
        };
        let known = (1..16).contains(&number("stratum")?);
        let counts = measured.configured <= measured.agreeing
            && (1..=measured.servers).contains(&measured.agreeing);
        (known && counts && measured.delay <= DELAY_MAX).then_some(measured)
    }

    /// Whether more than half of three or more say so.
    fn is_majority(&self) -> bool {
        self.servers >= 3 && self.agreeing > self.servers / 2
    }

    /// Whether a step forward of any length may follow.
    fn is_credible(&self) -> bool {
        self.configured >= 1 || self.is_majority()
    }

    /// Whether a step back may follow.
    fn mends(&self) -> bool {
        self.configured >= 2 || self.is_majority()
    }

    /// Whether the battery clock may keep what follows. All servers of a lease are one voice: whoever answers
    /// DHCP chose them.
    fn is_proven(&self) -> bool {
        self.configured >= 2 || self.configured == 1 && self.is_majority()
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
    /// The clock is set back by this.
    StepBack(Time),
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
    /// Whether the clock was before the build, or the time that was kept, when this boot began, so that it is known
    /// to be wrong.
    unset: bool,
    /// Whether an offset was followed in this boot.
    settled: bool,
    /// Whether the battery clock is left alone, since a long step is not proven.
    unproven: bool,
    corrected: Option<Time>,
    warned: Option<Time>,
    /// When the time was last kept for the next boot.
    kept: Option<Time>,
}

impl Clock {
    /// For a program that was built then.
    #[must_use]
    pub fn new(built: Time) -> Self {
        Self {
            built,
            unset: false,
            settled: false,
            unproven: false,
            corrected: None,
            warned: None,
            kept: None,
        }
    }

    /// Looks at the clock before anything runs, and at least has it show the time of the build.
    #[must_use]
    pub fn start(sink: &mut dyn EventSink) -> Self {
        let mut clock = Self::new(built());
        let wall = wall();
        if let Some(forward) = clock.missing(wall) {
            clock.unset = true;
            let set = Event::new("clock.set").with("reason", "build time");
            let to = wall.saturating_add(forward);
            step(Correction::Forward(forward), [wall, to], set, sink);
        }
        clock
    }

    /// The latest time that can be right.
    fn latest(&self) -> Time {
        self.built.saturating_add(LIFE)
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
        let possible = self.built..=self.latest();
        if !target.is_some_and(|target| possible.contains(&target)) {
            return Decision::Refuse("before the build of this image, or more than 30 years after");
        }
        let decision = if measured.offset > 0 && distance > STEP_MIN && !self.settled {
            if distance > ALONE_MAX && !self.unset && !measured.is_credible() {
                return Decision::Refuse(
                    "more than a day behind, by servers of a lease alone; configure servers, or have a majority of three",
                );
            }
            Decision::Step(distance)
        } else if distance <= SLEW_MAX {
            Decision::Slew(measured.offset)
        } else if measured.offset < 0 && !self.settled {
            if !measured.mends() {
                return Decision::Refuse(
                    "more than an hour ahead, by too few servers; configure two, or have a majority of three",
                );
            }
            Decision::StepBack(distance)
        } else {
            return Decision::Refuse(
                "more than an hour off, which is not slewed; a reboot may set the clock",
            );
        };
        let is_long =
            matches!(decision, Decision::Step(by) | Decision::StepBack(by) if by > PROVEN_MAX);
        self.unproven = (self.unproven || is_long) && !measured.is_proven();
        self.settled = true;
        self.corrected = Some(now);
        decision
    }

    /// What the kernel is told, and with it whether it writes the battery clock.
    fn synchronised(&self, measured: &Measured) -> Synchronised {
        if self.unproven {
            Synchronised::Unproven
        } else {
            Synchronised::Within(measured.delay)
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
            Decision::Step(by) => {
                let to = wall.saturating_add(by);
                self.set(Correction::Forward(by), [wall, to], &measured, sink);
            }
            Decision::StepBack(by) => {
                let to = wall.saturating_sub(by);
                self.set(Correction::Back(by), [wall, to], &measured, sink);
            }
            Decision::Slew(offset) => {
                let small = measured.distance() <= STEP_MIN;
                let correction = if small {
                    // What is left of an earlier large one would come on top.
                    let _ = sys::correct_clock(Correction::Glide(0));
                    Correction::Discipline(offset, self.synchronised(&measured))
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

    /// Sets the clock to what was measured.
    fn set(
        &self,
        correction: Correction,
        from_to: [Time; 2],
        measured: &Measured,
        sink: &mut dyn EventSink,
    ) {
        let set = Event::new("clock.set")
            .with("reason", "ntp")
            .with("offset_ms", milliseconds(measured.offset))
            .with("server", &measured.server)
            .with("rtc", if self.unproven { "kept" } else { "written" });
        step(correction, from_to, set, sink);
        let _ = sys::correct_clock(Correction::Synchronised(self.synchronised(measured)));
    }

    fn warn(&mut self, now: Time, event: Event, sink: &mut dyn EventSink) {
        let quiet = |warned: Time| now.saturating_sub(warned) < QUIET;
        if !self.warned.is_some_and(quiet) {
            self.warned = Some(now);
            sink.emit(event);
        }
    }
}

/// Sets the clock and tells `set`.
fn step(correction: Correction, [from, to]: [Time; 2], set: Event, sink: &mut dyn EventSink) {
    sink.emit(match sys::correct_clock(correction) {
        Ok(()) => set.with("from", from.as_secs()).with("to", to.as_secs()),
        Err(e) => refused(&e),
    });
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
