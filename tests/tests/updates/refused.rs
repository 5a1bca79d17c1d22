//! Updates that are wrong: each is refused with its reason, and what the machine runs from is as it was.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::POWER_OFF;
use appliance_tests::fleet::{Fleet, UPDATE, blessed, fetching, key};
use qemu_harness::bundle::Run;
use qemu_harness::damage::Piece;
use qemu_harness::esp::Esp;
use qemu_harness::event::Event;
use qemu_harness::gpt;
use qemu_harness::image::Image;
use qemu_harness::image_options::Runtime;
use qemu_harness::signing::SigningKey;
use qemu_harness::update_bundle::Bundle;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// What is done to the bundle of version 3.
type Damage = fn(&Bundle) -> Result<()>;

/// What is refused before anything is written, by words of the reason.
const BEFORE: [(&str, Damage, &str); 8] = [
    (
        "another key",
        |bundle| bundle.sign(&SigningKey::from_seed(8)),
        "key",
    ),
    (
        "flipped manifest",
        |bundle| bundle.flip_manifest(30),
        "sign",
    ),
    (
        "flipped signature",
        |bundle| bundle.flip_signature(5),
        "sign",
    ),
    (
        "cut manifest",
        |bundle| {
            let path = bundle.folder().join("update.json");
            let text = std::fs::read(&path)?;
            std::fs::write(&path, &text[..text.len() / 2]).context("cannot cut the manifest")
        },
        "sign",
    ),
    (
        "flipped UKI",
        |bundle| bundle.flip(Piece::Uki, 70_000),
        "SHA-256",
    ),
    (
        "cut root",
        |bundle| bundle.resize(Piece::Root, 100_000),
        "bytes",
    ),
    (
        "root too large",
        |bundle| bundle.claim(&key(), |manifest| manifest.root.size = 300 << 20),
        "slot",
    ),
    (
        "replayed older version",
        |bundle| bundle.claim(&key(), |manifest| manifest.version = "1".into()),
        "older",
    ),
];

#[test]
fn wrong_updates_are_refused_before_anything_is_written() -> Result<()> {
    let fleet = Fleet::new("refused", Runtime::Small)?;
    let (first, second) = (fleet.version("1")?, fleet.version("2")?);
    let third = fleet.version("3")?;
    fleet.publish(&second)?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, "refused", &first.raw, |run| {
        let mut vm = run.boot(&fetching(&server))?;
        blessed(&vm, 0, "2")?;
        vm.power_down(POWER_OFF)?;
        let before = what_it_runs_from(run)?;
        let mut mark = 0;
        let mut vm = None;
        for (name, damage, word) in BEFORE {
            let bundle = fleet.publish(&third)?;
            damage(&bundle)?;
            match &vm {
                None => vm = Some(run.boot(&fetching(&server))?),
                Some(vm) => vm.reset()?,
            }
            let vm = vm.as_ref().context("no machine")?;
            // Nothing was changed by either; what was fetched badly may come well the next time.
            let is_end = |event: &Event| matches!(&*event.name, "update.refused" | "update.failed");
            let deadline = Instant::now() + UPDATE;
            let told = vm.serial().wait_line(mark, deadline, name, |line| {
                line.event.as_ref().is_some_and(is_end)
            });
            let (index, line) = told.with_context(|| format!("{name} is not refused"))?;
            mark = index + 1;
            let event = line.event.context("the line has an event")?;
            let reason = event.get("reason").unwrap_or_default();
            eprintln!("{name}: {reason}");
            ensure!(reason.contains(word), "{name} is refused because: {reason}");
        }
        vm.context("no machine")?.power_down(POWER_OFF)?;
        let after = what_it_runs_from(run)?;
        for (what, bytes) in &before {
            ensure!(after.get(what) == Some(bytes), "{what} is not as it was");
        }
        ensure!(after.len() == before.len(), "there is more than before");
        Ok(())
    })
}

#[test]
fn a_root_that_is_not_the_signed_one_is_never_started() -> Result<()> {
    let fleet = Fleet::new("mixed", Runtime::Small)?;
    let first = fleet.version("1")?;
    let bundle = fleet.publish(&fleet.version("2")?)?;
    bundle.flip(Piece::Root, 200_000)?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, "mixed", &first.raw, |run| {
        let mut vm = run.boot(&fetching(&server))?;
        let told = vm.wait(0, "update.failed", &[], UPDATE)?;
        let reason = told.event.get("reason").unwrap_or_default();
        ensure!(reason.contains("SHA-256"), "it failed because: {reason}");
        vm.power_down(POWER_OFF)?;
        runs_only(run, &fleet, &first)
    })
}

#[test]
fn a_machine_that_forgets_fetches_nothing_by_itself() -> Result<()> {
    let fleet = Fleet::new("forgets", Runtime::Small)?;
    let first = fleet.version("1")?;
    fleet.publish(&fleet.version("2")?)?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, "forgets", &first.raw, |run| {
        let partitions = gpt::partitions(&fleet.host.tools, &run.disk())?;
        let var = gpt::only(&partitions, "/var", |p| p.name == "var")?;
        // The magic number of ext4's superblock: /var does not mount, and is one in memory.
        run.flip(var.start + 1024 + 0x38)?;
        let mut vm = run.boot(&fetching(&server))?;
        vm.wait(0, "boot.degraded", &[("reason", "var")], UPDATE)?;
        let kept = blessed(&vm, 0, "1")?;
        vm.wait(kept.index, "slot.warning", &[("what", "record")], UPDATE)?;
        vm.power_down(POWER_OFF)?;
        ensure!(
            server.seen("update.json").is_empty(),
            "it has asked for an update"
        );
        Ok(())
    })
}

/// The ESP has the entry of this version and no other.
fn runs_only(run: &Run, fleet: &Fleet, image: &Image) -> Result<()> {
    let entries = Esp::of(&fleet.host.tools, &run.disk())?.entries()?;
    ensure!(
        entries == [format!("astromesh-os_{}.efi", image.version)],
        "the ESP has {entries:?}"
    );
    Ok(())
}

/// The entries of the ESP, and both slots, by their contents.
fn what_it_runs_from(run: &Run) -> Result<BTreeMap<String, Vec<u8>>> {
    let tools = &run.host().tools;
    let esp = Esp::of(tools, &run.disk())?;
    let mut all = BTreeMap::new();
    for entry in esp.entries()? {
        all.insert(entry.clone(), esp.read(&entry)?);
    }
    let disk = File::open(run.disk())?;
    for partition in gpt::partitions(tools, &run.disk())? {
        if partition.name == "var" || partition.name == "esp" {
            continue;
        }
        // The label goes by, a version's data do not.
        let mut bytes = vec![0; usize::try_from(partition.size)?];
        disk.read_exact_at(&mut bytes, partition.start)?;
        all.insert(format!("{} at {}", partition.name, partition.start), bytes);
    }
    Ok(all)
}
