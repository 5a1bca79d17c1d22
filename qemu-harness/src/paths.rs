//! Where things lie: the workspace, what is built, what is kept for the next build.
//!
//! Outputs go under the cargo target folder, so that `cargo clean` removes them and two
//! target folders never disturb each other. Downloads and unpacked trees are kept by their
//! hash outside the workspace, so that a second clone on the same machine is quick and two
//! clones can share them: a name made from a hash is never rewritten.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders the harness works in; all absolute.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The root of the cargo workspace.
    pub workspace: PathBuf,
    /// What is built and what runs leave behind (`target/appliance`).
    pub out: PathBuf,
    /// Downloads and unpacked trees, named by hash.
    pub cache: PathBuf,
}

impl Paths {
    /// The folders of this workspace: outputs under `$CARGO_TARGET_DIR` or `target`, the
    /// cache under `$XDG_CACHE_HOME` or `~/.cache`. Makes them when they are missing.
    ///
    /// # Errors
    /// When there is no home folder to cache in, or a folder cannot be made.
    pub fn discover() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let workspace = manifest
            .ancestors()
            .find(|folder| folder.join("image/runtime.pin").is_file())
            .with_context(|| {
                format!(
                    "no workspace with image/runtime.pin above {}",
                    manifest.display()
                )
            })?
            .to_path_buf();
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        let target = if target.is_absolute() {
            target
        } else {
            workspace.join(target)
        };
        let cache =
            match env::var_os("XDG_CACHE_HOME").filter(|value| Path::new(value).is_absolute()) {
                Some(folder) => PathBuf::from(folder),
                None => PathBuf::from(env::var_os("HOME").context(
                    "neither XDG_CACHE_HOME nor HOME is set: set one to say where to cache",
                )?)
                .join(".cache"),
            };
        Self::new(
            workspace,
            target.join("appliance"),
            cache.join("astromesh-init"),
        )
    }

    /// The same with every folder given; makes `out` and `cache` when they are missing.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn new(workspace: PathBuf, out: PathBuf, cache: PathBuf) -> Result<Self> {
        for folder in [&out, &cache] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        Ok(Self {
            workspace,
            out,
            cache,
        })
    }

    /// The image definition (`image/`).
    #[must_use]
    pub fn image_definition(&self) -> PathBuf {
        self.workspace.join("image")
    }

    /// Where the image is written when nothing else is asked for (`target/appliance/image`).
    #[must_use]
    pub fn image_out(&self) -> PathBuf {
        self.out.join("image")
    }
}
