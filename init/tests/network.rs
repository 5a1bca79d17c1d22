//! The shipped program as the network part alone, and `initctl net` as its client.

#[path = "../../netcfg/tests/bed/mod.rs"]
mod bed;

use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bed::{Bed, Process};

const INIT: &str = env!("CARGO_BIN_EXE_init");

/// `init netcfg` as on the machine, but for PID 1.
fn netcfg(bed: &Bed) -> Process {
    Process::start("init netcfg", &mut command(bed))
}

fn command(bed: &Bed) -> Command {
    let mut command = bed.confined(Path::new(INIT));
    command.arg("netcfg");
    for (option, path) in [
        ("--config", "config.toml"),
        ("--state-dir", "state"),
        ("--runtime-dir", "run"),
    ] {
        command.arg(option).arg(bed.folder.join(path));
    }
    command
}

/// `initctl net WORDS...`: its status and what it said.
fn initctl(bed: &Bed, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(INIT)
        .args(["ctl", "--runtime-dir"])
        .arg(bed.folder.join("run"))
        .arg("net")
        .args(words)
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8(text).expect("a text"),
    )
}

/// Waits for an event line with these words.
fn event(netcfg: &mut Process, words: &[&str]) {
    netcfg.wait_line(&words.join(" "), |line| {
        let there = line.starts_with("init: ") && words.iter().all(|word| line.contains(word));
        there.then_some(())
    });
}

#[test]
fn a_lease_is_shown_given_back_and_asked_for_again() {
    let bed = Bed::new();
    let mut server = bed.dnsmasq(
        7,
        &["--dhcp-option=6,10.7.0.3", "--dhcp-option=42,10.7.0.4"],
    );
    let mut netcfg = netcfg(&bed);
    event(&mut netcfg, &[" net.address ", " link=eth0 "]);
    let address = bed.addresses().join(" ");

    let (status, shown) = initctl(&bed, &[]);
    assert_eq!(status, Some(0), "{shown}");
    for wanted in [
        "eth0", &address, "10.7.0.1", "10.7.0.3", "10.7.0.4", "dhcp4",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let (status, json) = initctl(&bed, &["--json"]);
    assert_eq!(status, Some(0), "{json}");
    assert!(
        json.contains(&format!("\"address\":\"{address}\"")),
        "{json}"
    );

    assert_eq!(initctl(&bed, &["release", "eth0"]).0, Some(0));
    event(&mut netcfg, &[" net.lost ", " reason=released"]);
    server.wait_line("the address back", |line| {
        line.contains("DHCPRELEASE").then_some(())
    });
    assert_eq!(initctl(&bed, &["renew", "eth0"]).0, Some(0));
    event(&mut netcfg, &[" net.address ", " link=eth0 "]);
    assert!(bed.addresses().join(" ").starts_with("10.7.0."));
    assert_eq!(initctl(&bed, &["renew", "eth0"]).0, Some(0));
    event(&mut netcfg, &[" net.renewed ", " link=eth0 "]);

    let (status, refused) = initctl(&bed, &["renew", "eth9"]);
    assert_eq!(status, Some(1), "{refused}");
    assert!(
        refused.contains("eth9") && refused.contains("eth0"),
        "{refused}"
    );
}

#[test]
fn who_is_not_there_is_told_so() {
    let bed = Bed::without_cable();
    let (status, said) = initctl(&bed, &[]);
    assert_eq!(status, Some(3), "{said}");
    let socket = bed.folder.join("run/control");
    assert!(said.contains(&socket.display().to_string()), "{said}");
}

/// As PID 1 starts it: its loop says that it turns, from within the sandbox.
#[test]
fn its_loop_feeds_the_watchdog_of_its_supervisor() {
    let bed = Bed::without_cable();
    let path = bed.folder.join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    // netcfg is another user.
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    supervisor
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let (_channel, events) = UnixDatagram::pair().unwrap();
    // Inherited by its number.
    rustix::io::fcntl_setfd(&events, rustix::io::FdFlags::empty()).unwrap();
    let mut command = command(&bed);
    command
        .args(["--events", &events.as_raw_fd().to_string()])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000");
    let _netcfg = Process::start("init netcfg", &mut command);
    for expected in ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"] {
        let mut data = [0u8; 64];
        // A socket with a time limit is interrupted by a stop of this process, also without a handler (signal(7)).
        let count = loop {
            match supervisor.recv(&mut data) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.expect("netcfg says something"),
            }
        };
        assert_eq!(std::str::from_utf8(&data[..count]), Ok(expected));
    }
}
