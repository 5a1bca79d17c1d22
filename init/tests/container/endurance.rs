//! What must not grow, however long it goes on.

use crate::rig::Container;
use std::collections::BTreeMap;

/// What PID 1 holds: memory of its own in KiB, and descriptors.
fn holds(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields: BTreeMap<&str, &str> = status.lines().filter_map(|l| l.split_once(':')).collect();
    let kib = |name: &str| -> u64 {
        let text = fields[name].trim().trim_end_matches(" kB");
        text.parse().unwrap()
    };
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    (kib("RssAnon"), fds)
}

#[test]
fn a_hundred_thousand_restarts_leave_no_trace_in_pid_1() {
    let mut container = Container::start(
        "restarts",
        r#"[service.s]
        exec = ["/bin/true"]
        restart = "always"
        intensity = { restarts = 1000, within = "100ms" }
        backoff.base = "0s"
        log.interval = "1s""#,
    );
    let restarts = |count: u64| {
        move |status: &serde_json::Value| status["restarts"].as_u64().unwrap() >= count
    };
    // The queue of a client that follows may grow to its bound at any time.
    container.unfollow();
    // By then every ring and table is full.
    container.until_patiently("s", restarts(2_000));
    let (memory, fds) = holds(container.pid());
    container.until_patiently("s", restarts(100_000));
    let (memory_after, fds_after) = holds(container.pid());
    eprintln!("RssAnon {memory} KiB, then {memory_after} KiB; {fds} descriptors, then {fds_after}");
    // Between two looks a service may be starting or not: its pidfd, its pipe, its leaf.
    assert!(fds_after <= fds + 4, "{fds} descriptors became {fds_after}");
    assert!(
        memory_after <= memory + 64,
        "{memory} KiB became {memory_after} KiB"
    );
}
