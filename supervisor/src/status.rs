//! What there is to tell about the services, as plain data.
//!
//! The core fills most of it, the driver adds what the kernel knows (memory, processes,
//! descriptors); `initctl` and the metrics are made of nothing else. Times are milliseconds: `*_at_ms`
//! since the kernel started (`CLOCK_BOOTTIME`), others are durations.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its state, as in the state machine's prose: `healthy`, `backoff` ...
    pub state: String,
    /// When it came into this state.
    pub since_at_ms: u64,
    /// Whether somebody wants it to run.
    pub wanted: bool,
    /// Whether boot health depends on it.
    pub required: bool,
    /// `exec`, `notify`, `probe` or `oneshot`.
    pub kind: String,
    /// Its main process.
    pub pid: Option<i32>,
    /// When the present instance was started.
    pub started_at_ms: Option<u64>,
    /// What it said of itself by `STATUS=`.
    pub status_text: String,
    /// Whether it is reloading.
    pub reloading: bool,
    /// What it comes after.
    pub after: Vec<String>,
    /// What it requires.
    pub requires: Vec<String>,
    /// What requires it.
    pub required_by: Vec<String>,
    /// Restarts since boot.
    pub restarts: u64,
    /// Starts since boot.
    pub starts: u64,
    /// Restarts within the present window of its intensity, and how many are allowed.
    pub intensity: (u32, u32),
    /// Its probes.
    pub probes: Vec<ProbeStatus>,
    /// Its watchdog, if it has one.
    pub watchdog: Option<WatchdogStatus>,
    /// How its last instances ended, the newest last.
    pub deaths: Vec<Death>,
    /// Its cgroup, as far as the kernel's controllers tell.
    pub resources: Resources,
    /// Sockets that init holds for it.
    pub sockets: Vec<String>,
    /// Descriptors that it left with init.
    pub stored_fds: usize,
    /// Lines of its output that were lost, since boot.
    pub log_lost: LogLost,
    /// How often it came into each state since boot.
    pub transitions: BTreeMap<String, u64>,
    /// Why it is in this state, and what comes next.
    pub explanation: Explanation,
}

/// One probe of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// `startup`, `readiness` or `liveness`.
    pub kind: String,
    /// What is asked.
    pub target: String,
    /// Between two probes.
    pub interval_ms: u64,
    /// For an answer.
    pub timeout_ms: u64,
    /// Failures in a row that count.
    pub failures: u32,
    /// Successes in a row that count.
    pub successes: u32,
    /// Whether it is being asked at present.
    pub active: bool,
    /// Good answers since boot.
    pub good: u64,
    /// Bad answers and timeouts since boot.
    pub bad: u64,
    /// Sum of the latencies of all answers since boot.
    pub latency_sum_ms: u64,
    /// The longest latency since boot.
    pub latency_max_ms: u64,
    /// The last answers, the newest last, at most eight.
    pub history: Vec<ProbeAnswer>,
}

/// One answer to a probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// When it came.
    pub at_ms: u64,
    /// How long it took.
    pub latency_ms: u64,
    /// What was wrong; nothing if it was good.
    pub fault: Option<String>,
}

/// The watchdog of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WatchdogStatus {
    /// The longest silence allowed.
    pub interval_ms: u64,
    /// What is left of it now, while it is armed.
    pub margin_ms: Option<u64>,
    /// The least that was ever left when a ping came.
    pub least_margin_ms: Option<u64>,
}

/// How an instance ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Death {
    /// When.
    pub at_ms: u64,
    /// Its main process.
    pub pid: Option<i32>,
    /// How long it had run.
    pub uptime_ms: u64,
    /// Why it ended, or was ended.
    pub cause: String,
    /// Its exit status.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it left a core.
    pub core: bool,
    /// Whether the kernel killed in it for want of memory.
    pub oom: bool,
    /// The most memory it used, in bytes.
    pub memory_peak: Option<u64>,
}

/// What a service's cgroup uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// `memory.current`.
    pub memory: Option<u64>,
    /// `memory.peak` of the present instance.
    pub memory_peak: Option<u64>,
    /// `memory.max`, if there is a limit.
    pub memory_max: Option<u64>,
    /// `pids.current`.
    pub tasks: Option<u64>,
    /// `usage_usec` of `cpu.stat`.
    pub cpu_usec: Option<u64>,
}

/// Lines of output that were lost, by where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLost {
    /// The console did not take them in time.
    pub console: u64,
    /// The service wrote more than it may.
    pub rate: u64,
    /// The disk did not take them.
    pub file: u64,
}

/// Why a service is in its state, and what comes next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Why.
    pub because: String,
    /// What comes next, the soonest first.
    pub next: Vec<Next>,
}

/// Something that will happen to a service unless something else does first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Next {
    /// What.
    pub what: String,
    /// When, if that is known.
    pub in_ms: Option<u64>,
}
