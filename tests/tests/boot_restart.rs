//! What can only be seen from inside, told by a service that a test image adds: the mounts, that
//! the root cannot be written, that `/var` keeps its data, and that a killed runtime comes back.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, with_config};
use qemu_harness::bundle::Run;
use qemu_harness::gpt;
use qemu_harness::vm::{Vm, VmConfig};
use std::time::{Duration, Instant};

const WITNESS: &str = include_str!("data/witness.toml");

#[test]
fn a_killed_runtime_comes_back_and_var_keeps_its_data() -> Result<()> {
    let host = host()?;
    let image = image(&host, &with_config(&host, "witness", WITNESS)?)?;
    Run::scoped(&host, "restart", &image.raw, |run| {
        let mut vm = run.boot(&VmConfig::default())?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        mounts_are_as_designed(&vm)?;
        ensure!(
            told(&vm, "boots")? == "0",
            "a fresh /var has seen a boot before"
        );

        let killed = vm
            .serial()
            .wait_line(0, Instant::now() + BOOT, "the kill", |line| {
                line.text.starts_with("witness: killed ")
            })?
            .0;
        let exit = vm.wait(killed, "service.exit", &[("service", "astromeshd")], BOOT)?;
        ensure!(
            matches!(exit.event.get("signal"), Some("9" | "KILL" | "SIGKILL")),
            "the event does not tell the cause of death: {}",
            exit.event
        );
        let mark = exit.index + 1;
        let service = [("service", "astromeshd")];
        let restart = vm.wait(mark, "service.restart", &service, BOOT)?;
        ensure!(
            restart.event.get("delay_ms") == Some("0"),
            "the first restart waits: {}",
            restart.event
        );
        vm.wait(mark, "service.healthy", &service, BOOT)?;
        vm.wait_healthy(BOOT)?;
        vm.power_down(POWER_OFF)?;

        let mut vm = run.boot(&VmConfig::default())?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        ensure!(
            told(&vm, "boots")? == "1",
            "/var lost its data over the power-off"
        );
        vm.power_down(POWER_OFF)?;
        the_cause_of_death_is_kept(run)
    })
}

/// After the second boot the disk still has how the runtime ended in the first, with its last lines.
fn the_cause_of_death_is_kept(run: &Run) -> Result<()> {
    let tools = &run.host().tools;
    let partitions = gpt::partitions(tools, &run.disk())?;
    let var = partitions.last().context("no partitions")?;
    let place = format!("{}?offset={}", run.disk().display(), var.start);
    let exits = tools.output(
        "debugfs",
        &["-R", "cat /log/astromesh-init/exits.jsonl", &place],
    )?;
    let kept = exits
        .lines()
        .find(|line| line.contains("service.exit service=astromeshd") && line.contains("signal=9"));
    let kept: serde_json::Value = serde_json::from_str(kept.context("no record of the kill")?)?;
    let lines = kept["lines"].as_array().context("no lines")?;
    ensure!(
        lines
            .iter()
            .any(|l| l.as_str().is_some_and(|l| l.contains("listening"))),
        "the last lines are not those of the runtime: {kept}"
    );
    Ok(())
}

/// Waits for `witness: KEY VALUE` and gives the value.
fn told(vm: &Vm, key: &str) -> Result<String> {
    let prefix = format!("witness: {key} ");
    let deadline = Instant::now() + Duration::from_secs(120);
    let (_, line) = vm
        .serial()
        .wait_line(0, deadline, &prefix, |line| line.text.starts_with(&prefix))?;
    Ok(line.text[prefix.len()..].trim().to_owned())
}

fn mounts_are_as_designed(vm: &Vm) -> Result<()> {
    let root = told(vm, "mount-/")?;
    let options = root.split(' ').next().context("no options")?;
    let all = |wanted: &[&str]| {
        let has = |wanted: &&str| options.split(',').any(|option| option == *wanted);
        wanted.iter().all(has)
    };
    ensure!(
        all(&["ro", "nosuid", "nodev"]) && root.contains(" erofs "),
        "/ is {root}"
    );
    let uuid = told(vm, "dm-uuid-/")?;
    ensure!(
        uuid.starts_with("CRYPT-VERITY-"),
        "/ is not a verity mapping: {uuid}"
    );
    // EROFS of errno(3).
    ensure!(told(vm, "write-/usr")? == "30", "the root can be written");
    let var = told(vm, "mount-/var")?;
    let options = var.split(' ').next().context("no options")?;
    let all = |wanted: &[&str]| {
        let has = |wanted: &&str| options.split(',').any(|option| option == *wanted);
        wanted.iter().all(has)
    };
    ensure!(
        all(&["rw", "nosuid", "nodev"]) && var.contains(" ext4 "),
        "/var is {var}"
    );
    Ok(())
}
