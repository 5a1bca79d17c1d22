//! The role `container`: see [`crate::container`].

use crate::container::{self, Options};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(problem) => return super::usage(&problem),
    };
    if std::process::id() != 1 {
        return super::usage(
            "container is PID 1 of a PID namespace; as in `unshare --fork --pid --mount-proc init container ...`",
        );
    }
    match container::run(&options) {
        Ok(verb) => ExitCode::from(verb.exit_status()),
        Err(problem) => {
            eprintln!("init: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut config, mut cgroup) = (None, None);
    let mut runtime_dir = PathBuf::from("/run/init");
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        let option = match argument {
            lexopt::Arg::Long(option) => option.to_owned(),
            other => return Err(other.unexpected().to_string()),
        };
        let value = PathBuf::from(parser.value().map_err(|e| e.to_string())?);
        match option.as_str() {
            "config" => config = Some(value),
            "runtime-dir" => runtime_dir = value,
            "cgroup" => cgroup = Some(value),
            other => return Err(format!("`--{other}` is no option of container")),
        }
    }
    Ok(Options {
        config: config.ok_or("container needs --config FILE")?,
        runtime_dir,
        cgroup,
    })
}
