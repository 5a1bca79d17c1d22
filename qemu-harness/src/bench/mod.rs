//! `cargo vm bench`: our boot against systemd's, and against no init at all.
//!
//! Without `--counted` it compares [seconds](seconds), which on a shared host are noise. With it, it compares
//! [instructions of the guest](counted), which are nearly the same each time; `--gate` holds those against the
//! [committed figure](gate).

mod count;
mod counted;
mod gate;
mod seconds;
mod told;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use lexopt::prelude::*;

use crate::accel::Choice;
use crate::cli::{Usage, number, processors};

/// Budget: our kernel start to health over that of the floor without verity.
const OVER_FLOOR: f64 = 1.05;
/// The same over that of the floor with verity.
const OVER_VERITY_FLOOR: f64 = 1.02;
/// Ours over systemd's.
const OVER_SYSTEMD: f64 = 0.45;

/// What `cargo vm bench` was asked for.
#[derive(Debug)]
pub struct Options {
    runs: Option<usize>,
    json: Option<PathBuf>,
    accel: Choice,
    cpus: Option<u32>,
    counted: bool,
    gate: bool,
    write: bool,
}

impl Options {
    /// Reads the arguments after `bench`.
    ///
    /// # Errors
    /// A [`Usage`] error for what is unknown or makes no sense.
    pub fn parse(arguments: Vec<OsString>) -> Result<Self> {
        let mut options = Self {
            runs: None,
            json: None,
            accel: Choice::Auto,
            cpus: None,
            counted: false,
            gate: false,
            write: false,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut emulator = false;
        while let Some(argument) = parser.next()? {
            match argument {
                Long("runs") => options.runs = Some(number("--runs", &parser.value()?.string()?)?),
                Long("json") => options.json = Some(parser.value()?.into()),
                Long("counted") => options.counted = true,
                Long("gate") => options.gate = true,
                Long("write") => options.write = true,
                Long("cpus") => {
                    emulator = true;
                    options.cpus = Some(processors(&parser.value()?.string()?)?);
                }
                Long("accel") => {
                    emulator = true;
                    let name = parser.value()?.string()?;
                    options.accel = name.parse().map_err(|e| Usage(format!("{e}")))?;
                }
                other => return Err(other.unexpected().into()),
            }
        }
        let wrong = |text: &str| Err(Usage(text.into()).into());
        if options.runs == Some(0) {
            return wrong("--runs needs at least 1");
        }
        if options.counted && emulator {
            return wrong("--counted has one emulated processor, whatever --accel and --cpus say");
        }
        if options.gate && !options.counted {
            return wrong("--gate is of --counted");
        }
        if options.write && !options.gate {
            return wrong("--write is of --gate");
        }
        Ok(options)
    }
}

/// Builds, boots, measures, prints.
///
/// # Errors
/// When an image cannot be built, a boot does not become healthy, or the gate is shut.
pub fn run(options: &Options) -> Result<()> {
    crate::setup::prepare()?;
    match (options.counted, options.gate) {
        (false, _) => seconds::run(options),
        (true, false) => counted::run(options),
        (true, true) => gate::run(options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_do_not_go_together_are_refused() {
        let parse = |words: &[&str]| Options::parse(words.iter().map(OsString::from).collect());
        let options = parse(&["--counted", "--gate", "--write", "--runs", "2"]).expect("good");
        assert_eq!((options.runs, options.write), (Some(2), true));
        for words in [
            &["--runs", "0"][..],
            &["--gate"],
            &["--counted", "--write"],
            &["--counted", "--cpus", "2"],
            &["--counted", "--accel", "kvm"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
