//! The files of the configuration as text: which there are, and where in them something is said.

use super::document::Fault;
use super::error::ConfigError;
use super::place;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A longer file is refused: it is read by PID 1.
const FILE_MAX: u64 = 1 << 20;

/// One file.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
    /// The keys whose values did not fit and are missing from what was read.
    left_out: Vec<Vec<String>>,
}

/// The files that were read, for errors that only the whole shows.
#[derive(Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a file, and what did not fit in it.
    pub(super) fn add(&mut self, path: PathBuf, text: String, faults: &[Fault]) {
        self.0.push(Source {
            path,
            text,
            left_out: faults
                .iter()
                .map(|f| f.path.clone())
                .filter(|path| !path.is_empty())
                .collect(),
        });
    }

    /// An error about what is said under this path of keys: where, of several files in the one that
    /// says most of it, and of those in the last. An entry of a list goes by its number.
    #[must_use]
    pub fn locate(&self, path: &[&str], message: String) -> ConfigError {
        let places = self.0.iter().map(|source| {
            let (depth, at) = place::of_key(&source.text, path);
            (depth, source, at)
        });
        match places.max_by_key(|(depth, ..)| *depth) {
            Some((_, source, place)) => ConfigError {
                path: source.path.clone(),
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

    /// The same about a key of an entry of a list to which every file may add; `number` counts the
    /// entries of all files.
    #[must_use]
    pub fn locate_added(
        &self,
        list: &str,
        number: usize,
        key: &str,
        message: String,
    ) -> ConfigError {
        let mut before = 0;
        for source in &self.0 {
            let is_left_out = |n: &usize| {
                let part = [list.to_owned(), n.to_string()];
                source.left_out.iter().any(|path| *path == part)
            };
            let all = 0..place::entries(&source.text, list);
            let read: Vec<usize> = all.filter(|n| !is_left_out(n)).collect();
            if let Some(own) = number.checked_sub(before).and_then(|n| read.get(n)) {
                let (_, place) = place::of_key(&source.text, &[list, &own.to_string(), key]);
                return ConfigError {
                    path: source.path.clone(),
                    place,
                    message,
                };
            }
            before += read.len();
        }
        self.locate(&[list], message)
    }

    /// Whether something at, above or below this path of keys did not fit and is missing, so that an error
    /// about it may only follow from that.
    #[must_use]
    pub fn is_incomplete(&self, path: &[&str]) -> bool {
        let mut left_out = self.0.iter().flat_map(|source| &source.left_out);
        !path.is_empty() && left_out.any(|missing| missing.iter().zip(path).all(|(a, b)| a == b))
    }
}

/// The file itself and those of its folder, in order.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let mut files = vec![path.to_owned()];
    match std::fs::read_dir(&folder) {
        Ok(entries) => {
            let mut more: Vec<PathBuf> = entries
                .map(|e| {
                    e.map(|e| e.path())
                        .map_err(|e| unreadable(Path::new(&folder), &e))
                })
                .collect::<Result<_, _>>()?;
            more.retain(|p| p.extension().is_some_and(|e| e == "toml"));
            more.sort();
            files.extend(more);
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(unreadable(Path::new(&folder), &e)),
    }
    Ok(files)
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| unreadable(path, &e))?;
    let count = file
        .take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| unreadable(path, &e))?;
    if count as u64 > FILE_MAX {
        return Err(ConfigError {
            path: path.to_owned(),
            place: None,
            message: format!("is longer than {FILE_MAX} bytes"),
        });
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError {
        path: path.to_owned(),
        place: None,
        message: format!("cannot be read: {error}"),
    }
}
