//! Lock files: which Debian packages make up a tree, to the byte.
//!
//! `NAME.list` says what is wanted and why, for people. `NAME.lock` says what that came to:
//! one line per package with version, sha256, size and place in the archive, sorted. apt
//! resolves the list against the signed index of trixie when the lock is renewed; a build
//! trusts the sha256 alone, so the mirror it takes the bytes from does not matter.
//!
//! Two ways to resolve: the tools root wants everything its programs depend on; the image
//! wants exactly the packages named, because most of what a dependency would bring (a shell,
//! dpkg, an init system) is what the image must not hold. The image build checks by itself
//! that every library an ELF file asks for is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::fetch::Mirror;
use crate::paths::Paths;

/// The suites a lock is resolved against. Security updates reach `trixie` with each point
/// release and `trixie-updates` before that.
const SUITES: &str = "trixie trixie-updates";

/// One package of a lock file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Binary package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// SHA-256 of the .deb, lower-case hex.
    pub sha256: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// Path below the mirror's base address, `pool/main/...`.
    pub path: String,
}

/// A lock file, read and checked.
#[derive(Debug, Clone)]
pub struct Lock {
    /// The file it came from, for error messages.
    pub file: PathBuf,
    /// The packages, sorted by name.
    pub packages: Vec<Package>,
}

impl Lock {
    /// Reads `file`.
    ///
    /// # Errors
    /// When it cannot be read or a line is not `name version sha256 size path`.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| {
            format!(
                "cannot read the lock file {} (`cargo vm lock` writes it)",
                file.display()
            )
        })?;
        let mut packages = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            packages.push(
                parse_line(line)
                    .with_context(|| format!("{}:{}: bad lock line", file.display(), index + 1))?,
            );
        }
        ensure!(
            !packages.is_empty(),
            "{}: the lock file names no package",
            file.display()
        );
        Ok(Self {
            file: file.to_path_buf(),
            packages,
        })
    }

    /// A name for the tree these packages unpack to.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for package in &self.packages {
            hash.update(format!("{} {}\n", package.name, package.sha256));
        }
        hex(&hash.finalize())
    }

    /// The locked package called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

fn parse_line(line: &str) -> Result<Package> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [name, version, sha256, size, path] = fields[..] else {
        bail!(
            "expected `name version sha256 size path`, found {} fields",
            fields.len()
        );
    };
    ensure!(
        sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()),
        "`{sha256}` is not a sha256 in hex"
    );
    ensure!(
        path.starts_with("pool/") && !path.contains("..") && path.ends_with(".deb"),
        "`{path}` is not a place in the package pool"
    );
    Ok(Package {
        name: name.to_owned(),
        version: version.to_owned(),
        sha256: sha256.to_ascii_lowercase(),
        size: size
            .parse()
            .with_context(|| format!("`{size}` is not a size in bytes"))?,
        path: path.to_owned(),
    })
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The names in a `.list` file: the first word of each line, `#` starts the reason.
///
/// # Errors
/// When the file cannot be read.
pub fn read_list(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read the package list {}", file.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split('#').next())
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// How far a list is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// With all dependencies.
    Closure,
    /// Only what is named; a metapackage of a kernel stands for the kernel it points to.
    Named,
}

/// Resolves `list` against the archive and writes `lock`; returns what changed, for people.
///
/// # Errors
/// When apt is not there, the archive cannot be reached or its signature does not verify, or
/// a package does not exist.
pub fn renew(paths: &Paths, list: &Path, lock: &Path, how: Resolve) -> Result<String> {
    let names = read_list(list)?;
    ensure!(
        !names.is_empty(),
        "{}: the list names no package",
        list.display()
    );
    let apt = Apt::prepare(paths)?;
    let wanted = match how {
        Resolve::Closure => apt
            .closure(&names)
            .with_context(|| format!("cannot resolve {}", list.display()))?,
        Resolve::Named => names.iter().cloned().collect(),
    };
    let mut packages = apt.show(&wanted)?;
    if how == Resolve::Named {
        // `linux-image-cloud-amd64` is empty and depends on the kernel of one version.
        let real: BTreeSet<String> = packages
            .iter()
            .filter(|(package, _)| package.name.starts_with("linux-image-") && package.size < 65536)
            .filter_map(|(_, depends)| {
                depends
                    .split([' ', ','])
                    .find(|name| name.starts_with("linux-image-"))
            })
            .map(str::to_owned)
            .collect();
        packages.retain(|(package, _)| {
            !(package.name.starts_with("linux-image-") && package.size < 65536)
        });
        if !real.is_empty() {
            packages.extend(apt.show(&real)?);
        }
    }
    let mut packages: Vec<Package> = packages.into_iter().map(|(package, _)| package).collect();
    packages.sort();
    packages.dedup();
    let old = if lock.exists() {
        Lock::read(lock)?.packages
    } else {
        Vec::new()
    };
    let mut text = format!(
        "# Written by `cargo vm lock` from {}; do not edit.\n# name version sha256 size path\n",
        list.file_name().unwrap_or_default().to_string_lossy()
    );
    for package in &packages {
        let Package {
            name,
            version,
            sha256,
            size,
            path,
        } = package;
        let _ = writeln!(text, "{name} {version} {sha256} {size} {path}");
    }
    fs::write(lock, text).with_context(|| format!("cannot write {}", lock.display()))?;
    Ok(difference(&old, &packages))
}

fn difference(old: &[Package], new: &[Package]) -> String {
    let by_name = |list: &[Package]| -> BTreeMap<String, String> {
        list.iter()
            .map(|package| (package.name.clone(), package.version.clone()))
            .collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let mut text = String::new();
    for (name, version) in &new {
        let _ = match old.get(name) {
            None => writeln!(text, "  + {name} {version}"),
            Some(before) if before != version => {
                writeln!(text, "  ~ {name} {before} -> {version}")
            }
            Some(_) => Ok(()),
        };
    }
    for (name, version) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        let _ = writeln!(text, "  - {name} {version}");
    }
    if text.is_empty() {
        "  nothing changed\n".to_owned()
    } else {
        text
    }
}

/// apt with its own state: it knows trixie and an empty machine, whatever the host is.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn prepare(paths: &Paths) -> Result<Self> {
        let keyring = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
        ensure!(
            keyring.exists(),
            "{} is missing, so the archive's signature cannot be checked: `apt-get install debian-archive-keyring`",
            keyring.display()
        );
        let mirror = Mirror::find()?;
        let state = paths.cache.join("apt");
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(folder))
                .with_context(|| format!("cannot make {}", state.display()))?;
        }
        fs::write(state.join("status"), "")?;
        let sources = state.join("trixie.sources");
        fs::write(
            &sources,
            format!(
                "Types: deb\nURIs: {}\nSuites: {SUITES}\nComponents: main\nSigned-By: {}\n",
                mirror.base,
                keyring.display()
            ),
        )?;
        let state = state.display();
        let options = [
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures::=amd64".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            format!("Dir::State={state}"),
            format!("Dir::State::status={state}/status"),
            format!("Dir::Cache={state}/cache"),
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
        ];
        let apt = Self {
            options: options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option])
                .collect(),
        };
        eprintln!("reading the package index of trixie from {}", mirror.base);
        apt.run("apt-get", &["update", "-qq", "--error-on=any"])?;
        Ok(apt)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .env_remove("APT_CONFIG")
            .env("LC_ALL", "C")
            .args(&self.options)
            .args(arguments)
            .output()
            .with_context(|| {
                format!("cannot run {program}; locking packages needs a Debian or Ubuntu host")
            })?;
        ensure!(
            output.status.success(),
            "{program} {} failed:\n{}",
            arguments.first().unwrap_or(&""),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The names of all packages an empty machine needs to have `names`.
    fn closure(&self, names: &[String]) -> Result<BTreeSet<String>> {
        let mut arguments = vec!["install", "-qq", "--print-uris"];
        arguments.extend(names.iter().map(String::as_str));
        let text = self.run("apt-get", &arguments)?;
        // 'address' name_version_arch.deb size hash
        text.lines()
            .filter(|line| line.starts_with('\''))
            .map(|line| {
                let file = line
                    .split_ascii_whitespace()
                    .nth(1)
                    .context("apt printed an address without a file")?;
                Ok(file.split('_').next().unwrap_or(file).to_owned())
            })
            .collect()
    }

    /// The candidate version of each package with its `Depends`.
    fn show(&self, names: &BTreeSet<String>) -> Result<Vec<(Package, String)>> {
        let mut arguments = vec!["show", "--no-all-versions"];
        arguments.extend(names.iter().map(String::as_str));
        let text = self.run("apt-cache", &arguments)?;
        let mut found = Vec::new();
        for stanza in text
            .split("\n\n")
            .filter(|stanza| stanza.contains("Package: "))
        {
            let field = |name: &str| -> Result<String> {
                stanza
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .map(str::to_owned)
                    .with_context(|| {
                        format!("the package index has a stanza without {name}:\n{stanza}")
                    })
            };
            let line = [
                field("Package")?,
                field("Version")?,
                field("SHA256")?,
                field("Size")?,
                field("Filename")?,
            ];
            found.push((
                parse_line(&line.join(" "))?,
                field("Depends").unwrap_or_default(),
            ));
        }
        for name in names {
            ensure!(
                found.iter().any(|(package, _)| package.name == *name),
                "trixie has no package called `{name}`: correct the list"
            );
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_line_is_read_back() {
        let hash = "ab".repeat(32);
        let package = parse_line(&format!(
            "zlib1g 1:1.3 {hash} 99 pool/main/z/zlib/zlib1g_1.3_amd64.deb"
        ))
        .unwrap();
        assert_eq!((package.name.as_str(), package.size), ("zlib1g", 99));
    }

    #[test]
    fn lines_that_lead_elsewhere_are_refused() {
        let hash = "ab".repeat(32);
        for line in [
            format!("a 1 {hash} 9 pool/../../etc/passwd.deb"),
            format!("a 1 {hash} 9 http://x/y.deb"),
            format!("a 1 {hash} -9 pool/a.deb"),
            "a 1 abcd 9 pool/a.deb".to_owned(),
            "a 1".to_owned(),
        ] {
            assert!(parse_line(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn changes_are_named() {
        let package = |name: &str, version: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: String::new(),
            size: 0,
            path: String::new(),
        };
        let text = difference(
            &[package("a", "1"), package("b", "1")],
            &[package("a", "2"), package("c", "1")],
        );
        assert_eq!(text, "  ~ a 1 -> 2\n  + c 1\n  - b 1\n");
    }
}
