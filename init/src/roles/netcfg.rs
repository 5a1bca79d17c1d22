//! The role `netcfg`: the network, in a process of its own; see the crate of that name.
//!
//! Below PID 1 its events go over a channel, one to a message; run alone they are lines on the
//! standard output.

use crate::config;
use crate::system::relay;
use rustix::fd::OwnedFd;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use supervisor::Time;
use supervisor::event::Event;
use supervisor::logger::now;
use supervisor::notifier::Notifier;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (config, options, events) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(problem) => return super::usage(&problem),
    };
    let config = match config::load(&config) {
        Ok(config) => config.network,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    let options = netcfg::Options { config, ..options };
    let ended = match events {
        Some(channel) => match Notifier::from_environment() {
            Ok(notifier) => netcfg::run(options, &mut Channel { channel, notifier }),
            Err(e) => {
                eprintln!("{e}");
                return ExitCode::FAILURE;
            }
        },
        None => netcfg::run(options, &mut Lines),
    };
    let Err(e) = ended;
    eprintln!("{e}");
    ExitCode::FAILURE
}

type Parsed = (PathBuf, netcfg::Options, Option<OwnedFd>);

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut config, mut state_dir, mut runtime_dir, mut events) = (None, None, None, None);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        let option = match argument {
            lexopt::Arg::Long(option) => option.to_owned(),
            other => return Err(other.unexpected().to_string()),
        };
        let value = parser.value().map_err(|e| e.to_string())?;
        match option.as_str() {
            "config" => config = Some(PathBuf::from(value)),
            "state-dir" => state_dir = Some(PathBuf::from(value)),
            "runtime-dir" => runtime_dir = Some(PathBuf::from(value)),
            "events" => {
                events = Some(super::channel(&value)?);
            }
            other => return Err(format!("`--{other}` is no option of netcfg")),
        }
    }
    let options = netcfg::Options {
        config: netcfg::Config::default(),
        state_dir: state_dir.ok_or("netcfg needs --state-dir DIR")?,
        runtime_dir: runtime_dir.ok_or("netcfg needs --runtime-dir DIR")?,
    };
    Ok((config.ok_or("netcfg needs --config FILE")?, options, events))
}

/// To PID 1.
struct Channel {
    channel: OwnedFd,
    /// Connected before the sandbox, in which nothing can be.
    notifier: Notifier,
}

impl netcfg::Outlet for Channel {
    fn event(&mut self, name: &str, fields: &[(&str, String)]) {
        relay::send(&self.channel, name, fields);
    }

    fn routine(&mut self, name: &str, fields: &[(&str, String)]) {
        relay::send_routine(&self.channel, name, fields);
    }

    fn alive(&mut self, now: Time) -> Option<Time> {
        self.notifier.turn(now)
    }
}

/// To whoever runs it alone.
struct Lines;

impl netcfg::Outlet for Lines {
    fn event(&mut self, name: &str, fields: &[(&str, String)]) {
        let event = fields
            .iter()
            .fold(Event::new(name.to_owned()), |event, (key, value)| {
                event.with((*key).to_owned(), value)
            });
        let line = format!("{}\n", event.line(now()));
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }
}
