//! Kernel modules: which of the kernel's go into a tree, with all they depend on.
//!
//! The kernel package has over a thousand modules; `image/modules.*.list` name the few that an
//! appliance in a virtual machine or cloud needs. What those depend on is read from the index
//! that depmod makes of the whole package, and depmod runs again over what was chosen, so that
//! the tree's own index names only what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::lock::read_list;
use crate::tools::{Tools, run};

/// Files of the kernel package that depmod reads and init looks into.
const INDEX_INPUTS: [&str; 3] = [
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.order",
];
/// Written by depmod for kmod's library; init reads the text files.
const BINARY_SUFFIX: &str = ".bin";

/// The modules of one kernel package.
#[derive(Debug)]
pub struct Kernel {
    /// The kernel's release, `uname -r`.
    pub release: String,
    folder: PathBuf,
    dependencies: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

/// Modules are named with `-` in files and `_` in the kernel; both mean the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split(".ko").next().unwrap_or(file))
}

impl Kernel {
    /// Reads the only kernel under `tree/usr/lib/modules`, indexing it with depmod.
    ///
    /// # Errors
    /// When there is not exactly one, or depmod fails.
    pub fn read(tools: &Tools, tree: &Path) -> Result<Self> {
        let all = tree.join("usr/lib/modules");
        let mut releases: Vec<String> = fs::read_dir(&all)
            .with_context(|| format!("no kernel modules in {}", all.display()))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let (Some(release), true) = (releases.pop(), releases.is_empty()) else {
            bail!(
                "{}: expected the modules of exactly one kernel",
                all.display()
            );
        };
        let folder = all.join(&release);
        depmod(tools, tree, &release)?;
        let mut dependencies = BTreeMap::new();
        for line in read(&folder.join("modules.dep"))?.lines() {
            let (path, needs) = line
                .split_once(':')
                .context("modules.dep has a line without a colon")?;
            let needs = needs.split_ascii_whitespace().map(name_of).collect();
            dependencies.insert(name_of(path), (path.to_owned(), needs));
        }
        let builtin = read(&folder.join("modules.builtin"))?
            .lines()
            .map(name_of)
            .collect();
        Ok(Self {
            release,
            folder,
            dependencies,
            builtin,
        })
    }

    /// Puts the modules named in the list files, with what they depend on, into `target`.
    ///
    /// # Errors
    /// When a list names a module that the kernel neither has nor has built in.
    pub fn stage(&self, tools: &Tools, lists: &[PathBuf], target: &Path) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for list in lists {
            for name in read_list(list)? {
                let name = canonical(&name);
                ensure!(
                    self.dependencies.contains_key(&name) || self.builtin.contains(&name),
                    "{}: kernel {} has no module `{name}`, neither built in nor to load",
                    list.display(),
                    self.release
                );
                wanted.insert(name);
            }
        }
        let destination = target.join("usr/lib/modules").join(&self.release);
        let mut queue: Vec<String> = wanted.into_iter().collect();
        let mut done = BTreeSet::new();
        let mut compressed = Vec::new();
        while let Some(name) = queue.pop() {
            let Some((path, needs)) = self.dependencies.get(&name) else {
                continue;
            };
            if !done.insert(name) {
                continue;
            }
            queue.extend(needs.iter().cloned());
            copy(&self.folder.join(path), &destination.join(path))?;
            if path.ends_with(".xz") {
                compressed.push(destination.join(path));
            }
        }
        // The kernel would unpack them at every boot, and xz is the slowest there is to unpack:
        // where they lie is compressed already, with something quicker.
        if !compressed.is_empty() {
            run(tools.command("xz").arg("--decompress").args(&compressed))
                .context("cannot unpack kernel modules")?;
        }
        for name in INDEX_INPUTS {
            copy(&self.folder.join(name), &destination.join(name))?;
        }
        depmod(tools, target, &self.release)?;
        for entry in fs::read_dir(&destination)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let unused = [
                "modules.builtin.modinfo",
                "modules.order",
                "modules.symbols",
                "modules.devname",
            ];
            if name.ends_with(BINARY_SUFFIX) || unused.contains(&name.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn depmod(tools: &Tools, tree: &Path, release: &str) -> Result<()> {
    // Without -e and -w: modules of other trees that this one refers to are left out on purpose.
    run(tools
        .command("depmod")
        .arg("-b")
        .arg(tree.join("usr"))
        .arg(release))
    .map(drop)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(name_of("kernel/drivers/md/dm-mod.ko.xz"), "dm_mod");
        assert_eq!(name_of("kernel/drivers/nvme/host/nvme.ko"), "nvme");
    }
}
