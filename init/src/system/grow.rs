//! Growth of `/var` to the end of a disk that was made larger.
//!
//! Three things have a size: the partition in the table, the partition as the kernel knows it, and the
//! file system. They are brought up in this order, each only when it is behind the one before, so
//! a growth that was cut off anywhere goes on at the next boot from what is seen there. Nothing
//! is ever made smaller, and less than a MiB is not worth it:
//!
//! * the table by [`gpt_edit`], which a power cut cannot halve;
//! * the kernel's idea by `BLKPG`, which takes a partition that is mounted;
//! * ext4 by itself, online: the kernel adds groups of blocks in transactions of its journal.
//!
//! It is a process of its own, the service `grow`, once at each boot. `/var` must be on its
//! partition (not in memory, as on a degraded machine) and the last on the disk.

use super::var;
use crate::devices::disks::{self, Partition, number};
use crate::devices::gpt_edit;
use crate::sys;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use supervisor::logger::now;

const MIB: u64 = 1 << 20;

/// Where ext4 has its superblock, and how long it is (kernel:
/// `Documentation/filesystems/ext4/super.rst`).
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;

/// Takes the name and the fields of an event.
pub type Tell<'a> = dyn FnMut(&str, &[(&str, String)]) + 'a;

/// Why `/var` has not grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is not one that can grow, at another try neither.
    Unfit(String),
    /// Something failed.
    Failed(String),
}

/// Lets `/var` grow as far as its disk allows.
///
/// # Errors
/// Names the disk or partition. Whatever was done until then is whole.
pub fn grow(tell: &mut Tell<'_>) -> Result<(), Trouble> {
    let begun = now();
    let partitions = disks::partitions(&mut |_, _| {});
    let partition = var::find(&partitions, var::root_disk().as_deref()).map_err(Trouble::Unfit)?;
    let name = &partition.name;
    check_mounted(&partition)?;
    let failed = |what: &str, e: io::Error| Trouble::Failed(format!("{what}: {e}"));
    let before = file_system(&partition).map_err(|e| failed(name, e))?;
    let sysfs = Path::new("/sys/class/block").join(name);
    let own_number = number(&sysfs.join("partition"))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| Trouble::Failed(format!("{}: no number", sysfs.display())))?;

    let what = format!("the table of {}", partition.disk);
    let (disk, mut table) = gpt_edit::open(&partition.disk).map_err(|e| failed(&what, e))?;
    let worth = table
        .grow_last(own_number)
        .map_err(|e| Trouble::Unfit(format!("{what}: {e}")))?;
    let seen = Seen {
        table: table.bytes(own_number).unwrap_or_default(),
        kernel: kernel(&sysfs).unwrap_or_default(),
        file_system: before,
    };
    let plan = plan(&seen).map_err(|e| Trouble::Failed(format!("{name}: {e}")))?;

    if let Some(damage) = table.damage() {
        let seen = format!("{}: {damage}", partition.disk);
        warn(tell, "gpt", seen, "written anew");
    }
    if let Some(blocks) = plan.blocks {
        let fields = [
            ("device", name.clone()),
            ("from", before.bytes().to_string()),
            ("to", blocks.saturating_mul(before.block).to_string()),
        ];
        tell("var.growing", &fields);
    }
    if worth || table.damage().is_some() {
        table.write(&disk).map_err(|e| failed(&what, e))?;
    }
    if let Some(length) = plan.length {
        sys::resize_partition(&disk, own_number, seen.table.start, length)
            .map_err(|e| failed(&format!("{name}: BLKPG"), e))?;
    }
    // Others may go on with the table.
    drop(disk);
    let Some(blocks) = plan.blocks else {
        return Ok(());
    };
    let root = File::open("/var").map_err(|e| failed("/var", e))?;
    sys::resize_ext4(&root, blocks)
        .map_err(|e| failed(&format!("{name}: growth of ext4 to {blocks} blocks"), e))?;
    let after = file_system(&partition).map_err(|e| failed(name, e))?;
    if after.blocks == before.blocks {
        return Err(Trouble::Failed(format!("{name}: ext4 has not grown")));
    }
    let took = now().saturating_sub(begun).as_millis();
    let fields = [
        ("device", name.clone()),
        ("from", before.bytes().to_string()),
        ("to", after.bytes().to_string()),
        ("ms", took.to_string()),
    ];
    tell("var.grown", &fields);
    Ok(())
}

/// Tells that something is not as it should be.
pub fn warn(tell: &mut Tell<'_>, what: &str, seen: String, then: &str) {
    let fields = [
        ("what", what.to_owned()),
        ("seen", seen),
        ("then", then.to_owned()),
    ];
    tell("var.warning", &fields);
}

/// What has a size, in bytes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// The partition as the table has it, or will have it.
    table: Range<u64>,
    /// The partition as the kernel has it.
    kernel: Range<u64>,
    file_system: FileSystem,
}

/// The size of an ext4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileSystem {
    blocks: u64,
    /// Size of a block in bytes.
    block: u64,
    /// Whether it can count more than 2^32 blocks.
    wide: bool,
}

/// What is behind the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Plan {
    /// How long the kernel is to know the partition to be.
    length: Option<u64>,
    /// How many blocks the file system is to have.
    blocks: Option<u64>,
}

fn plan(seen: &Seen) -> Result<Plan, String> {
    let Seen {
        table,
        kernel,
        file_system,
    } = seen;
    if table.start != kernel.start || table.end < kernel.end || table.end <= table.start {
        return Err(format!(
            "the table has it at the bytes {table:?}, the kernel at {kernel:?}; it is as the kernel has it until a reboot"
        ));
    }
    let length = table.end - table.start;
    let most = if file_system.wide {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    };
    let blocks = (length / file_system.block.max(1)).min(most);
    let gain = blocks.saturating_sub(file_system.blocks);
    if gain.saturating_mul(file_system.block) < MIB {
        return Ok(Plan::default());
    }
    Ok(Plan {
        length: (table.end > kernel.end).then_some(length),
        blocks: Some(blocks),
    })
}

impl FileSystem {
    fn bytes(self) -> u64 {
        self.blocks.saturating_mul(self.block)
    }

    fn parse(superblock: &[u8; SUPERBLOCK_LEN]) -> Option<Self> {
        let [u16s, u32s] = [2usize, 4];
        let field = |at: usize, length: usize| {
            let bytes = superblock.get(at..at.checked_add(length)?)?;
            Some(
                bytes
                    .iter()
                    .rfold(0, |all, byte| all << 8 | u64::from(*byte)),
            )
        };
        // s_magic, s_feature_incompat (INCOMPAT_64BIT), s_log_block_size, s_blocks_count_lo and _hi.
        if field(0x38, u16s)? != 0xef53 {
            return None;
        }
        let wide = field(0x60, u32s)? & 0x80 != 0;
        let block = 1024 << field(0x18, u32s).filter(|log| *log <= 6)?;
        let high = if wide { field(0x150, u32s)? } else { 0 };
        Some(Self {
            blocks: high << 32 | field(0x4, u32s)?,
            block,
            wide,
        })
    }
}

/// Whether `/var` is on this partition, or somewhere else because that could not be mounted.
fn check_mounted(partition: &Partition) -> Result<(), Trouble> {
    let device = std::fs::metadata("/var")
        .map_err(|e| Trouble::Failed(format!("/var: {e}")))?
        .dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    if format!("{major}:{minor}") == partition.number {
        return Ok(());
    }
    Err(Trouble::Unfit(format!(
        "/var is not on {} but on the device {major}:{minor}",
        partition.name
    )))
}

/// The partition as the kernel has it; sysfs counts in sectors of 512.
fn kernel(sysfs: &Path) -> Option<Range<u64>> {
    let start = number(&sysfs.join("start"))?.checked_mul(512)?;
    let size = number(&sysfs.join("size"))?.checked_mul(512)?;
    Some(start..start.checked_add(size)?)
}

/// The size of the mounted file system. Its driver has the superblock in the same page cache that is
/// read here.
fn file_system(partition: &Partition) -> io::Result<FileSystem> {
    let mut superblock = [0; SUPERBLOCK_LEN];
    File::open(partition.path())?.read_exact_at(&mut superblock, SUPERBLOCK_AT)?;
    FileSystem::parse(&superblock).ok_or_else(|| io::Error::other("no ext4 superblock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 900 * MIB;

    fn seen(table: u64, kernel: u64, file_system: u64) -> Seen {
        Seen {
            table: START..START + table,
            kernel: START..START + kernel,
            file_system: FileSystem {
                blocks: file_system / 4096,
                block: 4096,
                wide: true,
            },
        }
    }

    #[test]
    fn each_is_brought_up_to_the_one_before() {
        let all = Plan {
            length: Some(3 * MIB),
            blocks: Some(768),
        };
        let last = Plan {
            length: None,
            ..all
        };
        assert_eq!(plan(&seen(3 * MIB, MIB, MIB)), Ok(all));
        assert_eq!(plan(&seen(3 * MIB, 3 * MIB, MIB)), Ok(last));
        assert_eq!(plan(&seen(3 * MIB, 3 * MIB, 3 * MIB)), Ok(Plan::default()));
        assert_eq!(plan(&seen(2 * MIB - 1, MIB, MIB)), Ok(Plan::default()));
    }

    #[test]
    fn what_does_not_fit_together_is_left_alone() {
        let mut moved = seen(MIB, MIB, MIB);
        moved.kernel = 0..MIB;
        assert!(
            plan(&moved)
                .unwrap_err()
                .contains("the kernel at 0..1048576")
        );
        assert!(plan(&seen(MIB, 2 * MIB, MIB)).is_err());
        assert!(
            plan(&Seen {
                table: 0..0,
                kernel: 0..0,
                ..moved
            })
            .is_err()
        );
    }

    #[test]
    fn a_superblock_tells_its_size() {
        let mut superblock = [0; SUPERBLOCK_LEN];
        superblock[4] = 7;
        superblock[0x18] = 2;
        superblock[0x150] = 1;
        assert_eq!(FileSystem::parse(&superblock), None);
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        let small = FileSystem {
            blocks: 7,
            block: 4096,
            wide: false,
        };
        assert_eq!(FileSystem::parse(&superblock), Some(small));
        superblock[0x60] = 0x80;
        let large = FileSystem {
            blocks: 1 << 32 | 7,
            wide: true,
            ..small
        };
        assert_eq!(FileSystem::parse(&superblock), Some(large));
        superblock[0x18] = 7;
        assert_eq!(FileSystem::parse(&superblock), None);
        let narrow = Seen {
            file_system: small,
            ..seen(1 << 50, 1 << 50, 0)
        };
        assert_eq!(plan(&narrow).unwrap().blocks, Some(u64::from(u32::MAX)));
    }

    proptest! {
        #[test]
        fn a_growth_cut_anywhere_comes_to_the_same_end(
            sizes in proptest::array::uniform3(1u64..100_000),
            cut in 0usize..3,
        ) {
            // A file system lies in its partition, and a partition of the kernel in the table's.
            let mut sizes = sizes.map(|blocks| blocks * 4096);
            sizes.sort_unstable();
            let [file_system, kernel, table] = sizes;
            let first = seen(table, kernel, file_system);
            let carry_out = |mut seen: Seen, steps: usize| {
                let plan = plan(&seen).unwrap();
                if let Some(length) = plan.length.filter(|_| steps > 0) {
                    assert!(seen.kernel.start + length > seen.kernel.end);
                    seen.kernel.end = seen.kernel.start + length;
                }
                if let Some(blocks) = plan.blocks.filter(|_| steps > 1) {
                    assert!(blocks > seen.file_system.blocks);
                    seen.file_system.blocks = blocks;
                    assert!(seen.kernel.start + seen.file_system.bytes() <= seen.kernel.end);
                }
                seen
            };
            let end = carry_out(first.clone(), 2);
            prop_assert_eq!(plan(&end), Ok(Plan::default()));
            prop_assert!(table - end.file_system.bytes() < MIB);
            prop_assert_eq!(carry_out(carry_out(first, cut), 2), end);
        }
    }
}
