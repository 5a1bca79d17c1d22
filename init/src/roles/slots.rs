//! The role `slots`: the slot daemon; see [`crate::keeper`].

use crate::keeper::{self, Options};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match parse(arguments) {
        Ok(options) => {
            let Err(e) = keeper::run(options);
            eprintln!("{e}");
            ExitCode::FAILURE
        }
        Err(problem) => super::usage(&problem),
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut runtime_dir, mut events, mut orders) = (None, None, None);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            lexopt::Arg::Long("runtime-dir") => {
                runtime_dir = Some(PathBuf::from(parser.value().map_err(|e| e.to_string())?));
            }
            lexopt::Arg::Long("events") => {
                let value = parser.value().map_err(|e| e.to_string())?;
                events = Some(super::channel(&value)?);
            }
            lexopt::Arg::Long("orders") => {
                let value = parser.value().map_err(|e| e.to_string())?;
                orders = Some(super::channel(&value)?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Options {
        runtime_dir: runtime_dir.ok_or("slots needs --runtime-dir DIR")?,
        events: events.ok_or("slots needs --events FD")?,
        orders: orders.ok_or("slots needs --orders FD")?,
    })
}
