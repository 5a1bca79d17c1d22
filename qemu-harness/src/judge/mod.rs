//! The judge: given a disk that is off, says what the loader would boot from it, and whether that is a whole
//! machine of one version.
//!
//! It is the measure of what init does to the disk, so it shares nothing with init: it has readers of its own,
//! written from the specifications, and follows what firmware, systemd-boot and Linux do with the bytes:
//!
//! | part | asks |
//! | --- | --- |
//! | [`table`] | which copy of the partition table counts |
//! | [`fat`], [`names`] | what is on the ESP, and can it be read |
//! | [`loader`], [`version`] | which entry starts |
//! | [`verity`] | is the root behind the entry's root hash whole |
//! | [`var`] | is `/var` whole after the replay of its journal |
//!
//! **Unmixed** means: the UKI that starts is, to the byte, that of a known version; the root hash in it is that
//! version's; its two halves name a root and a hash partition of one slot; and these hold that version's root
//! and tree. Every other entry is tried as well, since `LoaderEntryOneShot` may name it next, or the first
//! may turn bad: [`Verdict::alternatives`].
//!
//! A [`Verdict`] has *complaints*, none of which a good state has, and *notes*, which a cut may leave and nobody
//! is hurt by. An error instead of a verdict means that the judge itself could not work.
//!
//! Thousands of states of one disk are judged with one [`Judge`]: it compares with the image's files instead
//! of hashing, and what a state has in common with the base ([`Disk::unchanged`]) is looked at once.

pub mod disk;
mod esp;
pub mod fat;
pub mod loader;
pub mod names;
pub mod table;
pub mod var;
pub mod verity;
pub mod version;

pub use disk::{Disk, Part};
pub use loader::Rule;
pub use var::Expect;

use crate::assemble::halves;
use crate::gpt::{ROOT, ROOT_VERITY, VAR};
use crate::image::Image;
use crate::lock::hex;
use crate::tools::Tools;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use table::{Partition, Table, Tables};
use verity::Remembered;

/// A version that a disk may hold.
#[derive(Debug, Clone)]
pub struct Known {
    /// The version.
    pub version: String,
    /// The root hash, in hex.
    pub roothash: String,
    /// SHA-256 of the UKI, in hex.
    pub uki_sha256: String,
    /// The root's data, as the image build wrote it.
    pub root: PathBuf,
    /// The root's hash tree, likewise.
    pub verity: PathBuf,
}

impl Known {
    /// The version that an image is of.
    ///
    /// # Errors
    /// When its UKI cannot be read.
    pub fn of(image: &Image) -> Result<Self> {
        let uki = fs::read(&image.efi)
            .with_context(|| format!("cannot read the UKI {}", image.efi.display()))?;
        Ok(Self {
            version: image.version.clone(),
            roothash: image.roothash.clone(),
            uki_sha256: hex(&Sha256::digest(uki)),
            root: image.root.clone(),
            verity: image.verity.clone(),
        })
    }
}

/// What to do about `/var`.
#[derive(Debug, Clone, Copy)]
pub enum VarCheck<'a> {
    /// Nothing.
    Skip,
    /// Mount it, as far as that can be done without a machine.
    Replay {
        /// A folder for the copy, best in memory.
        scratch: &'a Path,
        /// Files that must be as somebody expects.
        expect: &'a [Expect<'a>],
    },
}

/// The partitions that a version boots from, by their numbers in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its place among the slots of the disk: `a` or `b`.
    pub letter: char,
    /// The root.
    pub root: u32,
    /// The hash tree.
    pub verity: u32,
}

/// An entry that does not start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternative {
    /// The file's name.
    pub entry: String,
    /// The version it is of, when it is a known one.
    pub version: Option<String>,
    /// The loader has it in its menu. What it has not, it passes over, even when a variable names it.
    pub listed: bool,
    /// It would boot a whole machine.
    pub whole: bool,
    /// Why not.
    pub why: String,
}

/// What is said of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The version that starts, when its UKI is a known one; whether it comes far, the complaints say.
    pub boots: Option<String>,
    /// The file's name of the entry that starts.
    pub entry: Option<String>,
    /// Why that one.
    pub rule: Option<Rule>,
    /// Where it boots from.
    pub slot: Option<Slot>,
    /// What is wrong. A good disk has none.
    pub complaints: Vec<String>,
    /// The other entries.
    pub alternatives: Vec<Alternative>,
    /// What is not as after a clean shutdown and hurts nobody.
    pub notes: Vec<String>,
}

/// A known version with its files open.
#[derive(Debug)]
struct Reference {
    known: Known,
    root: File,
    verity: File,
    /// The UKI, once one with the right sum was seen: comparing is quicker than hashing.
    uki: Mutex<Option<Vec<u8>>>,
}

/// Judges states of a disk; may be shared between threads.
#[derive(Debug)]
pub struct Judge {
    references: Vec<Reference>,
    /// By the partition's place on the disk and the name of what it is compared with.
    compared: Mutex<HashMap<(u64, PathBuf), Remembered>>,
    var: var::Memory,
}

impl Judge {
    /// A judge who knows these versions.
    ///
    /// # Errors
    /// When the files of one cannot be read, or its root is not what its root hash says.
    pub fn new(known: &[Known]) -> Result<Self> {
        let references = known.iter().map(Reference::open);
        Ok(Self {
            references: references.collect::<Result<_>>()?,
            compared: Mutex::default(),
            var: var::Memory::default(),
        })
    }

    /// Judges a disk. `one_shot` is the variable `LoaderEntryOneShot`, when it is set.
    ///
    /// # Errors
    /// When the judge cannot work: the disk or a file of a known version cannot be read, a tool not run.
    pub fn judge(
        &self,
        disk: &dyn Disk,
        one_shot: Option<&str>,
        tools: &Tools,
        var: VarCheck<'_>,
    ) -> Result<Verdict> {
        let tables = Tables::read(disk)?;
        let mut verdict = Verdict {
            complaints: tables.complaints(),
            notes: tables.notes(),
            ..Verdict::default()
        };
        let Some((_, table)) = tables.used() else {
            return Ok(verdict);
        };
        if let Some(esp) = only(table, table::ESP, "ESP", &mut verdict) {
            let part = Part::new(disk, &esp.range)?;
            self.entries(disk, table, part, one_shot, &mut verdict)?;
        }
        if let VarCheck::Replay { scratch, expect } = var
            && let Some(partition) = only(table, VAR, "/var", &mut verdict)
        {
            let part = Part::new(disk, &partition.range)?;
            let paths: Vec<&str> = expect.iter().map(|file| file.path).collect();
            let found = self.var.check(&part, tools, scratch, &paths)?;
            verdict.complaints.extend(found.complaints);
            verdict.notes.extend(found.notes);
            for file in expect {
                let content = found.files.get(file.path).map(Vec::as_slice);
                if let Err(why) = (file.holds)(content) {
                    verdict
                        .complaints
                        .push(format!("/var/{}: {why}", file.path));
                }
            }
        }
        Ok(verdict)
    }

    /// Judges what the loader finds on the ESP.
    fn entries(
        &self,
        disk: &dyn Disk,
        table: &Table,
        part: Part<'_>,
        one_shot: Option<&str>,
        verdict: &mut Verdict,
    ) -> Result<()> {
        let esp = match esp::read(part, one_shot) {
            Ok(esp) => esp,
            Err(error) => {
                verdict.complaints.push(format!("the ESP: {error:#}"));
                return Ok(());
            }
        };
        verdict.complaints.extend(esp.complaints);
        verdict.notes.extend(esp.notes);
        for file in esp.files {
            let judged = match &file.content {
                Ok(uki) => self.boots(disk, table, uki)?,
                Err(why) => Judged::bad(why.clone()),
            };
            if Some(&file.name) == esp.chosen.as_ref().map(|(name, _)| name) {
                if let Some(why) = judged.why {
                    let name = &file.name;
                    verdict
                        .complaints
                        .push(format!("{name}, which starts: {why}"));
                }
                verdict.boots = judged.version;
                verdict.slot = judged.slot;
            } else {
                verdict.alternatives.push(Alternative {
                    entry: file.name,
                    version: judged.version,
                    listed: file.content.is_ok(),
                    whole: judged.why.is_none(),
                    why: judged.why.unwrap_or_default(),
                });
            }
        }
        match esp.chosen {
            Some((name, rule)) => {
                verdict.entry = Some(name);
                verdict.rule = Some(rule);
            }
            None => verdict
                .complaints
                .push("the loader finds no entry in EFI/Linux".to_owned()),
        }
        Ok(())
    }

    /// Judges the machine behind a UKI.
    fn boots(&self, disk: &dyn Disk, table: &Table, uki: &esp::Uki) -> Result<Judged> {
        let Some(reference) = self.known(&uki.bytes) else {
            return Ok(Judged::bad(format!(
                "the UKI of {} bytes is none of a known version",
                uki.bytes.len()
            )));
        };
        let known = &reference.known;
        let mut judged = Judged {
            version: Some(known.version.clone()),
            slot: None,
            why: None,
        };
        let roothash = match &uki.roothash {
            Ok(roothash) if roothash.eq_ignore_ascii_case(&known.roothash) => roothash,
            Ok(other) => {
                judged.why = Some(format!("its root hash is {other}, not the version's"));
                return Ok(judged);
            }
            Err(why) => {
                judged.why = Some(why.clone());
                return Ok(judged);
            }
        };
        let (data, hash) = halves(roothash);
        let pair =
            find(table, ROOT, &data).and_then(|root| Ok((root, find(table, ROOT_VERITY, &hash)?)));
        let (root, tree) = match pair {
            Ok(pair) => pair,
            Err(why) => {
                judged.why = Some(why);
                return Ok(judged);
            }
        };
        if root.0 != tree.0 {
            let (root, tree) = (root.1.number, tree.1.number);
            judged.why = Some(format!(
                "its root is partition {root} and its hash tree partition {tree}, of another slot"
            ));
            return Ok(judged);
        }
        judged.slot = Some(Slot {
            letter: if root.0 == 0 { 'a' } else { 'b' },
            root: root.1.number,
            verity: tree.1.number,
        });
        let root = Part::new(disk, &root.1.range)?;
        let tree = Part::new(disk, &tree.1.range)?;
        let equal = self.equal(&root, &reference.root, &known.root)?
            && self.equal(&tree, &reference.verity, &known.verity)?;
        if !equal && let Err(error) = verity::verify(&root, &tree, &bytes(roothash)?) {
            judged.why = Some(format!("{error:#}"));
        }
        Ok(judged)
    }

    /// The version that a UKI is of.
    fn known(&self, uki: &[u8]) -> Option<&Reference> {
        let seen = |known: &&Reference| lock(&known.uki).as_deref() == Some(uki);
        self.references.iter().find(seen).or_else(|| {
            let digest = hex(&Sha256::digest(uki));
            let same = |known: &&Reference| known.known.uki_sha256.eq_ignore_ascii_case(&digest);
            let found = self.references.iter().find(same)?;
            *lock(&found.uki) = Some(uki.to_vec());
            Some(found)
        })
    }

    fn equal(&self, part: &Part<'_>, file: &File, path: &Path) -> Result<bool> {
        let key = (part.start(), path.to_owned());
        // Taken out while it is used: another thread compares anew rather than waits.
        let mut known = lock(&self.compared).remove(&key).unwrap_or_default();
        let equal = verity::begins_with(part, file, &mut known);
        lock(&self.compared).insert(key, known);
        equal.with_context(|| format!("cannot compare with {}", path.display()))
    }
}

/// Judges one disk. For more, make one [`Judge`] and keep it.
///
/// # Errors
/// As [`Judge::new`] and [`Judge::judge`].
pub fn judge(
    disk: &dyn Disk,
    known: &[Known],
    one_shot: Option<&str>,
    tools: &Tools,
    var: VarCheck<'_>,
) -> Result<Verdict> {
    Judge::new(known)?.judge(disk, one_shot, tools, var)
}

impl Reference {
    fn open(known: &Known) -> Result<Self> {
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))
        };
        let reference = Self {
            known: known.clone(),
            root: open(&known.root)?,
            verity: open(&known.verity)?,
            uki: Mutex::default(),
        };
        let part = |file: &'static str, disk| {
            Part::new(disk, &(0..Disk::len(disk))).with_context(|| format!("the {file}"))
        };
        verity::verify(
            &part("root", &reference.root)?,
            &part("hash tree", &reference.verity)?,
            &bytes(&known.roothash)?,
        )
        .with_context(|| format!("the files of version {} are not one image", known.version))?;
        Ok(reference)
    }
}

/// What is said of one UKI.
struct Judged {
    version: Option<String>,
    slot: Option<Slot>,
    why: Option<String>,
}

impl Judged {
    fn bad(why: String) -> Self {
        Self {
            version: None,
            slot: None,
            why: Some(why),
        }
    }
}

/// The partition of this type and PARTUUID, and its place among those of its type.
fn find<'a>(table: &'a Table, kind: &str, uuid: &str) -> Result<(usize, &'a Partition), String> {
    let of = table.of(kind).into_iter().enumerate();
    let found: Vec<_> = of
        .filter(|(_, partition)| partition.uuid.eq_ignore_ascii_case(uuid))
        .collect();
    let what = if kind == ROOT { "root" } else { "hash tree" };
    match found[..] {
        [one] => Ok(one),
        [] => Err(format!("no partition has its {what}'s PARTUUID {uuid}")),
        _ => Err(format!(
            "several partitions have its {what}'s PARTUUID {uuid}"
        )),
    }
}

fn only<'a>(
    table: &'a Table,
    kind: &str,
    what: &str,
    verdict: &mut Verdict,
) -> Option<&'a Partition> {
    match table.of(kind)[..] {
        [one] => Some(one),
        ref all => {
            let count = all.len();
            verdict
                .complaints
                .push(format!("{count} partitions are {what}, not one"));
            None
        }
    }
}

/// A root hash as bytes.
fn bytes(roothash: &str) -> Result<[u8; 32]> {
    let mut all = [0; 32];
    ensure!(
        roothash.len() == 64 && roothash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{roothash:?} is no root hash"
    );
    for (index, byte) in all.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&roothash[index * 2..index * 2 + 2], 16)?;
    }
    Ok(all)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a panic elsewhere left half done is a cache with less in it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
