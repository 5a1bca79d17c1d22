//! The proof that a slot holds what the roothash stands for, before anything boots it.
//!
//! It is what the kernel does later, block by block, done once for all of them (kernel: `drivers/md/dm-verity-target.c` and
//! `Documentation/admin-guide/device-mapper/verity.rst`, hash type 1): the hash of a block is SHA-256 over salt and block. The
//! hashes of the data blocks fill the blocks of level 0, padded with zeros; their hashes fill level 1, and so
//! on up to a level of one block, whose hash is the roothash. The tree begins in the block after the superblock, with the
//! top level, and ends with level 0. Of one data block there is no level: its own hash is the roothash.
//!
//! From the top down, each level proves the next; so the first error is the highest wrong block.

use super::direct::Window;
use super::hash::{Digest, Hasher};
use crate::initramfs::verity::{SUPERBLOCK_LEN, Superblock};
use std::io;
use std::os::unix::fs::FileExt;

/// A data file or device and its hash tree, and how people call the two.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a, F> {
    /// The data.
    pub data: &'a F,
    /// Its name.
    pub data_name: &'a str,
    /// Bytes of it that may be data.
    pub data_size: u64,
    /// The hash tree with its superblock.
    pub tree: &'a F,
    /// Its name.
    pub tree_name: &'a str,
}

/// Where a level is in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    /// Its first block.
    start: u64,
    /// How many blocks it has.
    blocks: u64,
}

/// Bytes of a hash.
const DIGEST: usize = 32;

/// Proves data and tree against the roothash.
///
/// # Errors
/// Names the device and the block that is wrong or cannot be read.
pub fn verify<F: FileExt>(pair: &Pair<'_, F>, roothash: &[u8; 32]) -> Result<(), String> {
    let mut tree = Window::new(pair.tree);
    let superblock: [u8; SUPERBLOCK_LEN] = tree
        .get(0, SUPERBLOCK_LEN)
        .ok()
        .and_then(|bytes| bytes.first_chunk().copied())
        .ok_or_else(|| format!("{}: no superblock can be read", pair.tree_name))?;
    let superblock = Superblock::parse(&superblock, pair.data_size)
        .map_err(|e| format!("{}: {e}", pair.tree_name))?;
    let levels = levels(superblock.data_blocks, superblock.hash_block_size)
        .ok_or_else(|| format!("{}: a tree that is too large", pair.tree_name))?;
    let block = |name, size: u32| Reader {
        name,
        size: u64::from(size),
        salt: &superblock.salt,
    };
    let nodes = block(pair.tree_name, superblock.hash_block_size);
    let leaves = block(pair.data_name, superblock.data_block_size);
    let mut data = Window::new(pair.data);
    let mut parents: Option<Level> = None;
    for level in levels.iter().rev() {
        nodes.check(&mut tree, *level, &nodes, pair.tree, parents, roothash)?;
        parents = Some(*level);
    }
    let all = Level {
        start: 0,
        blocks: superblock.data_blocks,
    };
    leaves.check(&mut data, all, &nodes, pair.tree, parents, roothash)
}

/// The levels of the tree over so many data blocks, level 0 first.
fn levels(data_blocks: u64, hash_block_size: u32) -> Option<Vec<Level>> {
    let per_block = u64::from(hash_block_size) / DIGEST as u64;
    let mut counts = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(per_block.max(2));
        counts.push(blocks);
    }
    // The top one comes first, behind the superblock.
    let mut start = 1u64;
    let mut levels = Vec::new();
    for blocks in counts.into_iter().rev() {
        levels.push(Level { start, blocks });
        start = start.checked_add(blocks)?;
    }
    levels.reverse();
    Some(levels)
}

/// Blocks of one size on one device.
struct Reader<'a> {
    name: &'a str,
    size: u64,
    salt: &'a [u8],
}

impl Reader<'_> {
    fn get<'w, F: FileExt>(
        &self,
        window: &'w mut Window<'_, F>,
        block: u64,
    ) -> Result<&'w [u8], String> {
        let offset = block.checked_mul(self.size);
        let length = usize::try_from(self.size).unwrap_or(usize::MAX);
        offset
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            .and_then(|offset| window.get(offset, length))
            .map_err(|e| format!("{}: block {block}: {e}", self.name))
    }

    /// Proves the blocks of a level against the hashes in the level above, or the roothash.
    fn check<F: FileExt>(
        &self,
        window: &mut Window<'_, F>,
        level: Level,
        nodes: &Reader<'_>,
        tree: &F,
        parents: Option<Level>,
        roothash: &[u8; 32],
    ) -> Result<(), String> {
        let mut above = Window::new(tree);
        let per_block = (nodes.size / DIGEST as u64).max(1);
        for index in 0..level.blocks {
            let block = level.start.saturating_add(index);
            let mut hasher = Hasher::new();
            hasher.update(self.salt);
            hasher.update(self.get(window, block)?);
            let expected = match parents {
                None => *roothash,
                Some(parents) => {
                    let parent = parents.start.saturating_add(index / per_block);
                    let place = usize::try_from(index % per_block).unwrap_or(usize::MAX);
                    nodes
                        .get(&mut above, parent)?
                        .get(place.saturating_mul(DIGEST)..)
                        .and_then(|rest| rest.first_chunk().copied())
                        .ok_or_else(|| format!("{}: block {parent} is too short", nodes.name))?
                }
            };
            if hasher.finish() != Digest(expected) {
                return Err(format!(
                    "{}: block {block} is not what the roothash stands for",
                    self.name
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
