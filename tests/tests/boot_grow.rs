//! A disk that was made larger gives its room to `/var`, also when the plug is pulled meanwhile; and
//! what is on the disk afterwards is judged by other programs than ours.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, without_warnings};
use qemu_harness::bundle::Run;
use qemu_harness::event::Event;
use qemu_harness::gpt::{self, Partition};
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::{Vm, VmConfig};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const MORE: u64 = 1 << 30;
const SECTOR: u64 = 512;
/// 128 entries of 128 bytes, as every tool makes them.
const ENTRIES: u64 = 128 * 128;

#[test]
fn var_grows_with_its_disk_and_only_then() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "grow", &image.raw, |run| {
        let before = size_of_var(run)?;
        enlarge(run)?;
        let mut vm = run.boot(&VmConfig::default())?;
        let grown = vm.wait(0, "var.grown", &[], BOOT)?.event;
        eprintln!("{grown}");
        ensure!(number(&grown, "from")? == before, "from {before}? {grown}");
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        without_warnings(&vm.serial().events(0))?;
        vm.power_down(POWER_OFF)?;
        let after = judge(run)?;
        ensure!(number(&grown, "to")? == after, "to {after}? {grown}");

        let mut vm = run.boot(&VmConfig::default())?;
        done(&vm)?;
        let events = vm.serial().events(0);
        ensure!(
            events.iter().all(|event| !event.name.starts_with("var.")),
            "there was nothing to do"
        );
        vm.kill();
        Ok(())
    })
}

#[test]
fn a_growth_that_was_cut_off_goes_on() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "grow-cut", &image.raw, |run| {
        enlarge(run)?;
        let mut vm = run.boot(&VmConfig::default())?;
        vm.wait(0, "var.growing", &[], BOOT)?;
        vm.kill();
        tell_sizes(run)?;
        // Wherever that was; and now in the middle of the file system's part, of which the kernel
        // tells where it is let.
        enlarge(run)?;
        let mut vm = run.boot(&VmConfig::default().kernel_argument("loglevel=7"))?;
        vm.serial()
            .wait_line(0, Instant::now() + BOOT, "ext4's growth", |line| {
                line.text.contains("EXT4-fs") && line.text.contains("resizing filesystem")
            })?;
        vm.kill();
        tell_sizes(run)?;

        let mut vm = run.boot(&VmConfig::default())?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        done(&vm)?;
        let events = vm.serial().events(0);
        without_warnings(&events)?;
        let bad = events.iter().find(|event| event.name == "boot.degraded");
        ensure!(bad.is_none(), "{bad:?}");
        vm.power_down(POWER_OFF)?;
        judge(run).map(drop)
    })
}

/// Waits until the service has done what it had to.
fn done(vm: &Vm) -> Result<()> {
    vm.wait(0, "init.roles", &[("state", "healthy")], BOOT)
        .map(drop)
}

fn number(event: &Event, field: &str) -> Result<u64> {
    let text = event.get(field).with_context(|| format!("{event}"))?;
    text.parse().with_context(|| format!("{field} of {event}"))
}

/// Makes the disk larger. The odd sectors are no use to anybody.
fn enlarge(run: &Run) -> Result<()> {
    let disk = File::options().write(true).open(run.disk())?;
    let length = disk.metadata()?.len();
    disk.set_len(length + MORE + 3 * SECTOR)
        .context("cannot enlarge the disk")
}

fn size_of_var(run: &Run) -> Result<u64> {
    let partitions = gpt::partitions(&run.host().tools, &run.disk())?;
    let last = partitions.last().context("no partitions")?;
    ensure!(last.kind == gpt::VAR, "the last partition is {last:?}");
    Ok(last.size)
}

/// Looks at the disk of a machine that is off; gives the size of `/var`'s file system.
fn judge(run: &Run) -> Result<u64> {
    let tools = &run.host().tools;
    let path = run.disk().display().to_string();
    let said = tools.output("sfdisk", &["--verify", &path])?;
    ensure!(said.contains("No errors detected"), "sfdisk: {said}");
    the_copies_are_equal(run)?;

    let partitions = gpt::partitions(tools, &run.disk())?;
    let var = partitions.last().context("no partitions")?;
    let length = std::fs::metadata(run.disk())?.len();
    let usable = length - SECTOR - ENTRIES;
    let end = usable - usable % MIB;
    ensure!(
        var.kind == gpt::VAR && var.start + var.size == end,
        "{var:?} does not end at {end}"
    );
    let place = format!("{path}?offset={}", var.start);
    tools
        .output("e2fsck", &["-f", "-n", &place])
        .context("/var is not clean")?;
    let bytes = size_of_file_system(run, var)?;
    ensure!(
        bytes == var.size,
        "the file system has {bytes} bytes in {var:?}"
    );
    Ok(bytes)
}

fn size_of_file_system(run: &Run, var: &Partition) -> Result<u64> {
    let place = format!("{}?offset={}", run.disk().display(), var.start);
    let header = run
        .host()
        .tools
        .output("debugfs", &["-R", "show_super_stats -h", &place])?;
    let field = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.strip_prefix(':'));
        value
            .and_then(|value| value.trim().parse::<u64>().ok())
            .with_context(|| format!("no `{name}` in:\n{header}"))
    };
    Ok(field("Block count")? * field("Block size")?)
}

/// Says how far the growth had come when the plug was pulled.
fn tell_sizes(run: &Run) -> Result<()> {
    let partitions = gpt::partitions(&run.host().tools, &run.disk())?;
    let var = partitions.last().context("no partitions")?;
    let file_system = size_of_file_system(run, var)?;
    eprintln!("cut: partition {}, file system {file_system}", var.size);
    Ok(())
}

/// Both headers are where they should be and tell of each other, and their entries are the same.
fn the_copies_are_equal(run: &Run) -> Result<()> {
    let disk = File::open(run.disk())?;
    let last = disk.metadata()?.len() / SECTOR - 1;
    let copy = |lba: u64, other: u64, entries_lba: u64| -> Result<Vec<u8>> {
        let mut header = [0; 92];
        disk.read_exact_at(&mut header, lba * SECTOR)?;
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        ensure!(
            header.starts_with(b"EFI PART")
                && [field(24), field(32), field(72)] == [lba, other, entries_lba],
            "the header at {lba} is {header:?}"
        );
        let mut entries = vec![0; usize::try_from(ENTRIES)?];
        disk.read_exact_at(&mut entries, entries_lba * SECTOR)?;
        Ok(entries)
    };
    let primary = copy(1, last, 2)?;
    let backup = copy(last, 1, last - ENTRIES / SECTOR)?;
    ensure!(primary == backup, "the copies of the table differ");
    Ok(())
}
