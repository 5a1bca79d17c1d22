//! The hardware watchdog: a machine that lives feeds it, and one that hangs is reset by it.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, REFUSAL, host, image, in_order};
use qemu_harness::bundle::Run;
use qemu_harness::classify::intruders;
use qemu_harness::gpt;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::{Network, VmConfig};
use std::time::Instant;

/// Short, so that a boot is longer.
const TIMEOUT: &str = "10";

/// A machine with a watchdog that bites early, and these words on its command line.
fn watched(words: &str) -> VmConfig {
    VmConfig {
        watchdog: true,
        ..VmConfig::default()
    }
    .kernel_argument(&format!("astromesh.watchdog={TIMEOUT} {words}"))
}

/// The machine has no network card either, and the runtime is healthy all the same: it is probed over the loopback inside.
#[test]
fn a_machine_without_a_network_lives_and_feeds_its_watchdog_to_the_end() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::default())?;
    Run::scoped(&host, "watchdog-fed", &image.raw, |run| {
        // Without a card something is told ten seconds after the services started: later than the
        // timeout also where a boot takes no time.
        let mut vm = run.boot(&VmConfig {
            network: Network::None,
            ..watched("")
        })?;
        let armed = vm.wait(0, "init.watchdog", &[("device", "watchdog0")], BOOT)?;
        let told = &armed.event;
        ensure!(
            told.get("timeout_s") == Some(TIMEOUT) && told.get("last_reset").is_none(),
            "not armed as the command line says: {told}"
        );
        vm.wait(armed.index, "boot.warning", &[("what", "net")], BOOT)?;
        vm.wait(armed.index, "boot.healthy", &[], BOOT)?;
        vm.power_down(POWER_OFF)?;
        ensure!(
            vm.qmp()?.events(0).iter().all(|e| e.name != "WATCHDOG"),
            "the watchdog had to act on a machine that lived"
        );
        let events = vm.serial().events(0);
        in_order(
            &events,
            &[
                ("boot.var", &[]),
                ("service.healthy", &[("service", "astromeshd")]),
                ("boot.healthy", &[]),
                ("shutdown.done", &[]),
            ],
        )?;
        ensure!(
            events.iter().all(|event| event.name != "net.address"),
            "an address without a network card"
        );
        let armed: Vec<_> = events
            .iter()
            .filter(|e| e.name == "init.watchdog")
            .collect();
        ensure!(
            armed.len() == 1,
            "the running system did not take it over: {armed:?}"
        );
        let lines = vm.serial().lines(0);
        let strange = intruders(lines.iter().map(|line| line.text.as_str()));
        ensure!(strange.is_empty(), "strange lines: {strange:#?}");
        ensure!(
            lines.iter().all(|l| !l.text.contains("did not stop")),
            "it was let go between the stages"
        );
        Ok(())
    })
}

/// The hang is real: the root is corrupt, which is a panic, and the kernel was told to stand still
/// after one.
#[test]
fn a_machine_that_hangs_is_reset_and_says_by_whom() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "watchdog-hang", &image.raw, |run| {
        let partitions = gpt::partitions(&host.tools, &run.disk())?;
        let root = partitions
            .into_iter()
            .find(|p| p.kind == gpt::ROOT)
            .context("no root partition")?;
        // The superblock of erofs, which the mount reads.
        run.flip(root.start + 1024)?;
        let config = VmConfig {
            reboots: true,
            ..watched("panic=0")
        };
        let mut vm = run.boot(&config)?;
        let armed = vm.wait(0, "init.watchdog", &[("device", "watchdog0")], REFUSAL)?;
        let end = Instant::now() + REFUSAL;
        let (panicked, _) = vm.serial().wait_line(armed.index, end, "a panic", |line| {
            line.text.contains("Kernel panic")
        })?;
        vm.qmp()?
            .wait_event(0, Instant::now() + REFUSAL, "WATCHDOG")
            .context("the watchdog left a machine alone that hung")?;
        vm.wait(
            panicked,
            "init.watchdog",
            &[("last_reset", "watchdog")],
            REFUSAL,
        )?;
        vm.kill();
        Ok(())
    })
}
