//! One service: why it is in its state, and everything that is known of it.

use super::text::{clean, duration, moment, push_clean, size};
use crate::control::protocol::{ExitRecord, SystemStatus};
use std::fmt::Write;
use supervisor::status::{Death, Next, ProbeStatus, ServiceStatus};

/// The state, and whether it reloads.
pub(super) fn state(service: &ServiceStatus) -> String {
    let mut state = clean(&service.state);
    if service.reloading {
        state.push_str(", reloading");
    }
    state
}

/// How long it has been in its state. What never left it has been there since init was started, not since
/// the kernel was, which makes a difference in a container.
pub(super) fn in_state(system: &SystemStatus, service: &ServiceStatus) -> String {
    let since = service.since_at_ms.max(system.booted_at_ms);
    duration(system.now_ms.saturating_sub(since))
}

/// How the last instance ended, or what else is wrong.
pub(super) fn last_cause(service: &ServiceStatus) -> Option<String> {
    match service.deaths.last() {
        Some(death) => Some(ended(death)),
        None => Some(clean(&service.explanation.because)).filter(|b| !b.is_empty()),
    }
}

fn ended(death: &Death) -> String {
    format!(
        "{} after {}",
        clean(&death.cause),
        duration(death.uptime_ms)
    )
}

/// What it is, why, and what comes next.
pub(super) fn sentence(system: &SystemStatus, service: &ServiceStatus) -> String {
    let preposition = if service.state == "backoff" {
        "in "
    } else {
        ""
    };
    let mut text = format!(
        "{} has been {preposition}{} for {}",
        clean(&service.name),
        state(service),
        in_state(system, service)
    );
    if !service.explanation.because.is_empty() {
        text.push_str(": ");
        push_clean(&mut text, &service.explanation.because);
    }
    text.push('.');
    let next = |next: &Next| match next.in_ms {
        Some(ms) => format!("{} in {}", clean(&next.what), duration(ms)),
        None => clean(&next.what),
    };
    let next: Vec<String> = service.explanation.next.iter().map(next).collect();
    if !next.is_empty() {
        let _ = write!(text, " Next: {}.", next.join("; "));
    }
    text
}

/// [`sentence`], and what it waits for. `system` has all services.
pub(super) fn explain(system: &SystemStatus, service: &ServiceStatus) -> String {
    let mut text = sentence(system, service);
    text.push('\n');
    let waits = service.wanted && ["stopped", "backoff"].contains(&service.state.as_str());
    let mut before: Vec<&String> = service.requires.iter().collect();
    before.extend(
        service
            .after
            .iter()
            .filter(|a| !service.requires.contains(a)),
    );
    for name in before.into_iter().filter(|_| waits) {
        let other = system.services.iter().find(|s| s.name == *name);
        let there =
            |s: &&ServiceStatus| ["ready", "healthy", "unhealthy"].contains(&s.state.as_str());
        if let Some(other) = other.filter(|s| !there(s)) {
            let _ = writeln!(
                text,
                "It waits for {}: {}",
                clean(name),
                sentence(system, other)
            );
        }
    }
    text
}

/// Everything.
pub(super) fn render(
    system: &SystemStatus,
    service: &ServiceStatus,
    last: Option<&ExitRecord>,
) -> String {
    let mut block = Block(sentence(system, service) + "\n");
    let wanted = match (service.wanted, service.required) {
        (true, true) => "yes, and the health of the boot depends on it",
        (true, false) => "yes",
        (false, _) => "no",
    };
    block.line("wanted", wanted);
    block.line("kind", &service.kind);
    block.line("process", &process(system, service));
    block.line("says", &service.status_text);
    block.line("after", &service.after.join(", "));
    block.line("requires", &service.requires.join(", "));
    block.line("required by", &service.required_by.join(", "));
    let (used, allowed) = service.intensity;
    let starts = format!(
        "{}, {} of them restarts; {used} of {allowed} restarts used at present",
        service.starts, service.restarts
    );
    block.line("starts", &starts);
    for probe in &service.probes {
        probed(&mut block, probe);
    }
    if let Some(watchdog) = &service.watchdog {
        let mut text = duration(watchdog.interval_ms);
        if let Some(margin) = watchdog.margin_ms {
            let _ = write!(text, ", {} left", duration(margin));
        }
        if let Some(least) = watchdog.least_margin_ms {
            let _ = write!(text, ", at the least {} were", duration(least));
        }
        block.line("watchdog", &text);
    }
    used_up(&mut block, service);
    block.line("sockets", &service.sockets.join(", "));
    if service.stored_fds > 0 {
        block.line("stored fds", &service.stored_fds.to_string());
    }
    let lost = &service.log_lost;
    if lost.console + lost.rate + lost.file > 0 {
        let text = format!(
            "console {}, rate {}, file {}",
            lost.console, lost.rate, lost.file
        );
        block.line("lost lines", &text);
    }
    for death in &service.deaths {
        block.line("ended", &death_line(death));
    }
    if let Some(last) = last {
        block.line(
            "last exit",
            last.event.strip_prefix("init: ").unwrap_or(&last.event),
        );
        for line in &last.lines {
            block.more(line);
        }
    }
    block.0
}

fn process(system: &SystemStatus, service: &ServiceStatus) -> String {
    let since = service.started_at_ms.map(|at| {
        let ago = duration(system.now_ms.saturating_sub(at));
        format!("started {ago} ago")
    });
    match (service.pid, since) {
        (Some(pid), Some(since)) => format!("{pid}, {since}"),
        (Some(pid), None) => pid.to_string(),
        (None, _) => "none".into(),
    }
}

fn probed(block: &mut Block, probe: &ProbeStatus) {
    let answers = probe.good.saturating_add(probe.bad);
    let mut text = format!(
        "{} {}, every {} within {}, {} bad or {} good count{}; {} good, {} bad",
        probe.kind,
        probe.target,
        duration(probe.interval_ms),
        duration(probe.timeout_ms),
        probe.failures,
        probe.successes,
        if probe.active { "" } else { ", not asked now" },
        probe.good,
        probe.bad
    );
    if let Some(mean) = probe.latency_sum_ms.checked_div(answers) {
        let most = duration(probe.latency_max_ms);
        let _ = write!(text, ", {} on average, {most} at most", duration(mean));
    }
    block.line("probe", &text);
    for answer in &probe.history {
        let fault = answer.fault.as_deref().unwrap_or("good");
        let (at, latency) = (moment(answer.at_ms), duration(answer.latency_ms));
        block.more(&format!("{at} {latency}: {fault}"));
    }
}

fn used_up(block: &mut Block, service: &ServiceStatus) {
    let resources = &service.resources;
    let memory = [
        ("", resources.memory),
        ("peak ", resources.memory_peak),
        ("limit ", resources.memory_max),
    ];
    let memory: Vec<String> = memory
        .iter()
        .filter_map(|(what, bytes)| Some(format!("{what}{}", size((*bytes)?))))
        .collect();
    block.line("memory", &memory.join(", "));
    if let Some(tasks) = resources.tasks {
        block.line("tasks", &tasks.to_string());
    }
    if let Some(cpu) = resources.cpu_usec {
        block.line("processor", &duration(cpu / 1000));
    }
}

fn death_line(death: &Death) -> String {
    let mut text = format!("{} {}", moment(death.at_ms), ended(death));
    if let Some(pid) = death.pid {
        let _ = write!(text, ", process {pid}");
    }
    if death.core {
        text.push_str(", left a core");
    }
    if death.oom {
        text.push_str(", out of memory");
    }
    if let Some(peak) = death.memory_peak {
        let _ = write!(text, ", memory peak {}", size(peak));
    }
    text
}

/// Lines of a name and a text; a text that is empty is left out.
pub(super) struct Block(pub String);

impl Block {
    pub fn line(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            let _ = writeln!(self.0, "  {name:12}{}", clean(text));
        }
    }

    fn more(&mut self, text: &str) {
        let _ = writeln!(self.0, "  {:14}{}", "", clean(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervisor::status::{Explanation, ProbeAnswer, Resources, WatchdogStatus};

    fn backoff() -> ServiceStatus {
        ServiceStatus {
            name: "astromeshd".into(),
            state: "backoff".into(),
            since_at_ms: 6_800,
            wanted: true,
            explanation: Explanation {
                because: "exit status 1 (after 0.4 s)".into(),
                next: vec![Next {
                    what: "start".into(),
                    in_ms: Some(800),
                }],
            },
            ..ServiceStatus::default()
        }
    }

    fn system(services: Vec<ServiceStatus>) -> SystemStatus {
        SystemStatus {
            now_ms: 10_000,
            services,
            ..SystemStatus::default()
        }
    }

    #[test]
    fn a_sentence() {
        assert_eq!(
            sentence(&system(Vec::new()), &backoff()),
            "astromeshd has been in backoff for 3.2 s: exit status 1 (after 0.4 s). Next: start in 800 ms."
        );
        let healthy = ServiceStatus {
            name: "a".into(),
            state: "healthy".into(),
            reloading: true,
            ..ServiceStatus::default()
        };
        assert_eq!(
            sentence(&system(Vec::new()), &healthy),
            "a has been healthy, reloading for 10.0 s."
        );
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for() {
        let mut service = backoff();
        service.state = "stopped".into();
        service.requires = vec!["base".into()];
        service.after = vec!["net".into(), "base".into(), "fine".into()];
        service.explanation = Explanation::default();
        let other = |name: &str, state: &str| ServiceStatus {
            name: name.into(),
            state: state.into(),
            ..ServiceStatus::default()
        };
        let others = vec![other("base", "starting"), other("fine", "healthy")];
        assert_eq!(
            explain(&system(others.clone()), &service),
            "astromeshd has been stopped for 3.2 s.\nIt waits for base: base has been starting for 10.0 s.\n"
        );
        service.wanted = false;
        assert_eq!(explain(&system(others), &service).lines().count(), 1);
    }

    #[test]
    fn everything_of_one() {
        let service = ServiceStatus {
            kind: "notify".into(),
            pid: Some(97),
            started_at_ms: Some(9_000),
            required: true,
            status_text: "busy\x1b[2J".into(),
            after: vec!["net".into()],
            starts: 5,
            restarts: 4,
            intensity: (2, 5),
            probes: vec![ProbeStatus {
                kind: "liveness".into(),
                target: "http://127.0.0.1:8000/".into(),
                interval_ms: 5_000,
                timeout_ms: 2_000,
                failures: 3,
                successes: 1,
                active: true,
                good: 3,
                bad: 1,
                latency_sum_ms: 2_040,
                latency_max_ms: 2_000,
                history: vec![ProbeAnswer {
                    at_ms: 8_412,
                    latency_ms: 2_000,
                    fault: Some("timeout".into()),
                }],
            }],
            watchdog: Some(WatchdogStatus {
                interval_ms: 30_000,
                margin_ms: Some(29_000),
                least_margin_ms: Some(12_000),
            }),
            resources: Resources {
                memory: Some(2048),
                memory_max: Some(1 << 20),
                tasks: Some(3),
                cpu_usec: Some(1_200_000),
                ..Resources::default()
            },
            sockets: vec!["tcp:0.0.0.0:8000".into()],
            stored_fds: 2,
            log_lost: supervisor::status::LogLost {
                rate: 7,
                ..Default::default()
            },
            deaths: vec![Death {
                at_ms: 6_800,
                pid: Some(90),
                uptime_ms: 400,
                cause: "signal 9".into(),
                oom: true,
                memory_peak: Some(1 << 20),
                ..Death::default()
            }],
            ..backoff()
        };
        let last = ExitRecord {
            boot: "77".into(),
            time: None,
            event: "init: 6.800 service.exit service=astromeshd".into(),
            lines: vec!["Traceback\x07".into()],
        };
        let expected = "\
astromeshd has been in backoff for 3.2 s: exit status 1 (after 0.4 s). Next: start in 800 ms.
  wanted      yes, and the health of the boot depends on it
  kind        notify
  process     97, started 1.0 s ago
  says        busy\\x1b[2J
  after       net
  starts      5, 4 of them restarts; 2 of 5 restarts used at present
  probe       liveness http://127.0.0.1:8000/, every 5.0 s within 2.0 s, 3 bad or 1 good count; 3 good, 1 bad, 510 ms on average, 2.0 s at most
                8.412 2.0 s: timeout
  watchdog    30.0 s, 29.0 s left, at the least 12.0 s were
  memory      2.0 KiB, limit 1.0 MiB
  tasks       3
  processor   1.2 s
  sockets     tcp:0.0.0.0:8000
  stored fds  2
  lost lines  console 0, rate 7, file 0
  ended       6.800 signal 9 after 400 ms, process 90, out of memory, memory peak 1.0 MiB
  last exit   6.800 service.exit service=astromeshd
                Traceback\\x07
";
        assert_eq!(render(&system(Vec::new()), &service, Some(&last)), expected);
    }
}
