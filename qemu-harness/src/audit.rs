//! What of the root can be executed, and whether it should be.
//!
//! `image/executables.list` names the files that may be; anything else with an execute bit, any
//! setuid or setgid file, and any device node fails the build. The report lists every such file
//! with its size and its reason, and every shared library with those that ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::elf;
use crate::tree;

/// Set-user-ID and set-group-ID, `stat.h`.
const SET_ID: u32 = 0o6000;

/// Checks `root` against the lists and gives the report, JSON.
///
/// # Errors
/// Names every file that breaks a rule.
pub fn audit(root: &Path, lists: &[&Path]) -> Result<String> {
    let mut allowed = BTreeMap::new();
    for list in lists {
        allowed.append(&mut reasons(list)?);
    }
    let mut executables = Vec::new();
    let mut libraries: Vec<(String, u64, bool)> = Vec::new();
    let mut needed_by: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    tree::walk(root, &mut |path, kind| {
        let name = format!(
            "/{}",
            path.strip_prefix(root)
                .context("a path left its tree")?
                .display()
        );
        if !kind.is_file() {
            if !kind.is_dir() && !kind.is_symlink() {
                wrong.push(format!("{name} is neither file, folder nor link"));
            }
            return Ok(());
        }
        let meta = fs::metadata(path)?;
        let mode = meta.permissions().mode();
        if mode & SET_ID != 0 {
            wrong.push(format!(
                "{name} is setuid or setgid (mode {:o})",
                mode & 0o7777
            ));
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let is_elf = elf::is_elf(&bytes);
        if is_elf {
            for library in elf::links(&bytes).with_context(|| name.clone())?.needed {
                needed_by.entry(library).or_default().insert(name.clone());
            }
        }
        if mode & 0o111 != 0 {
            match allowed.remove(&name) {
                Some(why) => {
                    let kind = if is_elf { "elf" } else { "script" };
                    executables
                        .push(json!({"path": name, "size": meta.len(), "kind": kind, "why": why}));
                }
                None => wrong.push(format!("{name} is executable")),
            }
        } else if is_elf && !name.contains("/lib/modules/") {
            libraries.push((name, meta.len(), true));
        }
        Ok(())
    })?;
    wrong.extend(allowed.keys().map(|name| format!("{name} is missing")));
    if !wrong.is_empty() {
        bail!(
            "the root breaks the rules of image/executables.list:
  {}",
            wrong.join(
                "
  "
            )
        );
    }
    let libraries: Vec<Value> = libraries
        .into_iter()
        .map(|(path, size, _)| {
            let file = path.rsplit('/').next().unwrap_or(&path);
            match needed_by.get(file) {
                Some(users) => json!({"path": path, "size": size, "needed-by": users}),
                None => json!({"path": path, "size": size, "why": "extension module of the interpreter"}),
            }
        })
        .collect();
    let report = json!({"executables": executables, "libraries": libraries});
    Ok(format!("{report:#}\n"))
}

/// Path to reason.
fn reasons(list: &Path) -> Result<BTreeMap<String, String>> {
    let text =
        fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('/')) {
        let (path, why) = line
            .split_once('#')
            .with_context(|| format!("{}: `{line}` gives no reason", list.display()))?;
        ensure!(
            !why.trim().is_empty(),
            "{}: `{line}` gives no reason",
            list.display()
        );
        found.insert(path.trim().to_owned(), why.trim().to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("audit-{name}-{}", std::process::id()));
        tree::remove(&folder).unwrap();
        fs::create_dir_all(folder.join("root/usr/bin")).unwrap();
        fs::write(
            folder.join("list"),
            "# x\n/usr/bin/good # runs the service\n",
        )
        .unwrap();
        fs::write(folder.join("root/usr/bin/good"), "#!/x\n").unwrap();
        fs::set_permissions(
            folder.join("root/usr/bin/good"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        folder
    }

    #[test]
    fn what_is_listed_is_reported_with_its_reason() {
        let folder = scratch("good");
        let report = audit(&folder.join("root"), &[&folder.join("list")]).unwrap();
        assert!(
            report.contains("/usr/bin/good") && report.contains("runs the service"),
            "{report}"
        );
        tree::remove(&folder).unwrap();
    }

    #[test]
    fn what_is_not_listed_fails() {
        let folder = scratch("bad");
        let shell = folder.join("root/usr/bin/sh");
        fs::write(&shell, "x").unwrap();
        fs::set_permissions(&shell, fs::Permissions::from_mode(0o4755)).unwrap();
        let error = format!(
            "{:#}",
            audit(&folder.join("root"), &[&folder.join("list")]).unwrap_err()
        );
        assert!(error.contains("/usr/bin/sh is executable"), "{error}");
        assert!(error.contains("/usr/bin/sh is setuid"), "{error}");
        fs::remove_file(folder.join("root/usr/bin/good")).unwrap();
        let error = format!(
            "{:#}",
            audit(&folder.join("root"), &[&folder.join("list")]).unwrap_err()
        );
        assert!(error.contains("/usr/bin/good is missing"), "{error}");
        tree::remove(&folder).unwrap();
    }
}
