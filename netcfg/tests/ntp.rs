//! The NTP client with a real server: chronyd in a network namespace, which serves this machine's own
//! clock. What the client measures must be zero, give or take half of what the answer took.
//!
//! Needs root. chronyd and ip are installed if they are missing.

#[allow(dead_code, reason = "the tests of DHCP need more of it")]
#[path = "bed/tools.rs"]
mod tools;

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netcfg::ntp::client::{Action, Client, Event, Note, Offset};
use netcfg::ntp::packet::{PORT, Wrong};
use netcfg::rng::Rng;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};

/// Program and Debian package.
const NEEDED: [(&str, &str); 2] = [("ip", "iproute2"), ("chronyd", "chrony")];

/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// 2025-01-01.
const FLOOR: Duration = Duration::from_secs(1_735_689_600);

static COUNTER: AtomicU32 = AtomicU32::new(0);

static INSTALLED: Once = Once::new();

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "as root: {program} {arguments:?}: {said}"
    );
}

/// A namespace with these addresses in which the calling thread is, and the servers there.
struct Bed {
    name: String,
    folder: PathBuf,
    servers: Vec<Child>,
}

impl Bed {
    fn new(addresses: &[&str]) -> Bed {
        INSTALLED.call_once(|| tools::need(&NEEDED));
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ntp{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        // One that is there already may be a stranger's, or a leftover of a test that was killed.
        fs::create_dir(&folder).expect("a folder that nobody has made before");
        run("ip", &["netns", "add", &name]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        for address in addresses {
            run(
                "ip",
                &["-n", &name, "addr", "add", address, "dev", "lo", "nodad"],
            );
        }
        let namespace = fs::File::open(format!("/run/netns/{name}")).expect("just made");
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).expect("root");
        Bed {
            name,
            folder,
            servers: vec![],
        }
    }

    /// Starts a server that leaves the clock alone, with further lines of configuration.
    fn chronyd(&mut self, address: &str, more: &str) {
        let number = self.servers.len();
        let file = |kind: &str| self.folder.join(format!("{number}.{kind}"));
        let text = format!(
            "bindaddress {address}\nallow\ncmdport 0\nuser root\npidfile {}\n{more}\n",
            file("pid").display()
        );
        fs::write(file("conf"), text).expect("own folder");
        let mut command = Command::new("chronyd");
        command.args(["-x", "-d", "-f"]).arg(file("conf"));
        let log = fs::File::create(file("log")).expect("own folder");
        let errors = log.try_clone().expect("a descriptor");
        let server = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        self.servers.push(server.expect("chronyd"));
    }

    fn logs(&self) -> String {
        let log = |number| fs::read_to_string(self.folder.join(format!("{number}.log")));
        (0..self.servers.len()).flat_map(log).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("since boot");
    Duration::new(
        seconds,
        u32::try_from(time.tv_nsec).expect("below a second"),
    )
}

/// Runs a client whose wall clock is slow by `slow`, until it measured or said something.
fn first_word(bed: &Bed, servers: &[&str], slow: Duration) -> Result<Offset, Note> {
    let wall = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            - slow
    };
    let servers: Vec<IpAddr> = servers
        .iter()
        .map(|text| text.parse().expect("address"))
        .collect();
    let any = if servers.iter().all(IpAddr::is_ipv4) {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    let mut client = Client::new(Rng::new(rand_seed()), now(), FLOOR);
    let mut actions = client.step(now(), wall(), Event::Servers(servers));
    actions.extend(client.step(now(), wall(), Event::Online(true)));
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(
            Instant::now() < deadline,
            "no answer; the servers say:\n{}",
            bed.logs()
        );
        for action in actions {
            match action {
                Action::Send { to, bytes } => {
                    let sent = socket.send_to(&bytes, (to, PORT)).expect("sent");
                    assert_eq!(sent, 48);
                }
                Action::Offset(offset) => return Ok(offset),
                // chronyd may take its time to start.
                Action::Note(Note::Silence { .. }) => {}
                Action::Note(note) => return Err(note),
            }
        }
        let due = client
            .deadline()
            .expect("it wants the time")
            .saturating_sub(now());
        let wait = due.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait)).expect("a timeout");
        let mut buffer = [0; 512];
        actions = match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let bytes = &buffer[..length];
                client.step(now(), wall(), Event::Payload { from, bytes })
            }
            Err(_) => client.step(now(), wall(), Event::Timer),
        };
    }
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

/// Off by no more than the answer's way can explain.
fn assert_is(offset: &Offset, seconds: i64) {
    let error = (offset.nanoseconds - seconds * 1_000_000_000).unsigned_abs();
    let way = offset.delay / 2 + Duration::from_micros(500);
    assert!(u128::from(error) <= way.as_nanos(), "{offset:?}");
    assert_eq!(offset.leap, 0);
}

#[test]
fn a_real_server_is_believed() {
    let mut bed = Bed::new(&["10.9.0.1/32"]);
    bed.chronyd("10.9.0.1", "local stratum 8");
    let offset = first_word(&bed, &["10.9.0.1"], Duration::ZERO).expect("a time");
    assert_is(&offset, 0);
    assert_eq!(offset.stratum, 8);
    let hour = Duration::from_secs(3600);
    let offset = first_word(&bed, &["10.9.0.1"], hour).expect("a time");
    assert_is(&offset, 3600);
}

#[test]
fn a_real_server_over_ipv6_is_believed() {
    let mut bed = Bed::new(&["fd09::1/128"]);
    bed.chronyd("fd09::1", "local stratum 3");
    let offset = first_word(&bed, &["fd09::1"], Duration::ZERO).expect("a time");
    assert_is(&offset, 0);
    assert_eq!(offset.stratum, 3);
}

#[test]
fn several_real_servers_agree() {
    let mut bed = Bed::new(&["10.9.0.1/32", "10.9.0.2/32", "10.9.0.3/32"]);
    let servers = ["10.9.0.1", "10.9.0.2", "10.9.0.3"];
    for server in servers {
        bed.chronyd(server, "local stratum 5");
    }
    let offset = first_word(&bed, &servers, Duration::from_secs(5)).expect("a time");
    assert_is(&offset, 5);
}

#[test]
fn a_real_server_that_does_not_know_the_time_is_not_believed() {
    let mut bed = Bed::new(&["10.9.0.1/32"]);
    bed.chronyd("10.9.0.1", "");
    let word = first_word(&bed, &["10.9.0.1"], Duration::ZERO);
    let server = SocketAddr::from(([10, 9, 0, 1], 0)).ip();
    let why = Wrong::Unsynchronised;
    assert_eq!(word, Err(Note::Unusable { server, why }));
}
