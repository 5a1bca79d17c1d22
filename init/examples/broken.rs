//! init with a fault, for updates that must not stay.
//!
//! It is init in every role, but for what the word `broken=NAME` of the kernel command line names:
//!
//! - `panic`, `hang`: PID 1 of the system stage does so at once;
//! - `panic-initramfs`, `hang-initramfs`: PID 1 of the initramfs does;
//! - `netcfg`: the role netcfg aborts when it is started.

use astromesh_init::cmdline::WATCHDOG;
use astromesh_init::devices::modules::Modules;
use astromesh_init::devices::watchdog::Watchdog;
use astromesh_init::emit::Emitter;
use astromesh_init::mounts;
use std::process::ExitCode;

/// What a process of init's program is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Initramfs,
    System,
    Netcfg,
    Elsewhere,
}

fn main() -> ExitCode {
    match (fault().as_str(), place()) {
        ("panic", Place::System) | ("panic-initramfs", Place::Initramfs) => {
            panic!("broken on purpose")
        }
        ("hang", Place::System) => hang(),
        ("hang-initramfs", Place::Initramfs) => {
            let _watchdog = arm_watchdog();
            hang()
        }
        ("netcfg", Place::Netcfg) => std::process::abort(),
        _ => astromesh_init::roles::run(),
    }
}

/// In the initramfs `/proc` is not mounted yet, but the kernel puts words of its command line that
/// it does not know into the environment of its first process.
fn fault() -> String {
    let Ok(line) = std::fs::read_to_string("/proc/cmdline") else {
        return std::env::var("broken").unwrap_or_default();
    };
    line.split_whitespace()
        .find_map(|word| word.strip_prefix("broken="))
        .unwrap_or_default()
        .to_owned()
}

fn place() -> Place {
    let first = std::env::args().nth(1);
    match (std::process::id(), first.as_deref()) {
        // Only the initramfs has this folder.
        (1, _) if std::path::Path::new("/sysroot").exists() => Place::Initramfs,
        (1, _) => Place::System,
        (_, Some("netcfg")) => Place::Netcfg,
        _ => Place::Elsewhere,
    }
}

/// The first thing that init does there, before what it may hang in.
fn arm_watchdog() -> Option<Watchdog> {
    mounts::early().ok()?;
    let modules = Modules::of_running_kernel().ok()?;
    let mut emitter = Emitter::direct();
    Some(Watchdog::arm_early(&modules, WATCHDOG, &mut emitter))
}

fn hang() -> ! {
    eprintln!("broken: hanging");
    loop {
        std::thread::park();
    }
}
