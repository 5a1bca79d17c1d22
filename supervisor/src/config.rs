//! A service as it is written in `init.toml`.
//!
//! Every key is optional here, so that a drop-in file can set just the keys it changes:
//! [`ServiceConfig::merge`] lays a later file over an earlier one, key by key. What a key
//! means, its default and its limits are settled when the merged form is turned into a
//! [`crate::spec::Spec`]; until then nothing is judged but the shape. An unknown key is an
//! error of the parser, which knows its line and column.
//!
//! Durations are written `"250ms"`, `"5s"`, `"2m"` or `"1h"`; sizes `"65536"`, `"64K"`,
//! `"64M"`, `"2G"` or, of the machine's memory, `"80%"`.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::collections::BTreeMap;
use std::time::Duration;

/// A duration as written: a whole number and one of `ms`, `s`, `m`, `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationText(pub Duration);

impl DurationText {
    fn parse(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "`{text}` is not a duration; write a whole number and one of ms, s, m, h, as in \"250ms\""
            )
        };
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(help)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| help())?;
        let millis = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => return Err(help()),
        };
        // A year bounds every sum of durations that the state machine forms.
        match millis {
            Some(ms) if ms <= 366 * 24 * 3_600_000 => Ok(Self(Duration::from_millis(ms))),
            _ => Err(format!("`{text}` is longer than a year")),
        }
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// An amount of memory as written: bytes, or a share of the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeText {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the memory the kernel reports.
    Percent(u8),
}

impl SizeText {
    fn parse(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "`{text}` is not a size; write bytes with K, M or G, or a share, as in \"64M\" or \"80%\""
            )
        };
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| help())?;
        let factor = match unit {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "%" => {
                return match u8::try_from(number) {
                    Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                    _ => Err(format!("`{text}` is not a share between 1% and 100%")),
                };
            }
            _ => return Err(help()),
        };
        number.checked_mul(factor).map(Self::Bytes).ok_or_else(help)
    }

    /// The amount in bytes on a machine with so much memory.
    #[must_use]
    pub fn bytes(self, memory: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => memory / 100 * u64::from(percent),
        }
    }
}

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// When a started service counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceType {
    /// As soon as its program is executed.
    Exec,
    /// When it says `READY=1` on its notify socket.
    Notify,
    /// When its readiness probe succeeds.
    Probe,
    /// When it has ended with status 0; it is not restarted then.
    Oneshot,
}

impl ServiceType {
    /// As `init.toml` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Notify => "notify",
            Self::Probe => "probe",
            Self::Oneshot => "oneshot",
        }
    }
}

/// Which ends of a service lead to a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// None.
    Never,
    /// Every end but exit status 0.
    OnFailure,
    /// Every end.
    Always,
}

impl RestartPolicy {
    /// As `init.toml` and events have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

/// What follows when a service used up its restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Escalation {
    /// The service and everything that requires it start anew together, once until it was healthy
    /// for `reset-after`; after that the machine reboots.
    RestartGroup,
    /// The machine reboots.
    Reboot,
    /// The service stays down until `retry-after` has passed, the machine stays up and tells.
    Degraded,
}

impl Escalation {
    /// As `init.toml` and events have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RestartGroup => "restart-group",
            Self::Reboot => "reboot",
            Self::Degraded => "degraded",
        }
    }
}

/// Who gets the stop signal (systemd: `KillMode=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    /// The main process; what it leaves behind gets it when it is gone.
    Process,
    /// Every process of the service at once (systemd: `control-group`).
    Tree,
}

/// Who of a service may speak for it on its notify socket (systemd: `NotifyAccess=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyAccess {
    /// The main process.
    Main,
    /// That, and the commands that init itself runs for the service: checks before the start, probes.
    Exec,
    /// Every process in the service's cgroup, also one that is gone by the time it is looked for.
    All,
}

/// Who sent a notification, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifySender {
    /// The main process.
    Main,
    /// A check before the start, or a probe.
    Exec,
    /// Another process of the service, or one that is gone.
    Other,
}

impl NotifyAccess {
    /// Whether this sender is heard.
    #[must_use]
    pub fn allows(self, sender: NotifySender) -> bool {
        match self {
            Self::Main => sender == NotifySender::Main,
            Self::Exec => sender != NotifySender::Other,
            Self::All => true,
        }
    }

    /// As `init.toml` and events have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Exec => "exec",
            Self::All => "all",
        }
    }
}

/// A resource limit as written: a number, or `"infinity"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RlimitText(pub u64);

impl<'de> Deserialize<'de> for RlimitText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) => Ok(Self(number)),
            // getrlimit(2): RLIM_INFINITY.
            Ok(Written::Text(text)) if text == "infinity" => Ok(Self(u64::MAX)),
            _ => Err(D::Error::custom(
                "a resource limit is a whole number or \"infinity\"",
            )),
        }
    }
}

macro_rules! optional_fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* } $(nested { $($(#[$ndoc:meta])* $nested:ident: $nty:ty,)* })?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: Option<$ty>,)*
            $($($(#[$ndoc])* pub $nested: $nty,)*)?
        }

        impl $name {
            /// Lays `over` over this one: what it sets wins, what it leaves out stays.
            pub fn merge(&mut self, over: Self) {
                let Self { $($field,)* $($($nested,)*)? } = over;
                $(if $field.is_some() { self.$field = $field; })*
                $($(self.$nested.merge($nested);)*)?
            }
        }
    };
}

optional_fields! {
    /// `[service.NAME]`.
    ServiceConfig {
        /// The program and its arguments; the program by absolute path.
        exec: Vec<String>,
        /// See [`ServiceType`]; default `exec`.
        r#type: ServiceType,
        /// User by name or number; default root.
        user: String,
        /// Group by name or number; default the user's own.
        group: String,
        /// Further groups by name or number.
        groups: Vec<String>,
        /// Variables of its environment, over those of the files.
        environment: BTreeMap<String, String>,
        /// Files of `NAME=value` lines, read at each start, later ones win; a leading `-`
        /// means that the file may be missing.
        environment_files: Vec<String>,
        /// Working directory; default `/`.
        working_directory: String,
        /// File mode creation mask in octal, as in `"0077"`; default `"0022"`.
        umask: String,
        /// Services and milestones (`net`, `var`) that come first: this one starts when they are
        /// ready, or are not going to be.
        after: Vec<String>,
        /// Services that must be ready before this one starts, and without which it does not run:
        /// when one of them ends, this one is stopped, and started again when it is ready again.
        requires: Vec<String>,
        /// Services that this one comes after and that are started with it, but that it runs without:
        /// the weak form of `requires`.
        wants: Vec<String>,
        /// Commands that must end with status 0, one after the other, before each start; they run
        /// as the service does, within `start-timeout`.
        pre_start: Vec<Vec<String>>,
        /// Listening sockets that init makes and holds over restarts, passed as `LISTEN_FDS`:
        /// `tcp:ADDRESS:PORT`, `udp:ADDRESS:PORT` or `unix:/PATH`.
        sockets: Vec<String>,
        /// Mode of its `unix:` sockets in octal, which says who may connect; default `"0666"`.
        socket_mode: String,
        /// How many descriptors the service may leave with init over its restarts (`FDSTORE=1`);
        /// 0 to 128, default 0.
        fd_store_max: u32,
        /// Who may speak for it on its notify socket; see [`NotifyAccess`], default `main`.
        notify_access: NotifyAccess,
        /// Signal that makes the main process reload, with or without `SIG`, such as `"HUP"`. There is no
        /// default: a program without a handler dies of it.
        reload_signal: String,
        /// Whether boot health depends on it; default false.
        required: bool,
        /// See [`RestartPolicy`]; default `on-failure`.
        restart: RestartPolicy,
        /// Time from execution to ready; default `"90s"`.
        start_timeout: DurationText,
        /// Longest silence of a `notify` service that pings `WATCHDOG=1`; default none.
        watchdog: DurationText,
        /// `oom_score_adj`, -1000 to 1000; default 0.
        oom_score_adjust: i32,
        /// Nice value, -20 to 19; default 0.
        nice: i32,
    }
    nested {
        /// `[service.NAME.backoff]`.
        backoff: BackoffConfig,
        /// `[service.NAME.intensity]`.
        intensity: IntensityConfig,
        /// `[service.NAME.stop]`.
        stop: StopConfig,
        /// `[service.NAME.probe.*]`.
        probe: ProbesConfig,
        /// `[service.NAME.limits]`.
        limits: LimitsConfig,
        /// `[service.NAME.log]`.
        log: LogConfig,
    }
}

optional_fields! {
    /// The delay before a restart.
    BackoffConfig {
        /// Before the first restart; default `"0s"`.
        initial: DurationText,
        /// Before the second restart; doubles with each further one; default `"1s"`.
        base: DurationText,
        /// The longest delay; default `"60s"`.
        max: DurationText,
        /// Share by which a delay varies at random, 0 to 1; default 0.1.
        jitter: f64,
        /// Sustained health after which the count starts anew; default `"60s"`.
        reset_after: DurationText,
    }
}

optional_fields! {
    /// The limit on restarts, as OTP's supervisors have it.
    IntensityConfig {
        /// So many restarts ..., 0 to 1000; default 10.
        restarts: u32,
        /// ... within this time are allowed; default `"30m"`.
        within: DurationText,
        /// What the next one leads to; default `degraded`, `reboot` for a required service.
        then: Escalation,
        /// When nothing of this helped: how long until the service is tried again, counted anew;
        /// default `"10m"`, `"0s"` for never.
        retry_after: DurationText,
    }
}

optional_fields! {
    /// How the service is stopped.
    StopConfig {
        /// Who gets the signal; see [`StopMode`], default `process`.
        mode: StopMode,
        /// The signal, with or without `SIG`; default `"TERM"`.
        signal: String,
        /// The grace of the whole tree: after this it is killed; default `"10s"`.
        timeout: DurationText,
    }
}

optional_fields! {
    /// The probes of a service.
    ProbesConfig {}
    nested {
        /// Holds the other probes back until it succeeded once.
        startup: ProbeConfig,
        /// Decides whether the service counts as ready; never restarts it.
        readiness: ProbeConfig,
        /// Decides whether the service is healthy; restarts it when it is not.
        liveness: ProbeConfig,
    }
}

optional_fields! {
    /// One probe: what is asked, how often, and how many answers count.
    ProbeConfig {
        /// `http://ADDRESS:PORT/PATH`, address literal; success is a status of 200 to 399.
        http: String,
        /// `ADDRESS:PORT`, address literal; success is an accepted connection.
        tcp: String,
        /// A command, run as the service does, in its cgroup; success is exit status 0.
        exec: Vec<String>,
        /// Time between the starts of two probes; default `"10s"`.
        interval: DurationText,
        /// Time for an answer; default `"1s"`.
        timeout: DurationText,
        /// So many failures in a row count; default 3.
        failures: u32,
        /// So many successes in a row count; default 1.
        successes: u32,
    }
}

optional_fields! {
    /// Resource limits, of the cgroup and of its processes.
    LimitsConfig {
        /// `memory.high`.
        memory_high: SizeText,
        /// `memory.max`.
        memory_max: SizeText,
        /// `memory.oom.group`: whether the whole tree is killed together when memory runs out;
        /// default true.
        oom_group: bool,
        /// `memory.swap.max`.
        memory_swap_max: SizeText,
        /// `pids.max`; default 1024.
        tasks_max: u64,
        /// `cpu.weight`, 1 to 10000.
        cpu_weight: u64,
        /// `RLIMIT_NOFILE`; default 65536.
        nofile: RlimitText,
        /// `RLIMIT_NPROC`, of all processes of the user.
        nproc: RlimitText,
        /// `RLIMIT_CORE`, bytes; default 0.
        core: RlimitText,
        /// `RLIMIT_FSIZE`, bytes.
        fsize: RlimitText,
        /// `RLIMIT_MEMLOCK`, bytes.
        memlock: RlimitText,
        /// `RLIMIT_STACK`, bytes.
        stack: RlimitText,
        /// `RLIMIT_AS`, bytes.
        address_space: RlimitText,
    }
}

optional_fields! {
    /// How much a service may write to its output before lines are left out, and counted.
    LogConfig {
        /// So many lines ..., at least 1; default 10000.
        burst: u32,
        /// ... within this time; default `"30s"`, `"0s"` for no limit.
        interval: DurationText,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        let d = |t| DurationText::parse(t).map(|d| d.0.as_millis());
        assert_eq!(d("250ms"), Ok(250));
        assert_eq!(d("2m"), Ok(120_000));
        assert!(d("5").is_err());
        assert!(d("-5s").is_err());
        assert!(d("9999999h").is_err_and(|e| e.contains("year")));
        assert_eq!(SizeText::parse("64M"), Ok(SizeText::Bytes(64 << 20)));
        assert_eq!(SizeText::parse("80%").map(|s| s.bytes(1000)), Ok(800));
        assert!(SizeText::parse("0%").is_err());
        assert!(SizeText::parse("64MB").is_err());
        assert!(SizeText::parse("18446744073709551615G").is_err());
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let error =
            toml::from_str::<ServiceConfig>("exec = ['/bin/x']\nrestrat = 'always'").unwrap_err();
        assert!(
            error.message().contains("unknown field `restrat`"),
            "{error}"
        );
        assert_eq!(error.span().map(|s| s.start), Some(18));
    }

    #[test]
    fn a_later_file_changes_only_what_it_sets() {
        let mut config: ServiceConfig = toml::from_str(
            "exec = ['/bin/x']\n[probe.liveness]\ntcp = '127.0.0.1:1'\ntimeout = '1s'",
        )
        .unwrap();
        config.merge(toml::from_str("[probe.liveness]\ntimeout = '7s'").unwrap());
        assert_eq!(config.exec, Some(vec!["/bin/x".to_owned()]));
        assert_eq!(config.probe.liveness.tcp.as_deref(), Some("127.0.0.1:1"));
        assert_eq!(
            config.probe.liveness.timeout,
            Some(DurationText(Duration::from_secs(7)))
        );
    }
}
