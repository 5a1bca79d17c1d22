//! Boots of machines that lack something the appliance can do without.

use anyhow::{Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, in_order};
use qemu_harness::bundle::Run;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::{Network, VmConfig};

#[test]
fn without_a_network_the_runtime_still_becomes_healthy() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::default())?;
    Run::scoped(&host, "no-network", &image.raw, |run| {
        let config = VmConfig {
            network: Network::None,
            ..VmConfig::default()
        };
        let mut vm = run.boot(&config)?;
        // Health is probed over the loopback inside.
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        let events = vm.serial().events(0);
        in_order(
            &events,
            &[
                ("boot.var", &[]),
                ("service.healthy", &[("service", "astromeshd")]),
                ("boot.healthy", &[]),
            ],
        )?;
        ensure!(
            events.iter().all(|event| event.name != "net.address"),
            "an address without a network card"
        );
        vm.power_down(POWER_OFF)
    })
}

#[test]
fn without_a_serial_port_the_appliance_serves_and_switches_off() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "no-serial", &image.raw, |run| {
        let config = VmConfig {
            serial: false,
            ..VmConfig::default()
        };
        let mut vm = run.boot(&config)?;
        let health = vm.wait_healthy(BOOT)?;
        ensure!(health["status"] == "ok", "{health}");
        vm.power_down(POWER_OFF)
    })
}
