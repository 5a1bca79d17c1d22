//! `init check [--root DIR] FILE`: judges a configuration as the boot would.
//!
//! With `--root` it also looks whether the programs, users and groups that the services name are in
//! that root. Everything that is wrong is one line, `FILE:LINE:COL: message`.

use crate::config::{self, Config, ConfigError, Sources};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use supervisor::core::ProbeKind;
use supervisor::driver::Users;
use supervisor::spec::{ProbeTarget, Spec};

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (root, file) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(problem) => return super::usage(&problem),
    };
    let checked = config::load_with_sources(&file);
    let problems = match checked {
        Err(errors) => errors.0,
        Ok((config, sources)) => match root {
            Some(root) => missing(&config, &sources, &root),
            None => Vec::new(),
        },
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

/// What the configuration names and the root does not have.
fn missing(config: &Config, sources: &Sources, root: &Path) -> Vec<ConfigError> {
    let users = match Users::read(root) {
        Ok(users) => users,
        Err(e) => return vec![sources.locate(&[], e.to_string())],
    };
    let mut problems = Vec::new();
    for spec in &config.services {
        let name = spec.name.as_str();
        let mut add = |key: &str, message: String| {
            let path: Vec<&str> = ["service", name]
                .into_iter()
                .chain(key.split('.'))
                .collect();
            problems.push(sources.locate(&path, format!("service.{name}.{key}: {message}")));
        };
        if let Some(Err(e)) = spec.user.as_deref().map(|u| users.user(u)) {
            add("user", e);
        }
        if let Some(Err(e)) = spec.group.as_deref().map(|g| users.group(g)) {
            add("group", e);
        }
        for e in spec.groups.iter().filter_map(|g| users.group(g).err()) {
            add("groups", e);
        }
        for (key, program) in programs(spec) {
            let path = root.join(program.trim_start_matches('/'));
            // Not followed: a link of the image may point to where only the running root has it.
            let what = match path.symlink_metadata() {
                Err(_) => "is not there",
                Ok(file) if file.is_dir() => "is a folder",
                Ok(file) if file.is_file() && file.permissions().mode() & 0o111 == 0 => {
                    "is not executable"
                }
                Ok(_) => continue,
            };
            add(&key, format!("{} {what}", path.display()));
        }
    }
    for entry in &config.directories {
        let user = entry.user.as_deref().map(|u| users.user(u)).transpose();
        let group = entry.group.as_deref().map(|g| users.group(g)).transpose();
        for e in [user.err(), group.err()].into_iter().flatten() {
            let message = format!("directory {}: {e}", entry.path);
            problems.push(sources.locate(&["directory"], message));
        }
    }
    problems
}

/// Every program that a service starts, and the key that names it.
fn programs(spec: &Spec) -> impl Iterator<Item = (String, &str)> {
    let probes = ProbeKind::ALL
        .iter()
        .filter_map(|kind| match &spec.probe(*kind)?.target {
            ProbeTarget::Exec(command) => Some((format!("probe.{}", kind.name()), command)),
            ProbeTarget::Http { .. } | ProbeTarget::Tcp(_) => None,
        });
    let checks = spec.pre_start.iter().map(|c| ("pre-start".to_owned(), c));
    [("exec".to_owned(), &spec.exec)]
        .into_iter()
        .chain(checks)
        .chain(probes)
        .filter_map(|(key, command)| Some((key, command.first()?.as_str())))
}
