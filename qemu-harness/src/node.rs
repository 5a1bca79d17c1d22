//! `astromeshd`: our own small package, or the real one when `image/dist/` holds it.
//!
//! The contract is the same, so nothing else in the image knows which one it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::Paths;
use crate::rootfs::{SITE, make_executable};
use crate::tools::{Tools, run};
use crate::tree;

/// The entry point. Its interpreter is that of the virtual environment, which finds the
/// packages by the path it was started from.
const LAUNCHER: &str = "#!/opt/astromesh/venv/bin/python3
import sys

from astromesh_node.daemon import main

sys.exit(main())
";

/// Puts `astromeshd` into `root`.
///
/// # Errors
/// When `image/dist/` holds more than one candidate, or one that cannot be unpacked.
pub fn install(paths: &Paths, tools: &Tools, root: &Path) -> Result<()> {
    let launcher = root.join("usr/bin/astromeshd");
    match dist(paths)? {
        None => {
            let package = "astromesh_node";
            tree::copy(
                &paths
                    .image_definition()
                    .join("astromesh-node")
                    .join(package),
                &root.join(SITE).join(package),
            )?;
        }
        Some(wheel) if wheel.extension().is_some_and(|ext| ext == "whl") => {
            eprintln!("taking astromeshd from {}", wheel.display());
            let mut pip = tools.command("pip");
            pip.args([
                "install",
                "--quiet",
                "--root-user-action=ignore",
                "--no-deps",
                "--no-index",
                "--no-compile",
                "--upgrade",
            ]);
            run(pip.arg("--target").arg(root.join(SITE)).arg(&wheel))
                .with_context(|| format!("cannot unpack {}", wheel.display()))?;
        }
        Some(deb) => {
            eprintln!("taking astromeshd from {}", deb.display());
            crate::fetch::unpack(std::slice::from_ref(&deb), root)?;
            let own = ["opt/astromesh/venv/bin/astromeshd", "usr/bin/astromeshd"];
            ensure!(
                own.iter().any(|path| root.join(path).exists()),
                "{} holds no astromeshd",
                deb.display()
            );
            if !launcher.exists() {
                std::os::unix::fs::symlink("/opt/astromesh/venv/bin/astromeshd", &launcher)?;
            }
            return Ok(());
        }
    }
    fs::write(&launcher, LAUNCHER)
        .with_context(|| format!("cannot write {}", launcher.display()))?;
    make_executable(&launcher)
}

/// The wheel or Debian package in `image/dist/`, if there is one.
fn dist(paths: &Paths) -> Result<Option<PathBuf>> {
    let folder = paths.image_definition().join("dist");
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut found: Vec<PathBuf> = tree::files(&folder)?
        .into_iter()
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            (name.starts_with("astromesh_node-") && name.ends_with(".whl"))
                || (name.starts_with("astromesh-node_") && name.ends_with(".deb"))
        })
        .collect();
    let first = found.pop();
    if !found.is_empty() {
        bail!(
            "{} holds more than one astromesh-node: leave one",
            folder.display()
        );
    }
    Ok(first)
}
