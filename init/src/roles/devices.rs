//! The role `devices`: loads drivers, for what is there and for what appears.
//!
//! A child of PID 1, because probing hardware may take as long as it likes. It goes over everything
//! once at its start, so a restart misses nothing, and then waits for announcements. The machine
//! waits for its network card only: that comes first, then the power button, and for everything else this steps back
//! behind the services that are starting at the same time.

use crate::config;
use crate::devices::modules::Modules;
use crate::devices::uevent::Uevents;
use crate::devices::{self};
use rustix::event::{PollFd, PollFlags, poll};
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run() -> ExitCode {
    let Err(e) = load_for_ever();
    // Its output is shown with the name of the service before it.
    eprintln!("{e}");
    ExitCode::FAILURE
}

fn load_for_ever() -> std::io::Result<std::convert::Infallible> {
    let uevents = Uevents::open()?;
    // A kernel without modules is served, too; PID 1 has told that there are none.
    let modules = Modules::of_running_kernel().unwrap_or_else(|e| {
        println!("no driver can be loaded: {e}");
        Modules::default()
    });
    let mut failed = |name: &str, e: std::io::Error| println!("{name}: {e}");
    for modalias in devices::network_modaliases() {
        modules.load_for(&modalias, &mut failed);
    }
    // A press of the power button that comes before its driver is lost (see "Switching off" in `docs/interfaces.md`).
    // The button is an input device, whose events have a driver of their own.
    for find in [devices::power_button_modaliases, devices::input_modaliases] {
        for modalias in find() {
            modules.load_for(&modalias, &mut failed);
        }
    }
    let _ = rustix::process::nice(19);
    if let Ok(config) = config::load(Path::new(config::PATH)) {
        for (_, name) in config.kernel_modules() {
            if let Err(e) = modules.load(name) {
                failed(name, e);
            }
        }
    }
    devices::coldplug(&modules, &mut failed);
    loop {
        match poll(
            &mut [PollFd::from_borrowed_fd(uevents.fd(), PollFlags::IN)],
            None,
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        while let Some(uevent) = uevents.next() {
            if uevent.action.is_empty() {
                devices::coldplug(&modules, &mut failed);
            } else if uevent.action == "add" && !uevent.modalias.is_empty() {
                modules.load_for(&uevent.modalias, &mut failed);
            }
        }
    }
}
