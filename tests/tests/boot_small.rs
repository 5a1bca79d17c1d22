//! The image with the small daemon: what campaigns of many builds and boots stand on.

use anyhow::{Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, in_order, without_warnings};
use qemu_harness::bundle::Run;
use qemu_harness::image::ImageOptions;
use qemu_harness::vm::VmConfig;

#[test]
fn the_small_image_is_healthy_with_the_shipped_configuration() -> Result<()> {
    let host = host()?;
    let image = image(&host, &ImageOptions::small())?;
    Run::scoped(&host, "small", &image.raw, |run| {
        let mut vm = run.boot(&VmConfig::default())?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        let health = vm.wait_healthy(BOOT)?;
        ensure!(health["status"] == "ok", "{health}");
        let mark = vm.serial().mark();
        vm.power_down(POWER_OFF)?;
        let stop = ("service.exit", &[("service", "astromeshd")][..]);
        in_order(
            &vm.serial().events(mark),
            &[("shutdown.start", &[]), stop, ("shutdown.done", &[])],
        )?;
        without_warnings(&vm.serial().events(0))
    })
}
