//! The report of this boot: `/run/init/boot.json`, and what `initctl boot` shows.
//!
//! The stages with their times since the kernel started, and every event line, those of the initramfs
//! stage first. Written once, when the boot has succeeded.

use crate::control::protocol::{BootReport, Stage};
use crate::emit::Emitter;
use std::io;
use std::path::Path;

/// The report as it is now.
#[must_use]
pub fn make(emitter: &Emitter) -> BootReport {
    let initramfs = std::fs::read_to_string(crate::initramfs::RECORD).unwrap_or_default();
    let record = emitter.newest(usize::MAX).map(|(at, event)| event.line(at));
    let events: Vec<String> = initramfs.lines().map(str::to_owned).chain(record).collect();
    BootReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        stages: stages(&events),
        events,
    }
}

/// Writes it, whole or not at all.
///
/// # Errors
/// Names the path.
pub fn write(report: &BootReport, path: &Path) -> io::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text)
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
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
    let stages: Vec<Stage> = lines.iter().filter_map(stage).collect();
    // What comes after is no part of the boot.
    let end = stages.iter().position(|stage| stage.name == "boot.healthy");
    let count = end.map_or(stages.len(), |end| end + 1);
    stages.into_iter().take(count).collect()
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
            "init: 1.500 boot.healthy",
            "init: 9.000 service.start service=a pid=9",
        ];
        let stages = stages(&lines.map(str::to_owned));
        let expected = [
            ("boot.start.initramfs", 500),
            ("service.ready.a", 1250),
            ("boot.healthy", 1500),
        ];
        assert_eq!(
            stages,
            expected.map(|(name, at_ms)| Stage {
                name: name.to_owned(),
                at_ms
            })
        );
    }
}
