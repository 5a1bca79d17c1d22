//! A service as it will be run: validated, every default settled.
//!
//! [`Spec::from_config`] is the only way from the written form to here, so whoever holds a
//! `Spec` needs to check nothing. [`check_order`] judges what only the whole set shows: names
//! that nobody has, and cycles. Both are run by `init check`, by the image build and, as the
//! last resort, at boot.

use crate::Time;
use crate::config::{
    Escalation, LimitsConfig, ProbeConfig, RestartPolicy, ServiceConfig, ServiceType,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
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
    /// Services that must be ready first.
    pub requires: Vec<String>,
    /// Whether boot health depends on it.
    pub required: bool,
    /// Which ends lead to a restart.
    pub restart: RestartPolicy,
    /// From execution to ready.
    pub start_timeout: Duration,
    /// Longest silence of a service that pings.
    pub watchdog: Option<Duration>,
    /// `oom_score_adj`.
    pub oom_score_adjust: i32,
    /// Delay of restarts.
    pub backoff: Backoff,
    /// Limit on restarts.
    pub intensity: Intensity,
    /// Signal that asks the main process to end.
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
    /// Capabilities kept by a service of another user than root, as a bit mask by number.
    /// Not settable in `init.toml`: for the roles that PID 1 starts itself.
    pub capabilities: u64,
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
    /// Validates the written form and settles every default.
    ///
    /// # Errors
    /// Names the key at fault.
    pub fn from_config(name: &str, config: ServiceConfig) -> Result<Self, SpecError> {
        let fail = |key: &str, message: String| SpecError {
            service: name.to_owned(),
            key: key.to_owned(),
            message,
        };
        check_name(name).map_err(|message| fail("name", message))?;
        let exec = config.exec.ok_or_else(|| {
            fail(
                "exec",
                "is missing; name the program and its arguments".into(),
            )
        })?;
        match exec.first() {
            Some(program) if program.starts_with('/') => {}
            other => {
                return Err(fail(
                    "exec",
                    format!("the program {other:?} is not an absolute path"),
                ));
            }
        }
        if exec.iter().any(|argument| argument.contains('\0')) {
            return Err(fail("exec", "an argument holds a NUL byte".into()));
        }
        let environment = config.environment.unwrap_or_default();
        if let Some((key, _)) = environment
            .iter()
            .find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            return Err(fail(
                "environment",
                format!(
                    "{key:?} cannot be a variable; no `=` and no NUL in a name, no NUL in a value"
                ),
            ));
        }
        let kind = config.r#type.unwrap_or(ServiceType::Exec);
        let required = config.required.unwrap_or(false);
        let umask = match config.umask.as_deref() {
            None => 0o022,
            Some(text) => u32::from_str_radix(text, 8)
                .ok()
                .filter(|mask| *mask <= 0o777)
                .ok_or_else(|| {
                    fail(
                        "umask",
                        format!("{text:?} is not an octal mask such as \"0077\""),
                    )
                })?,
        };
        let oom_score_adjust = config.oom_score_adjust.unwrap_or(0);
        if !(-1000..=1000).contains(&oom_score_adjust) {
            return Err(fail(
                "oom-score-adjust",
                format!("{oom_score_adjust} is not between -1000 and 1000"),
            ));
        }
        let jitter = config.backoff.jitter.unwrap_or(0.1);
        if !(0.0..=1.0).contains(&jitter) {
            return Err(fail(
                "backoff.jitter",
                format!("{jitter} is not between 0 and 1"),
            ));
        }
        let limits = config.limits;
        if limits
            .cpu_weight
            .is_some_and(|weight| !(1..=10_000).contains(&weight))
        {
            return Err(fail(
                "limits.cpu-weight",
                "is not between 1 and 10000".into(),
            ));
        }
        let signal = config.stop.signal.as_deref().unwrap_or("TERM");
        let probe = |key: &str, written: ProbeConfig| {
            validate_probe(written).map_err(|message| fail(&format!("probe.{key}"), message))
        };
        let (startup, readiness, liveness) = (
            probe("startup", config.probe.startup)?,
            probe("readiness", config.probe.readiness)?,
            probe("liveness", config.probe.liveness)?,
        );
        if kind == ServiceType::Probe && readiness.is_none() && startup.is_none() {
            return Err(fail(
                "type",
                "\"probe\" needs a probe.readiness or probe.startup to be ready by".into(),
            ));
        }
        if kind == ServiceType::Oneshot
            && (liveness.is_some() || readiness.is_some() || startup.is_some())
        {
            return Err(fail(
                "probe",
                "a oneshot ends by itself; it cannot be probed".into(),
            ));
        }
        let watchdog = config.watchdog.map(|d| d.0);
        if watchdog.is_some() && kind != ServiceType::Notify {
            return Err(fail(
                "watchdog",
                "only a service of type \"notify\" can ping".into(),
            ));
        }
        if watchdog.is_some_and(|w| w.is_zero()) {
            return Err(fail(
                "watchdog",
                "must be longer than zero; leave it out for none".into(),
            ));
        }
        let duration = |written: Option<crate::config::DurationText>, default: u64| {
            written.map_or_else(|| Duration::from_millis(default), |d| d.0)
        };
        Ok(Self {
            name: name.to_owned(),
            exec,
            kind,
            user: config.user,
            group: config.group,
            groups: config.groups.unwrap_or_default(),
            environment,
            environment_files: config
                .environment_files
                .unwrap_or_default()
                .into_iter()
                .map(|written| match written.strip_prefix('-') {
                    Some(path) => EnvironmentFile {
                        path: path.to_owned(),
                        optional: true,
                    },
                    None => EnvironmentFile {
                        path: written,
                        optional: false,
                    },
                })
                .collect(),
            working_directory: config.working_directory.unwrap_or_else(|| "/".into()),
            umask,
            after: config.after.unwrap_or_default(),
            requires: config.requires.unwrap_or_default(),
            required,
            restart: config.restart.unwrap_or(RestartPolicy::OnFailure),
            start_timeout: duration(config.start_timeout, 90_000),
            watchdog,
            oom_score_adjust,
            backoff: Backoff {
                initial: duration(config.backoff.initial, 0),
                base: duration(config.backoff.base, 200),
                max: duration(config.backoff.max, 30_000),
                jitter,
                reset_after: duration(config.backoff.reset_after, 60_000),
            },
            intensity: Intensity {
                restarts: config.intensity.restarts.unwrap_or(5),
                within: duration(config.intensity.within, 60_000),
                then: config.intensity.then.unwrap_or(if required {
                    Escalation::Reboot
                } else {
                    Escalation::Degraded
                }),
            },
            stop_signal: signal_number(signal).ok_or_else(|| {
                fail(
                    "stop.signal",
                    format!(
                        "{signal:?} is not a signal; write TERM, INT, QUIT, HUP, USR1, USR2 or KILL"
                    ),
                )
            })?,
            stop_timeout: duration(config.stop.timeout, 10_000),
            startup,
            readiness,
            liveness,
            limits,
            capabilities: 0,
        })
    }
}

/// A name becomes a file name, a cgroup and a log prefix: it must be harmless as each.
fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) || MILESTONES.contains(&name) {
        return Err(format!(
            "{name:?} is no service name; 1 to 64 letters, digits, `-` and `_`, and not one of {MILESTONES:?}"
        ));
    }
    Ok(())
}

fn validate_probe(config: ProbeConfig) -> Result<Option<Probe>, String> {
    if config == ProbeConfig::default() {
        return Ok(None);
    }
    let ProbeConfig {
        http,
        tcp,
        interval,
        timeout,
        failures,
        successes,
    } = config;
    let target = match (http, tcp) {
        (Some(url), None) => parse_url(&url)?,
        (None, Some(address)) => ProbeTarget::Tcp(address.parse().map_err(|_| {
            format!("tcp = {address:?} is not ADDRESS:PORT with a literal address")
        })?),
        _ => return Err("needs exactly one of http and tcp".into()),
    };
    let interval = interval.map_or(Duration::from_secs(10), |d| d.0);
    let timeout = timeout.map_or(Duration::from_secs(1), |d| d.0);
    let (failures, successes) = (failures.unwrap_or(3), successes.unwrap_or(1));
    if interval.is_zero() || timeout.is_zero() {
        return Err("interval and timeout must be longer than zero".into());
    }
    if failures == 0 || successes == 0 {
        return Err("failures and successes count from 1".into());
    }
    Ok(Some(Probe {
        target,
        interval,
        timeout,
        failures,
        successes,
    }))
}

fn parse_url(url: &str) -> Result<ProbeTarget, String> {
    let help = || {
        format!(
            "http = {url:?} is not http://ADDRESS:PORT/PATH with a literal address, as in \"http://127.0.0.1:8000/health\""
        )
    };
    let rest = url.strip_prefix("http://").ok_or_else(help)?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let address = authority.parse().map_err(|_| help())?;
    // What goes on the request line must not be able to end it (RFC 9112 section 3).
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(help());
    }
    let path = if path.is_empty() {
        "/".to_owned()
    } else {
        path.to_owned()
    };
    Ok(ProbeTarget::Http { address, path })
}

fn signal_number(name: &str) -> Option<i32> {
    Some(match name.strip_prefix("SIG").unwrap_or(name) {
        "TERM" => libc::SIGTERM,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "HUP" => libc::SIGHUP,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "KILL" => libc::SIGKILL,
        _ => return None,
    })
}

/// Checks that every name in `after` and `requires` exists and that the order has no cycle.
///
/// # Errors
/// Names the service and the name, or the cycle in full.
pub fn check_order(specs: &[Spec]) -> Result<(), SpecError> {
    let names: BTreeSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    for spec in specs {
        let fail = |key: &str, message: String| SpecError {
            service: spec.name.clone(),
            key: key.to_owned(),
            message,
        };
        if let Some(unknown) = spec
            .after
            .iter()
            .find(|n| !names.contains(n.as_str()) && !MILESTONES.contains(&n.as_str()))
        {
            return Err(fail(
                "after",
                format!("{unknown:?} is neither a service nor one of {MILESTONES:?}"),
            ));
        }
        if let Some(unknown) = spec.requires.iter().find(|n| !names.contains(n.as_str())) {
            return Err(fail("requires", format!("{unknown:?} is not a service")));
        }
    }
    // Take away whatever waits for nothing that is left; a rest that cannot be taken is a cycle.
    let mut left: BTreeMap<&str, &Spec> = specs.iter().map(|s| (s.name.as_str(), s)).collect();
    loop {
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, s)| {
                !s.after
                    .iter()
                    .chain(&s.requires)
                    .any(|n| left.contains_key(n.as_str()))
            })
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            break;
        }
        for name in free {
            left.remove(name);
        }
    }
    match left.values().next() {
        None => Ok(()),
        Some(spec) => Err(SpecError {
            service: spec.name.clone(),
            key: "after".into(),
            message: format!(
                "a cycle among {:?}; a service cannot wait for itself",
                left.keys().collect::<Vec<_>>()
            ),
        }),
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

    fn spec(name: &str, text: &str) -> Result<Spec, SpecError> {
        Spec::from_config(name, toml::from_str(text).unwrap())
    }

    #[test]
    fn defaults_are_settled() {
        let spec = spec("a", "exec = ['/bin/a']\nrequired = true").unwrap();
        assert_eq!(spec.stop_signal, libc::SIGTERM);
        assert_eq!(spec.intensity.then, Escalation::Reboot);
        assert_eq!(spec.umask, 0o022);
        assert_eq!(spec.liveness, None);
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
                "probe.liveness",
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
            let error = spec("s", text).unwrap_err();
            assert_eq!(error.key, key, "{text}: {error}");
        }
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
            [0, 200, 400, 800, 30_000, 30_000]
        );
    }
}
