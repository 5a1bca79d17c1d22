//! Limits that only a machine of its own can set: memory and processes of a cgroup.

use anyhow::{Context, Result, bail, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, host, image, with_config};
use qemu_harness::bundle::Run;
use qemu_harness::vm::{Vm, VmConfig};
use std::time::Instant;

const LIMITS: &str = include_str!("data/limits.toml");

#[test]
fn want_of_memory_is_told_as_such_and_a_fork_bomb_holds_up_nobody() -> Result<()> {
    let host = host()?;
    let image = image(&host, &with_config(&host, "limits", LIMITS)?)?;
    Run::scoped(&host, "limits", &image.raw, |run| {
        let mut vm = run.boot(&VmConfig::default())?;
        let nofile = told_by_reporter(&vm, "nofile")?;
        ensure!(nofile == "65536 65536", "descriptors: {nofile}");
        out_of_memory(&vm)?;
        fork_bomb(&vm)?;
        vm.wait(0, "boot.healthy", &[], BOOT)?;
        vm.power_down(POWER_OFF)
    })
}

/// The kernel's kill is the cause of death, with the peak and the last lines, and the law is followed.
fn out_of_memory(vm: &Vm) -> Result<()> {
    let eater = [("service", "eater")];
    let oom = vm.wait(0, "service.oom", &eater, BOOT)?;
    let exit = vm.wait(oom.index, "service.exit", &eater, BOOT)?;
    let told = &exit.event;
    ensure!(
        told.get("oom") == Some("true") && told.get("signal") == Some("9"),
        "not told as want of memory: {told}"
    );
    let peak: u64 = told.get("memory_peak").context("no memory_peak")?.parse()?;
    // What the kernel has to charge to a process that it is killing goes past the limit.
    let limit = 64 << 20;
    ensure!(
        (limit - (4 << 20)..=limit + (4 << 20)).contains(&peak),
        "a peak of {peak} bytes: {told}"
    );
    let restart = vm.wait(exit.index, "service.restart", &eater, BOOT)?;
    ensure!(
        restart.event.get("cause") == Some("out of memory"),
        "{}",
        restart.event
    );
    let failed = vm.wait(restart.index, "service.failed", &eater, BOOT)?;
    ensure!(
        failed.event.get("then") == Some("degraded"),
        "{}",
        failed.event
    );
    let record = told_by_reporter(vm, "record")?;
    ensure!(record == "20 line 29", "the last lines are {record}");
    let death = told_by_reporter(vm, "death")?;
    ensure!(death.starts_with("\"out of memory\" True "), "{death}");
    Ok(())
}

/// While it rages at its limit, before each kill and after it, another service is killed and is back at once, three
/// times; and then it is gone as a tree.
fn fork_bomb(vm: &Vm) -> Result<()> {
    let mut from = 0;
    for turn in 0..3 {
        let told = told_by_reporter(vm, &format!("restarted {turn}"))?;
        let [millis, pid, before, after] = told.split(' ').collect::<Vec<_>>()[..] else {
            bail!("it told {told}");
        };
        eprintln!("killed beside the bomb, started again after {millis} ms");
        ensure!(
            (before, after) == ("40", "40"),
            "around kill {turn} the bomb had {before} and {after} tasks of 40"
        );
        let killed = [("service", "victim"), ("pid", pid), ("signal", "9")];
        let exit = vm.wait(from, "service.exit", &killed, BOOT)?;
        let at_once = [("service", "victim"), ("delay_ms", "0")];
        let restart = vm.wait(exit.index, "service.restart", &[at_once[0]], BOOT)?;
        ensure!(
            restart.event.is("service.restart", &at_once),
            "restart {turn} waits: {}",
            restart.event
        );
        from = restart.index;
    }
    let gone = told_by_reporter(vm, "gone")?;
    ensure!(gone == "stopped 0", "after the stop it is {gone}");
    Ok(())
}

/// Waits for `reporter: KEY VALUE` and gives the value.
fn told_by_reporter(vm: &Vm, key: &str) -> Result<String> {
    let prefix = format!("reporter: {key} ");
    let deadline = Instant::now() + BOOT;
    let (_, line) = vm
        .serial()
        .wait_line(0, deadline, &prefix, |line| line.text.starts_with(&prefix))?;
    Ok(line.text[prefix.len()..].trim().to_owned())
}
