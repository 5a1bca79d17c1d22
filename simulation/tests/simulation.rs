//! A few simulated years of services with each run of the tests; `docs/simulation.md` tells how to
//! run more of them.

use anyhow::{Context, Result, ensure};
use std::process::Command;

const SIMULATE: &str = env!("CARGO_BIN_EXE_simulate");

/// Enough for every kind of stimulus to have its effect, and for every cell of the table that can be reached.
const RUN: [&str; 4] = ["--seeds", "100", "--hours", "24"];

fn simulate(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(SIMULATE)
        .args(arguments)
        .output()
        .context("run simulate")?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

/// A figure of the summary.
fn figure(said: &str, name: &str) -> Result<u64> {
    let summary = said.lines().find(|line| line.starts_with("seeds="));
    let mut words = summary.with_context(|| said.to_owned())?.split(' ');
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(value
        .with_context(|| format!("{name} in {said}"))?
        .parse()?)
}

/// What was said, without how long it took, which is another time each time.
fn timeless(said: &str) -> Vec<String> {
    let timed = |word: &&str| word.starts_with("steps_per_second=") || word.starts_with("seconds=");
    let lines = said.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').filter(|word| !timed(word)).collect();
        words.join(" ")
    });
    lines.collect()
}

#[test]
fn no_law_is_broken_all_is_seen_and_the_same_seeds_give_the_same_runs() -> Result<()> {
    let (code, said) = simulate(&RUN)?;
    ensure!(code == Some(0), "exit status {code:?}:\n{said}");
    for (name, least) in [
        ("seeds", 100),
        ("service_hours", 10_000),
        ("steps", 100_000),
        ("deaths", 1_000),
        ("restarts", 1_000),
        ("escalations", 100),
        ("gaps", 100),
        ("drawn_delays", 1_000),
    ] {
        let value = figure(&said, name)?;
        ensure!(
            value >= least,
            "{name} is {value}, less than {least}:\n{said}"
        );
    }
    let (_, again) = simulate(&RUN)?;
    ensure!(
        timeless(&said) == timeless(&again),
        "the same seeds, run twice:\n{said}\n\n{again}"
    );
    Ok(())
}

#[test]
fn a_run_that_is_too_small_for_its_checks_fails() -> Result<()> {
    let (code, said) = simulate(&["--seeds", "1", "--hours", "1"])?;
    ensure!(code == Some(1), "exit status {code:?}:\n{said}");
    for part in ["these never had an effect: [", "cells without a run: ["] {
        ensure!(said.contains(part), "{part:?} is not in\n{said}");
    }
    Ok(())
}
