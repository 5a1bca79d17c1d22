//! The second stage: the running machine.
//!
//! PID 1 on the verified root. It prepares what services need, starts them, and from then on is
//! one loop (see [`machine`]) that never blocks, until it is asked to stop or a service's law says
//! so. In order: the kernel's file systems; the clock; the configuration, whole and checked; `/var`; names and
//! directories; the services.
//!
//! A failure before the loop ends the boot by policy, as in the initramfs. In the loop there is
//! nothing left that could fail the machine.

pub mod budget;
pub mod built_in;
pub mod clock;
mod directories;
mod ext4;
pub mod grow;
pub mod hostname;
mod life;
mod machine;
mod power;
pub mod prepare;
pub mod relay;
mod shutdown;
mod sustained;
pub(crate) mod trial;
mod var;
pub(crate) mod versions;

use crate::cmdline::Cmdline;
use crate::config;
use crate::devices::watchdog::Watchdog;
use crate::emit::Emitter;
use crate::failure::{self, Failure};
use crate::manager;
use crate::mounts;
use crate::slots::uki;
use std::path::Path;
use supervisor::driver::Users;
use supervisor::event::{Event, EventSink};

/// os-release(5): what the root is.
const OS_RELEASE: &str = "/usr/lib/os-release";

/// The event of the stage's start: the version of init, and of the image as its os-release has it.
fn boot_start(os_release: &str) -> Event {
    let event = Event::new("boot.start")
        .with("stage", "system")
        .with("version", env!("CARGO_PKG_VERSION"));
    let fields = [("image", "IMAGE_ID"), ("image_version", "IMAGE_VERSION")];
    fields.into_iter().fold(event, |event, (field, key)| {
        match uki::os_release(os_release, key) {
            Some(value) => event.with(field, value),
            None => event,
        }
    })
}

/// Runs the stage, which never ends but with the machine.
pub fn run() -> ! {
    let mut emitter = Emitter::direct();
    emitter.emit(boot_start(
        &std::fs::read_to_string(OS_RELEASE).unwrap_or_default(),
    ));
    tell_panics();
    let mut cmdline = Cmdline::parse("");
    let mut watchdog = Watchdog::default();
    let failure = match start(&mut emitter, &mut cmdline, &mut watchdog) {
        Ok(machine) => machine.run(emitter),
        Err(failure) => failure,
    };
    failure::end(&mut emitter, &failure, cmdline.on_failure, &mut watchdog)
}

fn start(
    emitter: &mut Emitter,
    cmdline: &mut Cmdline,
    watchdog: &mut Watchdog,
) -> Result<machine::Machine, Failure> {
    let signals = manager::catch_signals().map_err(|e| Failure::new("signals", "a signalfd", e))?;
    mounts::early()
        .and_then(|()| mounts::late())
        .map_err(|e| Failure::new("mounts", "the kernel's file systems", e))?;
    *watchdog = Watchdog::take_over();
    // Before `/var` is mounted and anything is written there.
    let mut clock = clock::Clock::start(emitter);
    // The initramfs stage has judged it; here it only says what follows a failure.
    *cmdline = Cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let config = config::load(Path::new(config::PATH))
        .map_err(|e| Failure::new("config", "a valid configuration", e))?;
    let users =
        Users::read(Path::new("/")).map_err(|e| Failure::new("config", "users and groups", e))?;
    watchdog.step();
    let var = var::mount_var();
    watchdog.step();
    let durable = var.name() == "boot.var";
    emitter.emit(var);
    prepare::prepare(&config, &users, emitter);
    let count = budget::load(durable);
    clock.begin_at(clock::floor::load(durable), emitter);
    let machine = machine::Machine::new(&config, users, signals, count, clock, emitter)?;
    Ok(machine.with_watchdog(std::mem::take(watchdog), cmdline.watchdog))
}

/// A panic is told before it ends us; the kernel's `panic=` turns that end into a reboot.
fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(|l| format!("{}:{}", l.file(), l.line()))
            .unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("panic").to_owned();
        Emitter::direct().emit(
            Event::new("init.crash")
                .with("what", what)
                .with("place", place),
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervisor::Time;

    #[test]
    fn a_boot_says_which_version_of_the_image_it_is() {
        let line = |text: &str| boot_start(text).line(Time::ZERO);
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            line("ID=x\nIMAGE_ID=astromesh-os\nIMAGE_VERSION=\"2\"\n"),
            format!(
                "init: 0.000 boot.start stage=system version={version} image=astromesh-os image_version=2"
            )
        );
        assert_eq!(
            line(""),
            format!("init: 0.000 boot.start stage=system version={version}")
        );
    }
}
