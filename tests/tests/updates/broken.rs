//! Versions that do not work, each validly signed: the machine tries them, and is healthy on the
//! old version again by itself, with the reason told and kept.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF};
use appliance_tests::fleet::{Fleet, HOPELESS, UPDATE, fetching, var_file};
use qemu_harness::broken::Broken;
use qemu_harness::bundle::Run;
use qemu_harness::damage;
use qemu_harness::file_server::FileServer;
use qemu_harness::image_options::Runtime;
use qemu_harness::vm::Vm;

/// Boots of a version without a verdict: those configured.
const TRIES: usize = 2;

/// Whether the machine itself can say what is wrong, before it goes back.
fn is_condemned(broken: Broken) -> bool {
    matches!(
        broken,
        Broken::HealthDead
            | Broken::HealthFlapping
            | Broken::RuntimeMissing
            | Broken::NetcfgCrashLoop
    )
}

fn goes_back_from(broken: Broken) -> Result<()> {
    let mut fleet = Fleet::new(broken.name(), Runtime::Small)?;
    let first = fleet.version("1")?;
    match broken {
        // Longer than its health lasts, as a probation has to be.
        Broken::HealthFlapping => {
            fleet.trial = "[update]\nprobation = \"15s\"\ntimeout = \"120s\"\n";
        }
        Broken::HealthDead => fleet.trial = HOPELESS,
        _ => {}
    }
    let options = broken.options(&fleet.host.paths, "2", Runtime::Small)?;
    fleet.publish(&fleet.build(options)?)?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, broken.name(), &first.raw, |run| {
        let mut vm = run.boot(&fetching(&server))?;
        let installed = vm.wait(0, "update.installed", &[("version", "2")], UPDATE)?;
        let told = if is_condemned(broken) {
            vm.wait(installed.index, "slot.bad", &[("version", "2")], UPDATE)?
        } else {
            vm.wait(
                installed.index,
                "slot.fallback",
                &[("version", "2")],
                UPDATE,
            )?
        };
        let reason = told.event.get("reason").context("no reason")?.to_owned();
        eprintln!("{}: {reason}", broken.name());
        healthy_on_the_first(&mut vm, told.index)?;
        let starts = vm
            .serial()
            .events(installed.index)
            .iter()
            .filter(|event| event.is("slot.state", &[("version", "2")]))
            .count();
        ensure!(starts <= TRIES, "version 2 started {starts} times");
        vm.power_down(POWER_OFF)?;
        let record = var_file(run, "/lib/astromesh-init/slots.json")?;
        ensure!(
            record.contains("\"bad\"") && record.contains(&reason),
            "{record} does not say {reason}"
        );
        Ok(())
    })
}

/// Version 1 is healthy again, and does not fetch what it knows to be bad.
fn healthy_on_the_first(vm: &mut Vm, from: usize) -> Result<()> {
    let state = vm.wait(
        from.saturating_sub(20),
        "slot.state",
        &[("version", "1")],
        BOOT,
    );
    let back = state.or_else(|_| vm.wait(from, "slot.state", &[("version", "1")], BOOT))?;
    let refused = vm.wait(back.index, "update.refused", &[("version", "2")], UPDATE)?;
    let why = refused.event.get("reason").unwrap_or_default();
    ensure!(
        why.contains("bad"),
        "it was refused for another reason: {why}"
    );
    vm.wait_healthy(BOOT)?;
    Ok(())
}

#[test]
fn it_panics() -> Result<()> {
    goes_back_from(Broken::Panic)
}

#[test]
fn it_hangs() -> Result<()> {
    goes_back_from(Broken::Hang)
}

#[test]
fn its_initramfs_panics() -> Result<()> {
    goes_back_from(Broken::PanicInitramfs)
}

#[test]
fn its_initramfs_hangs() -> Result<()> {
    goes_back_from(Broken::HangInitramfs)
}

#[test]
fn its_root_is_not_found() -> Result<()> {
    goes_back_from(Broken::RootMissing)
}

#[test]
fn it_is_never_healthy() -> Result<()> {
    goes_back_from(Broken::HealthDead)
}

#[test]
fn its_health_comes_and_goes() -> Result<()> {
    goes_back_from(Broken::HealthFlapping)
}

#[test]
fn it_has_no_runtime() -> Result<()> {
    goes_back_from(Broken::RuntimeMissing)
}

#[test]
fn its_netcfg_crashes_over_and_over() -> Result<()> {
    goes_back_from(Broken::NetcfgCrashLoop)
}

/// What rots on the disk between the update and the trial.
fn goes_back_when(name: &str, damage: impl FnOnce(&Fleet, &Run, &str) -> Result<()>) -> Result<()> {
    let fleet = Fleet::new(name, Runtime::Small)?;
    let first = fleet.version("1")?;
    let second = fleet.version("2")?;
    fleet.publish(&second)?;
    let server = FileServer::http(fleet.folder())?;
    Run::scoped(&fleet.host, name, &first.raw, |run| {
        let mut config = fetching(&server);
        config.reboots = false;
        let mut vm = run.boot(&config)?;
        vm.wait(0, "update.installed", &[("version", "2")], UPDATE)?;
        vm.wait_end(POWER_OFF)?;
        damage(&fleet, run, &second.roothash)?;
        let mut vm = run.boot(&fetching(&server))?;
        let told = vm.wait(0, "slot.fallback", &[("version", "2")], UPDATE)?;
        healthy_on_the_first(&mut vm, told.index)?;
        vm.power_down(POWER_OFF)
    })
}

#[test]
fn its_uki_is_cut_off() -> Result<()> {
    goes_back_when("uki-cut", |fleet, run, _| {
        damage::truncate_installed_uki(&fleet.host.tools, &run.disk(), "2", 5 << 20)
    })
}

#[test]
fn its_root_rots() -> Result<()> {
    goes_back_when("root-rots", |fleet, run, roothash| {
        damage::flip_root(&fleet.host.tools, &run.disk(), roothash, 1024)
    })
}

#[test]
fn its_hash_tree_rots() -> Result<()> {
    goes_back_when("tree-rots", |fleet, run, roothash| {
        damage::flip_verity(&fleet.host.tools, &run.disk(), roothash, 4096 + 17)
    })
}
