//! A service as it will be run: validated, every default settled.
//!
//! [`Spec::from_config`] is the only way from the written form to here, so whoever holds a
//! `Spec` needs to check nothing. [`check_order`] judges what only the whole set shows: names
//! that nobody has, and cycles. Both are run by `init check`, by the image build and, as the
//! last resort, at boot.

mod order;
mod parse;
mod validate;

use crate::Time;
use crate::config::{Escalation, LimitsConfig, NotifyAccess, RestartPolicy, ServiceType, StopMode};
pub use order::{check_order, order_problems};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Milestones that exist without a service: `var` is the mounted `/var`, `net` the first address.
pub const MILESTONES: [&str; 2] = ["net", "var"];

/// One service, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Its name: also its cgroup's, its log prefix and its notify socket's.
    pub name: String,
    /// Program by absolute path, and arguments.
    pub exec: Vec<String>,
    /// When it counts as ready.
    pub kind: ServiceType,
    /// User by name or number, root if none.
    pub user: Option<String>,
    /// Group by name or number, the user's own if none.
    pub group: Option<String>,
    /// Supplementary groups by name or number.
    pub groups: Vec<String>,
    /// Variables set over those of the files.
    pub environment: BTreeMap<String, String>,
    /// Files with variables, in order.
    pub environment_files: Vec<EnvironmentFile>,
    /// Working directory.
    pub working_directory: String,
    /// File mode creation mask.
    pub umask: u32,
    /// Services and milestones that come first.
    pub after: Vec<String>,
    /// Services that must be ready first, and stay.
    pub requires: Vec<String>,
    /// Services that come first and are started with it, without which it runs all the same.
    pub wants: Vec<String>,
    /// Commands that gate each start.
    pub pre_start: Vec<Vec<String>>,
    /// Listening sockets that init holds for it.
    pub sockets: Vec<ListenSocket>,
    /// Mode of those in the file system.
    pub socket_mode: u32,
    /// How many descriptors it may leave with init.
    pub fd_store_max: usize,
    /// Who may speak for it.
    pub notify_access: NotifyAccess,
    /// Signal that makes it reload, if it can.
    pub reload_signal: Option<i32>,
    /// Whether boot health depends on it.
    pub required: bool,
    /// Which ends lead to a restart.
    pub restart: RestartPolicy,
    /// From execution to ready.
    pub start_timeout: Duration,
    /// Longest silence of a service that pings.
    pub watchdog: Option<Duration>,
    /// `oom_score_adj`; if none is asked for, 0 where we may set it.
    pub oom_score_adjust: Option<i32>,
    /// Whether a good start of it is routine ([`crate::event::Event::routine`]), as that of a part of init is.
    pub routine_start: bool,
    /// Nice value.
    pub nice: i32,
    /// Delay of restarts.
    pub backoff: Backoff,
    /// Limit on restarts.
    pub intensity: Intensity,
    /// Who gets the stop signal.
    pub stop_mode: StopMode,
    /// Signal that asks it to end.
    pub stop_signal: i32,
    /// When the tree is killed after that.
    pub stop_timeout: Duration,
    /// Probe that holds the others back.
    pub startup: Option<Probe>,
    /// Probe of readiness.
    pub readiness: Option<Probe>,
    /// Probe of health.
    pub liveness: Option<Probe>,
    /// Resource limits as written.
    pub limits: LimitsConfig,
    /// How much it may log.
    pub log: LogLimit,
    /// Capabilities that it may have, as a bit mask by number: a service of another user than root has these, one
    /// of root no other. If none is stated, root may have all and another user none. Not settable in
    /// `init.toml`: for the roles that PID 1 starts itself.
    pub capabilities: Option<u64>,
}

/// A file of `NAME=value` lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentFile {
    /// Its path.
    pub path: String,
    /// Whether a start goes on without it.
    pub optional: bool,
}

/// The delay law of restarts.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    /// Before the first restart.
    pub initial: Duration,
    /// Before the second; doubles with each further one.
    pub base: Duration,
    /// The longest delay.
    pub max: Duration,
    /// Share of random variation, 0 to 1.
    pub jitter: f64,
    /// Sustained health that resets the count.
    pub reset_after: Duration,
}

/// So many restarts within so much time, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// Allowed restarts.
    pub restarts: u32,
    /// The window.
    pub within: Duration,
    /// What one more leads to.
    pub then: Escalation,
    /// When it is tried again after nothing helped, if ever.
    pub retry_after: Option<Duration>,
}

/// So many lines of output within so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimit {
    /// Lines.
    pub burst: u32,
    /// The time; zero for no limit.
    pub interval: Duration,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenSocket {
    /// A stream socket of the Internet.
    Tcp(SocketAddr),
    /// A datagram socket of the Internet.
    Udp(SocketAddr),
    /// A stream socket in the file system.
    Unix(PathBuf),
}

/// One probe, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub target: ProbeTarget,
    /// Between the starts of two probes.
    pub interval: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Failures in a row that count.
    pub failures: u32,
    /// Successes in a row that count.
    pub successes: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// `GET path`; success is a status of 200 to 399.
    Http {
        /// Where to connect.
        address: SocketAddr,
        /// Absolute path with query.
        path: String,
    },
    /// Success is an accepted connection.
    Tcp(SocketAddr),
    /// Success is exit status 0.
    Exec(Vec<String>),
}

impl std::fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http { address, path } => write!(f, "http://{address}{path}"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Exec(command) => write!(f, "exec {}", command.join(" ")),
        }
    }
}

impl std::fmt::Display for ListenSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a service's configuration is refused: the key at fault and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service.{service}.{key}: {message}")]
pub struct SpecError {
    /// The service.
    pub service: String,
    /// The key below it.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Spec {
    /// Its probe of a kind, by its name in `init.toml`.
    #[must_use]
    pub fn probe(&self, kind: crate::core::ProbeKind) -> Option<&Probe> {
        match kind {
            crate::core::ProbeKind::Startup => self.startup.as_ref(),
            crate::core::ProbeKind::Readiness => self.readiness.as_ref(),
            crate::core::ProbeKind::Liveness => self.liveness.as_ref(),
        }
    }
}

/// The delay before restart number `count` (the first is 0), without jitter.
#[must_use]
pub fn backoff_delay(backoff: &Backoff, count: u32) -> Time {
    match count.checked_sub(1) {
        None => backoff.initial.min(backoff.max),
        Some(doublings) => backoff
            .base
            .saturating_mul(1u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX))
            .min(backoff.max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, text: &str) -> Result<Spec, Vec<SpecError>> {
        Spec::from_config(name, toml::from_str(text).unwrap())
    }

    #[test]
    fn defaults_are_settled() {
        let spec = spec("a", "exec = ['/bin/a']\nrequired = true").unwrap();
        assert_eq!(spec.stop_signal, libc::SIGTERM);
        assert_eq!(spec.intensity.then, Escalation::Reboot);
        assert_eq!(spec.umask, 0o022);
        assert_eq!(spec.socket_mode, 0o666);
        assert_eq!(spec.liveness, None);
        assert_eq!(
            spec.reload_signal, None,
            "a program without a handler dies of it"
        );
        assert_eq!(spec.notify_access, NotifyAccess::Main);
    }

    #[test]
    fn every_refusal_names_its_key() {
        for (text, key) in [
            ("", "exec"),
            ("exec = ['a']", "exec"),
            ("exec = ['/a']\numask = '9'", "umask"),
            ("exec = ['/a']\ntype = 'probe'", "type"),
            ("exec = ['/a']\nwatchdog = '3s'", "watchdog"),
            ("exec = ['/a']\nstop = { signal = 'TREM' }", "stop.signal"),
            (
                "exec = ['/a']\nbackoff = { jitter = 1.5 }",
                "backoff.jitter",
            ),
            (
                "exec = ['/a']\nprobe.liveness = { http = 'http://localhost/x' }",
                "probe.liveness",
            ),
            (
                "exec = ['/a']\nprobe.liveness = { tcp = '1.2.3.4:5', failures = 0 }",
                "probe.liveness.failures",
            ),
            (
                "exec = ['/a']\nprobe.readiness = { tcp = '1.2.3.4:5', exec = ['/x'] }",
                "probe.readiness",
            ),
            ("exec = ['/a']\npre-start = [['x']]", "pre-start"),
            ("exec = ['/a']\nsockets = ['tcp:80']", "sockets"),
            ("exec = ['/a']\nsocket-mode = '0668'", "socket-mode"),
            ("exec = ['/a']\nsocket-mode = '4666'", "socket-mode"),
            ("exec = ['/a']\nfd-store-max = 1000", "fd-store-max"),
            ("exec = ['/a']\nreload-signal = 'X'", "reload-signal"),
            ("exec = ['/a']\nnice = -21", "nice"),
            (
                "exec = ['/a']\nintensity.restarts = 1001",
                "intensity.restarts",
            ),
            ("exec = ['/a']\nlimits.nofile = 3", "limits.nofile"),
            ("exec = ['/a']\nlimits.tasks-max = 0", "limits.tasks-max"),
            (
                "exec = ['/a']\nlimits = { memory-high = '2M', memory-max = '1M' }",
                "limits.memory-high",
            ),
            ("exec = ['/a']\nlog.burst = 0", "log.burst"),
            (
                "exec = ['/a']\nworking-directory = 'x'",
                "working-directory",
            ),
            (
                "exec = ['/a']\nenvironment-files = ['-x']",
                "environment-files",
            ),
            (
                "exec = ['/a']\nprobe.liveness = { http = 'http://1.2.3.4:5/a b' }",
                "probe.liveness",
            ),
            (
                "exec = ['/a']\nenvironment = { 'A=B' = 'c' }",
                "environment",
            ),
        ] {
            let errors = spec("s", text).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].key, key, "{text}: {}", errors[0]);
        }
        let many = spec("s", "exec = []\numask = 'x'\nnice = 40").unwrap_err();
        assert_eq!(many.len(), 3, "every fault, not only the first: {many:?}");
        assert!(spec("net", "exec = ['/a']").is_err());
        assert!(spec("../x", "exec = ['/a']").is_err());
    }

    #[test]
    fn unknown_names_and_cycles_are_refused() {
        let a = spec("a", "exec = ['/a']\nafter = ['b', 'net']").unwrap();
        let b = spec("b", "exec = ['/b']\nrequires = ['a']").unwrap();
        assert_eq!(
            check_order(std::slice::from_ref(&b)).unwrap_err().key,
            "requires"
        );
        assert_eq!(
            check_order(std::slice::from_ref(&a)).unwrap_err().key,
            "after"
        );
        let wants = spec("w", "exec = ['/w']\nwants = ['nobody']").unwrap();
        assert_eq!(check_order(&[wants]).unwrap_err().key, "wants");
        assert!(
            check_order(&[a.clone(), b.clone()])
                .unwrap_err()
                .message
                .contains("cycle")
        );
        assert_eq!(
            check_order(&[
                Spec {
                    after: vec!["net".into()],
                    ..a
                },
                b
            ]),
            Ok(())
        );
    }

    #[test]
    fn the_delay_doubles_up_to_its_maximum() {
        let backoff = spec("a", "exec = ['/a']").unwrap().backoff;
        let ms = |n| backoff_delay(&backoff, n).as_millis();
        assert_eq!(
            [ms(0), ms(1), ms(2), ms(3), ms(9), ms(200)],
            [0, 1_000, 2_000, 4_000, 60_000, 60_000]
        );
    }
}
