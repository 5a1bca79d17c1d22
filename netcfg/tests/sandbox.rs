//! The sandbox holds: every attempt of `examples/escape.rs` on its own, as netcfg runs on the appliance.
//!
//! Needs root, and the programs `unshare` and `setpriv` (util-linux). Each attempt that must fail is also
//! made outside of the sandbox, where it must not fail in that way: it is the sandbox that stops it.

#[path = "bed/example.rs"]
mod example;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const UID: u32 = 801;

/// `examples/escape.rs`.
fn escape() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example::build("escape"))
}

struct Bed(PathBuf);

impl Bed {
    fn new(name: &str) -> Bed {
        let folder = std::env::temp_dir().join(format!("netcfg-{name}-{}", std::process::id()));
        for (inner, uid, mode) in [
            ("", 0, 0o755),
            ("state", UID, 0o755),
            ("run", UID, 0o755),
            ("state/directory", 0, 0o755),
            ("run/directory", 0, 0o755),
            // Everybody may do everything here, as far as users go.
            ("outside", UID, 0o777),
        ] {
            let path = folder.join(inner);
            // One that is there already may be a stranger's, or a leftover of a test that was killed.
            fs::create_dir(&path).expect("a folder that nobody has made before");
            chown(&path, Some(uid), Some(uid)).expect("root");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own folder");
        }
        let there = folder.join("outside/there");
        fs::write(&there, "text").expect("own folder");
        chown(&there, Some(UID), Some(UID)).expect("root");
        // The build folder may be closed to uid 801.
        let status = Command::new("install")
            .args(["-m", "755"])
            .arg(escape())
            .arg(folder.join("escape"))
            .status();
        assert!(status.expect("install").success());
        Bed(folder)
    }

    /// With what netcfg has on the appliance, in a network namespace of its own.
    fn command(&self, attempt: &str, free: bool) -> Command {
        let caps = "-all,+net_admin,+net_raw,+net_bind_service";
        // Ends as what it runs, unless that hangs.
        let mut command = Command::new("timeout");
        command
            .args(["150", "unshare", "--net"])
            .args(["setpriv", "--clear-groups", "--no-new-privs"])
            .args([format!("--reuid={UID}"), format!("--regid={UID}")])
            .args(["--inh-caps", caps, "--ambient-caps", caps])
            .args(["--bounding-set", caps])
            .arg(self.0.join("escape"))
            .args([self.path(), Path::new(attempt)])
            .args(free.then_some("free"))
            .stdin(Stdio::null());
        command
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn attempt(&self, attempt: &str, free: bool) -> Output {
        let output = self.command(attempt, free).output().expect("unshare");
        assert_ne!(output.status.code(), Some(2), "{attempt}: {output:?}");
        output
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn what_netcfg_does_it_may_do() {
    let bed = Bed::new("sandbox-may");
    for attempt in [
        "replace", "boot-id", "sys", "control", "clock", "sysctl", "sockets", "memory",
    ] {
        let output = bed.attempt(attempt, false);
        // Nothing else is said: no gap, so both parts are in force.
        assert_eq!(said(&output), "allowed", "{attempt}: {output:?}");
    }
    // A fault of our own ends it with a word, as anywhere.
    let output = bed.attempt("abort", false);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    let output = bed.attempt("panic", false);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("on purpose"), "{output:?}");
    assert_eq!(output.status.code(), Some(101), "{output:?}");
}

#[test]
fn files_and_tcp_out_of_reach_are_denied() {
    let bed = Bed::new("sandbox-denied");
    for (attempt, expected) in [
        ("read-passwd", "PermissionDenied"),
        ("read-self", "PermissionDenied"),
        ("read-outside", "PermissionDenied"),
        ("list-outside", "PermissionDenied"),
        ("write-outside", "PermissionDenied"),
        ("leave-by-dots", "PermissionDenied"),
        ("rename-out", "PermissionDenied"),
        ("write-random", "PermissionDenied"),
        ("device", "PermissionDenied"),
        ("tcp-bind", "PermissionDenied"),
    ] {
        let output = bed.attempt(attempt, false);
        assert_eq!(said(&output), expected, "{attempt}: {output:?}");
        let free = bed.attempt(attempt, true);
        // Without a link that is up there is no address to bind to; the right is there.
        let fine = ["allowed", "AddrNotAvailable"].contains(&said(&free).as_str());
        assert!(fine, "{attempt}: {free:?}");
    }
}

#[test]
fn a_call_that_is_not_on_the_list_is_the_end() {
    let bed = Bed::new("sandbox-killed");
    for attempt in [
        "execute",
        "fork",
        "thread",
        "trace",
        "signal",
        "signal-thread",
        "handle",
        "memfd",
        "mount",
        "unshare",
        "bpf",
        "io-uring",
        "peek",
        "module",
        "setuid",
        "link",
        "symlink",
        "code",
        "write-and-run",
        "vsock",
        "unix",
        "tcp",
        "raw",
        "netfilter",
        "terminal",
    ] {
        let output = bed.attempt(attempt, false);
        let signal = output.status.signal();
        assert_eq!(signal, Some(libc::SIGSYS), "{attempt}: {output:?}");
        assert_eq!(said(&output), "", "{attempt}");
        let free = bed.attempt(attempt, true);
        assert!(free.status.success(), "{attempt}: {free:?}");
    }
}

/// Rules are tied to inodes, and those of `/proc` come and go.
#[test]
fn what_the_kernel_forgets_stays_in_reach() {
    let bed = Bed::new("sandbox-forgotten");
    let mut child = bed
        .command("sysctl-later", false)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "entered");
    // proc(5): frees what the kernel remembers of names and inodes.
    fs::write("/proc/sys/vm/drop_caches", "2").expect("root");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"\n").expect("it waits");
    assert_eq!(next(), "allowed");
    assert!(child.wait().expect("a child").success());
}
