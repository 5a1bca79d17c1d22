//! `init check [--root DIR] FILE`: judges a configuration as the boot would.
//!
//! With `--root` it also looks whether the programs, users and groups that the services name are in
//! that root. Everything that is wrong is one line, `FILE:LINE:COL: message`.

use crate::config::{self, Config};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use supervisor::driver::Users;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (root, file) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(problem) => return super::usage(&problem),
    };
    let problems = match config::load(&file) {
        Err(e) => vec![e.to_string()],
        Ok(config) => {
            let missing = root.map(|root| missing(&config, &root)).unwrap_or_default();
            missing
                .into_iter()
                .map(|m| format!("{}:1:1: {m}", file.display()))
                .collect()
        }
    };
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<(Option<PathBuf>, PathBuf), String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut root, mut file) = (None, None);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            lexopt::Arg::Long("root") => {
                root = Some(parser.value().map_err(|e| e.to_string())?.into());
            }
            lexopt::Arg::Value(value) if file.is_none() => file = Some(value.into()),
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok((root, file.ok_or("check needs a FILE")?))
}

/// What the services name and the root does not have.
fn missing(config: &Config, root: &Path) -> Vec<String> {
    let users = match Users::read(root) {
        Ok(users) => users,
        Err(e) => return vec![e.to_string()],
    };
    let mut problems = Vec::new();
    for spec in &config.services {
        if let Err(e) = users.identity(spec) {
            problems.push(format!("service.{}: {e}", spec.name));
        }
        let program = spec.exec.first().map_or("", String::as_str);
        let path = root.join(program.trim_start_matches('/'));
        // Not followed: a link of the image may point to where only the running root has it.
        if path.symlink_metadata().is_err() {
            problems.push(format!(
                "service.{}.exec: {} is not there",
                spec.name,
                path.display()
            ));
        }
    }
    for entry in &config.directories {
        let user = entry.user.as_deref().map(|u| users.user(u)).transpose();
        let group = entry.group.as_deref().map(|g| users.group(g)).transpose();
        for e in [user.err(), group.err()].into_iter().flatten() {
            problems.push(format!("directory {}: {e}", entry.path));
        }
    }
    problems
}
