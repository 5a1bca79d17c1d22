//! Supervision of services: what PID 1 does all day.
//!
//! The crate has two halves with one seam between them.
//!
//! * [`core`] decides. It is pure: `step(now, input) -> actions`, no clock, no I/O, no
//!   randomness but a seeded generator handed in. Its states and laws are told at the top
//!   of [`core::machine`].
//! * [`driver`] does. It turns kernel events (a child's end, a datagram, a readable socket,
//!   an empty cgroup) into inputs of the core, and the core's actions into system calls. It
//!   takes no decision: an `if` about services belongs into the core.
//!
//! Around them: [`config`] is the written form of a service in `init.toml`, [`spec`] the
//! validated form that core and driver work on, [`event`] the one value in which everything
//! that happens is told, and [`logger`] the process that carries service output and events
//! to the console, so that PID 1 itself never waits for a serial line.
//!
//! The crate knows nothing of boot, network and images.

#![deny(unsafe_code)]

pub mod config;
pub mod core;
pub mod driver;
mod environment;
pub mod event;
pub mod event_limit;
pub mod logger;
pub mod notifier;
pub mod poller;
pub mod received;
pub mod spec;
pub mod status;
#[allow(unsafe_code, reason = "the only module that may; see its prose")]
pub mod sys;
pub mod token_bucket;

/// A point in time: how long ago the kernel started, by `CLOCK_BOOTTIME`.
///
/// Steps of the wall clock do not move it, and it goes on while the machine is suspended.
pub type Time = std::time::Duration;

/// Whole milliseconds, as statuses and events have them.
#[must_use]
pub fn millis(time: Time) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
