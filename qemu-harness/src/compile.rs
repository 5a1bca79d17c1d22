//! Compiling init for the image.
//!
//! The harness calls cargo itself, so that one command goes from a clone to a boot. Paths of the
//! machine are taken out of the binary: they would be in its panic messages, and two clones in
//! different folders would give different images.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::image::Kind;
use crate::paths::Paths;

/// Compiles init, or the floor that is an example of its crate, for the musl target; paths of this
/// machine do not get into the binary.
///
/// # Errors
/// When cargo is not there or init does not compile.
pub fn init(paths: &Paths, kind: Kind) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-musl";
    let target = paths
        .out
        .parent()
        .context("the output folder has no parent")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let registry = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut remap = vec![format!(
        "--remap-path-prefix={}=.",
        paths.workspace.display()
    )];
    remap.extend(registry.map(|path| format!("--remap-path-prefix={}=cargo", path.display())));
    let flags: Vec<String> = remap.iter().map(|flag| format!("{flag:?}")).collect();
    let mut command = Command::new(cargo);
    command
        .current_dir(&paths.workspace)
        .env("CARGO_TARGET_DIR", target)
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
        .args(match kind {
            Kind::Floor => ["--example", "floor"],
            Kind::Ours | Kind::Control => ["--bin", "init"],
        })
        .arg("--config")
        .arg(format!("target.{TARGET}.rustflags=[{}]", flags.join(",")));
    let status = command.status().context("cannot run cargo to build init")?;
    ensure!(status.success(), "init does not compile (see above)");
    let program = target.join(TARGET).join(match kind {
        Kind::Floor => "release/examples/floor",
        Kind::Ours | Kind::Control => "release/init",
    });
    ensure!(program.exists(), "cargo built no {}", program.display());
    Ok(program)
}
