//! Whole trees: what hides is found, what is orphaned is reaped, what is asked to go is gone.

use crate::rig::{Container, PATIENCE};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

#[test]
fn a_daemon_that_hides_and_ignores_is_gone_as_a_tree() {
    let mut container = Container::start(
        "tree",
        r#"[service.s]
        exec = ["SERVICE", "ignore=SIGTERM", "hide", "print=main", "forever"]
        stop.timeout = "200ms""#,
    );
    // It hides twice removed, in a session of its own, blocks TERM, and holds the log's pipe.
    container.until_shown("s: hidden");
    container.until_shown("s: main");
    let procs = container.cgroup_file("s", "1/cgroup.procs");
    assert_eq!(procs.lines().count(), 2, "{procs}");
    container.command("stop", "s");
    container.until("service.exit", &[("service", "s"), ("signal", "9")]);
    container.until("service.stopped", &[("service", "s")]);
    let events = container.cgroup_file("s", "cgroup.events");
    assert!(events.contains("populated 0"), "{events}");
    for pid in procs.lines() {
        // These pids are the host's, as the test reads the file.
        assert!(
            !std::path::Path::new("/proc").join(pid).exists(),
            "pid {pid} is still there"
        );
    }
}

#[test]
fn what_the_main_process_leaves_has_its_grace() {
    let mut container = Container::start(
        "grace",
        r#"[service.s]
        exec = ['/bin/sh', '-c', '''
        /bin/sh -c 'trap "echo saved; exit 0" TERM; echo worker; while :; do sleep 0.05; done' &
        wait''']"#,
    );
    container.until_shown("s: worker");
    container.command("stop", "s");
    container.until_shown("s: saved");
    container.until("service.stopped", &[("service", "s")]);
}

/// How many processes PID 1 has reaped that were nobody's.
fn orphans(control: &Path) -> u64 {
    let mut stream = UnixStream::connect(control).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "{}", json!({"verb": "status", "service": "s"})).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    let answer: Value = serde_json::from_str(&line).unwrap();
    answer["system"]["init"]["orphans"].as_u64().unwrap()
}

#[test]
fn ten_thousand_orphans_at_once_are_reaped_and_nobody_waits() {
    let mut container = Container::start(
        "orphans",
        r#"[service.s]
        exec = ["SERVICE", "orphans=10000", "print=over", "forever"]
        limits.tasks-max = 20000"#,
    );
    // While they end, the control socket answers: it is asked all the time, from before the first of them ends until
    // the last has ended.
    let control = container.dir.join("run/control");
    let asker = std::thread::spawn(move || {
        let end = Instant::now() + PATIENCE;
        let mut counts = vec![orphans(&control)];
        while counts.last().is_some_and(|count| *count < 10_000) {
            assert!(Instant::now() < end, "{:?} were reaped", counts.last());
            counts.push(orphans(&control));
        }
        counts
    });
    container.until_shown("s: orphans 10000");
    container.until_shown("s: over");
    let counts = asker.join().unwrap();
    assert_eq!(counts[0], 0, "asked before the first of them ended");
    let mut meanwhile = counts.clone();
    meanwhile.dedup();
    meanwhile.retain(|count| (1..10_000).contains(count));
    assert!(
        meanwhile.len() >= 5,
        "too few answers while they ended: {meanwhile:?}"
    );
    // A child that holds descriptors of strangers while another is started is reaped likewise: one for each start,
    // of the logger and of the service, at most.
    let reaped = orphans(&container.dir.join("run/control"));
    assert!((10_000..=10_002).contains(&reaped), "{reaped}");
    let procs = container.cgroup_file("s", "1/cgroup.procs");
    assert_eq!(procs.lines().count(), 1, "the service itself: {procs}");
}

/// `web` takes all the time that there is for stopping, so `db`, which stops after it, is never asked by name.
#[test]
fn whoever_was_not_asked_to_stop_in_time_is_asked_before_it_is_killed() {
    let services = r#"[service.db]
        exec = ["/bin/sh", "-c", "exec 3>$FILE; trap 'echo db has written all >&3; exit 0' TERM; echo waits for its end; while :; do sleep 1; done"]
        environment = { FILE = "DIR/written" }
        [service.web]
        exec = ["/bin/sh", "-c", "trap '' TERM; echo ignores; while :; do sleep 1; done"]
        after = ["db"]
        stop.timeout = "1h""#;
    let dir = std::env::temp_dir().join(format!("init-not-asked-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut container =
        Container::start("not-asked", &services.replace("DIR", dir.to_str().unwrap()));
    // Both have their traps: a service without a protocol of readiness is healthy as soon as it is executed.
    container.until_shown("db: waits for its end");
    container.until_shown("web: ignores");
    let (status, shown) = container.end("poweroff");
    assert_eq!(status.code(), Some(0), "{shown:#?}");
    let left = r#"shutdown.warning seen="services left running" waited_ms=90000"#;
    assert!(shown.iter().any(|line| line.contains(left)), "{shown:#?}");
    // Only `web` needs to be killed: its shell, and a `sleep` that ignores TERM as well.
    let told = |line: &&String| line.contains(r#"shutdown.warning seen="processes left" "#);
    let counts: Vec<&str> = shown
        .iter()
        .filter(told)
        .filter_map(|line| line.split_once("after_term=").map(|(_, counts)| counts))
        .collect();
    assert!(
        matches!(counts[..], ["1 after_kill=0" | "2 after_kill=0"]),
        "{shown:#?}"
    );
    assert!(
        !shown
            .iter()
            .any(|line| line.contains("service.stop service=db")),
        "{shown:#?}"
    );
    let written = std::fs::read_to_string(dir.join("written")).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(written, "db has written all\n");
}

#[test]
fn a_stop_of_everything_comes_to_its_end_and_says_how() {
    let services = r#"[service.db]
        exec = ["SERVICE", "forever"]
        [service.web]
        exec = ["SERVICE", "hide", "forever"]
        requires = ["db"]"#;
    for (verb, code) in [("poweroff", 0), ("reboot", 133)] {
        let mut container = Container::start(verb, services);
        container.until("service.healthy", &[("service", "web")]);
        let cgroup = container.cgroup.clone();
        let (status, shown) = container.end(verb);
        assert_eq!(status.code(), Some(code), "{shown:#?}");
        let place = |part: &str| {
            let place = shown.iter().position(|l| l.contains(part));
            place.unwrap_or_else(|| panic!("{part} in {shown:#?}"))
        };
        assert!(place("service.stopped service=web") < place("service.stop service=db"));
        assert!(place("service.stopped service=db") < place("service.stop service=logger"));
        assert!(place("shutdown.start") < place("shutdown.done"));
        assert!(!cgroup.join("db").exists(), "its cgroups are left behind");
    }
}
