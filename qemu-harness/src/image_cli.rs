//! The verbs of the command line that make things: `image`, `bundle` and `lock`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::ValueExt;
use lexopt::prelude::{Long, Value};

use crate::image::{self, ImageOptions, Kind, Runtime};
use crate::lock::{self, Resolve};
use crate::paths::Paths;
use crate::reproduce;
use crate::signing::SigningKey;
use crate::tools::Tools;
use crate::update_bundle::{Bundle, MANIFEST, SIGNATURE};
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
    let program = program.to_string_lossy();
    let known = tools.programs();
    // A path is of the host, whose folders are all there.
    if !program.contains('/') && !known.contains(program.as_ref()) {
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        bail!(
            "the tools root has no program `{program}`; it has: {}",
            names.join(" ")
        );
    }
    let status = tools.command(&program).args(arguments).status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// `cargo vm image [OPTION]... [--verify-reproducible]`: builds the image.
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
            Long("verify-reproducible") => verify = true,
            Long(name) => {
                let name = name.to_owned();
                option(&mut options, &name, &mut parser)?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    options.check()?;
    let paths = Paths::discover()?;
    let tools = Tools::prepare(&paths)?;
    let image = image::build(&paths, &tools, &options)?;
    for file in image.files() {
        println!("{}", file.display());
    }
    println!("roothash {}", image.roothash);
    if verify {
        let count = reproduce::verify(&paths, &tools, &options, &image)?;
        println!("built twice: {count} files are the same to the byte");
    }
    Ok(())
}

/// An option that says what the image is.
fn option(options: &mut ImageOptions, name: &str, parser: &mut lexopt::Parser) -> Result<()> {
    match name {
        "init" => options.init = Some(absolute(parser.value()?)?),
        "config" => options.config = Some(absolute(parser.value()?)?),
        "version" => options.version = parser.value()?.string()?,
        "append" => options.command_line.push(parser.value()?.string()?),
        "unchecked" => options.unchecked = true,
        "control" => options.kind = Kind::Control,
        "floor" => options.kind = Kind::Floor,
        "small" => options.runtime = Runtime::Small,
        "update-key" => options.update_keys.push(absolute(parser.value()?)?),
        other => return Err(Long(other).unexpected().into()),
    }
    Ok(())
}

/// `cargo vm bundle [--key PRIVATE.pem] [--out DIR] [OPTION]...`: builds the image and the update
/// bundle of it.
///
/// # Errors
/// When an option is unknown, the key cannot be read or the image not be built.
pub fn bundle(arguments: Vec<OsString>) -> Result<()> {
    let mut options = ImageOptions::default();
    let (mut key, mut out) = (None, None);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("out") => out = Some(absolute(parser.value()?)?),
            Long("key") => key = Some(absolute(parser.value()?)?),
            Long(name) => {
                let name = name.to_owned();
                option(&mut options, &name, &mut parser)?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if options.kind != Kind::Ours {
        bail!("a bundle of the control or the floor would update nothing");
    }
    // What is wrong with a file is told before minutes of building.
    options.check()?;
    let key = key.map(|path| SigningKey::read(&path)).transpose()?;
    let paths = Paths::discover()?;
    let tools = Tools::prepare(&paths)?;
    let image = image::build(&paths, &tools, &options)?;
    let folder = out.unwrap_or_else(|| paths.out.join(format!("bundle-{}", image.version)));
    let bundle = Bundle::write(&image, key.as_ref(), &folder)?;
    let manifest = bundle.file(MANIFEST);
    println!("{}", manifest.display());
    if key.is_none() {
        println!(
            "not signed; where the key is: openssl pkeyutl -sign -rawin -inkey PRIVATE.pem -in {MANIFEST} -out {SIGNATURE}"
        );
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
