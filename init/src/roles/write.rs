//! `init write-count STARTS RECENT` and `init write-clock SECONDS`: write numbers for PID 1, which must not wait for a
//! disk.

use crate::state::StateError;
use crate::sys;
use crate::system::{budget, clock};
use std::ffi::OsString;
use std::process::ExitCode;
use std::str::FromStr;
use supervisor::driver::helper::OK;

/// Writes the count of starts. Before what services want of the disk, as they may want more than it can do, and a
/// reboot may depend on the count; where there are no priorities, after that.
pub fn count(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let _ = sys::io_first();
    let wanted = "the numbers of starts in a row and of recent ones";
    run(super::WRITE_COUNT, arguments, wanted, budget::store)
}

/// Keeps the time for the next boot.
pub fn clock(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(
        super::WRITE_CLOCK,
        arguments,
        "one number",
        clock::floor::store,
    )
}

/// The answer is one line on the standard output (see [`supervisor::driver::helper`]).
fn run<N: FromStr>(
    role: &str,
    arguments: impl IntoIterator<Item = OsString>,
    wanted: &str,
    store: impl Fn(N) -> Result<(), StateError>,
) -> ExitCode {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let text = words.join(std::ffi::OsStr::new(" "));
    let Some(number) = text.to_str().and_then(|text| text.parse().ok()) else {
        return super::usage(&format!("`{role}` wants {wanted}"));
    };
    match store(number) {
        Ok(()) => {
            println!("{OK}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            println!("{e}");
            ExitCode::FAILURE
        }
    }
}
