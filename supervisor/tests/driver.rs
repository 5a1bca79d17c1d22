//! The driver with real processes: cgroups, descriptors, signals, sockets of this machine.
//!
//! Needs root and a cgroup2 mount, wherever it is. The tests reap children of the whole process, so
//! they run one after the other.

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use supervisor::config::ServiceConfig;
use supervisor::core::{Command, Id, Input, Notification, State};
use supervisor::driver::{CgroupParent, Driver, Outcome, Setup, Token, Users, reap};
use supervisor::event::Event;
use supervisor::logger::now;
use supervisor::poller::Poller;
use supervisor::spec::Spec;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A fault of a test ends here, not in a wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    driver: Driver,
    poller: Poller,
    events: Vec<Event>,
    runtime_dir: PathBuf,
    cgroup: PathBuf,
    outcomes: Vec<Outcome>,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    fn start(name: &str, services: &[(&str, String)]) -> Self {
        let turn = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let id = format!("init-test-{name}-{}", std::process::id());
        let cgroup = CgroupParent::mount_point().unwrap().join(&id);
        let runtime_dir = std::env::temp_dir().join(&id);
        let specs = services
            .iter()
            .map(|(name, text)| {
                let config: ServiceConfig = toml::from_str(text).unwrap();
                Spec::from_config(name, config).unwrap()
            })
            .collect();
        let setup = Setup {
            cgroups: CgroupParent::new(&cgroup).unwrap(),
            runtime_dir: runtime_dir.clone(),
            memory: 1 << 30,
            users: Users::default(),
            seed: 1,
        };
        let poller = Poller::new().unwrap();
        let mut events = Vec::new();
        let mut driver = Driver::new(specs, &setup, &poller, &mut events).unwrap();
        driver.feed(now(), Input::Start, &mut events);
        Self {
            driver,
            poller,
            events,
            runtime_dir,
            cgroup,
            outcomes: Vec::new(),
            _turn: turn,
        }
    }

    /// Turns the loop until `done` says so.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < end,
                "{what} did not happen; events: {:#?}",
                self.events
            );
            let mut ready = [MaybeUninit::uninit(); 8];
            // Children's ends come without a signal here, so they are asked for now and then.
            let tick = Timespec {
                tv_sec: 0,
                tv_nsec: 5_000_000,
            };
            let ready = self.poller.wait(&mut ready, Some(&tick)).unwrap();
            for event in ready {
                self.driver
                    .ready(Token::from_data(event.data), now(), &mut self.events);
            }
            while let Some((pid, status)) = reap() {
                self.driver.reaped(pid, status, now(), &mut self.events);
            }
            self.driver.timer(now(), &mut self.events);
            while let Some(outcome) = self.driver.outcome() {
                self.outcomes.push(outcome);
            }
        }
    }

    fn until_state(&mut self, state: State) {
        self.until(&format!("{state:?}"), |rig| {
            rig.driver.core().machines()[0].state() == state
        });
    }

    fn output(&self) -> String {
        let mut data = vec![0; 65_536];
        let count = rustix::io::read(self.driver.output("s").unwrap(), &mut data).unwrap();
        String::from_utf8_lossy(&data[..count]).into_owned()
    }

    /// Turns the loop until the service has said all of these.
    fn until_said(&mut self, words: &[&str]) {
        let said = RefCell::new(String::new());
        let what = format!("{words:?} of the service");
        self.until(&what, |rig| {
            let mut said = said.borrow_mut();
            let pipe = rig.driver.output("s").unwrap();
            let mut ready = [PollFd::new(&pipe, PollFlags::IN)];
            let at_once = Timespec::default();
            if poll(&mut ready, Some(&at_once)).unwrap() > 0 {
                said.push_str(&rig.output());
            }
            words.iter().all(|word| said.contains(word))
        });
    }

    fn event(&self, name: &str) -> &Event {
        self.events
            .iter()
            .find(|e| e.name() == name)
            .unwrap_or_else(|| panic!("no {name} in {:#?}", self.events))
    }

    fn stop(&mut self) {
        self.driver.feed(now(), Input::StopAll, &mut self.events);
        self.until("everything stopped", |rig| {
            rig.outcomes.contains(&Outcome::AllStopped)
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::write(self.cgroup.join("s/cgroup.kill"), "1");
        while reap().is_some() {}
        for leaf in std::fs::read_dir(self.cgroup.join("s"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_dir(leaf.path());
        }
        let _ = std::fs::remove_dir(self.cgroup.join("s"));
        let _ = std::fs::remove_dir(&self.cgroup);
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
    }
}

/// The difficult service of `examples/service`, which `cargo test` builds before this.
fn service(steps: &[&str], more: &str) -> (&'static str, String) {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/service");
    assert!(
        program.exists(),
        "{}: build it by `cargo build --package supervisor --examples`",
        program.display()
    );
    let exec: Vec<&str> = std::iter::once(program.to_str().unwrap())
        .chain(steps.iter().copied())
        .collect();
    ("s", format!("exec = {exec:?}\nrestart = 'never'\n{more}"))
}

fn shell(script: &str, more: &str) -> (&'static str, String) {
    (
        "s",
        format!("exec = ['/bin/sh', '-c', {script:?}]\nrestart = 'never'\n{more}"),
    )
}

#[test]
fn a_child_starts_clean() {
    let script = "grep -E '^(SigIgn|Groups|CapEff|CapAmb|NoNewPrivs)' /proc/self/status; \
        echo fds $(ls /proc/self/fd); echo ids $(id -u) $(id -g); umask; cat /proc/self/oom_score_adj; \
        ulimit -n; pwd; echo session $(cut -d' ' -f6 /proc/$$/stat) $$; cat /proc/self/cgroup; echo env $A$NOTIFY_SOCKET; echo end";
    let more = "user = '65534'\ngroups = ['7']\numask = '0027'\noom-score-adjust = 300\nworking-directory = '/tmp'\n\
        environment = { A = 'b' }\nlimits = { nofile = 77 }";
    // What must not be inherited: an ignored signal (Rust ignores SIGPIPE), and descriptors that
    // are not close-on-exec.
    let leaky: Vec<rustix::fd::OwnedFd> = (0..10)
        .map(|_| rustix::io::dup(std::io::stdin()).unwrap())
        .collect();
    let mut rig = Rig::start("clean", &[shell(script, more)]);
    rig.until_state(State::Stopped);
    drop(leaky);
    let output = rig.output();
    let cgroup = rig.cgroup.file_name().unwrap().to_str().unwrap().to_owned();
    for line in [
        "SigIgn:\t0000000000000000",
        "Groups:\t7",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        // 3 is the directory that `ls` reads.
        "fds 0 1 2 3",
        "ids 65534 65534",
        "0027",
        "300",
        "77",
        "/tmp",
        "end",
    ] {
        assert!(
            output.lines().any(|l| l.trim_end() == line),
            "{line:?} is not in\n{output}"
        );
    }
    assert!(output.contains(&format!("/{cgroup}/s/1\n")), "{output}");
    assert!(
        output.contains(&format!("env b{}/notify/s", rig.runtime_dir.display())),
        "{output}"
    );
    let session: Vec<&str> = output
        .lines()
        .find_map(|l| l.strip_prefix("session "))
        .unwrap()
        .split(' ')
        .collect();
    assert_eq!(session[0], session[1], "leads its own session");
}

#[test]
fn a_child_starts_with_no_signal_blocked() {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked.thread_block().unwrap();
    // Not through a shell: dash clears the mask by itself.
    let text = "exec = ['/bin/grep', 'SigBlk', '/proc/self/status']\nrestart = 'never'";
    let mut rig = Rig::start("mask", &[("s", text.to_owned())]);
    rig.until_state(State::Stopped);
    blocked.thread_unblock().unwrap();
    assert_eq!(rig.output().trim(), "SigBlk:\t0000000000000000");
}

#[test]
fn a_tree_that_hides_and_ignores_is_gone_after_the_stop() {
    let script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; echo hidden; sleep 1000' &) ; echo main; sleep 1000";
    let mut rig = Rig::start("tree", &[shell(script, "stop.timeout = '100ms'")]);
    rig.until_said(&["hidden", "main"]);
    assert!(
        std::fs::read_to_string(rig.cgroup.join("s/1/cgroup.procs"))
            .unwrap()
            .lines()
            .count()
            >= 3
    );
    rig.stop();
    assert_eq!(rig.event("service.exit").field("signal"), Some("9"));
    let events = std::fs::read_to_string(rig.cgroup.join("s/cgroup.events")).unwrap();
    assert!(events.contains("populated 0"), "{events}");
    assert_eq!(
        std::fs::read_to_string(rig.cgroup.join("s/1/cgroup.procs")).unwrap(),
        ""
    );
}

#[test]
fn what_a_main_process_leaves_behind_is_gone_before_its_successor_starts() {
    // Whoever is in a leaf that is not its own is of an earlier instance. In its own are at least the shell and what
    // it leaves behind, so a count of less saw nothing.
    let script = r#"setsid sleep 1000 & own=$(sed -n s/^0:://p /proc/self/cgroup)
        count() { for leaf in $0/s/*/; do leaf=${leaf%/}; [ ${leaf##*/} $1 ${own##*/} ] && cat $leaf/cgroup.procs; done | wc -l; }
        echo left $(count !=) own $(count =)
        exit 1"#;
    let mut rig = Rig::start(
        "rest",
        &[("s", String::from("exec = ['/bin/true']\nrestart = 'never'"))],
    );
    rig.until_state(State::Stopped);
    let cgroup = rig.cgroup.clone();
    drop(rig);
    let text = format!(
        "exec = ['/bin/sh', '-c', {script:?}, {cgroup:?}]\nrestart = 'always'\nbackoff.base = '1ms'\nintensity.restarts = 3"
    );
    let mut rig = Rig::start("rest", &[("s", text)]);
    rig.until_state(State::Failed);
    let output = rig.output();
    assert_eq!(output.lines().count(), 4, "{output} {:#?}", rig.events);
    for line in output.lines() {
        let own = line.strip_prefix("left 0 own ");
        let own: u32 = own
            .unwrap_or_else(|| panic!("a process of an earlier instance is there: {output}"))
            .parse()
            .unwrap();
        assert!(own >= 2, "it does not see its own processes: {output}");
    }
}

#[test]
fn a_program_that_is_not_there_is_told_as_such() {
    let mut rig = Rig::start(
        "missing",
        &[("s", "exec = ['/no/such/program']\nrestart = 'never'".into())],
    );
    rig.until_state(State::Failed);
    assert_eq!(
        rig.event("service.exit").field("error"),
        Some("exec: No such file or directory (os error 2)")
    );
    let mut rig = {
        drop(rig);
        Rig::start(
            "missing",
            &[shell("true", "working-directory = '/no/such'")],
        )
    };
    rig.until_state(State::Failed);
    assert!(
        rig.event("service.exit")
            .field("error")
            .unwrap()
            .starts_with("chdir: ")
    );
}

#[test]
fn a_missing_environment_file_stops_a_start_unless_it_may_be_missing() {
    let mut rig = Rig::start(
        "env",
        &[shell("true", "environment-files = ['/no/such/env']")],
    );
    rig.until_state(State::Failed);
    assert!(
        rig.event("service.exit")
            .field("error")
            .unwrap()
            .contains("/no/such/env")
    );
    drop(rig);
    let mut rig = Rig::start(
        "env",
        &[shell("true", "environment-files = ['-/no/such/env']")],
    );
    rig.until_state(State::Stopped);
}

#[test]
fn an_environment_file_is_read_by_root_where_only_root_has_a_say_and_by_the_service_elsewhere() {
    // Below `/run`, as everybody may write to `/tmp`.
    let folder = PathBuf::from(format!("/run/init-test-files-{}", std::process::id()));
    let theirs = folder.join("theirs");
    std::fs::create_dir_all(&theirs).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let secret = folder.join("secret");
    std::fs::write(&secret, "SECRET='of root'\nA=1\nB=1\nHOME=/x\n").unwrap();
    std::fs::set_permissions(&secret, private).unwrap();
    std::fs::write(theirs.join("env"), "A=2\n").unwrap();
    std::os::unix::fs::symlink(&secret, theirs.join("link")).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65534), None).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, theirs.join("fifo"), fifo, mode, 0).unwrap();
    let service = |file: &str| {
        let more = format!(
            "user = '65534'\nenvironment = {{ B = '3' }}\n\
             environment-files = ['{}', '-/no/such', '{}']",
            secret.display(),
            theirs.join(file).display()
        );
        shell("echo $SECRET, $A, $B, $HOME, $PATH", &more)
    };
    let mut rig = Rig::start("files", &[service("env")]);
    rig.until_state(State::Stopped);
    assert_eq!(rig.output(), "of root, 2, 3, /x, /usr/bin:/usr/sbin\n");
    drop(rig);
    for (file, why) in [
        ("link", "Permission denied (os error 13)"),
        ("fifo", "is not a regular file"),
    ] {
        let mut rig = Rig::start("files", &[service(file)]);
        rig.until_state(State::Failed);
        let path = theirs.join(file);
        let error = format!("environment-files: {}: {why}", path.display());
        assert_eq!(
            rig.event("service.exit").field("error"),
            Some(error.as_str())
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_service_can_have_no_capability_but_its_own() {
    // Only the roles of init get capabilities, so not by configuration.
    let script = "grep -E 'Cap(Eff|Prm|Bnd|Amb)|NoNewPrivs' /proc/self/status";
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own_bound = own.lines().find(|l| l.starts_with("CapBnd")).unwrap();
    let (few, none) = ("0000000000003000", "0000000000000000");
    let all = own_bound.split('\t').next_back().unwrap();
    for (user, capabilities, has, ambient) in [
        ("65534", None, none, none),
        ("65534", Some(1 << 12 | 1 << 13), few, few),
        ("0", Some(1 << 12 | 1 << 13), few, none),
        ("0", Some(0), none, none),
        ("0", None, all, none),
    ] {
        let output = output_with(script, user, capabilities);
        let lines = [
            format!("CapPrm:\t{has}"),
            format!("CapEff:\t{has}"),
            format!("CapBnd:\t{has}"),
            format!("CapAmb:\t{ambient}"),
            "NoNewPrivs:\t1".to_owned(),
        ];
        assert_eq!(output.trim(), lines.join("\n"), "{user} {capabilities:?}");
    }
}

/// What a script writes that runs as `user` and may have these capabilities.
fn output_with(script: &str, user: &str, capabilities: Option<u64>) -> String {
    let (name, text) = shell(script, &format!("user = '{user}'"));
    let config: ServiceConfig = toml::from_str(&text).unwrap();
    let spec = Spec {
        capabilities,
        ..Spec::from_config(name, config).unwrap()
    };
    let mut rig = Rig::start("caps", &[]);
    let setup = Setup {
        cgroups: CgroupParent::new(&rig.cgroup).unwrap(),
        runtime_dir: rig.runtime_dir.clone(),
        memory: 0,
        users: Users::default(),
        seed: 1,
    };
    rig.driver = Driver::new(vec![spec], &setup, &rig.poller, &mut rig.events).unwrap();
    rig.driver.feed(now(), Input::Start, &mut rig.events);
    rig.until_state(State::Stopped);
    rig.output()
}

#[test]
fn a_service_gets_more_descriptors_than_one_message_could_carry() {
    // unix(7): 253 is the most that one message takes. The logger gets one for each service.
    let count = 300;
    let last = 3 + count - 1;
    let script = format!(
        "for n in 3 258 259 {last}; do readlink /proc/$$/fd/$n; done; [ -e /proc/$$/fd/{} ] || echo end",
        last + 1
    );
    let mut rig = Rig::start("many", &[shell(&script, "")]);
    rig.until_state(State::Stopped);
    rig.output();
    let name = |number: i32| rig.runtime_dir.join(format!("fd-{number}"));
    let files: Vec<_> = (3..=last)
        .map(|number| (number, std::fs::File::create(name(number)).unwrap()))
        .collect();
    let mut expected: Vec<String> = [3, 258, 259, last]
        .map(|number| name(number).display().to_string())
        .to_vec();
    expected.push("end".to_owned());
    for (number, file) in files {
        assert_eq!(rig.driver.pass("s", file.into()), Some(number));
    }
    let start = Input::Command(Id(0), Command::Start);
    rig.driver.feed(now(), start, &mut rig.events);
    rig.until_state(State::Stopped);
    assert_eq!(rig.output().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn ready_is_said_and_health_is_asked_for() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let more = format!(
        "type = 'notify'\nrequired = true\n[probe.liveness]\nhttp = 'http://{address}/health?x=1'\ninterval = '20ms'\ntimeout = '5s'\nfailures = 2"
    );
    let steps = ["notify=STATUS=almost;READY=1", "forever"];
    let mut rig = Rig::start("health", &[service(&steps, &more)]);
    rig.until_state(State::Ready);
    assert_eq!(rig.driver.core().machines()[0].status_text(), "almost");
    let answer = |rig: &mut Rig, text: &str| {
        server.set_nonblocking(true).unwrap();
        let accepted = std::cell::RefCell::new(None);
        rig.until("a probe", |_| {
            if accepted.borrow().is_none() {
                *accepted.borrow_mut() = server.accept().ok();
            }
            accepted.borrow().is_some()
        });
        let (mut stream, _) = accepted.into_inner().unwrap();
        stream.set_nonblocking(true).unwrap();
        let request = std::cell::RefCell::new(Vec::new());
        rig.until("a request", |_| {
            let mut part = [0; 512];
            if let Ok(count) = (&stream).read(&mut part) {
                request.borrow_mut().extend_from_slice(&part[..count]);
            }
            request.borrow().ends_with(b"\r\n\r\n")
        });
        let request = String::from_utf8(request.into_inner()).unwrap();
        assert!(
            request.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{request}"
        );
        stream.write_all(text.as_bytes()).unwrap();
    };
    answer(&mut rig, "HTTP/1.1 200 OK\r\n\r\n");
    rig.until_state(State::Healthy);
    assert!(rig.driver.core().required_healthy());
    answer(&mut rig, "HTTP/1.1 500 No\r\n\r\n");
    answer(&mut rig, "nonsense that is no HTTP");
    rig.until("a stop", |rig| {
        rig.driver.core().machines()[0].state() == State::Failed
    });
    assert_eq!(
        rig.event("service.unhealthy").field("reason"),
        Some("liveness probe: not an HTTP answer")
    );
    assert_eq!(rig.event("service.exit").field("signal"), Some("15"));
}

#[test]
fn what_a_service_says_hides_nothing_that_becomes_of_others() {
    let (_, a) = service(&["notify=READY=1", "forever"], "type = 'notify'");
    let (_, b) = service(&["forever"], "requires = ['a']");
    let mut rig = Rig::start("hide-others", &[("a", a), ("b", b)]);
    rig.until("both healthy", |rig| {
        let mut machines = rig.driver.core().machines().iter();
        machines.all(|m| m.state() == State::Healthy)
    });
    let mut say = |what: Notification| {
        let input = Input::Notify(Id(0), what);
        rig.driver.feed(now(), input, &mut rig.events);
    };
    for _ in 0..100 {
        say(Notification::Reloading);
        say(Notification::Ready);
    }
    say(Notification::Stopping);
    let count = |name: &str, service: &str| {
        let events = rig.events.iter().filter(|e| e.name() == name);
        events
            .filter(|e| e.field("service") == Some(service))
            .count()
    };
    assert!(count("service.reload", "a") <= 10);
    assert_eq!(count("service.stop", "b"), 1);
}

#[test]
fn kills_for_want_of_memory_make_few_events() {
    let mut rig = Rig::start("oom-events", &[service(&["forever"], "")]);
    rig.until_state(State::Healthy);
    for _ in 0..1000 {
        let input = Input::OutOfMemory(Id(0));
        rig.driver.feed(now(), input, &mut rig.events);
    }
    let told = rig.events.iter().filter(|e| e.name() == "service.oom");
    assert!((1..20).contains(&told.count()));
}

#[test]
fn a_check_cannot_make_another_process_the_main_one() {
    let (_, check) = service(&["adopted-main"], "");
    let check = check.lines().next().unwrap().replace("exec = ", "");
    let socket = std::env::temp_dir().join(format!(
        "init-test-check-main-{}/notify/s",
        std::process::id()
    ));
    let more = format!(
        "pre-start = [{check}]\nnotify-access = 'all'\nenvironment = {{ NOTIFY_SOCKET = {socket:?} }}"
    );
    let mut rig = Rig::start("check-main", &[service(&["forever"], &more)]);
    rig.until("its word is heard", |rig| {
        let mut events = rig.events.iter();
        events.any(|e| ["service.warning", "service.exit"].contains(&e.name()))
    });
    assert_eq!(rig.event("service.warning").field("what"), Some("MAINPID"));
    rig.stop();
}
