//! How each role is called.

use std::process::ExitCode;

/// A role that can be called: its name, its arguments, and what it is for.
type Manual = (&'static str, &'static str, &'static str);

const ROLES: [Manual; 11] = [
    (
        "check",
        "[--root DIR] FILE",
        "Judges the configuration FILE and its drop-ins, and with --root what it needs of the image below DIR.\n\
         Each error and each warning is one line, FILE:LINE:COL: message. Status 1 if there is an error.",
    ),
    (
        "container",
        "--config FILE [--runtime-dir DIR] [--cgroup DIR]",
        "PID 1 of a container: starts the services of FILE and keeps them running, without disks, devices and network.\n\
         It ends with status 0 after `initctl poweroff`, with 133 after `initctl reboot`.",
    ),
    (
        "ctl",
        "[--runtime-dir DIR] [--json] VERB ...",
        "The same as initctl: talks to a running init.",
    ),
    (
        "netcfg",
        "--config FILE --state-dir DIR --runtime-dir DIR [--events FD]",
        "Configures the links of the network namespace that it is started in, as [network] of FILE says.\n\
         Leases are kept in the state directory, resolv.conf and the control socket are in the runtime directory.",
    ),
    (
        "slots",
        "--runtime-dir DIR --events FD",
        "Keeps the versions of the system in both slots. Started by PID 1.",
    ),
    (
        "devices",
        "",
        "Loads drivers for the devices that are there and for those that appear. Started by PID 1.",
    ),
    (
        "grow",
        "[--events FD]",
        "Lets /var grow to the end of its disk. Started by PID 1.",
    ),
    (
        "update",
        "[--events FD] [--ca FILE] [--keys DIR] SOURCE",
        "Installs the version that the manifest SOURCE tells of into the slot that is not running. Started by `init slots`.",
    ),
    (
        "write-clock",
        "SECONDS",
        "Keeps the time, in seconds since 1970, on /var for the next boot. Started by PID 1, which must not wait for a disk.",
    ),
    (
        "write-count",
        "STARTS RECENT",
        "Writes to /var how many starts in a row did not last, and how many recent ones ended unasked. Started by PID 1, which must not wait for a disk.",
    ),
    (
        "logger",
        "--events FD --control FD --dir DIR [--console-fd FD] [--stream FD=NAME]... [--limit NAME=LINES/MS]...",
        "Takes the output of the services to the console and into files. Started by PID 1.",
    ),
];

/// All roles, a line each.
pub(super) fn usage() -> String {
    let mut text = String::from("usage:\n");
    for (name, arguments, _) in ROLES {
        text.push_str(format!("  init {name} {arguments}").trim_end());
        text.push('\n');
    }
    text.push_str(
        "init ROLE --help tells more of one, init --version the version.\n\
         As PID 1 it takes no arguments: it is the machine's init.",
    );
    text
}

pub(super) fn all() -> ExitCode {
    println!("{}", usage());
    ExitCode::SUCCESS
}

/// One role.
pub(super) fn tell(role: &str) -> ExitCode {
    match ROLES.iter().find(|(name, ..)| *name == role) {
        Some((name, arguments, what)) => {
            println!(
                "{}\n{what}",
                format!("usage: init {name} {arguments}").trim_end()
            );
            ExitCode::SUCCESS
        }
        None => super::usage(&format!("there is no role `{role}`")),
    }
}

pub(super) fn version() -> ExitCode {
    println!("init {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ROLES.iter().map(|(name, ..)| *name)
}
