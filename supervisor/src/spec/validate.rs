//! From the written form of a service to the validated one: types, ranges, defaults.
//!
//! Every fault is collected, not only the first, and each is tied to the key that is wrong.

use super::{
    Backoff, EnvironmentFile, Intensity, LogLimit, MILESTONES, Probe, ProbeTarget, Spec, SpecError,
    parse,
};
use crate::config::{
    DurationText, Escalation, IntensityConfig, LimitsConfig, NotifyAccess, ProbeConfig,
    RestartPolicy, RlimitText, ServiceConfig, ServiceType, SizeText, StopMode,
};
use std::time::Duration;

/// The driver keeps a service's restarts of the window in memory.
const RESTARTS_MAX: u32 = 1000;

/// With the default delays (0, 1, 2, 4 ... 60 s) a service that ends at once uses these up in four minutes, and
/// one that lives for up to a minute and a half each time does so, too. That is long enough for a fault
/// that time cures, and for an operator to look; Kubernetes' `CrashLoopBackOff` waits 10 s to 300 s, but has
/// other nodes meanwhile. systemd's 5 in 10 s (`StartLimitBurst=`) only stop the unit; here a reboot follows.
const RESTARTS_DEFAULT: u32 = 10;
const WITHIN_DEFAULT_MS: u64 = 30 * 60_000;

/// What systemd's documentation calls `FileDescriptorStoreMax=`; each costs PID 1 a descriptor.
const FD_STORE_MAX: u32 = 128;

/// A probe more often than this is load, not a probe.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

struct Problems<'a> {
    service: &'a str,
    found: Vec<SpecError>,
}

impl Problems<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        self.found.push(SpecError {
            service: self.service.to_owned(),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// The value, or the fault noted and something to go on with.
    fn or<T>(&mut self, key: &str, result: Result<T, String>, otherwise: T) -> T {
        result.unwrap_or_else(|message| {
            self.add(key, message);
            otherwise
        })
    }

    fn range<T: PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        key: &str,
        value: T,
        (low, high): (T, T),
    ) -> T {
        if !(low..=high).contains(&value) {
            self.add(key, format!("{value} is not between {low} and {high}"));
        }
        value
    }
}

fn duration(written: Option<DurationText>, default_ms: u64) -> Duration {
    written.map_or_else(|| Duration::from_millis(default_ms), |d| d.0)
}

impl Spec {
    /// Validates the written form and settles every default.
    ///
    /// # Errors
    /// Everything that is wrong, each with its key.
    pub fn from_config(name: &str, config: ServiceConfig) -> Result<Self, Vec<SpecError>> {
        match Self::judge(name, config) {
            (spec, problems) if problems.is_empty() => Ok(spec),
            (_, problems) => Err(problems),
        }
    }

    /// The same for who only wants to know what is wrong: a form with problems must not be started.
    #[must_use]
    pub fn judge(name: &str, config: ServiceConfig) -> (Self, Vec<SpecError>) {
        let mut problems = Problems {
            service: name,
            found: Vec::new(),
        };
        let spec = validate(name, config, &mut problems);
        (spec, problems.found)
    }
}

fn validate(name: &str, config: ServiceConfig, problems: &mut Problems<'_>) -> Spec {
    let ServiceConfig {
        exec,
        r#type,
        user,
        group,
        groups,
        environment,
        environment_files,
        working_directory,
        umask,
        after,
        requires,
        wants,
        pre_start,
        sockets,
        socket_mode,
        fd_store_max,
        notify_access,
        reload_signal,
        required,
        restart,
        start_timeout,
        watchdog,
        oom_score_adjust,
        nice,
        backoff,
        intensity,
        stop,
        probe,
        limits,
        log,
    } = config;
    problems.or("name", check_name(name), ());
    match &exec {
        None => problems.add("exec", "is missing; name the program and its arguments"),
        Some(exec) => problems.or("exec", parse::command(exec), ()),
    }
    let pre_start = pre_start.unwrap_or_default();
    for command in &pre_start {
        problems.or("pre-start", parse::command(command), ());
    }
    let environment = environment.unwrap_or_default();
    for (key, value) in &environment {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            problems.add(
                "environment",
                format!(
                    "{key:?} cannot be a variable; no `=` and no NUL in a name, no NUL in a value"
                ),
            );
        }
    }
    let working_directory = working_directory.unwrap_or_else(|| "/".into());
    if !working_directory.starts_with('/') {
        problems.add(
            "working-directory",
            format!("{working_directory:?} is not an absolute path"),
        );
    }
    let kind = r#type.unwrap_or(ServiceType::Exec);
    let required = required.unwrap_or(false);
    let startup = validate_probe("probe.startup", probe.startup, problems);
    let readiness = validate_probe("probe.readiness", probe.readiness, problems);
    let liveness = validate_probe("probe.liveness", probe.liveness, problems);
    let probed = startup.is_some() || readiness.is_some() || liveness.is_some();
    if kind == ServiceType::Probe && readiness.is_none() && startup.is_none() {
        problems.add(
            "type",
            "\"probe\" needs a probe.readiness or probe.startup to be ready by",
        );
    }
    if kind == ServiceType::Oneshot && probed {
        problems.add("probe", "a oneshot ends by itself; it cannot be probed");
    }
    let watchdog = watchdog.map(|d| d.0);
    if watchdog.is_some() && kind != ServiceType::Notify {
        problems.add("watchdog", "only a service of type \"notify\" can ping");
    }
    if watchdog.is_some_and(|w| w.is_zero()) {
        problems.add(
            "watchdog",
            "must be longer than zero; leave it out for none",
        );
    }
    let start_timeout = duration(start_timeout, 90_000);
    if start_timeout.is_zero() {
        problems.add("start-timeout", "must be longer than zero");
    }
    let sockets = sockets.unwrap_or_default();
    let sockets = sockets.iter().filter_map(|text| {
        parse::socket(text)
            .map_err(|message| problems.add("sockets", message))
            .ok()
    });
    let sockets = sockets.collect();
    let signal =
        |key: &str, written: Option<String>, default: &str, problems: &mut Problems<'_>| {
            let result = parse::signal(written.as_deref().unwrap_or(default));
            problems.or(key, result, libc::SIGTERM)
        };
    Spec {
        name: name.to_owned(),
        exec: exec.unwrap_or_default(),
        kind,
        user,
        group,
        groups: groups.unwrap_or_default(),
        environment,
        environment_files: environment_files
            .unwrap_or_default()
            .into_iter()
            .map(|written| environment_file(written, problems))
            .collect(),
        working_directory,
        umask: octal("umask", umask, 0o022, problems),
        after: after.unwrap_or_default(),
        requires: requires.unwrap_or_default(),
        wants: wants.unwrap_or_default(),
        pre_start,
        sockets,
        // systemd.socket(5): `SocketMode=` is 0666 by default.
        socket_mode: octal("socket-mode", socket_mode, 0o666, problems),
        fd_store_max: problems.range("fd-store-max", fd_store_max.unwrap_or(0), (0, FD_STORE_MAX))
            as usize,
        notify_access: notify_access.unwrap_or(NotifyAccess::Main),
        reload_signal: reload_signal
            .map(|written| signal("reload-signal", Some(written), "", problems)),
        required,
        restart: restart.unwrap_or(RestartPolicy::OnFailure),
        start_timeout,
        watchdog,
        routine_start: false,
        oom_score_adjust: oom_score_adjust
            .map(|score| problems.range("oom-score-adjust", score, (-1000, 1000))),
        nice: problems.range("nice", nice.unwrap_or(0), (-20, 19)),
        backoff: Backoff {
            initial: duration(backoff.initial, 0),
            base: duration(backoff.base, 1_000),
            max: duration(backoff.max, 60_000),
            jitter: problems.range("backoff.jitter", backoff.jitter.unwrap_or(0.1), (0.0, 1.0)),
            reset_after: duration(backoff.reset_after, 60_000),
        },
        intensity: validate_intensity(&intensity, required, problems),
        stop_mode: stop.mode.unwrap_or(StopMode::Process),
        stop_signal: signal("stop.signal", stop.signal, "TERM", problems),
        stop_timeout: duration(stop.timeout, 10_000),
        startup,
        readiness,
        liveness,
        limits: validate_limits(limits, problems),
        log: LogLimit {
            burst: problems.range("log.burst", log.burst.unwrap_or(10_000), (1, u32::MAX)),
            interval: duration(log.interval, 30_000),
        },
        capabilities: None,
    }
}

fn environment_file(written: String, problems: &mut Problems<'_>) -> EnvironmentFile {
    let file = match written.strip_prefix('-') {
        Some(path) => EnvironmentFile {
            path: path.to_owned(),
            optional: true,
        },
        None => EnvironmentFile {
            path: written,
            optional: false,
        },
    };
    if !file.path.starts_with('/') {
        problems.add(
            "environment-files",
            format!("{:?} is not an absolute path", file.path),
        );
    }
    file
}

/// The nine bits of a mode.
fn octal(key: &str, text: Option<String>, default: u32, problems: &mut Problems<'_>) -> u32 {
    let Some(text) = text else { return default };
    let bits = u32::from_str_radix(&text, 8).ok().filter(|m| *m <= 0o777);
    let message = || format!("{text:?} is not an octal number such as \"{default:04o}\"");
    problems.or(key, bits.ok_or_else(message), default)
}

fn validate_intensity(
    config: &IntensityConfig,
    required: bool,
    problems: &mut Problems<'_>,
) -> Intensity {
    let IntensityConfig {
        restarts,
        within,
        then,
        retry_after,
    } = *config;
    let retry_after = duration(retry_after, 600_000);
    Intensity {
        restarts: problems.range(
            "intensity.restarts",
            restarts.unwrap_or(RESTARTS_DEFAULT),
            (0, RESTARTS_MAX),
        ),
        within: duration(within, WITHIN_DEFAULT_MS),
        then: then.unwrap_or(if required {
            Escalation::Reboot
        } else {
            Escalation::Degraded
        }),
        retry_after: (!retry_after.is_zero()).then_some(retry_after),
    }
}

fn validate_limits(limits: LimitsConfig, problems: &mut Problems<'_>) -> LimitsConfig {
    if let Some(weight) = limits.cpu_weight {
        problems.range("limits.cpu-weight", weight, (1, 10_000));
    }
    if limits.tasks_max == Some(0) {
        problems.add("limits.tasks-max", "0 leaves no process at all");
    }
    if limits.nofile.is_some_and(|RlimitText(files)| files < 16) {
        problems.add("limits.nofile", "below 16 no program starts");
    }
    if let (Some(SizeText::Bytes(high)), Some(SizeText::Bytes(max))) =
        (limits.memory_high, limits.memory_max)
        && high > max
    {
        problems.add(
            "limits.memory-high",
            "is above memory-max and would never be reached",
        );
    }
    limits
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

fn validate_probe(key: &str, config: ProbeConfig, problems: &mut Problems<'_>) -> Option<Probe> {
    if config == ProbeConfig::default() {
        return None;
    }
    let ProbeConfig {
        http,
        tcp,
        exec,
        interval,
        timeout,
        failures,
        successes,
    } = config;
    let target = match (http, tcp, exec) {
        (Some(url), None, None) => parse::url(&url),
        (None, Some(address), None) => address
            .parse()
            .map(ProbeTarget::Tcp)
            .map_err(|_| format!("tcp = {address:?} is not ADDRESS:PORT with a literal address")),
        (None, None, Some(command)) => {
            parse::command(&command).map(|()| ProbeTarget::Exec(command))
        }
        _ => Err("needs exactly one of http, tcp and exec".into()),
    };
    let target = problems.or(key, target, ProbeTarget::Exec(Vec::new()));
    let interval = duration(interval, 10_000);
    let timeout = duration(timeout, 1_000);
    if interval < INTERVAL_MIN {
        problems.add(&format!("{key}.interval"), "must be at least 10ms");
    }
    if timeout.is_zero() {
        problems.add(&format!("{key}.timeout"), "must be longer than zero");
    }
    let mut count = |name: &str, written: Option<u32>, default| {
        let value = written.unwrap_or(default);
        if value == 0 {
            problems.add(&format!("{key}.{name}"), "counts from 1");
        }
        value
    };
    let failures = count("failures", failures, 3);
    let successes = count("successes", successes, 1);
    Some(Probe {
        target,
        interval,
        timeout,
        failures,
        successes,
    })
}
