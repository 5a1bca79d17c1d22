//! The states of an update: a second version, of a small root of its own, comes into slot B.

use crate::damage::Damaged;
use crate::esp::{ESP, copy_in, mtools};
use crate::table::{UUID, entry, sign};
use crate::{Bench, bench, complains};
use anyhow::{Context, Result, ensure};
use qemu_harness::assemble::halves;
use qemu_harness::judge::{Judge, Known, Rule, VarCheck, Verdict};
use qemu_harness::lock::hex;
use sha2::{Digest, Sha256};
use std::fs;

/// As long as the image's version, since it takes its place in the UKI.
const VERSION: &str = "9.9.9";
const TRIAL: &str = "astromesh-os_9.9.9+0-0.efi";
/// What `LoaderEntryOneShot` calls it.
const ID: &str = "astromesh-os_9.9.9.efi";
const BLESSED: &str = "astromesh-os_9.9.9.efi";

/// The second version: files that are removed in the end, and what is known of it.
struct Second {
    known: Known,
    uki: Vec<u8>,
    _files: [crate::damage::Temporary; 2],
}

impl Second {
    fn make(bench: &Bench) -> Result<Self> {
        let [root, tree] = ["root", "tree"].map(|name| bench.temporary(name));
        let data: Vec<u8> = (0_u32..150 * 1024).flat_map(u32::to_le_bytes).collect();
        fs::write(&root.0, data)?;
        let [data, hash] = [&root.0, &tree.0].map(|path| path.display().to_string());
        let said = bench
            .tools
            .output("veritysetup", &["format", &data, &hash])?;
        let roothash = said
            .lines()
            .find_map(|line| line.strip_prefix("Root hash:"))
            .context("veritysetup says no root hash")?
            .trim();
        let mut uki = fs::read(&bench.image.efi)?;
        replace(&mut uki, &bench.image.roothash, roothash)?;
        let version = |number: &str| format!("IMAGE_VERSION=\"{number}\"");
        replace(&mut uki, &version(&bench.image.version), &version(VERSION))?;
        let known = Known {
            version: VERSION.to_owned(),
            roothash: roothash.to_owned(),
            uki_sha256: hex(&Sha256::digest(&uki)),
            root: root.0.clone(),
            verity: tree.0.clone(),
        };
        Ok(Self {
            known,
            uki,
            _files: [root, tree],
        })
    }

    /// Writes its root and tree into slot B.
    fn fill(&self, bench: &Bench, disk: &mut Damaged) -> Result<()> {
        disk.write(bench.partition(4)?.start, &fs::read(&self.known.root)?)?;
        disk.write(bench.partition(5)?.start, &fs::read(&self.known.verity)?)
    }

    /// Names slot B after its root hash.
    fn name(&self, disk: &mut Damaged) -> Result<()> {
        let (data, hash) = halves(&self.known.roothash);
        disk.write(entry(4) + UUID, &guid(&data)?)?;
        disk.write(entry(5) + UUID, &guid(&hash)?)?;
        sign(disk)
    }
}

fn replace(bytes: &mut [u8], from: &str, to: &str) -> Result<()> {
    ensure!(from.len() == to.len(), "{from} and {to} are not as long");
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .with_context(|| format!("no {from} in the UKI"))?;
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    Ok(())
}

/// The bytes of a GUID: the first three fields are little-endian.
fn guid(text: &str) -> Result<Vec<u8>> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let bytes = (0..16).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16));
    let mut bytes = bytes.collect::<Result<Vec<_>, _>>()?;
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Ok(bytes)
}

/// A judge of both versions, and a disk with the second's UKI under this name.
struct Update<'a> {
    bench: &'a Bench,
    second: Second,
    judge: Judge,
    disk: Damaged,
}

impl<'a> Update<'a> {
    fn new(bench: &'a Bench, name: &str) -> Result<Self> {
        let second = Second::make(bench)?;
        let judge = Judge::new(&[second.known.clone(), Known::of(&bench.image)?])?;
        let file = bench.temporary("uki");
        fs::write(&file.0, &second.uki)?;
        let disk = bench.edited(ESP, |esp| {
            copy_in(bench, esp, &file.0, &format!("EFI/Linux/{name}"))
        })?;
        Ok(Self {
            bench,
            second,
            judge,
            disk,
        })
    }

    fn judge(&self, one_shot: Option<&str>) -> Result<Verdict> {
        let tools = &self.bench.tools;
        self.judge
            .judge(&self.disk, one_shot, tools, VarCheck::Skip)
    }

    /// Checks that this version starts from this slot and that the other entry is whole, or says this.
    fn boots(
        &self,
        one_shot: Option<&str>,
        version: &str,
        letter: char,
        other: &str,
    ) -> Result<()> {
        let verdict = self.judge(one_shot)?;
        complains(&verdict, &[])?;
        let [alternative] = &verdict.alternatives[..] else {
            anyhow::bail!("{verdict:#?}");
        };
        ensure!(
            verdict.boots.as_deref() == Some(version)
                && verdict.slot.context("no slot")?.letter == letter
                && alternative.whole == other.is_empty()
                && alternative.why.contains(other),
            "expected {version} from {letter} and {other:?}: {verdict:#?}"
        );
        Ok(())
    }
}

#[test]
fn the_trial_is_whole_only_when_everything_of_it_is_there() -> Result<()> {
    let bench = bench()?;
    let old = bench.image.version.as_str();
    let mut update = Update::new(bench, TRIAL)?;
    update.boots(None, old, 'a', "no partition has its root's PARTUUID")?;
    let verdict = update.judge(Some(ID))?;
    complains(
        &verdict,
        &["which starts: no partition has its root's PARTUUID"],
    )?;
    update.second.name(&mut update.disk)?;
    update.boots(None, old, 'a', "the hash tree has no superblock")?;
    update.second.fill(bench, &mut update.disk)?;
    update.boots(None, old, 'a', "")?;
    update.boots(Some(ID), VERSION, 'b', "")?;
    // The last block of the root did not reach the disk.
    let end = bench.partition(4)?.start + fs::metadata(&update.second.known.root)?.len();
    update.disk.write(end - 4096, &[0; 4096])?;
    update.boots(None, old, 'a', "block 149 of the root is not")?;
    let verdict = update.judge(Some(ID))?;
    complains(&verdict, &["which starts: block 149 of the root is not"])
}

#[test]
fn a_blessed_version_starts_and_the_old_one_stays() -> Result<()> {
    let bench = bench()?;
    let mut update = Update::new(bench, BLESSED)?;
    update.second.name(&mut update.disk)?;
    update.second.fill(bench, &mut update.disk)?;
    update.boots(None, VERSION, 'b', "")?;
    let verdict = update.judge(None)?;
    ensure!(
        verdict.rule == Some(Rule::First) && verdict.entry.as_deref() == Some(BLESSED),
        "{verdict:#?}"
    );
    // A machine of two versions: the new UKI and the new tree, the old root.
    let range = bench.partition(4)?;
    update
        .disk
        .write(range.start, &fs::read(&bench.image.root)?[..150 * 4096])?;
    complains(&update.judge(None)?, &["block 0 of the root is not"])
}

#[test]
fn a_removed_old_entry_is_no_alternative() -> Result<()> {
    let bench = bench()?;
    let second = Second::make(bench)?;
    let judge = Judge::new(std::slice::from_ref(&second.known))?;
    let file = bench.temporary("uki");
    fs::write(&file.0, &second.uki)?;
    let mut disk = bench.edited(ESP, |esp| {
        mtools(
            bench,
            "mdel",
            esp,
            &[&format!("::EFI/Linux/{}", bench.uki())],
        )?;
        copy_in(bench, esp, &file.0, &format!("EFI/Linux/{TRIAL}"))
    })?;
    second.fill(bench, &mut disk)?;
    second.name(&mut disk)?;
    let verdict = judge.judge(&disk, None, &bench.tools, VarCheck::Skip)?;
    complains(&verdict, &[])?;
    // Nothing else is there, so the loader starts what is bad.
    ensure!(
        verdict
            .notes
            .iter()
            .any(|note| note.contains("no tries left")),
        "{verdict:#?}"
    );
    Ok(())
}
