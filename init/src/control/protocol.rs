//! The words of the control socket: one JSON object a line, in both directions.
//!
//! A client sends one [`Request`] and gets a line with `"ok"`: [`Reply`], or a [`Refusal`]. After the
//! reply to `events`, `logs` and `exits` further lines follow, one to an event, a line of output, an
//! exit or a gap ([`EventLine`], [`LogLine`], [`ExitRecord`], [`Lost`]), until the server closes the
//! connection, which with `follow` is when the machine ends.
//!
//! The client may be older or newer than the server: unknown fields of a reply are to be ignored.
//! Unknown fields or verbs of a request are refused.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use supervisor::logger::protocol::{ExitRecord, Missed, WallTime};
use supervisor::status::ServiceStatus;

/// The longest request that is read.
pub const REQUEST_MAX: usize = 4096;

/// What a client may ask.
///
/// Verbs without an argument are written with braces, because serde lets any field pass at a variant
/// without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// All services, or one.
    Status {
        /// Which one.
        #[serde(default)]
        service: Option<String>,
    },
    /// The text for a scraper (OpenMetrics 1.0).
    Metrics {},
    /// The stages of this boot.
    Boot {},
    /// What happened, from the record of this boot.
    Events {
        /// So many of the newest, all that are kept if not given.
        #[serde(default)]
        lines: Option<usize>,
        /// Whether to stay and hear what happens from now on.
        #[serde(default)]
        follow: bool,
    },
    /// Output of services.
    Logs {
        /// Of which one; of all if not given.
        #[serde(default)]
        service: Option<String>,
        /// So many of the newest lines.
        lines: usize,
        /// Whether to stay and hear what is written from now on.
        #[serde(default)]
        follow: bool,
    },
    /// How instances of services ended, with their last lines, earlier boots included.
    Exits {
        /// Of which one; of all if not given.
        #[serde(default)]
        service: Option<String>,
    },
    /// Want a service to run; a failed one is tried anew.
    Start {
        /// Which one.
        service: String,
    },
    /// Want a service not to run; what requires it is stopped first.
    Stop {
        /// Which one.
        service: String,
    },
    /// Stop, and start again; does not count as a restart by the law.
    Restart {
        /// Which one.
        service: String,
    },
    /// Have a service reload.
    Reload {
        /// Which one.
        service: String,
    },
    /// Stop everything and start the machine anew.
    Reboot {},
    /// Stop everything and switch off.
    Poweroff {},
}

impl Request {
    /// Whether it changes nothing and shows nothing that a service wrote. Any user may ask such a
    /// thing; the rest is for root and for whoever runs init.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Status { .. } | Self::Metrics {} | Self::Boot {} | Self::Events { .. } => true,
            Self::Logs { .. }
            | Self::Exits { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::Reload { .. }
            | Self::Reboot {}
            | Self::Poweroff {} => false,
        }
    }
}

/// The first line of a good answer. Which fields it has follows from the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// `true`.
    pub ok: bool,
    /// To `status`, and to what changes a service: the services asked for, as they are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemStatus>,
    /// To `metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// To `boot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootReport>,
}

/// The only line of a bad answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `false`.
    pub ok: bool,
    /// What is wrong, and what to do.
    pub error: String,
}

/// The machine, or the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemStatus {
    /// Of init.
    pub version: String,
    /// Since the kernel started, when this was said.
    pub now_ms: u64,
    /// Since the kernel started, when init was: 0 on a machine, of which the kernel's start is part.
    #[serde(default)]
    pub booted_at_ms: u64,
    /// `starting` until all required services were healthy once, `running`, `degraded` while a
    /// required service has used up everything, `stopping`.
    pub state: String,
    /// Whether all required services are healthy now.
    pub healthy: bool,
    /// Of PID 1 itself.
    pub init: InitStatus,
    /// The services, in the order in which they start.
    pub services: Vec<ServiceStatus>,
}

/// What PID 1 tells of itself, since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitStatus {
    /// How often its loop woke up.
    pub wakeups: u64,
    /// Orphans that it reaped.
    pub orphans: u64,
    /// Events that the console's pipe did not take.
    pub events_lost: u64,
    /// Clients of the control socket now.
    pub clients: usize,
}

/// One line of `events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// Milliseconds since the kernel started.
    pub at_ms: u64,
    /// Its name.
    pub event: String,
    /// Its fields.
    pub fields: BTreeMap<String, String>,
}

/// One line of `logs`, as the logger writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the kernel started, when it was read.
    pub at_ms: u64,
    /// Who wrote it; `init` for events.
    pub service: String,
    /// Its text.
    pub line: String,
}

/// The report of one boot; also the content of `boot.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// Of init.
    pub version: String,
    /// What the boot went through, in order.
    pub stages: Vec<Stage>,
    /// The event lines until the boot had succeeded.
    pub events: Vec<String>,
}

/// One stage of a boot, by the event that ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The event, and what it is about.
    pub name: String,
    /// Milliseconds since the kernel started.
    pub at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_they_are_written() {
        for (text, expected) in [
            (
                r#"{"verb":"status"}"#,
                Some(Request::Status { service: None }),
            ),
            (
                r#"{"verb":"stop","service":"a"}"#,
                Some(Request::Stop {
                    service: "a".into(),
                }),
            ),
            (r#"{"verb":"stop"}"#, None),
            (r#"{"verb":"stop","service":"a","now":true}"#, None),
            (r#"{"verb":"halt"}"#, None),
            (r#"{"verb":"reboot"}"#, Some(Request::Reboot {})),
            (r#"{"verb":"reboot","at":"noon"}"#, None),
            ("[]", None),
        ] {
            assert_eq!(serde_json::from_str(text).ok(), expected, "{text}");
        }
    }
}
