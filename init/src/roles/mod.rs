//! Which role this process has, and the way into it.
//!
//! One program, several roles. The role is chosen by what the process is: PID 1 on the kernel's
//! rootfs is the initramfs stage, any other PID 1 the system stage; otherwise the first argument names
//! it. What is not known does nothing but say so: a program that reboots when called by a wrong
//! name has cost others a machine.

mod check;
mod devices;
mod logger;
mod netcfg;

use crate::{initramfs, system};
use std::ffi::OsString;
use std::process::ExitCode;

/// What the program says when it is called in a way it does not know.
const USAGE: &str = "usage: init check [--root DIR] FILE    judge a configuration
       init netcfg --config FILE --state-dir DIR --runtime-dir DIR [--events FD]
       init devices                        load drivers as devices appear
       init logger --events FD [--stream FD=NAME]... [--console PATH]
As PID 1 it takes no arguments: it is the machine's init.";

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Initramfs,
    System,
    Check,
    Devices,
    Logger,
    Netcfg,
    Unknown,
}

fn choose(pid: u32, on_rootfs: bool, first: Option<&str>) -> Role {
    match (pid, on_rootfs, first) {
        (1, true, _) => Role::Initramfs,
        (1, false, _) => Role::System,
        (_, _, Some("check")) => Role::Check,
        (_, _, Some("devices")) => Role::Devices,
        (_, _, Some("logger")) => Role::Logger,
        (_, _, Some("netcfg")) => Role::Netcfg,
        _ => Role::Unknown,
    }
}

/// Runs the role of this process.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let first = arguments.get(1).map(|a| a.to_string_lossy().into_owned());
    let rest = || arguments.iter().skip(2).cloned();
    match choose(std::process::id(), on_rootfs(), first.as_deref()) {
        Role::Initramfs => initramfs::run(),
        Role::System => system::run(),
        Role::Check => check::run(rest()),
        Role::Devices => devices::run(),
        Role::Logger => logger::run(rest()),
        Role::Netcfg => netcfg::run(rest()),
        Role::Unknown => usage(&first.map_or_else(
            || "no role is named".into(),
            |f| format!("`{f}` is no role"),
        )),
    }
}

/// Says what was wrong with the call and how it is made; status 2.
fn usage(problem: &str) -> ExitCode {
    eprintln!("init: {problem}\n{USAGE}");
    ExitCode::from(2)
}

/// Whether `/` is the initramfs: a ramfs or tmpfs (statfs(2): `RAMFS_MAGIC`, `TMPFS_MAGIC`).
fn on_rootfs() -> bool {
    rustix::fs::statfs("/").is_ok_and(|fs| matches!(fs.f_type, 0x8584_58f6 | 0x0102_1994))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_follows_from_what_the_process_is() {
        assert_eq!(choose(1, true, None), Role::Initramfs);
        assert_eq!(choose(1, false, Some("quiet")), Role::System);
        assert_eq!(choose(70, false, Some("check")), Role::Check);
        assert_eq!(choose(70, false, Some("reboot")), Role::Unknown);
        assert_eq!(choose(70, true, None), Role::Unknown);
    }
}
