//! Update bundles: what an image builder publishes and a machine installs.
//!
//! A folder with the UKI, the root and its hash tree as the image build made them, a manifest
//! `update.json` that names them with sizes and hashes, and `update.json.sig`, the signature over
//! its exact bytes. `docs/interfaces.md` has the format. What can be wrong with one is made
//! by [`crate::damage`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::fetch::sha256_file;
use crate::image::{IMAGE_ID, Image};
use crate::signing::SigningKey;
/// A key by number, for tests: `TestKey::from_seed(1)`.
pub use crate::signing::SigningKey as TestKey;

/// Name of the manifest.
pub const MANIFEST: &str = "update.json";
/// Name of its signature.
pub const SIGNATURE: &str = "update.json.sig";
/// The format that is written.
const FORMAT: u32 = 1;

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// Name of the image (`IMAGE_ID`).
    pub image: String,
    /// Version of the image (`IMAGE_VERSION`).
    pub version: String,
    /// Processor it is for.
    pub architecture: String,
    /// Root hash, hex.
    pub roothash: String,
    /// The root's data.
    pub root: Part,
    /// The root's hash tree.
    pub verity: Part,
    /// The UKI.
    pub uki: Part,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Name, relative to the manifest.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

impl Part {
    fn of(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .with_context(|| format!("{} has no name that a manifest can hold", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            size: fs::metadata(path)
                .with_context(|| format!("no file {}", path.display()))?
                .len(),
            sha256: sha256_file(path)?,
        })
    }
}

/// A bundle in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    /// Makes the bundle of `image` in `folder`, which is emptied of an older one. Without a key
    /// it is not signed yet: the signature is that of [`MANIFEST`], see `docs/interfaces.md`.
    ///
    /// # Errors
    /// When the image cannot be read or the folder not be written.
    pub fn write(image: &Image, key: Option<&SigningKey>, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let bundle = Self {
            folder: folder.to_path_buf(),
        };
        for name in [MANIFEST, SIGNATURE] {
            let path = bundle.file(name);
            if path.exists() {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        // Copies: whoever damages a bundle on purpose does not damage the image.
        let sources = [&image.root, &image.verity, &image.efi];
        let status = Command::new("cp")
            .args(["--reflink=auto", "--sparse=always", "--"])
            .args(sources)
            .arg(folder)
            .status()
            .context("cannot run `cp`")?;
        ensure!(
            status.success(),
            "cannot copy the image to {}",
            folder.display()
        );
        let [root, verity, uki] = sources.map(|path| Part::of(path));
        let manifest = Manifest {
            format: FORMAT,
            image: IMAGE_ID.to_owned(),
            version: image.version.clone(),
            architecture: "x86-64".to_owned(),
            roothash: image.roothash.clone(),
            root: root?,
            verity: verity?,
            uki: uki?,
        };
        bundle.write_manifest(&manifest)?;
        if let Some(key) = key {
            bundle.sign(key)?;
        }
        Ok(bundle)
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of the bundle.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The manifest as it stands.
    ///
    /// # Errors
    /// When it is not one.
    pub fn manifest(&self) -> Result<Manifest> {
        let path = self.file(MANIFEST);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no manifest", path.display()))
    }

    /// Writes another manifest; the signature stays that of the former.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let path = self.file(MANIFEST);
        let text = serde_json::to_string_pretty(manifest).context("the manifest is no JSON")?;
        fs::write(&path, format!("{text}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Signs the manifest as it stands.
    ///
    /// # Errors
    /// When the manifest is missing or the folder cannot be written.
    pub fn sign(&self, key: &SigningKey) -> Result<()> {
        let path = self.file(MANIFEST);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let signature = self.file(SIGNATURE);
        fs::write(&signature, key.sign(&bytes))
            .with_context(|| format!("cannot write {}", signature.display()))
    }

    /// Brings sizes and hashes of the manifest to what the files now are, and signs it.
    ///
    /// # Errors
    /// When a file is missing or the folder cannot be written.
    pub fn seal(&self, key: &SigningKey) -> Result<()> {
        let mut manifest = self.manifest()?;
        for part in [&mut manifest.root, &mut manifest.verity, &mut manifest.uki] {
            *part = Part::of(&self.file(&part.name))?;
        }
        self.write_manifest(&manifest)?;
        self.sign(key)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A bundle of an image that has only the three files, small ones.
    pub(crate) fn sample(name: &str, key: &SigningKey) -> Bundle {
        let folder = std::env::temp_dir().join(format!("bundle-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let image = Image::at(&folder, "2", "ab".repeat(32)).unwrap();
        fs::write(&image.efi, [1; 9000]).unwrap();
        fs::write(&image.root, [2; 8192]).unwrap();
        fs::write(&image.verity, [3; 4096]).unwrap();
        Bundle::write(&image, Some(key), &folder.join("bundle")).unwrap()
    }

    pub(crate) fn remove(bundle: &Bundle) {
        fs::remove_dir_all(bundle.folder().parent().unwrap()).unwrap();
    }

    #[test]
    fn the_manifest_names_the_files_beside_it() {
        let key = SigningKey::from_seed(1);
        let bundle = sample("names", &key);
        let manifest = bundle.manifest().unwrap();
        assert_eq!(
            (
                manifest.format,
                manifest.image.as_str(),
                manifest.version.as_str()
            ),
            (1, IMAGE_ID, "2")
        );
        for (part, size) in [
            (&manifest.uki, 9000),
            (&manifest.root, 8192),
            (&manifest.verity, 4096),
        ] {
            assert_eq!(part.size, size);
            assert_eq!(part.sha256, sha256_file(&bundle.file(&part.name)).unwrap());
        }
        let text = fs::read(bundle.file(MANIFEST)).unwrap();
        assert_eq!(fs::read(bundle.file(SIGNATURE)).unwrap(), key.sign(&text));
        assert_eq!(key.sign(&text).len(), 64);
        remove(&bundle);
    }

    #[test]
    fn sealing_follows_the_files() {
        let key = SigningKey::from_seed(1);
        let bundle = sample("seal", &key);
        let before = bundle.manifest().unwrap();
        fs::write(bundle.file(&before.uki.name), "x").unwrap();
        bundle.seal(&key).unwrap();
        let after = bundle.manifest().unwrap();
        assert_eq!(after.uki.size, 1);
        assert_ne!(after.uki.sha256, before.uki.sha256);
        assert_eq!(after.root, before.root);
        remove(&bundle);
    }
}
