//! The role `logger`: see [`supervisor::logger`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use supervisor::logger::{self, Options};

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(problem) => return super::usage(&problem),
    };
    match logger::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("logger: {e}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut events, mut streams, mut console) = (None, Vec::new(), PathBuf::from("/dev/console"));
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        let option = match argument {
            lexopt::Arg::Long(option) => option.to_owned(),
            other => return Err(other.unexpected().to_string()),
        };
        let value = parser
            .value()
            .map_err(|e| e.to_string())?
            .to_string_lossy()
            .into_owned();
        let number = |text: &str| {
            text.parse::<i32>()
                .map_err(|_| format!("`{text}` is no descriptor"))
        };
        match option.as_str() {
            "events" => events = Some(logger::passed(number(&value)?).map_err(|e| e.to_string())?),
            "console" => console = value.into(),
            "stream" => {
                let (fd, name) = value
                    .split_once('=')
                    .ok_or_else(|| format!("--stream {value}: FD=NAME is wanted"))?;
                streams.push((
                    name.to_owned(),
                    logger::passed(number(fd)?).map_err(|e| e.to_string())?,
                ));
            }
            other => return Err(format!("`--{other}` is no option of logger")),
        }
    }
    Ok(Options {
        events: events.ok_or("logger needs --events FD")?,
        streams,
        console,
    })
}
