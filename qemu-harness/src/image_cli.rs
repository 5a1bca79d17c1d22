//! The verbs of the command line that make things: `image` and `lock`.

use std::ffi::OsString;

use anyhow::{Result, bail};
use lexopt::prelude::Value;

use crate::lock::{self, Resolve};
use crate::paths::Paths;
use crate::tools::Tools;

/// `cargo vm tools PROGRAM [ARGUMENT...]`: runs a program of the tools root.
///
/// # Errors
/// When the tools root cannot be made or the program cannot be run.
pub fn tools(arguments: Vec<OsString>) -> Result<()> {
    let mut arguments = arguments.into_iter();
    let Some(program) = arguments.next() else {
        bail!("usage: cargo vm tools PROGRAM [ARGUMENT...]")
    };
    let tools = Tools::prepare(&Paths::discover()?)?;
    let status = tools
        .command(&program.to_string_lossy())
        .args(arguments)
        .status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// `cargo vm lock [tools|packages|control|wheels]...`: renews lock files; all when none is named.
///
/// # Errors
/// When an archive cannot be reached or a name is unknown.
pub fn lock(arguments: Vec<OsString>) -> Result<()> {
    let mut wanted = Vec::new();
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => wanted.push(name.to_string_lossy().into_owned()),
            other => return Err(other.unexpected().into()),
        }
    }
    let known = ["tools", "packages", "control", "wheels"];
    if let Some(name) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "there is no lock called `{name}`; known are {}",
            known.join(", ")
        );
    }
    let paths = Paths::discover()?;
    let image = paths.image_definition();
    for name in known
        .into_iter()
        .filter(|name| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        if name == "wheels" {
            continue;
        }
        let how = if name == "tools" {
            Resolve::Closure
        } else {
            Resolve::Named
        };
        let list = image.join(format!("{name}.list"));
        if !list.exists() {
            continue;
        }
        let changes = lock::renew(&paths, &list, &image.join(format!("{name}.lock")), how)?;
        print!("{name}.lock\n{changes}");
    }
    Ok(())
}
