//! The verbs of the command line that make things: `image` and `lock`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::ValueExt;
use lexopt::prelude::{Long, Value};

use crate::image::{self, ImageOptions, Kind};
use crate::lock::{self, Resolve};
use crate::paths::Paths;
use crate::reproduce;
use crate::tools::Tools;
use crate::wheels;

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

/// `cargo vm image [--out DIR] [--version VERSION] [--init FILE] [--config FILE]
/// [--append ARGUMENT]... [--unchecked] [--control | --floor] [--verify-reproducible]`: builds the image.
///
/// # Errors
/// When an option is unknown or the image cannot be built.
pub fn image(arguments: Vec<OsString>) -> Result<()> {
    let mut options = ImageOptions::default();
    let mut verify = false;
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("out") => options.out = Some(absolute(parser.value()?)?),
            Long("init") => options.init = Some(absolute(parser.value()?)?),
            Long("config") => options.config = Some(absolute(parser.value()?)?),
            Long("version") => options.version = parser.value()?.string()?,
            Long("append") => options.command_line.push(parser.value()?.string()?),
            Long("unchecked") => options.unchecked = true,
            Long("control") => options.kind = Kind::Control,
            Long("floor") => options.kind = Kind::Floor,
            Long("verify-reproducible") => verify = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let paths = Paths::discover()?;
    let tools = Tools::prepare(&paths)?;
    let image = image::build(&paths, &tools, &options)?;
    for file in image.files() {
        println!("{}", file.display());
    }
    println!("roothash {}", image.roothash);
    if verify {
        let count = reproduce::verify(&paths, &tools, &options)?;
        println!("built twice: {count} files are the same to the byte");
    }
    Ok(())
}

fn absolute(value: OsString) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    std::path::absolute(&path).with_context(|| format!("`{}` is no path", path.display()))
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
            let changes = wheels::renew(&paths, &Tools::prepare(&paths)?)?;
            print!("requirements.lock\n{changes}");
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
