//! A container for a test, and eyes and hands in it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use supervisor::driver::CgroupParent;

/// A fault of a test ends here, not in a wait for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Something that happened in the container.
#[derive(Clone, Debug)]
pub struct Told {
    pub at_ms: u64,
    pub event: String,
    pub fields: BTreeMap<String, String>,
}

impl Told {
    pub fn is(&self, event: &str, fields: &[(&str, &str)]) -> bool {
        let has = |(key, value): &(&str, &str)| self.fields.get(*key).is_some_and(|v| v == value);
        self.event == event && fields.iter().all(has)
    }

    pub fn field(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }
}

pub struct Container {
    child: Child,
    pub dir: PathBuf,
    pub cgroup: PathBuf,
    /// Lines of the standard output.
    output: Receiver<String>,
    pub shown: Vec<String>,
    events: Receiver<String>,
    pub told: Vec<Told>,
    /// How many of `told` a test has looked at.
    seen: usize,
}

/// `examples/service.rs` of the supervisor.
pub fn service() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| example("service"))
}

/// The path of an example, built if need be: `cargo test` of one package does not build another's
/// examples, nor its own for one test program. With the features of the whole workspace, so after `cargo test --workspace`
/// nothing is compiled again.
fn example(name: &str) -> String {
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--example", name])
        .arg("--message-format=json")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(cargo.status.success(), "cargo build --example {name}");
    let said = String::from_utf8_lossy(&cargo.stdout).into_owned();
    let artifacts = said
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let mut programs = artifacts.filter(|a| a["target"]["name"] == name);
    let program = programs.find_map(|a| a["executable"].as_str().map(str::to_owned));
    program.expect("cargo tells where the example is")
}

/// `examples/broken.rs`: init with a fault in one of its roles.
fn broken() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| example("broken"))
}

impl Container {
    /// Starts a container with these services. `SERVICE` stands for the difficult service's path, `DIR`
    /// for the test's folder.
    pub fn start(name: &str, services: &str) -> Self {
        Self::start_by(&[], name, services)
    }

    /// The same, by a command that executes what follows it.
    pub fn start_by(command: &[&str], name: &str, services: &str) -> Self {
        Self::start_program(command, name, services, |_| {
            env!("CARGO_BIN_EXE_init").into()
        })
    }

    /// The same with an init that has this fault, see `examples/broken.rs`.
    pub fn start_broken(fault: &str, services: &str) -> Self {
        Self::start_program(&[], fault, services, |dir| {
            // Roles that run as somebody else must reach it.
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(dir, everybody).unwrap();
            let program = dir.join(format!("broken={fault}"));
            std::fs::copy(broken(), &program).unwrap();
            program
        })
    }

    fn start_program(
        command: &[&str],
        name: &str,
        services: &str,
        program: impl Fn(&Path) -> PathBuf,
    ) -> Self {
        let id = format!("init-test-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(&dir).unwrap();
        let cgroup = CgroupParent::mount_point().unwrap().join(&id);
        let text = services
            .replace("SERVICE", service())
            .replace("DIR", dir.to_str().unwrap());
        std::fs::write(dir.join("init.toml"), text).unwrap();
        let mut child = Command::new("unshare")
            .args(["--fork", "--pid", "--mount-proc", "--kill-child"])
            .args(command)
            .arg(program(&dir))
            .args(["container", "--config"])
            .arg(dir.join("init.toml"))
            .arg("--runtime-dir")
            .arg(dir.join("run"))
            .arg("--cgroup")
            .arg(&cgroup)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, output) = channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if send.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let mut container = Self {
            child,
            dir,
            cgroup,
            output,
            shown: Vec::new(),
            events: channel().1,
            told: Vec::new(),
            seen: 0,
        };
        let mut follow = container.until_there();
        writeln!(follow, "{}", json!({"verb": "events", "follow": true})).unwrap();
        let (send, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(follow).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        container.events = events;
        container
    }

    pub fn connect(&self) -> UnixStream {
        self.try_connect().unwrap()
    }

    fn try_connect(&self) -> std::io::Result<UnixStream> {
        let stream = UnixStream::connect(self.dir.join("run/control"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Waits until the container can be asked.
    fn until_there(&mut self) -> UnixStream {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = self.try_connect() {
                return stream;
            }
            // A container that ended shows nothing more.
            let ended = match self.output.recv_timeout(Duration::from_millis(1)) {
                Ok(line) => {
                    self.shown.push(line);
                    false
                }
                Err(e) => e == RecvTimeoutError::Disconnected,
            };
            let shown = self.shown.join("\n");
            assert!(!ended && Instant::now() < end, "it is not there:\n{shown}");
        }
    }

    /// Waits for a line of the standard output with this in it.
    pub fn until_shown(&mut self, part: &str) -> String {
        if let Some(line) = self.shown.iter().find(|l| l.contains(part)) {
            return line.clone();
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.output.recv_timeout(left) else {
                panic!("{part:?} was not shown in\n{}", self.shown.join("\n"));
            };
            let found = line.contains(part);
            self.shown.push(line.clone());
            if found {
                return line;
            }
        }
    }

    /// Waits for an event that was not looked at yet, and passes over what came before it.
    pub fn until(&mut self, event: &str, fields: &[(&str, &str)]) -> Told {
        let end = Instant::now() + PATIENCE;
        loop {
            while self.seen < self.told.len() {
                self.seen += 1;
                let told = &self.told[self.seen - 1];
                if told.is(event, fields) {
                    return told.clone();
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(line) => self.take(&line),
                Err(e) => panic!("{event} {fields:?}: {e}; told: {:#?}", self.told),
            }
        }
    }

    fn take(&mut self, line: &str) {
        let value: Value = serde_json::from_str(line).unwrap();
        assert!(value.get("lost").is_none(), "the test was too slow: {line}");
        if let Some(event) = value.get("event") {
            let fields = value["fields"].as_object().unwrap();
            self.told.push(Told {
                at_ms: value["at_ms"].as_u64().unwrap(),
                event: event.as_str().unwrap().to_owned(),
                fields: fields
                    .iter()
                    .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
                    .collect(),
            });
        }
    }

    /// Whether such an event was told up to now.
    pub fn was_told(&self, event: &str, fields: &[(&str, &str)]) -> bool {
        self.told.iter().any(|t| t.is(event, fields))
    }

    /// Asks the control socket; the first line of the answer.
    pub fn ask(&self, request: &Value) -> Value {
        let mut stream = self.connect();
        writeln!(stream, "{request}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{request}: {e}: {line:?}"))
    }

    /// All lines of an answer after the first.
    pub fn lines(&self, request: &Value) -> Vec<Value> {
        let mut stream = self.connect();
        writeln!(stream, "{request}").unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        let mut values = lines.map(|l| serde_json::from_str::<Value>(&l).unwrap());
        assert_eq!(values.next().unwrap()["ok"], true);
        values.collect()
    }

    pub fn status(&self, service: &str) -> Value {
        let answer = self.ask(&json!({"verb": "status", "service": service}));
        answer["system"]["services"][0].clone()
    }

    /// Asks again and again until it is so. For what is no event, such as a count.
    pub fn until_status(&self, service: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status(service);
            if so(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what}: {status:#}");
        }
    }

    /// Hears no more of what happens: from now on init has no client that stays.
    pub fn unfollow(&mut self) {
        self.events = channel().1;
    }

    /// The same as `until_status`, for what takes minutes and is asked for once a second.
    pub fn until_patiently(&mut self, service: &str, so: impl Fn(&Value) -> bool) {
        let end = Instant::now() + PATIENCE * 10;
        while !so(&self.status(service)) {
            assert!(Instant::now() < end, "{:#}", self.status(service));
            // What is shown meanwhile is of no interest, but must not pile up.
            let second = Instant::now() + Duration::from_secs(1);
            while let Some(left) = second.checked_duration_since(Instant::now()) {
                let _ = self.output.recv_timeout(left);
            }
        }
    }

    /// Waits for an end that was asked for otherwise.
    pub fn end_of_itself(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Has `verb` done to a service.
    pub fn command(&self, verb: &str, service: &str) {
        let answer = self.ask(&json!({"verb": verb, "service": service}));
        assert_eq!(answer["ok"], true, "{verb} {service}: {answer}");
    }

    pub fn initctl(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_init"))
            .args(["ctl", "--runtime-dir"])
            .arg(self.dir.join("run"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The lines of a service's output that are kept.
    pub fn output_of(&self, service: &str) -> Vec<String> {
        let request = json!({"verb": "logs", "service": service, "lines": 10_000});
        let lines = self.lines(&request);
        let text = |line: &Value| line["line"].as_str().map(str::to_owned);
        lines.iter().filter_map(text).collect()
    }

    /// The pid of the container's PID 1, as the host has it.
    pub fn pid(&self) -> u32 {
        let unshare = self.child.id();
        let path = format!("/proc/{unshare}/task/{unshare}/children");
        let children = std::fs::read_to_string(path).unwrap();
        children.trim().parse().unwrap()
    }

    /// Kills every process of a service, not by init.
    pub fn kill(&self, service: &str) {
        self.signal(service, rustix::process::Signal::KILL);
    }

    /// Signals every process of a service, not by init.
    pub fn signal(&self, service: &str, signal: rustix::process::Signal) {
        let folder = std::fs::read_dir(self.cgroup.join(service)).unwrap();
        for leaf in folder.flatten() {
            let procs = std::fs::read_to_string(leaf.path().join("cgroup.procs"));
            for pid in procs.unwrap_or_default().lines() {
                let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    pub fn cgroup_file(&self, service: &str, file: &str) -> String {
        std::fs::read_to_string(self.cgroup.join(service).join(file)).unwrap()
    }

    /// Asks for the end and waits for it.
    pub fn end(mut self, verb: &str) -> (ExitStatus, Vec<String>) {
        self.ask(&json!({ "verb": verb }));
        let status = self.child.wait().unwrap();
        self.shown.extend(self.output.iter());
        let shown = std::mem::take(&mut self.shown);
        (status, shown)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
        // The kernel takes some milliseconds to let go of what was killed with its PID 1.
        let end = Instant::now() + PATIENCE;
        while self.cgroup.exists() && Instant::now() < end {
            remove_cgroups(&self.cgroup);
            std::thread::yield_now();
        }
    }
}

fn remove_cgroups(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

/// Installs the package that has a program, if it is missing and we may.
pub fn require(program: &str, package: &str) {
    let folders = ["/usr/bin", "/bin", "/usr/sbin"].map(|f| Path::new(f).join(program));
    if folders.iter().any(|f| f.exists()) {
        return;
    }
    for arguments in [
        &["update", "--quiet"][..],
        &[
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
            package,
        ],
    ] {
        let status = Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments)
            .status()
            .unwrap();
        assert!(
            status.success(),
            "apt-get {arguments:?}: install {package} by hand"
        );
    }
}
