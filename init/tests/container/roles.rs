//! Roles of init that somebody has taken over, or that hang: they are killed and replaced, and the services
//! do not notice.

use crate::rig::Container;
use rustix::process::Signal;

/// Writes a few lines, and when the test says so more than a pipe holds.
const WRITER: &str = r#"[service.s]
    exec = ["/bin/sh", "-c", '''
        echo ready
        until [ -e DIR/go ]; do sleep 0.05; done
        i=0; while [ $i -lt 8000 ]; do i=$((i+1)); echo "line $i of the service"; done
        echo over
        sleep 1000000
    ''']
    log = { burst = 1000000, interval = "1s" }
    required = true"#;

/// What the service wrote is on the console, line by line.
fn all_lines_are_shown(container: &mut Container) {
    container.until_shown("s: over");
    let lines = container.shown.iter();
    let shown: Vec<&str> = lines.filter_map(|l| l.strip_prefix("s: line ")).collect();
    let expected: Vec<String> = (1..=8000).map(|i| format!("{i} of the service")).collect();
    assert_eq!(shown, expected);
    let lost = &container.status("s")["log_lost"];
    assert_eq!(lost["console"], 0, "{lost}");
    assert_eq!(lost["rate"], 0, "{lost}");
}

#[test]
fn a_logger_that_stops_is_replaced_and_no_line_is_lost() {
    let mut container = Container::start("logger-stops", WRITER);
    container.until_shown("s: ready");
    container.signal("logger", Signal::STOP);
    std::fs::write(container.dir.join("go"), "").unwrap();
    let logger = [("service", "logger")];
    let reason = [("service", "logger"), ("reason", "watchdog")];
    container.until("service.unhealthy", &reason);
    container.until("service.exit", &logger);
    container.until("service.healthy", &logger);
    all_lines_are_shown(&mut container);
    assert_eq!(container.status("s")["restarts"], 0);
}

#[test]
fn a_logger_that_is_killed_is_replaced_and_no_line_in_the_pipes_is_lost() {
    let mut container = Container::start("logger-killed", WRITER);
    container.until_shown("s: ready");
    // Stopped first, so that it holds nothing itself when it ends.
    container.signal("logger", Signal::STOP);
    std::fs::write(container.dir.join("go"), "").unwrap();
    container.kill("logger");
    container.until("service.exit", &[("service", "logger"), ("signal", "9")]);
    all_lines_are_shown(&mut container);
}

/// All of it is looked for on the console: the first of it comes before a client can follow the events.
fn is_replaced_after(fault: &str) {
    let mut container = Container::start_broken(fault, WRITER);
    container.until_shown("service.unhealthy service=logger reason=\"misbehaves: sends ");
    container.until_shown("service.exit service=logger pid=2 signal=9");
    container.until_shown("service.healthy service=logger");
    container.until_shown("s: ready");
    std::fs::write(container.dir.join("go"), "").unwrap();
    all_lines_are_shown(&mut container);
    // What it sent is told by number: the first of it at once, the rest when it is killed, and what it has left
    // on the way later.
    let lines = container.shown.iter();
    let warnings = lines.filter(|l| l.contains("service.warning service=logger what=channel"));
    assert!(
        (2..=3).contains(&warnings.count()),
        "{:#?}",
        container.shown
    );
}

#[test]
fn a_logger_that_reports_without_end_is_killed_and_replaced() {
    is_replaced_after("logger-flood");
}

#[test]
fn a_logger_that_sends_garbage_without_end_is_killed_and_replaced() {
    is_replaced_after("logger-garbage");
}

#[test]
fn what_a_logger_wrote_to_its_standard_error_is_shown_by_its_successor() {
    let mut container = Container::start_broken("logger-panic", WRITER);
    container.until_shown("logger: thread 'main'");
    container.until_shown("service.healthy service=logger");
    let kept = container.output_of("logger");
    assert!(kept.iter().any(|l| l == "broken on purpose"), "{kept:#?}");
}
