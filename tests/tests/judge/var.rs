//! Damage to `/var`.

use crate::damage::Damaged;
use crate::{Bench, bench, complains};
use anyhow::{Context, Result, ensure};
use qemu_harness::judge::{Expect, VarCheck, Verdict};
use qemu_harness::tools::run;
use std::fs;
use std::path::Path;

const VAR: usize = 6;
const FILE: &str = "lib/slots.json";

fn judge(bench: &Bench, disk: &Damaged, expected: &str) -> Result<Verdict> {
    let holds = |content: Option<&[u8]>| match content {
        Some(bytes) if bytes.starts_with(expected.as_bytes()) => Ok(()),
        Some(bytes) => Err(format!("it is {}", String::from_utf8_lossy(&bytes[..3]))),
        None => Err("it is missing".to_owned()),
    };
    let expect = [Expect {
        path: FILE,
        holds: &holds,
    }];
    let check = VarCheck::Replay {
        scratch: &bench.scratch,
        expect: &expect,
    };
    bench.judge.judge(disk, None, &bench.tools, check)
}

/// Runs commands of debugfs on the copy of a `/var`, and gives what it says.
fn debugfs(bench: &Bench, var: &Path, commands: &[String]) -> Result<String> {
    let script = bench.temporary("commands");
    fs::write(&script.0, commands.join("\n") + "\n")?;
    let mut command = bench.tools.command("debugfs");
    run(command.arg("-w").arg("-f").arg(&script.0).arg(var))
}

/// `/var` with a file that says `old`, and a transaction in the journal that makes it `new`.
fn with_journal(bench: &Bench, var: &Path) -> Result<u64> {
    let file = bench.temporary("file");
    fs::write(&file.0, "old")?;
    let write = format!("write {} {FILE}", file.0.display());
    debugfs(bench, var, &["mkdir lib".to_owned(), write])?;
    let said = debugfs(bench, var, &[format!("blocks {FILE}")])?;
    let block: u64 = said
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .with_context(|| format!("no block in {said}"))?;
    let mut bytes = vec![0; 4096];
    bytes[..3].copy_from_slice(b"new");
    fs::write(&file.0, &bytes)?;
    let change = format!("journal_write -b {block} {}", file.0.display());
    let commands = ["journal_open", &change, "journal_close"].map(str::to_owned);
    debugfs(bench, var, &commands)?;
    Ok(block)
}

#[test]
fn the_image_has_a_whole_var() -> Result<()> {
    let bench = bench()?;
    let verdict = judge(bench, &Damaged::new(bench)?, "")?;
    complains(&verdict, &["/var/lib/slots.json: it is missing"])?;
    ensure!(verdict.notes.is_empty(), "{verdict:#?}");
    Ok(())
}

#[test]
fn the_journal_is_replayed_before_anything_is_judged() -> Result<()> {
    let bench = bench()?;
    let disk = bench.edited(VAR, |var| with_journal(bench, var).map(drop))?;
    let verdict = judge(bench, &disk, "new")?;
    complains(&verdict, &[])?;
    ensure!(
        verdict.notes == ["/var's journal was replayed"],
        "{verdict:#?}"
    );
    complains(&judge(bench, &disk, "old")?, &["it is new"])
}

#[test]
fn a_transaction_that_did_not_reach_the_disk_is_none() -> Result<()> {
    let bench = bench()?;
    let mut disk = bench.edited(VAR, |var| with_journal(bench, var).map(drop))?;
    // Blocks of the journal begin with its magic number and their type: 2 is a commit (jbd2).
    let range = bench.partition(VAR)?;
    let mut commit = None;
    for at in range.step_by(4096) {
        if disk.read(at, 8)? == [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2] {
            commit = Some(at);
        }
    }
    disk.flip(commit.context("no commit in the journal")?)?;
    let verdict = judge(bench, &disk, "old")?;
    complains(&verdict, &[])
}

#[test]
fn deleted_and_open_is_what_a_mount_frees() -> Result<()> {
    let bench = bench()?;
    let file = bench.temporary("file");
    fs::write(&file.0, "old")?;
    let disk = bench.edited(VAR, |var| {
        let path = file.0.display();
        // On the list of orphans: no link left, the next in the list (none) as the time of deletion.
        let commands = [
            "mkdir lib".to_owned(),
            format!("write {path} {FILE}"),
            format!("write {path} gone"),
            "set_super_value last_orphan 15".to_owned(),
            "set_inode_field <15> links_count 0".to_owned(),
            "set_inode_field <15> dtime 0".to_owned(),
            "unlink gone".to_owned(),
        ];
        let said = debugfs(bench, var, &commands)?;
        ensure!(said.contains("Allocated inode: 15"), "{said}");
        Ok(())
    })?;
    let verdict = judge(bench, &disk, "old")?;
    complains(&verdict, &[])?;
    ensure!(
        verdict.notes.len() == 1 && verdict.notes[0].contains("orphaned inode 15"),
        "{verdict:#?}"
    );
    Ok(())
}

#[test]
fn what_a_mount_does_not_mend_is_told() -> Result<()> {
    let bench = bench()?;
    let start = bench.partition(VAR)?.start + 1024;
    let mut disk = Damaged::new(bench)?;
    disk.flip(start + 0x38)?;
    complains(&judge(bench, &disk, "")?, &["/var is no ext4", "missing"])?;

    // The checksum of the superblock alone is what a cut leaves of it, and init mends it.
    let mut disk = Damaged::new(bench)?;
    disk.flip(start + 0x3fc)?;
    let verdict = judge(bench, &disk, "")?;
    complains(&verdict, &["missing"])?;
    ensure!(
        verdict.notes.iter().any(|note| note.contains("torn")),
        "{verdict:#?}"
    );
    // With another size of its blocks nothing fits.
    let mut disk = Damaged::new(bench)?;
    disk.flip(start + 0x18)?;
    let verdict = judge(bench, &disk, "")?;
    complains(&verdict, &["/var's journal cannot be replayed", "missing"])?;

    let edited = |commands: &[&str]| {
        let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
        bench.edited(VAR, |var| debugfs(bench, var, &commands).map(drop))
    };
    let disk = edited(&["set_super_value state 3"])?;
    complains(
        &judge(bench, &disk, "")?,
        &["errors were seen (state 3)", "missing"],
    )?;
    let disk = edited(&["mkdir lib", "clri lib"])?;
    complains(&judge(bench, &disk, "")?, &["/var has errors", "missing"])?;
    let disk = edited(&[
        "set_super_value free_blocks_count 5",
        "freeb 5000 1",
        "setb 9000 1",
    ])?;
    complains(&judge(bench, &disk, "")?, &["/var has errors", "missing"])
}
