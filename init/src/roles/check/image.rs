//! What the configuration, and init itself, need of the root of the image.

use super::{Findings, program};
use crate::config::Config;
use crate::devices::modules::Modules;
use crate::system::{built_in, prepare};
use std::collections::BTreeSet;
use std::path::Path;
use supervisor::core::ProbeKind;
use supervisor::driver::Users;
use supervisor::spec::{ProbeTarget, Spec};

/// Looks for all of it; returns the users of the image.
pub(super) fn check(config: &Config, root: &Path, findings: &mut Findings<'_>) -> Option<Users> {
    let users = match Users::read(root) {
        Ok(users) => users,
        Err(e) => {
            findings.error(&[], e.to_string());
            return None;
        }
    };
    roles(config, &users, root, findings);
    for spec in &config.services {
        service(spec, &users, root, findings);
    }
    for (number, entry) in config.directories.iter().enumerate() {
        let user = entry.user.as_deref().and_then(|u| users.user(u).err());
        let group = entry.group.as_deref().and_then(|g| users.group(g).err());
        for (key, e) in [("user", user), ("group", group)] {
            if let Some(e) = e {
                findings.directory(number, key, format!("directory {:?}: {e}", entry.path));
            }
        }
    }
    modules(config, root, findings);
    Some(users)
}

/// Users and groups that init's own services and directories have.
fn roles(config: &Config, users: &Users, root: &Path, findings: &mut Findings<'_>) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for spec in built_in::own(config).unwrap_or_default() {
        names.extend(spec.user);
    }
    let directories = prepare::own_directories();
    let missing = names
        .iter()
        .chain(directories.iter().filter_map(|d| d.user.as_ref()))
        .filter_map(|name| users.user(name).err().map(|_| ("user", "passwd", name)));
    let groups = directories.iter().filter_map(|d| d.group.as_ref());
    let missing =
        missing.chain(groups.filter_map(|g| users.group(g).err().map(|_| ("group", "group", g))));
    for (kind, file, name) in missing {
        let file = root.join("etc").join(file);
        let message = format!(
            "the {kind} {name:?}, which init's own {name} runs as, is not in {}; add it to the image",
            file.display()
        );
        findings.error(&[], message);
    }
}

fn service(spec: &Spec, users: &Users, root: &Path, findings: &mut Findings<'_>) {
    let name = spec.name.as_str();
    if let Some(Err(e)) = spec.user.as_deref().map(|u| users.user(u)) {
        findings.service(name, "user", &e);
    }
    if let Some(Err(e)) = spec.group.as_deref().map(|g| users.group(g)) {
        findings.service(name, "group", &e);
    }
    for e in spec.groups.iter().filter_map(|g| users.group(g).err()) {
        findings.service(name, "groups", &e);
    }
    for (key, program) in programs(spec) {
        if let Err(e) = program::check(root, program) {
            findings.service(name, &key, &e);
        }
    }
}

/// Every program that a service starts, and the key that names it.
fn programs(spec: &Spec) -> impl Iterator<Item = (String, &str)> {
    let probes = ProbeKind::ALL
        .iter()
        .filter_map(|kind| match &spec.probe(*kind)?.target {
            ProbeTarget::Exec(command) => Some((format!("probe.{}.exec", kind.name()), command)),
            ProbeTarget::Http { .. } | ProbeTarget::Tcp(_) => None,
        });
    let checks = spec.pre_start.iter().map(|c| ("pre-start".to_owned(), c));
    [("exec".to_owned(), &spec.exec)]
        .into_iter()
        .chain(checks)
        .chain(probes)
        .filter_map(|(key, command)| Some((key, command.first()?.as_str())))
}

/// Kernel modules, in the tables of every kernel that the image has.
fn modules(config: &Config, root: &Path, findings: &mut Findings<'_>) {
    let folder = root.join("usr/lib/modules");
    let kernels = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut tables: Vec<Modules> = Vec::new();
    for kernel in kernels.filter(|kernel| kernel.path().is_dir()) {
        match Modules::read(&kernel.path()) {
            Ok(read) => tables.push(read),
            Err(e) => findings.error(&[], format!("{e}; run depmod on the root")),
        }
    }
    for (path, module) in config.kernel_modules() {
        let message = match tables.iter().find(|table| !table.knows(module)) {
            Some(table) => format!(
                "module {module:?} is not in {}",
                table.directory().display()
            ),
            None if tables.is_empty() => {
                format!(
                    "module {module:?}: there are no modules in {}",
                    folder.display()
                )
            }
            None => continue,
        };
        findings.error(path, format!("{}: {message}", path.join(".")));
    }
}
