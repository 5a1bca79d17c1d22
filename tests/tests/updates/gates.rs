//! The gates of the appliance's earlier userland wait for lines of the console, which `astromesh.markers` brings. The
//! update gate is part of [`the_real_runtime_over_https_and_var_stays`](crate::course), the rollback gate, with a version whose
//! health is dead, of [`broken`](crate::broken).

use anyhow::{Result, ensure};
use appliance_tests::appliance::BOOT;
use appliance_tests::fleet::{UPDATE, looking_at};
use qemu_harness::file_server::FileServer;
use qemu_harness::update_bundle::MANIFEST;
use qemu_harness::vm::{Vm, VmConfig};
use std::time::{Duration, Instant};

/// A machine that fetches, with more words on its command line. The stub takes one string.
pub fn with_words(server: &FileServer, words: &str) -> VmConfig {
    looking_at(&format!("{} {words}", server.guest_url(MANIFEST)))
}

/// Waits for a line with this text, and returns where it is.
pub fn line(vm: &Vm, from: usize, text: &str, within: Duration) -> Result<usize> {
    let found = vm
        .serial()
        .wait_line(from, Instant::now() + within, text, |line| {
            line.text.contains(text)
        });
    found.map(|(index, _)| index)
}

/// The rollback gate: the machine has installed version 2, which is not healthy, and runs version 1 again.
pub fn rolled_back(vm: &Vm) -> Result<()> {
    let installed = line(vm, 0, "installed trial UKI", UPDATE)?;
    let second = line(vm, installed, "ASTROMESH_BUILD=2", UPDATE)?;
    let unhealthy = vm.serial().wait_line(
        second,
        Instant::now() + UPDATE,
        "boot-check UNHEALTHY",
        |line| line.text.contains("boot-check") && line.text.contains("UNHEALTHY"),
    );
    let (unhealthy, _) = unhealthy?;
    line(vm, unhealthy, "ASTROMESH_BUILD=1", UPDATE)?;
    line(vm, unhealthy, "not retrying", UPDATE)?;
    vm.wait_healthy(BOOT)?;
    let lines = vm.serial().lines(unhealthy);
    let last = lines.iter().rev().find_map(|line| {
        line.text
            .split("ASTROMESH_BUILD=")
            .nth(1)
            .map(str::to_owned)
    });
    ensure!(last.as_deref() == Some("1"), "the last build was {last:?}");
    Ok(())
}
