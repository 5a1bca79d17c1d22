//! All services as a tree: each below the first service that it requires.
//!
//! Plain ASCII, because a serial console may be all there is.

use super::service::{in_state, last_cause, state};
use super::text::{clean, duration, size};
use crate::control::protocol::SystemStatus;
use std::collections::HashSet;
use supervisor::status::ServiceStatus;

const HEAD: [&str; 6] = ["SERVICE", "STATE", "SINCE", "PID", "RESTARTS", "MEMORY"];

/// A line of the table, and what is said below it.
struct Row {
    cells: [String; 6],
    /// What the tree draws before a line below this one.
    below: String,
    cause: Option<String>,
}

/// The tree, below a line on the machine.
pub(super) fn render(system: &SystemStatus) -> String {
    let health = if system.healthy {
        "healthy"
    } else {
        "not healthy"
    };
    let mut shown = format!(
        "{}, {health}; init {}, up {}\n",
        clean(&system.state),
        clean(&system.version),
        duration(system.now_ms.saturating_sub(system.booted_at_ms))
    );
    let rows = rows(system);
    let widths: Vec<usize> = HEAD
        .iter()
        .enumerate()
        .map(|(column, head)| {
            let cell = |r: &Row| r.cells.get(column).map_or(0, |c| c.chars().count());
            rows.iter().map(cell).max().unwrap_or(0).max(head.len())
        })
        .collect();
    let mut push = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        shown.push_str(line.trim_end());
        shown.push('\n');
    };
    push(&HEAD.map(String::from));
    for row in rows {
        push(&row.cells);
        if let Some(cause) = row.cause {
            push(&[format!("{}     {cause}", row.below)]);
        }
    }
    shown
}

fn rows(system: &SystemStatus) -> Vec<Row> {
    let services = &system.services;
    let children = |of: Option<&str>| -> Vec<&ServiceStatus> {
        let theirs = services.iter().filter(|s| parent(services, s) == of);
        theirs.collect()
    };
    let mut rows = Vec::new();
    let mut shown: HashSet<&str> = HashSet::new();
    // What is reached from the top; then what is not, which only a circle of requirements would be.
    for start in children(None).into_iter().chain(services) {
        let mut open = vec![(start, String::new(), String::new())];
        while let Some((service, before, below)) = open.pop() {
            if !shown.insert(&service.name) {
                continue;
            }
            rows.push(row(system, service, &before, &below));
            let below_this = children(Some(&service.name));
            let last = below_this.len().saturating_sub(1);
            let drawn = below_this.into_iter().enumerate().map(|(place, child)| {
                let (branch, stem) = if place == last {
                    ("`- ", "   ")
                } else {
                    ("|- ", "|  ")
                };
                (child, format!("{below}{branch}"), format!("{below}{stem}"))
            });
            open.extend(drawn.rev());
        }
    }
    rows
}

/// The first service that one requires.
fn parent<'a>(services: &[ServiceStatus], service: &'a ServiceStatus) -> Option<&'a str> {
    let known = |name: &&String| services.iter().any(|s| s.name == **name);
    service.requires.iter().find(known).map(String::as_str)
}

fn row(system: &SystemStatus, service: &ServiceStatus, before: &str, below: &str) -> Row {
    let none = || String::from("-");
    let trouble = ["failed", "backoff", "unhealthy"].contains(&service.state.as_str());
    Row {
        cells: [
            format!("{before}{}", clean(&service.name)),
            state(service),
            in_state(system, service),
            service.pid.map_or_else(none, |pid| pid.to_string()),
            service.restarts.to_string(),
            service.resources.memory.map_or_else(none, size),
        ],
        below: below.to_owned(),
        cause: last_cause(service).filter(|_| trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervisor::status::{Death, Resources};

    fn service(name: &str, state: &str, requires: &[&str]) -> ServiceStatus {
        ServiceStatus {
            name: name.into(),
            state: state.into(),
            requires: requires.iter().map(|r| (*r).into()).collect(),
            ..ServiceStatus::default()
        }
    }

    fn system(services: Vec<ServiceStatus>) -> SystemStatus {
        SystemStatus {
            version: "1".into(),
            now_ms: 10_000,
            state: "starting".into(),
            services,
            ..SystemStatus::default()
        }
    }

    #[test]
    fn a_service_stands_below_what_it_requires() {
        let mut base = service("base", "healthy", &[]);
        base.pid = Some(71);
        base.resources = Resources {
            memory: Some(3 << 20),
            ..Resources::default()
        };
        let mut agent = service("agent", "backoff", &["net", "base"]);
        agent.since_at_ms = 6_800;
        agent.restarts = 4;
        agent.deaths = vec![Death {
            cause: "exit status 1\x1b".into(),
            uptime_ms: 400,
            ..Death::default()
        }];
        let services = vec![
            base,
            agent,
            service("tail", "stopped", &["agent"]),
            service("side", "ready", &["base"]),
            service("alone", "healthy", &["net"]),
        ];
        let expected = "\
starting, not healthy; init 1, up 10.0 s
SERVICE     STATE    SINCE   PID  RESTARTS  MEMORY
base        healthy  10.0 s  71   0         3.0 MiB
|- agent    backoff  3.2 s   -    4         -
|       exit status 1\\x1b after 400 ms
|  `- tail  stopped  10.0 s  -    0         -
`- side     ready    10.0 s  -    0         -
alone       healthy  10.0 s  -    0         -
";
        assert_eq!(render(&system(services)), expected);
    }

    /// The kernel of a container has run for long before it.
    #[test]
    fn a_container_counts_from_its_own_start() {
        let mut system = system(vec![service("a", "stopped", &[])]);
        system.now_ms = 3_000_000;
        system.booted_at_ms = 2_994_000;
        let shown = render(&system);
        assert!(
            shown.contains("up 6.0 s\n") && shown.contains("stopped  6.0 s"),
            "{shown}"
        );
    }

    #[test]
    fn a_circle_is_shown_whole_and_ends() {
        let circle = vec![
            service("a", "stopped", &["b"]),
            service("b", "stopped", &["a"]),
            service("c", "stopped", &["c"]),
        ];
        assert_eq!(render(&system(circle)).lines().count(), 5);
    }
}
