//! Probes against real servers, good, bad and hostile.

use crate::rig::Container;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

/// An address for a server that is started later. No other test has it: it is of the loopback network (RFC 1122,
/// 127.0.0.0/8), by the pid of this process, which has at most 22 bits (proc(5), `pid_max`), and its port is below
/// those that the kernel gives out by itself.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    // Not 127.0.0.x, where others are.
    SocketAddr::from(([127, a + 1, b, c], port))
}

/// A server that behaves in some way, and is asked whether it lives.
fn server(how: &str, probe: &str) -> (String, SocketAddr) {
    let address = own_address();
    let text = format!(
        "[service.s]\nexec = ['SERVICE', 'serve={how}@{address}']\nrestart = 'always'\n\
         intensity.restarts = 1000\nbackoff.base = '10ms'\n\
         [service.s.probe.startup]\ntcp = '{address}'\ninterval = '20ms'\nfailures = 500\n\
         [service.s.probe.liveness]\nhttp = 'http://{address}/'\n{probe}\n"
    );
    (text, address)
}

#[test]
fn a_server_that_never_answers_is_restarted_after_exactly_its_threshold() {
    // The startup probe's connection is the first of two that are good; liveness gets one.
    let (text, _) = server(
        "silent",
        "interval = '50ms'\ntimeout = '200ms'\nfailures = 3",
    );
    let mut container = Container::start("silent", &text);
    container.until("service.healthy", &[("service", "s")]);
    container.until("service.restart", &[("service", "s")]);
    let stop = container.told.iter().find(|t| t.event == "service.stop");
    assert_eq!(
        stop.unwrap().field("cause"),
        "liveness probe: no answer within 200 ms"
    );
    let bad = |container: &Container| {
        let status = container.status("s");
        let probes = status["probes"].as_array().unwrap();
        let liveness = probes.iter().find(|p| p["kind"] == "liveness").unwrap();
        liveness["bad"].as_u64().unwrap()
    };
    // Each life has its three failures, and none has a fourth.
    for _ in 0..3 {
        container.until("service.restart", &[("service", "s")]);
    }
    container.command("stop", "s");
    container.until("service.stopped", &[("service", "s")]);
    let lives = container
        .told
        .iter()
        .filter(|t| t.is("service.unhealthy", &[("service", "s")]))
        .count();
    let last = bad(&container) - 3 * lives as u64;
    assert!(
        last < 3,
        "{lives} lives ended by 3 each, and {last} in the last"
    );
}

#[test]
fn a_server_that_answers_slowly_but_in_time_is_left_alone() {
    let (text, _) = server("slow", "interval = '310ms'\ntimeout = '5s'\nfailures = 1");
    let mut container = Container::start("slow", &text);
    container.until("service.healthy", &[("service", "s")]);
    let status = container.until_status("s", "ten answers", |s| {
        s["probes"][1]["good"].as_u64().unwrap() >= 10
    });
    assert_eq!(status["restarts"], 0);
    assert_eq!(status["probes"][1]["bad"], 0);
    assert!(status["probes"][1]["latency_max_ms"].as_u64().unwrap() >= 300);
}

#[test]
fn no_answer_harms_anybody() {
    let (drip, _) = server("drip", "interval = '50ms'\ntimeout = '500ms'\nfailures = 2");
    let (huge, _) = server("huge", "interval = '20ms'\ntimeout = '5s'");
    let (garbage, _) = server("garbage", "interval = '20ms'\ntimeout = '5s'\nfailures = 2");
    let (redirect, _) = server("redirect", "interval = '20ms'\ntimeout = '5s'");
    let services: String = [
        ("drip", drip),
        ("huge", huge),
        ("garbage", garbage),
        ("redirect", redirect),
    ]
    .iter()
    .map(|(name, text)| text.replace("service.s", &format!("service.{name}")))
    .collect();
    let mut container = Container::start("hostile", &services);
    let cause = |container: &mut Container, service: &str| {
        let stop = container.until("service.stop", &[("service", service)]);
        stop.field("cause").to_owned()
    };
    assert_eq!(
        cause(&mut container, "garbage"),
        "liveness probe: not an HTTP answer"
    );
    assert_eq!(
        cause(&mut container, "drip"),
        "liveness probe: no answer within 500 ms"
    );
    // A gigabyte is not read, and a redirect is not followed: both are good answers.
    for service in ["huge", "redirect"] {
        let status = container.until_status(service, "fifty answers", |s| {
            s["probes"][1]["good"].as_u64().unwrap() >= 50
        });
        assert_eq!(status["restarts"], 0, "{service}");
    }
    let pid = container.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 64 * 1024, "PID 1 used {peak} KiB");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    assert!(fds < 100, "PID 1 has {fds} descriptors");
}

#[test]
fn a_command_is_a_probe_too() {
    let mut container = Container::start(
        "exec",
        r#"[service.s]
        exec = ["SERVICE", "forever"]
        restart = "always"
        probe.liveness = { exec = ["/bin/test", "-e", "DIR/well"], interval = "30ms", failures = 2 }
        [service.never]
        exec = ["SERVICE", "forever"]
        type = "probe"
        probe.readiness = { exec = ["SERVICE", "hide", "forever"], interval = "30ms", timeout = "100ms" }"#,
    );
    container.until("service.ready", &[("service", "s")]);
    let stop = container.until("service.stop", &[("service", "s")]);
    assert_eq!(stop.field("cause"), "liveness probe: exit status 1");
    std::fs::write(container.dir.join("well"), "").unwrap();
    container.until("service.healthy", &[("service", "s")]);
    // A probe that hangs and hides is killed with all it started, each time.
    container.until_status("never", "ten timeouts", |s| {
        s["probes"][0]["bad"].as_u64().unwrap() >= 10
    });
    container.command("stop", "never");
    container.until("service.stopped", &[("service", "never")]);
    let events = container.cgroup_file("never", "cgroup.events");
    assert!(events.contains("populated 0"), "{events}");
}

#[test]
fn a_socket_that_init_holds_refuses_nobody_over_twenty_restarts() {
    const REQUESTS: usize = 1_000;
    let address = own_address();
    let text = format!(
        "[service.s]\nexec = ['SERVICE', 'serve=ok-then-die']\nrestart = 'always'\n\
         sockets = ['tcp:{address}']\nintensity.restarts = 1000\nbackoff.base = '0s'\n"
    );
    let mut container = Container::start("sockets", &text);
    container.until("service.healthy", &[("service", "s")]);
    let good = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..REQUESTS / 4 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                        .unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    assert!(answer.ends_with("\r\n\r\nok"), "{answer:?}");
                    good.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(good.load(Ordering::Relaxed), REQUESTS);
    let restarts = container.status("s")["restarts"].as_u64().unwrap();
    assert!(restarts >= 20, "{restarts} restarts");
}
