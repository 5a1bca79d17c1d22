//! Folders as values: copy, prune, hash, and give every file the mode it should have.
//!
//! Order is always that of sorted names, never that of the file system, because what comes
//! out of here must be the same on every machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// All files and links below `root`, sorted; folders are not among them.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(root, &mut |path, kind| {
        if !kind.is_dir() {
            found.push(path.to_path_buf());
        }
        Ok(())
    })?;
    Ok(found)
}

/// Calls `visit` for everything below `root`, parents first, in order of names.
///
/// # Errors
/// When a folder cannot be read, or `visit` fails.
pub fn walk(root: &Path, visit: &mut dyn FnMut(&Path, &fs::FileType) -> Result<()>) -> Result<()> {
    for path in entries(root)? {
        let kind = fs::symlink_metadata(&path)
            .with_context(|| format!("cannot look at {}", path.display()))?
            .file_type();
        visit(&path, &kind)?;
        if kind.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?
    {
        paths.push(
            entry
                .with_context(|| format!("cannot read the folder {}", folder.display()))?
                .path(),
        );
    }
    paths.sort();
    Ok(paths)
}

/// Copies what is in `from` into `to`, over what is there; links stay links.
///
/// # Errors
/// When something cannot be read or written, or is neither file, folder nor link.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    walk(from, &mut |path, kind| {
        let target = to.join(path.strip_prefix(from).context("a path left its tree")?);
        if kind.is_dir() {
            fs::create_dir_all(&target)
                .with_context(|| format!("cannot make {}", target.display()))?;
        } else if kind.is_symlink() {
            let _ = fs::remove_file(&target);
            symlink(fs::read_link(path)?, &target)
                .with_context(|| format!("cannot link {}", target.display()))?;
        } else if kind.is_file() {
            fs::copy(path, &target).with_context(|| {
                format!("cannot copy {} to {}", path.display(), target.display())
            })?;
        } else {
            bail!("{} is neither file, folder nor link", path.display());
        }
        Ok(())
    })
}

/// Removes whatever below `root` `unwanted` says so of.
///
/// # Errors
/// When something cannot be removed.
pub fn prune(root: &Path, unwanted: &dyn Fn(&Path) -> bool) -> Result<()> {
    for path in entries(root)? {
        let kind = fs::symlink_metadata(&path)?.file_type();
        if unwanted(&path) {
            let removed = if kind.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        } else if kind.is_dir() {
            prune(&path, unwanted)?;
        }
    }
    Ok(())
}

/// Removes a folder with all in it; one that is not there is fine.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Folders 0755, files 0644, and 0755 for the files named. Shared libraries are mapped, not
/// executed: they need no execute bit, and so the few files that have one can be listed.
///
/// # Errors
/// When a mode cannot be set, or a named file is missing.
pub fn normalise(root: &Path, executables: &[&str]) -> Result<()> {
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot chmod {}", path.display()))
    };
    set(root, 0o755)?;
    walk(root, &mut |path, kind| {
        if kind.is_dir() {
            set(path, 0o755)?;
        } else if kind.is_file() {
            set(path, 0o644)?;
        }
        Ok(())
    })?;
    for name in executables {
        let path = root.join(name);
        if !fs::symlink_metadata(&path)
            .with_context(|| format!("no file {}", path.display()))?
            .is_symlink()
        {
            set(&path, 0o755)?;
        }
    }
    Ok(())
}

/// Feeds names, modes and contents of a file or folder into `hash`; a missing one counts too.
///
/// # Errors
/// When something cannot be read.
pub fn hash_into(path: &Path, hash: &mut Sha256) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        hash.update("absent\n");
        return Ok(());
    };
    let mut feed = |path: &Path, name: &str| -> Result<()> {
        let meta = fs::symlink_metadata(path)?;
        hash.update(format!("{name} {:o}\n", meta.permissions().mode()));
        if meta.is_symlink() {
            hash.update(fs::read_link(path)?.as_os_str().as_encoded_bytes());
        } else if meta.is_file() {
            hash.update(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        Ok(())
    };
    if !meta.is_dir() {
        return feed(path, "file");
    }
    let mut all = Vec::new();
    walk(path, &mut |path, _| {
        all.push(path.to_path_buf());
        Ok(())
    })?;
    for file in all.iter().filter(|file| {
        !file
            .components()
            .any(|part| part.as_os_str() == "__pycache__")
    }) {
        feed(
            file,
            &file.strip_prefix(path).unwrap_or(file).to_string_lossy(),
        )?;
    }
    Ok(())
}
