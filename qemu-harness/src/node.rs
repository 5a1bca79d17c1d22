//! `astromeshd`: our own small package, or the real one when `image/dist/` holds it.
//!
//! The contract is the same, so nothing else in the image knows which one it is. A wheel takes
//! the place of our package in the virtual environment. A Debian package brings an environment
//! of its own, interpreter and runtime included, and then ours is not made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::Paths;
use crate::python::SITE;
use crate::rootfs::make_executable;
use crate::tools::{Tools, run};
use crate::tree;

/// The entry point. Its interpreter is that of the virtual environment, which finds the
/// packages by the path it was started from.
const LAUNCHER: &str = "#!/opt/astromesh/venv/bin/python3
import sys

from astromesh_node.daemon import main

sys.exit(main())
";
/// The same for a Debian package: what the package itself would start.
const DEB_LAUNCHER: &str = "#!/opt/astromesh/venv/bin/python3
import runpy

runpy.run_path(\"/opt/astromesh/venv/bin/astromeshd\", run_name=\"__main__\")
";
/// What a Debian package must hold: the path is part of the contract.
const DEB_ENTRY: &str = "opt/astromesh/venv/bin/astromeshd";

/// Where `astromeshd` comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `image/astromesh-node`.
    Own(PathBuf),
    /// A wheel in `image/dist`.
    Wheel(PathBuf),
    /// A Debian package in `image/dist`.
    Deb(PathBuf),
}

/// Looks into `image/dist`.
///
/// # Errors
/// When it holds more than one candidate.
pub fn find(paths: &Paths) -> Result<Source> {
    let own = Source::Own(paths.image_definition().join("astromesh-node"));
    let folder = paths.image_definition().join("dist");
    if !folder.is_dir() {
        return Ok(own);
    }
    let mut found: Vec<Source> = tree::files(&folder)?
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            if name.starts_with("astromesh_node-") && name.ends_with(".whl") {
                Some(Source::Wheel(path))
            } else if name.starts_with("astromesh-node_") && name.ends_with(".deb") {
                Some(Source::Deb(path))
            } else {
                None
            }
        })
        .collect();
    let first = found.pop();
    if !found.is_empty() {
        bail!(
            "{} holds more than one astromesh-node: leave one",
            folder.display()
        );
    }
    Ok(first.unwrap_or(own))
}

/// Puts `astromeshd` into `root`; gives the files besides `/usr/bin/astromeshd` that must be
/// executable, relative to the root.
///
/// # Errors
/// When it cannot be unpacked or holds no `astromeshd`.
pub fn install(source: &Source, tools: &Tools, root: &Path) -> Result<Vec<String>> {
    let mut executables = Vec::new();
    let mut launcher = LAUNCHER;
    match source {
        Source::Own(folder) => {
            let package = "astromesh_node";
            tree::copy(&folder.join(package), &root.join(SITE).join(package))?;
        }
        Source::Wheel(wheel) => {
            eprintln!("taking astromeshd from {}", wheel.display());
            let mut pip = tools.command("pip");
            pip.args([
                "install",
                "--quiet",
                "--root-user-action=ignore",
                "--no-deps",
                "--no-index",
            ]);
            pip.args(["--no-compile", "--upgrade", "--target"]);
            run(pip.arg(root.join(SITE)).arg(wheel))
                .with_context(|| format!("cannot unpack {}", wheel.display()))?;
            ensure!(
                root.join(SITE).join("astromesh_node/daemon.py").exists(),
                "{} holds no astromesh_node.daemon",
                wheel.display()
            );
        }
        Source::Deb(deb) => {
            eprintln!("taking astromeshd from {}", deb.display());
            crate::fetch::unpack(std::slice::from_ref(deb), root)?;
            ensure!(
                root.join(DEB_ENTRY).exists(),
                "{} holds no /{DEB_ENTRY}",
                deb.display()
            );
            launcher = DEB_LAUNCHER;
            executables = interpreters(root)?;
            for unused in [
                "lib/systemd",
                "usr/lib/systemd",
                "usr/share/doc",
                "usr/share/man",
            ] {
                tree::remove(&root.join(unused))?;
            }
        }
    }
    let path = root.join("usr/bin/astromeshd");
    let _ = fs::remove_file(&path);
    fs::write(&path, launcher).with_context(|| format!("cannot write {}", path.display()))?;
    make_executable(&path)?;
    Ok(executables)
}

/// The interpreters of the package's own: files, not links, called `python3*` in a `bin`.
fn interpreters(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    tree::walk(&root.join("opt/astromesh"), &mut |path, kind| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let in_bin = path.parent().is_some_and(|folder| folder.ends_with("bin"));
        if kind.is_file() && in_bin && name.starts_with("python3") && !name.contains("config") {
            found.push(path.strip_prefix(root)?.display().to_string());
        }
        Ok(())
    })?;
    Ok(found)
}

/// Runs the tests of our package against the runtime that is in the image, under the
/// interpreter of the tools root, which is of the same version.
///
/// # Errors
/// When a test fails; the error holds its last lines.
pub fn test(paths: &Paths, tools: &Tools, root: &Path) -> Result<()> {
    let mut command = tools.command("python3");
    command
        .current_dir(paths.image_definition().join("astromesh-node"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", root.join(SITE))
        .args(["-m", "unittest", "discover", "-s", "tests"]);
    run(&mut command).map(drop)
}
