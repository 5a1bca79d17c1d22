//! The text for a scraper: OpenMetrics 1.0, made of the status and of nothing else.
//!
//! All lines of a family stand together below its `# TYPE`, `# UNIT` and `# HELP`; a family of which
//! nothing is known, such as memory without a memory controller, is left out. Times are seconds and
//! sizes bytes, as that standard wants.
//!
//! The states of a service are a gauge for each state, of which one is 1. The standard's `stateset`
//! would put the family's name in place of the label `state`, which no query reads well.

use super::protocol::SystemStatus;
use std::fmt::{self, Write};
use supervisor::core::State;
use supervisor::status::{ProbeStatus, ServiceStatus};

/// The text.
#[must_use]
pub fn render(status: &SystemStatus) -> String {
    let mut text = Text::default();
    machine(&mut text, status);
    for service in &status.services {
        for state in State::ALL.map(State::name) {
            let labels = [("service", service.name.as_str()), ("state", state)];
            text.sample(labels, u64::from(service.state == state));
        }
    }
    text.family(
        "init_service_state",
        "gauge",
        "",
        "Whether a service is in a state.",
    );
    for service in &status.services {
        for (state, count) in &service.transitions {
            let labels = [("service", service.name.as_str()), ("state", state)];
            text.part("_total", labels, *count);
        }
    }
    text.family(
        "init_service_transitions",
        "counter",
        "",
        "How often a service came into a state since boot.",
    );
    life(&mut text, status);
    resources(&mut text, status);
    probes(&mut text, status);
    for service in &status.services {
        let lost = &service.log_lost;
        for (reason, count) in [
            ("console", lost.console),
            ("rate", lost.rate),
            ("file", lost.file),
        ] {
            let labels = [("service", service.name.as_str()), ("reason", reason)];
            text.part("_total", labels, count);
        }
    }
    text.family(
        "init_log_lost_lines",
        "counter",
        "",
        "Lines of output that were lost, by where.",
    );
    text.done.push_str("# EOF\n");
    text.done
}

fn machine(text: &mut Text, status: &SystemStatus) {
    text.sample([], u64::from(status.healthy));
    text.family(
        "init_healthy",
        "gauge",
        "",
        "Whether all required services are healthy.",
    );
    let init = &status.init;
    for (name, value, help) in [
        (
            "init_wakeups",
            init.wakeups,
            "How often the loop of PID 1 woke up.",
        ),
        (
            "init_orphans_reaped",
            init.orphans,
            "Orphans that PID 1 reaped.",
        ),
        (
            "init_events_lost",
            init.events_lost,
            "Events that did not get to the console.",
        ),
    ] {
        text.part("_total", [], value);
        text.family(name, "counter", "", help);
    }
}

fn life(text: &mut Text, status: &SystemStatus) {
    text.each(status, "_total", |s| Some(s.restarts));
    text.family(
        "init_service_restarts",
        "counter",
        "",
        "Restarts since boot.",
    );
    text.each(status, "_total", |s| Some(s.starts));
    text.family("init_service_starts", "counter", "", "Starts since boot.");
    text.each(status, "", |s| Some(u64::from(s.required)));
    text.family(
        "init_service_required",
        "gauge",
        "",
        "Whether the health of the boot depends on it.",
    );
    let now = status.now_ms;
    text.each(status, "", |s| {
        Some(Millis(now.saturating_sub(s.started_at_ms?)))
    });
    text.family(
        "init_service_uptime_seconds",
        "gauge",
        "seconds",
        "Since the start of the present instance.",
    );
    text.each(status, "", |s| s.watchdog.as_ref()?.margin_ms.map(Millis));
    text.family(
        "init_service_watchdog_margin_seconds",
        "gauge",
        "seconds",
        "What is left until silence is a fault.",
    );
    text.each(status, "", |s| {
        s.watchdog.as_ref()?.least_margin_ms.map(Millis)
    });
    text.family(
        "init_service_watchdog_least_margin_seconds",
        "gauge",
        "seconds",
        "The least that was ever left when a ping came.",
    );
}

fn resources(text: &mut Text, status: &SystemStatus) {
    text.each(status, "", |s| s.resources.memory);
    text.family(
        "init_service_memory_bytes",
        "gauge",
        "bytes",
        "Memory in use.",
    );
    text.each(status, "", |s| s.resources.memory_peak);
    text.family(
        "init_service_memory_peak_bytes",
        "gauge",
        "bytes",
        "The most memory that the present instance used.",
    );
    text.each(status, "", |s| s.resources.tasks);
    text.family("init_service_tasks", "gauge", "", "Processes and threads.");
    text.each(status, "_total", |s| s.resources.cpu_usec.map(Micros));
    text.family(
        "init_service_cpu_seconds",
        "counter",
        "seconds",
        "Processor time used.",
    );
}

fn probes(text: &mut Text, status: &SystemStatus) {
    let mut all: Vec<(&str, &ProbeStatus)> = Vec::new();
    for service in &status.services {
        all.extend(service.probes.iter().map(|p| (service.name.as_str(), p)));
    }
    for (service, probe) in &all {
        for (result, count) in [("good", probe.good), ("bad", probe.bad)] {
            let labels = [
                ("service", *service),
                ("probe", probe.kind.as_str()),
                ("result", result),
            ];
            text.part("_total", labels, count);
        }
    }
    text.family(
        "init_probe_answers",
        "counter",
        "",
        "Answers to a probe, timeouts included.",
    );
    for (service, probe) in &all {
        let labels = [("service", *service), ("probe", probe.kind.as_str())];
        text.part("_sum", labels, Millis(probe.latency_sum_ms));
        text.part("_count", labels, probe.good.saturating_add(probe.bad));
    }
    text.family(
        "init_probe_latency_seconds",
        "summary",
        "seconds",
        "How long answers to a probe took.",
    );
    for (service, probe) in &all {
        let labels = [("service", *service), ("probe", probe.kind.as_str())];
        text.sample(labels, Millis(probe.latency_max_ms));
    }
    text.family(
        "init_probe_latency_max_seconds",
        "gauge",
        "seconds",
        "The longest that an answer to a probe took.",
    );
}

/// Milliseconds, shown as seconds.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// Microseconds, shown as seconds.
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The families that are done, and the samples of the one in work. A family is named after its samples
/// are there, because only then it is known whether there is one.
#[derive(Default)]
struct Text {
    done: String,
    /// What comes after the name of the family.
    samples: Vec<String>,
}

impl Text {
    fn sample<const N: usize>(&mut self, labels: [(&str, &str); N], value: impl fmt::Display) {
        self.part("", labels, value);
    }

    /// A sample whose name is that of the family with something behind.
    fn part<const N: usize>(
        &mut self,
        suffix: &str,
        labels: [(&str, &str); N],
        value: impl fmt::Display,
    ) {
        let mut sample = suffix.to_owned();
        for (place, (name, value)) in labels.iter().enumerate() {
            sample.push(if place == 0 { '{' } else { ',' });
            let _ = write!(sample, "{name}=\"");
            push_escaped(&mut sample, value);
            sample.push('"');
        }
        if N > 0 {
            sample.push('}');
        }
        let _ = write!(sample, " {value}");
        self.samples.push(sample);
    }

    /// A sample of each service that has this value.
    fn each<V: fmt::Display>(
        &mut self,
        status: &SystemStatus,
        suffix: &str,
        value: impl Fn(&ServiceStatus) -> Option<V>,
    ) {
        for service in &status.services {
            if let Some(value) = value(service) {
                self.part(suffix, [("service", &service.name)], value);
            }
        }
    }

    /// Ends a family.
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        if self.samples.is_empty() {
            return;
        }
        let _ = writeln!(self.done, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.done, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.done, "# HELP {name} {help}");
        for sample in self.samples.drain(..) {
            let _ = writeln!(self.done, "{name}{sample}");
        }
    }
}

/// A label's value (OpenMetrics 1.0, `escaped-string`).
fn push_escaped(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests;
