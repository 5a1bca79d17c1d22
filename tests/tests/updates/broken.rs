//! Versions that do not work, each validly signed: the machine tries them, and is healthy on the
//! old version again by itself, with the reason told and kept.
//!
//! Several of them follow each other in the life of one machine: the next is published when the one before has
//! come to nothing, and the reset button has the machine look.

use crate::gates::{rolled_back, with_words};
use anyhow::{Context, Result, ensure};
use appliance_tests::appliance::{BOOT, POWER_OFF};
use appliance_tests::fleet::{
    Fleet, HOPELESS, QUICK, UPDATE, as_proved, asked, put_bundle_on_var, var_file,
};
use qemu_harness::broken::Broken;
use qemu_harness::bundle::Run;
use qemu_harness::damage;
use qemu_harness::file_server::FileServer;
use qemu_harness::image::Image;
use qemu_harness::image_options::Runtime;
use qemu_harness::serial::SerialLine;
use qemu_harness::vm::{Vm, VmConfig};

/// How often a version is tried that ends without a verdict: the default of `update.tries`.
const TRIES: usize = 2;

/// The other try is one boot of each version more. What is left out of it here is seen where [`TRIES`] are made.
const ONE_TRY: &str = "tries = 1\n";

/// What a version comes to.
#[derive(Clone, Copy)]
enum End {
    /// It says itself what is wrong, in its first boot.
    Bad,
    /// The old version finds it after its tries. So often its kernel has started.
    Fallback(usize),
}

impl End {
    fn event(self) -> &'static str {
        match self {
            Self::Bad => "slot.bad",
            Self::Fallback(_) => "slot.fallback",
        }
    }

    /// How often its kernel starts.
    fn starts(self) -> usize {
        match self {
            Self::Bad => 1,
            Self::Fallback(starts) => starts,
        }
    }
}

/// A version, what it comes to, and the words of the reason.
type Case = (Broken, End, &'static str);

/// What the old version says of one whose init never came to the system stage.
const NEVER_REACHED: &str =
    "never reached the system stage: it could not be loaded, panicked, hung, or found no root";

/// What a machine found to be bad.
struct Verdict {
    version: String,
    roothash: String,
    reason: String,
}

/// The machine is given each of these versions in turn, from 2 on. `settings` are its own, of the section `[update]`; `check`
/// looks at what it told about the first.
fn goes_back_from(
    name: &str,
    settings: &str,
    cases: &[Case],
    check: impl FnOnce(&Vm) -> Result<()>,
) -> Result<()> {
    let mut fleet = Fleet::new(name, Runtime::Small)?;
    let first = fleet.version_with("1", settings)?;
    let mut images = Vec::new();
    for ((broken, ..), version) in cases.iter().zip(2..) {
        fleet.trial = match broken {
            // Longer than its health lasts, as a probation has to be.
            Broken::HealthFlapping => "[update]\nprobation = \"15s\"\ntimeout = \"120s\"\n",
            Broken::HealthDead => HOPELESS,
            _ => QUICK,
        };
        let version = version.to_string();
        let options = broken.options(&fleet.host.paths, &version, Runtime::Small)?;
        images.push(fleet.build(options)?);
    }
    let (image, later) = images.split_first().context("no case")?;
    fleet.publish(image)?;
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, name, &first.raw, |run| {
        let mut vm = run.boot(&watched(&server))?;
        let mut verdicts = vec![goes_back(&vm, 0, image, cases[0])?];
        check(&vm)?;
        for (case, image) in cases[1..].iter().zip(later) {
            fleet.publish(image)?;
            let from = vm.serial().mark();
            vm.reset()?;
            verdicts.push(goes_back(&vm, from, image, *case)?);
        }
        vm.power_down(POWER_OFF)?;
        for image in &images {
            is_fetched_once(&server, image)?;
        }
        are_recorded(run, &verdicts)
    })
}

/// A machine that fetches, whose kernel tells each start with its command line, and so its root hash; with the lines of
/// the earlier userland.
fn watched(server: &FileServer) -> VmConfig {
    with_words(server, "astromesh.markers loglevel=6")
}

/// What is known to be bad is not fetched again.
fn is_fetched_once(server: &FileServer, image: &Image) -> Result<()> {
    let name = image.root.file_name().and_then(|name| name.to_str());
    let mut asked = server.seen(name.context("a root has a name")?);
    asked.retain(|request| request.method == "GET");
    ensure!(asked.len() == 1, "the root was fetched by {asked:?}");
    Ok(())
}

/// The machine installs this version, and comes back from it.
fn goes_back(vm: &Vm, from: usize, image: &Image, (_, end, word): Case) -> Result<Verdict> {
    let version = [("version", image.version.as_str())];
    let installed = vm.wait(from, "update.installed", &version, UPDATE)?;
    comes_back(vm, installed.index, image, end, word)
}

/// The machine tries this version, is healthy on version 1 again, and refuses what it knows to be bad.
fn comes_back(vm: &Vm, from: usize, image: &Image, end: End, word: &str) -> Result<Verdict> {
    let version = [("version", image.version.as_str())];
    let told = vm.wait(from, end.event(), &version, UPDATE)?;
    let reason = told.event.get("reason").context("no reason")?;
    eprintln!("{}: {reason}", image.version);
    ensure!(
        reason.contains(word),
        "the reason is not {word}: {}",
        told.event
    );
    let refused = vm.wait(told.index, "update.refused", &version, UPDATE)?;
    let why = refused.event.get("reason").unwrap_or_default();
    ensure!(
        why.contains("is bad") && why.contains(reason),
        "it was refused for another reason: {why}"
    );
    vm.wait_healthy(BOOT)?;
    let events = vm.serial().events(from);
    let mut states = events.iter().filter(|event| event.name == "slot.state");
    let last = states.next_back().context("no version runs")?;
    ensure!(last.get("version") == Some("1"), "at the end runs {last}");
    let starts = kernel_starts(vm, from, &image.roothash);
    ensure!(
        starts == end.starts(),
        "its kernel started {starts} times, not {}",
        end.starts()
    );
    Ok(Verdict {
        version: image.version.clone(),
        roothash: image.roothash.clone(),
        reason: reason.to_owned(),
    })
}

/// How often a kernel with this root hash on its command line has started. It tells that, twice, before anything of the
/// version runs. On a busy host the emulated serial port loses bytes of these first lines, so either end of the hash will do.
fn kernel_starts(vm: &Vm, from: usize, roothash: &str) -> usize {
    let (begin, end) = roothash.split_at(roothash.len() / 2);
    let lines = vm.serial().lines(from);
    let starts = lines.split(|line| line.text.starts_with("EFI stub: "));
    let is_its_own = |line: &SerialLine| {
        let is_kernel = line.text.starts_with('[');
        is_kernel && (line.text.contains(begin) || line.text.contains(end))
    };
    starts.filter(|lines| lines.iter().any(is_its_own)).count()
}

/// What was told is in the record of the machine, which is off: each version is bad, for its reason.
fn are_recorded(run: &Run, verdicts: &[Verdict]) -> Result<()> {
    let text = var_file(run, "/lib/astromesh-init/slots.json")?;
    let record: serde_json::Value = serde_json::from_str(text.trim())?;
    let trials = record["trials"].as_array().context("no trials")?;
    for Verdict {
        version,
        roothash,
        reason,
    } in verdicts
    {
        let of_version = trials.iter().find(|trial| trial["version"] == **version);
        let trial = of_version.with_context(|| format!("no version {version} in {text}"))?;
        ensure!(
            trial["verdict"] == "bad"
                && trial["reason"] == **reason
                && trial["roothash"] == **roothash,
            "not bad because {reason}: {trial}"
        );
    }
    Ok(())
}

#[test]
fn its_initramfs_panics_or_hangs_or_finds_no_root() -> Result<()> {
    let end = End::Fallback(1);
    let cases = [
        (Broken::PanicInitramfs, end, NEVER_REACHED),
        (Broken::HangInitramfs, end, NEVER_REACHED),
        (Broken::RootMissing, end, NEVER_REACHED),
    ];
    goes_back_from("initramfs-broken", ONE_TRY, &cases, |_| Ok(()))
}

#[test]
fn it_panics_or_hangs_or_its_netcfg_crashes_over_and_over() -> Result<()> {
    let end = End::Fallback(TRIES);
    let cases = [
        (Broken::Panic, end, NEVER_REACHED),
        (Broken::Hang, end, NEVER_REACHED),
        (
            Broken::NetcfgCrashLoop,
            End::Bad,
            "service netcfg was restarted",
        ),
    ];
    goes_back_from("system-broken", "", &cases, |_| Ok(()))
}

#[test]
fn it_is_never_healthy_or_its_health_comes_and_goes() -> Result<()> {
    let cases = [
        (
            Broken::HealthDead,
            End::Bad,
            "not healthy within 20 s of the boot",
        ),
        (
            Broken::HealthFlapping,
            End::Bad,
            "health did not last: 3 setbacks",
        ),
    ];
    goes_back_from("health-broken", "", &cases, rolled_back)
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
fn it_has_no_runtime_and_initctl_installs_it_and_shows_why_it_is_bad() -> Result<()> {
    let fleet = Fleet::new("initctl", Runtime::Small)?;
    let first = fleet.version_with("1", OPERATOR)?;
    let options = Broken::RuntimeMissing.options(&fleet.host.paths, "2", Runtime::Small)?;
    let second = fleet.build(options)?;
    let bundle = fleet.publish(&second)?;
    Run::scoped(&fleet.host, "initctl", &first.raw, |run| {
        put_bundle_on_var(run, &bundle)?;
        as_proved(run, &first)?;
        let mut vm = run.boot(&asked().kernel_argument("loglevel=6"))?;
        let why = "service astromeshd used up its restarts";
        let verdict = goes_back(&vm, 0, &second, (Broken::RuntimeMissing, End::Bad, why))?;
        // What each of them shows, on the console.
        let shown = |from: usize, who: &str, what: &str| {
            let deadline = std::time::Instant::now() + UPDATE;
            vm.serial().wait_line(from, deadline, what, |line| {
                line.text.starts_with(who) && line.text.contains(what)
            })
        };
        let (installed, _) = shown(0, "ask: ", "update.installed")?;
        shown(installed, "show: ", &format!("bad: {why}"))?;
        vm.power_down(POWER_OFF)?;
        are_recorded(run, &[verdict])
    })
}

/// What rots of a version on the disk between the update and the trial.
type Damage = fn(&Fleet, &Run, &Image) -> Result<()>;

/// With how often the kernel starts all the same, the firmware does not load a UKI that is cut off, and with the reason.
const ROTS: [(Damage, usize, &str); 3] = [
    (
        |fleet, run, image| {
            let tools = &fleet.host.tools;
            damage::truncate_installed_uki(tools, &run.disk(), &image.version, 5 << 20)
        },
        0,
        "its UKI on the ESP is damaged",
    ),
    (
        |fleet, run, image| {
            damage::flip_root(&fleet.host.tools, &run.disk(), &image.roothash, 1024)
        },
        1,
        NEVER_REACHED,
    ),
    (
        |fleet, run, image| {
            damage::flip_verity(&fleet.host.tools, &run.disk(), &image.roothash, 4096 + 17)
        },
        1,
        NEVER_REACHED,
    ),
];

#[test]
fn its_uki_is_cut_off_or_its_root_or_its_hash_tree_rots() -> Result<()> {
    let fleet = Fleet::new("rots", Runtime::Small)?;
    let first = fleet.version_with("1", ONE_TRY)?;
    let versions = ["2", "3", "4"].map(|version| fleet.version(version));
    let server = fleet.serve()?;
    Run::scoped(&fleet.host, "rots", &first.raw, |run| {
        let mut verdicts = Vec::new();
        for ((damage, starts, word), image) in ROTS.into_iter().zip(versions) {
            let image = image?;
            fleet.publish(&image)?;
            let mut config = watched(&server);
            // The reboot into the new version ends QEMU, so that its disk can be changed.
            config.reboots = false;
            let mut vm = run.boot(&config)?;
            let version = [("version", image.version.as_str())];
            vm.wait(0, "update.installed", &version, UPDATE)?;
            vm.wait_end(POWER_OFF)?;
            damage(&fleet, run, &image)?;
            let mut vm = run.boot(&watched(&server))?;
            let end = End::Fallback(starts);
            verdicts.push(comes_back(&vm, 0, &image, end, word)?);
            vm.power_down(POWER_OFF)?;
            is_fetched_once(&server, &image)?;
        }
        are_recorded(run, &verdicts)
    })
}
