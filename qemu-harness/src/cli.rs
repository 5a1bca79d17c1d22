//! The command line: verbs, usage, exit status.
//!
//! Exit status 0: done. 1: it failed, and the last words say why. 2: the command line itself was
//! wrong.

use crate::accel;
use crate::boot;
use crate::chart;
use crate::image_cli;
use crate::paths::Paths;
use crate::setup;
use crate::stages::Stages;
use crate::tools::Tools;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo boot [--once] [--json FILE] [--accel auto|kvm|tcg] [--cpus N] [--port PORT]
                  [--image FILE]
       cargo vm image [--out DIR] [--version VERSION] [--init FILE] [--config FILE]
                      [--append ARGUMENT]... [--update-key PUBLIC.pem]... [--small]
                      [--control | --floor] [--verify-reproducible]
                                           build the image and nothing else
       cargo vm bundle [--key PRIVATE.pem] [--out DIR] [options as image]
                                           build the image, and what updates to it
       cargo vm bench [--runs N] [--json FILE] [--accel ...] [--cpus N]
                                           compare with systemd and with the floor
       cargo vm bench --counted [--runs N] [--json FILE] [--gate [--write]]
                                           the same in instructions of the guest
       cargo vm chart FILE                 FILE.json of `cargo boot --json` to FILE.svg
       cargo vm setup                      install what the host lacks, make the tools root
       cargo vm accel                      say which accelerator works here
       cargo vm lock [NAME ...]            renew the locks of packages and wheels
       cargo vm tools PROGRAM [ARG ...]    run a program of the tools root
";

/// What `--help` says beyond the usage.
const OPTIONS: &str = "
options of image and bundle:
  --config FILE          an init.toml to use instead of image/init.toml; checked against the root
  --small                a small static daemon in place of the interpreter and the agent runtime
  --update-key FILE      a public key (PEM) whose signatures on updates the image believes; repeatable
  --append ARGUMENT      added to the kernel command line in the UKI, such as astromesh.update=URL; repeatable
  --version VERSION      version of the image; a machine updates to a newer one only
  --init FILE            a static program to use as init instead of building ours
  --control, --floor     systemd, or the least that reaches the runtime, as init: for comparison
  --unchecked            take a configuration that `init check` refuses
  --out DIR              where to write; by default a folder of these options in target/appliance
  --verify-reproducible  image: build once more from nothing and compare every byte
  --key FILE             bundle: the private key to sign with

options of boot and bench:
  --image FILE           boot: this disk instead of building one; its port 8000 must answer GET /v1/health
  --port PORT            boot: where on 127.0.0.1 the API is, 8000 by default
  --once                 boot: switch off when healthy
  --runs N               bench: boots of each, 3 by default
  --counted              bench: count the guest's instructions instead of seconds
  --gate                 bench --counted: only ours and the floor with verity, against the committed figure
  --write                bench --gate: write the figure instead
  --json FILE            write the result there, too
  --accel auto|kvm|tcg   what runs the guest's instructions
  --cpus N               processors of the machine
";

/// The command line makes no sense; the text says which part.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Runs one command line, without the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let verb = arguments.next();
    let result = match verb.as_ref().map(|verb| verb.to_string_lossy()) {
        Some(verb) => dispatch(&verb, arguments.collect()),
        None => Err(Usage("nothing to do".into()).into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<Usage>() || error.is::<lexopt::Error>() {
                eprint!("{USAGE}");
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(verb: &str, arguments: Vec<OsString>) -> Result<()> {
    let help = |argument: &OsString| argument == "--help" || argument == "-h";
    // Behind `tools` everything is for the program.
    let verb = match verb {
        "tools" => verb,
        _ if arguments.iter().any(help) => "help",
        _ => verb,
    };
    match verb {
        "boot" => boot::run(&boot::Options::parse(arguments)?),
        "image" => image_cli::image(arguments),
        "bundle" => image_cli::bundle(arguments),
        "bench" => crate::bench::run(&crate::bench::Options::parse(arguments)?),
        "chart" => draw(&only_one(arguments, "a report")?),
        "setup" => {
            none(arguments)?;
            setup::prepare()?;
            Tools::prepare(&Paths::discover()?)?;
            Ok(())
        }
        "accel" => {
            none(arguments)?;
            let paths = Paths::discover()?;
            let tools = Tools::prepare(&paths)?;
            println!("{}", accel::examine(&paths, &tools)?);
            Ok(())
        }
        "lock" => image_cli::lock(arguments),
        "tools" => image_cli::tools(arguments),
        "help" | "--help" | "-h" => {
            print!("{USAGE}{OPTIONS}");
            Ok(())
        }
        other => Err(Usage(format!("unknown command `{other}`")).into()),
    }
}

/// `cargo vm chart boot.json` writes boot.svg beside it.
fn draw(report: &Path) -> Result<()> {
    let text =
        fs::read_to_string(report).with_context(|| format!("cannot read {}", report.display()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", report.display()))?;
    let stages = Stages::from_report(&value)
        .with_context(|| format!("{} is not a boot report", report.display()))?;
    let name = value.get("image").and_then(|name| name.as_str());
    let accel = value.get("accelerator").and_then(|name| name.as_str());
    let title = format!(
        "{}, {}",
        name.unwrap_or("one boot"),
        accel.unwrap_or("unknown accelerator")
    );
    let target = report.with_extension("svg");
    fs::write(&target, chart::svg(&title, &stages)?)
        .with_context(|| format!("cannot write {}", target.display()))?;
    println!("{}", target.display());
    Ok(())
}

fn none(arguments: Vec<OsString>) -> Result<()> {
    match lexopt::Parser::from_args(arguments).next()? {
        None => Ok(()),
        Some(argument) => Err(argument.unexpected().into()),
    }
}

fn only_one(arguments: Vec<OsString>, what: &str) -> Result<PathBuf> {
    let mut file = None;
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Value(value) if file.is_none() => file = Some(PathBuf::from(value)),
            other => return Err(other.unexpected().into()),
        }
    }
    file.ok_or_else(|| Usage(format!("name {what}")).into())
}

/// The value of an option that takes a number.
///
/// # Errors
/// A [`Usage`] error that names the option and quotes the value.
pub fn number<T: std::str::FromStr>(option: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Usage(format!("{option} takes a number, not `{text}`")).into())
}

/// A number of processors.
///
/// # Errors
/// A [`Usage`] error for none, or more than QEMU's q35 takes.
pub fn processors(text: &str) -> Result<u32> {
    match number("--cpus", text)? {
        count @ 1..=255 => Ok(count),
        count => Err(Usage(format!("--cpus takes 1 to 255, not {count}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(words: &[&str]) -> String {
        format!("{:?}", run(words.iter().map(OsString::from)))
    }

    #[test]
    fn a_wrong_command_line_is_status_2() {
        let wrong = format!("{:?}", ExitCode::from(2));
        for words in [
            &[][..],
            &["fly"],
            &["boot", "--fly"],
            &["chart"],
            &["setup", "x"],
            &["bench", "--runs", "many"],
            &["image", "--fly"],
            &["bundle", "--update-key"],
        ] {
            assert_eq!(status(words), wrong, "{words:?}");
        }
    }

    #[test]
    fn help_is_given_wherever_it_is_asked_for() {
        let good = format!("{:?}", ExitCode::SUCCESS);
        for words in [
            &["--help"][..],
            &["image", "--help"],
            &["boot", "-h"],
            &["bundle", "--small", "--help"],
        ] {
            assert_eq!(status(words), good, "{words:?}");
        }
        // Every option that is read is explained.
        for source in [
            include_str!("image_cli.rs"),
            include_str!("boot.rs"),
            include_str!("bench/mod.rs"),
        ] {
            let read = source.split("Long(\"").skip(1);
            let matched = source.split("        \"").skip(1);
            let arms = matched.filter(|text| text.contains("\" => options."));
            for text in read.chain(arms) {
                let name = text.split('"').next().unwrap_or_default();
                assert!(OPTIONS.contains(&format!("--{name}")), "--{name}");
            }
        }
    }

    #[test]
    fn a_failure_is_status_1() {
        let failed = format!("{:?}", ExitCode::FAILURE);
        assert_eq!(status(&["chart", "/no/such/report.json"]), failed);
    }
}
