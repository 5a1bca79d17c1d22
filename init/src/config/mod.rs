//! `init.toml`: what the machine runs.
//!
//! The file is part of the verified root; image builders lay further files beside it, in
//! `init.toml.d/`, read in the order of their names, each laid over what came before key by key.
//! Any file may say only what it changes. All of it is checked before anything is started, by the
//! same code in `init check`, in the image build and at boot; an error names the file, the line and
//! the column, and all errors are told, not only the first.

mod place;
mod update;

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use supervisor::config::ServiceConfig;
use supervisor::logger::EVENTS_NAME;
use supervisor::spec::{self, Spec, SpecError};
use update::UpdateSection;
pub use update::{UpdateConfig, check_command_line, check_source};

/// Where the machine's own file is.
pub const PATH: &str = "/usr/lib/astromesh/init.toml";

/// Services that PID 1 brings itself; their names cannot be given to others.
pub const BUILT_IN: [&str; 5] = ["logger", "devices", "netcfg", "grow", "slots"];

/// A longer file is refused: it is read by PID 1.
const FILE_MAX: u64 = 1 << 20;

/// One file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    system: SystemConfig,
    directory: Vec<DirectoryConfig>,
    sysctl: BTreeMap<String, String>,
    network: Option<netcfg::Config>,
    update: UpdateSection,
    service: BTreeMap<String, ServiceConfig>,
}

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

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line and column from 1, if it is about a place in the file.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.place.unwrap_or((1, 1));
        write!(
            f,
            "{}:{line}:{column}: {}",
            self.path.display(),
            self.message
        )
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong, at least one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The files that were read, for errors that only the whole shows.
#[derive(Debug, Default)]
pub struct Sources(Vec<(PathBuf, String)>);

impl Sources {
    /// An error about what is said under this path of keys: where, of several files in the one that
    /// says most of it, and of those in the last.
    #[must_use]
    pub fn locate(&self, path: &[&str], message: String) -> ConfigError {
        let places = self.0.iter().map(|(file, text)| {
            let (depth, at) = place::of_key(text, path);
            (depth, file, at)
        });
        match places.max_by_key(|(depth, ..)| *depth) {
            Some((_, file, place)) => ConfigError {
                path: file.clone(),
                place,
                message,
            },
            None => ConfigError {
                path: PathBuf::new(),
                place: None,
                message,
            },
        }
    }

    fn locate_spec(&self, error: &SpecError) -> ConfigError {
        let path: Vec<&str> = ["service", error.service.as_str()]
            .into_iter()
            .chain(error.key.split('.'))
            .collect();
        self.locate(&path, error.to_string())
    }
}

/// Reads `path` and the files of the folder `path` with `.d` appended, and checks all of it.
///
/// # Errors
/// Everything that is wrong. What is wrong with the form of a file hides what is wrong with its sense.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    load_with_sources(path).map(|(config, _)| config)
}

/// The same, with what is needed to say where something is written.
///
/// # Errors
/// As [`load`].
pub fn load_with_sources(path: &Path) -> Result<(Config, Sources), ConfigErrors> {
    let mut errors = Vec::new();
    let mut whole = File::default();
    let mut sources = Sources::default();
    for path in files(path).map_err(|e| ConfigErrors(vec![e]))? {
        match parse(&path) {
            Ok((text, file)) => {
                sources.0.push((path, text));
                whole.merge(file);
            }
            Err(e) => errors.push(e),
        }
    }
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    let config = settle(whole, &sources, &mut errors);
    if errors.is_empty() {
        Ok((config, sources))
    } else {
        Err(ConfigErrors(errors))
    }
}

fn parse(path: &Path) -> Result<(String, File), ConfigError> {
    let text = read(path)?;
    match toml::from_str(&text) {
        Ok(file) => Ok((text, file)),
        Err(e) => Err(ConfigError {
            path: path.to_owned(),
            place: e.span().map(|span| place::of_byte(&text, span.start)),
            message: e.message().replace('\n', " "),
        }),
    }
}

/// Checks the sense of it.
fn settle(whole: File, sources: &Sources, errors: &mut Vec<ConfigError>) -> Config {
    for name in BUILT_IN.into_iter().chain([EVENTS_NAME]) {
        if whole.service.contains_key(name) {
            let message =
                format!("service.{name}: the name is taken; {BUILT_IN:?} are part of init");
            errors.push(sources.locate(&["service", name], message));
        }
    }
    if let Some(Err(e)) = whole.network.as_ref().map(netcfg::Config::validate) {
        // The entry of a list is told by its number; its place is that of the list.
        let list = e.entry.split('[').next().unwrap_or_default();
        errors.push(sources.locate(&["network", list], e.to_string()));
    }
    for message in whole
        .directory
        .iter()
        .filter_map(|entry| check_directory(entry).err())
    {
        errors.push(sources.locate(&["directory"], message));
    }
    let update = whole.update.settle().unwrap_or_else(|(key, message)| {
        errors.push(sources.locate(&["update", key], message));
        UpdateConfig::default()
    });
    let mut services = Vec::new();
    for (name, config) in whole.service {
        match Spec::from_config(&name, config) {
            Ok(spec) => services.push(spec),
            Err(wrong) => errors.extend(wrong.iter().map(|e| sources.locate_spec(e))),
        }
    }
    if errors.is_empty()
        && let Err(e) = spec::check_order(&services)
    {
        errors.push(sources.locate_spec(&e));
    }
    Config {
        system: whole.system,
        directories: whole.directory,
        sysctl: whole.sysctl,
        network: whole.network.unwrap_or_default(),
        update,
        services,
    }
}

impl File {
    fn merge(&mut self, over: Self) {
        let Self {
            system,
            directory,
            sysctl,
            network,
            update,
            service,
        } = over;
        let SystemConfig { hostname, modules } = system;
        self.system.hostname = hostname.or_else(|| self.system.hostname.take());
        self.system.modules = modules.or_else(|| self.system.modules.take());
        self.directory.extend(directory);
        self.sysctl.extend(sysctl);
        self.network = network.or_else(|| self.network.take());
        self.update.merge(update);
        for (name, config) in service {
            match self.service.get_mut(&name) {
                Some(known) => known.merge(config),
                None => drop(self.service.insert(name, config)),
            }
        }
    }
}

fn check_directory(entry: &DirectoryConfig) -> Result<(), String> {
    let path = &entry.path;
    let below = ["/var/", "/run/"].iter().any(|root| path.starts_with(root));
    if !below || path.split('/').any(|part| part == "..") {
        return Err(format!(
            "directory path = {path:?} is not below /var or /run; nothing else can be written"
        ));
    }
    directory_mode(entry).map(drop)
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

/// The file itself and those of its folder, in order.
fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let error = |path: &Path, e: std::io::Error| ConfigError {
        path: path.to_owned(),
        place: None,
        message: e.to_string(),
    };
    let mut files = vec![path.to_owned()];
    match std::fs::read_dir(&folder) {
        Ok(entries) => {
            let mut more: Vec<PathBuf> = entries
                .map(|e| {
                    e.map(|e| e.path())
                        .map_err(|e| error(Path::new(&folder), e))
                })
                .collect::<Result<_, _>>()?;
            more.retain(|p| p.extension().is_some_and(|e| e == "toml"));
            more.sort();
            files.extend(more);
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(error(Path::new(&folder), e)),
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let error = |message: String| ConfigError {
        path: path.to_owned(),
        place: None,
        message,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| error(e.to_string()))?;
    let count = file
        .take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| error(e.to_string()))?;
    if count as u64 > FILE_MAX {
        return Err(error(format!("is longer than {FILE_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is gone when the test is over.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("init-config-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("init.toml.d")).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> &Self {
            std::fs::write(self.0.join(name), text).unwrap();
            self
        }

        fn load(&self) -> Result<Config, String> {
            load(&self.0.join("init.toml"))
                .map_err(|e| e.to_string().replace(self.0.to_str().unwrap(), ""))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const SERVICE: &str = "[service.a]\nexec = ['/bin/a']\n";

    #[test]
    fn drop_ins_are_laid_over_in_order() {
        let folder = Folder::new("drop-ins");
        folder
            .write("init.toml", SERVICE)
            .write(
                "init.toml.d/20.toml",
                "[service.a]\numask = '0077'\n[service.b]\nexec = ['/bin/b']\nafter = ['a']",
            )
            .write(
                "init.toml.d/10.toml",
                "[service.a]\numask = '0007'\n[system]\nhostname = 'h'",
            )
            .write("init.toml.d/README", "not toml");
        let config = folder.load().unwrap();
        assert_eq!(config.services.len(), 2);
        assert_eq!(config.services[0].umask, 0o077);
        assert_eq!(config.system.hostname.as_deref(), Some("h"));
    }

    #[test]
    fn errors_name_file_line_and_column() {
        for (name, text, expected) in [
            (
                "unknown",
                "[service.a]\nexec = ['/bin/a']\nrestrat = 'always'",
                "/init.toml:3:1: unknown field `restrat`",
            ),
            ("syntax", "[service.a\n", "/init.toml:1:"),
            (
                "value",
                "[service.a]\nexec = ['/bin/a']\nstart-timeout = '5'",
                "/init.toml:3:17: `5` is not a duration",
            ),
            (
                "spec",
                "\n[service.a]\nexec = ['a']",
                "/init.toml:3:8: service.a.exec:",
            ),
            (
                "order",
                "[service.a]\nexec = ['/a']\nafter = ['b']",
                "/init.toml:3:9: service.a.after:",
            ),
            (
                "taken",
                "[service.netcfg]\nexec = ['/a']",
                "service.netcfg: the name is taken",
            ),
            (
                "network",
                "[[network.link]]\nmatch = { name = 'e*' }\naddress = ['10.0.0.300/8']",
                "/init.toml:",
            ),
            (
                "vlan",
                "[[network.link]]\ndhcp4 = true\n[[network.vlan]]\nname = 'a'\nlink = 'a'\nid = 7",
                "network.vlan[0]: a cannot carry itself",
            ),
            ("folder", "[[directory]]\npath = '/etc/x'", "directory path"),
        ] {
            let folder = Folder::new(name);
            let error = folder.write("init.toml", text).load().unwrap_err();
            assert!(error.contains(expected), "{text}\n{error}");
        }
        let folder = Folder::new("many");
        folder.write(
            "init.toml",
            "[service.a]\nexec = ['a']\nnice = 99\n[service.b]\nexec = ['/b']\n",
        );
        folder.write("init.toml.d/1.toml", "[service.b]\numask = 'x'");
        let all = folder.load().unwrap_err();
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(lines.len(), 3, "every error: {all}");
        assert!(
            lines[1].starts_with("/init.toml:3:8: service.a.nice: 99"),
            "{all}"
        );
        assert!(
            lines[2].starts_with("/init.toml.d/1.toml:2:9: service.b.umask"),
            "{all}"
        );
        assert!(
            Folder::new("missing")
                .load()
                .unwrap_err()
                .contains("/init.toml:1:1: No such file")
        );
    }
}
