//! A disk that was made larger gives its room to `/var`, also when the plug is pulled meanwhile; and
//! what is on the disk afterwards is judged by other programs than ours.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, without_warnings};
use appliance_tests::fleet::put_on_var;
use qemu_harness::bundle::Run;
use qemu_harness::event::Event;
use qemu_harness::gpt::{self, Partition};
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::{Vm, VmConfig};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const MORE: u64 = 1 << 30;
const MUCH_MORE: u64 = 4 << 30;
const SECTOR: u64 = 512;
/// 128 entries of 128 bytes, as every tool makes them.
const ENTRIES: u64 = 128 * 128;

/// The name on `/var` of a file of somebody else's, which no growth may change.
const KEPT: &str = "kept";

#[test]
fn var_grows_with_its_disk_also_where_it_was_cut_off_and_only_then() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "grow", &image.raw, |run| {
        let kept = put_kept(run)?;
        let first = file_system(run, &place(run)?)?;
        enlarge(run, MORE)?;
        let mut vm = run.boot(&VmConfig::default())?;
        vm.wait(0, "var.growing", &[("from", &first.to_string())], BOOT)?;
        vm.kill();
        let cut = as_a_mount_finds_it(run)?;
        ensure!(
            cut.file_system < room(run)?,
            "the growth was over when the plug was pulled: {cut:?}"
        );

        // Wherever that was; and now in the middle of the file system's part, of which the kernel
        // tells where it is let. It is a long way, so that the plug is pulled on it.
        enlarge(run, MUCH_MORE)?;
        let mut vm = run.boot(&VmConfig::default().kernel_argument("loglevel=7"))?;
        vm.serial()
            .wait_line(0, Instant::now() + BOOT, "ext4's growth", |line| {
                line.text.contains("EXT4-fs") && line.text.contains("resizing filesystem")
            })?;
        vm.kill();
        let cut = as_a_mount_finds_it(run)?;
        ensure!(
            cut.partition == room(run)? && cut.file_system < cut.partition,
            "the plug was not pulled while the file system grew: {cut:?}"
        );

        let mut vm = run.boot(&VmConfig::default())?;
        let grown = vm.wait(0, "var.grown", &[], BOOT)?.event;
        eprintln!("{grown}");
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        done(&vm)?;
        let events = vm.serial().events(0);
        without_warnings(&events)?;
        let bad = events.iter().find(|event| event.name == "boot.degraded");
        ensure!(bad.is_none(), "{bad:?}");
        vm.power_down(POWER_OFF)?;
        let after = judge(run)?;
        ensure!(
            number(&grown, "from")? == cut.file_system && number(&grown, "to")? == after,
            "from {} to {after}? {grown}",
            cut.file_system
        );
        ensure!(read_kept(run)? == kept, "{KEPT} is another file");

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
fn enlarge(run: &Run, more: u64) -> Result<()> {
    let disk = File::options().write(true).open(run.disk())?;
    let length = disk.metadata()?.len();
    disk.set_len(length + more + 3 * SECTOR)
        .context("cannot enlarge the disk")
}

/// Puts a file onto `/var` that is no part of the appliance; gives its content, of which no two blocks are equal.
fn put_kept(run: &Run) -> Result<Vec<u8>> {
    let content: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let file = run.dir().join(KEPT);
    std::fs::write(&file, &content)?;
    put_on_var(run, &file, KEPT)?;
    Ok(content)
}

/// What that file holds now.
fn read_kept(run: &Run) -> Result<Vec<u8>> {
    let file = run.dir().join("read");
    let dump = format!("dump {KEPT} {}", file.display());
    run.host()
        .tools
        .output("debugfs", &["-R", &dump, &place(run)?])?;
    std::fs::read(&file).with_context(|| format!("{KEPT} is not on /var"))
}

/// The partition of `/var`, which is the last one.
fn var(run: &Run) -> Result<Partition> {
    let mut partitions = gpt::partitions(&run.host().tools, &run.disk())?;
    let last = partitions.pop().context("no partitions")?;
    ensure!(last.kind == gpt::VAR, "the last partition is {last:?}");
    Ok(last)
}

/// Where it is, for e2fsprogs.
fn place(run: &Run) -> Result<String> {
    Ok(format!(
        "{}?offset={}",
        run.disk().display(),
        var(run)?.start
    ))
}

/// The size that `/var` has when it has all of the disk that is behind its start: whole MiB, before the backup of
/// the table.
fn room(run: &Run) -> Result<u64> {
    let length = std::fs::metadata(run.disk())?.len();
    let usable = length - SECTOR - ENTRIES;
    Ok(usable - usable % MIB - var(run)?.start)
}

/// Looks at the disk of a machine that is off; gives the size of `/var`'s file system.
fn judge(run: &Run) -> Result<u64> {
    let tools = &run.host().tools;
    let path = run.disk().display().to_string();
    let said = tools.output("sfdisk", &["--verify", &path])?;
    ensure!(said.contains("No errors detected"), "sfdisk: {said}");
    the_copies_are_equal(run)?;

    let (var, room) = (var(run)?, room(run)?);
    ensure!(var.size == room, "{var:?} does not have all of {room}");
    tools
        .output("e2fsck", &["-f", "-n", &place(run)?])
        .context("/var is not clean")?;
    let bytes = file_system(run, &place(run)?)?;
    ensure!(
        bytes == var.size,
        "the file system has {bytes} bytes in {var:?}"
    );
    Ok(bytes)
}

/// How far a growth has come, in bytes.
#[derive(Debug)]
struct Sizes {
    partition: u64,
    file_system: u64,
}

/// The size of the file system at this place, for e2fsprogs.
fn file_system(run: &Run, place: &str) -> Result<u64> {
    let tools = &run.host().tools;
    let header = tools.output("debugfs", &["-R", "show_super_stats -h", place])?;
    let field = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.strip_prefix(':'));
        value
            .and_then(|value| value.trim().parse::<u64>().ok())
            .with_context(|| format!("no `{name}` in:\n{header}"))
    };
    Ok(field("Block count")? * field("Block size")?)
}

/// How far the growth had come when the plug was pulled. What counts is the file system after the replay of its
/// journal, which is made on a copy.
fn as_a_mount_finds_it(run: &Run) -> Result<Sizes> {
    let var = var(run)?;
    let copy = run.dir().join("var.raw").display().to_string();
    let status = Command::new("dd")
        .arg(format!("if={}", run.disk().display()))
        .arg(format!("of={copy}"))
        .arg(format!("skip={}", var.start))
        .arg(format!("count={}", var.size))
        .args(["iflag=skip_bytes,count_bytes", "bs=1M", "conv=sparse"])
        .args(["status=none"])
        .status()
        .context("cannot run dd")?;
    ensure!(status.success(), "cannot copy /var");
    let tools = &run.host().tools;
    let mut replay = tools.command("e2fsck");
    let replayed = replay.args(["-p", "-E", "journal_only", &copy]).output()?;
    // 1 is: errors were there and are mended (e2fsck(8)).
    ensure!(
        matches!(replayed.status.code(), Some(0 | 1)),
        "the journal of /var cannot be replayed: {replayed:?}"
    );
    let sizes = Sizes {
        partition: var.size,
        file_system: file_system(run, &copy)?,
    };
    std::fs::remove_file(&copy)?;
    eprintln!("cut: {sizes:?}");
    Ok(sizes)
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
