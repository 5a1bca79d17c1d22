//! Events, output and exits, one line each.

use super::text::{clean, date, moment, push_clean, push_value};
use crate::control::protocol::{EventLine, ExitRecord, LogLine, Missed, WallTime};
use std::fmt::Write;

/// One event: `12.345 name key=value`.
pub(super) fn event(event: &EventLine) -> String {
    let mut line = format!("{} ", moment(event.at_ms));
    push_clean(&mut line, &event.event);
    for (key, value) in &event.fields {
        line.push(' ');
        push_clean(&mut line, key);
        line.push('=');
        push_value(&mut line, value);
    }
    line
}

/// One line of output: `12.345 service: text`. A tab is no danger, and tables have them.
pub(super) fn log(log: &LogLine) -> String {
    let mut line = format!("{} ", moment(log.at_ms));
    push_clean(&mut line, &log.service);
    line.push_str(": ");
    for (place, part) in bare(&log.service, &log.line).split('\t').enumerate() {
        if place > 0 {
            line.push('\t');
        }
        push_clean(&mut line, part);
    }
    line
}

/// A line of init's own, without the name and the time that it begins with.
fn bare<'a>(service: &str, line: &'a str) -> &'a str {
    let own = line.strip_prefix("init: ").filter(|_| service == "init");
    let event = own.and_then(|own| own.split_once(' '));
    event.map_or(line, |(_, event)| event)
}

/// One exit: the event, and the last output below it.
pub(super) fn exit(exit: &ExitRecord) -> String {
    let mut shown = clean(exit.event.strip_prefix("init: ").unwrap_or(&exit.event));
    shown.push_str("  (boot ");
    push_clean(&mut shown, &exit.boot);
    if let Some(WallTime { unix, synchronised }) = exit.time {
        let _ = write!(shown, ", {}", date(unix));
        if !synchronised {
            shown.push_str(" by a clock that was not synchronised");
        }
    }
    shown.push(')');
    for line in &exit.lines {
        shown.push_str("\n    ");
        push_clean(&mut shown, line);
    }
    shown
}

/// What stands where lines are missing.
pub(super) fn gap(gap: &Missed) -> String {
    format!("... {} lines are missing here ...", gap.lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_they_are_shown() {
        let told = EventLine {
            at_ms: 12_345,
            event: "service.exit".into(),
            fields: [("service", "a"), ("why", "two words\u{1b}")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
        };
        assert_eq!(
            event(&told),
            r#"12.345 service.exit service=a why="two words\x1b""#
        );
        let line = |service: &str, line: &str| LogLine {
            at_ms: 1,
            service: service.into(),
            line: line.into(),
        };
        assert_eq!(log(&line("a", "x\ty\r\x1bü")), "0.001 a: x\ty\\x0d\\x1bü");
        assert_eq!(
            log(&line("init", "init: 0.001 boot.start k=v")),
            "0.001 init: boot.start k=v"
        );
        assert_eq!(
            log(&line("a", "init: 0.001 boot.start")),
            "0.001 a: init: 0.001 boot.start"
        );
        let mut record = ExitRecord {
            boot: "77".into(),
            time: None,
            event: "init: 3.000 service.exit service=a status=1".into(),
            lines: vec!["one".into(), "two\x07".into()],
        };
        assert_eq!(
            exit(&record),
            "3.000 service.exit service=a status=1  (boot 77)\n    one\n    two\\x07"
        );
        record.lines.clear();
        let mut dated = |synchronised| {
            record.time = Some(WallTime {
                unix: 1_735_689_600,
                synchronised,
            });
            exit(&record)
        };
        assert_eq!(
            dated(true),
            "3.000 service.exit service=a status=1  (boot 77, 2025-01-01 00:00:00 UTC)"
        );
        assert!(dated(false).ends_with(" UTC by a clock that was not synchronised)"));
        assert_eq!(gap(&Missed { lost: 3 }), "... 3 lines are missing here ...");
    }
}
