//! init with a fault, for updates that must not stay and for roles that somebody has taken over.
//!
//! It is init in every role, but for what the word `broken=NAME` of the kernel command line names; in a
//! container, which has no command line of its own, the name of the program's file is that word:
//!
//! - `panic`, `hang`: PID 1 of the system stage does so at once;
//! - `panic-initramfs`, `hang-initramfs`: PID 1 of the initramfs does;
//! - `netcfg`: the role netcfg aborts when it is started;
//!
//! or for what one instance of a role does; of several names with commas between, each is the fault of one instance, and
//! those after them are well:
//!
//! - `netcfg-flood`, `logger-flood`: it sends PID 1 well-formed messages without end;
//! - `netcfg-garbage`, `logger-garbage`: messages that are none;
//! - `logger-panic`: it panics;
//! - `netcfg-stop`: it stops (SIGSTOP) as soon as it has told an event.

use astromesh_init::devices::modules::Modules;
use astromesh_init::devices::watchdog::Watchdog;
use astromesh_init::emit::Emitter;
use astromesh_init::mounts;
use rustix::fd::OwnedFd;
use rustix::net::SendFlags;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use supervisor::logger::passed;
use supervisor::logger::protocol::Report;

/// What a process of init's program is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Initramfs,
    System,
    Netcfg,
    Logger,
    Elsewhere,
}

fn main() -> ExitCode {
    let faults = faults();
    match (faults.as_str(), place()) {
        ("panic", Place::System) | ("panic-initramfs", Place::Initramfs) => {
            panic!("broken on purpose")
        }
        ("hang", Place::System) => hang(),
        ("hang-initramfs", Place::Initramfs) => {
            let _watchdog = arm_watchdog();
            hang()
        }
        ("netcfg", Place::Netcfg) => std::process::abort(),
        (_, Place::Netcfg) => netcfg(of_instance(&faults, "--runtime-dir")),
        (_, Place::Logger) => logger(of_instance(&faults, "--dir")),
        _ => astromesh_init::roles::run(),
    }
}

fn netcfg(fault: &str) -> ExitCode {
    match fault {
        "netcfg-flood" => flood("--events", |number| {
            format!("net.warning\0reason\0flood {number}").into_bytes()
        }),
        "netcfg-garbage" => flood("--events", |_| vec![0xff; 300]),
        "netcfg-stop" => stop_after_an_event(),
        _ => astromesh_init::roles::run(),
    }
}

fn logger(fault: &str) -> ExitCode {
    match fault {
        "logger-flood" => flood("--control", |number| {
            let report = Report::Lost {
                service: format!("stranger-{number}"),
                console: number,
                rate: 0,
                file: u64::MAX,
            };
            report.encode()
        }),
        "logger-panic" => panic!("broken on purpose"),
        "logger-garbage" => flood("--control", |_| Vec::new()),
        _ => astromesh_init::roles::run(),
    }
}

/// In the initramfs `/proc` is not mounted yet, but the kernel puts words of its command line that
/// it does not know into the environment of its first process.
fn faults() -> String {
    let name = std::env::current_exe().unwrap_or_default();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    if let Some(fault) = name.strip_prefix("broken=") {
        return fault.to_owned();
    }
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
        (1, _) if Path::new("/sysroot").exists() => Place::Initramfs,
        (1, _) => Place::System,
        (_, Some("netcfg")) => Place::Netcfg,
        (_, Some("logger")) => Place::Logger,
        _ => Place::Elsewhere,
    }
}

/// As `astromesh.watchdog=` has it in the images that hang.
const WATCHDOG: Duration = Duration::from_secs(10);

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

/// The value of an option of this process.
fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

/// The fault of this instance of a role: the first that no instance had before. Each leaves a mark in the folder that this option
/// names.
fn of_instance<'a>(faults: &'a str, folder: &str) -> &'a str {
    let Some(folder) = option(folder) else {
        return "";
    };
    let is_new = |fault: &&str| std::fs::File::create_new(Path::new(&folder).join(fault)).is_ok();
    faults
        .split(',')
        .filter(|fault| !fault.is_empty())
        .find(is_new)
        .unwrap_or_default()
}

/// Says that the role runs, and then sends messages on the channel of this option as fast as they are taken.
fn flood(channel: &str, message: impl Fn(u64) -> Vec<u8>) -> ! {
    let channel = channel_of(channel);
    tell_ready();
    for number in 0.. {
        let message = message(number);
        while rustix::net::send(&channel, &message, SendFlags::NOSIGNAL).is_err() {
            std::thread::yield_now();
        }
    }
    unreachable!("there are more numbers than time")
}

fn channel_of(option_name: &str) -> OwnedFd {
    let number = option(option_name).and_then(|number| number.parse().ok());
    passed(number.expect("the role is given this channel")).expect("it is open")
}

fn tell_ready() {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else {
        return;
    };
    let socket = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    let _ = socket.send_to(b"READY=1", path);
}

fn stop_after_an_event() -> ! {
    let channel = channel_of("--events");
    tell_ready();
    let told = rustix::net::send(
        &channel,
        b"net.warning\0reason\0stopping",
        SendFlags::NOSIGNAL,
    );
    told.expect("the channel takes an event");
    loop {
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::STOP);
    }
}
