//! Power cuts over a machine's life: its first boot with a grown disk, a blessing, an update, a trial, and
//! another blessing, all on a disk that records what a cut could undo.
//!
//! A state of the recording is judged without a machine ([`judge`]), or booted ([`boot`]). A good
//! one starts a whole version, has no entry that would start a mixture, and its `/var` is clean after the
//! replay of its journal, with a record that is whole.

use crate::appliance::{BOOT, POWER_OFF};
use crate::fleet::{Fleet, UPDATE, blessed, fetching};
use anyhow::{Context, Result, bail, ensure};
use qemu_harness::bundle::Run;
use qemu_harness::gpt;
use qemu_harness::image::Image;
use qemu_harness::judge::{Expect, Judge, Known, VarCheck};
use qemu_harness::powercut::{Entry, Kind, Recorder, Recording, Replayer, State};
use qemu_harness::vm::{Vm, VmConfig};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So much larger is the disk than its image.
const GROWTH: u64 = 256 << 20;

/// Where the firmware's variables are kept as they were when the update was installed.
const ARMED: &str = "armed.fd";

/// A recorded life.
#[derive(Debug)]
pub struct Life {
    /// What was written.
    pub recording: Recording,
    /// Where the ESP lies on the disk, in bytes.
    pub esp: Range<u64>,
    /// The versions that the disk may hold.
    pub versions: [Image; 2],
    /// The firmware's variables when the second version was to start next.
    pub armed: PathBuf,
    /// Where the update began to write, by entries of the journal.
    pub update: usize,
    /// Where the second version was to start next.
    pub installed: usize,
}

/// Records a life.
///
/// # Errors
/// When the machine does not live it.
pub fn record(fleet: &Fleet, run: &mut Run, versions: [Image; 2]) -> Result<Life> {
    let [_, second] = &versions;
    fleet.publish(second)?;
    let server = fleet.serve()?;
    let disk = std::fs::File::options().write(true).open(run.disk())?;
    disk.set_len(disk.metadata()?.len() + GROWTH)?;
    let armed = run.dir().join(ARMED);
    let (mut vm, recorder) = run.boot_recorded(&fetching(&server))?;
    let lived = live(&vm, &recorder, || {
        std::fs::copy(run.variables(), &armed)
            .map(drop)
            .context("cannot keep the firmware's variables")
    });
    let ended = lived.and_then(|()| vm.power_down(POWER_OFF));
    vm.kill();
    let recording = recorder.finish()?;
    ended?;
    Life::of(fleet, recording, versions, run.dir())
}

fn live(vm: &Vm, recorder: &Recorder, armed: impl FnOnce() -> Result<()>) -> Result<()> {
    vm.wait(0, "var.grown", &[], BOOT)?;
    recorder.mark("grown")?;
    blessed(vm, 0, "1")?;
    recorder.mark("blessed 1")?;
    let update = vm.wait(0, "update.manifest", &[], BOOT)?;
    recorder.mark("update")?;
    let installed = vm.wait(update.index, "update.installed", &[], UPDATE)?;
    recorder.mark("installed")?;
    armed()?;
    vm.wait(installed.index, "slot.trial", &[("version", "2")], BOOT)?;
    recorder.mark("trial")?;
    blessed(vm, installed.index, "2")?;
    recorder.mark("blessed 2")?;
    // The API: the power button of a machine that is just healthy may be pressed too early.
    vm.wait_healthy(BOOT)?;
    recorder.mark("end")
}

impl Life {
    /// Opens a life that was recorded before, in the folder of a run that was kept.
    ///
    /// # Errors
    /// When the folder has none, or only a part.
    pub fn open(fleet: &Fleet, versions: [Image; 2], folder: &Path) -> Result<Self> {
        let recording = Recording::open(&folder.join("disk.raw"), &folder.join("boot-1"))?;
        Self::of(fleet, recording, versions, folder)
    }

    fn of(
        fleet: &Fleet,
        recording: Recording,
        versions: [Image; 2],
        folder: &Path,
    ) -> Result<Self> {
        let entry =
            |mark: &str| Ok::<_, anyhow::Error>(recording.journal.between(mark, "end")?.start);
        let partitions = gpt::partitions(&fleet.host.tools, &folder.join("disk.raw"))?;
        let esp = gpt::only(&partitions, "ESP", |p| p.name == "esp")?;
        Ok(Self {
            esp: esp.start..esp.start + esp.size,
            update: entry("update")?,
            installed: entry("installed")?,
            recording,
            versions,
            armed: folder.join(ARMED),
        })
    }

    /// Every state right after a flush or a write to a folder or table of the ESP, which has no journal, and `random` more
    /// out of `seed`, half of them during the update.
    ///
    /// # Errors
    /// When the recording has no such time.
    pub fn states(&self, seed: u64, random: usize) -> Result<Vec<State>> {
        let journal = &self.recording.journal;
        let focus = journal.between("update", "end")?;
        let mut states: Vec<State> = journal.flushes().collect();
        let entries = journal.entries().iter().enumerate();
        let folders = entries.filter(|(_, entry)| self.is_folder_of_esp(entry));
        states.extend(folders.map(|(index, _)| State {
            cut: index + 1,
            kind: Kind::Prefix,
            seed: 0,
        }));
        states.extend(journal.random(seed, random, &[focus]));
        states.sort_unstable();
        states.dedup();
        Ok(states)
    }

    /// Files are written in larger pieces.
    fn is_folder_of_esp(&self, entry: &Entry) -> bool {
        const LARGEST: u64 = 16 << 10;
        matches!(entry, Entry::Write { offset, len, .. } if self.esp.contains(offset) && *len <= LARGEST)
    }
}

impl Life {
    /// So many of these states to be booted: half of them those in which most was lost, the others spread
    /// over the whole life.
    ///
    /// # Errors
    /// When a state is of another recording.
    pub fn worst(&self, states: &[State], count: usize) -> Result<Vec<State>> {
        let journal = &self.recording.journal;
        let mut worst: Vec<(usize, State)> = states
            .iter()
            .filter(|state| state.kind != Kind::Flushed)
            .map(|state| Ok((state.survivors(journal)?.lost, *state)))
            .collect::<Result<_>>()?;
        worst.sort_by_key(|(lost, state)| (std::cmp::Reverse(*lost), *state));
        let half = count / 2;
        let mut chosen: Vec<State> = worst.iter().take(half).map(|(_, state)| *state).collect();
        let rest: Vec<State> = states
            .iter()
            .filter(|state| !chosen.contains(state))
            .copied()
            .collect();
        let step = (rest.len() / (count - half).max(1)).max(1);
        chosen.extend(rest.into_iter().step_by(step).take(count - half));
        Ok(chosen)
    }
}

/// What the judge found of many states.
#[derive(Debug, Default)]
pub struct Tally {
    /// States by the version that starts.
    pub boots: BTreeMap<String, usize>,
    /// States that are wrong, and how.
    pub wrong: Vec<String>,
    /// States with an entry for the other version that is whole.
    pub alternatives: usize,
}

/// What a file holds, if anything was written to it: init reserves its files full of newlines.
fn written(bytes: Option<&[u8]>) -> Option<&[u8]> {
    bytes.filter(|bytes| bytes.is_empty() || bytes.iter().any(|byte| *byte != b'\n'))
}

/// Judges these states, which are in the order of their cuts.
///
/// # Errors
/// When the judge cannot work; a wrong state is in the tally.
pub fn judge(fleet: &Fleet, life: &Life, states: &[State], scratch: &Path) -> Result<Tally> {
    let known: Vec<Known> = life.versions.iter().map(Known::of).collect::<Result<_>>()?;
    let judge = Judge::new(&known)?;
    let mut replayer = Replayer::new(&life.recording);
    let mut tally = Tally::default();
    let whole_record = |bytes: Option<&[u8]>| match written(bytes)
        .map(serde_json::from_slice::<serde_json::Value>)
    {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(e)) => Err(format!("is no JSON: {e}")),
    };
    let machine_id = |bytes: Option<&[u8]>| match written(bytes).map(<[u8]>::trim_ascii) {
        Some(id) if id.len() != 32 => Err(format!("is no machine id: {id:?}")),
        None | Some(_) => Ok(()),
    };
    let expect = [
        Expect {
            path: "lib/astromesh-init/slots.json",
            holds: &whole_record,
        },
        Expect {
            path: "lib/astromesh-init/machine-id",
            holds: &machine_id,
        },
    ];
    let var = VarCheck::Replay {
        scratch,
        expect: &expect,
    };
    for state in states {
        let view = replayer.view(state)?;
        let verdict = judge
            .judge(&view, None, &fleet.host.tools, var)
            .with_context(|| format!("state {state}"))?;
        let mut wrong = verdict.complaints.clone();
        for other in &verdict.alternatives {
            match other.whole {
                true => tally.alternatives += 1,
                // Such as the new name of a rename that was cut.
                false if !other.listed => {}
                // LoaderEntryOneShot may name it.
                false => wrong.push(format!(
                    "the entry {} would not boot: {}",
                    other.entry, other.why
                )),
            }
        }
        if wrong.is_empty() {
            let version = verdict.boots.context("no complaint, and nothing boots")?;
            *tally.boots.entry(version).or_default() += 1;
        } else {
            let told = state.describe(&life.recording.journal)?;
            tally.wrong.push(format!("{told}: {}", wrong.join("; ")));
        }
    }
    Ok(tally)
}

/// Boots the disk of a state to health, in a machine that has the firmware's variables of that time.
///
/// # Errors
/// When it does not become healthy, with the evidence kept.
pub fn boot(fleet: &Fleet, life: &Life, state: &State) -> Result<Duration> {
    let name = format!("cut-{}", state.cut);
    let disk = fleet
        .host
        .paths
        .out
        .join(format!("{name}-{:x}.raw", state.seed));
    let view = life.recording.view(state)?;
    view.materialise_all(&disk)?;
    let booted = Run::scoped(&fleet.host, &name, &disk, |run| {
        if state.cut >= life.installed {
            std::fs::copy(&life.armed, run.variables())?;
        }
        let config = VmConfig {
            reboots: true,
            watchdog: true,
            ..VmConfig::default()
        };
        let mut vm = run.boot(&config)?;
        let healthy = vm.wait(0, "boot.healthy", &[], UPDATE)?;
        vm.wait_healthy(BOOT)?;
        let told = vm.serial().events(0);
        if let Some(event) = told.iter().find(|event| event.name == "boot.degraded") {
            bail!("it is healthy, but {event}");
        }
        vm.kill();
        Ok(healthy.at)
    })
    .with_context(|| format!("{state}"));
    let _ = std::fs::remove_file(&disk);
    booted
}

/// Fails if a state is wrong, with the first ones told.
///
/// # Errors
/// See above.
pub fn all_good(tally: &Tally) -> Result<()> {
    let first: Vec<&str> = tally.wrong.iter().take(5).map(String::as_str).collect();
    ensure!(
        tally.wrong.is_empty(),
        "{} states are wrong, such as:\n{}",
        tally.wrong.len(),
        first.join("\n")
    );
    Ok(())
}
