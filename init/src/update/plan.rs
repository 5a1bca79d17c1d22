//! Whether a version is installed, and in which order: pure.
//!
//! The order is the whole safety of an update. At every moment the disk is one of these, whatever of
//! the next step has reached it:
//!
//! - [`Step::ProveRecord`]: as before; a `/var` that is full or broken is found out here;
//! - [`Step::Disarm`] to [`Step::Remove`]: the other slot loses its entry, and is then known to be worthless;
//! - [`Step::WriteRoot`] to [`Step::Label`]: it is filled, proven, and called by its roothash. No entry is for it;
//! - [`Step::Stage`], [`Step::ReadBack`]: the UKI is on the ESP under a name that the loader takes for no entry;
//! - [`Step::Publish`]: from here on there is an entry, for a slot that is whole. Its counter `+0-0` has it sorted last,
//!   so it starts nothing by itself;
//! - [`Step::Record`], [`Step::Arm`]: the next boot tries it, once.
//!
//! The running slot and its entry are in none of them.

use super::End;
use super::manifest::Manifest;
use crate::slots::{EntryName, Found, Tries, Uki, version};
use std::cmp::Ordering;

/// Room on the ESP that a UKI takes beyond its size: clusters and the folder.
const ESP_SLACK: u64 = 128 * 1024;

/// The oldest systemd-boot that is known to find an entry with a counter by its id without it, as `LoaderEntryOneShot`
/// names it. 252 is known not to: the trial never starts, and the version is then taken for one that does not boot.
const LOADER_MIN: u32 = 257;

/// What is known of the machine.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What runs.
    pub running: &'a Uki,
    /// The processors of this machine, as systemd names them.
    pub architecture: &'a str,
    /// The highest version that was ever good here.
    pub floor: String,
    /// Why the manifest's version is known to be bad, if it is.
    pub bad: Option<String>,
    /// Size of the other slot's root.
    pub root_size: u64,
    /// Size of its hash tree.
    pub verity_size: u64,
    /// Whether the other slot is labelled with the manifest's roothash.
    pub labelled: bool,
    /// Free bytes of the ESP, what an interrupted update left there included.
    pub esp_free: u64,
    /// Whether an interrupted update left anything there.
    pub leftovers: bool,
    /// The entries.
    pub found: &'a [Found],
    /// What is to be said if the ESP has more entries than these: one of them may be for the other slot.
    pub surplus: Option<String>,
    /// Those that must go before the other slot is overwritten, or why it must not be.
    pub removals: Result<Vec<EntryName>, String>,
    /// The entry that the next boot starts once, by its id.
    pub one_shot: Option<String>,
    /// The boot loader and its version, if it told.
    pub loader: Option<String>,
}

/// A step of an installation; what it wrote is on the disk when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is known that the installation can be recorded; nothing is changed before.
    ProveRecord,
    /// The next boot is to be an ordinary one.
    Disarm,
    /// What an interrupted update left on the ESP is removed.
    Sweep,
    /// An entry of the slot that is overwritten, or of none, is removed.
    Remove(EntryName),
    /// The root is fetched into its partition.
    WriteRoot,
    /// The hash tree is fetched into its partition.
    WriteVerity,
    /// Both are read back and proven.
    Prove,
    /// The partitions get the roothash for GUIDs.
    Label,
    /// The UKI is written under a temporary name.
    Stage,
    /// It is read back from the device and compared.
    ReadBack,
    /// It gets its name.
    Publish,
    /// It is recorded that the version is installed.
    Record,
    /// The next boot is to try it.
    Arm,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The entry that there will be.
    pub entry: EntryName,
    /// In this order.
    pub steps: Vec<Step>,
}

/// The name under which a version is installed.
#[must_use]
pub fn entry(manifest: &Manifest) -> EntryName {
    EntryName {
        stem: format!("{}_{}", manifest.image, manifest.version),
        tries: Some(Tries { left: 0, done: 0 }),
    }
}

/// Decides.
///
/// # Errors
/// Why nothing is installed.
pub fn decide(manifest: &Manifest, facts: &Facts<'_>) -> Result<Plan, End> {
    fits(manifest, facts)?;
    let refuse = |why: String| Err(End::Refused(why));
    let removals = facts.removals.clone().map_err(End::Refused)?;
    if let Some(surplus) = &facts.surplus {
        return refuse(surplus.clone());
    }
    if let Some(old) = facts.loader.as_deref().filter(|loader| is_old(loader)) {
        return refuse(format!(
            "the boot loader is {old}, with which no trial starts: put systemd-boot {LOADER_MIN} or newer onto the ESP"
        ));
    }
    let entry = entry(manifest);
    let armed = facts.one_shot.as_deref();
    let this = |found: &&Found| {
        let same = |uki: &Uki| uki.version == manifest.version && uki.roothash == manifest.roothash;
        found.uki.as_ref().is_ok_and(same)
    };
    let waiting = facts.found.iter().filter(this);
    let mut waiting = waiting.filter(|found| armed == Some(found.name.id().as_str()));
    if let Some(found) = waiting.next().filter(|_| facts.labelled) {
        return refuse(format!(
            "version {} is installed already as {}, and the next boot tries it: reboot",
            manifest.version, found.name
        ));
    }
    let stays = |found: &&Found| !removals.contains(&found.name);
    let stem = entry.stem.to_ascii_lowercase();
    let in_the_way = |found: &&Found| found.name.stem.to_ascii_lowercase() == stem;
    if let Some(found) = facts.found.iter().filter(stays).find(in_the_way) {
        return refuse(format!(
            "the entry {} has the name of version {} and must not be removed: reboot, or remove it by hand",
            found.name, manifest.version
        ));
    }
    let freed: u64 = facts
        .found
        .iter()
        .filter(|found| removals.contains(&found.name))
        .map(|found| found.bytes)
        .sum();
    let room = facts.esp_free.saturating_add(freed);
    let needed = manifest.uki.size.saturating_add(ESP_SLACK);
    if room < needed {
        return refuse(format!(
            "the ESP has room for {room} bytes, and the UKI needs {needed}: remove what is not needed from it"
        ));
    }
    let disarm = armed
        .is_some_and(|id| id == entry.id() || removals.iter().any(|removal| removal.id() == id));
    let mut steps = vec![Step::ProveRecord];
    steps.extend(disarm.then_some(Step::Disarm));
    steps.extend(facts.leftovers.then_some(Step::Sweep));
    steps.extend(removals.into_iter().map(Step::Remove));
    steps.extend([
        Step::WriteRoot,
        Step::WriteVerity,
        Step::Prove,
        Step::Label,
        Step::Stage,
        Step::ReadBack,
        Step::Publish,
        Step::Record,
        Step::Arm,
    ]);
    Ok(Plan { entry, steps })
}

/// Whether this loader is known, and too old. Another one than systemd-boot is not judged.
fn is_old(loader: &str) -> bool {
    let version = loader.strip_prefix("systemd-boot ");
    let digits = version.and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next());
    let number = digits.and_then(|digits| digits.parse::<u32>().ok());
    number.is_some_and(|number| number < LOADER_MIN)
}

/// Whether the version is for this machine, newer than all that was good on it, and fits its slots.
fn fits(manifest: &Manifest, facts: &Facts<'_>) -> Result<(), End> {
    let refuse = |why: String| Err(End::Refused(why));
    let running = &facts.running.version;
    let offered = &manifest.version;
    if manifest.image != facts.running.image {
        return refuse(format!(
            "the image is {}, and this machine runs {}",
            manifest.image, facts.running.image
        ));
    }
    if manifest.architecture != facts.architecture {
        return refuse(format!(
            "the architecture is {}, and this machine is {}",
            manifest.architecture, facts.architecture
        ));
    }
    match version::compare(offered, running) {
        Ordering::Equal if manifest.roothash == facts.running.roothash => {
            return Err(End::Nothing(format!("version {offered} runs already")));
        }
        Ordering::Equal => {
            return refuse(format!(
                "version {offered} runs already, but with another root: a version that was published must not change"
            ));
        }
        Ordering::Less => {
            return refuse(format!(
                "version {offered} is older than {running}, which runs"
            ));
        }
        Ordering::Greater => {}
    }
    if let Some(reason) = &facts.bad {
        return refuse(format!(
            "version {offered} was tried on this machine and is bad: {reason}"
        ));
    }
    if version::compare(offered, &facts.floor) != Ordering::Greater {
        return refuse(format!(
            "version {offered} is not newer than {}, the newest version that was healthy on this machine; publish a higher version, or \
             have `initctl bless` keep the running one if that never was",
            facts.floor
        ));
    }
    if manifest.roothash == facts.running.roothash {
        return refuse("it has the root that runs: the version of the image was not raised".into());
    }
    for (what, size, room) in [
        ("root", manifest.root.size, facts.root_size),
        ("hash tree", manifest.verity.size, facts.verity_size),
    ] {
        if size > room {
            return refuse(format!(
                "the {what} has {size} bytes, and the slot on this disk has {room} for it"
            ));
        }
    }
    Ok(())
}

/// Whether what the UKI says of itself is what the manifest says.
///
/// # Errors
/// What differs.
pub fn agrees(manifest: &Manifest, uki: &Uki) -> Result<(), End> {
    let same = [
        ("image", uki.image == manifest.image),
        ("version", uki.version == manifest.version),
        ("roothash", uki.roothash == manifest.roothash),
    ];
    match same.iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((what, _)) => Err(End::Refused(format!(
            "{}: the UKI has another {what} than the manifest: they are not of one build",
            manifest.uki.name
        ))),
    }
}

#[cfg(test)]
mod tests;
