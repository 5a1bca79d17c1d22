//! The time that is kept for the next boot: a battery clock for machines that have none, or a dead one.
//!
//! Without it such a machine begins each boot at the build of its image, and whoever answers its DHCP can then set
//! the clock to any later time, at which certificates that have expired are good again. So the time is kept on
//! `/var`, and no boot begins before it.
//!
//! * **Kept** is what the clock shows once it follows servers, and each [`KEEP_EVERY`] after that, on the same
//!   condition as for the battery clock: a long step that only one source asked for is not kept. A child writes it
//!   ([`store`]), since a disk can hang.
//! * **Read** it is by PID 1 before its services start ([`load`]). A clock that shows an earlier time is set to it, and
//!   counts as unset. A time from before the build, or beyond [`LIFE`](super::LIFE) after it, is not believed; the latter
//!   is told, since no boot of ours kept it.
//! * **A wrong one**, which somebody who could write to the disk left there, is mended as a wrong battery clock is: a
//!   majority of three or more servers, or two configured ones, set the clock back once a boot, and what it
//!   shows then is kept.

use super::Clock;
use crate::state::{CLOCK, StateDir, StateError};
use crate::sys::Correction;
use supervisor::Time;
use supervisor::event::{Event, EventSink};

/// How often the time is kept while the clock follows servers: a write a day wears no flash out, and certificates
/// are valid for days.
const KEEP_EVERY: Time = Time::from_secs(86_400);

impl Clock {
    /// Has the clock show at least the time that was kept.
    pub fn begin_at(&mut self, kept: Result<Option<Time>, String>, sink: &mut dyn EventSink) {
        match kept {
            Ok(None) => {}
            Ok(Some(kept)) if kept > self.latest() => sink.emit(
                Event::new("clock.warning")
                    .with(
                        "seen",
                        "a kept time of more than 30 years after the build of this image",
                    )
                    .with("kept", kept.as_secs())
                    .with("then", "it is not believed"),
            ),
            Ok(Some(kept)) => {
                let wall = super::wall();
                if let Some(forward) = self.missing_of(kept, wall) {
                    self.unset = true;
                    let set = Event::new("clock.set").with("reason", "kept time");
                    super::step(Correction::Forward(forward), [wall, kept], set, sink);
                }
            }
            Err(seen) => sink.emit(
                Event::new("clock.warning")
                    .with("seen", seen)
                    .with("then", "no time is known from the last boot"),
            ),
        }
    }

    /// By how much the clock is before the time that was kept, if that can be true.
    pub(super) fn missing_of(&self, kept: Time, wall: Time) -> Option<Time> {
        let possible = self.built..=self.latest();
        let forward = kept.checked_sub(wall)?;
        (possible.contains(&kept) && !forward.is_zero()).then_some(forward)
    }

    /// The time that is to be kept now, if it is time for that: what the clock shows.
    pub fn to_keep(&mut self, now: Time) -> Option<Time> {
        self.is_to_keep(now).then(super::wall)
    }

    pub(super) fn is_to_keep(&mut self, now: Time) -> bool {
        let recent = |last: Time| now.saturating_sub(last) < KEEP_EVERY;
        let due = self.settled && !self.unproven && !self.kept.is_some_and(recent);
        if due {
            self.kept = Some(now);
        }
        due
    }
}

/// The time that an earlier boot kept, if there is one. `durable` is whether `/var` outlives a boot.
///
/// # Errors
/// Names the file, which is there and cannot be used.
pub fn load(durable: bool) -> Result<Option<Time>, String> {
    if durable {
        read(StateDir::open())
    } else {
        Ok(None)
    }
}

pub(super) fn read(folder: Result<StateDir, StateError>) -> Result<Option<Time>, String> {
    let Some(bytes) = folder
        .and_then(|folder| folder.read(CLOCK))
        .map_err(|e| e.to_string())?
    else {
        return Ok(None);
    };
    let seconds = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.parse().ok());
    seconds
        .map(|seconds| Some(Time::from_secs(seconds)))
        .ok_or_else(|| format!("{}: no number of seconds", CLOCK.path().display()))
}

/// Keeps this time, in seconds since 1970. May take for ever: for a child of PID 1.
///
/// # Errors
/// Names the file.
pub fn store(seconds: u64) -> Result<(), StateError> {
    write(&StateDir::open()?, seconds)
}

pub(super) fn write(folder: &StateDir, seconds: u64) -> Result<(), StateError> {
    folder.write(CLOCK, seconds.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
