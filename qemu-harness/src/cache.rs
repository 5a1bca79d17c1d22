//! Keeping the cache from growing forever.
//!
//! Every set of inputs has an unpacked tree of its own, some hundred megabytes; a change of a
//! lock file or of the code that makes a tree leaves the former behind. Whoever uses a tree
//! marks it; whoever makes a new one removes those that nobody has used for two weeks.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::tree;

/// A tree that was not used for this long is not of a branch somebody works on.
const KEEP: Duration = Duration::from_secs(14 * 24 * 3600);
/// The file whose modification time says when a tree was last used; also its lock.
const MARK: &str = "lock";

/// Takes the lock of the tree in `place` and marks it as used. The lock lasts as long as the file.
///
/// # Errors
/// When the folder cannot be written.
pub fn take(place: &Path) -> Result<File> {
    fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
    let guard = File::create(place.join(MARK))
        .with_context(|| format!("cannot write in {}", place.display()))?;
    guard
        .lock()
        .with_context(|| format!("cannot lock {}", place.display()))?;
    guard
        .set_modified(SystemTime::now())
        .with_context(|| format!("cannot mark {}", place.display()))?;
    Ok(guard)
}

/// Removes the neighbours of `place` that nobody has used for long. What cannot be removed
/// stays: this never fails a build.
pub fn forget_old(place: &Path) {
    let Some(folder) = place.parent() else { return };
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path != place)
    {
        let Ok(mark) = File::open(entry.join(MARK)) else {
            continue;
        };
        let age = mark
            .metadata()
            .and_then(|meta| meta.modified())
            .map(|used| used.elapsed());
        if matches!(age, Ok(Ok(age)) if age > KEEP) && mark.try_lock().is_ok() {
            eprintln!("removing {}, unused for two weeks", entry.display());
            let _ = tree::remove(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_and_unused_trees_go() {
        let folder = std::env::temp_dir().join(format!("cache-{}", std::process::id()));
        let old = SystemTime::now() - KEEP - Duration::from_secs(60);
        for name in ["old", "old-in-use", "new", "mine"] {
            let guard = take(&folder.join(name)).unwrap();
            if name.starts_with("old") {
                guard.set_modified(old).unwrap();
            }
        }
        fs::create_dir_all(folder.join("not-a-tree")).unwrap();
        let used = File::open(folder.join("old-in-use").join(MARK)).unwrap();
        used.lock().unwrap();
        forget_old(&folder.join("mine"));
        let mut left: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["mine", "new", "not-a-tree", "old-in-use"]);
        tree::remove(&folder).unwrap();
    }
}
