//! The report of this boot: `/run/init/boot.json`.
//!
//! Written once, when the boot has succeeded: the stages with their times since the kernel
//! started, and every event line up to then, those of the initramfs stage first.

use serde::Serialize;
use std::io;
use supervisor::Time;

/// Where the report is.
pub const PATH: &str = "/run/init/boot.json";

#[derive(Serialize)]
struct Report {
    version: &'static str,
    stages: Vec<Stage>,
    events: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Stage {
    name: String,
    /// Milliseconds since the kernel started.
    at_ms: u64,
}

/// Writes the report.
///
/// # Errors
/// Names the path.
pub fn write(record: &[(Time, String)], initramfs: &str) -> io::Result<()> {
    let lines: Vec<String> = initramfs
        .lines()
        .map(str::to_owned)
        .chain(record.iter().map(|(_, line)| line.clone()))
        .collect();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        stages: stages(&lines),
        events: lines,
    };
    let text = serde_json::to_string_pretty(&report)?;
    let fresh = format!("{PATH}.new");
    std::fs::write(&fresh, text)
        .and_then(|()| std::fs::rename(&fresh, PATH))
        .map_err(|e| io::Error::new(e.kind(), format!("{PATH}: {e}")))
}

/// The stages that a boot goes through, by the event that ends each.
fn stages(lines: &[String]) -> Vec<Stage> {
    let stage = |line: &String| {
        let mut words = line.strip_prefix("init: ")?.split(' ');
        let at_ms = (words.next()?.parse::<f64>().ok()? * 1000.0).round();
        let event = words.next()?;
        let name = match event {
            "boot.start" => format!("{event}.{}", words.next()?.strip_prefix("stage=")?),
            "boot.root" | "boot.var" | "boot.healthy" | "net.link" | "net.address" => {
                event.to_owned()
            }
            "service.start" | "service.ready" | "service.healthy" => {
                format!("{event}.{}", words.next()?.strip_prefix("service=")?)
            }
            _ => return None,
        };
        // Uptimes in milliseconds are far below 2^53.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounded, and a time since start is not negative"
        )]
        let at_ms = at_ms as u64;
        Some(Stage { name, at_ms })
    };
    lines.iter().filter_map(stage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_from_the_lines() {
        let lines = [
            "init: 0.500 boot.start stage=initramfs version=1",
            "init: 0.700 boot.warning what=x",
            "init: 1.250 service.ready service=a pid=3 after_ms=4",
        ];
        let stages = stages(&lines.map(str::to_owned));
        let expected = [("boot.start.initramfs", 500), ("service.ready.a", 1250)];
        assert_eq!(
            stages,
            expected.map(|(name, at_ms)| Stage {
                name: name.to_owned(),
                at_ms
            })
        );
    }
}
