//! The folders that images are built in, and how many of them are kept.
//!
//! Every set of options has a folder of its own, named by its hash, so a day of trying options leaves dozens.
//! Whoever builds an image removes those of failed builds and the least recently used of the others. None goes that
//! somebody uses: who builds in a folder holds its lock, and who has its image a shared one.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::tree;

/// Folders named by a hash that are kept: more than all tests together need.
pub const KEPT: usize = 64;
/// The lock of who builds.
const BUILDING: &str = ".lock";
/// The lock of those who use what was built; its modification time says when it was used last.
const USED: &str = ".used";
/// The inputs of a build that has ended well.
pub const STAMP: &str = ".inputs";

/// Makes a folder to build an image in and waits until nobody else builds there. The lock lasts as long as the file.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn lock(folder: &Path) -> Result<File> {
    let place = folder.join(BUILDING);
    loop {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let guard = match File::create(&place) {
            // Removed as an old one since it was made.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            made => made.with_context(|| format!("cannot write in {}", folder.display()))?,
        };
        guard
            .lock()
            .with_context(|| format!("cannot lock {}", folder.display()))?;
        let here = fs::metadata(&place).map(|meta| meta.ino());
        // Otherwise whoever had the lock has removed the folder.
        if here.is_ok_and(|here| guard.metadata().is_ok_and(|meta| meta.ino() == here)) {
            return Ok(guard);
        }
    }
}

/// Says that the image of a folder is in use, for as long as the value or a copy of it lives. To be called with the
/// folder's lock held.
///
/// # Errors
/// When the folder cannot be written.
pub fn hold(folder: &Path) -> Result<Arc<File>> {
    let place = folder.join(USED);
    let file = File::create(&place).with_context(|| format!("cannot write {}", place.display()))?;
    file.lock_shared()
        .and_then(|()| file.set_modified(SystemTime::now()))
        .with_context(|| format!("cannot mark {}", place.display()))?;
    Ok(Arc::new(file))
}

/// Removes folders of failed builds, and of the others all but the `kept` used last. What cannot be removed stays:
/// this never fails a build.
pub fn forget_old(out: &Path, kept: usize) {
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let named: Vec<PathBuf> = entries
        .filter(|entry| is_named_by_hash(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    let (mut good, failed): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|dir| dir.join(STAMP).exists());
    good.sort_by_key(|dir| {
        let used = fs::metadata(dir.join(USED)).and_then(|meta| meta.modified());
        std::cmp::Reverse(used.unwrap_or(SystemTime::UNIX_EPOCH))
    });
    for folder in failed.iter().chain(good.iter().skip(kept)) {
        let locks: Option<Vec<File>> = [BUILDING, USED]
            .into_iter()
            .map(|name| free(&folder.join(name)))
            .collect();
        // It may have been built well since it was looked at.
        let is_wanted = folder.join(STAMP).exists() && failed.contains(folder);
        if locks.is_some() && !is_wanted {
            let _ = tree::remove(folder);
        }
    }
}

/// The lock of a file that nobody holds.
fn free(place: &Path) -> Option<File> {
    // Without a change of its times, which say when it was used.
    let file = File::options().append(true).create(true).open(place).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Whether a folder is that of options without a name of their own.
fn is_named_by_hash(name: &str) -> bool {
    let hash = name.strip_prefix("image-");
    hash.is_some_and(|hash| hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A folder whose build has ended well, used so many minutes ago.
    fn built(folder: &Path, minutes: u64) -> Arc<File> {
        let _building = lock(folder).unwrap();
        let used = hold(folder).unwrap();
        used.set_modified(SystemTime::now() - Duration::from_secs(minutes * 60))
            .unwrap();
        fs::write(folder.join(STAMP), "digest").unwrap();
        used
    }

    #[test]
    fn old_folders_and_failed_ones_go_unless_they_are_in_use() {
        let out = std::env::temp_dir().join(format!("image-folders-{}", std::process::id()));
        let folder = |name: &str| out.join(name);
        for (minutes, name) in [
            (1, "image-00000001"),
            (2, "image-00000002"),
            (3, "image-00000003"),
            (9, "image"),
            (9, "image-small"),
        ] {
            drop(built(&folder(name), minutes));
        }
        let in_use = built(&folder("image-00000004"), 4);
        drop(lock(&folder("image-0000fa11")).unwrap());
        let at_work = lock(&folder("image-0000b111")).unwrap();
        let left = || {
            let entries = fs::read_dir(&out).unwrap().flatten();
            let mut names: Vec<String> = entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        forget_old(&out, 2);
        let mut expected = vec![
            "image",
            "image-00000001",
            "image-00000002",
            "image-00000004",
            "image-0000b111",
            "image-small",
        ];
        assert_eq!(left(), expected);
        drop((in_use, at_work));
        forget_old(&out, 2);
        expected.retain(|name| !matches!(*name, "image-00000004" | "image-0000b111"));
        assert_eq!(left(), expected);
        tree::remove(&out).unwrap();
    }

    #[test]
    fn who_has_waited_for_a_folder_that_is_gone_makes_it_again() {
        let out = std::env::temp_dir().join(format!("image-folder-again-{}", std::process::id()));
        let folder = out.join("image-00000001");
        let first = lock(&folder).unwrap();
        let waiting = {
            let folder = folder.clone();
            std::thread::spawn(move || lock(&folder).map(drop))
        };
        // Whichever comes first: it waits for this lock, or finds no folder.
        tree::remove(&folder).unwrap();
        drop(first);
        waiting.join().unwrap().unwrap();
        assert!(folder.join(BUILDING).exists());
        tree::remove(&out).unwrap();
    }
}
