//! What the harness needs from a Debian or Ubuntu host.
//!
//! Nearly everything comes from the tools root. What is left are the programs that make the tools
//! root and enter it, and the Rust target of the binary that ships. What is missing is installed
//! when we are root and may, and otherwise named together with the command that installs it.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program, and the package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("cp", "coreutils"),
    ("dpkg-deb", "dpkg"),
    ("mount", "mount"),
    ("unshare", "util-linux"),
];
/// Linking a Rust program for the host needs the start files of its C library.
const FILES: &[(&str, &str)] = &[
    ("/usr/lib/x86_64-linux-gnu/crt1.o", "libc6-dev"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];
/// Locked by whoever installs; `netcfg/tests/bed/tools.rs` has the same. In `/run`, which is root's alone: in
/// `/tmp`, root would truncate whatever a stranger has put there under this name.
const INSTALLING: &str = "/run/astromesh-init.apt";
/// The target of the binary that ships.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Installs what is missing.
///
/// # Errors
/// When something is missing and cannot be installed; the message has the command to run.
pub fn prepare() -> Result<()> {
    let _one = installing();
    let missing: BTreeSet<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .chain(FILES.iter().filter(|(file, _)| !Path::new(file).exists()))
        .map(|(_, package)| *package)
        .collect();
    apt_install(&missing)?;
    rust_target()
}

/// Installs those of these programs of the host that are missing; each comes with its package.
///
/// # Errors
/// As [`prepare`].
pub fn install(programs: &[(&str, &str)]) -> Result<()> {
    let _one = installing();
    let missing = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    apt_install(&missing)
}

/// Waits for whoever else of this project is installing, the tests of netcfg included: apt-get itself gives
/// up at once. Who may not lock may not install either.
fn installing() -> Option<File> {
    let lock = File::create(INSTALLING).ok()?;
    lock.lock().ok()?;
    Some(lock)
}

fn apt_install(packages: &BTreeSet<&str>) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = packages.iter().copied().collect();
    let names = packages.join(" ");
    let by_hand =
        format!("apt-get update && apt-get install --yes --no-install-recommends {names}");
    ensure!(
        find("apt-get").is_some(),
        "missing: {names}. Only Debian and Ubuntu hosts are known here; there the command is \
         `{by_hand}`"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "missing: {names}. Run as root: {by_hand}"
    );
    eprintln!("installing {names}");
    for arguments in [
        vec!["update", "--quiet"],
        [
            vec!["install", "--yes", "--quiet", "--no-install-recommends"],
            packages,
        ]
        .concat(),
    ] {
        let status = Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(&arguments)
            .stdin(std::process::Stdio::null())
            .status()
            .context("cannot run apt-get")?;
        if !status.success() {
            bail!(
                "`apt-get {}` failed; by hand: {by_hand}",
                arguments.join(" ")
            );
        }
    }
    Ok(())
}

/// The toolchain file of the workspace names the target, so rustup has it already; a cargo that
/// did not come through rustup may lack it.
fn rust_target() -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("cannot run rustc")?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && folder.is_dir() {
        return Ok(());
    }
    let by_hand = format!("rustup target add {TARGET}");
    ensure!(
        find("rustup").is_some(),
        "rustc has no standard library for {TARGET}; with rustup: {by_hand}"
    );
    eprintln!("installing the Rust target {TARGET}");
    let status = Command::new("rustup")
        .args(["target", "add", TARGET])
        .status()
        .context("cannot run rustup")?;
    ensure!(status.success(), "`{by_hand}` failed");
    Ok(())
}

/// Looks a program up like a shell, and in the system's folders that a user's PATH may lack.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_like_a_shell_does() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-here"), None);
    }
}
