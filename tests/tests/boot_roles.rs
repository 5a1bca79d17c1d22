//! Roles of init that somebody has taken over, or that hang, on a machine: they are killed and replaced, and
//! the boot comes to its end. `init/tests/container/roles.rs` has the same for the logger.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image};
use qemu_harness::bundle::Run;
use qemu_harness::compile::{self, Program};
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::{Vm, VmConfig};

/// Init takes 24 KiB of events of a role at once and 250 bytes a second after that; an event of the flood has 26
/// bytes or more.
const TOLD_MAX: usize = 24 * 1024 / 26 + 100;

/// Boots an init of which netcfg has this fault, and waits until another instance has an address.
fn replaced_after(fault: &str, reason: &str, check: impl Fn(&Vm) -> Result<()>) -> Result<()> {
    let host = host()?;
    let image = image(
        &host,
        &ImageOptions {
            init: Some(compile::program(&host.paths, Program::Broken)?),
            ..ImageOptions::small()
        },
    )?;
    Run::scoped(&host, fault, &image.raw, |run| {
        let config = VmConfig::default().kernel_argument(&format!("broken={fault}"));
        let mut vm = run.boot(&config)?;
        let netcfg = ("service", "netcfg");
        let unhealthy = vm.wait(0, "service.unhealthy", &[netcfg], BOOT)?;
        let said = unhealthy.event.get("reason").context("no reason")?;
        ensure!(said == reason, "{}", unhealthy.event);
        let exit = vm.wait(unhealthy.index, "service.exit", &[netcfg], BOOT)?;
        ensure!(exit.event.get("signal") == Some("9"), "{}", exit.event);
        vm.wait(exit.index, "service.healthy", &[netcfg], BOOT)?;
        vm.wait(exit.index, "net.address", &[("link", "eth0")], BOOT)?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        vm.wait_healthy(BOOT)?;
        check(&vm)?;
        vm.power_down(POWER_OFF)
    })
}

#[test]
fn a_netcfg_that_tells_without_end_is_killed_and_replaced() -> Result<()> {
    let reason = "misbehaves: sends messages without end";
    replaced_after("netcfg-flood", reason, |vm| {
        let events = vm.serial().events(0);
        let flood = events.iter().filter(|e| e.name == "net.warning").count();
        ensure!(flood < TOLD_MAX, "{flood} events of the flood were told");
        let told = events.iter().any(|e| {
            e.is(
                "service.warning",
                &[("service", "netcfg"), ("what", "channel")],
            ) && e.get("suppressed").is_some_and(|count| count != "0")
        });
        ensure!(told, "what was not told is counted nowhere");
        Ok(())
    })
}

#[test]
fn a_netcfg_that_sends_garbage_without_end_is_killed_and_replaced() -> Result<()> {
    let reason = "misbehaves: sends malformed messages without end";
    replaced_after("netcfg-garbage", reason, |_| Ok(()))
}

#[test]
fn a_netcfg_that_stops_is_killed_and_replaced() -> Result<()> {
    replaced_after("netcfg-stop", "watchdog", |_| Ok(()))
}
