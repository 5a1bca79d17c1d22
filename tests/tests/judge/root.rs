//! Damage to the root and its hash tree.

use crate::damage::Damaged;
use crate::{bench, complains, good};
use anyhow::{Context, Result};
use std::fs;

#[test]
fn one_bit_of_root_or_tree_is_found() -> Result<()> {
    let bench = bench()?;
    let (root, tree) = (bench.partition(2)?.start, bench.partition(3)?.start);
    let root_size = fs::metadata(&bench.image.root)?.len();
    let tree_size = fs::metadata(&bench.image.verity)?.len();
    for (at, word) in [
        (root, "block 0 of the root is not"),
        (root + 3 * 4096 + 5, "block 3 of the root is not"),
        (root + root_size - 1, "of the root is not"),
        (tree, "the hash tree has no superblock"),
        (tree + 76, "the hash tree is of"),
        // The salt, and the top.
        (tree + 90, "level 0 from the top"),
        (tree + 4096, "level 0 from the top"),
        (tree + tree_size - 4096, "the hash tree does not fit"),
    ] {
        let mut disk = Damaged::new(bench)?;
        disk.flip(at)?;
        let verdict = bench.judge(&disk, None)?;
        complains(&verdict, &[word]).context(at)?;
        let version = verdict.boots.as_ref();
        anyhow::ensure!(version == Some(&bench.image.version), "{verdict:#?}");
    }
    Ok(())
}

#[test]
fn what_is_behind_the_image_in_its_slot_is_nobodys() -> Result<()> {
    let bench = bench()?;
    let mut disk = Damaged::new(bench)?;
    disk.flip(bench.partition(2)?.start + fs::metadata(&bench.image.root)?.len())?;
    disk.flip(bench.partition(3)?.end - 1)?;
    // The superblock's UUID is in no digest, and no one looks at it.
    disk.flip(bench.partition(3)?.start + 20)?;
    good(bench, &bench.judge(&disk, None)?, &[])
}
