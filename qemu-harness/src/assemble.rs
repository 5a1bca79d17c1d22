//! mkosi and repart: from a packed root to a disk.
//!
//! mkosi gets the packed root as blocks and builds what belongs to it: the hash tree, the UKI
//! with the root hash first on its command line, and the ESP with loader and UKI. Root and hash
//! tree come out minimal, so that they fit any slot. repart then lays out the disk from these.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::image::{EPOCH, IMAGE_ID, Image};
use crate::paths::Paths;
use crate::pe;
use crate::tools::{Tools, run};
use crate::tree;

/// Where the packed root lies in the tree that mkosi sees.
const ROOT_IN_TREE: &str = "root.erofs";
/// Every UUID of the disk that has no meaning of its own is derived from it.
const DISK_SEED: &str = "6f1d2c9e-3f0b-4a57-9d55-a57203e5a002";
/// /var's file system: the same in all versions, since all share one /var.
const VAR_UUID: &str = "6f1d2c9e-3f0b-4a57-9d55-a57203e5a003";
/// Seed of ext4's folder hashes, which mke2fs would otherwise draw at random.
const VAR_HASH_SEED: &str = "6f1d2c9e-3f0b-4a57-9d55-a57203e5a004";
/// First size of /var; it grows with the disk.
const VAR_SIZE: &str = "512M";
/// Percent of /var that only root can use (mke2fs(8), `-m`): what init writes as root still has room when a service
/// has filled the rest. Two, because the kernel keeps whole percents when the file system grows online (fs/ext4/
/// resize.c, `ext4_update_super`), and of one, rounded down to blocks, it would keep none.
const VAR_RESERVED: &str = "2";
/// Block size of data and hash tree, the page size: what dm-verity is fastest with.
const BLOCK: u64 = 4096;
/// SHA-256 digests in one block of the hash tree.
const FANOUT: u64 = BLOCK / 32;

/// What mkosi puts together.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Version of the image.
    pub version: &'a str,
    /// Kernel, stub and loader.
    pub boot: &'a Path,
    /// os-release for the UKI.
    pub os_release: &'a Path,
    /// The packed root.
    pub root: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// Kernel command line after the root hash.
    pub command_line: &'a str,
}

/// What mkosi made.
#[derive(Debug)]
pub struct Built {
    /// The ESP, a whole file system.
    pub esp: PathBuf,
    /// The UKI.
    pub uki: PathBuf,
    /// The root's data.
    pub root: PathBuf,
    /// The root's hash tree.
    pub verity: PathBuf,
    /// The root hash, hex.
    pub roothash: String,
}

/// Runs mkosi on `parts` in `work`.
///
/// # Errors
/// When mkosi fails, or what it made does not hang together.
pub fn mkosi(paths: &Paths, tools: &Tools, parts: &Parts<'_>, work: &Path) -> Result<Built> {
    let definition = paths.image_definition();
    let skeleton = work.join("skeleton");
    fs::create_dir_all(skeleton.join("usr/lib"))?;
    fs::copy(parts.os_release, skeleton.join("usr/lib/os-release"))?;
    for folder in ["boot", "efi", "etc", "var"] {
        fs::create_dir_all(skeleton.join(folder))?;
    }
    let extra = work.join("extra");
    tree::copy(parts.boot, &extra)?;
    tree::copy(&definition.join("boot"), &extra)?;
    fs::rename(parts.root, extra.join(ROOT_IN_TREE))?;

    let bytes = fs::metadata(extra.join(ROOT_IN_TREE))?.len();
    ensure!(
        bytes % BLOCK == 0,
        "the packed root is {bytes} bytes, not a multiple of {BLOCK}"
    );
    let repart = work.join("repart");
    let values = [
        ("ROOT", ROOT_IN_TREE.to_owned()),
        ("ROOT_BYTES", bytes.to_string()),
        ("HASH_BYTES", hash_tree_bytes(bytes).to_string()),
    ];
    fill(&definition.join("repart"), &repart, &values)?;

    let output = work.join("mkosi");
    for folder in ["mkosi", "workspace", "cache"] {
        fs::create_dir_all(work.join(folder))?;
    }
    let mut command = tools.command("mkosi");
    // mkosi reads mkosi.conf of its working folder and nothing else of it.
    let config = work.join("config");
    fs::create_dir_all(&config)?;
    fs::copy(definition.join("mkosi.conf"), config.join("mkosi.conf"))?;
    command
        .current_dir(&config)
        .args(["--force", "--image-version", parts.version]);
    command
        .arg("--skeleton-tree")
        .arg(&skeleton)
        .arg("--extra-tree")
        .arg(&extra);
    command
        .arg("--repart-dir")
        .arg(&repart)
        .arg("--initrd")
        .arg(parts.initramfs);
    command
        .arg("--output-dir")
        .arg(&output)
        .arg("--workspace-dir")
        .arg(work.join("workspace"));
    command.arg("--cache-dir").arg(work.join("cache"));
    command
        .arg(format!("--kernel-command-line={}", parts.command_line))
        .arg("build");
    run(&mut command)?;

    let file = |suffix: &str| output.join(format!("{IMAGE_ID}_{}{suffix}", parts.version));
    let uki = file(".efi");
    let image = fs::read(&uki).with_context(|| format!("mkosi made no {}", uki.display()))?;
    let line = pe::command_line(&image)
        .with_context(|| format!("cannot read the UKI {}", uki.display()))?;
    let roothash = line
        .strip_prefix("roothash=")
        .and_then(|rest| rest.split(' ').next())
        .filter(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
        .with_context(|| format!("the UKI's command line does not begin with a root hash: {line}"))?
        .to_owned();
    let built = Built {
        esp: file(".esp.raw"),
        uki,
        root: file(".root-x86-64.raw"),
        verity: file(".root-x86-64-verity.raw"),
        roothash,
    };
    // The UKI's hash and the partitions must be of one build: the reference tool says so.
    let mut verify = tools.command("veritysetup");
    run(verify
        .arg("verify")
        .arg(&built.root)
        .arg(&built.verity)
        .arg(&built.roothash))
    .context("the root does not match the root hash in the UKI")?;
    Ok(built)
}

/// Lays out the disk at `image.raw`.
///
/// # Errors
/// When /var cannot be made or a part does not fit its slot.
pub fn disk(paths: &Paths, tools: &Tools, image: &Image, esp: &Path, work: &Path) -> Result<()> {
    let var = work.join("var.ext4");
    let mut mkfs = tools.command("mke2fs");
    mkfs.env("SOURCE_DATE_EPOCH", EPOCH)
        .env("E2FSPROGS_FAKE_TIME", EPOCH);
    mkfs.args([
        "-q",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-m",
        VAR_RESERVED,
        "-L",
        "var",
        "-U",
        VAR_UUID,
    ]);
    // Nothing is left for the kernel to do at the first mount.
    mkfs.args([
        "-E",
        &format!("hash_seed={VAR_HASH_SEED},lazy_itable_init=0,lazy_journal_init=0"),
    ]);
    run(mkfs.arg(&var).arg(VAR_SIZE)).context("cannot make the file system of /var")?;

    let (data, hash) = halves(&image.roothash);
    let values = [
        ("VERSION", image.version.clone()),
        ("ROOT_UUID", data),
        ("VERITY_UUID", hash),
        ("VAR_BYTES", fs::metadata(&var)?.len().to_string()),
    ];
    let layout = work.join("layout");
    fill(&paths.image_definition().join("layout"), &layout, &values)?;
    let raw = work.join("disk.raw");
    let mut repart = tools.command("systemd-repart");
    repart.args([
        "--empty=create",
        "--size=auto",
        "--offline=yes",
        "--dry-run=no",
        "--json=short",
    ]);
    repart
        .args(["--sector-size=512", "--seed", DISK_SEED, "--definitions"])
        .arg(&layout);
    let table = run(repart.arg(&raw)).context("cannot lay out the disk")?;
    let table: Vec<Slot> =
        serde_json::from_str(&table).context("repart's answer is not as expected")?;
    let disk = OpenOptions::new().write(true).open(&raw)?;
    let contents = [
        ("00-esp.conf", esp),
        ("10-root-a.conf", image.root.as_path()),
        ("11-verity-a.conf", image.verity.as_path()),
        ("30-var.conf", var.as_path()),
    ];
    for (definition, source) in contents {
        let slot = table
            .iter()
            .find(|slot| slot.file.ends_with(definition))
            .with_context(|| format!("repart made no partition of {definition}"))?;
        put(source, &disk, slot)
            .with_context(|| format!("cannot fill the partition of {definition}"))?;
    }
    fs::rename(&raw, &image.raw)
        .with_context(|| format!("cannot put {} into place", image.raw.display()))
}

/// A partition as repart describes it.
#[derive(Deserialize)]
struct Slot {
    file: PathBuf,
    offset: u64,
    raw_size: u64,
}

/// Copies a file into a partition; blocks of zeros stay holes, so that the disk is as small on
/// the builder's disk as what is in it.
fn put(source: &Path, disk: &File, slot: &Slot) -> Result<()> {
    let mut file =
        File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
    let size = file.metadata()?.len();
    ensure!(
        size <= slot.raw_size,
        "{} has {size} bytes, its partition {}: make it larger in image/layout",
        source.display(),
        slot.raw_size
    );
    let zeros = [0; 4096];
    let mut buffer = vec![0; 1 << 20];
    let mut at = slot.offset;
    loop {
        let filled = file.read(&mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        for block in buffer[..filled].chunks(zeros.len()) {
            if *block != zeros[..block.len()] {
                disk.write_all_at(block, at)?;
            }
            at += block.len() as u64;
        }
    }
}

/// Root hash to the UUIDs of data and hash partition (Discoverable Partitions Specification).
#[must_use]
pub fn halves(roothash: &str) -> (String, String) {
    let uuid = |hex: &str| {
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..32]
        )
    };
    (uuid(&roothash[..32]), uuid(&roothash[32..64]))
}

/// Size of the hash partition: superblock, then the levels of the tree from the one that is a
/// single block down (kernel documentation, dm-verity).
fn hash_tree_bytes(data: u64) -> u64 {
    let mut blocks = 1;
    let mut level = data / BLOCK;
    while level > 1 {
        level = level.div_ceil(FANOUT);
        blocks += level;
    }
    blocks * BLOCK
}

/// Copies definition files, with each `@NAME@` replaced.
fn fill(from: &Path, to: &Path, values: &[(&str, String)]) -> Result<()> {
    fs::create_dir_all(to)?;
    for path in tree::files(from)? {
        let mut text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for (name, value) in values {
            text = text.replace(&format!("@{name}@"), value);
        }
        ensure!(
            !text.contains('@'),
            "{} has a name between @ that the build does not know",
            path.display()
        );
        fs::write(to.join(path.file_name().unwrap_or_default()), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_hash_names_both_partitions() {
        let hash = "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f";
        let (data, tree) = halves(hash);
        assert_eq!(data, "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(tree, "10213243-5465-7687-98a9-bacbdcedfe0f");
    }

    #[test]
    fn the_hash_tree_is_as_large_as_veritysetup_makes_it() {
        // 110 blocks of data: the superblock and one block of digests.
        assert_eq!(hash_tree_bytes(110 * 4096), 2 * 4096);
        assert_eq!(hash_tree_bytes(128 * 4096), 2 * 4096);
        assert_eq!(hash_tree_bytes(129 * 4096), 4 * 4096);
        assert_eq!(hash_tree_bytes(16384 * 4096), (1 + 1 + 128) * 4096);
    }
}
