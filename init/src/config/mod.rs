//! `init.toml`: what the machine runs.
//!
//! The file is part of the verified root; image builders lay further files beside it, in
//! `init.toml.d/`, read in the order of their names, each laid over what came before key by key.
//! Any file may say only what it changes. All of it is checked before anything is started, by the
//! same code in `init check`, in the image build and at boot; an error names the file, the line and
//! the column, and all errors are told, not only the first.
//!
//! [`document`] turns a text into the form of [`file`], in which everything is optional; the forms of all
//! files are laid over one another; then the sense of the whole is checked here. An error of the form does
//! not hide one of the sense, unless the latter only follows from it.

mod document;
mod error;
mod file;
mod place;
pub mod similar;
mod sources;
mod update;

use crate::system::hostname;
use document::Fault;
pub use error::{ConfigError, ConfigErrors};
use file::File;
use serde::Deserialize;
pub use sources::Sources;
use std::collections::BTreeMap;
use std::path::Path;
use supervisor::logger::EVENTS_NAME;
use supervisor::spec::{self, Spec};
pub use update::{UpdateConfig, check_command_line, check_source};

/// Where the machine's own file is.
pub const PATH: &str = "/usr/lib/astromesh/init.toml";

/// Services that PID 1 brings itself; their names cannot be given to others.
pub const BUILT_IN: [&str; 5] = ["logger", "devices", "netcfg", "grow", "slots"];

/// `[system]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SystemConfig {
    /// The hostname; by default what a DHCP server says, and `astromesh` until then.
    pub hostname: Option<String>,
    /// Kernel modules that no device asks for.
    pub modules: Option<Vec<String>>,
}

/// `[[directory]]`: a directory below `/var` or `/run` that is to exist.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DirectoryConfig {
    /// Its absolute path.
    pub path: String,
    /// Owner by name or number; default root.
    #[serde(default)]
    pub user: Option<String>,
    /// Group by name or number; default root.
    #[serde(default)]
    pub group: Option<String>,
    /// Its mode in octal, as in `"0750"`; default `"0755"`.
    #[serde(default)]
    pub mode: Option<String>,
}

/// The whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// `[system]`.
    pub system: SystemConfig,
    /// `[[directory]]` of all files.
    pub directories: Vec<DirectoryConfig>,
    /// `[sysctl]`: values by path below `/proc/sys`, as in `"net/core/somaxconn"`.
    pub sysctl: BTreeMap<String, String>,
    /// `[network]`.
    pub network: netcfg::Config,
    /// `[update]`.
    pub update: UpdateConfig,
    /// The services, without those that PID 1 brings itself.
    pub services: Vec<Spec>,
}

impl Config {
    /// The kernel modules that no device asks for, each with the keys that want it.
    pub fn kernel_modules(&self) -> impl Iterator<Item = (&'static [&'static str], &str)> {
        let wanted = self.system.modules.iter().flatten();
        let wanted = wanted.map(|name| (&["system", "modules"][..], name.as_str()));
        // The kernel asks modprobe(8) for it when netcfg makes a VLAN, and there is none.
        let vlan = (&["network", "vlan"][..], "8021q");
        wanted.chain((!self.network.vlan.is_empty()).then_some(vlan))
    }
}

/// Reads `path` and the files of the folder `path` with `.d` appended, and checks all of it.
///
/// # Errors
/// Everything that is wrong.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let (config, _, mut errors) = read(path);
    errors.sort();
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(ConfigErrors(errors)),
    }
}

/// As much of the configuration as is good, where each of it is said, and everything that is wrong. For
/// `init check`, which goes on to look for more; nothing may be started by what is told here beside errors.
#[must_use]
pub fn read(path: &Path) -> (Option<Config>, Sources, Vec<ConfigError>) {
    let mut errors = Vec::new();
    let mut sources = Sources::default();
    let files = match sources::files(path) {
        Ok(files) => files,
        Err(e) => return (None, sources, vec![e]),
    };
    let mut whole = Some(File::default());
    for path in files {
        let text = match sources::read(&path) {
            Ok(text) => text,
            Err(e) => {
                errors.push(e);
                whole = None;
                continue;
            }
        };
        let (file, faults) = document::read::<File>(&text);
        errors.extend(faults.iter().map(|fault| located(&path, &text, fault)));
        whole = whole.zip(file).map(|(mut whole, file)| {
            whole.merge(file);
            whole
        });
        sources.add(path, text, &faults);
    }
    let config = whole.map(|whole| settle(whole, &sources, &mut errors));
    (config, sources, errors)
}

fn located(path: &Path, text: &str, fault: &Fault) -> ConfigError {
    ConfigError {
        path: path.to_owned(),
        place: fault.at.map(|at| place::of_byte(text, at)),
        message: fault.message.clone(),
    }
}

/// Checks the sense of it.
fn settle(whole: File, sources: &Sources, errors: &mut Vec<ConfigError>) -> Config {
    let mut add = |path: &[&str], message: String| {
        if !sources.is_incomplete(path) {
            errors.push(sources.locate(path, message));
        }
    };
    if let Some(name) = &whole.system.hostname
        && let Err(message) = hostname::check(name)
    {
        add(
            &["system", "hostname"],
            format!("system.hostname: {message}"),
        );
    }
    for name in whole.sysctl.keys() {
        if let Err(message) = check_sysctl(name) {
            add(&["sysctl", name], format!("sysctl.{name:?}: {message}"));
        }
    }
    for name in BUILT_IN.into_iter().chain([EVENTS_NAME]) {
        if whole.service.contains_key(name) {
            let message = format!(
                "service.{name}: the name is taken; {} and {EVENTS_NAME} are part of init",
                BUILT_IN.join(", ")
            );
            add(&["service", name], message);
        }
    }
    let network = whole.network.settle();
    if !sources.is_incomplete(&["network"]) {
        for e in network.problems() {
            // An entry of a list is told by its number, as in `link[0]`.
            let entry = e.entry.trim_end_matches(']').replace('[', ".");
            let path: Vec<&str> = ["network"].into_iter().chain(entry.split('.')).collect();
            add(&path, e.to_string());
        }
    }
    let (update, wrong) = whole.update.settle();
    for (key, message) in wrong {
        add(&["update", key], message);
    }
    let mut services = Vec::new();
    for (name, config) in whole.service {
        let (spec, problems) = Spec::judge(&name, config);
        problems
            .iter()
            .for_each(|e| add(&of_spec(e), e.to_string()));
        services.push(spec);
    }
    for e in spec::order_problems(&services) {
        add(&of_spec(&e), e.to_string());
    }
    for (number, entry) in whole.directory.iter().enumerate() {
        for (key, message) in check_directory(entry) {
            errors.push(sources.locate_added("directory", number, key, message));
        }
    }
    Config {
        system: whole.system,
        directories: whole.directory,
        sysctl: whole.sysctl,
        network,
        update,
        services,
    }
}

/// The path of keys that an error of a service is about.
fn of_spec(error: &spec::SpecError) -> Vec<&str> {
    ["service", error.service.as_str()]
        .into_iter()
        .chain(error.key.split('.'))
        .collect()
}

/// Whether this names a file below `/proc/sys`. sysctl(8) takes dots for slashes, which a name of a link
/// with a dot in it makes ambiguous; here it is the path.
fn check_sysctl(name: &str) -> Result<(), String> {
    let path = name.strip_prefix('/').unwrap_or(name);
    if !path.contains('/') && path.contains('.') {
        return Err(format!(
            "is no path below /proc/sys; write slashes, as in \"{}\"",
            path.replace('.', "/")
        ));
    }
    if path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err("is no path below /proc/sys, such as \"net/core/somaxconn\"".into());
    }
    Ok(())
}

/// What is wrong with an entry, each with its key.
fn check_directory(entry: &DirectoryConfig) -> Vec<(&'static str, String)> {
    let path = &entry.path;
    let mut wrong = Vec::new();
    let below = ["/var/", "/run/"].iter().any(|root| path.starts_with(root));
    if !below || path.split('/').any(|part| part == "..") {
        let message = format!(
            "directory path = {path:?} is not below /var or /run; nothing else can be written"
        );
        wrong.push(("path", message));
    }
    if let Err(message) = directory_mode(entry) {
        wrong.push(("mode", message));
    }
    wrong
}

/// The mode of a directory.
///
/// # Errors
/// If it is not octal.
pub fn directory_mode(entry: &DirectoryConfig) -> Result<u32, String> {
    let mode = entry.mode.as_deref().unwrap_or("0755");
    let parsed = u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o1777);
    parsed.ok_or_else(|| {
        format!(
            "directory {:?}: mode = {mode:?} is not an octal mode such as \"0750\"",
            entry.path
        )
    })
}

#[cfg(test)]
mod tests;
