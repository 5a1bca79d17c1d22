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
    // After the first, every ring and table is full.
    let held = [2_000, 51_000, 100_000].map(|count| {
        container.until_patiently("s", restarts(count));
        holds(container.pid())
    });
    let [first, middle, last] = held;
    eprintln!("RssAnon in KiB and descriptors: {first:?}, {middle:?}, {last:?}");
    // Between two looks a service may be starting or not: its pidfd, its pipe, its leaf.
    assert!(last.1 <= first.1 + 4, "descriptors: {held:?}");
    // What leaks does so in both halves, so less than a byte a restart would be seen. A buffer that had to be larger
    // once, as when the machine had no time for PID 1, stays with the allocator and does not grow in both.
    let halves = [(first, middle), (middle, last)].map(|(a, b)| b.0.saturating_sub(a.0));
    assert!(
        halves.into_iter().any(|growth| growth <= 32),
        "a leak: {held:?}"
    );
    assert!(last.0 <= first.0 + 256, "{held:?}");
}
