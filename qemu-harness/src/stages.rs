//! The stages of one boot, with their times.
//!
//! Two clocks tell about a boot: the host's, which stamps each serial line and counts from
//! power-on, and the guest's, which counts from the kernel's start and is in each event. A stage
//! that has an event carries both. The kernel's own start is on the serial line when its EFI stub
//! speaks; otherwise the difference of the two clocks gives it: no line can arrive before it was
//! written, so the smallest difference over all events is the closest bound.

use crate::event::Event;
use crate::serial::SerialLine;
use anyhow::{Context, Result};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// The service whose readiness is the purpose of the machine.
pub const RUNTIME: &str = "astromeshd";

/// One step on the way to health.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// For example `root`.
    pub name: String,
    /// Host seconds since power-on.
    pub host: f64,
    /// Guest seconds since the kernel's start, if the guest told.
    pub guest: Option<f64>,
}

/// The stages of a boot in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stages(pub Vec<Stage>);

/// Stage name, event name and the field that must match.
type Rule = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
);

/// The stages that events mark.
const EVENTS: &[Rule] = &[
    ("initramfs", "boot.start", Some(("stage", "initramfs"))),
    ("root", "boot.root", None),
    ("system", "boot.start", Some(("stage", "system"))),
    ("var", "boot.var", None),
    ("net.link", "net.link", Some(("state", "up"))),
    ("net.address", "net.address", None),
    ("service.start", "service.start", Some(("service", RUNTIME))),
    ("service.ready", "service.ready", Some(("service", RUNTIME))),
    (
        "service.healthy",
        "service.healthy",
        Some(("service", RUNTIME)),
    ),
    ("healthy", "boot.healthy", None),
];

impl Stages {
    /// Reads the stages of the first boot in `lines`; `api` is when the host saw the first 200.
    #[must_use]
    pub fn read(lines: &[SerialLine], api: Option<Duration>) -> Self {
        let mut stages = Self(vec![Stage::at("power-on", Duration::ZERO)]);
        let first = |wanted: &dyn Fn(&str) -> bool| {
            lines
                .iter()
                .find(|line| wanted(line.text.trim()))
                .map(|line| line.at)
        };
        let mut add = |name: &str, at: Option<Duration>| {
            stages.0.extend(at.map(|at| Stage::at(name, at)));
        };
        add("firmware", first(&|text| !text.is_empty()));
        // EDK II's boot device selection names what it starts: our boot loader.
        add(
            "loader",
            first(&|text| text.starts_with("BdsDxe: starting ")),
        );
        add("kernel", kernel_start(lines));
        for (name, event, field) in EVENTS {
            let fields: Vec<_> = field.iter().copied().collect();
            let seen = lines.iter().find_map(|line| {
                let told = line.event.as_ref().filter(|e| e.is(event, &fields))?;
                Some((line.at, told.at))
            });
            if let Some((at, guest)) = seen {
                stages.0.push(Stage {
                    guest: Some(guest),
                    ..Stage::at(name, at)
                });
            }
        }
        // Without a serial line the host's own view of health is all there is.
        if let Some(at) = api {
            if stages.get("healthy").is_none() {
                stages.0.push(Stage::at("healthy", at));
            }
            stages.0.push(Stage::at("api", at));
        }
        stages.0.sort_by(|a, b| a.host.total_cmp(&b.host));
        stages
    }

    /// Reads back what [`Serialize`] and [`GuestTimes`] wrote: the report of `cargo boot --json`.
    ///
    /// # Errors
    /// When the report has no stages.
    pub fn from_report(report: &Value) -> Result<Self> {
        let times = |key: &str| report.get(key).and_then(Value::as_object);
        let host = times("stages").context("there is no object `stages` in it")?;
        let guest = times("guest");
        let mut stages = host
            .iter()
            .map(|(name, at)| {
                Ok(Stage {
                    name: name.clone(),
                    host: at
                        .as_f64()
                        .with_context(|| format!("stage `{name}` has no time"))?,
                    guest: guest.and_then(|g| g.get(name)?.as_f64()),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        stages.sort_by(|a, b| a.host.total_cmp(&b.host));
        Ok(Self(stages))
    }

    /// The stage of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Stage> {
        self.0.iter().find(|stage| stage.name == name)
    }

    /// Host seconds from the kernel's start to the API's first 200.
    #[must_use]
    pub fn kernel_to_api(&self) -> Option<f64> {
        Some(millis(self.get("api")?.host - self.get("kernel")?.host))
    }
}

impl Stage {
    fn at(name: &str, host: Duration) -> Self {
        Self {
            name: name.to_owned(),
            host: host.as_secs_f64(),
            guest: None,
        }
    }
}

/// When the kernel began, see the head of this module.
fn kernel_start(lines: &[SerialLine]) -> Option<Duration> {
    if let Some(line) = lines.iter().find(|l| l.text.starts_with("EFI stub: ")) {
        return Some(line.at);
    }
    lines
        .iter()
        .filter_map(|line| {
            let guest = line.event.as_ref().map(|event| event.at).or_else(|| {
                crate::event::kernel_stamp(&line.text)
                    .map(|(at, _)| at)
                    // Records before the clock is set up are stamped zero.
                    .filter(|at| *at > 0.0)
            })?;
            line.at
                .checked_sub(Duration::try_from_secs_f64(guest).ok()?)
        })
        .min()
}

/// As a JSON object: stage to host seconds, in the order of the boot.
impl Serialize for Stages {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for stage in &self.0 {
            map.serialize_entry(&stage.name, &millis(stage.host))?;
        }
        map.end()
    }
}

/// The guest's own times of the stages that have one.
#[derive(Debug)]
pub struct GuestTimes<'a>(pub &'a Stages);

impl Serialize for GuestTimes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for stage in &self.0.0 {
            if let Some(guest) = stage.guest {
                map.serialize_entry(&stage.name, &millis(guest))?;
            }
        }
        map.end()
    }
}

fn millis(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// A table for people.
impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16} {:>10} {:>8} {:>10}",
            "stage", "power-on +", "step", "kernel +"
        )?;
        let mut before = 0.0;
        for stage in &self.0 {
            write!(
                f,
                "{:<16} {:>9.3}s {:>7.3}s",
                stage.name,
                stage.host,
                stage.host - before
            )?;
            match stage.guest {
                Some(guest) => writeln!(f, " {guest:>9.3}s")?,
                None => writeln!(f, " {:>10}", "-")?,
            }
            before = stage.host;
        }
        Ok(())
    }
}

/// One line of progress for an event a person wants to see, or nothing.
#[must_use]
pub fn progress(event: &Event) -> Option<String> {
    let shown = EVENTS.iter().any(|(_, name, _)| *name == event.name)
        || [
            "failed",
            "degraded",
            "crash",
            "unhealthy",
            "exit",
            "restart",
        ]
        .iter()
        .any(|word| event.name.ends_with(word));
    if !shown {
        return None;
    }
    let line = event.to_string();
    Some(line.strip_prefix("init: ").unwrap_or(&line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &[(f64, &str)]) -> Vec<SerialLine> {
        log.iter()
            .map(|(at, text)| SerialLine {
                at: Duration::from_secs_f64(*at),
                text: (*text).to_owned(),
                event: Event::parse(text).ok(),
            })
            .collect()
    }

    fn boot() -> Vec<SerialLine> {
        lines(&[
            (0.5, ""),
            (0.75, "BdsDxe: loading Boot0001"),
            (1.0, "BdsDxe: starting Boot0001"),
            (3.5, "[    0.000000] Linux version 6.12"),
            (4.0, "init: 0.500 boot.start stage=initramfs version=0.1.0"),
            (4.25, "init: 0.800 boot.root device=/dev/dm-0"),
            (4.5, "init: 1.000 boot.start stage=system version=0.1.0"),
            (5.0, "init: 1.500 net.link link=lo state=up"),
            (5.0, "init: 1.500 service.start service=netcfg pid=8"),
            (6.0, "init: 2.500 service.start service=astromeshd pid=9"),
            (9.0, "init: 5.500 boot.healthy"),
        ])
    }

    #[test]
    fn stages_of_a_boot() {
        let stages = Stages::read(&boot(), Some(Duration::from_millis(9250)));
        let at = |name: &str| stages.get(name).map(|stage| stage.host);
        assert_eq!(at("power-on"), Some(0.0));
        assert_eq!(at("firmware"), Some(0.75));
        assert_eq!(at("loader"), Some(1.0));
        // The smallest host - guest difference, not the line stamped zero.
        assert_eq!(at("kernel"), Some(3.45));
        assert_eq!(at("service.start"), Some(6.0));
        assert_eq!(at("healthy"), Some(9.0));
        assert_eq!(at("api"), Some(9.25));
        assert_eq!(at("var"), None);
        assert_eq!(stages.get("root").and_then(|s| s.guest), Some(0.8));
        assert_eq!(stages.kernel_to_api(), Some(5.8));
    }

    #[test]
    fn the_stub_marks_the_kernel() {
        let mut log = boot();
        log.insert(3, lines(&[(3.0, "EFI stub: Loaded initrd")])[0].clone());
        let stages = Stages::read(&log, None);
        assert_eq!(stages.get("kernel").map(|s| s.host), Some(3.0));
    }

    #[test]
    fn json_keeps_the_order() {
        let json = serde_json::to_string(&Stages::read(&boot(), None)).expect("JSON");
        assert!(
            json.starts_with(r#"{"power-on":0.0,"firmware":0.75,"loader":1.0,"kernel":3.45,"#),
            "{json}"
        );
        assert!(json.ends_with(r#""healthy":9.0}"#), "{json}");
    }

    #[test]
    fn a_report_is_read_back() {
        let stages = Stages::read(&boot(), Some(Duration::from_millis(9250)));
        let report = serde_json::json!({"stages": stages, "guest": GuestTimes(&stages)});
        let back = Stages::from_report(&report).expect("a report");
        assert_eq!(back.get("healthy"), stages.get("healthy"));
        assert_eq!(back.0.len(), stages.0.len());
        let error = Stages::from_report(&serde_json::json!({})).expect_err("no stages");
        assert!(error.to_string().contains("`stages`"), "{error}");
    }

    #[test]
    fn without_a_serial_line_health_is_the_api() {
        let stages = Stages::read(&[], Some(Duration::from_secs(7)));
        assert_eq!(stages.get("healthy").map(|s| s.host), Some(7.0));
    }
}
