//! The supervisor's core in a simulated world, for millions of service-hours.
//!
//! A seed stands for a run: services with their specs ([`program`]), and a list of what is going to happen
//! to them ([`stimulus`]). The run has a simulated clock and simulated processes ([`world`], [`life`],
//! [`trouble`]), and after every step of the core a [`model`] of its own judges what the core did by the
//! laws in [`invariants`]. A broken law is told with its seed and with the shortest history that breaks it
//! ([`minimise`]), and the exit status is 1. A seed gives the same run everywhere.

#![forbid(unsafe_code)]

mod coverage;
mod invariants;
mod jitter;
mod life;
mod minimise;
mod model;
mod program;
mod random;
mod stimulus;
mod trouble;
mod world;

use coverage::OUT_OF_REACH;
use invariants::Broken;
use program::Program;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use world::{Tally, Trace};

const USAGE: &str = "usage: simulate [--seeds N] [--first S] [--hours H] [--services MAX] | --seed S \
    [--hours H] [--services MAX]";

/// Seeds are spread over so many threads.
const THREADS: u64 = 2;

struct Options {
    seeds: u64,
    first: u64,
    /// Run this one only.
    seed: Option<u64>,
    hours: u64,
    services: u64,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        seeds: 1000,
        first: 0,
        seed: None,
        hours: 24,
        services: 6,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => options.seeds = parser.value()?.parse()?,
            Long("first") => options.first = parser.value()?.parse()?,
            Long("seed") => options.seed = Some(parser.value()?.parse()?),
            Long("hours") => options.hours = parser.value()?.parse()?,
            Long("services") => options.services = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("simulate: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic is a broken law; it is told with the history that leads to it.
    std::panic::set_hook(Box::new(|_| ()));
    let begun = Instant::now();
    let (first, seeds) = options
        .seed
        .map_or((options.first, options.seeds), |seed| (seed, 1));
    let (tally, broken) = run_all(first, seeds, &options);
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(seed) = broken {
        show(seed, &options);
        println!(
            "found after {seconds:.1} s, {} seeds and {} steps",
            tally.seeds, tally.steps
        );
        return ExitCode::FAILURE;
    }
    print!("{}{}", tally.coverage.table(), tally.coverage.stimuli());
    println!(
        "seeds={} service_hours={} steps={} steps_per_second={:.0} deaths={} restarts={} escalations={} gaps={} drawn_delays={} seconds={seconds:.1}",
        tally.seeds,
        tally.service_hours(),
        tally.steps,
        tally.steps as f64 / seconds,
        tally.deaths,
        tally.restarts,
        tally.escalations,
        tally.gaps,
        tally.jitter.count(),
    );
    if options.seed.is_none() && !judge_all(&tally) {
        return ExitCode::FAILURE;
    }
    println!("no law was broken");
    ExitCode::SUCCESS
}

/// What can only be said of all runs together.
fn judge_all(tally: &Tally) -> bool {
    if let Err(broken) = tally.jitter.judge() {
        let (law, what) = (broken.law, broken.what);
        println!(
            "seed=all law={} {what}\nthe law: {}",
            law.name(),
            law.what()
        );
        return false;
    }
    let idle = tally.coverage.idle();
    if !idle.is_empty() {
        println!("a check that cannot fail: these never had an effect: {idle:?}; take more seeds");
    }
    let unseen = tally.coverage.unseen();
    if unseen != OUT_OF_REACH {
        println!(
            "cells without a run: {unseen:?}, and only {OUT_OF_REACH:?} are out of reach; take more seeds"
        );
    }
    idle.is_empty() && unseen == OUT_OF_REACH
}

/// Runs the seeds, and gives the first one that breaks a law.
fn run_all(first: u64, seeds: u64, options: &Options) -> (Tally, Option<u64>) {
    let broken = AtomicU64::new(u64::MAX);
    let one_thread = |thread: u64| {
        let mut tally = Tally::default();
        for seed in (first..first + seeds).filter(|seed| seed % THREADS == thread) {
            // A seed before a broken one is still run: the first one is told, whoever is faster.
            if seed > broken.load(Ordering::Relaxed) {
                break;
            }
            match world::run(&Program::new(seed, options.hours, options.services), None) {
                Ok(one) => tally.add(&one),
                Err(_) => {
                    broken.fetch_min(seed, Ordering::Relaxed);
                    break;
                }
            }
        }
        tally
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let one_thread = &one_thread;
        let threads: Vec<_> = (0..THREADS)
            .map(|t| scope.spawn(move || one_thread(t)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(one) => tally.add(&one),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let broken = broken.into_inner();
    (tally, (broken != u64::MAX).then_some(broken))
}

/// Tells a broken law with the shortest way to it.
fn show(seed: u64, options: &Options) {
    let program = Program::new(seed, options.hours, options.services);
    let Err(broken) = world::run(&program, None) else {
        println!(
            "seed {seed} broke a law once and not again: the run depends on more than its seed"
        );
        return;
    };
    let small = minimise::minimise(&program, broken.law);
    let mut trace = Trace::default();
    let result = world::run(&small, Some(&mut trace));
    let broken: Box<Broken> = result.err().unwrap_or(broken);
    println!("{}", program::toml(&small.specs));
    println!("the last steps:");
    for step in &trace.steps {
        println!("{step}");
    }
    println!(
        "the history, {} of {} stimuli and {} of {} services:",
        small.history.len(),
        program.history.len(),
        small.specs.len(),
        program.specs.len()
    );
    for stimulus in &trace.stimuli {
        println!("{stimulus}");
    }
    println!("seed={seed} law={} {}", broken.law.name(), broken.what);
    println!("the law: {}", broken.law.what());
    let (hours, services) = (options.hours, options.services);
    println!("again: simulate --seed {seed} --hours {hours} --services {services}");
}
