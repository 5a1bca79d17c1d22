//! What PID 1 costs and how quick it is: the figures of `docs/SPECIFICATION.md`.
//!
//! `cargo bench --package astromesh-init --bench pid1 --target x86_64-unknown-linux-musl`, as root. A
//! container with the real binary as it ships; every figure is read from the kernel or from init's own
//! events, none is judged here.

#[path = "../tests/container/rig.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod rig;

use rig::Container;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

fn main() {
    // What cargo passes to every benchmark.
    assert!(
        std::env::args().skip(1).all(|a| a == "--bench"),
        "the benchmark takes no arguments"
    );
    layers();
    idle();
    latency();
    orphans();
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Median, 99th percentile and maximum.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values[(values.len() * share / 100).min(values.len() - 1)];
    format!(
        "median {:.2}, p99 {:.2}, max {:.2} (n = {})",
        at(50),
        at(99),
        values[values.len() - 1],
        values.len()
    )
}

/// PID 1's processor time for 51 services in 25 layers, each of which waits for the one below: from its own exec until
/// all are healthy, and once more for the start alone, when an operator starts all of them again.
///
/// Making the processes is part of both. They share PID 1's memory as on a machine, unless the host's cgroup2 has the
/// memory controller (see `supervisor/src/driver/sharing.rs`), which is printed. `/proc/PID/schedstat` counts nanoseconds (kernel:
/// `Documentation/scheduler/sched-stats.rst`).
fn layers() {
    const LAYERS: usize = 25;
    const RUNS: usize = 5;
    let name = |service: char, layer: usize| format!("{service}{layer}");
    let form = |service: char, layer: usize| {
        let below = layer.checked_sub(1);
        let below = below.map(|below| format!("{:?}", ['a', 'b'].map(|s| name(s, below))));
        let order = below.map(|below| format!("after = {below}\nrequires = {below}\n"));
        format!(
            "[service.{}]\nexec = [\"SERVICE\", \"notify=READY=1\", \"forever\"]\ntype = \"notify\"\n{}",
            name(service, layer),
            order.unwrap_or_default()
        )
    };
    let pairs = (0..LAYERS).flat_map(|layer| [form('a', layer), form('b', layer)]);
    let services: String = pairs.chain([form('c', LAYERS - 1)]).collect();
    let last = ['a', 'b', 'c'].map(|service| name(service, LAYERS - 1));
    let (mut from_exec, mut start, mut wakeups) = (Vec::new(), Vec::new(), Vec::new());
    let mut copies = !shows("suid_dumpable", "0\n", Path::new("/proc/sys/fs"));
    for _ in 0..RUNS {
        let mut container = Container::start("bench-layers", &services);
        copies |= shows("cgroup.controllers", "memory", &container.cgroup);
        // Whoever follows the events costs PID 1 a wake-up for each of them.
        container.unfollow();
        let pid = container.pid();
        // Asking costs, too, so it is asked seldom.
        let wait = |container: &Container, state: &str| {
            for name in &last {
                while container.status(name)["state"] != state {
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        };
        wait(&container, "healthy");
        let whole = spent(pid);
        let answer = container.ask(&json!({"verb": "status", "service": "a0"}));
        wakeups.push(answer["system"]["init"]["wakeups"].as_f64().unwrap());
        from_exec.push(whole);
        container.command("stop", "a0");
        container.command("stop", "b0");
        wait(&container, "stopped");
        let before = spent(pid);
        for name in &last {
            container.command("start", name);
        }
        wait(&container, "healthy");
        start.push(spent(pid) - before);
    }
    println!(
        "51 services in 25 layers, PID 1's processor time from its exec, ms: {}",
        spread(from_exec)
    );
    println!("of their start alone, ms: {}", spread(start));
    println!("processes get a copy of its memory, unlike on a machine: {copies}");
    println!("wake-ups of PID 1 from its exec: {}", spread(wakeups));
}

/// Whether a file of the kernel has this in it.
fn shows(file: &str, text: &str, folder: &Path) -> bool {
    let read = std::fs::read_to_string(folder.join(file));
    read.unwrap().contains(text)
}

/// Milliseconds of processor time that a process of one thread has used.
fn spent(pid: u32) -> f64 {
    let spent = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let nanoseconds: f64 = spent.split_whitespace().next().unwrap().parse().unwrap();
    nanoseconds / 1e6
}

fn idle() {
    let mut container = Container::start(
        "bench-idle",
        r#"[service.s]
        exec = ["SERVICE", "ping=1000000"]
        type = "notify"
        [service.p]
        exec = ["SERVICE", "forever"]
        required = true
        probe.liveness = { exec = ["/bin/true"], interval = "10s" }"#,
    );
    container.until("boot.healthy", &[]);
    container.command("stop", "s");
    container.until("service.stopped", &[("service", "s")]);
    let pid = container.pid();
    let wakeups = |container: &Container| {
        let answer = container.ask(&json!({"verb": "status", "service": "p"}));
        let of = |name: &str| answer["system"]["init"][name].as_u64().unwrap();
        of("wakeups")
    };
    let before = wakeups(&container);
    std::thread::sleep(Duration::from_secs(30));
    // The question itself wakes it: for the connection, and for what is said on it.
    let woken = wakeups(&container) - before;
    println!("idle wake-ups in 30 s, one probe by command each 10 s, two clients: {woken}");
    println!(
        "PID 1 RSS {} KiB, of its own {} KiB",
        status_kib(pid, "VmRSS"),
        status_kib(pid, "RssAnon")
    );
}

/// From the kill to the execution of the successor, by the clock of whoever kills.
fn latency() {
    let mut container = Container::start(
        "bench-latency",
        r#"[service.s]
        exec = ["SERVICE", "print=up", "forever"]
        restart = "always"
        intensity = { restarts = 1000, within = "1s" }
        backoff.base = "0s""#,
    );
    container.until("service.healthy", &[("service", "s")]);
    let program = std::fs::canonicalize(rig::service()).unwrap();
    let running = |container: &Container| -> Option<i32> {
        let leaves = std::fs::read_dir(container.cgroup.join("s"))
            .unwrap()
            .flatten();
        let procs =
            leaves.filter_map(|l| std::fs::read_to_string(l.path().join("cgroup.procs")).ok());
        let pids = procs.flat_map(|text| {
            let pids: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
            pids
        });
        pids.into_iter().find(|pid| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
        })
    };
    let mut millis = Vec::new();
    for _ in 0..300 {
        let old = loop {
            if let Some(pid) = running(&container) {
                break pid;
            }
        };
        let begin = Instant::now();
        let pid = rustix::process::Pid::from_raw(old).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while running(&container).is_none_or(|pid| pid == old) {}
        millis.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    println!("SIGKILL to the successor's program, ms: {}", spread(millis));
}

/// Ten thousand orphans at once, while a client asks a hundred times a second.
///
/// On a machine the cpu controller keeps the service's processes from crowding out PID 1. The host of a
/// benchmark may not have it in its v2 hierarchy, where ten thousand processes that end would then be ten
/// thousand rivals; so PID 1 and the client are put before them by their nice values.
fn orphans() {
    let mut container = Container::start(
        "bench-orphans",
        r#"[service.s]
        exec = ["SERVICE", "orphans=10000", "forever"]
        limits.tasks-max = 20000"#,
    );
    container.until_shown("s: orphans 10000");
    for pid in [container.pid(), std::process::id()] {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed());
        rustix::process::setpriority_process(pid, -20).unwrap();
    }
    let begin = Instant::now();
    let mut answers = Vec::new();
    let seconds = loop {
        let asked = Instant::now();
        let answer: Value = container.ask(&json!({"verb": "status", "service": "s"}));
        answers.push(asked.elapsed().as_secs_f64() * 1000.0);
        if answer["system"]["init"]["orphans"].as_u64().unwrap() >= 10_000 {
            break begin.elapsed().as_secs_f64();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    println!("orphans reaped: {:.0} a second", 10_000.0 / seconds);
    println!("the control socket meanwhile, ms: {}", spread(answers));
}
