//! Damage to the ESP.

use crate::damage::Damaged;
use crate::{Bench, bench, complains, good};
use anyhow::{Context, Result, ensure};
use qemu_harness::judge::fat::{self, Volume};
use qemu_harness::judge::{Part, Rule};
use qemu_harness::tools::run;
use std::fs;
use std::path::Path;

pub const ESP: usize = 1;
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";

/// Runs a program of mtools on the copy of an ESP.
pub fn mtools(bench: &Bench, program: &str, esp: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = bench.tools.command(program);
    run(command.arg("-i").arg(esp).args(arguments)).map(drop)
}

/// Copies a file of the host to the copy of an ESP.
pub fn copy_in(bench: &Bench, esp: &Path, file: &Path, name: &str) -> Result<()> {
    let from = file.display().to_string();
    mtools(bench, "mcopy", esp, &[&from, &format!("::{name}")])
}

fn path(bench: &Bench) -> String {
    format!("EFI/Linux/{}", bench.uki())
}

/// Where a file's bytes begin, and the entries of its clusters in the two FATs.
fn place(bench: &Bench, disk: &Damaged, path: &str) -> Result<(u64, Vec<[u64; 2]>)> {
    let range = bench.partition(ESP)?;
    let volume = Volume::open(Part::new(disk, &range)?)?;
    let node = volume.find(path).context("no such file")?;
    let clusters = volume.whole(node)?.to_vec();
    let first = *clusters.first().context("an empty file")?;
    let boot = disk.read(range.start, 64)?;
    let half = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let (sector, reserved, size) = (half(11), half(14), half(36));
    let entry = |cluster: &u32| {
        let at = range.start + reserved * sector + u64::from(*cluster) * 4;
        [at, at + size * sector]
    };
    let entries = clusters.iter().map(entry).collect();
    Ok((range.start + volume.place(first), entries))
}

#[test]
fn one_bit_of_the_uki_is_found() -> Result<()> {
    let bench = bench()?;
    let size = fs::metadata(&bench.image.efi)?.len();
    // Into the code, the kernel, the end.
    for offset in [0x2000, size / 2, size - 1] {
        let mut disk = Damaged::new(bench)?;
        let (at, _) = place(bench, &disk, &path(bench))?;
        disk.flip(at + offset)?;
        let verdict = bench.judge(&disk, None)?;
        complains(&verdict, &["none of a known version"]).context(offset)?;
        ensure!(
            verdict.boots.is_none() && verdict.entry == Some(bench.uki()),
            "{verdict:#?}"
        );
    }
    let mut disk = Damaged::new(bench)?;
    let (at, _) = place(bench, &disk, &path(bench))?;
    disk.flip(at + 0x3c)?;
    let verdict = bench.judge(&disk, None)?;
    complains(&verdict, &["finds no entry"])?;
    ensure!(
        verdict.alternatives[0].why.contains("does not list it"),
        "{verdict:#?}"
    );
    Ok(())
}

#[test]
fn without_a_uki_nothing_boots() -> Result<()> {
    let bench = bench()?;
    let name = format!("::{}", path(bench));
    let disk = bench.edited(ESP, |esp| mtools(bench, "mdel", esp, &[&name]))?;
    complains(&bench.judge(&disk, None)?, &["finds no entry"])
}

#[test]
fn a_bad_twin_has_the_id_of_the_good_one_and_never_starts() -> Result<()> {
    let bench = bench()?;
    let twin = bench.uki().replace("+3-0", "+0-1");
    let disk = bench.edited(ESP, |esp| {
        copy_in(bench, esp, &bench.image.efi, &format!("EFI/Linux/{twin}"))
    })?;
    let verdict = bench.judge(&disk, None)?;
    good(bench, &verdict, &[])?;
    let [other] = &verdict.alternatives[..] else {
        anyhow::bail!("{verdict:#?}");
    };
    ensure!(verdict.entry == Some(bench.uki()), "{verdict:#?}");
    ensure!(
        other.entry == twin && other.whole && other.why.is_empty(),
        "{verdict:#?}"
    );
    let id = bench.uki().replace("+3-0", "");
    let verdict = bench.judge(&disk, Some(&id))?;
    good(bench, &verdict, &[])?;
    ensure!(
        verdict.entry == Some(bench.uki()) && verdict.rule == Some(Rule::OneShot),
        "{verdict:#?}"
    );
    let verdict = bench.judge(&disk, Some(&twin))?;
    good(
        bench,
        &verdict,
        &[&format!("names {twin}, which is not there")],
    )?;
    let verdict = bench.judge(&disk, Some("gone.efi"))?;
    good(bench, &verdict, &["names gone.efi, which is not there"])
}

#[test]
fn a_truncated_uki_is_a_trap_for_one_shot_only() -> Result<()> {
    let bench = bench()?;
    let whole = fs::read(&bench.image.efi)?;
    let part = bench.temporary("part.efi");
    // Its small sections are in front, so that the loader lists it.
    fs::write(&part.0, &whole[..whole.len() * 2 / 3])?;
    let name = "astromesh-os_9+0-0.efi";
    let disk = bench.edited(ESP, |esp| {
        copy_in(bench, esp, &part.0, &format!("EFI/Linux/{name}"))
    })?;
    let verdict = bench.judge(&disk, None)?;
    good(bench, &verdict, &[])?;
    let [other] = &verdict.alternatives[..] else {
        anyhow::bail!("{verdict:#?}");
    };
    ensure!(
        other.entry == name && !other.whole && other.why.contains("cut off"),
        "{verdict:#?}"
    );
    let verdict = bench.judge(&disk, Some("astromesh-os_9.efi"))?;
    complains(&verdict, &["which starts: the UKI: section"])?;
    // With a counter that has tries left it would be first: it has the higher name of two equal versions.
    let disk = bench.edited(ESP, |esp| {
        copy_in(bench, esp, &part.0, "EFI/Linux/astromesh-os_9+1-0.efi")
    })?;
    complains(
        &bench.judge(&disk, None)?,
        &["which starts: the UKI: section"],
    )
}

#[test]
fn a_default_may_pin_a_bad_entry() -> Result<()> {
    let bench = bench()?;
    let config = bench.temporary("loader.conf");
    fs::write(&config.0, "default astromesh-os_8*\n")?;
    let disk = bench.edited(ESP, |esp| {
        copy_in(
            bench,
            esp,
            &bench.image.efi,
            "EFI/Linux/astromesh-os_8+0-2.efi",
        )?;
        mtools(bench, "mdel", esp, &["::loader/loader.conf"])?;
        copy_in(bench, esp, &config.0, "loader/loader.conf")
    })?;
    let verdict = bench.judge(&disk, None)?;
    good(bench, &verdict, &["starts and has no tries left"])?;
    ensure!(verdict.rule == Some(Rule::Default), "{verdict:#?}");
    let disk = bench.edited(ESP, |esp| {
        mtools(bench, "mdel", esp, &["::loader/loader.conf"])
    })?;
    complains(
        &bench.judge(&disk, None)?,
        &["loader/loader.conf is missing"],
    )
}

#[test]
fn chains_that_do_not_hold_are_told() -> Result<()> {
    let bench = bench()?;
    let (_, entries) = place(bench, &Damaged::new(bench)?, &path(bench))?;
    let back = Damaged::new(bench)?.read(entries[49][0], 4)?;
    for (value, words) in [
        // On to the top folder, which is in a cluster of its own.
        (
            2_u32.to_le_bytes().to_vec(),
            &["clusters of the ESP in common", "clusters instead of"][..],
        ),
        (vec![0; 4], &["runs into the free cluster"]),
        (
            0x0fff_ffff_u32.to_le_bytes().to_vec(),
            &["clusters instead of"],
        ),
        // In a circle.
        (back, &["its chain goes in a circle"]),
    ] {
        let mut disk = Damaged::new(bench)?;
        for at in entries[100] {
            disk.write(at, &value)?;
        }
        let verdict = bench.judge(&disk, None)?;
        complains(&verdict, words)?;
        // The loader does not read that far before it starts it.
        ensure!(
            verdict.entry == Some(bench.uki()) && verdict.boots.is_none(),
            "{verdict:#?}"
        );
    }
    Ok(())
}

#[test]
fn damage_to_the_volume_is_told() -> Result<()> {
    let bench = bench()?;
    let start = bench.partition(ESP)?.start;
    let mut disk = Damaged::new(bench)?;
    disk.flip(start + 510)?;
    complains(
        &bench.judge(&disk, None)?,
        &["the boot sector has no signature"],
    )?;

    let mut disk = Damaged::new(bench)?;
    let (at, entries) = place(bench, &disk, LOADER)?;
    disk.flip(at + 5000)?;
    complains(&bench.judge(&disk, None)?, &["systemd-bootx64.efi differ"])?;

    // The second FAT alone is read by nobody.
    let mut disk = Damaged::new(bench)?;
    disk.flip(entries[0][1])?;
    good(bench, &bench.judge(&disk, None)?, &["the two FATs"])?;
    let part = Part::new(&disk, &bench.partition(ESP)?)?;
    let said = fat::fsck(&part, &bench.tools, &bench.scratch)?;
    ensure!(
        said.is_some_and(|said| said.contains("FATs differ")),
        "fsck.fat says nothing"
    );
    let whole = Damaged::new(bench)?;
    let part = Part::new(&whole, &bench.partition(ESP)?)?;
    let said = fat::fsck(&part, &bench.tools, &bench.scratch)?;
    ensure!(said.is_none(), "{said:?}");
    Ok(())
}

/// A rename writes the new name before it takes the old one away.
#[test]
fn a_rename_that_was_cut_leaves_one_file_of_two_names() -> Result<()> {
    let bench = bench()?;
    let small = bench.temporary("small");
    fs::write(&small.0, "x")?;
    let mut disk = bench.edited(ESP, |esp| copy_in(bench, esp, &small.0, "EFI/Linux/X.TMP"))?;
    let range = bench.partition(ESP)?;
    let (folder, _) = place(bench, &disk, "EFI/Linux")?;
    let entries = disk.read(folder, 4096)?;
    let at = |name: &[u8]| {
        let found = entries.chunks(32).position(|entry| entry.starts_with(name));
        found.map(|index| index * 32).context("no such entry")
    };
    let (uki, other) = (at(b"ASTROM~1EFI")?, at(b"X       TMP")?);
    // Cluster and size are the last twelve bytes, with the time between.
    let target = folder + u64::try_from(other)?;
    disk.write(target + 20, &entries[uki + 20..uki + 32])?;
    ensure!(range.contains(&target), "the folder is elsewhere");
    let verdict = bench.judge(&disk, None)?;
    good(
        bench,
        &verdict,
        &["are one file", "1 clusters of the ESP are taken"],
    )
}
