//! `initctl` and the control socket together: a server that answers from a canned status, and the client
//! as it is called.

use astromesh_init::control::metrics;
use astromesh_init::control::protocol::{
    BootReport, EventLine, ExitRecord, LogLine, Reply, Request, Stage, SystemStatus,
};
use astromesh_init::control::server::{Asked, Server};
use astromesh_init::ctl;
use rustix::event::epoll::EventFlags;
use rustix::event::eventfd;
use rustix::fd::OwnedFd;
use rustix::net::{SendFlags, Shutdown};
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use supervisor::driver::Token;
use supervisor::logger::now;
use supervisor::poller::Poller;
use supervisor::received::Closer;
use supervisor::status::{Explanation, ServiceStatus};

const CONTROL: u8 = 1;
const END: u8 = 2;

/// A machine with nothing in it but its socket.
struct Machine {
    dir: PathBuf,
    end: OwnedFd,
    /// Gives back what was asked.
    thread: Option<JoinHandle<Vec<Request>>>,
}

impl Machine {
    fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("initctl-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let path = dir.join("control");
        let end = eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let other_end = end.try_clone().unwrap();
        let (bound, listens) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || serve(&path, uid, &other_end, &bound));
        listens.recv().unwrap();
        Self {
            dir,
            end,
            thread: Some(thread),
        }
    }

    /// Status, standard output, standard error.
    fn initctl(&self, call: &str) -> (ExitCode, String, String) {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let dir = ["--runtime-dir".into(), OsString::from(&self.dir)];
        let words = dir.into_iter().chain(call.split(' ').map(OsString::from));
        let status = ctl::run_on(words, &mut out, &mut errors);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status, text(out), text(errors))
    }

    fn good(&self, call: &str) -> String {
        let (status, out, errors) = self.initctl(call);
        assert_eq!((status, errors.as_str()), (ExitCode::SUCCESS, ""), "{call}");
        out
    }

    fn end(&mut self) -> Vec<Request> {
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
        let thread = self.thread.take();
        thread.map_or_else(Vec::new, |t| t.join().unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The loop of PID 1, as far as the socket goes.
fn serve(path: &Path, uid: u32, end: &OwnedFd, bound: &Sender<()>) -> Vec<Request> {
    let poller = Poller::new().unwrap();
    let closer = Closer::new(usize::MAX).unwrap();
    let mut server = Server::bind(path, uid, closer.source(), &poller, CONTROL).unwrap();
    bound.send(()).unwrap();
    let token = Token {
        kind: END,
        number: 0,
    };
    let _end = poller.watch(end, token, EventFlags::IN).unwrap();
    let (mut asked_so_far, mut status) = (Vec::new(), canned());
    loop {
        server.watch();
        let mut events = [MaybeUninit::uninit(); 16];
        for event in poller.wait(&mut events, None).unwrap() {
            let token = Token::from_data(event.data);
            match token.kind {
                END => return asked_so_far,
                _ => {
                    let id = token.number;
                    if let Some(asked) = server.ready(id, event.flags, now()) {
                        asked_so_far.push(asked.request.clone());
                        answer(&mut server, &mut status, &asked);
                    }
                }
            }
        }
    }
}

fn canned() -> SystemStatus {
    let service = |name: &str, state: &str| ServiceStatus {
        name: name.into(),
        state: state.into(),
        starts: 1,
        ..ServiceStatus::default()
    };
    SystemStatus {
        version: "1".into(),
        now_ms: 5_000,
        state: "running".into(),
        healthy: true,
        services: vec![
            service("web", "healthy"),
            ServiceStatus {
                requires: vec!["web".into()],
                explanation: Explanation {
                    because: "exit status 1".into(),
                    ..Explanation::default()
                },
                ..service("bad", "failed")
            },
        ],
        ..SystemStatus::default()
    }
}

fn answer(server: &mut Server, status: &mut SystemStatus, asked: &Asked) {
    let id = asked.id;
    let json = |lines: &[&dyn Fn() -> String]| lines.iter().map(|l| l()).collect::<Vec<_>>();
    let yes = Reply {
        ok: true,
        ..Reply::default()
    };
    let event = EventLine {
        at_ms: 1_500,
        event: "service.start".into(),
        fields: [("service".into(), "web".into())].into(),
    };
    let of = |status: &SystemStatus, name: Option<&str>| {
        let mut status = status.clone();
        status.services.retain(|s| name.is_none_or(|n| n == s.name));
        Reply {
            system: Some(status),
            ..yes.clone()
        }
    };
    let told = match &asked.request {
        Request::Status { service } => {
            // Whatever is on its way has arrived when it is asked for again.
            let reply = of(status, service.as_deref());
            for service in &mut status.services {
                match service.state.as_str() {
                    "starting" => service.state = "healthy".into(),
                    "stopping" => service.state = "stopped".into(),
                    _ => {}
                }
            }
            if reply.system.as_ref().is_some_and(|s| s.services.is_empty()) {
                return server.refuse(id, "no service has this name\x1b[2J", now());
            }
            reply
        }
        Request::Start { service } | Request::Restart { service } => {
            let found = status.services.iter_mut().find(|s| s.name == *service);
            let found = found.unwrap();
            found.starts += 1;
            if found.name == "web" {
                found.state = "starting".into();
            }
            of(status, Some(service))
        }
        Request::Stop { service } => {
            let found = status.services.iter_mut().find(|s| s.name == *service);
            found.unwrap().state = "stopping".into();
            of(status, Some(service))
        }
        Request::Reload { service } => of(status, Some(service)),
        Request::Metrics {} => Reply {
            metrics: Some(metrics::render(status)),
            ..yes
        },
        Request::Boot {} => Reply {
            boot: Some(BootReport {
                stages: vec![Stage {
                    name: "boot.healthy".into(),
                    at_ms: 3_000,
                }],
                ..BootReport::default()
            }),
            ..yes
        },
        Request::Events { follow, .. } => {
            let lines = json(&[&|| serde_json::to_string(&event).unwrap()]);
            server.stream(id, &lines, *follow, now());
            let next = EventLine {
                event: "service.healthy".into(),
                ..event
            };
            server.publish(&next, now());
            if *follow {
                server.close(id);
            }
            return;
        }
        // As the logger answers, on the socket itself.
        Request::Logs { .. } => {
            let line = LogLine {
                at_ms: 1_600,
                service: "web".into(),
                line: "hello\x1b".into(),
            };
            let line = serde_json::to_string(&line).unwrap();
            let text = format!("{{\"ok\":true}}\n{line}\n{{\"lost\":3}}\n");
            server.give_away(id, |socket| {
                rustix::net::send(socket, text.as_bytes(), SendFlags::NOSIGNAL).unwrap();
                rustix::net::shutdown(socket, Shutdown::Both).unwrap();
            });
            return;
        }
        Request::Exits { .. } => {
            let record = ExitRecord {
                boot: "77".into(),
                time: None,
                event: "init: 1.700 service.exit service=bad".into(),
                lines: vec!["last words".into()],
            };
            let lines = json(&[&|| serde_json::to_string(&record).unwrap()]);
            return server.stream(id, &lines, false, now());
        }
        Request::Reboot {} | Request::Poweroff {} => yes,
    };
    server.reply(id, &told, now());
}

#[test]
fn every_verb_that_shows() {
    let machine = Machine::start();
    for (call, expected) in [
        (
            "status",
            "web      healthy  5.0 s  -    0         -\n`- bad   failed",
        ),
        (
            "status bad",
            "bad has been failed for 5.0 s: exit status 1.\n",
        ),
        ("status bad", "                last words\n"),
        (
            "explain bad",
            "bad has been failed for 5.0 s: exit status 1.\n",
        ),
        ("events", "1.500 service.start service=web\n"),
        (
            "events -f",
            "1.500 service.start service=web\n1.500 service.healthy service=web\n",
        ),
        (
            "logs web",
            "1.600 web: hello\\x1b\n... 3 lines are missing here ...\n",
        ),
        ("logs --json", "\"line\":\"hello\\u001b\"}\n{\"lost\":3}\n"),
        (
            "exits",
            "1.700 service.exit service=bad  (boot 77)\n    last words\n",
        ),
        (
            "boot",
            "boot.healthy     3.000    +3.000  ########################################\n",
        ),
        (
            "metrics",
            "init_service_state{service=\"bad\",state=\"failed\"} 1\n",
        ),
        (
            "metrics --json",
            "{\"ok\":true,\"metrics\":\"# TYPE init_healthy gauge\\n",
        ),
        ("reboot", "init reboots the machine\n"),
        ("poweroff", "init switches the machine off\n"),
    ] {
        let shown = machine.good(call);
        assert!(shown.contains(expected), "{call} shows\n{shown}");
    }
}

#[test]
fn a_change_is_waited_for() {
    let mut machine = Machine::start();
    assert_eq!(
        machine.good("restart web"),
        "web has been healthy for 5.0 s.\n"
    );
    assert_eq!(
        machine.good("stop web"),
        "web has been stopped for 5.0 s.\n"
    );
    assert_eq!(
        machine.good("start web --no-wait"),
        "web has been starting for 5.0 s.\n"
    );
    assert_eq!(
        machine.good("reload web"),
        "web has been healthy for 5.0 s.\n"
    );
    let (status, _, errors) = machine.initctl("start bad");
    assert_eq!(status, ExitCode::from(1));
    assert_eq!(
        errors,
        "initctl: bad has been failed for 5.0 s: exit status 1.\n"
    );
    let (status, _, errors) = machine.initctl("stop bad --timeout 0");
    assert_eq!(status, ExitCode::from(1));
    assert!(errors.contains("not settled after 0 s"), "{errors}");
    let web = || String::from("web");
    let changes: Vec<Request> = machine
        .end()
        .into_iter()
        .filter(|r| !matches!(r, Request::Status { .. }))
        .take(4)
        .collect();
    assert_eq!(
        changes,
        [
            Request::Restart { service: web() },
            Request::Stop { service: web() },
            Request::Start { service: web() },
            Request::Reload { service: web() },
        ]
    );
}

#[test]
fn each_kind_of_failure_has_its_status() {
    let machine = Machine::start();
    let (status, out, errors) = machine.initctl("status nothing");
    assert_eq!((status, out.as_str()), (ExitCode::from(1), ""));
    assert_eq!(errors, "initctl: no service has this name\\x1b[2J\n");
    let (status, _, errors) = machine.initctl("halt");
    assert_eq!(status, ExitCode::from(2));
    assert!(errors.contains("there is no verb `halt`") && errors.contains("usage: initctl"));
    std::fs::remove_file(machine.dir.join("control")).unwrap();
    let (status, _, errors) = machine.initctl("status");
    assert_eq!(status, ExitCode::from(3));
    let path = machine.dir.join("control").display().to_string();
    assert!(
        errors.contains(&path) && errors.contains("is init running with this --runtime-dir?"),
        "{errors}"
    );
}

/// `initctl ... | head` is no failure.
#[test]
fn who_stops_reading_has_seen_enough() {
    let machine = Machine::start();
    let (reader, mut out) = std::io::pipe().unwrap();
    drop(reader);
    let words = [
        "--runtime-dir".into(),
        machine.dir.clone().into(),
        "events".into(),
    ];
    let mut errors = Vec::new();
    let status = ctl::run_on(words, &mut out, &mut errors);
    assert_eq!((status, errors.as_slice()), (ExitCode::SUCCESS, &b""[..]));
}
