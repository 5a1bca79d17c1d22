//! The role `grow`: lets `/var` grow to the end of its disk, once; see [`crate::system::grow`].
//!
//! Its end says whether another try may help, which it does not where `/var` is none that can grow.
//! Below PID 1 its events go over a channel; run alone they are lines on the standard output.

use crate::system::grow::{self, Tell, Trouble};
use crate::system::relay;
use rustix::fd::OwnedFd;
use std::ffi::OsString;
use std::process::ExitCode;
use supervisor::event::Event;
use supervisor::logger::now;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match parse(arguments) {
        Ok(Some(channel)) => end(&mut |name, fields| relay::send(&channel, name, fields)),
        Ok(None) => end(&mut |name, fields| {
            let event = Event::new(name.to_owned());
            let event = fields.iter().fold(event, |event, (key, value)| {
                event.with((*key).to_owned(), value)
            });
            println!("{}", event.line(now()));
        }),
        Err(problem) => super::usage(&problem),
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<OwnedFd>, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut events = None;
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            lexopt::Arg::Long("events") => {
                let value = parser.value().map_err(|e| e.to_string())?;
                events = Some(super::channel(&value)?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(events)
}

fn end(tell: &mut Tell<'_>) -> ExitCode {
    match grow::grow(tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Unfit(seen)) => {
            grow::warn(tell, "grow", seen, "/var keeps its size");
            ExitCode::SUCCESS
        }
        Err(Trouble::Failed(seen)) => {
            grow::warn(
                tell,
                "grow",
                seen,
                "another try, at the latest at the next boot",
            );
            ExitCode::FAILURE
        }
    }
}
