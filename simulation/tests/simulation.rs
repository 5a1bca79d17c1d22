//! A few simulated years of services with each run of the tests; `docs/simulation.md` tells how to
//! run more of them.

use anyhow::{Context, Result, ensure};
use std::process::Command;

const SIMULATE: &str = env!("CARGO_BIN_EXE_simulate");

/// Enough for every kind of stimulus to have its effect.
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

#[test]
fn no_law_is_broken_and_every_stimulus_has_an_effect() -> Result<()> {
    let (code, said) = simulate(&RUN)?;
    ensure!(code == Some(0), "exit status {code:?}:\n{said}");
    for (name, least) in [
        ("seeds", 100),
        ("service_hours", 10_000),
        ("deaths", 1_000),
        ("restarts", 1_000),
        ("escalations", 100),
        ("gaps", 100),
    ] {
        let value = figure(&said, name)?;
        ensure!(
            value >= least,
            "{name} is {value}, less than {least}:\n{said}"
        );
    }
    Ok(())
}

#[test]
fn the_same_seeds_give_the_same_runs() -> Result<()> {
    let run = || -> Result<String> {
        let (code, said) = simulate(&RUN)?;
        ensure!(code == Some(0), "exit status {code:?}:\n{said}");
        // The time that it took is another each time.
        let lines = said
            .lines()
            .map(|line| match line.split_once("steps_per_second=") {
                Some((before, after)) => {
                    let figures = after
                        .split(' ')
                        .filter(|word| !word.starts_with("seconds="));
                    format!("{before}{}", figures.skip(1).collect::<Vec<_>>().join(" "))
                }
                None => line.to_owned(),
            });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    };
    let (first, second) = (run()?, run()?);
    ensure!(
        first == second,
        "the same seeds, run twice:\n{first}\n\n{second}"
    );
    ensure!(
        figure(&first, "steps")? > 100,
        "a run without steps:\n{first}"
    );
    Ok(())
}
