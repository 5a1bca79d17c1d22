//! A boot of a machine that lacks something the appliance can do without. One without a network is in
//! [`boot_watchdog`](crate::boot_watchdog).

use anyhow::{Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image};
use qemu_harness::bundle::Run;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::VmConfig;

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
