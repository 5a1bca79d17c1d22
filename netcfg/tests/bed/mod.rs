//! Network namespaces with a cable between them: servers in some, netcfg in one.
//!
//! ```text
//!   new()       client eth0 ─────────────── srv  server
//!   switched()  client eth0 ──┬─ a bridge ─┬─ srv  server
//!                             └────────────┴─ srv  any number of hosts
//!   lossy()     client eth0 ───── relay ──── srv  server
//! ```
//!
//! Needs root, and the programs that [`tools`] names, which are installed if they are missing.
//! netcfg runs as it does on the appliance: uid 801 with three capabilities and no way to get
//! more. Tests wait for events, with a deadline that only a hang can reach.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of the bed"
)]

pub mod capture;
pub mod example;
pub mod frame;
pub mod process;
pub mod relay;
pub mod reply;
pub mod server;
#[expect(unsafe_code, reason = "namespaces and packet sockets")]
pub mod sys;
pub mod tools;
pub mod wire;

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::capture::Capture;
pub use self::process::{Event, Process};
use self::relay::{Faults, Relay};
use self::server::Host;
use self::tools::{ip, run};

/// Longer than anything here takes on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(150);

pub const UID: u32 = 801;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The namespaces, and a folder.
pub struct Bed {
    pub server: Host,
    pub client: String,
    pub folder: PathBuf,
    id: String,
    between: Between,
    relay: Option<Relay>,
    others: RefCell<Vec<String>>,
}

/// What is between the two links, and its namespace.
#[derive(Debug, PartialEq, Eq)]
enum Between {
    Cable,
    Bridge(String),
    Relay(String),
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
        tools::install();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("nc{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        let bed = Bed {
            server: Host::new(format!("{id}s"), folder.join("server")),
            client: format!("{id}c"),
            folder,
            id,
            between: Between::Cable,
            relay: None,
            others: RefCell::default(),
        };
        // One that is there already may be a stranger's, or a leftover of a test that was killed.
        fs::create_dir(&bed.folder).expect("a folder that nobody has made before");
        for name in [&bed.server.netns, &bed.client] {
            add_netns(name);
        }
        for folder in ["state", "run"] {
            let path = bed.folder.join(folder);
            fs::create_dir_all(&path).expect("a folder");
            chown(&path, Some(UID), Some(UID)).expect("root");
        }
        fs::create_dir_all(&bed.server.folder).expect("a folder");
        fs::set_permissions(&bed.folder, fs::Permissions::from_mode(0o755)).expect("own folder");
        bed.config("[[network.link]]\nmatch = { name = \"eth*\" }\n");
        bed
    }

    /// As [`Bed::new`], with a bridge in between, to which [`Bed::host`] adds others.
    pub fn switched() -> Bed {
        let mut bed = Bed::without_cable();
        let middle = bed.add_other("b");
        let bridge = ["link", "add", "br0", "type", "bridge", "forward_delay", "0"];
        ip(&[&["-n", &middle[..]][..], &bridge].concat());
        ip(&["-n", &middle, "link", "set", "br0", "up"]);
        bed.between = Between::Bridge(middle);
        bed.plug();
        bed
    }

    /// As [`Bed::new`], with a bad cable.
    pub fn lossy(faults: Faults) -> Bed {
        let mut bed = Bed::without_cable();
        let middle = bed.add_other("r");
        bed.between = Between::Relay(middle.clone());
        bed.plug();
        bed.relay = Some(Relay::start(&middle, "client", "server", faults));
        bed
    }

    /// Frames that the bad cable lost.
    pub fn lost(&self) -> u32 {
        self.relay.as_ref().map_or(0, Relay::lost)
    }

    /// Adds the cable.
    pub fn plug(&self) {
        let (client, server) = (&self.client[..], &self.server.netns[..]);
        match &self.between {
            Between::Cable => veth((client, "eth0"), (server, "srv")),
            Between::Bridge(middle) => {
                self.join(client, "eth0", middle, "client");
                self.join(server, "srv", middle, "server");
            }
            Between::Relay(middle) => {
                for (netns, link, end) in [(client, "eth0", "client"), (server, "srv", "server")] {
                    veth((netns, link), (middle, end));
                    ip(&["-n", middle, "link", "set", end, "up"]);
                }
            }
        }
        self.server
            .ip(&["addr", "add", "10.7.0.1/24", "dev", "srv"]);
        self.server.ip(&["link", "set", "srv", "up"]);
    }

    fn join(&self, netns: &str, link: &str, bridge: &str, port: &str) {
        veth((netns, link), (bridge, port));
        ip(&["-n", bridge, "link", "set", port, "master", "br0", "up"]);
    }

    /// Another host on the bridge, with this address on its `srv`.
    pub fn host(&self, name: &str, address: &str) -> Host {
        let Between::Bridge(middle) = &self.between else {
            panic!("there is no bridge to join");
        };
        let host = Host::new(self.add_other(name), self.folder.join(name));
        fs::create_dir_all(&host.folder).expect("own folder");
        self.join(&host.netns, "srv", middle, name);
        host.ip(&["addr", "add", address, "dev", "srv"]);
        host.ip(&["link", "set", "srv", "up"]);
        host
    }

    /// Another link of the client, `eth1`, on the same bridge.
    pub fn second_port(&self) {
        let Between::Bridge(middle) = &self.between else {
            panic!("there is no bridge to join");
        };
        self.join(&self.client, "eth1", middle, "second");
    }

    /// Switches the bridge's end of the client's cable off, or on.
    pub fn bridge_port(&self, on: bool) {
        let Between::Bridge(middle) = &self.between else {
            panic!("there is no bridge");
        };
        let state = if on { "up" } else { "down" };
        ip(&["-n", middle, "link", "set", "client", state]);
    }

    fn add_other(&self, name: &str) -> String {
        let netns = format!("{}{name}", self.id);
        add_netns(&netns);
        self.others.borrow_mut().push(netns.clone());
        netns
    }

    /// Writes the configuration of netcfg.
    pub fn config(&self, text: &str) {
        fs::write(self.folder.join("config.toml"), text).expect("own folder");
    }

    /// Takes the carrier away, or gives it back.
    pub fn carrier(&self, on: bool) {
        self.server
            .ip(&["link", "set", "srv", if on { "up" } else { "down" }]);
    }

    /// Switches the client's link on, as netcfg would, for what wants to find it so before. Done
    /// when both ends have their carrier.
    pub fn switch_on(&self) {
        self.client_ip(&["link", "set", "eth0", "up"]);
        let deadline = Instant::now() + PATIENCE;
        while !self
            .server
            .ip(&["link", "show", "srv"])
            .contains("state UP")
        {
            assert!(Instant::now() < deadline, "the server's end has no carrier");
        }
    }

    /// `ip` on the client's side.
    pub fn client_ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.client[..]], arguments].concat())
    }

    /// A copy of a program for netcfg's user, to whom the build folder may be closed.
    pub fn program(&self, built: &Path) -> PathBuf {
        let path = self.folder.join(built.file_name().expect("a file"));
        if !path.exists() {
            // By another process: a file that this one has open for writing could leak into a
            // child of another test, and would be busy then.
            run(Command::new("install")
                .args(["-m", "755"])
                .args([built, &path]));
        }
        path
    }

    /// Starts netcfg with what it has on the appliance, and no more.
    pub fn netcfg(&self) -> Process {
        let mut command = self.confined(netcfg());
        command.args([
            self.folder.join("config.toml"),
            self.folder.join("state"),
            self.folder.join("run"),
        ]);
        Process::start("netcfg", &mut command)
    }

    /// A program on the client's side as netcfg's user with its three capabilities, and no more.
    pub fn confined(&self, program: &Path) -> Command {
        let caps = "-all,+net_admin,+net_raw,+net_bind_service";
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.client, "setpriv"])
            .arg(format!("--reuid={UID}"))
            .arg(format!("--regid={UID}"))
            .args(["--clear-groups", "--no-new-privs"])
            .args(["--inh-caps", caps, "--ambient-caps", caps])
            .args(["--bounding-set", caps])
            .arg(self.program(program));
        command
    }

    /// A second cable, from the client's link `eth1` to a server of its own: 10.`NET`.0.1/24 on
    /// its `srv`.
    pub fn second_cable(&self, net: u8) -> Host {
        let host = Host::new(self.add_other("second"), self.folder.join("second"));
        fs::create_dir_all(&host.folder).expect("own folder");
        veth((&self.client, "eth1"), (&host.netns, "srv"));
        host.ip(&["addr", "add", &format!("10.{net}.0.1/24"), "dev", "srv"]);
        host.ip(&["link", "set", "srv", "up"]);
        host
    }

    /// What a reboot does to the client's link: nothing of netcfg's is left on it. What netcfg
    /// keeps on disk stays. netcfg must not run.
    pub fn forget_network(&self) {
        self.client_ip(&["-4", "addr", "flush", "dev", "eth0"]);
    }

    /// Waits until netcfg keeps a lease on disk, which it does after it has told the address.
    pub fn wait_kept(&self) {
        self.wait_kept_leases(1);
    }

    /// The same for so many leases.
    pub fn wait_kept_leases(&self, wanted: usize) {
        let deadline = Instant::now() + PATIENCE;
        let kept = || {
            let entries = fs::read_dir(self.folder.join("state")).expect("own folder");
            let names = entries.flatten().map(|entry| entry.file_name());
            names
                .filter(|name| name.to_string_lossy().starts_with("lease-"))
                .count()
        };
        while kept() < wanted {
            assert!(Instant::now() < deadline, "{wanted} leases are not kept");
            thread::yield_now();
        }
    }

    /// Removes what netcfg keeps on disk.
    pub fn forget_leases(&self) {
        for entry in fs::read_dir(self.folder.join("state")).expect("own folder") {
            fs::remove_file(entry.expect("own folder").path()).expect("own file");
        }
    }

    /// Captures on the client's side, whose link is switched on for it.
    pub fn capture(&self) -> Capture {
        self.switch_on();
        let path = self.folder.join("capture.pcap");
        Capture::start(&self.client, "eth0", self.mac(), &path)
    }

    /// The address of the client's link.
    pub fn mac(&self) -> [u8; 6] {
        let shown = self.client_ip(&["-o", "link", "show", "dev", "eth0"]);
        let (_, rest) = shown.split_once("link/ether ").expect("an Ethernet link");
        let octets: Vec<u8> = rest[..17]
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).expect("hexadecimal"))
            .collect();
        octets.try_into().expect("six")
    }

    /// Reports everything that happens to addresses and routes on the client's side.
    pub fn monitor(&self) -> Process {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.client, "stdbuf", "-oL"])
            .args(["ip", "-o", "monitor", "address", "route"]);
        let process = Process::start("ip monitor", &mut command);
        // It does not say when it listens: give it things to tell until it tells one.
        for last in 1..=254 {
            let probe = format!("198.18.0.{last}/32");
            self.client_ip(&["addr", "add", &probe, "dev", "lo"]);
            if process.says_something(Duration::from_millis(20)) {
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

    /// Waits until these are the IPv4 addresses of the client's link.
    pub fn wait_addresses(&self, wanted: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let addresses = self.addresses();
            if addresses == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{addresses:?} stay");
        }
    }

    /// The IPv4 routes of the client, one per line.
    pub fn routes(&self) -> String {
        self.client_ip(&["-4", "route", "show"])
    }

    /// Waits until `resolv.conf` says this.
    pub fn wait_resolv_conf(&self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.resolv_conf().contains(wanted) {
            assert!(Instant::now() < deadline, "{}", self.resolv_conf());
            thread::yield_now();
        }
    }

    /// What netcfg shows of its first link.
    pub fn shown(&self) -> Value {
        let mut control = UnixStream::connect(self.folder.join("run/control")).expect("it serves");
        control.set_read_timeout(Some(PATIENCE)).expect("not zero");
        control
            .write_all(b"{\"verb\":\"net\"}\n")
            .expect("it serves");
        let mut answer = String::new();
        let mut control = BufReader::new(control);
        control.read_line(&mut answer).expect("an answer");
        let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["net"]["links"][0].take()
    }

    /// What `resolv.conf` says.
    pub fn resolv_conf(&self) -> String {
        fs::read_to_string(self.folder.join("run/resolv.conf")).expect("resolv.conf")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.relay = None;
        let others = self.others.borrow();
        for name in [&self.server.netns, &self.client]
            .into_iter()
            .chain(&*others)
        {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn add_netns(name: &str) {
    ip(&["netns", "add", name]);
    ip(&["-n", name, "link", "set", "lo", "up"]);
}

/// A cable between two links, each given with its namespace.
fn veth((a_netns, a): (&str, &str), (b_netns, b): (&str, &str)) {
    let near = ["link", "add", a, "netns", a_netns, "type", "veth"];
    let far = ["peer", "name", b, "netns", b_netns];
    ip(&[&near[..], &far].concat());
}

/// The program under test.
fn netcfg() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example::build("netcfg"))
}
