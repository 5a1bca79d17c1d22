//! Updates that a machine must refuse, and installed versions that went bad.
//!
//! The functions on a [`Bundle`] change what is published: with the signature as it was, or with one
//! that covers the change. Those on a disk damage what was installed, between two boots.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::assemble::halves;
use crate::esp::Esp;
use crate::gpt::{self, Partition};
use crate::signing::SigningKey;
use crate::tools::Tools;
use crate::update_bundle::{Bundle, MANIFEST, Manifest, Part, SIGNATURE};

/// A file of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The root's data.
    Root,
    /// The root's hash tree.
    Verity,
    /// The UKI.
    Uki,
}

impl Piece {
    /// Its entry in a manifest.
    #[must_use]
    pub fn of(self, manifest: &mut Manifest) -> &mut Part {
        match self {
            Self::Root => &mut manifest.root,
            Self::Verity => &mut manifest.verity,
            Self::Uki => &mut manifest.uki,
        }
    }
}

impl Bundle {
    /// Flips the lowest bit of one byte of a file; manifest and signature stay.
    ///
    /// # Errors
    /// When there is no such byte.
    pub fn flip(&self, piece: Piece, offset: u64) -> Result<()> {
        let mut manifest = self.manifest()?;
        flip(&self.file(&piece.of(&mut manifest).name), offset)
    }

    /// The same in the manifest, which may then be JSON or not.
    ///
    /// # Errors
    /// When there is no such byte.
    pub fn flip_manifest(&self, offset: u64) -> Result<()> {
        flip(&self.file(MANIFEST), offset)
    }

    /// The same in the signature.
    ///
    /// # Errors
    /// When there is no such byte.
    pub fn flip_signature(&self, offset: u64) -> Result<()> {
        flip(&self.file(SIGNATURE), offset)
    }

    /// Cuts a file off, or makes it longer by a hole; manifest and signature stay, see [`Bundle::seal`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn resize(&self, piece: Piece, size: u64) -> Result<()> {
        let mut manifest = self.manifest()?;
        let path = self.file(&piece.of(&mut manifest).name);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(size))
            .with_context(|| format!("cannot change the size of {}", path.display()))
    }

    /// Changes what the manifest says, and signs that: another version or root hash, a size that no
    /// slot has. Files stay.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn claim(&self, key: &SigningKey, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut manifest = self.manifest()?;
        change(&mut manifest);
        self.write_manifest(&manifest)?;
        self.sign(key)
    }
}

/// Flips the lowest bit of a byte in the root of a version that is on the disk: `at` is counted from
/// the start of its data.
///
/// # Errors
/// When no slot has that root.
pub fn flip_root(tools: &Tools, disk: &Path, roothash: &str, at: u64) -> Result<()> {
    let (data, _) = slot(tools, disk, roothash)?;
    flip_in(disk, &data, at)
}

/// The same in its hash tree.
///
/// # Errors
/// When no slot has that root.
pub fn flip_verity(tools: &Tools, disk: &Path, roothash: &str, at: u64) -> Result<()> {
    let (_, hash) = slot(tools, disk, roothash)?;
    flip_in(disk, &hash, at)
}

/// Cuts the UKI of a version on the ESP off, as a firmware finds it after a bad write.
///
/// # Errors
/// When the ESP has no UKI of that version, or a shorter one.
pub fn truncate_installed_uki(
    tools: &Tools,
    disk: &Path,
    version: &str,
    keep: usize,
) -> Result<()> {
    change_installed_uki(tools, disk, version, |bytes| {
        ensure!(keep < bytes.len(), "the UKI has only {} bytes", bytes.len());
        bytes.truncate(keep);
        Ok(())
    })
}

/// Writes zeros over a part of the UKI of a version on the ESP.
///
/// # Errors
/// When the ESP has no UKI of that version, or one without that part.
pub fn wipe_installed_uki(
    tools: &Tools,
    disk: &Path,
    version: &str,
    part: std::ops::Range<usize>,
) -> Result<()> {
    change_installed_uki(tools, disk, version, |bytes| {
        bytes
            .get_mut(part)
            .context("the UKI is not that long")?
            .fill(0);
        Ok(())
    })
}

fn change_installed_uki(
    tools: &Tools,
    disk: &Path,
    version: &str,
    change: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let esp = Esp::of(tools, disk)?;
    let name = esp.entry_of(version)?;
    let mut bytes = esp.read(&name)?;
    change(&mut bytes)?;
    esp.write(&name, &bytes)
}

/// The data and the hash partition of a root hash.
fn slot(tools: &Tools, disk: &Path, roothash: &str) -> Result<(Partition, Partition)> {
    ensure!(roothash.len() == 64, "`{roothash}` is no root hash");
    let partitions = gpt::partitions(tools, disk)?;
    let (data, hash) = halves(roothash);
    let find = |what: &str, uuid: String| {
        gpt::only(&partitions, what, |p| p.uuid.eq_ignore_ascii_case(&uuid))
    };
    Ok((
        find("the data of this root hash", data)?,
        find("the hash tree of this root hash", hash)?,
    ))
}

fn flip_in(disk: &Path, partition: &Partition, at: u64) -> Result<()> {
    ensure!(at < partition.size, "the partition ends before byte {at}");
    flip(disk, partition.start + at)
}

fn flip(path: &Path, offset: u64) -> Result<()> {
    let open = || -> std::io::Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 1], offset)
    };
    open().with_context(|| format!("cannot flip byte {offset} of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::sha256_file;
    use crate::update_bundle::tests::{remove, sample};
    use std::fs;

    #[test]
    fn a_flipped_byte_is_not_what_the_manifest_says() {
        let bundle = sample("flip", &SigningKey::from_seed(1));
        for piece in [Piece::Root, Piece::Verity, Piece::Uki] {
            let mut manifest = bundle.manifest().unwrap();
            let part = piece.of(&mut manifest);
            let path = bundle.file(&part.name);
            assert_eq!(sha256_file(&path).unwrap(), part.sha256);
            bundle.flip(piece, 17).unwrap();
            assert_ne!(sha256_file(&path).unwrap(), part.sha256);
            assert!(bundle.flip(piece, part.size).is_err());
        }
        remove(&bundle);
    }

    #[test]
    fn a_claim_is_signed_and_a_flip_is_not() {
        let key = SigningKey::from_seed(1);
        let bundle = sample("claim", &key);
        bundle
            .claim(&key, |manifest| manifest.version = "0.1".into())
            .unwrap();
        let signed = || {
            let text = fs::read(bundle.file(MANIFEST)).unwrap();
            fs::read(bundle.file(SIGNATURE)).unwrap() == key.sign(&text)
        };
        assert_eq!(bundle.manifest().unwrap().version, "0.1");
        assert!(signed());
        bundle.flip_manifest(30).unwrap();
        assert!(!signed());
        bundle.flip_manifest(30).unwrap();
        assert!(signed());
        bundle.flip_signature(63).unwrap();
        assert!(!signed());
        remove(&bundle);
    }

    #[test]
    fn a_file_can_be_too_short_or_too_long_and_be_signed_so() {
        let key = SigningKey::from_seed(1);
        let bundle = sample("resize", &key);
        for size in [100, 1 << 30] {
            bundle.resize(Piece::Uki, size).unwrap();
            assert_ne!(bundle.manifest().unwrap().uki.size, size);
            bundle
                .claim(&key, |manifest| manifest.uki.size = size)
                .unwrap();
            let manifest = bundle.manifest().unwrap();
            let length = fs::metadata(bundle.file(&manifest.uki.name)).unwrap().len();
            assert_eq!(length, manifest.uki.size);
        }
        remove(&bundle);
    }
}
