//! ext4's superblock after a power cut that tore it.
//!
//! The kernel writes the superblock in place, outside of the journal, at each mount, each unmount and each
//! growth. It is 1024 bytes, and a disk of 512-byte sectors promises only a sector to be whole: a cut between the
//! two leaves a new first half beside an old second half. What changes from one such write to the next is all in
//! the first half (state, times, counts, sizes, whether the journal is to be replayed), but for the
//! checksum, which is the last four bytes. So both halves are of this file system and fit together; only the
//! checksum is that of one of the writes, and for it the kernel refuses to mount.
//!
//! [`completed`] is the superblock with the checksum that belongs to it, if it is one of which only the
//! checksum is wrong, as far as can be told: everything that never changes is as the backup in the second
//! block group has it.

use std::io;
use std::os::unix::fs::FileExt;

/// Where the superblock is, and its length (kernel: `Documentation/filesystems/ext4/super.rst`).
const PLACE: u64 = 1024;
const LEN: usize = 1024;

/// `s_magic`.
const MAGIC: (usize, u16) = (0x38, 0xef53);

/// The bit of `s_feature_ro_compat` that says that there is a checksum.
const METADATA_CSUM: u32 = 0x400;

/// The bit of it that comes and goes with a mount: orphans are noted in their file.
const ORPHAN_PRESENT: u32 = 0x1_0000;

/// Where the checksum is: over all before it, CRC-32C from all ones.
const CHECKSUM: usize = 0x3fc;

/// Fields that no mount and no growth changes, by place and length: `s_log_block_size` and
/// `s_blocks_per_group`, `s_inodes_per_group`, `s_magic`, `s_first_ino` and `s_inode_size`,
/// `s_uuid`, `s_journal_uuid` and `s_journal_inum`, `s_checksum_seed`.
const FIXED: [(usize, usize); 7] = [
    (0x14, 16),
    (0x28, 4),
    (0x38, 2),
    (0x54, 6),
    (0x68, 16),
    (0xd0, 20),
    (0x270, 4),
];

/// Mends the superblock on a device that cannot be mounted; true if that was what was wrong with it.
///
/// # Errors
/// Of the device.
pub fn mend(device: &impl FileExt) -> io::Result<bool> {
    let mut torn = [0u8; LEN];
    device.read_exact_at(&mut torn, PLACE)?;
    let Some(place) = backup(&torn) else {
        return Ok(false);
    };
    let mut other = [0u8; LEN];
    if device.read_exact_at(&mut other, place).is_err() {
        return Ok(false);
    }
    match completed(&torn, &other) {
        Some(whole) => {
            // All of what differs is in one sector.
            let (start, last) = (LEN - 512, PLACE + LEN as u64 - 512);
            device.write_all_at(whole.get(start..).unwrap_or_default(), last)?;
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Where the first backup is: at the start of the second block group (with `sparse_super`, too).
fn backup(superblock: &[u8; LEN]) -> Option<u64> {
    let block = 1024u64.checked_shl(u32_at(superblock, 0x18))?;
    let first = u64::from(u32_at(superblock, 0x14));
    let group = u64::from(u32_at(superblock, 0x20));
    (block > 1024 && block <= 65536).then_some(())?;
    block.checked_mul(first.checked_add(group)?)
}

/// The superblock with its right checksum, if only that is wrong with it.
fn completed(torn: &[u8; LEN], backup: &[u8; LEN]) -> Option<[u8; LEN]> {
    let (place, magic) = MAGIC;
    let has_magic = |block: &[u8; LEN]| block.get(place..place + 2) == Some(&magic.to_le_bytes());
    let features = |block: &[u8; LEN]| u32_at(block, 0x64) & !ORPHAN_PRESENT;
    let checked = features(torn) & METADATA_CSUM != 0 && features(torn) == features(backup);
    let same = |&(at, len): &(usize, usize)| torn.get(at..at + len) == backup.get(at..at + len);
    let whole = |block: &[u8; LEN]| checksum(block) == u32_at(block, CHECKSUM);
    let mendable =
        has_magic(torn) && checked && !whole(torn) && whole(backup) && FIXED.iter().all(same);
    let mut mended = *torn;
    let sum = checksum(torn).to_le_bytes();
    mended.get_mut(CHECKSUM..)?.copy_from_slice(&sum);
    mendable.then_some(mended)
}

fn checksum(superblock: &[u8; LEN]) -> u32 {
    crc32c(superblock.get(..CHECKSUM).unwrap_or_default())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |four| u32::from_le_bytes(*four))
}

/// CRC-32C as ext4 has it: reflected, from all ones, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(block: &mut [u8; LEN], at: usize, bytes: &[u8]) {
        block[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn sealed(mut block: [u8; LEN]) -> [u8; LEN] {
        let sum = checksum(&block);
        put(&mut block, CHECKSUM, &sum.to_le_bytes());
        block
    }

    /// A superblock as it was written the `count`th time.
    fn written(count: u16) -> [u8; LEN] {
        let mut block = [0u8; LEN];
        put(&mut block, 0x18, &2u32.to_le_bytes());
        put(&mut block, 0x20, &32768u32.to_le_bytes());
        put(&mut block, 0x34, &count.to_le_bytes());
        put(&mut block, 0x38, &MAGIC.1.to_le_bytes());
        put(&mut block, 0x64, &METADATA_CSUM.to_le_bytes());
        put(&mut block, 0x68, &[7; 16]);
        sealed(block)
    }

    fn torn() -> [u8; LEN] {
        let mut block = written(1);
        block[..512].copy_from_slice(&written(2)[..512]);
        block
    }

    #[test]
    fn the_check_value_of_the_polynomial() {
        // CRC-32C of "123456789", before the inversion.
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_torn_one_is_completed_and_only_that() {
        assert_eq!(completed(&torn(), &written(0)), Some(written(2)));
        assert_eq!(completed(&written(1), &written(0)), None);
        let mut other = written(0);
        put(&mut other, 0x68, &[8; 16]);
        assert_eq!(completed(&torn(), &sealed(other)), None);
        assert_eq!(completed(&torn(), &torn()), None);
        assert_eq!(completed(&[0; LEN], &written(0)), None);
    }

    #[test]
    fn it_is_mended_on_the_disk() {
        let path = std::env::temp_dir().join(format!("init-ext4-{}", std::process::id()));
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.write_all_at(&torn(), PLACE).unwrap();
        file.write_all_at(&written(0), 32768 * 4096).unwrap();
        assert!(mend(&file).unwrap());
        let mut now = [0u8; LEN];
        file.read_exact_at(&mut now, PLACE).unwrap();
        assert_eq!(now, written(2));
        assert!(!mend(&file).unwrap());
        std::fs::remove_file(&path).unwrap();
    }

    proptest! {
        /// Bytes of another kind are left alone.
        #[test]
        fn garbage_is_not_mended(bytes in proptest::collection::vec(any::<u8>(), LEN)) {
            let block: [u8; LEN] = bytes.try_into().unwrap();
            prop_assert_eq!(completed(&block, &written(0)), None);
            let _ = backup(&block);
        }
    }
}
