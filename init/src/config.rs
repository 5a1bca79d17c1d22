//! `init.toml`: what the machine runs.
//!
//! The file is part of the verified root; image builders lay further files beside it, in
//! `init.toml.d/`, read in the order of their names, each laid over what came before key by key.
//! Any file may say only what it changes. All of it is checked before anything is started, by the
//! same code in `init check`, in the image build and at boot; an error names the file, the line and
//! the column.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use supervisor::config::ServiceConfig;
use supervisor::spec::{self, Spec, SpecError};
use toml::Spanned;

/// Where the machine's own file is.
pub const PATH: &str = "/usr/lib/astromesh/init.toml";

/// Services that PID 1 brings itself; their names cannot be given to others.
pub const BUILT_IN: [&str; 3] = ["logger", "devices", "netcfg"];

/// A longer file is refused: it is read by PID 1.
const FILE_MAX: u64 = 1 << 20;

/// One file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    system: SystemConfig,
    directory: Vec<DirectoryConfig>,
    sysctl: BTreeMap<String, String>,
    network: Option<Spanned<netcfg::Config>>,
    service: BTreeMap<String, Spanned<ServiceConfig>>,
}

/// `[system]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SystemConfig {
    /// The hostname; default `astromesh`.
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

/// Reads `path` and the files of the folder `path` with `.d` appended, and checks all of it.
///
/// # Errors
/// The first thing that is wrong.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let mut whole = File::default();
    // Where each service was last spoken of, for errors that only the whole shows.
    let mut places: BTreeMap<String, (PathBuf, Option<(usize, usize)>)> = BTreeMap::new();
    for path in files(path)? {
        let text = read(&path)?;
        let file: File = toml::from_str(&text).map_err(|e| ConfigError {
            path: path.clone(),
            place: e.span().map(|span| place(&text, span.start)),
            message: e.message().replace('\n', " "),
        })?;
        for (name, service) in &file.service {
            let at = place(&text, service.span().start);
            let error = |message| ConfigError {
                path: path.clone(),
                place: Some(at),
                message,
            };
            if BUILT_IN.contains(&name.as_str()) {
                return Err(error(format!(
                    "service.{name}: the name is taken; {BUILT_IN:?} are part of init"
                )));
            }
            places.insert(name.clone(), (path.clone(), Some(at)));
        }
        if let Some(network) = &file.network {
            network.get_ref().validate().map_err(|e| ConfigError {
                path: path.clone(),
                place: Some(place(&text, network.span().start)),
                message: format!("network: {e}"),
            })?;
        }
        for entry in &file.directory {
            check_directory(entry).map_err(|message| ConfigError {
                path: path.clone(),
                place: None,
                message,
            })?;
        }
        whole.merge(file);
    }
    let locate = |e: SpecError| {
        let (path, place) = places
            .get(&e.service)
            .cloned()
            .unwrap_or_else(|| (path.to_owned(), None));
        ConfigError {
            path,
            place,
            message: e.to_string(),
        }
    };
    let services = whole
        .service
        .into_iter()
        .map(|(name, config)| Spec::from_config(&name, config.into_inner()));
    let services: Vec<Spec> = services.collect::<Result<_, _>>().map_err(locate)?;
    spec::check_order(&services).map_err(locate)?;
    Ok(Config {
        system: whole.system,
        directories: whole.directory,
        sysctl: whole.sysctl,
        network: whole.network.map(Spanned::into_inner).unwrap_or_default(),
        services,
    })
}

impl File {
    fn merge(&mut self, over: Self) {
        let Self {
            system,
            directory,
            sysctl,
            network,
            service,
        } = over;
        let SystemConfig { hostname, modules } = system;
        self.system.hostname = hostname.or_else(|| self.system.hostname.take());
        self.system.modules = modules.or_else(|| self.system.modules.take());
        self.directory.extend(directory);
        self.sysctl.extend(sysctl);
        self.network = network.or_else(|| self.network.take());
        for (name, config) in service {
            match self.service.get_mut(&name) {
                Some(known) => known.get_mut().merge(config.into_inner()),
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

/// Line and column of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
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
                "/init.toml:2:1: service.a.exec:",
            ),
            (
                "order",
                "[service.a]\nexec = ['/a']\nafter = ['b']",
                "/init.toml:1:1: service.a.after:",
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
            ("folder", "[[directory]]\npath = '/etc/x'", "directory path"),
        ] {
            let folder = Folder::new(name);
            let error = folder.write("init.toml", text).load().unwrap_err();
            assert!(error.contains(expected), "{text}\n{error}");
        }
        assert!(
            Folder::new("missing")
                .load()
                .unwrap_err()
                .contains("/init.toml:1:1: No such file")
        );
    }
}
