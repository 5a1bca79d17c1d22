//! Descriptors that strangers pass: closing one can sleep for as long as its owner likes (socket(7),
//! `SO_LINGER`), and PID 1 has one thread.

use crate::rig::{Container, service};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// A client that waited for so long counts PID 1 as hung. The sockets linger for a minute.
const HUNG: Duration = Duration::from_secs(10);

/// Somebody who has nothing to do with init.
const STRANGER: u32 = 12345;

/// Where data of a lingering socket is never read, and for whom: nobody accepts here.
fn silent_peer() -> (TcpListener, String) {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap().to_string();
    (peer, address)
}

/// The same for any number of connections: they are accepted, kept until the test ends, and never read.
fn silent_peer_of_many() -> String {
    let (peer, address) = silent_peer();
    std::thread::spawn(move || peer.incoming().flatten().collect::<Vec<_>>());
    address
}

/// A service of an ordinary user that knows such a peer.
fn hostile(steps: &str, peer: &str) -> String {
    format!(
        "[service.s]\nexec = ['SERVICE', {steps}, 'notify=READY=1', 'forever']\ntype = 'notify'\n\
         user = '65534'\nnotify-access = 'all'\nenvironment = {{ LINGER_PEER = '{peer}' }}\n"
    )
}

/// Asks, and gives up after [`HUNG`].
fn answered(container: &Container) -> Value {
    let mut stream = container.connect();
    stream.set_read_timeout(Some(HUNG)).unwrap();
    writeln!(stream, "{}", json!({"verb": "status"})).unwrap();
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    read.unwrap_or_else(|e| panic!("PID 1 does not answer: {e}"));
    serde_json::from_str(&line).unwrap()
}

/// TCP sockets that PID 1 has open.
fn foreign(container: &Container) -> usize {
    let pid = container.pid();
    let sockets = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap();
        let inode = |line: &str| line.split_whitespace().nth(9).map(str::to_owned);
        text.lines().skip(1).filter_map(inode).collect::<Vec<_>>()
    };
    let tcp = sockets("tcp");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let is_tcp = |target: &std::path::PathBuf| {
        let text = target.to_string_lossy();
        let inode = text
            .strip_prefix("socket:[")
            .and_then(|t| t.strip_suffix(']'));
        inode.is_some_and(|inode| tcp.iter().any(|t| t == inode))
    };
    targets.filter(is_tcp).count()
}

/// PID 1 answers over and over, until it holds `count` of the sockets.
fn answers_until_held(container: &Container, count: usize) {
    let end = std::time::Instant::now() + crate::rig::PATIENCE;
    loop {
        assert_eq!(answered(container)["ok"], true);
        if foreign(container) == count {
            return;
        }
        assert!(
            std::time::Instant::now() < end,
            "PID 1 holds {} sockets of strangers, not {count}",
            foreign(container)
        );
    }
}

#[test]
fn lingering_sockets_on_the_notify_socket_do_not_stop_pid_1() {
    let (_peer, address) = silent_peer();
    let steps =
        "'linger-notify=STATUS=first', 'linger-notify=FDSTORE=1', 'linger-notify=BARRIER=1'";
    let mut container = Container::start("linger-notify", &hostile(steps, &address));
    container.until("service.ready", &[("service", "s")]);
    answers_until_held(&container, 0);
    assert_eq!(container.status("s")["status_text"], "first");
}

#[test]
fn stored_lingering_sockets_are_let_go_without_stopping_pid_1() {
    let (_peer, address) = silent_peer();
    let text = hostile("'linger-notify=FDSTORE=1;FDNAME=a'", &address);
    let mut container = Container::start("linger-store", &format!("{text}fd-store-max = 4\n"));
    container.until_status("s", "stored", |s| s["stored_fds"] == 4);
    container.until("service.ready", &[("service", "s")]);
    container.command("stop", "s");
    container.until("service.stopped", &[("service", "s")]);
    answers_until_held(&container, 0);
    assert_eq!(container.status("s")["stored_fds"], 0);
}

#[test]
fn lingering_sockets_of_a_stranger_on_the_control_socket_do_not_stop_pid_1() {
    let mut container = Container::start(
        "linger-control",
        "[service.s]\nexec = ['SERVICE', 'forever']\n",
    );
    container.until("service.healthy", &[("service", "s")]);
    // Stopped while they are sent: what comes before the connection is taken passes by whatever PID 1
    // does when it takes it.
    let pid = rustix::process::Pid::from_raw(container.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut socket = std::ffi::OsString::from("linger-control=");
    socket.push(container.dir.join("run/control"));
    let (_peer, address) = silent_peer();
    let mut stranger = Command::new(service());
    let stranger = stranger.arg(socket).env("LINGER_PEER", address);
    let status = stranger.uid(STRANGER).status();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(status.unwrap().success());
    answers_until_held(&container, 0);
}

#[test]
fn pid_1_takes_all_descriptors_that_it_may_have_and_passes_them_on() {
    // As the kernel starts PID 1 of a machine, but for the privilege to go beyond 4,096.
    let limited = [
        "setpriv",
        "--bounding-set=-sys_resource",
        "prlimit",
        "--nofile=1024:4096",
    ];
    let text = r#"[service.s]
        exec = ["/bin/sh", "-c", "echo limit $(ulimit -Sn) $(ulimit -Hn); exec sleep 1000"]"#;
    let mut container = Container::start_by(&limited, "nofile", text);
    container.until_shown("s: limit 4096 4096");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", container.pid())).unwrap();
    let files = limits.lines().find(|l| l.starts_with("Max open files"));
    let words: Vec<&str> = files.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["4096", "4096"]);
}

#[test]
fn services_that_store_all_they_can_leave_a_restart_its_descriptors() {
    // Without the privilege to raise what it has.
    let limited = [
        "setpriv",
        "--bounding-set=-sys_resource",
        "prlimit",
        "--nofile=1024:1024",
    ];
    let steps = "'store=x', ".repeat(128);
    let hoarder = |number: u32| {
        format!(
            "[service.h{number}]\nexec = ['SERVICE', {steps} 'notify=READY=1', 'forever']\n\
             type = 'notify'\nfd-store-max = 128\n"
        )
    };
    let hoarders: String = (0..8).map(hoarder).collect();
    let text = format!(
        "{hoarders}[service.app]\nexec = ['SERVICE', 'forever']\nrequired = true\nrestart = 'always'\n"
    );
    let mut container = Container::start_by(&limited, "hoard", &text);
    for number in 0..8 {
        container.until_status(&format!("h{number}"), "ready", |s| s["state"] == "healthy");
    }
    container.kill("app");
    container.until("service.restart", &[("service", "app")]);
    container.until("service.healthy", &[("service", "app")]);
    // It came back at the first try: its one end is the kill, and no start of it was put off.
    let of_app = container
        .told
        .iter()
        .filter(|t| t.field("service") == "app");
    let ends: Vec<_> = of_app
        .filter(|t| ["service.exit", "service.deferred"].contains(&t.event.as_str()))
        .map(|t| (t.event.as_str(), t.field("signal")))
        .collect();
    assert_eq!(ends, [("service.exit", "9")]);
    assert_eq!(container.status("app")["restarts"], 1);
}

/// What PID 1 has in memory of its own, in KiB (proc_pid_status(5)).
fn own_memory(container: &Container) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

/// A service's user and an unrelated user do all of it at the same time: 200,000 notifications that used to make
/// an event each, refused descriptors, lingering sockets on both sockets, requests that do not end.
#[test]
fn all_attacks_together_leave_pid_1_as_it_was() {
    let address = silent_peer_of_many();
    let steps = "'notify=READY=1', 'linger-notify=STATUS=1', 'linger-notify=FDSTORE=1', \
        'flood-notify=100000', 'linger-notify=BARRIER=1', 'print=flooded'";
    let mut container = Container::start("all-attacks", &hostile(steps, &address));
    container.until("service.healthy", &[("service", "s")]);
    let before = own_memory(&container);
    let mut socket = std::ffi::OsString::from("linger-control=");
    socket.push(container.dir.join("run/control"));
    let mut rounds = 0;
    while container.output_of("s").is_empty() {
        let mut stranger = Command::new(service());
        let stranger = stranger.arg(&socket).env("LINGER_PEER", &address);
        assert!(stranger.uid(STRANGER).status().unwrap().success());
        assert_eq!(answered(&container)["ok"], true);
        rounds += 1;
    }
    assert!(
        rounds > 0,
        "the stranger had no turn while the service flooded"
    );
    answers_until_held(&container, 0);
    let events = container.lines(&json!({"verb": "events"}));
    assert!(events.len() < 100, "{} events", events.len());
    assert_eq!(events[0]["event"], "boot.start");
    let after = own_memory(&container);
    assert!(after <= before + 512, "{before} KiB, then {after} KiB");
}
