//! What an image is to be, and the folder it is built in.
//!
//! The default is the shipped image. Everything else is for comparison, for campaigns that build
//! many images, and for images that are broken on purpose ([`crate::broken`]).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::lock::hex;
use crate::paths::Paths;
use crate::signing;

/// What stands at `/sbin/init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Our init.
    #[default]
    Ours,
    /// systemd, for comparison.
    Control,
    /// The least that reaches the runtime, for comparison.
    Floor,
}

/// What stands at `/usr/bin/astromeshd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// The agent runtime with its interpreter.
    #[default]
    Astromesh,
    /// A small static daemon that keeps the runtime's contract with init and answers
    /// `/v1/health`; the root has no interpreter. For campaigns of many builds and boots.
    Small,
}

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// A static program to use as `/init` and `/sbin/init` instead of building ours.
    pub init: Option<PathBuf>,
    /// A static program to use as `/init` of the initramfs only, instead of that on the root.
    pub initramfs_init: Option<PathBuf>,
    /// Version of the image (UAPI.10, without `+`).
    pub version: String,
    /// What stands at `/sbin/init`.
    pub kind: Kind,
    /// What stands at `/usr/bin/astromeshd`.
    pub runtime: Runtime,
    /// Added to the end of the kernel command line in the UKI.
    pub command_line: Vec<String>,
    /// An `init.toml` to use instead of `image/init.toml`.
    pub config: Option<PathBuf>,
    /// A file for the folder `init.toml.d` of the image: what it says is laid over the configuration.
    pub drop_in: Option<PathBuf>,
    /// Takes a configuration that `init check` refuses: to see what a boot does with it.
    pub unchecked: bool,
    /// Public keys (PEM) whose signatures on updates the image believes.
    pub update_keys: Vec<PathBuf>,
    /// Absolute paths removed from the finished root: to see what a boot does without them.
    pub omit: Vec<String>,
    /// Kernel modules left out of the initramfs, likewise.
    pub omit_modules: Vec<String>,
    /// Puts the reporter of the counted benchmark in, see `image/counted`.
    pub counted: bool,
    /// Where to write; by default a folder under `target/appliance` for these options.
    pub out: Option<PathBuf>,
    /// Makes everything anew in this folder, without the cached base: to see it made twice.
    pub scratch: Option<PathBuf>,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            init: None,
            initramfs_init: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kind: Kind::Ours,
            runtime: Runtime::Astromesh,
            command_line: Vec::new(),
            config: None,
            drop_in: None,
            unchecked: false,
            update_keys: Vec::new(),
            omit: Vec::new(),
            omit_modules: Vec::new(),
            counted: false,
            out: None,
            scratch: None,
        }
    }
}

impl ImageOptions {
    /// The same root with systemd as PID 1.
    #[must_use]
    pub fn control() -> Self {
        Self {
            kind: Kind::Control,
            ..Self::default()
        }
    }

    /// The same root with the least that reaches the runtime.
    #[must_use]
    pub fn floor() -> Self {
        Self {
            kind: Kind::Floor,
            ..Self::default()
        }
    }

    /// Our init and its configuration with the small daemon in place of the runtime.
    #[must_use]
    pub fn small() -> Self {
        Self {
            runtime: Runtime::Small,
            ..Self::default()
        }
    }

    /// The same image with the reporter of the counted benchmark.
    #[must_use]
    pub fn counted(self) -> Self {
        Self {
            counted: true,
            ..self
        }
    }

    /// Whether the files that are named can be used, which is known before minutes of building.
    ///
    /// # Errors
    /// Names the option and the file.
    pub(crate) fn check(&self) -> Result<()> {
        let files = [("--config", &self.config), ("--init", &self.init)];
        for (option, file) in files {
            if let Some(file) = file {
                readable(option, file)?;
            }
        }
        for key in &self.update_keys {
            let text = readable("--update-key", key)?;
            let text = String::from_utf8_lossy(&text);
            signing::check_public_pem(&text)
                .with_context(|| format!("--update-key {}", key.display()))?;
        }
        Ok(())
    }

    /// The folder that an image with these options is built in.
    pub(crate) fn folder(&self, paths: &Paths) -> PathBuf {
        if let Some(out) = &self.out {
            return out.clone();
        }
        let named = match self.kind {
            Kind::Control => (Self::control(), "image-control"),
            Kind::Floor => (Self::floor(), "image-floor"),
            Kind::Ours if self.runtime == Runtime::Small => (Self::small(), "image-small"),
            Kind::Ours => (Self::default(), "image"),
        };
        if *self == named.0 {
            return paths.out.join(named.1);
        }
        let digest = hex(&Sha256::digest(format!("{self:?}")));
        paths.out.join(format!("image-{}", &digest[..8]))
    }
}

fn readable(option: &str, file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {option} {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn different_images_have_different_folders() {
        let out = std::env::temp_dir().join(format!("options-{}", std::process::id()));
        let paths = Paths::new(PathBuf::from("/w"), out.clone(), out.join("cache")).unwrap();
        let key = PathBuf::from("/k.pem");
        let version = || "2".to_owned();
        let all = [
            ImageOptions::default(),
            ImageOptions::control(),
            ImageOptions::floor(),
            ImageOptions::small(),
            ImageOptions::default().counted(),
            ImageOptions {
                version: version(),
                ..ImageOptions::default()
            },
            ImageOptions {
                version: version(),
                ..ImageOptions::small()
            },
            ImageOptions {
                update_keys: vec![key.clone()],
                ..ImageOptions::small()
            },
            ImageOptions {
                initramfs_init: Some(key),
                ..ImageOptions::small()
            },
            ImageOptions {
                omit: vec!["/x".into()],
                ..ImageOptions::small()
            },
            ImageOptions {
                omit_modules: vec!["x".into()],
                ..ImageOptions::small()
            },
        ];
        let folders: BTreeSet<PathBuf> = all.iter().map(|one| one.folder(&paths)).collect();
        assert_eq!(folders.len(), all.len(), "{folders:?}");
        assert_eq!(all[0].folder(&paths), paths.image_out());
        std::fs::remove_dir_all(out).unwrap();
    }
}
