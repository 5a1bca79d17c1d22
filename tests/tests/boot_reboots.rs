//! The reboots that a runtime asks for which does not get well, as whole boots of many minutes.
//!
//! A runtime that dies slowly is healthy most of the time, at any given moment too. Its restarts are used
//! up all the same, and the machine has to come to the end that its law names: three reboots, then
//! `boot.degraded`. The machines' clocks count instructions, so that minutes of sleep cost nothing.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{host, image, with_drop_in};
use qemu_harness::bundle::Run;
use qemu_harness::disk::Disk;
use qemu_harness::image::ImageOptions;
use qemu_harness::image_options::Runtime;
use qemu_harness::vm::{Network, VmConfig};
use std::time::Duration;

/// A boot of eleven minutes takes one or two of the host's; this is the end of all patience.
const PATIENCE: Duration = Duration::from_secs(600);

/// The reboots that are granted.
const GRANTED: usize = 3;

/// Boots a machine whose runtime fails at these times of each boot, and follows it to its end.
fn reboots_and_is_degraded(name: &str, ends: &str) -> Result<()> {
    let host = host()?;
    let drop_in = format!("[service.astromeshd.environment]\nSMALL_DAEMON = \"ends={ends}\"\n");
    let options = ImageOptions {
        runtime: Runtime::Small,
        ..with_drop_in(&host, name, &drop_in)?
    };
    let image = image(&host, &options)?;
    Run::scoped(&host, name, &image.raw, |run| {
        let machine = VmConfig {
            reboots: true,
            counted_time: true,
            network: Network::None,
            // Nothing waits for a disk of the host, whose time is not the machine's.
            disk: Disk::Forgetful,
            ..VmConfig::default()
        };
        let mut vm = run.boot(&machine)?;
        let mut from = 0;
        for count in 1..=GRANTED {
            vm.wait(from, "boot.healthy", &[], PATIENCE)?;
            let failed = [("service", "astromeshd"), ("then", "reboot")];
            let failed = vm.wait(from, "service.failed", &failed, PATIENCE)?;
            let stopped = vm.wait(failed.index, "shutdown.start", &[], PATIENCE)?;
            let reason = stopped.event.get("reason").context("no reason")?;
            ensure!(
                reason.ends_with(&format!(", reboot {count}")),
                "reboot {count} is told as: {}",
                stopped.event
            );
            from = vm
                .wait(stopped.index, "shutdown.done", &[], PATIENCE)?
                .index;
        }
        let reason = [("reason", "service"), ("service", "astromeshd")];
        let degraded = vm.wait(from, "boot.degraded", &reason, PATIENCE)?;
        ensure!(
            degraded.event.get("then") == Some("staying up as it is"),
            "{}",
            degraded.event
        );
        vm.kill();
        Ok(())
    })
}

/// Its restarts are five in ten minutes: the sixth end is within ten minutes of the first restart.
#[test]
fn a_runtime_that_dies_every_110_seconds() -> Result<()> {
    reboots_and_is_degraded("dies-slowly", "110,220,330,440,550,660")
}

/// Nine minutes of health are followed by a burst of failures that goes past minute ten.
#[test]
fn a_runtime_whose_sixth_end_comes_after_minute_ten() -> Result<()> {
    reboots_and_is_degraded("dies-late", "560,580,600,630,660,720")
}
