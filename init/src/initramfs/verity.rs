//! The verity superblock, and the device-mapper table that follows from it.
//!
//! The superblock is the first block of the hash partition (cryptsetup: `docs/on-disk-format-verity`).
//! It is outside bytes until the roothash has proven the tree; its only power is over parameters
//! that make the proof fail if they are wrong. Still everything is checked here, so that damage is
//! told as such and not as an unmountable root.
//!
//! Corruption must never become bad data or an I/O error in a half-alive appliance: the table says
//! `panic_on_corruption` (kernel: `Documentation/admin-guide/device-mapper/verity.rst`), and
//! `panic=` on the command line turns the panic into a reboot.

use std::fmt::Write;

/// Size of the superblock's fields.
pub const SUPERBLOCK_LEN: usize = 512;

/// What a superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    uuid: [u8; 16],
    /// Size of a block of data in bytes; a power of two.
    pub data_block_size: u32,
    /// Size of a block of hashes in bytes; a power of two.
    pub hash_block_size: u32,
    /// How many blocks of data there are, not 0.
    pub data_blocks: u64,
    /// What is hashed before each block.
    pub salt: Vec<u8>,
}

impl Superblock {
    /// Reads and checks the fields. `data_size` is the data partition's size in bytes.
    ///
    /// # Errors
    /// What is wrong, with the value seen.
    pub fn parse(bytes: &[u8; SUPERBLOCK_LEN], data_size: u64) -> Result<Self, String> {
        let u32_at = |at: usize| u32::from_le_bytes(part(bytes, at));
        if !bytes.starts_with(b"verity\0\0") {
            return Err(format!(
                "no verity superblock: it starts with {:02x?}",
                part::<8>(bytes, 0)
            ));
        }
        let (version, hash_type) = (u32_at(8), u32_at(12));
        if (version, hash_type) != (1, 1) {
            return Err(format!(
                "verity version {version}, hash type {hash_type}; only 1 and 1 are known"
            ));
        }
        let algorithm: [u8; 32] = part(bytes, 32);
        if !algorithm.starts_with(b"sha256\0") {
            return Err(format!(
                "hash algorithm {:?}; only sha256 is used",
                String::from_utf8_lossy(&algorithm)
            ));
        }
        let (data_block_size, hash_block_size) = (u32_at(64), u32_at(68));
        for size in [data_block_size, hash_block_size] {
            if !size.is_power_of_two() || !(512..=65_536).contains(&size) {
                return Err(format!(
                    "block size {size}; it must be a power of two from 512 to 65536"
                ));
            }
        }
        let data_blocks = u64::from_le_bytes(part(bytes, 72));
        if data_blocks == 0
            || data_blocks
                .checked_mul(data_block_size.into())
                .is_none_or(|size| size > data_size)
        {
            return Err(format!(
                "{data_blocks} blocks of {data_block_size} do not fit the data partition of {data_size} bytes"
            ));
        }
        let salt_len = usize::from(u16::from_le_bytes(part(bytes, 80)));
        let salt = bytes.get(88..88 + salt_len).filter(|s| s.len() <= 256);
        let salt = salt
            .ok_or_else(|| format!("a salt of {salt_len} bytes; 256 is the most"))?
            .to_vec();
        Ok(Self {
            uuid: part(bytes, 16),
            data_block_size,
            hash_block_size,
            data_blocks,
            salt,
        })
    }

    /// The mapped device's length in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.data_blocks * u64::from(self.data_block_size) / 512
    }

    /// The device-mapper uuid, as libcryptsetup forms it: `CRYPT-VERITY-<uuid>-<name>`.
    #[must_use]
    pub fn dm_uuid(&self, name: &str) -> String {
        format!("CRYPT-VERITY-{}-{name}", hex(&self.uuid))
    }

    /// The target's parameters; devices as `major:minor`.
    #[must_use]
    pub fn table(&self, data: &str, hash: &str, roothash: &[u8; 32]) -> String {
        let salt = if self.salt.is_empty() {
            "-".to_owned()
        } else {
            hex(&self.salt)
        };
        // The tree starts in the block after the superblock's.
        format!(
            "1 {data} {hash} {} {} {} 1 sha256 {} {salt} 1 panic_on_corruption",
            self.data_block_size,
            self.hash_block_size,
            self.data_blocks,
            hex(roothash),
        )
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn superblock() -> [u8; SUPERBLOCK_LEN] {
        let mut bytes = [0u8; SUPERBLOCK_LEN];
        bytes[..8].copy_from_slice(b"verity\0\0");
        bytes[8] = 1;
        bytes[12] = 1;
        bytes[16..32].copy_from_slice(&[0x11; 16]);
        bytes[32..38].copy_from_slice(b"sha256");
        bytes[64..68].copy_from_slice(&4096u32.to_le_bytes());
        bytes[68..72].copy_from_slice(&4096u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&10u64.to_le_bytes());
        bytes[80] = 2;
        bytes[88..90].copy_from_slice(&[0xab, 0xcd]);
        bytes
    }

    #[test]
    fn the_table_of_a_good_superblock() {
        let block = Superblock::parse(&superblock(), 40_960).unwrap();
        assert_eq!(block.sectors(), 80);
        assert_eq!(
            block.dm_uuid("root"),
            format!("CRYPT-VERITY-{}-root", "11".repeat(16))
        );
        assert_eq!(
            block.table("254:2", "254:3", &[0xee; 32]),
            format!(
                "1 254:2 254:3 4096 4096 10 1 sha256 {} abcd 1 panic_on_corruption",
                "ee".repeat(32)
            )
        );
    }

    #[test]
    fn damage_is_told_with_what_was_seen() {
        let damaged = |at: usize, value: u8, say: &str| {
            let mut bytes = superblock();
            bytes[at] = value;
            let error = Superblock::parse(&bytes, 40_960).unwrap_err();
            assert!(error.contains(say), "{error}");
        };
        damaged(0, b'V', "no verity superblock");
        damaged(8, 2, "version 2");
        damaged(33, b'H', "algorithm");
        damaged(64, 1, "block size 4097");
        damaged(72, 11, "do not fit");
        damaged(81, 2, "salt of 514");
    }

    proptest! {
        #[test]
        fn any_block_is_judged(tail in proptest::collection::vec(any::<u8>(), SUPERBLOCK_LEN - 8)) {
            let mut bytes = superblock();
            bytes[8..].copy_from_slice(&tail);
            if let Ok(block) = Superblock::parse(&bytes, 1 << 40) {
                prop_assert!(block.sectors() <= 1 << 31);
            }
        }
    }
}
