//! The programs of others that the bed is made of.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;

/// Program and Debian package.
const NEEDED: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("dnsmasq", "dnsmasq-base"),
    ("kea-dhcp4", "kea-dhcp4-server"),
    ("dhcpd", "isc-dhcp-server"),
    ("udhcpd", "udhcpd"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
];

/// Locked by whoever installs, the harness included. In `/run`, which is root's alone: in `/tmp`, root would
/// truncate whatever a stranger has put there under this name.
const INSTALLING: &str = "/run/astromesh-init.apt";

static INSTALLED: Once = Once::new();

/// Installs what is missing of the programs, or fails with their names. Once per process.
pub fn install() {
    INSTALLED.call_once(|| need(&NEEDED));
}

/// Installs what is missing of these programs, each given with its Debian package.
pub fn need(programs: &[(&str, &'static str)]) {
    // The other tests of this project that install do the same: apt-get itself gives up at once.
    let lock = fs::File::create(INSTALLING);
    let lock = lock.and_then(|lock| lock.lock().map(|()| lock));
    let missing: Vec<&str> = programs
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
    let _one = lock.expect("root");
    let quiet = Quiet::new();
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
    drop(quiet);
}

/// invoke-rc.d(8): what this program says no to is not started.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, a server that is installed is not started along with it: it would serve the
/// machine's own network.
struct Quiet {
    ours: bool,
}

impl Quiet {
    fn new() -> Quiet {
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").expect("root");
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).expect("own file");
        }
        Quiet { ours }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Runs `ip` to its end, and gives back what it printed.
pub fn ip(arguments: &[&str]) -> String {
    run(Command::new("ip").args(arguments))
}

/// Runs a command to its end, and gives back what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    let _ = write!(said, "{}", output.status);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
