//! Two network namespaces with a cable between them: a server in one, netcfg in the other.
//!
//! Needs root, and the programs that [`NEEDED`] names, which are installed if they are missing.
//! netcfg runs as it does on the appliance: uid 801 with three capabilities and no way to get more.
//! Tests wait for events, with a deadline that only a hang can reach.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Program and Debian package.
const NEEDED: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("dnsmasq", "dnsmasq-base"),
    ("kea-dhcp4", "kea-dhcp4-server"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
];

/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

const UID: u32 = 801;

static COUNTER: AtomicU32 = AtomicU32::new(0);

static INSTALLED: Once = Once::new();

/// Installs what is missing of the programs, or fails with their names.
fn install() {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| {
            let found = Command::new("sh")
                .args(["-c", &format!("command -v {program}")])
                .output();
            !found.is_ok_and(|found| found.status.success())
        })
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return;
    }
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    for arguments in [vec!["update", "--quiet"], [&install[..], &missing].concat()] {
        let status = Command::new("apt-get")
            .args(&arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "missing: {missing:?}; as root: apt-get {}",
            arguments.join(" ")
        );
    }
}

/// One event of netcfg.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    pub fields: BTreeMap<String, String>,
}

impl Event {
    fn parse(line: &str) -> Event {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let pairs = words.filter_map(|word| word.split_once('='));
        let fields = pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Event { name, fields }
    }

    /// The value of a field, empty when it is not there.
    pub fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }
}

/// A process whose lines are read as they come. It is killed when this is dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    pub seen: Vec<String>,
    name: String,
}

impl Process {
    fn start(name: &str, command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Process {
            child,
            lines,
            seen: vec![],
            name: name.to_owned(),
        }
    }

    /// Waits for a line that `wanted` takes.
    pub fn wait_line<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                Err(why) => {
                    panic!(
                        "{} never said {what} ({why}); it said:\n{}",
                        self.name,
                        self.seen.join("\n")
                    )
                }
            }
        }
    }

    /// Waits for an event of this name with these fields.
    pub fn event(&mut self, name: &str, fields: &[(&str, &str)]) -> Event {
        self.wait_line(&format!("{name} {fields:?}"), |line| {
            let event = Event::parse(line);
            let fits = fields.iter().all(|(key, value)| event.get(key) == *value);
            (event.name == name && fits).then_some(event)
        })
    }

    /// Whether a line containing `text` was read so far.
    pub fn said(&self, text: &str) -> bool {
        self.seen.iter().any(|line| line.contains(text))
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) -> Vec<String> {
        self.stop();
        // What it still had to say.
        while let Ok(line) = self.lines.recv() {
            self.seen.push(line);
        }
        std::mem::take(&mut self.seen)
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(mut self) {
        run(Command::new("kill").arg(self.child.id().to_string()));
        self.child.wait().expect("a child");
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The two namespaces and a folder.
pub struct Bed {
    pub server: String,
    pub client: String,
    pub folder: PathBuf,
}

impl Bed {
    /// Both ends up, the server as 10.7.0.1/24 on `srv`.
    pub fn new() -> Bed {
        let bed = Bed::without_cable();
        bed.plug();
        bed
    }

    /// No link on the client's side yet.
    pub fn without_cable() -> Bed {
        INSTALLED.call_once(install);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("nc{}-{number}", std::process::id());
        let bed = Bed {
            server: format!("{id}s"),
            client: format!("{id}c"),
            folder: std::env::temp_dir().join(&id),
        };
        for name in [&bed.server, &bed.client] {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        for folder in ["state", "run"] {
            let path = bed.folder.join(folder);
            fs::create_dir_all(&path).expect("a folder");
            chown(&path, Some(UID), Some(UID)).expect("root");
        }
        fs::set_permissions(&bed.folder, fs::Permissions::from_mode(0o755)).expect("own folder");
        // The build folder may be closed to uid 801.
        let program = bed.folder.join("netcfg");
        // By another process: a file that this one has open for writing could leak into a child
        // of another test, and would be busy then.
        run(Command::new("install")
            .args(["-m", "755"])
            .arg(example())
            .arg(&program));
        bed.config("[[network.link]]\nmatch = { name = \"eth*\" }\n");
        bed
    }

    /// Adds the cable.
    pub fn plug(&self) {
        ip(&[
            "link",
            "add",
            "eth0",
            "netns",
            &self.client,
            "type",
            "veth",
            "peer",
            "name",
            "srv",
            "netns",
            &self.server,
        ]);
        self.server_ip(&["addr", "add", "10.7.0.1/24", "dev", "srv"]);
        self.server_ip(&["link", "set", "srv", "up"]);
    }

    /// Writes the configuration of netcfg.
    pub fn config(&self, text: &str) {
        fs::write(self.folder.join("config.toml"), text).expect("own folder");
    }

    /// Takes the carrier away, or gives it back.
    pub fn carrier(&self, on: bool) {
        self.server_ip(&["link", "set", "srv", if on { "up" } else { "down" }]);
    }

    /// `ip` on the server's side.
    pub fn server_ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.server[..]], arguments].concat())
    }

    /// `ip` on the client's side.
    pub fn client_ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.client[..]], arguments].concat())
    }

    /// Sets a kernel setting on the server's side.
    pub fn server_sysctl(&self, setting: &str) {
        let enter = ["netns", "exec", &self.server, "sysctl", "-q", "-w", setting];
        run(Command::new("ip").args(enter));
    }

    /// Puts the server into another network.
    pub fn renumber(&self, address: &str) {
        self.server_ip(&["addr", "flush", "dev", "srv"]);
        self.server_ip(&["addr", "add", address, "dev", "srv"]);
    }

    /// Starts netcfg with what it has on the appliance, and no more.
    pub fn netcfg(&self) -> Process {
        let caps = "-all,+net_admin,+net_raw,+net_bind_service";
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.client, "setpriv"])
            .arg(format!("--reuid={UID}"))
            .arg(format!("--regid={UID}"))
            .args(["--clear-groups", "--no-new-privs"])
            .args([
                "--inh-caps",
                caps,
                "--ambient-caps",
                caps,
                "--bounding-set",
                caps,
            ])
            .arg(self.folder.join("netcfg"))
            .args([
                self.folder.join("config.toml"),
                self.folder.join("state"),
                self.folder.join("run"),
            ]);
        Process::start("netcfg", &mut command)
    }

    /// Starts dnsmasq for `10.NET.0.50` to `10.NET.0.99` with further arguments.
    pub fn dnsmasq(&self, net: u8, arguments: &[&str]) -> Process {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.server,
                "dnsmasq",
                "--no-daemon",
                "--conf-file=/dev/null",
            ])
            .args([
                "--port=0",
                "--no-ping",
                "--interface=srv",
                "--bind-dynamic",
                "--user=root",
            ])
            .args(["--log-dhcp", "--dhcp-leasefile=/dev/null"])
            .arg(format!("--dhcp-range=10.{net}.0.50,10.{net}.0.99,2m"))
            .args(arguments);
        let mut process = Process::start("dnsmasq", &mut command);
        process.wait_line("that it serves", |line| {
            line.contains("IP range").then_some(())
        });
        process
    }

    /// Starts Kea for `10.NET.0.50` to `10.NET.0.99` with these lifetimes in seconds.
    pub fn kea(&self, net: u8, lease: u32, renew: u32, rebind: u32) -> Process {
        let config = self.folder.join("kea.json");
        let text = format!(
            r#"{{ "Dhcp4": {{
                "interfaces-config": {{ "interfaces": ["srv"] }},
                "lease-database": {{ "type": "memfile", "persist": false }},
                "authoritative": true,
                "valid-lifetime": {lease}, "renew-timer": {renew}, "rebind-timer": {rebind},
                "subnet4": [ {{ "id": 1, "subnet": "10.{net}.0.0/24",
                    "pools": [ {{ "pool": "10.{net}.0.50 - 10.{net}.0.99" }} ],
                    "option-data": [
                        {{ "name": "routers", "data": "10.{net}.0.1" }},
                        {{ "name": "domain-name-servers", "data": "10.{net}.0.1, 10.{net}.0.2" }},
                        {{ "name": "domain-name", "data": "kea.example" }} ] }} ],
                "loggers": [ {{ "name": "kea-dhcp4", "severity": "INFO",
                    "output_options": [ {{ "output": "stdout", "flush": true }} ] }} ] }} }}"#
        );
        fs::write(&config, text).expect("own folder");
        // Kea takes no interface that is not running when it starts.
        self.client_ip(&["link", "set", "eth0", "up"]);
        let deadline = Instant::now() + PATIENCE;
        while !self
            .server_ip(&["link", "show", "srv"])
            .contains("state UP")
        {
            assert!(Instant::now() < deadline, "the server's end has no carrier");
        }
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.server, "kea-dhcp4", "-c"])
            .arg(config)
            .env("KEA_PIDFILE_DIR", &self.folder)
            .env("KEA_LOCKFILE_DIR", &self.folder);
        let mut process = Process::start("kea-dhcp4", &mut command);
        process.wait_line("that it serves", |line| {
            line.contains("DHCP4_STARTED").then_some(())
        });
        process
    }

    /// Captures on the server's side; [`Bed::judge`] reads what was captured.
    pub fn capture(&self) -> Process {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.server,
                "tcpdump",
                "-i",
                "srv",
                "--immediate-mode",
                "-U",
                "-Z",
                "root",
                "-w",
            ])
            .arg(self.folder.join("capture.pcap"));
        let mut process = Process::start("tcpdump", &mut command);
        process.wait_line("that it listens", |line| {
            line.contains("listening on").then_some(())
        });
        process
    }

    /// Lets tshark judge the client's DHCP frames: how many there are, and what it says of those
    /// that it finds fault with.
    pub fn judge(&self, capture: Process) -> (usize, String) {
        capture.terminate();
        let frames = |filter: &str, checksums: bool| {
            run(Command::new("tshark")
                .arg("-r")
                .arg(self.folder.join("capture.pcap"))
                .args(["-o", &format!("ip.check_checksum:{checksums}")])
                .args(["-o", &format!("udp.check_checksum:{checksums}")])
                .args(["-Y", filter, "-T", "fields"])
                .args(["-e", "frame.number", "-e", "_ws.expert.message"]))
        };
        // 0x600000 is "warning". On a veth pair the kernel leaves the sums of its own UDP to a
        // card that is not there; those of raw packets are ours.
        let ours = "dhcp.type == 1";
        let fault = "(_ws.malformed || _ws.expert.severity >= 0x600000)";
        let raw = frames(&format!("{ours} && {fault} && ip.src == 0.0.0.0"), true);
        let all = frames(&format!("{ours} && {fault}"), false);
        (frames(ours, false).lines().count(), raw + &all)
    }

    /// Reports everything that happens to addresses on the client's side.
    pub fn monitor(&self) -> Process {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.client,
            "stdbuf",
            "-oL",
            "ip",
            "-o",
            "monitor",
            "address",
            "route",
        ]);
        let process = Process::start("ip monitor", &mut command);
        // It does not say when it listens: give it things to tell until it tells one.
        for last in 1..=254 {
            let probe = format!("198.18.0.{last}/32");
            self.client_ip(&["addr", "add", &probe, "dev", "lo"]);
            if process
                .lines
                .recv_timeout(Duration::from_millis(20))
                .is_ok()
            {
                return process;
            }
        }
        panic!("ip monitor tells nothing");
    }

    /// The IPv4 addresses of the client's link.
    pub fn addresses(&self) -> Vec<String> {
        let text = self.client_ip(&["-o", "-4", "addr", "show", "dev", "eth0"]);
        let cidr = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
        text.lines().filter_map(cidr).collect()
    }

    /// The IPv4 routes of the client, one per line.
    pub fn routes(&self) -> String {
        self.client_ip(&["-4", "route", "show"])
    }

    /// What `resolv.conf` says.
    pub fn resolv_conf(&self) -> String {
        fs::read_to_string(self.folder.join("run/resolv.conf")).expect("resolv.conf")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The program under test: `examples/netcfg`, which cargo builds along with the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps");
    let path = profile.join("examples/netcfg");
    assert!(
        path.exists(),
        "{} is missing: cargo build -p netcfg --examples",
        path.display()
    );
    path
}

fn ip(arguments: &[&str]) -> String {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    let _ = write!(said, "{}", output.status);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
