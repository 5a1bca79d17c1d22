//! `init check [--root DIR] FILE`: judges a configuration, more strictly than the boot does.
//!
//! What [`config::read`] refuses, the boot refuses too. Beyond that [`combined`] looks for what is right in
//! each part and wrong together, and with `--root` [`image`] for what the configuration and init itself need
//! of that root: an image that passes must not fail later for a reason that could be seen here. Everything
//! that is found is one line, `FILE:LINE:COL: message`; a warning says so, and does not change the status.

mod combined;
mod image;
mod program;

use crate::config::{self, ConfigError, Sources};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (root, file) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(problem) => return super::usage(&problem),
    };
    let (config, sources, errors) = config::read(&file);
    let mut findings = Findings {
        sources: &sources,
        errors,
        warnings: Vec::new(),
    };
    if let Some(config) = config {
        let users = root
            .as_deref()
            .and_then(|root| image::check(&config, root, &mut findings));
        combined::check(&config, users.as_ref(), &mut findings);
    }
    let Findings {
        errors, warnings, ..
    } = findings;
    let status = match errors.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    let mut lines = errors;
    lines.extend(warnings.into_iter().map(|warning| ConfigError {
        message: format!("warning: {}", warning.message),
        ..warning
    }));
    lines.sort();
    lines.dedup();
    for line in lines {
        println!("{line}");
    }
    status
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

/// What was found.
struct Findings<'a> {
    sources: &'a Sources,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Findings<'_> {
    /// An error about what is said under these keys.
    fn error(&mut self, path: &[&str], message: String) {
        if !self.sources.is_incomplete(path) {
            self.errors.push(self.sources.locate(path, message));
        }
    }

    /// The same about a key of a service.
    fn service(&mut self, name: &str, key: &str, message: &str) {
        self.error(
            &of_service(name, key),
            format!("service.{name}.{key}: {message}"),
        );
    }

    /// The same about a key of an entry of `[[directory]]`.
    fn directory(&mut self, number: usize, key: &str, message: String) {
        let error = self.sources.locate_added("directory", number, key, message);
        self.errors.push(error);
    }

    fn warning(&mut self, path: &[&str], message: String) {
        if !self.sources.is_incomplete(path) {
            self.warnings.push(self.sources.locate(path, message));
        }
    }
}

fn of_service<'a>(name: &'a str, key: &'a str) -> Vec<&'a str> {
    ["service", name]
        .into_iter()
        .chain(key.split('.'))
        .collect()
}
