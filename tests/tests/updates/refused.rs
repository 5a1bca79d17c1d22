//! Updates that are wrong: each is refused with its reason, and what the machine runs from is as it was.

use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::POWER_OFF;
use appliance_tests::fleet::{Fleet, UPDATE, asked, blessed, fetching, key};
use qemu_harness::bundle::Run;
use qemu_harness::damage::Piece;
use qemu_harness::esp::Esp;
use qemu_harness::event::Event;
use qemu_harness::file_server::FileServer;
use qemu_harness::gpt;
use qemu_harness::image_options::Runtime;
use qemu_harness::lock::hex;
use qemu_harness::signing::SigningKey;
use qemu_harness::update_bundle::{Bundle, MANIFEST};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
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

/// An operator who asks for these updates, one after the other, once the slots can be asked about. The machine looks at no
/// source by itself, so all of it is one boot.
fn operator(servers: &[FileServer]) -> String {
    let mut text = "
[service.ask]
exec = ['/usr/bin/initctl', 'slots']
type = 'oneshot'
after = ['astromeshd']
restart = 'on-failure'
backoff = { base = '500ms' }
intensity = { restarts = 20, within = '60s', then = 'degraded' }
"
    .to_owned();
    let mut before = "ask".to_owned();
    for (number, server) in (1..).zip(servers) {
        let source = server.guest_url(MANIFEST);
        text += &format!(
            "
[service.ask-{number}]
exec = ['/usr/bin/initctl', 'update', '{source}']
type = 'oneshot'
after = ['{before}']
restart = 'never'
"
        );
        before = format!("ask-{number}");
    }
    text
}

#[test]
fn wrong_updates_are_refused_before_anything_is_written() -> Result<()> {
    let fleet = Fleet::new("refused", Runtime::Small)?;
    let first = fleet.version("1")?;
    let third = fleet.version("3")?;
    let mut servers = Vec::new();
    for (number, (name, damage, _)) in BEFORE.into_iter().enumerate() {
        let folder = fleet.folder().with_file_name(format!("refused-{number}"));
        let bundle = Bundle::write(&third, Some(&key()), &folder)?;
        damage(&bundle).with_context(|| format!("cannot make {name}"))?;
        servers.push(FileServer::http(&folder)?);
    }
    let second = fleet.version_with("2", &operator(&servers))?;
    fleet.publish(&second)?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, "refused", &first.raw, |run| {
        let mut vm = run.boot(&fetching(&server))?;
        blessed(&vm, 0, "2")?;
        vm.power_down(POWER_OFF)?;
        let before = what_it_runs_from(run)?;

        let mut vm = run.boot(&asked())?;
        let mut from = 0;
        for (name, _, word) in BEFORE {
            // Nothing was changed by either; what was fetched badly may come well the next time.
            let is_end = |event: &Event| matches!(&*event.name, "update.refused" | "update.failed");
            let deadline = Instant::now() + UPDATE;
            let told = vm.serial().wait_line(from, deadline, name, |line| {
                line.event.as_ref().is_some_and(is_end)
            });
            let (index, line) = told.with_context(|| format!("{name} is not refused"))?;
            from = index + 1;
            let event = line.event.context("the line has an event")?;
            let reason = event.get("reason").unwrap_or_default();
            eprintln!("{name}: {reason}");
            ensure!(reason.contains(word), "{name} is refused because: {reason}");
        }
        vm.power_down(POWER_OFF)?;
        let after = what_it_runs_from(run)?;
        ensure!(after == before, "of {before:#?} there is now {after:#?}");

        // What only the whole of the root shows to be wrong never gets an entry.
        let bundle = fleet.publish(&third)?;
        bundle.flip(Piece::Root, 200_000)?;
        let mut vm = run.boot(&fetching(&server))?;
        let version = [("version", "3")];
        let told = vm.wait(0, "update.manifest", &version, UPDATE)?;
        let told = vm.wait(told.index, "update.failed", &version, UPDATE)?;
        let reason = told.event.get("reason").unwrap_or_default();
        ensure!(reason.contains("SHA-256"), "it failed because: {reason}");
        vm.power_down(POWER_OFF)?;
        let entries = Esp::of(&fleet.host.tools, &run.disk())?.entries()?;
        ensure!(
            entries == ["astromesh-os_2.efi"],
            "a root that is not the signed one is started: the ESP has {entries:?}"
        );
        Ok(())
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

/// Every byte of what a machine runs from: both copies of the partition table, the ESP, and both slots, by their SHA-256.
fn what_it_runs_from(run: &Run) -> Result<BTreeMap<String, String>> {
    let disk = File::open(run.disk())?;
    let length = disk.metadata()?.len();
    // UEFI: the protective MBR, a header and 128 entries of 128 bytes at the start; entries and header at the end.
    let (primary, backup) = (34 * 512, 33 * 512);
    let mut parts = vec![
        ("the table".to_owned(), 0..primary),
        ("the table's backup".to_owned(), length - backup..length),
    ];
    for partition in gpt::partitions(&run.host().tools, &run.disk())? {
        if partition.name != "var" {
            let name = format!("partition {} ({})", partition.number, partition.name);
            parts.push((name, partition.start..partition.start + partition.size));
        }
    }
    ensure!(
        parts.len() == 7,
        "not two tables, an ESP and two slots: {parts:?}"
    );
    let digest = |range: Range<u64>| {
        let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
        disk.read_exact_at(&mut bytes, range.start)?;
        Ok::<_, anyhow::Error>(hex(&Sha256::digest(&bytes)))
    };
    parts
        .into_iter()
        .map(|(name, range)| Ok((name, digest(range)?)))
        .collect()
}
