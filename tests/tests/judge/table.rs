//! Damage to the partition table.

use crate::damage::Damaged;
use crate::{bench, complains, good};
use anyhow::{Context, Result};
use qemu_harness::judge::Disk;
use qemu_harness::judge::table::crc32;

/// 128 entries of 128 bytes, from the third sector on.
const ENTRIES: usize = 128 * 128;
const FIRST_ENTRY: u64 = 1024;
/// A partition's GUID in its entry.
pub const UUID: u64 = 16;

#[test]
fn each_sum_of_each_copy_counts() -> Result<()> {
    let bench = bench()?;
    let end = Damaged::new(bench)?.len();
    let primary = [512 + 16, 512 + 24, 512 + 56, 512 + 88, FIRST_ENTRY + 130];
    // The backup's header is in the last sector, its entries in the 32 before.
    let backup = [
        end - 512 + 16,
        end - 512 + 72,
        end - 33 * 512,
        end - 33 * 512 + 700,
    ];
    for at in primary {
        let mut disk = Damaged::new(bench)?;
        disk.flip(at)?;
        let verdict = bench.judge(&disk, None)?;
        good(bench, &verdict, &["writes it anew from the backup"]).context(at)?;
        for at in backup {
            let mut both = Damaged::new(bench)?;
            both.write(0, &disk.read(0, 4096)?)?;
            both.flip(at)?;
            let verdict = bench.judge(&both, None)?;
            complains(&verdict, &["no valid partition table"]).context(at)?;
        }
    }
    for at in backup {
        let mut disk = Damaged::new(bench)?;
        disk.flip(at)?;
        let verdict = bench.judge(&disk, None)?;
        good(bench, &verdict, &["the backup partition table is bad"]).context(at)?;
    }
    Ok(())
}

#[test]
fn linux_needs_the_protective_mbr() -> Result<()> {
    let bench = bench()?;
    let mut disk = Damaged::new(bench)?;
    disk.flip(450)?;
    complains(&bench.judge(&disk, None)?, &["the protective MBR is bad"])
}

/// Writes the primary's sums anew, as somebody does who changes an entry.
pub fn sign(disk: &mut Damaged) -> Result<()> {
    let entries = crc32(&disk.read(FIRST_ENTRY, ENTRIES)?);
    disk.write(512 + 88, &entries.to_le_bytes())?;
    disk.write(512 + 16, &[0; 4])?;
    let header = crc32(&disk.read(512, 92)?);
    disk.write(512 + 16, &header.to_le_bytes())
}

/// Where a partition's entry is in the primary.
pub fn entry(number: u64) -> u64 {
    FIRST_ENTRY + (number - 1) * 128
}

#[test]
fn a_slot_of_other_names_does_not_boot() -> Result<()> {
    let bench = bench()?;
    for (number, word) in [
        (2, "no partition has its root's PARTUUID"),
        (3, "its hash tree's PARTUUID"),
    ] {
        let mut disk = Damaged::new(bench)?;
        disk.flip(entry(number) + UUID)?;
        sign(&mut disk)?;
        let verdict = bench.judge(&disk, None)?;
        complains(&verdict, &[word])?;
        anyhow::ensure!(
            verdict.notes[0].ends_with(&format!("counts: partition {number}")),
            "{verdict:#?}"
        );
    }
    Ok(())
}

#[test]
fn halves_of_two_slots_are_no_slot() -> Result<()> {
    let bench = bench()?;
    let mut disk = Damaged::new(bench)?;
    let (first, second) = (
        disk.read(entry(3) + UUID, 16)?,
        disk.read(entry(5) + UUID, 16)?,
    );
    disk.write(entry(5) + UUID, &first)?;
    disk.write(entry(3) + UUID, &second)?;
    sign(&mut disk)?;
    complains(&bench.judge(&disk, None)?, &["of another slot"])?;
    disk.write(entry(3) + UUID, &first)?;
    sign(&mut disk)?;
    complains(
        &bench.judge(&disk, None)?,
        &["several partitions have its hash tree's"],
    )
}

#[test]
fn partitions_that_overlap_or_are_two_are_told() -> Result<()> {
    let bench = bench()?;
    let mut disk = Damaged::new(bench)?;
    // The empty root's last sector is made the first of what follows it.
    let next = disk.read(entry(5) + 32, 8)?;
    disk.write(entry(4) + 40, &next)?;
    sign(&mut disk)?;
    complains(
        &bench.judge(&disk, None)?,
        &["the partitions 4 and 5 overlap"],
    )?;
    let mut disk = Damaged::new(bench)?;
    let esp = disk.read(entry(1), 16)?;
    disk.write(entry(5), &esp)?;
    sign(&mut disk)?;
    complains(&bench.judge(&disk, None)?, &["2 partitions are ESP"])
}
