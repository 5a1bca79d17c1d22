//! Fetching packages by hash.
//!
//! No server is named in this program. The base address of a Debian mirror is taken from
//! `ASTROMESH_DEBIAN_MIRROR`; else from the host's own apt sources, when the host is Debian;
//! else it is the default that the `debootstrap` package carries, which Debian and Ubuntu
//! both ship and which is installed for that when we are root.
//!
//! apt's own helper does the transfer, so that the host's proxy, certificates and mirror
//! methods hold for us too. Files are kept under their sha256 and checked after every
//! download; a file that is in the cache is what its name says.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::lock::{Lock, Package, hex};
use crate::paths::Paths;

/// The environment variable that names a Debian mirror's base address.
pub const MIRROR_VARIABLE: &str = "ASTROMESH_DEBIAN_MIRROR";
/// apt's downloader: same transports, proxies and certificates as `apt-get`.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";
/// Carries the default mirror of Debian on Debian and Ubuntu hosts alike.
const DEBOOTSTRAP_SCRIPT: &str = "/usr/sbin/debootstrap";
/// Packages per call of the helper: enough to keep a connection busy, few enough for progress.
const BATCH: usize = 40;

/// A Debian mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Base address, without a trailing slash; `dists/` and `pool/` are below it.
    pub base: String,
}

impl Mirror {
    /// Finds the mirror to use, see the head of this module.
    ///
    /// # Errors
    /// When none of the three places names one.
    pub fn find() -> Result<Self> {
        if let Some(base) = env::var(MIRROR_VARIABLE)
            .ok()
            .filter(|value| !value.is_empty())
        {
            return Ok(Self::new(&base));
        }
        if let Some(base) = from_apt_sources(Path::new("/etc/apt")) {
            return Ok(Self::new(&base));
        }
        if !Path::new(DEBOOTSTRAP_SCRIPT).exists() && rustix::process::geteuid().is_root() {
            eprintln!("installing debootstrap, which knows Debian's default mirror");
            let _ = Command::new("apt-get")
                .args([
                    "install",
                    "-y",
                    "-qq",
                    "--no-install-recommends",
                    "debootstrap",
                ])
                .status();
        }
        let script = fs::read_to_string(DEBOOTSTRAP_SCRIPT).with_context(|| {
            format!(
                "no Debian mirror is known here: set {MIRROR_VARIABLE}, or run `apt-get install debootstrap` \
                 (its {DEBOOTSTRAP_SCRIPT} names the default)"
            )
        })?;
        match from_debootstrap(&script) {
            Some(base) => Ok(Self::new(&base)),
            None => bail!("{DEBOOTSTRAP_SCRIPT} names no default mirror: set {MIRROR_VARIABLE}"),
        }
    }

    fn new(base: &str) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
        }
    }
}

/// The first Debian archive in a host's apt sources, of either format.
fn from_apt_sources(folder: &Path) -> Option<String> {
    let mut files = vec![folder.join("sources.list")];
    let mut parts: Vec<PathBuf> = fs::read_dir(folder.join("sources.list.d"))
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    parts.sort();
    files.extend(parts.into_iter().filter(|path| {
        path.extension()
            .is_some_and(|ext| ext == "list" || ext == "sources")
    }));
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| from_sources_text(&text))
}

fn from_sources_text(text: &str) -> Option<String> {
    let archive =
        |word: &str| word.contains("://") && word.trim_end_matches('/').ends_with("/debian");
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("deb ") || line.to_ascii_lowercase().starts_with("uris:"))
        .flat_map(str::split_ascii_whitespace)
        .find(|word| archive(word))
        .map(str::to_owned)
}

/// debootstrap is a shell script that assigns its default to `DEF_MIRROR`.
fn from_debootstrap(script: &str) -> Option<String> {
    script
        .lines()
        .filter_map(|line| line.trim().strip_prefix("DEF_MIRROR="))
        .map(|value| value.trim_matches(['"', '\'', ' ']).to_owned())
        .find(|value| value.trim_end_matches('/').ends_with("/debian"))
}

/// Puts every package of `lock` into the cache; returns the files in the order of the lock.
///
/// # Errors
/// When a package is not to be had or has other bytes than the lock says. A package the
/// archive has dropped is named together with the lock file and the way to renew it.
pub fn packages(paths: &Paths, lock: &Lock) -> Result<Vec<PathBuf>> {
    let store = paths.cache.join("packages");
    fs::create_dir_all(&store).with_context(|| format!("cannot make {}", store.display()))?;
    let place = |package: &Package| store.join(format!("{}.deb", package.sha256));
    let missing: Vec<&Package> = lock
        .packages
        .iter()
        .filter(|package| !place(package).exists())
        .collect();
    if !missing.is_empty() {
        let mirror = Mirror::find()?;
        let bytes: u64 = missing.iter().map(|package| package.size).sum();
        eprintln!(
            "fetching {} packages, {} MB, from {}",
            missing.len(),
            bytes / 1_000_000,
            mirror.base
        );
        let mut done = 0;
        for batch in missing.chunks(BATCH) {
            fetch_batch(&mirror, batch, &store, lock, &place)?;
            done += batch.len();
            eprintln!("  {done} of {}", missing.len());
        }
    }
    Ok(lock.packages.iter().map(place).collect())
}

fn fetch_batch(
    mirror: &Mirror,
    batch: &[&Package],
    store: &Path,
    lock: &Lock,
    place: &dyn Fn(&Package) -> PathBuf,
) -> Result<()> {
    // Another build may fetch the same package at this moment: each has its own folder.
    let folder = store.join(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut command = Command::new(APT_HELPER);
    command.env("LC_ALL", "C").args([
        "-o",
        "APT::Sandbox::User=",
        "-o",
        "Acquire::Retries=3",
        "download-file",
    ]);
    for package in batch {
        command
            .arg(format!("{}/{}", mirror.base, package.path))
            .arg(folder.join(&package.sha256))
            .arg(format!("SHA256:{}", package.sha256));
    }
    let output = command
        .output()
        .with_context(|| format!("cannot run {APT_HELPER}; a Debian or Ubuntu host is needed"))?;
    let mut failed = Vec::new();
    for package in batch {
        let file = folder.join(&package.sha256);
        if file.exists() && sha256_file(&file)? == package.sha256 {
            fs::rename(&file, place(package))
                .with_context(|| format!("cannot keep {}", place(package).display()))?;
        } else {
            failed.push(*package);
        }
    }
    let _ = fs::remove_dir_all(&folder);
    if failed.is_empty() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    bail!(
        "{}",
        explain(&failed, &String::from_utf8_lossy(&said), mirror, lock)
    )
}

/// What went wrong with each package, and what to do about it.
fn explain(failed: &[&Package], said: &str, mirror: &Mirror, lock: &Lock) -> String {
    let mut text = format!(
        "{} of the packages in {} could not be fetched:",
        failed.len(),
        lock.file.display()
    );
    let mut reasons = Vec::new();
    let mut gone = false;
    // apt escapes some characters of the addresses it prints.
    let said = said
        .replace("%2b", "+")
        .replace("%7e", "~")
        .replace("%3a", ":");
    for package in failed {
        let file = package.path.rsplit('/').next().unwrap_or(&package.path);
        // `E: Failed to fetch ADDRESS  REASON`
        let reason = said
            .lines()
            .filter(|line| line.starts_with("E: Failed to fetch"))
            .find_map(|line| Some(line.split_once(&format!("/{file}"))?.1.trim()))
            .or_else(|| said.lines().rfind(|line| line.starts_with("E: ")))
            .unwrap_or("the bytes that came have another hash");
        gone |= reason.starts_with("404") || reason.starts_with("410");
        reasons.push(format!(
            "\n  {} {}: {reason}",
            package.name, package.version
        ));
    }
    text.extend(reasons.iter().take(5).map(String::as_str));
    if reasons.len() > 5 {
        text.push_str("\n  ...");
    }
    if gone {
        text.push_str(&format!(
            "\nThe archive no longer has this version. `cargo vm lock` writes {} anew with the versions it has now; \
             or set {MIRROR_VARIABLE} to an archive that keeps old versions.",
            lock.file.display()
        ));
    } else {
        text.push_str(&format!(
            "\nThe mirror asked was {}; {MIRROR_VARIABLE} names another.",
            mirror.base
        ));
    }
    text
}

/// The SHA-256 of a file, in lower-case hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Unpacks `debs` into `root`, one on each processor, but not more than eight at a time; the packages must not overwrite each other's
/// files with different ones, which packages of one archive do not.
///
/// # Errors
/// When `dpkg-deb` is missing or refuses a file.
pub fn unpack(debs: &[PathBuf], root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(1, 8);
    let queue = std::sync::Mutex::new(debs.iter());
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let Some(deb) = queue.lock().ok().and_then(|mut rest| rest.next()) else {
                            return Ok(());
                        };
                        let output = Command::new("dpkg-deb")
                            .arg("--extract")
                            .args([deb.as_path(), root])
                            .output()
                            .context("cannot run dpkg-deb; a Debian or Ubuntu host is needed")?;
                        ensure!(
                            output.status.success(),
                            "cannot unpack {}: {}",
                            deb.display(),
                            String::from_utf8_lossy(&output.stderr).trim()
                        );
                    }
                })
            })
            .collect();
        handles
            .into_iter()
            .try_for_each(|handle| match handle.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread that unpacked packages ended early"),
            })
    })
}

/// Reads `KEY=value` lines, as in `runtime.pin` and `os-release`.
#[must_use]
pub fn assignments(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            (
                key.trim().to_owned(),
                value.trim().trim_matches('"').to_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let deb822 =
            "Types: deb\n# comment\nURIs: http://mirror.invalid/debian\nSuites: bookworm\n";
        let line = "# deb http://off.invalid/debian x main\ndeb [arch=amd64] https://mirror.invalid/debian/ trixie main\n";
        let ubuntu = "deb http://mirror.invalid/ubuntu noble main\n";
        let security = "URIs: http://mirror.invalid/debian-security\n";
        assert_eq!(
            from_sources_text(deb822).as_deref(),
            Some("http://mirror.invalid/debian")
        );
        assert_eq!(
            from_sources_text(line).as_deref(),
            Some("https://mirror.invalid/debian/")
        );
        assert_eq!(from_sources_text(ubuntu), None);
        assert_eq!(from_sources_text(security), None);
        assert_eq!(
            Mirror::new("http://m.invalid/debian/").base,
            "http://m.invalid/debian"
        );
    }

    #[test]
    fn debootstrap_names_the_default() {
        let script = "#!/bin/sh\nDEF_MIRROR=\"http://d.invalid/debian\"\n";
        assert_eq!(
            from_debootstrap(script).as_deref(),
            Some("http://d.invalid/debian")
        );
        assert_eq!(from_debootstrap("USER_MIRROR=\"\"\n"), None);
    }

    #[test]
    fn a_dropped_package_is_explained() {
        let package = Package {
            name: "kmod".into(),
            version: "34-2".into(),
            sha256: "00".repeat(32),
            size: 1,
            path: "pool/main/k/kmod/kmod_34-2_amd64.deb".into(),
        };
        let lock = Lock {
            file: "image/tools.lock".into(),
            packages: vec![package.clone()],
        };
        let said = "Err:1 http://m.invalid/debian/pool/main/k/kmod/kmod_34-2_amd64.deb\n  404  Not Found [IP: x]\nE: Failed to fetch http://m.invalid/debian/pool/main/k/kmod/kmod_34-2_amd64.deb  404  Not Found\n";
        let text = explain(
            &[&package],
            said,
            &Mirror::new("http://m.invalid/debian"),
            &lock,
        );
        assert!(text.contains("404  Not Found"), "{text}");
        assert!(
            text.contains("kmod 34-2")
                && text.contains("image/tools.lock")
                && text.contains("cargo vm lock"),
            "{text}"
        );
    }
}
