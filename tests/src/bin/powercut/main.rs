//! The campaign of power cuts: one life of a machine is recorded, and cut at every flush and at any
//! number of seeded moments between; each disk that a cut may have left is judged, and some are booted.
//!
//! The exit status is 1 if a single state is not a bootable, unmixed machine. A campaign that failed keeps the folder of its
//! run, and tells a state by its text: `--run FOLDER --state TEXT` judges and boots that one again.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use appliance_tests::cuts::{self, Life};
use appliance_tests::fleet::Fleet;
use appliance_tests::seed;
use qemu_harness::bundle::Run;
use qemu_harness::image_options::Runtime;
use qemu_harness::powercut::{Kind, State};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

const USAGE: &str = "\
usage: powercut [--states N] [--boots N] [--seed S]
       powercut --run FOLDER --state STATE";

struct Options {
    states: usize,
    boots: usize,
    seed: u64,
    run: Option<PathBuf>,
    state: Option<String>,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        states: 2000,
        boots: 60,
        seed: seed::fresh().map_err(|e| format!("no seed: {e}"))?,
        run: None,
        state: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("states") => options.states = parser.value()?.parse()?,
            Long("boots") => options.boots = parser.value()?.parse()?,
            Long("seed") => options.seed = parser.value()?.parse()?,
            Long("run") => options.run = Some(parser.value()?.into()),
            Long("state") => options.state = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("powercut: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let result = match (&options.run, &options.state) {
        (None, None) => campaign(&options),
        (Some(run), Some(state)) => again(run, state),
        _ => {
            eprintln!("powercut: --run and --state go together\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Judges and boots one state of a life that was recorded by a campaign.
fn again(run: &Path, state: &str) -> Result<()> {
    let fleet = Fleet::new("cuts", Runtime::Small)?;
    let versions = [fleet.version("1")?, fleet.version("2")?];
    let life = Life::open(&fleet, versions, run)?;
    let state: State = state.parse()?;
    println!("{}", state.describe(&life.recording.journal)?);
    let tally = cuts::judge(&fleet, &life, &[state], run)?;
    println!("{:?} starts", tally.boots);
    cuts::all_good(&tally)?;
    let healthy = cuts::boot(&fleet, &life, &state)?;
    println!("healthy {:.1} s after power-on", healthy.as_secs_f64());
    Ok(())
}

fn campaign(options: &Options) -> Result<()> {
    let fleet = Fleet::new("cuts", Runtime::Small)?;
    let versions = [fleet.version("1")?, fleet.version("2")?];
    let first = versions[0].raw.clone();
    Run::scoped(&fleet.host, "cuts", &first, |run| {
        let life = cuts::record(&fleet, run, versions)?;
        let states = life.states(options.seed, options.states)?;
        let flushes = states.iter().filter(|s| s.kind == Kind::Flushed).count();
        println!(
            "{} entries recorded; {flushes} states at flushes, {} between, seed {}",
            life.recording.journal.entries().len(),
            states.len() - flushes,
            options.seed
        );
        let begun = Instant::now();
        let memory = Path::new("/dev/shm");
        let scratch = if memory.is_dir() { memory } else { run.dir() };
        let tally = cuts::judge(&fleet, &life, &states, scratch)?;
        println!(
            "judged in {:.1} s: boots {:?}, {} entries for another version whole, {} wrong",
            begun.elapsed().as_secs_f64(),
            tally.boots,
            tally.alternatives,
            tally.wrong.len()
        );
        cuts::all_good(&tally)?;
        boot_worst(&fleet, &life, &states, options.boots)
    })
}

/// Boots the states in which most was lost or torn, two at a time.
fn boot_worst(fleet: &Fleet, life: &Life, states: &[State], count: usize) -> Result<()> {
    let chosen = life.worst(states, count)?;
    let queue = Mutex::new(chosen.into_iter());
    let results = Mutex::new(Vec::new());
    let lost = || anyhow::anyhow!("a thread of the campaign has failed");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(state) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let result = cuts::boot(fleet, life, &state);
                    if let Ok(mut results) = results.lock() {
                        results.push((state, result));
                    }
                }
            });
        }
    });
    let results = results.into_inner().map_err(|_| lost())?;
    let (booted, mut failed) = (results.len(), 0);
    for (state, result) in results {
        match result.context("it did not become healthy") {
            Ok(at) => println!("{state}: healthy {:.1} s after power-on", at.as_secs_f64()),
            Err(error) => {
                failed += 1;
                eprintln!("{state}: {error:#}");
            }
        }
    }
    println!("{booted} booted, {failed} not healthy");
    anyhow::ensure!(failed == 0, "{failed} states do not boot to health");
    Ok(())
}
