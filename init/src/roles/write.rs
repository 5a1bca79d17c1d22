//! `init write-count COUNT` and `init write-clock SECONDS`: write a number for PID 1, which must not wait for a disk.

use crate::state::StateError;
use crate::system::{budget, clock};
use std::ffi::OsString;
use std::process::ExitCode;
use std::str::FromStr;
use supervisor::driver::helper::OK;

/// Writes the count of starts.
pub fn count(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(super::WRITE_COUNT, arguments, budget::store)
}

/// Keeps the time for the next boot.
pub fn clock(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(super::WRITE_CLOCK, arguments, clock::floor::store)
}

/// The answer is one line on the standard output (see [`supervisor::driver::helper`]).
fn run<N: FromStr>(
    role: &str,
    arguments: impl IntoIterator<Item = OsString>,
    store: impl Fn(N) -> Result<(), StateError>,
) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let number = arguments
        .next()
        .and_then(|word| word.to_str()?.parse().ok());
    let (Some(number), None) = (number, arguments.next()) else {
        return super::usage(&format!("`{role}` wants one number"));
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
