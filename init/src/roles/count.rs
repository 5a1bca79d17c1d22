//! `init write-count COUNT`: writes the count of starts for PID 1, which must not wait for a disk.

use crate::system::budget;
use std::ffi::OsString;
use std::process::ExitCode;
use supervisor::driver::helper::OK;

/// Runs the role: the answer is one line on the standard output (see [`supervisor::driver::helper`]).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let count = arguments
        .next()
        .and_then(|word| word.to_str()?.parse().ok());
    let (Some(count), None) = (count, arguments.next()) else {
        return super::usage("`write-count` wants one number");
    };
    match budget::store(count) {
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
