//! Compiling init and its companions for the image.
//!
//! The harness calls cargo itself, so that one command goes from a clone to a boot. Paths of the
//! machine are taken out of the binary: they would be in its panic messages, and two clones in
//! different folders would give different images.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::paths::Paths;
use crate::setup::TARGET;

/// A program of init's crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// init itself.
    Init,
    /// The least that reaches the runtime.
    Floor,
    /// The daemon that stands for the runtime.
    SmallDaemon,
    /// The reporter of the counted benchmark.
    Counted,
    /// init with a fault that the kernel command line names.
    Broken,
}

impl Program {
    /// What cargo calls it: a kind of target, and the name of one.
    fn target(self) -> [&'static str; 2] {
        match self {
            Self::Init => ["--bin", "init"],
            Self::Floor => ["--example", "floor"],
            Self::SmallDaemon => ["--example", "small_daemon"],
            Self::Counted => ["--example", "counted"],
            Self::Broken => ["--example", "broken"],
        }
    }

    /// Where cargo puts it, below the folder of the musl target.
    fn output(self) -> String {
        match self.target() {
            ["--example", name] => format!("release/examples/{name}"),
            [_, name] => format!("release/{name}"),
        }
    }
}

/// Compiles a program for the musl target; paths of this machine do not get into the binary. A process compiles each
/// once: tests ask for the same programs some sixty times, and cargo takes half a second to see that nothing changed.
///
/// # Errors
/// When cargo is not there or the program does not compile.
pub fn program(paths: &Paths, program: Program) -> Result<PathBuf> {
    static COMPILED: Mutex<Vec<(PathBuf, Program, PathBuf)>> = Mutex::new(Vec::new());
    let target = target(paths)?;
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = compiled
        .iter()
        .find(|(place, which, _)| place == target && *which == program);
    if let Some((_, _, built)) = known {
        return Ok(built.clone());
    }
    let built = compile(paths, program, target)?;
    compiled.push((target.to_owned(), program, built.clone()));
    Ok(built)
}

fn compile(paths: &Paths, program: Program, target: &Path) -> Result<PathBuf> {
    let [_, name] = program.target();
    let status = command(paths, program, target)
        .status()
        .with_context(|| format!("cannot run cargo to build {name}"))?;
    ensure!(status.success(), "{name} does not compile (see above)");
    let built = target.join(TARGET).join(program.output());
    ensure!(built.exists(), "cargo built no {}", built.display());
    Ok(built)
}

fn target(paths: &Paths) -> Result<&Path> {
    let parent = paths.out.parent();
    parent.context("the output folder has no parent")
}

fn command(paths: &Paths, program: Program, target: &Path) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let registry = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!(
        "--remap-path-prefix={}=.",
        paths.workspace.display()
    )];
    flags.extend(registry.map(|path| format!("--remap-path-prefix={}=cargo", path.display())));
    let mut command = Command::new(cargo);
    command
        .current_dir(&paths.workspace)
        .env("CARGO_TARGET_DIR", target)
        // Before all other sources of flags, of which cargo takes one alone (cargo's book, `build.rustflags`):
        // with `RUSTFLAGS` in the environment, paths of this machine would be in the binary.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--package",
            "astromesh-init",
        ])
        .args(program.target());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_do_not_bring_paths_into_the_binary() {
        let out = PathBuf::from("/w/target/appliance");
        let paths = Paths {
            workspace: "/w".into(),
            cache: out.clone(),
            out,
        };
        let command = command(&paths, Program::Init, Path::new("/w/target"));
        let mut set = command.get_envs();
        let flags = set.find(|(name, _)| *name == "CARGO_ENCODED_RUSTFLAGS");
        let flags = flags.and_then(|(_, value)| value?.to_str()).unwrap_or("");
        let first = flags.split('\x1f').next();
        assert_eq!(first, Some("--remap-path-prefix=/w=."));
    }
}
