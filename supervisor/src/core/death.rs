//! How an instance ended, and why.

use super::spawn::SpawnFailure;
use crate::Time;
use crate::status;
use std::fmt;

/// How a main process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it; whether it left a core.
    Signal(i32, bool),
    /// It never became the program: what failed on the way to it, and whose failure that is.
    NotExecuted(SpawnFailure),
    /// It is gone, but was no child of ours, so nobody told us how (`MAINPID=` of a process whose
    /// parent lives).
    Unknown,
}

/// Why an instance was taken away or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody wanted it to stop, or to start anew.
    Requested,
    /// A service that it requires went.
    Dependency(String),
    /// Not ready within `start-timeout`.
    StartTimeout,
    /// The startup or liveness probe, and its last failure.
    Probe(&'static str, String),
    /// No `WATCHDOG=1` in time, or `WATCHDOG=trigger`.
    Watchdog,
    /// It broke the rules of a channel that it has to init, and how.
    Misbehaved(String),
    /// It said `STOPPING=1`; how its main process ended after that.
    Leaving(Option<ExitStatus>),
    /// A check before the start did not succeed: which one, and how it ended.
    PreStart(usize, ExitStatus),
    /// It ended by itself.
    Ended(ExitStatus),
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// No process could be made, or it could not become its program by no fault of the service.
    NotSpawned(SpawnFailure),
}

impl Cause {
    /// Whether it went by no fault of its own: then the restart law has nothing to say.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        matches!(self, Self::Requested | Self::Dependency(_))
    }

    /// Whether it ended as a program that has done its work.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(
            self,
            Self::Ended(ExitStatus::Code(0)) | Self::Leaving(Some(ExitStatus::Code(0)))
        )
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal, false) => write!(f, "signal {signal}"),
            Self::Signal(signal, true) => write!(f, "signal {signal}, core dumped"),
            Self::NotExecuted(failure) => failure.fmt(f),
            Self::Unknown => f.write_str("ended, nobody saw how"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("requested"),
            Self::Dependency(name) => write!(f, "{name} went, which it requires"),
            Self::StartTimeout => f.write_str("start-timeout"),
            Self::Probe(kind, why) => write!(f, "{kind} probe: {why}"),
            Self::Watchdog => f.write_str("watchdog"),
            Self::Misbehaved(how) => write!(f, "misbehaves: {how}"),
            Self::Leaving(None) => f.write_str("STOPPING=1"),
            Self::Leaving(Some(status)) => write!(f, "STOPPING=1, then {status}"),
            Self::PreStart(number, status) => write!(f, "pre-start check {number}: {status}"),
            Self::Ended(status) => status.fmt(f),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::NotSpawned(failure) => failure.fmt(f),
        }
    }
}

/// The end of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// When it was over.
    pub at: Time,
    /// Its main process, if there was one.
    pub pid: Option<i32>,
    /// From its start to its end.
    pub uptime: Time,
    /// Why.
    pub cause: Cause,
    /// How the main process ended, if it was seen.
    pub status: Option<ExitStatus>,
    /// Whether the kernel killed in it for want of memory.
    pub oom: bool,
    /// The most memory it used.
    pub memory_peak: Option<u64>,
}

impl Death {
    /// To be shown.
    #[must_use]
    pub fn status(&self) -> status::Death {
        let (code, signal, core) = match &self.status {
            Some(ExitStatus::Code(code)) => (Some(*code), None, false),
            Some(ExitStatus::Signal(signal, core)) => (None, Some(*signal), *core),
            Some(ExitStatus::NotExecuted(_) | ExitStatus::Unknown) | None => (None, None, false),
        };
        status::Death {
            at_ms: crate::millis(self.at),
            pid: self.pid,
            uptime_ms: crate::millis(self.uptime),
            cause: self.cause.to_string(),
            status: code,
            signal,
            core,
            oom: self.oom,
            memory_peak: self.memory_peak,
        }
    }
}
