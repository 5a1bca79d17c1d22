//! From version to version: each is kept, the slots alternate, the ESP does not fill, `/var` stays.

use crate::gates::{line, with_markers};
use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF, in_order};
use appliance_tests::fleet::{
    Fleet, UPDATE, as_proved, asked, blessed, fetching, looking_at, put_bundle_on_var, put_on_var,
    var_file,
};
use qemu_harness::broken::Broken;
use qemu_harness::bundle::Run;
use qemu_harness::esp::Esp;
use qemu_harness::file_server::FileServer;
use qemu_harness::image_options::Runtime;

const MACHINE_ID: &str = "/lib/astromesh-init/machine-id";

#[test]
fn four_versions_in_two_slots() -> Result<()> {
    let fleet = Fleet::new("course", Runtime::Small)?;
    let first = fleet.version("1")?;
    let server = fleet.serve()?;
    fleet.publish(&fleet.version("2")?)?;
    Run::scoped(&fleet.host, "course", &first.raw, |run| {
        let mut vm = run.boot(&fetching(&server))?;
        let mut mark = 0;
        for (version, slot) in [("2", "b"), ("3", "a"), ("4", "b")] {
            let installed = [("version", version), ("slot", slot)];
            let installed = vm.wait(mark, "update.installed", &installed, UPDATE)?;
            mark = blessed(&vm, installed.index, version)?.index;
            if let Some(next) = ["3", "4"].into_iter().find(|next| *next > version) {
                fleet.publish(&fleet.version(next)?)?;
                vm.reset()?;
            }
        }
        vm.power_down(POWER_OFF)?;
        let entries = Esp::of(&fleet.host.tools, &run.disk())?.entries()?;
        ensure!(
            entries == ["astromesh-os_3.efi", "astromesh-os_4.efi"],
            "the ESP has {entries:?}"
        );
        let record = var_file(run, "/lib/astromesh-init/slots.json")?;
        ensure!(
            record.contains("\"floor\": \"4\""),
            "the record is {record}"
        );
        Ok(())
    })
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
        let mut vm = run.boot(&with_markers(&server))?;
        let gate = line(&vm, 0, "ASTROMESH_BUILD=1", BOOT)?;
        blessed(&vm, 0, "1")?;
        let start = vm.wait(0, "update.start", &[], BOOT)?;
        let installed = vm.wait(start.index, "update.installed", &[("version", "2")], UPDATE)?;
        let kept = blessed(&vm, installed.index, "2")?;
        // The update gate of the appliance's earlier userland.
        line(&vm, gate, "ASTROMESH_BUILD=2", UPDATE)?;
        vm.wait_healthy(BOOT)?;
        let told = vm.serial().events(0);
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
        eprintln!(
            "from the start of the update to its blessing: {:?}; {}",
            kept.at.saturating_sub(start.at),
            installed.event
        );
        vm.power_down(POWER_OFF)?;
        let id = var_file(run, MACHINE_ID)?;
        ensure!(id.trim().len() == 32, "the machine id is {id:?}");
        let before: Vec<_> = told
            .iter()
            .filter(|event| event.name == "boot.var")
            .map(|event| event.get("device").map(str::to_owned))
            .collect();
        ensure!(
            before.len() >= 2 && before.windows(2).all(|two| two[0] == two[1]),
            "/var was another one: {before:?}"
        );
        ensure!(
            var_file(run, "/authority.pem")? == std::fs::read_to_string(&authority)?,
            "what was on /var is there no more"
        );
        Ok(())
    })
}

#[test]
fn from_a_file_on_var() -> Result<()> {
    let fleet = Fleet::new("file", Runtime::Small)?;
    let first = fleet.version("1")?;
    let bundle = fleet.publish(&fleet.version("2")?)?;
    Run::scoped(&fleet.host, "file", &first.raw, |run| {
        put_bundle_on_var(run, &bundle)?;
        let mut vm = run.boot(&looking_at("/var/update.json"))?;
        blessed(&vm, 0, "2")?;
        vm.power_down(POWER_OFF)?;
        ensure!(
            var_file(run, "/update.json")?.contains("\"version\""),
            "the bundle is gone"
        );
        Ok(())
    })
}

#[test]
fn a_broken_connection_is_resumed() -> Result<()> {
    use qemu_harness::file_server::Fault;
    let fleet = Fleet::new("resume", Runtime::Small)?;
    let first = fleet.version("1")?;
    let bundle = fleet.publish(&fleet.version("2")?)?;
    let server = fleet.serve()?;
    let root = bundle.manifest()?.root.name;
    server.fault(&root, Fault::CutOnce(300_000));
    Run::scoped(&fleet.host, "resume", &first.raw, |run| {
        let mut vm = run.boot(&fetching(&server))?;
        blessed(&vm, 0, "2")?;
        let asked = server.seen(&root);
        ensure!(
            asked
                .iter()
                .any(|request| request.from.is_some_and(|at| at > 0)),
            "it was not resumed: {asked:?}"
        );
        vm.power_down(POWER_OFF)
    })
}

#[test]
fn a_reboot_in_the_middle_of_a_trial_burns_no_try() -> Result<()> {
    let mut fleet = Fleet::new("reboot", Runtime::Small)?;
    let first = fleet.version("1")?;
    fleet.trial = "[update]\nprobation = \"25s\"\ntimeout = \"200s\"\n";
    fleet.publish(&fleet.version("2")?)?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, "reboot", &first.raw, |run| {
        let mut vm = run.boot(&fetching(&server))?;
        let trial = [("version", "2")];
        let installed = vm.wait(0, "update.installed", &trial, UPDATE)?;
        vm.wait(installed.index, "slot.trial", &trial, BOOT)?;
        // The API: the power button of a machine that is just healthy may be pressed too early.
        vm.wait_healthy(BOOT)?;
        vm.power_down(POWER_OFF)?;
        let entries = Esp::of(&fleet.host.tools, &run.disk())?.entries()?;
        ensure!(
            entries == ["astromesh-os_1.efi", "astromesh-os_2+0-0.efi"],
            "the ESP has {entries:?}"
        );
        let mut vm = run.boot(&fetching(&server))?;
        let again = [("version", "2"), ("entry", "astromesh-os_2+0-1.efi")];
        vm.wait(0, "slot.state", &again, BOOT)?;
        blessed(&vm, 0, "2")?;
        vm.power_down(POWER_OFF)
    })
}

/// An operator's words, said by services of the first version: nobody can log in.
const OPERATOR: &str = r#"
[service.ask]
exec = ["/usr/bin/initctl", "update", "/var/update.json"]
type = "oneshot"
after = ["astromeshd"]
restart = "on-failure"
[service.ask.backoff]
base = "500ms"
[service.ask.intensity]
restarts = 3
within = "60s"
then = "degraded"

[service.show]
exec = ["/usr/bin/initctl", "slots"]
type = "oneshot"
after = ["astromeshd"]
"#;

#[test]
fn initctl_installs_a_version_and_shows_why_it_is_bad() -> Result<()> {
    let fleet = Fleet::new("initctl", Runtime::Small)?;
    let first = fleet.version_with("1", OPERATOR)?;
    let options = Broken::RuntimeMissing.options(&fleet.host.paths, "2", Runtime::Small)?;
    let bundle = fleet.publish(&fleet.build(options)?)?;
    Run::scoped(&fleet.host, "initctl", &first.raw, |run| {
        put_bundle_on_var(run, &bundle)?;
        as_proved(run)?;
        let mut vm = run.boot(&asked())?;
        let installed = vm.wait(0, "update.installed", &[("version", "2")], UPDATE)?;
        // What each of them shows, on the console.
        let shown = |from: usize, who: &str, what: &str| {
            let deadline = std::time::Instant::now() + UPDATE;
            vm.serial().wait_line(from, deadline, what, |line| {
                line.text.starts_with(who) && line.text.contains(what)
            })
        };
        shown(0, "ask: ", "update.installed")?;
        let bad = vm.wait(installed.index, "slot.bad", &[("version", "2")], UPDATE)?;
        let why = "bad: service astromeshd used up its restarts";
        shown(bad.index, "show: ", why)?;
        vm.wait_healthy(BOOT)?;
        vm.power_down(POWER_OFF)
    })
}
