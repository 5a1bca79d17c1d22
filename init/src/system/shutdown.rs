//! The end of a running machine, after its services are stopped or given up.
//!
//! Whatever still runs is ended (see [`leftovers`]), what is written goes to the disk, `/var` is unmounted, and the
//! kernel is told to reboot or switch off. The verified root needs nothing: it was never written,
//! and a mapping cannot be taken away from under `/`. The watchdog is fed at each step and goes on through
//! the reset, so a step that hangs, at a dead disk, ends as one too.

use crate::devices::watchdog::Watchdog;
use crate::emit::Emitter;
use crate::failure;
use crate::leftovers;
use crate::manager::Verb;
use rustix::mount::{UnmountFlags, unmount};
use std::io;
use supervisor::event::{Event, EventSink};

/// Ends the machine. Does not return.
pub fn finish(emitter: &mut Emitter, verb: Verb, watchdog: &mut Watchdog) -> ! {
    emitter.use_console();
    leftovers::end(emitter, || watchdog.step());
    watchdog.step();
    rustix::fs::sync();
    watchdog.step();
    for target in ["/var", "/tmp"] {
        if let Err(e) = unmount(target, UnmountFlags::NOFOLLOW) {
            let seen = format!("unmount {target}: {}", io::Error::from(e));
            emitter.emit(Event::new("shutdown.warning").with("seen", seen));
        }
    }
    watchdog.step();
    rustix::fs::sync();
    watchdog.step();
    failure::reset(emitter, verb.command(), verb.name())
}
