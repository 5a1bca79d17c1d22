//! Which role this process has, and the way into it.
//!
//! One program, several roles. The role is chosen by what the process is: PID 1 on the kernel's
//! rootfs is the initramfs stage, any other PID 1 the system stage, unless it is that of a PID namespace
//! and is told to be a container's; otherwise the name it is called by, or the first argument, says
//! it. What is not known does nothing but say so: a program that reboots when called by a wrong
//! name has cost others a machine.

mod check;
mod container;
mod devices;
mod end;
mod grow;
mod help;
mod logger;
mod netcfg;
mod slots;
mod update;
mod write;

use crate::manager::Verb;
use crate::{ctl, initramfs, system};
use rustix::fd::OwnedFd;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::ExitCode;
use supervisor::logger::passed;

/// The role that writes the count of starts, see [`system::budget`]. PID 1 calls it.
pub const WRITE_COUNT: &str = "write-count";

/// The role that keeps the time for the next boot, see [`system::clock::floor`]. PID 1 calls it.
pub const WRITE_CLOCK: &str = "write-clock";

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Initramfs,
    System,
    Clock,
    Container,
    Count,
    Check,
    Ctl,
    Devices,
    End(Verb),
    Grow,
    /// Tells how the roles are called.
    Help,
    Logger,
    Netcfg,
    Slots,
    Update,
    /// Tells the program's version.
    Version,
    Unknown,
}

impl Role {
    /// Whether it is one that its first argument names, and has a help of its own here.
    fn is_called(self) -> bool {
        !matches!(
            self,
            Self::Initramfs
                | Self::System
                | Self::Ctl
                | Self::End(_)
                | Self::Help
                | Self::Version
                | Self::Unknown
        )
    }
}

/// What a role is chosen by.
#[derive(Clone, Copy, Debug)]
struct Situation<'a> {
    pid: u32,
    on_rootfs: bool,
    /// Whether PID 1 here is not the machine's.
    in_namespace: bool,
    /// The last part of the name that the program was called by.
    name: &'a str,
    first: Option<&'a str>,
}

fn choose(situation: Situation<'_>) -> Role {
    let Situation {
        pid,
        on_rootfs,
        in_namespace,
        name,
        first,
    } = situation;
    match (pid, first) {
        // Words of the kernel's command line that it does not know become arguments of PID 1, so on a
        // machine they choose nothing.
        (1, Some("container")) if in_namespace => Role::Container,
        (1, _) if on_rootfs => Role::Initramfs,
        (1, _) => Role::System,
        _ if name == "initctl" => Role::Ctl,
        _ if name == "poweroff" => Role::End(Verb::Poweroff),
        _ if name == "reboot" => Role::End(Verb::Reboot),
        (_, Some("check")) => Role::Check,
        (_, Some(WRITE_CLOCK)) => Role::Clock,
        (_, Some(WRITE_COUNT)) => Role::Count,
        (_, Some("container")) => Role::Container,
        (_, Some("ctl")) => Role::Ctl,
        (_, Some("devices")) => Role::Devices,
        (_, Some("grow")) => Role::Grow,
        (_, Some("help" | "--help" | "-h")) => Role::Help,
        (_, Some("logger")) => Role::Logger,
        (_, Some("netcfg")) => Role::Netcfg,
        (_, Some("slots")) => Role::Slots,
        (_, Some("update")) => Role::Update,
        (_, Some("version" | "--version" | "-V")) => Role::Version,
        _ => Role::Unknown,
    }
}

/// Runs the role of this process.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let first = arguments.get(1).map(|a| a.to_string_lossy().into_owned());
    let rest = || arguments.iter().skip(2).cloned();
    let path = arguments.first().map(std::path::Path::new);
    let name = path.and_then(|p| p.file_name()?.to_str()).unwrap_or("");
    let situation = Situation {
        pid: std::process::id(),
        on_rootfs: on_rootfs(),
        in_namespace: in_namespace(),
        name,
        first: first.as_deref(),
    };
    let role = choose(situation);
    if let Some(name) = first.as_deref().filter(|_| role.is_called())
        && rest().any(|word| word == "--help" || word == "-h")
    {
        return help::tell(name);
    }
    match role {
        Role::Initramfs => initramfs::run(),
        Role::System => system::run(),
        Role::Container => container::run(rest()),
        Role::Clock => write::clock(rest()),
        Role::Count => write::count(rest()),
        Role::Ctl if name == "initctl" => ctl::run(arguments.iter().skip(1).cloned()),
        Role::Ctl => ctl::run(rest()),
        Role::Check => check::run(rest()),
        Role::Devices => devices::run(),
        Role::End(verb) => end::run(verb, arguments.iter().skip(1).cloned()),
        Role::Grow => grow::run(rest()),
        Role::Help => help::all(),
        Role::Logger => logger::run(rest()),
        Role::Netcfg => netcfg::run(rest()),
        Role::Slots => slots::run(rest()),
        Role::Update => update::run(rest()),
        Role::Version => help::version(),
        Role::Unknown => usage(&first.map_or_else(
            || "name a role".into(),
            |f| format!("there is no role `{f}`"),
        )),
    }
}

/// The channel for events that the parent passed under this number (`--events FD`).
fn channel(value: &OsStr) -> Result<OwnedFd, String> {
    let number = value.to_string_lossy().parse();
    let number = number.map_err(|_| "`--events` wants a descriptor".to_owned())?;
    passed(number).map_err(|e| e.to_string())
}

/// Says what was wrong with the call and how it is made; status 2.
fn usage(problem: &str) -> ExitCode {
    // Not by `eprintln!`, which panics where nobody reads.
    let _ = writeln!(std::io::stderr(), "init: {problem}\n{}", help::usage());
    ExitCode::from(2)
}

/// Whether `/` is the initramfs: a ramfs or tmpfs (statfs(2): `RAMFS_MAGIC`, `TMPFS_MAGIC`).
fn on_rootfs() -> bool {
    rustix::fs::statfs("/").is_ok_and(|fs| matches!(fs.f_type, 0x8584_58f6 | 0x0102_1994))
}

/// Whether we are in a PID namespace of our own. The machine's has a fixed number (kernel:
/// `include/linux/proc_ns.h`, `PROC_PID_INIT_INO`); without `/proc` it is the machine's.
fn in_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|link| link.to_str() != Some("pid:[4026531836]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_follows_from_what_the_process_is() {
        let role = |pid, on_rootfs, in_namespace, name, first| {
            choose(Situation {
                pid,
                on_rootfs,
                in_namespace,
                name,
                first,
            })
        };
        assert_eq!(role(1, true, false, "init", None), Role::Initramfs);
        assert_eq!(role(1, false, false, "init", Some("quiet")), Role::System);
        assert_eq!(
            role(1, true, false, "init", Some("container")),
            Role::Initramfs
        );
        assert_eq!(
            role(1, false, false, "init", Some("container")),
            Role::System
        );
        assert_eq!(
            role(1, true, true, "init", Some("container")),
            Role::Container
        );
        assert_eq!(role(70, false, false, "init", Some("check")), Role::Check);
        assert_eq!(role(70, false, false, "initctl", Some("reboot")), Role::Ctl);
        assert_eq!(
            role(70, false, false, "init", Some("reboot")),
            Role::Unknown
        );
        assert_eq!(role(70, true, false, "init", None), Role::Unknown);
        assert_eq!(role(70, false, false, "init", Some("--help")), Role::Help);
        // A machine that is started with it is started all the same.
        assert_eq!(role(1, false, false, "init", Some("--help")), Role::System);
        for name in help::names() {
            let role = role(70, false, false, "init", Some(name));
            assert!(role.is_called() || role == Role::Ctl, "{name}");
        }
        assert_eq!(
            role(70, false, false, "reboot", None),
            Role::End(Verb::Reboot)
        );
        assert_eq!(
            role(70, false, false, "poweroff", None),
            Role::End(Verb::Poweroff)
        );
        assert_eq!(role(1, false, false, "reboot", None), Role::System);
    }
}
