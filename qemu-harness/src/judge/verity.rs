//! Is the root whole: its data and its hash tree against the root hash (kernel documentation, dm-verity;
//! cryptsetup's `verity.c` for the superblock).
//!
//! Equal to the image's own files, which were checked once, is whole: that is a comparison of memory and
//! quick. Only where it differs is the tree followed, to say what is wrong, or that nothing is.

use super::disk::{Disk, Part, chunks, length, number};
use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

/// The block size of data and tree that the image is built with.
const BLOCK: usize = 4096;
const DIGEST: usize = 32;
const SIGNATURE: &[u8] = b"verity\0\0";
/// The salt has this much room in the superblock.
const MOST_SALT: usize = 256;
/// Blocks read at once.
const BATCH: u64 = 256;

/// What the superblock in the tree's first block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Blocks of data that the tree is of.
    pub blocks: u64,
    salt: Vec<u8>,
}

impl Superblock {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not of the kind that the image is built with.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(
            bytes.starts_with(SIGNATURE),
            "the hash tree has no superblock"
        );
        ensure!(
            number::<4>(bytes, 8) == 1 && number::<4>(bytes, 12) == 1,
            "the hash tree is of another version"
        );
        ensure!(
            bytes
                .get(32..64)
                .is_some_and(|name| name.starts_with(b"sha256\0")),
            "the hash tree is not of SHA-256"
        );
        ensure!(
            number::<4>(bytes, 64) == BLOCK as u64 && number::<4>(bytes, 68) == BLOCK as u64,
            "the hash tree is of blocks that are not of {BLOCK} bytes"
        );
        let salt = usize::try_from(number::<2>(bytes, 80))?;
        ensure!(salt <= MOST_SALT, "the hash tree's salt is too long");
        let blocks = number::<8>(bytes, 72);
        ensure!(blocks > 0, "the hash tree is of no blocks");
        Ok(Self {
            blocks,
            salt: bytes.get(88..88 + salt).unwrap_or_default().to_vec(),
        })
    }

    fn digest(&self, block: &[u8]) -> [u8; DIGEST] {
        let mut hash = Sha256::new();
        hash.update(&self.salt);
        hash.update(block);
        hash.finalize().into()
    }
}

/// Follows the tree from the root hash down to every block of data.
///
/// # Errors
/// Names the first block that does not have the digest it must have.
pub fn verify(data: &Part<'_>, tree: &Part<'_>, roothash: &[u8; DIGEST]) -> Result<()> {
    let superblock = Superblock::parse(&tree.read(0, BLOCK)?)?;
    let (data_blocks, tree_blocks) = (blocks(data), blocks(tree));
    ensure!(
        superblock.blocks <= data_blocks,
        "the hash tree is of {} blocks, the partition has {data_blocks}",
        superblock.blocks
    );
    // From the top: a level has one digest for each block of the level below.
    let mut digests = vec![*roothash];
    let mut first = 1;
    for (height, count) in levels(superblock.blocks).into_iter().enumerate() {
        ensure!(
            first + count <= tree_blocks,
            "the hash tree has {} blocks, its partition {tree_blocks}",
            first + count
        );
        let bytes = tree.read(first * BLOCK as u64, usize::try_from(count)? * BLOCK)?;
        for (block, expected) in bytes.chunks(BLOCK).zip(&digests) {
            ensure!(
                superblock.digest(block) == *expected,
                "the hash tree does not fit: a block of level {height} from the top, which is block {first} on"
            );
        }
        digests = bytes.as_chunks::<DIGEST>().0.to_vec();
        first += count;
    }
    let mut at = 0;
    while at < superblock.blocks {
        let count = BATCH.min(superblock.blocks - at);
        let bytes = data.read(at * BLOCK as u64, usize::try_from(count)? * BLOCK)?;
        for (index, block) in (at..).zip(bytes.chunks(BLOCK)) {
            let expected = digests.get(usize::try_from(index)?);
            ensure!(
                expected == Some(&superblock.digest(block)),
                "block {index} of the root is not what the hash tree says"
            );
        }
        at += count;
    }
    Ok(())
}

/// Blocks of each level, from the top, which is one block.
fn levels(data: u64) -> Vec<u64> {
    let fan = (BLOCK / DIGEST) as u64;
    let mut levels = Vec::new();
    let mut count = data;
    // One block of data has its digest as the root hash, and no tree.
    while count > 1 {
        count = count.div_ceil(fan);
        levels.push(count);
    }
    levels.reverse();
    levels
}

fn blocks(part: &Part<'_>) -> u64 {
    part.size() / BLOCK as u64
}

/// What is known of the chunks of one partition of the base: whether they equal those of a file.
pub type Remembered = Vec<Option<bool>>;

/// True when the partition begins with the bytes of `file`. What the disk says is unchanged is compared once.
///
/// # Errors
/// When either cannot be read.
pub fn begins_with(part: &Part<'_>, file: &dyn Disk, known: &mut Remembered) -> Result<bool> {
    if part.size() < file.len() {
        return Ok(false);
    }
    for (index, chunk) in chunks(file.len()).enumerate() {
        let unchanged = part.unchanged(chunk.clone());
        if known.len() <= index {
            known.resize(index + 1, None);
        }
        let equal = match known[index] {
            Some(equal) if unchanged => equal,
            _ => {
                let ours = part.read(chunk.start, length(&chunk))?;
                let mut theirs = vec![0; ours.len()];
                file.read_at(chunk.start, &mut theirs)?;
                let equal = ours == theirs;
                if unchanged {
                    known[index] = Some(equal);
                }
                equal
            }
        };
        if !equal {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::disk::tests::Memory;
    use super::*;
    use proptest::prelude::*;

    /// Data of this many blocks with its tree, made from the bottom up.
    fn sample(count: u64) -> (Memory, Memory, [u8; 32]) {
        let salt = [7; 32];
        let mut superblock = vec![0; BLOCK];
        superblock[..8].copy_from_slice(SIGNATURE);
        (superblock[8], superblock[12]) = (1, 1);
        superblock[32..38].copy_from_slice(b"sha256");
        superblock[65] = 16;
        superblock[69] = 16;
        superblock[72..80].copy_from_slice(&count.to_le_bytes());
        superblock[80] = 32;
        superblock[88..120].copy_from_slice(&salt);
        let bytes = usize::try_from(count).unwrap() * BLOCK;
        let data: Vec<u8> = (0..bytes).map(|at| (at / 3).to_le_bytes()[0]).collect();
        let hash = |block: &[u8]| -> Vec<u8> {
            Sha256::new()
                .chain_update(salt)
                .chain_update(block)
                .finalize()
                .to_vec()
        };
        let mut level: Vec<u8> = data.chunks(BLOCK).flat_map(hash).collect();
        let mut tree = Vec::new();
        while level.len() > DIGEST {
            level.resize(level.len().next_multiple_of(BLOCK), 0);
            tree.splice(0..0, level.iter().copied());
            level = level.chunks(BLOCK).flat_map(hash).collect();
        }
        superblock.extend(tree);
        (Memory(data), Memory(superblock), level.try_into().unwrap())
    }

    fn judge(data: &Memory, tree: &Memory, root: &[u8; 32]) -> Result<()> {
        let part = |disk| Part::new(disk, &(0..Disk::len(disk)));
        verify(&part(data)?, &part(tree)?, root)
    }

    #[test]
    fn whole_trees_of_each_height_are_whole() {
        for count in [1, 2, 128, 129, 300] {
            let (data, tree, root) = sample(count);
            judge(&data, &tree, &root).unwrap();
            let mut other = root;
            other[5] ^= 1;
            assert!(judge(&data, &tree, &other).is_err(), "{count}");
        }
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let (mut data, tree, root) = sample(300);
        data.0.truncate(299 * BLOCK);
        let error = judge(&data, &tree, &root).unwrap_err().to_string();
        assert!(error.contains("of 300 blocks"), "{error}");
        let (data, mut tree, root) = sample(300);
        tree.0.truncate(4 * BLOCK);
        let error = judge(&data, &tree, &root).unwrap_err().to_string();
        assert!(error.contains("its partition 4"), "{error}");
    }

    #[test]
    fn unchanged_chunks_are_compared_once() {
        struct Same(Memory);
        impl Disk for Same {
            fn len(&self) -> u64 {
                self.0.len()
            }
            fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
                self.0.read_at(offset, buffer)
            }
            fn unchanged(&self, _: std::ops::Range<u64>) -> bool {
                true
            }
        }
        let (data, _, _) = sample(600);
        let mut known = Vec::new();
        let mut disk = Same(Memory(data.0.clone()));
        let equal = |disk: &dyn Disk, known: &mut Remembered| {
            begins_with(&Part::new(disk, &(0..disk.len())).unwrap(), &data, known).unwrap()
        };
        assert!(equal(&disk, &mut known));
        assert_eq!(known, [Some(true); 3]);
        // It says that nothing has changed, so it is believed.
        disk.0.0[9] ^= 1;
        assert!(equal(&disk, &mut known));
        assert!(!equal(&disk.0, &mut known));
        assert!(!equal(&disk, &mut Vec::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn one_flipped_bit_is_found(at in any::<prop::sample::Index>(), bit in 0..8_u32, in_tree in any::<bool>()) {
            let (mut data, mut tree, root) = sample(200);
            if in_tree {
                // Behind the superblock every byte counts.
                let place = BLOCK + at.index(tree.0.len() - BLOCK);
                tree.0[place] ^= 1 << bit;
            } else {
                let place = at.index(data.0.len());
                data.0[place] ^= 1 << bit;
            }
            prop_assert!(judge(&data, &tree, &root).is_err());
        }
    }
}
