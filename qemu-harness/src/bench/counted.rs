//! `cargo vm bench --counted`: instructions of the guest from the kernel's start to the first 200 of the runtime.
//!
//! QEMU counts the instructions that it translates (`-icount`), and `query-replay` tells the count. An idle processor executes
//! none, so what the machine waits for is not in it. The count is taken when the guest says something: a
//! phase begins with a line on the serial port, for which QEMU is asked at once; and at the first 200 the reporter in the
//! guest stops the machine itself, with the instruction that writes to the pvpanic device, and the count is of that one.
//! What the reporter tells after that ([`super::told`]) is counted by nobody.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::count::{Count, Figure, PHASES, ratio};
use super::told::{Told, word};
use super::{OVER_FLOOR, OVER_SYSTEMD, OVER_VERITY_FLOOR, Options};
use crate::accel::Choice;
use crate::bundle::Run;
use crate::host::Host;
use crate::image::{self, ImageOptions};
use crate::serial::SerialLine;
use crate::stages::RUNTIME;
use crate::vm::{Vm, VmConfig};

/// Our image.
pub const OURS: Kind = Kind {
    name: "ours",
    options: ImageOptions::default,
    append: &[],
};
/// The same root with systemd as PID 1.
const SYSTEMD: Kind = Kind {
    name: "systemd",
    options: ImageOptions::control,
    append: &[],
};
/// The least that reaches the runtime on a verified root.
pub const VERITY_FLOOR: Kind = Kind {
    name: "verity floor",
    options: ImageOptions::floor,
    append: &[],
};
/// The same without verity: `init/examples/floor.rs` knows the word.
const FLOOR: Kind = Kind {
    name: "floor",
    options: ImageOptions::floor,
    append: &["floor.verity=no"],
};

/// Boots of each unless another number is asked for.
const RUNS: usize = 3;
/// No boot takes a quarter of it.
const DEADLINE: Duration = Duration::from_secs(600);
/// Living processes that the table has of each machine.
const SHOWN: usize = 6;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    name: &'static str,
    options: fn() -> ImageOptions,
    append: &'static [&'static str],
}

/// One of them with its image.
#[derive(Debug)]
pub struct Contender {
    kind: Kind,
    image: PathBuf,
}

/// Measures all four and prints.
///
/// # Errors
/// When an image cannot be built or a boot does not become healthy.
pub fn run(options: &Options) -> Result<()> {
    let (host, contenders) = prepare(&[OURS, SYSTEMD, VERITY_FLOOR, FLOOR])?;
    let counts = measure(&host, &contenders, options.runs.unwrap_or(RUNS))?;
    let all: Vec<(&str, &[Count])> = contenders
        .iter()
        .zip(&counts)
        .map(|(contender, counts)| (contender.kind.name, &counts[..]))
        .collect();
    print!("{}", table(&all)?);
    if let Some(file) = &options.json {
        crate::boot::write_json(file, &report(&all)?)?;
    }
    Ok(())
}

/// Builds the images.
///
/// # Errors
/// When one cannot be built.
pub fn prepare(kinds: &[Kind]) -> Result<(Host, Vec<Contender>)> {
    let host = Host::prepare(Choice::Fixed(crate::accel::Accel::Tcg))?;
    let build = |kind: &Kind| -> Result<Contender> {
        let options = (kind.options)().counted();
        let image = image::build(&host.paths, &host.tools, &options)
            .with_context(|| format!("the image `{}`", kind.name))?;
        Ok(Contender {
            kind: *kind,
            image: image.raw,
        })
    };
    let contenders = kinds.iter().map(build).collect::<Result<_>>()?;
    Ok((host, contenders))
}

/// Boots each so many times, as many at a time as there are processors; gives the counts in the order of the contenders.
///
/// # Errors
/// When a boot does not become healthy.
pub fn measure(host: &Host, contenders: &[Contender], runs: usize) -> Result<Vec<Vec<Count>>> {
    let jobs = runs * contenders.len();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                let Some(contender) = contenders
                    .get(job % contenders.len())
                    .filter(|_| job < jobs)
                else {
                    return;
                };
                let count = boot(host, contender);
                if let Ok(count) = &count {
                    eprintln!("{:<14}{}", contender.kind.name, line(count));
                }
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push((job, count));
            }
        };
        let workers = available_parallelism().map_or(1, std::num::NonZero::get);
        for _ in 0..workers.min(jobs) {
            scope.spawn(work);
        }
    });
    let mut counts: Vec<Vec<Count>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(job, _)| *job);
    for (job, count) in done {
        counts[job % contenders.len()].push(count?);
    }
    Ok(counts)
}

fn boot(host: &Host, contender: &Contender) -> Result<Count> {
    let kind = contender.kind;
    let config = VmConfig::measured(kind.append);
    let name = format!("counted-{}", kind.name.replace(' ', "-"));
    Run::scoped(host, &name, &contender.image, |run| {
        let vm = run.boot(&config)?;
        let deadline = Instant::now() + DEADLINE;
        let mut marks = [0; PHASES.len() + 1];
        let mut from = 0;
        for (mark, phase) in marks.iter_mut().zip(PHASES) {
            let begins = |line: &SerialLine| begins(phase, line);
            from = vm.serial().wait_line(from, deadline, phase, begins)?.0 + 1;
            *mark = count(&vm)?;
        }
        // The event of the write comes first, then the end of the last instruction.
        vm.qmp()?
            .wait_event(0, deadline, "STOP")
            .with_context(|| format!("the machine did not stop\n{}", vm.serial().quote_end(0)))?;
        marks[PHASES.len()] = count(&vm)?;
        vm.qmp()?.execute("cont", json!({}))?;
        let is_end = |line: &SerialLine| word(&line.text) == Some("end");
        vm.serial()
            .wait_line(from, deadline, "the reporter's end", is_end)?;
        let lines = vm.serial().lines(0);
        let told = Told::read(lines.iter().filter_map(|line| word(&line.text)))
            .with_context(|| vm.serial().quote_end(0))?;
        Count::new(marks, told)
    })
}

/// Whether a phase begins with this line.
fn begins(phase: &str, line: &SerialLine) -> bool {
    let told = |name: &str, fields: &[(&str, &str)]| {
        let event = line.event.as_ref();
        event.is_some_and(|event| event.is(name, fields))
    };
    word(&line.text) == Some(phase)
        || match phase {
            "kernel" => line.text.starts_with("EFI stub: "),
            "initramfs" => told("boot.start", &[("stage", "initramfs")]),
            "root" => told("boot.root", &[]),
            "runtime" => told("service.start", &[("service", RUNTIME)]),
            _ => false,
        }
}

/// The instructions so far.
fn count(vm: &Vm) -> Result<u64> {
    let answer = vm.qmp()?.execute("query-replay", json!({}))?;
    let count = answer.get("icount").and_then(Value::as_u64);
    count.with_context(|| format!("QEMU tells no count: {answer}"))
}

/// One boot in millions of instructions.
fn line(count: &Count) -> String {
    let mut text = format!("{:>9}", millions(count.total()));
    for phase in count.phases {
        let _ = write!(text, " {:>9}", millions(phase));
    }
    text
}

fn millions(count: u64) -> String {
    format!("{}.{}", count / 1_000_000, count / 100_000 % 10)
}

fn table(all: &[(&str, &[Count])]) -> Result<String> {
    let mut out = String::new();
    let runs = all.first().map_or(0, |(_, counts)| counts.len());
    writeln!(
        out,
        "millions of instructions, kernel start to health, median of {runs}, and how far the boots lie apart"
    )?;
    write!(out, "{:<14}{:>16}", "", "total")?;
    for phase in PHASES {
        write!(out, "{phase:>16}")?;
    }
    writeln!(out)?;
    for (name, counts) in all {
        write!(out, "{name:<14}")?;
        for figure in figures(counts)? {
            let percent = format!("{:.2} %", figure.apart * 100.0);
            write!(out, "{:>8.1}{percent:>8}", figure.median / 1e6)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "\nof it by process, first boot of each")?;
    for (name, counts) in all {
        let told = &counts.first().context("nothing was measured")?.told;
        write!(out, "{name:<14}")?;
        for process in told.processes.iter().take(SHOWN) {
            let used = millions(process.instructions);
            write!(out, "{}[{}] {used}, ", process.name, process.pid)?;
        }
        let rest: u64 = told
            .processes
            .iter()
            .skip(SHOWN)
            .map(|p| p.instructions)
            .sum();
        writeln!(
            out,
            "other living ones {}, those that ended {}",
            millions(rest),
            millions(told.ended())
        )?;
    }
    writeln!(out, "\nPID 1 at health, KiB")?;
    for (name, counts) in all {
        let memory = counts.first().context("nothing was measured")?.told.memory;
        writeln!(
            out,
            "{name:<14}VmRSS {}, RssAnon {}, private {}",
            memory.rss, memory.anon, memory.private
        )?;
    }
    writeln!(out)?;
    for (other, budget, ratio) in ratios(all)? {
        let verdict = if ratio <= budget { "met" } else { "MISSED" };
        writeln!(
            out,
            "ours over {other:<14}{ratio:.4}  budget {budget:.2}  {verdict}"
        )?;
    }
    Ok(out)
}

/// Of the total, and of each phase.
fn figures(counts: &[Count]) -> Result<Vec<Figure>> {
    let mut figures = vec![Figure::of(counts.iter().map(Count::total))?];
    for index in 0..PHASES.len() {
        let phase = counts.iter().filter_map(|count| count.phases.get(index));
        figures.push(Figure::of(phase.copied())?);
    }
    Ok(figures)
}

/// Ours over each of the others, with the budget.
fn ratios(all: &[(&str, &[Count])]) -> Result<Vec<(&'static str, f64, f64)>> {
    let of = |kind: Kind| {
        let found = all.iter().find(|(name, _)| *name == kind.name);
        let counts = found.map(|(_, counts)| *counts);
        counts.with_context(|| format!("no `{}`", kind.name))
    };
    let ours = of(OURS)?;
    let budgets = [
        (VERITY_FLOOR, OVER_VERITY_FLOOR),
        (FLOOR, OVER_FLOOR),
        (SYSTEMD, OVER_SYSTEMD),
    ];
    let one = |(kind, budget): (Kind, f64)| Ok((kind.name, budget, ratio(ours, of(kind)?)?));
    budgets.into_iter().map(one).collect()
}

fn report(all: &[(&str, &[Count])]) -> Result<Value> {
    let boot = |count: &Count| {
        let phases: serde_json::Map<_, _> = PHASES
            .iter()
            .zip(count.phases)
            .map(|(name, phase)| ((*name).to_owned(), json!(phase)))
            .collect();
        let told = &count.told;
        let processes: Vec<Value> = told
            .processes
            .iter()
            .map(|p| json!({"pid": p.pid, "name": p.name, "instructions": p.instructions}))
            .collect();
        json!({
            "before": count.before,
            "total": count.total(),
            "phases": phases,
            "processes": processes,
            "ended": told.ended(),
            "pid1_kib": {
                "rss": told.memory.rss, "anon": told.memory.anon, "private": told.memory.private,
            },
        })
    };
    let contenders: serde_json::Map<_, _> = all
        .iter()
        .map(|(name, counts)| ((*name).to_owned(), counts.iter().map(boot).collect()))
        .collect();
    let ratios: serde_json::Map<_, _> = ratios(all)?
        .into_iter()
        .map(|(name, budget, ratio)| (name.to_owned(), json!({"ratio": ratio, "budget": budget})))
        .collect();
    ensure!(!contenders.is_empty(), "nothing was measured");
    Ok(json!({
        "figure": "instructions of the guest from the kernel's start to health",
        "contenders": contenders,
        "ours_over": ratios,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn counts(last: &[u64]) -> Vec<Count> {
        let told = || {
            Told::read([
                "ran ns=900000000",
                "process pid=1 ns=300000000 comm=init",
                "pid1 rss=3600 anon=180 private=224",
            ])
            .expect("a report")
        };
        let marks = |end: u64| [500, 600, 700, 800, end].map(|mark| mark * 1_000_000);
        last.iter()
            .map(|end| Count::new(marks(*end), told()).expect("in order"))
            .collect()
    }

    #[test]
    fn a_phase_begins_with_the_line_that_says_so() {
        let begins = |phase: &str, text: &str| {
            let line = SerialLine {
                at: Duration::ZERO,
                text: text.to_owned(),
                event: Event::parse(text).ok(),
            };
            super::begins(phase, &line)
        };
        for (phase, text) in [
            ("kernel", "EFI stub: Loaded initrd from somewhere"),
            (
                "initramfs",
                "init: 0.500 boot.start stage=initramfs version=0.1.0",
            ),
            ("initramfs", "[    0.512345] counted: initramfs"),
            ("root", "init: 0.800 boot.root device=vda2"),
            ("root", "[    0.612345] counted: root"),
            (
                "runtime",
                "init: 6.211 service.start service=astromeshd pid=150",
            ),
            ("runtime", "[    2.612345] counted: runtime"),
        ] {
            assert!(begins(phase, text), "{phase}: {text}");
            let others = PHASES.iter().filter(|other| **other != phase);
            for other in others {
                assert!(!begins(other, text), "{other}: {text}");
            }
        }
        assert!(!begins("initramfs", "init: 1.000 boot.start stage=system"));
        assert!(!begins(
            "runtime",
            "init: 1.5 service.start service=netcfg pid=8"
        ));
    }

    #[test]
    fn the_table_says_what_was_met() {
        let (ours, others) = (counts(&[1510, 1500, 1520]), counts(&[1600]));
        let all = [
            ("ours", &ours[..]),
            ("systemd", &others[..]),
            ("verity floor", &others[..]),
            ("floor", &others[..]),
        ];
        let text = table(&all).expect("a table");
        // 1010 of 1100 million.
        assert!(
            text.contains("ours over verity floor  0.9182  budget 1.02  met"),
            "{text}"
        );
        assert!(
            text.contains("ours over systemd       0.9182  budget 0.45  MISSED"),
            "{text}"
        );
        assert!(text.contains("ours            1010.0  2.00 %"), "{text}");
        assert!(
            text.contains("init[1] 300.0, other living ones 0.0, those that ended 600.0"),
            "{text}"
        );
        assert!(
            text.contains("VmRSS 3600, RssAnon 180, private 224"),
            "{text}"
        );
        let json = report(&all).expect("JSON");
        assert_eq!(
            json["contenders"]["ours"][0]["phases"]["runtime"],
            710_000_000
        );
        assert!(table(&all[..2]).is_err(), "the floor is missing");
    }
}
