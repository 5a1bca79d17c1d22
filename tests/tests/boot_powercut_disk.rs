//! A whole boot on a recorded disk: what the guest flushes arrives as flushes, and each moment of
//! the disk can be had again. The machine is the image with the small daemon, on which campaigns of many builds and boots
//! stand: it is healthy with the shipped configuration.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, in_order, without_warnings};
use qemu_harness::bundle::Run;
use qemu_harness::gpt::{self, Partition};
use qemu_harness::image::ImageOptions;
use qemu_harness::powercut::{Entry, Replayer, State, View};
use qemu_harness::vm::VmConfig;

#[test]
fn a_boot_is_recorded_and_its_moments_can_be_had_again() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "powercut", &image.raw, |run| {
        let (mut vm, recorder) = run.boot_recorded(&VmConfig::default())?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        let health = vm.wait_healthy(BOOT)?;
        ensure!(health["status"] == "ok", "{health}");
        recorder.mark("boot.healthy")?;
        let mark = vm.serial().mark();
        vm.power_down(POWER_OFF)?;
        recorder.mark("off")?;
        let stop = ("service.exit", &[("service", "astromeshd")][..]);
        in_order(
            &vm.serial().events(mark),
            &[("shutdown.start", &[]), stop, ("shutdown.done", &[])],
        )?;
        without_warnings(&vm.serial().events(0))?;
        let recording = recorder.finish()?;
        let journal = &recording.journal;

        let count =
            |wanted: fn(&Entry) -> bool| journal.entries().iter().filter(|e| wanted(e)).count();
        let writes = count(|entry| matches!(entry, Entry::Write { .. }));
        let flushes = count(|entry| matches!(entry, Entry::Flush { .. }));
        let moments: Vec<State> = journal.flushes().collect();
        let fresh = moments.len();
        eprintln!(
            "{writes} writes and {flushes} flushes, {fresh} of which guarantee something new"
        );
        let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
            anyhow::bail!("nothing was flushed");
        };
        let shutdown = journal.between("boot.healthy", "off")?;
        ensure!(
            shutdown.contains(&(last.cut - 1)),
            "nothing was flushed while the machine switched itself off: {}",
            last.describe(journal)?
        );

        let mut replayer = Replayer::new(&recording);
        let disk = run.dir().join("whole.raw");
        replayer.view(&journal.whole())?.materialise_all(&disk)?;
        let partitions = gpt::partitions(&host.tools, &disk)?;
        let var = gpt::only(&partitions, "/var", |p| p.kind == gpt::VAR)?;
        let early = content(&replayer.view(first)?, &var)?;
        let late = content(&replayer.view(last)?, &var)?;
        let whole = replayer.view(&journal.whole())?;
        ensure!(
            early != late,
            "the boot has written nothing to /var after {}",
            first.describe(journal)?
        );
        // A machine that switches itself off leaves nothing unflushed and nothing to be mended.
        ensure!(
            late == content(&whole, &var)?,
            "/var was written after {}",
            last.describe(journal)?
        );
        let file = run.dir().join("var.raw");
        whole.materialise(&(var.start..var.start + var.size), &file)?;
        let name = file.display().to_string();
        host.tools
            .output("e2fsck", &["-fn", &name])
            .context("/var is not clean")?;
        Ok(())
    })
}

/// The bytes of a partition.
fn content(view: &View, partition: &Partition) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(partition.size)?];
    view.read_at(partition.start, &mut bytes)?;
    Ok(bytes)
}
