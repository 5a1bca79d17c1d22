//! Starts that came to nothing because no process could be made, or because a process could not become the
//! service's program, and whose fault that is.
//!
//! A failure that is the service's own, such as a missing environment file, is an end like any other and
//! counts against its intensity. One that is not leaves no trace in the restart law: the start is *deferred*,
//! told as `service.deferred`, and tried again after the delays of its backoff for as long as it takes. If
//! boot health depends on it and that has taken its `start-timeout`, the level above is told once: by
//! `intensity.then` if the machine has no resources left, which a reboot helps against, as `degraded` if an
//! address is missing or somebody else's, which it does not.

use super::death::Cause;
use super::machine::{Machine, Turn};
use super::table::State;
use crate::Time;
use crate::config::Escalation;
use crate::spec::backoff_delay;
use std::fmt;
use std::io;

/// No deferred start is tried again sooner, whatever its backoff says: it may well fail in no time.
const DELAY_MIN: Time = Time::from_millis(100);

/// Whose failure it is that no process could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The service's own.
    Service,
    /// The machine's: PID 1 or the kernel has no descriptor, process or memory left.
    Machine,
    /// Nobody's: the address of one of its sockets is somebody else's now, or its interface is not there.
    Address,
}

/// Why no process could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnFailure {
    /// What was tried, and what was seen.
    pub why: String,
    /// Whose failure it is.
    pub fault: Fault,
}

impl SpawnFailure {
    /// The service's own.
    #[must_use]
    pub fn of_the_service(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            fault: Fault::Service,
        }
    }

    /// By what the kernel said when `what` was tried.
    #[must_use]
    pub fn new(what: impl fmt::Display, error: &io::Error) -> Self {
        let fault = match error.raw_os_error() {
            // errno(3): out of descriptors (of the process, of the system), processes, memory, buffers.
            Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS) => {
                Fault::Machine
            }
            _ => Fault::Service,
        };
        Self {
            why: format!("{what}: {error}"),
            fault,
        }
    }

    /// By what the kernel said when one of its sockets was made.
    #[must_use]
    pub fn of_a_socket(what: impl fmt::Display, error: &io::Error) -> Self {
        let failure = Self::new(what, error);
        match error.raw_os_error() {
            // bind(2): another process has the address; it is of no interface, or of one that is not there.
            Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::ENODEV) => Self {
                fault: Fault::Address,
                ..failure
            },
            _ => failure,
        }
    }

    /// By what the kernel said at a step of the child on its way to its program.
    #[must_use]
    pub fn of_a_step(step: &str, error: &io::Error) -> Self {
        let failure = Self::new(step, error);
        match (step, error.raw_os_error()) {
            // setuid(2), execve(2): the user has as many processes as RLIMIT_NPROC allows, which is a limit
            // of the service (`limits.nproc`) or of whoever shares its user.
            ("user" | "exec", Some(libc::EAGAIN)) => Self::of_the_service(failure.why),
            _ => failure,
        }
    }

    /// Whether it is not the service's own.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.fault != Fault::Service
    }
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Starts in a row that were deferred, until one ends in another way.
#[derive(Clone, Debug)]
pub(super) struct Deferral {
    /// Since when.
    pub(super) since: Time,
    /// How many.
    tries: u32,
    /// The last failure.
    pub(super) why: String,
    /// Whether the level above was told.
    told: bool,
}

impl Machine {
    /// Whether an instance came to nothing by no fault of the service.
    pub(super) fn is_deferred(cause: &Cause) -> Option<&SpawnFailure> {
        match cause {
            Cause::NotSpawned(failure) if failure.is_foreign() => Some(failure),
            _ => None,
        }
    }

    /// Tries again later, which counts for nothing.
    pub(super) fn defer(&mut self, failure: &SpawnFailure, turn: &mut Turn<'_>) {
        let mut deferral = self.deferral.take().unwrap_or(Deferral {
            since: turn.now,
            tries: 0,
            why: String::new(),
            told: false,
        });
        deferral.tries = deferral.tries.saturating_add(1);
        deferral.why.clone_from(&failure.why);
        let backoff = &self.spec.backoff;
        let delay = turn
            .random
            .vary(backoff_delay(backoff, deferral.tries), backoff.jitter)
            .max(DELAY_MIN);
        let event = self
            .event("service.deferred")
            .with("error", failure)
            .with_ms("delay_ms", delay);
        self.tell(turn, event.with("tries", deferral.tries));
        self.enter(State::Backoff, turn.now);
        self.bound_by(delay, turn.now);
        let waited = turn.now.saturating_sub(deferral.since);
        if self.patience().is_some_and(|most| waited >= most) && !deferral.told {
            deferral.told = true;
            let then = match failure.fault {
                Fault::Service | Fault::Machine => self.spec.intensity.then,
                Fault::Address => Escalation::Degraded,
            };
            let millis = waited.as_millis();
            let why = format!("could not be started for {millis} ms: {failure}");
            self.call_the_machine(then, why, turn);
        }
        self.deferral = Some(deferral);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_tells_whose_fault_it_is() {
        let fault = |errno| SpawnFailure::new("x", &io::Error::from_raw_os_error(errno)).fault;
        assert_eq!(fault(libc::EMFILE), Fault::Machine);
        assert_eq!(fault(libc::EAGAIN), Fault::Machine);
        assert_eq!(fault(libc::ENODEV), Fault::Service);
        assert_eq!(fault(libc::ENOENT), Fault::Service);
        let socket = |errno| {
            SpawnFailure::of_a_socket("sockets: x", &io::Error::from_raw_os_error(errno)).fault
        };
        assert_eq!(socket(libc::EADDRNOTAVAIL), Fault::Address);
        assert_eq!(socket(libc::EADDRINUSE), Fault::Address);
        assert_eq!(socket(libc::ENODEV), Fault::Address);
        assert_eq!(socket(libc::ENFILE), Fault::Machine);
        assert_eq!(socket(libc::EACCES), Fault::Service);
        let step =
            |name, errno| SpawnFailure::of_a_step(name, &io::Error::from_raw_os_error(errno)).fault;
        assert_eq!(step("fds", libc::EMFILE), Fault::Machine);
        assert_eq!(step("oom_score_adj", libc::ENFILE), Fault::Machine);
        assert_eq!(step("groups", libc::ENOMEM), Fault::Machine);
        assert_eq!(step("exec", libc::ENOMEM), Fault::Machine);
        assert_eq!(step("exec", libc::EAGAIN), Fault::Service);
        assert_eq!(step("user", libc::EAGAIN), Fault::Service);
        assert_eq!(step("exec", libc::ENOENT), Fault::Service);
        let other = SpawnFailure::new("x", &io::Error::other("is longer than 65536 bytes"));
        assert_eq!(
            (other.why.as_str(), other.fault),
            ("x: is longer than 65536 bytes", Fault::Service)
        );
    }
}
