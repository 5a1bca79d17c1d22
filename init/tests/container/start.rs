//! How services start: clean, as configured, after their checks, in their order.

use crate::rig::{Container, require};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::Command;

#[test]
fn a_child_starts_clean() {
    let mut container = Container::start(
        "clean",
        r#"[service.s]
        exec = ["SERVICE", "show-self", "print=end", "forever"]
        sockets = ["unix:DIR/socket"]
        nice = 7
        limits = { nofile = 77, core = "infinity" }"#,
    );
    container.until_shown("s: end");
    let output = container.output_of("s");
    // 3 is the socket that init holds for it.
    for line in ["open 0 1 2 3", "SigBlk: 0000000000000000"] {
        assert!(
            output.contains(&line.to_owned()),
            "{line:?} is not in {output:#?}"
        );
    }
    let pid = container.cgroup_file("s", "1/cgroup.procs");
    let pid = pid.trim();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().rev().nth(1).unwrap().to_owned()
    };
    assert_eq!(limit("Max open files"), "77");
    assert_eq!(limit("Max core file size"), "unlimited");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc(5): nice is field 19; the name before may hold blanks, but ends with `)`.
    let after_name = stat.rsplit(')').next().unwrap();
    assert_eq!(after_name.split_whitespace().nth(16), Some("7"), "{stat}");
}

#[test]
fn neither_a_service_nor_a_role_can_get_more_than_it_states() {
    let container = Container::start(
        "capabilities",
        r#"[service.user]
        exec = ["SERVICE", "forever"]
        user = "65534"
        [service.root]
        exec = ["SERVICE", "forever"]"#,
    );
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |status: &str, name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().next_back().unwrap().to_owned()
    };
    let all = field(&own, "CapBnd:");
    let none = "0".repeat(16);
    for (service, bound) in [("user", &none), ("logger", &none), ("root", &all)] {
        container.until_status(service, "healthy", |s| s["state"] == "healthy");
        let pid = container.cgroup_file(service, "1/cgroup.procs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(&field(&status, set), bound, "{service} {set}");
        }
        assert_eq!(field(&status, "NoNewPrivs:"), "1", "{service}");
    }
}

#[test]
fn checks_gate_the_start() {
    let mut container = Container::start(
        "checks",
        r#"[service.s]
        exec = ["SERVICE", "print=started", "forever"]
        pre-start = [["SERVICE", "print=first"], ["/bin/test", "-e", "DIR/there"]]
        restart = "always"
        intensity = { restarts = 1000, within = "1s" }
        backoff.base = "10ms"
        backoff.max = "10ms""#,
    );
    let exit = container.until("service.exit", &[("service", "s")]);
    assert_eq!((exit.field("pre_start"), exit.field("status")), ("2", "1"));
    let restart = container.until("service.restart", &[("service", "s")]);
    assert_eq!(restart.field("cause"), "pre-start check 2: exit status 1");
    assert!(!container.was_told("service.start", &[("service", "s")]));
    std::fs::write(container.dir.join("there"), "").unwrap();
    container.until("service.healthy", &[("service", "s")]);
    container.until_shown("s: started");
    assert!(container.output_of("s").contains(&"first".to_owned()));
}

#[test]
fn who_requires_a_service_comes_back_with_it() {
    let mut container = Container::start(
        "requires",
        r#"[service.db]
        exec = ["SERVICE", "forever"]
        restart = "always"
        [service.app]
        exec = ["SERVICE", "forever"]
        requires = ["db"]
        [service.once]
        exec = ["SERVICE", "print=migrated"]
        type = "oneshot"
        requires = ["db"]"#,
    );
    container.until("service.healthy", &[("service", "app")]);
    container.until_status("once", "done", |s| s["state"] == "healthy");
    container.kill("db");
    let stop = container.until("service.stop", &[("service", "app")]);
    assert_eq!(stop.field("cause"), "db went, which it requires");
    container.until("service.healthy", &[("service", "app")]);
    let once = container.status("once");
    assert_eq!(once["state"], "healthy");
    assert_eq!(once["starts"], 1, "what is done is not done again: {once}");
    assert_eq!(container.status("app")["restarts"], 0);
}

#[test]
fn a_required_service_that_is_over_or_blocked_is_told_to_the_machine() {
    let mut container = Container::start(
        "over",
        r#"[service.over]
        exec = ["SERVICE", "exit=0"]
        required = true
        intensity.then = "degraded""#,
    );
    container.until("boot.degraded", &[("service", "over")]);
    drop(container);
    let mut container = Container::start(
        "blocked",
        r#"[service.migration]
        exec = ["SERVICE", "exit=1"]
        type = "oneshot"
        restart = "never"
        [service.app]
        exec = ["SERVICE", "forever"]
        required = true
        requires = ["migration"]
        start-timeout = "300ms""#,
    );
    let blocked = container.until("service.blocked", &[("service", "app")]);
    assert_eq!(blocked.field("dependency"), "migration");
    container.until("service.blocked", &[("service", "app"), ("then", "reboot")]);
    let start = container.until("shutdown.start", &[("verb", "reboot")]);
    assert_eq!(
        start.field("reason"),
        "service app requires migration, which is failed"
    );
    assert_eq!(container.end_of_itself().code(), Some(133));
}

#[test]
fn an_address_that_is_taken_defers_the_start_and_counts_for_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!(
        r#"[service.s]
        exec = ["SERVICE", "forever"]
        required = true
        sockets = ["tcp:{address}"]
        intensity.restarts = 0
        backoff.base = "10ms""#
    );
    let mut container = Container::start("address", &text);
    for tries in ["1", "2"] {
        let deferred = container.until("service.deferred", &[("tries", tries)]);
        let error = deferred.field("error");
        let start = format!("sockets: tcp:{address}: ");
        assert!(error.starts_with(&start), "{error}");
    }
    assert!(!container.was_told("service.failed", &[("service", "s")]));
    assert_eq!(container.status("s")["restarts"], 0);
    drop(taken);
    container.until("service.healthy", &[("service", "s")]);
}

#[test]
fn a_service_starts_before_its_address_is_there_and_answers_once_it_is() {
    require("ip", "iproute2");
    // A network of its own, in which the address comes when the test says so. Before it has any address at all, the
    // kernel takes each for one of broadcast, to which everybody may bind.
    let with_loopback = r#"ip link set lo up && exec "$@""#;
    let mut container = Container::start_by(
        &["unshare", "--net", "/bin/sh", "-c", with_loopback, "sh"],
        "late-address",
        // RFC 5737: an address that nobody else has.
        r#"[service.s]
        exec = ["SERVICE", "print=runs", "serve=ok"]
        type = "probe"
        sockets = ["tcp:192.0.2.1:80"]
        probe.readiness = { http = "http://192.0.2.1:80/", interval = "20ms" }
        "#,
    );
    container.until_shown("s: runs");
    // Its probe asks an address that is not there, and goes on asking.
    let asked = |s: &Value| s["probes"][0]["bad"].as_u64().is_some_and(|bad| bad >= 3);
    let status = container.until_status("s", "asked in vain", asked);
    assert_eq!(status["state"], "starting", "{status}");
    assert_eq!(status["probes"][0]["good"], 0, "{status}");
    let pid = container.pid().to_string();
    let mut ip = Command::new("nsenter");
    let ip = ip.args(["--net", "--target", &pid, "ip"]);
    let ip = ip.args(["address", "add", "192.0.2.1/32", "dev", "lo"]);
    assert!(ip.status().unwrap().success(), "ip address add");
    container.until("service.ready", &[("service", "s")]);
    assert!(!container.was_told("service.deferred", &[]));
}

#[test]
fn a_child_that_gets_no_descriptors_is_deferred_and_counts_for_nothing() {
    // Descriptors for PID 1 and for the descriptors that it holds, but not for a child that puts all of
    // these in their places.
    let limited = ["prlimit", "--nofile=360:360"];
    let sockets: Vec<String> = (1..=200)
        .map(|number| format!("\"unix:DIR/{number}\""))
        .collect();
    let text = format!(
        r#"[service.holder]
        exec = ["SERVICE", "forever"]
        sockets = [{}]
        intensity.restarts = 0
        backoff.base = "10ms"
        "#,
        sockets.join(", ")
    );
    let mut container = Container::start_by(&limited, "no-descriptors", &text);
    for tries in ["1", "2"] {
        let deferred = container.until(
            "service.deferred",
            &[("service", "holder"), ("tries", tries)],
        );
        assert_eq!(
            deferred.field("error"),
            "fds: Too many open files (os error 24)"
        );
    }
    assert_eq!(container.status("holder")["restarts"], 0);
}

#[test]
fn a_child_over_its_own_limit_of_processes_follows_the_law() {
    let mut container = Container::start(
        "nproc",
        r#"[service.first]
        exec = ["SERVICE", "forever"]
        user = "54321"
        [service.second]
        exec = ["SERVICE", "forever"]
        user = "54321"
        restart = "never"
        after = ["first"]
        limits.nproc = 0"#,
    );
    // setrlimit(2), `RLIMIT_NPROC`: the user has more processes than that already, which execve(2) refuses.
    let failed = container.until("service.failed", &[("service", "second")]);
    let cause = failed.field("cause");
    assert!(cause.starts_with("exec: Resource temporarily"), "{cause}");
}

#[test]
fn a_program_that_is_not_there_is_never_ready() {
    let mut container = Container::start(
        "missing",
        r#"[service.s]
        exec = ["/no/such/program"]
        required = true
        restart = "never""#,
    );
    let exit = container.until("service.exit", &[("service", "s")]);
    assert!(exit.field("error").starts_with("exec: No such file"));
    container.until("service.failed", &[("service", "s")]);
    // The loss of a required service ends the container: with its last word, all that it ever told was heard.
    container.until("shutdown.done", &[("verb", "reboot")]);
    for event in ["service.ready", "service.healthy"] {
        assert!(!container.was_told(event, &[("service", "s")]), "{event}");
    }
    assert!(!container.was_told("boot.healthy", &[]));
}

/// How often PID 1's loop woke up until now; the question costs some of it.
fn wakeups(container: &Container) -> u64 {
    let answer = container.ask(&json!({"verb": "status"}));
    answer["system"]["init"]["wakeups"].as_u64().unwrap()
}

#[test]
fn a_child_that_does_not_come_to_its_exec_does_not_keep_pid_1_awake() {
    let mut container = Container::start(
        "stuck",
        r#"[service.frozen]
        exec = ["SERVICE", "forever"]
        restart = "always"
        [service.other]
        exec = ["SERVICE", "forever"]
        after = ["frozen"]"#,
    );
    container.until("service.healthy", &[("service", "other")]);
    container.command("stop", "frozen");
    container.until("service.stopped", &[("service", "frozen")]);
    // Its next instance is made, and is frozen before its first instruction.
    let freeze = container.cgroup.join("frozen/cgroup.freeze");
    std::fs::write(&freeze, "1").unwrap();
    container.command("start", "frozen");
    container.until("service.start", &[("service", "frozen")]);
    // What PID 1 closes meanwhile: clients that are gone, and the error pipe of another start.
    for _ in 0..5 {
        container.ask(&json!({"verb": "status"}));
    }
    container.command("restart", "other");
    container.until("service.healthy", &[("service", "other")]);
    let before = wakeups(&container);
    // Four wake-ups for each: connection, request, answer, end.
    let questions = 200;
    for _ in 1..questions {
        wakeups(&container);
    }
    let woken = wakeups(&container) - before;
    std::fs::write(&freeze, "0").unwrap();
    assert!(
        woken <= 4 * questions,
        "{woken} wake-ups for {questions} questions"
    );
    container.until("service.healthy", &[("service", "frozen")]);
}

#[test]
fn six_services_that_start_together_cost_pid_1_few_wake_ups() {
    let service = |number: u32| format!("[service.s{number}]\nexec = [\"SERVICE\", \"forever\"]\n");
    let six: String = (0..6).map(service).collect();
    let mut container = Container::start("six", &six);
    // Not by asking: a question is a wake-up, too, and how many there are depends on the host.
    for number in 0..6 {
        container.until_shown(&format!("service.healthy service=s{number}"));
    }
    let woken = wakeups(&container);
    assert!(woken <= 100, "{woken} wake-ups");
}
