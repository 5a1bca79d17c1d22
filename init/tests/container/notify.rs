//! What services say of themselves, and what others say in their name (systemd: `sd_notify(3)`).

use crate::rig::Container;
use serde_json::json;

/// A service that is told by its name.
fn notify(steps: &str, more: &str) -> String {
    format!("[service.s]\nexec = ['SERVICE', {steps}]\ntype = 'notify'\n{more}\n")
}

#[test]
fn a_child_that_is_gone_already_speaks_for_its_service() {
    let steps = "'child-notify=STATUS=by a child;READY=1', 'forever'";
    let mut container = Container::start("gone", &notify(steps, "notify-access = 'all'"));
    container.until("service.ready", &[("service", "s")]);
    assert_eq!(container.status("s")["status_text"], "by a child");
}

#[test]
fn a_helper_of_the_service_is_not_heard_unless_it_may_speak() {
    let steps =
        "'notify=READY=1', 'child-notify=STATUS=by a child;STOPPING=1', 'print=said', 'forever'";
    let mut container = Container::start("helper", &notify(steps, ""));
    let warning = container.until("service.warning", &[("service", "s"), ("what", "notify")]);
    let error = warning.field("error");
    assert!(error.contains("notify-access = \"main\""), "{error}");
    container.until_shown("s: said");
    let status = container.status("s");
    assert_eq!(status["state"], "healthy", "{status}");
    assert_eq!(status["status_text"], "");
}

#[test]
fn ready_too_early_twice_and_from_a_stranger() {
    let services = notify(
        "'pause=400', 'notify=READY=1', 'notify=READY=1', 'print=said', 'forever'",
        "environment = { NOTIFY_SOCKET = 'DIR/run/notify/s' }\n\
         pre-start = [['SERVICE', 'notify=READY=1', 'pause=400']]\nnotify-access = 'exec'",
    );
    // Of the same user, but of another cgroup.
    let stranger = "[service.stranger]\n\
        exec = ['/bin/sh', '-c', 'NOTIFY_SOCKET=DIR/run/notify/s exec SERVICE notify=READY=1 forever']\n";
    let mut container = Container::start("early", &format!("{services}{stranger}"));
    let warning = container.until("service.warning", &[("service", "s"), ("what", "notify")]);
    assert!(
        warning.field("error").contains("is not of this service"),
        "{warning:?}"
    );
    container.until("service.ready", &[("service", "s")]);
    container.until_shown("s: said");
    container.command("stop", "s");
    container.until("service.stopped", &[("service", "s")]);
    let count = |event: &str| {
        let of_s = container
            .told
            .iter()
            .filter(|t| t.is(event, &[("service", "s")]));
        of_s.count()
    };
    assert_eq!(count("service.ready"), 1, "{:#?}", container.told);
    let start = container
        .told
        .iter()
        .find(|t| t.is("service.start", &[("service", "s")]));
    let ready = container
        .told
        .iter()
        .find(|t| t.is("service.ready", &[("service", "s")]));
    let waited = ready.unwrap().at_ms - start.unwrap().at_ms;
    // Half of the pause: PID 1 may tell the start some time after it, when the machine has much to do.
    assert!(
        waited >= 200,
        "not by the check, nor by the stranger: {waited}"
    );
}

#[test]
fn more_time_is_asked_for_and_given() {
    let steps = "'notify=EXTEND_TIMEOUT_USEC=60000000', 'pause=2500', 'notify=READY=1', 'forever'";
    let mut container = Container::start("extend", &notify(steps, "start-timeout = '2s'"));
    container.until("service.healthy", &[("service", "s")]);
    assert!(!container.was_told("service.stop", &[("service", "s")]));
}

#[test]
fn a_stored_descriptor_is_kept_over_a_restart_and_not_over_a_stop() {
    let steps = "'show-fds', 'notify=READY=1', 'store=lives', 'notify=BARRIER=1', 'forever'";
    let more = "restart = 'always'\nfd-store-max = 1\nsockets = ['tcp:127.0.0.1:0']";
    let mut container = Container::start("store", &notify(steps, more));
    container.until_shown("s: fds 1 names tcp-127.0.0.1-0 own true");
    container.until_status("s", "stored", |s| s["stored_fds"] == 1);
    container.command("restart", "s");
    container.until_shown("s: fds 2 names tcp-127.0.0.1-0:lives own true");
    container.until_shown("s: fd 4 holds stored");
    // It stores one more, for which there is no room.
    let refused = container.until("service.warning", &[("what", "FDSTORE")]);
    assert!(refused.field("error").contains("fd-store-max is 1"));
    container.command("stop", "s");
    container.until(
        "service.stopped",
        &[("service", "s"), ("cause", "requested")],
    );
    container.until_status("s", "closed", |s| s["stored_fds"] == 0);
}

#[test]
fn silence_is_noticed() {
    let mut container = Container::start(
        "watchdog",
        &notify(
            "'notify=READY=1', 'ping=2500', 'forever'",
            "restart = 'always'\nwatchdog = '2s'",
        ),
    );
    let ready = container.until("service.ready", &[("service", "s")]);
    let bark = container.until("service.unhealthy", &[("reason", "watchdog")]);
    assert!(bark.at_ms - ready.at_ms >= 2500, "it pinged for that long");
    container.until("service.restart", &[("cause", "watchdog")]);
    let status = container.status("s");
    assert!(status["watchdog"]["least_margin_ms"].as_u64().unwrap() <= 2000);
}

#[test]
fn the_main_process_moves_to_a_child_of_ours_and_to_one_that_is_not() {
    let mut container = Container::start(
        "mainpid",
        &notify(
            "'move-main=READY=1', 'pause=200', 'exit=3'",
            "restart = 'never'",
        ),
    );
    let moved = container.until("service.main", &[("service", "s")]);
    let exit = container.until("service.exit", &[("service", "s")]);
    assert_eq!(exit.field("pid"), moved.field("pid"));
    assert_eq!(
        exit.field("status"),
        "3",
        "an orphan's status comes to init"
    );
    drop(container);
    let mut container = Container::start(
        "adopted",
        &notify("'adopted-main'", "restart = 'never'\nnotify-access = 'all'"),
    );
    container.until("service.main", &[("service", "s")]);
    let exit = container.until("service.exit", &[("service", "s")]);
    assert_eq!(exit.field("status"), "unknown", "its parent got the status");
    container.until("service.failed", &[("service", "s")]);
}

#[test]
fn a_reload_is_asked_for_and_told_when_it_is_over() {
    let mut container = Container::start("reload", &notify("'reload'", "reload-signal = 'HUP'"));
    container.until("service.ready", &[("service", "s")]);
    container.command("reload", "s");
    container.until("service.reload", &[("service", "s")]);
    container.until("service.reloaded", &[("service", "s")]);
    assert_eq!(container.output_of("s"), ["reloading"]);
    container.command("stop", "s");
    container.until("service.stopped", &[("service", "s")]);
    let refused = container.ask(&json!({"verb": "reload", "service": "s"}));
    assert_eq!(refused["ok"], false);
    assert!(refused["error"].as_str().unwrap().contains("s is stopped"));
}

#[test]
fn the_reference_client_is_understood() {
    crate::rig::require("systemd-notify", "systemd");
    let script = "systemd-notify --status='by the reference' --pid=$$; \
        systemd-notify EXTEND_TIMEOUT_USEC=5000000 WATCHDOG=1; systemd-notify --ready; \
        systemd-notify RELOADING=1; systemd-notify --ready; echo done; exec sleep 1000";
    let text = format!(
        "[service.s]\nexec = ['/bin/sh', '-c', {script:?}]\ntype = 'notify'\nwatchdog = '60s'\n\
         notify-access = 'all'\n"
    );
    let mut container = Container::start("reference", &text);
    container.until("service.ready", &[("service", "s")]);
    container.until("service.reload", &[("service", "s")]);
    container.until("service.reloaded", &[("service", "s")]);
    container.until_shown("s: done");
    let status = container.status("s");
    assert_eq!(status["status_text"], "by the reference");
    assert!(!container.was_told("service.warning", &[("service", "s")]));
}

#[test]
fn what_a_service_says_makes_few_events_and_is_counted() {
    let steps = "'notify=READY=1', 'flood-notify=20000', 'print=flooded', 'forever'";
    let mut container = Container::start("flood-notify", &notify(steps, "user = '65534'"));
    container.until_shown("s: flooded");
    let warning = container.until("service.warning", &[("what", "notify"), ("service", "s")]);
    let suppressed: u64 = warning.field("suppressed").parse().unwrap();
    assert!(suppressed > 1000, "{warning:?}");
    let events = container.lines(&json!({"verb": "events"}));
    assert!(events.len() < 100, "{} events", events.len());
    assert_eq!(events[0]["event"], "boot.start");
    // What is no word of its own is told as ever.
    container.command("restart", "s");
    container.until("service.exit", &[("service", "s")]);
}
