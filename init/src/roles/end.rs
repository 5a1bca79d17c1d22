//! `/sbin/poweroff` and `/sbin/reboot`: an orderly end of the machine, as the kernel itself asks for it.
//!
//! The kernel executes these names when the host of a virtual machine wants it switched off (Hyper-V, Xen) or
//! when it is too hot (kernel: `kernel/reboot.c`, `poweroff_cmd` and `reboot_cmd`); if they are not there it
//! switches off at once, with every service running.
//!
//! PID 1 is asked by a signal, which it takes from its first moment on, also before there is a control
//! socket. Only our own PID 1 is asked: to another init the same signal may mean something else.

use super::usage;
use crate::manager::Verb;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

/// Runs the role. The machine is on its way to its end when this returns 0.
pub fn run(verb: Verb, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let name = verb.name();
    if let Some(argument) = arguments.into_iter().next() {
        let argument = argument.to_string_lossy();
        return usage(&format!("`{name}` takes no arguments, not `{argument}`"));
    }
    match ask(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn ask(verb: Verb) -> Result<(), String> {
    let ours = same_program("/proc/1/exe", "/proc/self/exe");
    match ours {
        Ok(true) => {}
        Ok(false) => return Err("PID 1 runs another program than this one".into()),
        Err(e) => {
            return Err(format!(
                "cannot see what PID 1 runs, which only root can: {e}"
            ));
        }
    }
    kill(Pid::from_raw(1), verb.signal()).map_err(|e| format!("PID 1: {e}"))
}

fn same_program(one: &str, other: &str) -> io::Result<bool> {
    let id = |path: &str| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    Ok(id(one)? == id(other)?)
}
