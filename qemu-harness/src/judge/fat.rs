//! The EFI system partition: a FAT32 volume as the firmware reads it (Microsoft FAT32 File System
//! Specification 1.03; EDK II, `FatPkg`).
//!
//! The whole tree is read once, with the chain of clusters of everything in it, because the chains tell what a
//! cut has left: a chain that ends early or goes in a circle cannot be read; clusters in the chains of two
//! files belong to one of them only; two names of one chain are a rename that was cut between its two writes, and
//! both read well. What cannot be read is told when somebody reads it. Only the first FAT counts, as for
//! the firmware; Linux writes both.

use super::disk::{Part, number};
use super::names::{self, ENTRY};
use crate::tools::Tools;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::process::Stdio;

/// Fewer clusters are a FAT16 to the firmware, whatever the boot sector says (section 3.5).
const LEAST_CLUSTERS: u64 = 65525;
/// 28 bits are the cluster's number; from this on they mean the end of the chain.
const END: u32 = 0x0fff_fff8;
const MASK: u32 = 0x0fff_ffff;
/// Bits of the second FAT entry: cleanly unmounted, no read error met.
const CLEAN: u32 = 0x0c00_0000;
/// No folder is larger (section 6).
const MOST_ENTRIES: usize = 65536;
/// More of either is no ESP but a circle.
const DEEPEST: usize = 8;
const MOST_FILES: usize = 10_000;

/// A file or folder of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// From the top, with `/` between, in the letters of the volume.
    pub path: String,
    /// A folder.
    pub directory: bool,
    /// Bytes.
    pub size: u64,
    /// Its clusters, as far as they can be followed.
    pub clusters: Vec<u32>,
    /// Why not further.
    pub fault: Option<String>,
}

/// A volume and all names in it.
#[derive(Debug)]
pub struct Volume<'a> {
    part: Part<'a>,
    cluster: u64,
    first: u64,
    fat: Vec<u32>,
    /// Everything in it.
    pub nodes: Vec<Node>,
    /// Folders and names that cannot be read.
    pub faults: Vec<String>,
    /// What a check would mend and nobody reads.
    pub notes: Vec<String>,
}

impl<'a> Volume<'a> {
    /// Reads the volume.
    ///
    /// # Errors
    /// When there is none that the firmware would read.
    pub fn open(part: Part<'a>) -> Result<Self> {
        let boot = part.read(0, 512)?;
        ensure!(
            boot.get(510..512) == Some(&[0x55, 0xaa]),
            "the boot sector has no signature"
        );
        let sector = number::<2>(&boot, 11);
        ensure!(
            sector.is_power_of_two() && (512..=4096).contains(&sector),
            "the boot sector says {sector} bytes a sector"
        );
        let per_cluster = number::<1>(&boot, 13);
        ensure!(
            per_cluster.is_power_of_two(),
            "the boot sector says {per_cluster} sectors a cluster"
        );
        let (reserved, fats) = (number::<2>(&boot, 14), number::<1>(&boot, 16));
        let (total, size) = (number::<4>(&boot, 32), number::<4>(&boot, 36));
        ensure!(
            number::<2>(&boot, 17) == 0 && number::<2>(&boot, 22) == 0,
            "it is no FAT32"
        );
        ensure!(
            number::<2>(&boot, 40) & 0x80 == 0 && number::<2>(&boot, 42) == 0,
            "the boot sector asks for one active FAT or another version"
        );
        ensure!(
            reserved > 0 && (1..=2).contains(&fats) && total * sector <= part.size(),
            "the boot sector does not fit the partition"
        );
        let data = reserved + fats * size;
        ensure!(data < total, "the boot sector leaves no room for files");
        let clusters = (total - data) / per_cluster;
        ensure!(
            clusters >= LEAST_CLUSTERS && (clusters + 2) * 4 <= size * sector,
            "{clusters} clusters are no FAT32, or more than its FAT holds"
        );
        let bytes = usize::try_from((clusters + 2) * 4)?;
        let fat = part.read(reserved * sector, bytes)?;
        let mut volume = Self {
            part,
            cluster: per_cluster * sector,
            first: data * sector,
            fat: Vec::new(),
            nodes: Vec::new(),
            faults: Vec::new(),
            notes: Vec::new(),
        };
        if fats == 2 && part.read((reserved + size) * sector, bytes)? != fat {
            volume
                .notes
                .push("the two FATs of the ESP differ".to_owned());
        }
        let whole = fat.as_chunks::<4>().0.iter();
        volume.fat = whole
            .map(|entry| u32::from_le_bytes(*entry) & MASK)
            .collect();
        if volume.fat.get(1).is_none_or(|flags| flags & CLEAN != CLEAN) || boot[65] & 1 != 0 {
            volume.notes.push("the ESP was not unmounted".to_owned());
        }
        let root = u32::try_from(number::<4>(&boot, 44))?;
        volume.walk("", root, 0)?;
        Ok(volume)
    }

    /// What is at `path`, in whatever letters.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Node> {
        let same = |node: &&Node| node.path.to_lowercase() == path.to_lowercase();
        self.nodes.iter().find(same)
    }

    /// The files in the folder `path`, in the order of the folder.
    pub fn files(&self, path: &str) -> impl Iterator<Item = (&str, &Node)> {
        let prefix = format!("{}/", path.to_lowercase());
        self.nodes
            .iter()
            .filter(|node| !node.directory)
            .filter_map(move |node| {
                let name = node.path.get(prefix.len()..)?;
                let here = node.path.to_lowercase().starts_with(&prefix) && !name.contains('/');
                here.then_some((name, node))
            })
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// When its chain is broken or too short.
    pub fn read(&self, node: &Node) -> Result<Vec<u8>> {
        self.whole(node)?;
        self.beginning(node)
    }

    /// The bytes of a file as far as its chain holds: what a reader gets who wants no more.
    ///
    /// # Errors
    /// When the partition cannot be read.
    pub fn beginning(&self, node: &Node) -> Result<Vec<u8>> {
        let held = node.size.min(node.clusters.len() as u64 * self.cluster);
        let mut bytes = vec![0; usize::try_from(held)?];
        let mut rest = bytes.as_mut_slice();
        let mut clusters = node.clusters.iter().copied().peekable();
        while let Some(first) = clusters.next()
            && !rest.is_empty()
        {
            // A run of clusters is read at once.
            let mut count = 1;
            while clusters.next_if_eq(&(first + count)).is_some() {
                count += 1;
            }
            let run = usize::try_from(u64::from(count) * self.cluster)?;
            let (now, later) = rest.split_at_mut(run.min(rest.len()));
            self.part.fill(self.place(first), now)?;
            rest = later;
        }
        Ok(bytes)
    }

    /// Where on the partition a cluster begins.
    #[must_use]
    pub fn place(&self, cluster: u32) -> u64 {
        self.first + u64::from(cluster.saturating_sub(2)) * self.cluster
    }

    /// Files and folders that have clusters in common, other than a file under two names.
    #[must_use]
    pub fn crossed(&self) -> Vec<(&str, &str)> {
        let mut owners: HashMap<u32, &Node> = HashMap::new();
        let mut pairs = BTreeSet::new();
        for node in &self.nodes {
            for cluster in &node.clusters {
                let owner = *owners.entry(*cluster).or_insert(node);
                if owner.path != node.path && !twins(owner, node) {
                    pairs.insert((owner.path.as_str(), node.path.as_str()));
                }
            }
        }
        pairs.into_iter().collect()
    }

    /// Files that are one file under two names.
    #[must_use]
    pub fn shared(&self) -> Vec<(&str, &str)> {
        let mut pairs = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let later = self.nodes[index + 1..].iter();
            let same = later.filter(|other| twins(node, other));
            pairs.extend(same.map(|other| (node.path.as_str(), other.path.as_str())));
        }
        pairs
    }

    /// Clusters that are taken and in no file.
    #[must_use]
    pub fn lost(&self) -> usize {
        let mut held = vec![false; self.fat.len()];
        for cluster in self.nodes.iter().flat_map(|node| &node.clusters) {
            if let Some(mark) = held.get_mut(*cluster as usize) {
                *mark = true;
            }
        }
        let all = self.fat.iter().zip(held).skip(2);
        all.filter(|(entry, held)| **entry != 0 && !held).count()
    }

    /// The clusters of a file, as many as its size needs or more.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn whole<'n>(&self, node: &'n Node) -> Result<&'n [u32]> {
        if let Some(why) = &node.fault {
            bail!("{}: {why}", node.path);
        }
        let needed = usize::try_from(node.size.div_ceil(self.cluster))?;
        node.clusters.get(..needed).with_context(|| {
            format!(
                "{}: its {} bytes have {} clusters instead of {needed}",
                node.path,
                node.size,
                node.clusters.len()
            )
        })
    }

    /// Follows a chain to its end, or to where it breaks.
    fn follow(&self, first: u32) -> (Vec<u32>, Option<String>) {
        let mut clusters = Vec::new();
        let mut seen = HashSet::new();
        let mut at = first;
        // A file without clusters begins with 0.
        while at < END && first != 0 {
            let fault = match self.fat.get(at as usize) {
                Some(0) => format!("its chain runs into the free cluster {at}"),
                Some(next) if at >= 2 && seen.insert(at) => {
                    clusters.push(at);
                    at = *next;
                    continue;
                }
                Some(_) if at >= 2 => "its chain goes in a circle".to_owned(),
                _ => format!("its chain runs to {at}, which is no cluster"),
            };
            return (clusters, Some(fault));
        }
        (clusters, None)
    }

    /// Reads the folder at `path`, which begins at the cluster `first`, and what is in it.
    fn walk(&mut self, path: &str, first: u32, depth: usize) -> Result<()> {
        let (clusters, fault) = self.follow(first);
        let shown = if path.is_empty() { "/" } else { path };
        let size = clusters.len() as u64 * self.cluster;
        let bytes = match fault {
            Some(why) => Err(why),
            None if size == 0 => Err("it has no cluster".to_owned()),
            None if size > (MOST_ENTRIES * ENTRY) as u64 => {
                Err("it is larger than a folder can be".to_owned())
            }
            None => {
                let node = Node {
                    path: shown.to_owned(),
                    directory: true,
                    size,
                    clusters,
                    fault: None,
                };
                let bytes = self.read(&node)?;
                self.nodes.push(node);
                Ok(bytes)
            }
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(why) => {
                self.faults.push(format!("the folder {shown}: {why}"));
                return Ok(());
            }
        };
        let listing = names::list(&bytes);
        if listing.orphans > 0 {
            self.notes.push(format!(
                "the folder {shown} has parts of {} names without a file",
                listing.orphans
            ));
        }
        let told = |why: &String| format!("the folder {shown}: {why}");
        self.faults.extend(listing.faults.iter().map(told));
        let mut seen = HashSet::new();
        for entry in listing.entries {
            if !seen.insert(entry.name.to_lowercase()) {
                self.faults
                    .push(format!("the folder {shown} has {} twice", entry.name));
            }
            let path = if path.is_empty() {
                entry.name
            } else {
                format!("{path}/{}", entry.name)
            };
            ensure!(
                depth < DEEPEST && self.nodes.len() < MOST_FILES,
                "folders of the ESP are within themselves: {path}"
            );
            if entry.directory {
                self.walk(&path, entry.first, depth + 1)?;
            } else {
                let (clusters, fault) = self.follow(entry.first);
                self.nodes.push(Node {
                    path,
                    directory: false,
                    size: u64::from(entry.size),
                    clusters,
                    fault,
                });
            }
        }
        Ok(())
    }
}

/// One file under two names.
fn twins(a: &Node, b: &Node) -> bool {
    let same = (a.size, &a.clusters, &a.fault) == (b.size, &b.clusters, &b.fault);
    !a.directory && !b.directory && !a.clusters.is_empty() && same
}

/// What `fsck.fat` says of the volume; nothing when it finds nothing. Slow, and a cut leaves harmless things
/// for it to say: for those who want to know what a state is like.
///
/// # Errors
/// When the volume cannot be written to `scratch` or the program not be run.
pub fn fsck(part: &Part<'_>, tools: &Tools, scratch: &Path) -> Result<Option<String>> {
    let file = scratch.join(format!("esp-{}.raw", std::process::id()));
    part.save(&file)?;
    let output = tools
        .command("fsck.fat")
        .arg("-n")
        .arg(&file)
        .stdin(Stdio::null())
        .output();
    // Only disk space is lost if it stays.
    let _ = std::fs::remove_file(&file);
    let output = output.context("cannot run fsck.fat")?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[cfg(test)]
#[path = "fat_tests.rs"]
mod tests;
