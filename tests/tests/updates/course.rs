//! From version to version: each is kept, the slots alternate, the ESP does not fill, `/var` stays.

use crate::gates::{line, with_words};
use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, in_order};
use appliance_tests::fleet::{
    Fleet, UPDATE, blessed, fetching, looking_at, put_bundle_on_var, put_on_var, var_file,
};
use qemu_harness::bundle::Run;
use qemu_harness::esp::Esp;
use qemu_harness::file_server::{Fault, FileServer};
use qemu_harness::image::Image;
use qemu_harness::image_options::Runtime;
use qemu_harness::vm::Vm;

const MACHINE_ID: &str = "/lib/astromesh-init/machine-id";

/// 32 lower-case hexadecimal digits (machine-id(5)).
fn is_machine_id(text: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == 32 && text.bytes().all(is_digit)
}

/// After so many bytes of the second version's root the connection breaks.
const CUT: u64 = 300_000;

/// Long enough for the power button.
const LONG: &str = "[update]\nprobation = \"15s\"\ntimeout = \"200s\"\n";

/// Four versions in the life of one machine. The second comes over a connection that breaks, the third from a file on `/var`,
/// and the power is switched off in the middle of the fourth one's trial.
#[test]
fn four_versions_in_two_slots() -> Result<()> {
    let mut fleet = Fleet::new("course", Runtime::Small)?;
    let [first, second, third] = ["1", "2", "3"].map(|version| fleet.version(version));
    let (first, second, third) = (first?, second?, third?);
    fleet.trial = LONG;
    let fourth = fleet.version("4")?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, "course", &first.raw, |run| {
        let bundle = fleet.publish(&second)?;
        let root = bundle.manifest()?.root.name;
        server.fault(&root, Fault::CutOnce(CUT));
        let mut vm = run.boot(&fetching(&server))?;
        kept_in(&vm, &second, "b")?;
        vm.power_down(POWER_OFF)?;
        // The whole file once, and then what had not come.
        let fetched = fetched_from(&server, &root);
        ensure!(
            matches!(fetched[..], [0, rest] if (1..=CUT).contains(&rest)),
            "of a file cut after {CUT} bytes it fetched what begins at {fetched:?}"
        );

        put_bundle_on_var(run, &fleet.publish(&third)?)?;
        let mut vm = run.boot(&looking_at("/var/update.json"))?;
        kept_in(&vm, &third, "a")?;
        vm.power_down(POWER_OFF)?;
        ensure!(
            var_file(run, "/update.json")?.contains("\"version\""),
            "the bundle is gone"
        );

        fleet.publish(&fourth)?;
        let mut vm = run.boot(&fetching(&server))?;
        let trial = [("version", "4")];
        let slot = [trial[0], ("slot", "b")];
        let installed = vm.wait(0, "update.installed", &slot, UPDATE)?;
        vm.wait(installed.index, "slot.trial", &trial, BOOT)?;
        // The API: the power button of a machine that is just healthy may be pressed too early.
        vm.wait_healthy(BOOT)?;
        vm.power_down(POWER_OFF)?;
        let seen = Esp::of(&fleet.host.tools, &run.disk())?.entries()?;
        ensure!(
            seen == ["astromesh-os_3.efi", "astromesh-os_4+0-0.efi"],
            "a reboot in the middle of a trial burns a try: the ESP has {seen:?}"
        );
        let mut vm = run.boot(&fetching(&server))?;
        let again = [trial[0], ("entry", "astromesh-os_4+0-1.efi")];
        vm.wait(0, "slot.state", &again, BOOT)?;
        blessed(&vm, 0, "4")?;
        vm.power_down(POWER_OFF)?;
        let seen = Esp::of(&fleet.host.tools, &run.disk())?.entries()?;
        ensure!(
            seen == ["astromesh-os_3.efi", "astromesh-os_4.efi"],
            "the ESP has {seen:?}"
        );
        let record = var_file(run, "/lib/astromesh-init/slots.json")?;
        ensure!(
            record.contains("\"floor\": \"4\""),
            "the record is {record}"
        );
        Ok(())
    })
}

/// Where what was fetched of a file begins, request by request.
fn fetched_from(server: &FileServer, file: &str) -> Vec<u64> {
    let asked = server.seen(file).into_iter();
    asked
        .filter(|request| request.method == "GET")
        .map(|request| request.from.unwrap_or(0))
        .collect()
}

/// This version is installed in this slot, tried and kept.
fn kept_in(vm: &Vm, image: &Image, slot: &str) -> Result<()> {
    let fields = [("version", image.version.as_str()), ("slot", slot)];
    let installed = vm.wait(0, "update.installed", &fields, UPDATE)?;
    blessed(vm, installed.index, &image.version).map(drop)
}

#[test]
fn the_real_runtime_over_https_and_var_stays() -> Result<()> {
    let fleet = Fleet::new("https", Runtime::Astromesh)?;
    let authority = "ca = \"/var/authority.pem\"\n";
    let first = fleet.version_with("1", authority)?;
    fleet.publish(&fleet.version_with("2", authority)?)?;
    let server = FileServer::https(fleet.folder())?;
    Run::scoped(&fleet.host, "https", &first.raw, |run| {
        // The authority lies on /var, where a machine's own things are.
        let authority = run.dir().join("authority.pem");
        std::fs::write(&authority, server.authority().context("no authority")?)?;
        put_on_var(run, &authority, "/authority.pem")?;
        // The reboot into the second version ends QEMU, so that the disk can be read between the versions.
        let mut config = with_words(&server, "astromesh.markers");
        config.reboots = false;
        let mut vm = run.boot(&config)?;
        line(&vm, 0, "ASTROMESH_BUILD=1", BOOT)?;
        blessed(&vm, 0, "1")?;
        let start = vm.wait(0, "update.start", &[], BOOT)?;
        let installed = vm.wait(start.index, "update.installed", &[("version", "2")], UPDATE)?;
        vm.wait_end(POWER_OFF)?;
        let mut told = vm.serial().events(0);
        let id = var_file(run, MACHINE_ID)?;
        ensure!(is_machine_id(id.trim()), "the machine id is {id:?}");

        let mut vm = run.boot(&with_words(&server, "astromesh.markers"))?;
        let kept = blessed(&vm, 0, "2")?;
        eprintln!(
            "from the start of the update to its end {:?}, from power-on to the blessing {:?}; {}",
            installed.at.saturating_sub(start.at),
            kept.at,
            installed.event
        );
        // The update gate of the appliance's earlier userland.
        line(&vm, 0, "ASTROMESH_BUILD=2", UPDATE)?;
        vm.wait_healthy(BOOT)?;
        vm.power_down(POWER_OFF)?;
        told.extend(vm.serial().events(0));
        in_order(
            &told,
            &[
                ("slot.state", &[("version", "1"), ("slot", "a")]),
                ("slot.blessed", &[("version", "1")]),
                ("update.manifest", &[("version", "2")]),
                ("update.installed", &[("slot", "b")]),
                ("slot.reboot", &[]),
                (
                    "slot.state",
                    &[("version", "2"), ("slot", "b"), ("trial", "true")],
                ),
                ("slot.trial", &[("version", "2")]),
                ("slot.blessed", &[("version", "2")]),
            ],
        )?;
        let after = var_file(run, MACHINE_ID)?;
        ensure!(after == id, "the machine id {id:?} became {after:?}");
        let devices: Vec<_> = told
            .iter()
            .filter(|event| event.name == "boot.var")
            .map(|event| event.get("device"))
            .collect();
        ensure!(
            matches!(devices[..], [Some(before), Some(after)] if before == after),
            "/var was on {devices:?}"
        );
        ensure!(
            var_file(run, "/authority.pem")? == std::fs::read_to_string(&authority)?,
            "what was on /var is there no more"
        );
        Ok(())
    })
}
