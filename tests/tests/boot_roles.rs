//! Roles of init that somebody has taken over, or that hang, on a machine: they are killed and replaced, and
//! the boot comes to its end. `init/tests/container/roles.rs` has the same for the logger.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image};
use appliance_tests::fleet::as_proved;
use qemu_harness::bundle::Run;
use qemu_harness::compile::{self, Program};
use qemu_harness::event::Event;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::{Vm, VmConfig};

/// Init takes 24 KiB of events of a role at once and 250 bytes a second after that; an event of the flood has 26
/// bytes or more.
const TOLD_MAX: usize = 24 * 1024 / 26 + 100;

/// The faults of the first instances of netcfg, and why each is killed.
const FAULTS: [(&str, &str); 3] = [
    ("netcfg-flood", "misbehaves: sends messages without end"),
    (
        "netcfg-garbage",
        "misbehaves: sends malformed messages without end",
    ),
    ("netcfg-stop", "watchdog"),
];

#[test]
fn a_netcfg_that_floods_or_sends_garbage_or_stops_is_killed_and_replaced() -> Result<()> {
    let host = host()?;
    let image = image(
        &host,
        &ImageOptions {
            init: Some(compile::program(&host.paths, Program::Broken)?),
            ..ImageOptions::small()
        },
    )?;
    Run::scoped(&host, "roles", &image.raw, |run| {
        let faults = FAULTS.map(|(fault, _)| fault).join(",");
        let config = VmConfig::default().kernel_argument(&format!("broken={faults}"));
        // A version on trial would be given up after the third.
        as_proved(run, &image)?;
        let mut vm = run.boot(&config)?;
        let netcfg = ("service", "netcfg");
        let mut from = 0;
        for (fault, reason) in FAULTS {
            let unhealthy = vm.wait(from, "service.unhealthy", &[netcfg], BOOT)?;
            let said = unhealthy.event.get("reason").context("no reason")?;
            ensure!(said == reason, "{fault}: {}", unhealthy.event);
            let exit = vm.wait(unhealthy.index, "service.exit", &[netcfg], BOOT)?;
            ensure!(exit.event.get("signal") == Some("9"), "{}", exit.event);
            vm.wait(exit.index, "service.healthy", &[netcfg], BOOT)?;
            from = exit.index;
        }
        // The one after them does what it is for.
        vm.wait(from, "net.address", &[("link", "eth0")], BOOT)?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        vm.wait_healthy(BOOT)?;
        of_the_flood_a_part_is_told(&vm)?;
        vm.power_down(POWER_OFF)
    })
}

fn of_the_flood_a_part_is_told(vm: &Vm) -> Result<()> {
    let events = vm.serial().events(0);
    let is_of_flood = |event: &&Event| {
        let reason = event.get("reason").unwrap_or_default();
        event.name == "net.warning" && reason.starts_with("flood ")
    };
    let flood = events.iter().filter(is_of_flood).count();
    ensure!(
        (1..TOLD_MAX).contains(&flood),
        "{flood} events of the flood were told"
    );
    let told = events.iter().any(|e| {
        e.is(
            "service.warning",
            &[("service", "netcfg"), ("what", "channel")],
        ) && e.get("suppressed").is_some_and(|count| count != "0")
    });
    ensure!(told, "what was not told is counted nowhere");
    Ok(())
}
