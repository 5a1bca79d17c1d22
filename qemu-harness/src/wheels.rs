//! The runtime's Python packages: locked by hash, fetched and unpacked by pip.
//!
//! `image/runtime.pin` names the release of the runtime. Locking asks pip which wheels that
//! release comes to for the interpreter of the image and writes one line per wheel with its
//! sha256; fetching then takes exactly those files. Only wheels are taken: nothing is compiled,
//! so no code of a package runs before it is in the image.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::fetch::assignments;
use crate::lock::hex;
use crate::paths::Paths;
use crate::tools::{Tools, run};

/// A locked wheel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wheel {
    /// Name as the package index spells it.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// `image/requirements.lock`, read.
#[derive(Debug, Clone)]
pub struct Wheels {
    file: PathBuf,
    /// The wheels, sorted by name.
    pub list: Vec<Wheel>,
}

impl Wheels {
    /// Reads the lock file.
    ///
    /// # Errors
    /// When it is missing or a line is not `name==version --hash=sha256:HEX`.
    pub fn read(paths: &Paths) -> Result<Self> {
        let file = paths.image_definition().join("requirements.lock");
        let text = fs::read_to_string(&file).with_context(|| {
            format!(
                "cannot read {} (`cargo vm lock wheels` writes it)",
                file.display()
            )
        })?;
        let mut list = Vec::new();
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.starts_with('#'))
        {
            list.push(parse_line(line).with_context(|| {
                format!(
                    "{}:{}: expected `name==version --hash=sha256:HEX`",
                    file.display(),
                    index + 1
                )
            })?);
        }
        let wheels = Self { file, list };
        let pinned = pinned_version(paths)?;
        let locked = wheels.version("astromesh");
        ensure!(
            locked == Some(pinned.as_str()),
            "{} has astromesh {}, but image/runtime.pin asks for {pinned}: run `cargo vm lock wheels`",
            wheels.file.display(),
            locked.unwrap_or("not at all")
        );
        Ok(wheels)
    }

    /// The version of the wheel called `name`.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&str> {
        self.list
            .iter()
            .find(|wheel| wheel.name == name)
            .map(|wheel| wheel.version.as_str())
    }

    /// Names this set of wheels.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for wheel in &self.list {
            hash.update(&wheel.sha256);
        }
        hex(&hash.finalize())
    }

    /// Unpacks all wheels into the folder `site`.
    ///
    /// # Errors
    /// When a wheel is not to be had or does not have the locked hash.
    pub fn install(&self, paths: &Paths, tools: &Tools, site: &Path) -> Result<()> {
        let store = paths.cache.join("wheels").join(&self.digest()[..16]);
        if !store.is_dir() {
            eprintln!("fetching {} wheels", self.list.len());
            let fresh = store.with_extension(format!("{}", std::process::id()));
            fs::create_dir_all(&fresh)
                .with_context(|| format!("cannot make {}", fresh.display()))?;
            let mut pip = tools.command("pip");
            pip.args([
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--only-binary",
                ":all:",
                "-r",
            ]);
            run(pip.arg(&self.file).arg("-d").arg(&fresh)).with_context(|| {
                format!(
                    "cannot fetch the wheels of {}; if the index no longer has one, `cargo vm lock wheels` locks anew",
                    self.file.display()
                )
            })?;
            if fs::rename(&fresh, &store).is_err() {
                // Another build was quicker.
                fs::remove_dir_all(&fresh)?;
            }
        }
        let mut pip = tools.command("pip");
        pip.args([
            "install",
            "--quiet",
            "--root-user-action=ignore",
            "--no-deps",
            "--no-index",
            "--no-compile",
        ]);
        pip.args(["--require-hashes", "--find-links"])
            .arg(&store)
            .arg("-r")
            .arg(&self.file)
            .arg("--target")
            .arg(site);
        run(&mut pip)
            .with_context(|| format!("cannot unpack the wheels into {}", site.display()))?;
        Ok(())
    }
}

fn parse_line(line: &str) -> Result<Wheel> {
    let (package, hash) = line.split_once(" --hash=sha256:").context("no hash")?;
    let (name, version) = package.split_once("==").context("no version")?;
    ensure!(
        hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
        "not a sha256"
    );
    Ok(Wheel {
        name: name.to_owned(),
        version: version.to_owned(),
        sha256: hash.to_owned(),
    })
}

/// The release of the runtime that `image/runtime.pin` asks for, without the leading `v`.
///
/// # Errors
/// When the file is missing or has no `ASTROMESH_REF`.
pub fn pinned_version(paths: &Paths) -> Result<String> {
    let file = paths.image_definition().join("runtime.pin");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let pin = assignments(&text);
    let reference = pin
        .get("ASTROMESH_REF")
        .with_context(|| format!("{}: no line ASTROMESH_REF=vVERSION", file.display()))?;
    Ok(reference.trim_start_matches('v').to_owned())
}

/// Asks the index which wheels the pinned release comes to, and writes `requirements.lock`;
/// returns what changed, for people.
///
/// # Errors
/// When the index cannot be reached or has no wheel for something.
pub fn renew(paths: &Paths, tools: &Tools) -> Result<String> {
    let version = pinned_version(paths)?;
    let report = tools.output(
        "pip",
        &[
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--break-system-packages",
            "--only-binary",
            ":all:",
            "--report",
            "-",
            &format!("astromesh=={version}"),
        ],
    )?;
    let report: serde_json::Value =
        serde_json::from_str(&report).context("pip's report is not JSON")?;
    let mut wheels = Vec::new();
    for item in report["install"]
        .as_array()
        .context("pip's report names no packages")?
    {
        let text = |value: &serde_json::Value| {
            value
                .as_str()
                .map(str::to_owned)
                .context("pip's report lacks a field")
        };
        wheels.push(Wheel {
            name: text(&item["metadata"]["name"])?
                .to_lowercase()
                .replace(['_', '.'], "-"),
            version: text(&item["metadata"]["version"])?,
            sha256: text(&item["download_info"]["archive_info"]["hashes"]["sha256"])?,
        });
    }
    wheels.sort();
    let file = paths.image_definition().join("requirements.lock");
    let old: BTreeMap<String, String> = fs::read_to_string(&file)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| parse_line(line).ok())
        .map(|wheel| (wheel.name, wheel.version))
        .collect();
    let mut text =
        String::from("# Written by `cargo vm lock wheels` from runtime.pin; do not edit.\n");
    let mut changes = String::new();
    for Wheel {
        name,
        version,
        sha256,
    } in &wheels
    {
        let _ = writeln!(text, "{name}=={version} --hash=sha256:{sha256}");
        let _ = match old.get(name) {
            None => writeln!(changes, "  + {name} {version}"),
            Some(before) if before != version => {
                writeln!(changes, "  ~ {name} {before} -> {version}")
            }
            Some(_) => Ok(()),
        };
    }
    for name in old
        .keys()
        .filter(|name| !wheels.iter().any(|wheel| wheel.name == **name))
    {
        let _ = writeln!(changes, "  - {name}");
    }
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(if changes.is_empty() {
        "  nothing changed\n".to_owned()
    } else {
        changes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let hash = "0f".repeat(32);
        let wheel = parse_line(&format!("uvicorn==0.54.0 --hash=sha256:{hash}")).unwrap();
        assert_eq!(
            (wheel.name.as_str(), wheel.version.as_str()),
            ("uvicorn", "0.54.0")
        );
    }

    #[test]
    fn a_line_without_a_hash_is_refused() {
        for line in [
            "uvicorn==0.54.0",
            "uvicorn --hash=sha256:00",
            "uvicorn==1 --hash=sha256:zz",
            "",
        ] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}
