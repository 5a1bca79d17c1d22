//! Plants bugs in the supervisor's core and sees whether the simulation finds them.
//!
//! A simulation that finds nothing has shown something only if it finds what is there. So each bug of
//! [`table`] is planted in a copy of the core, in a workspace of its own that has the simulation and the
//! core in it and nothing else, and the simulation has to break a law within a bounded number of seeds. The
//! copy without a bug has to pass with the same seeds. With an argument, only the bugs with that in their names are planted.
//!
//! The exit status is 1 if a mutant survives, if a text to change is not there exactly once, or if the
//! copy does not build.

#![forbid(unsafe_code)]

mod table;

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use table::{MUTANTS, Mutant};

/// What each copy has to stand or to fall by.
const RUN: [&str; 4] = ["--seeds", "500", "--hours", "24"];

/// The workspace of the copy.
struct Copy {
    folder: PathBuf,
    binary: PathBuf,
}

/// What the simulation said.
enum Verdict {
    Passed,
    Found { law: String, seed: String },
}

fn main() -> Result<ExitCode> {
    let begun = Instant::now();
    let part = std::env::args().nth(1).unwrap_or_default();
    let planted: Vec<&Mutant> = MUTANTS.iter().filter(|m| m.name.contains(&part)).collect();
    ensure!(!planted.is_empty(), "no bug has {part:?} in its name");
    let copy = Copy::new(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")))?;
    if let Verdict::Found { law, seed } = copy.simulate()? {
        bail!("the core itself breaks {law} with seed {seed}; run simulate --seed {seed}");
    }
    println!(
        "{:<46} {:<18} {:>6} {:>8}",
        "planted bug", "found by", "seed", "seconds"
    );
    let count = planted.len();
    let mut survivors = 0;
    for mutant in planted {
        let begun = Instant::now();
        let verdict = copy
            .with(mutant)
            .with_context(|| format!("the bug {:?}", mutant.name))?;
        let seconds = begun.elapsed().as_secs_f64();
        let (law, seed) = match verdict {
            Verdict::Found { law, seed } => (law, seed),
            Verdict::Passed => {
                survivors += 1;
                ("SURVIVED".to_owned(), String::new())
            }
        };
        println!("{:<46} {law:<18} {seed:>6} {seconds:>8.1}", mutant.name);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("mutants={count} survivors={survivors} seconds={seconds:.0}");
    Ok(if survivors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Copy {
    fn new(root: &Path) -> Result<Self> {
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => PathBuf::from(target),
            None => root.join("target"),
        };
        let folder = target.join("mutants/ws");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("clear {}", folder.display()))?;
        }
        for package in ["supervisor", "init/base", "simulation"] {
            let (from, to) = (root.join(package), folder.join(package));
            copy_tree(&from.join("src"), &to.join("src"))?;
            copy_file(&from.join("Cargo.toml"), &to.join("Cargo.toml"))?;
        }
        copy_file(&root.join("Cargo.lock"), &folder.join("Cargo.lock"))?;
        // Versions, lints and the profile are the project's own.
        let manifest = fs::read_to_string(root.join("Cargo.toml")).context("read Cargo.toml")?;
        let mut lines: Vec<&str> = manifest.lines().collect();
        let members = lines.iter_mut().find(|line| line.starts_with("members = "));
        *members.context("Cargo.toml has no line with its members")? =
            "members = [\"supervisor\", \"init/base\", \"simulation\"]";
        fs::write(folder.join("Cargo.toml"), lines.join("\n"))?;
        let binary = target.join("mutants/target/simulation/simulate");
        Ok(Self { folder, binary })
    }

    /// Plants a bug, looks whether it is found, and takes it out again.
    fn with(&self, mutant: &Mutant) -> Result<Verdict> {
        let path = self.folder.join("supervisor/src/core").join(mutant.file);
        let whole = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let times = whole.matches(mutant.find).count();
        ensure!(
            times == 1,
            "{:?} is {times} times in {}, not once",
            mutant.find,
            mutant.file
        );
        fs::write(&path, whole.replace(mutant.find, mutant.replace))?;
        let verdict = self.simulate();
        fs::write(&path, whole)?;
        verdict
    }

    fn simulate(&self) -> Result<Verdict> {
        let target = self
            .binary
            .ancestors()
            .nth(2)
            .context("a target directory")?;
        let build = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--profile",
                "simulation",
                "--bin",
                "simulate",
            ])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", target)
            // Only what a bug touches is built again, and it runs for seconds only.
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_SIMULATION_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_SIMULATION_CODEGEN_UNITS", "64")
            .env("RUSTFLAGS", "-Awarnings")
            .output()
            .context("run cargo")?;
        ensure!(
            build.status.success(),
            "it does not build:\n{}",
            text(&build.stderr)
        );
        let run = Command::new(&self.binary)
            .args(RUN)
            .output()
            .context("run the simulation")?;
        let said = text(&run.stdout);
        match run.status.code() {
            Some(0) => Ok(Verdict::Passed),
            Some(1) => {
                let line = said.lines().find(|line| line.starts_with("seed="));
                let mut words = line.with_context(|| said.clone())?.split_whitespace();
                let mut value = |key: &str| {
                    let word = words.next().and_then(|word| word.strip_prefix(key));
                    word.map(str::to_owned)
                        .with_context(|| format!("{key} in {said}"))
                };
                Ok(Verdict::Found {
                    seed: value("seed=")?,
                    law: value("law=")?,
                })
            }
            other => bail!(
                "the simulation ended with {other:?}:\n{}",
                text(&run.stderr)
            ),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            copy_file(&entry.path(), &target)?;
        }
    }
    Ok(())
}
