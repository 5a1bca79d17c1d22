//! What the slots are, and what is to be done next: pure, from what was read.
//!
//! The entry that runs is the one that the loader named *and* whose roothash is the running one. A kernel
//! that was started in another way (kexec, a direct boot) has variables of an earlier boot or none; then no
//! entry runs, nothing is blessed and no trial is begun.
//!
//! **A trial** is: the running entry has a counter. It ends with a verdict, or with a boot of the old version, which finds
//! the trial in the other slot. An attempt is a boot that the loader counted (`DONE`), or one that was armed: the
//! latter bounds the attempts where the firmware loses the variable and the loader never counts.
//!
//! **What may be removed** is asked twice. [`stale`] are entries that start nothing on this disk. [`before_install`] are
//! those that would start the slot that is about to be overwritten, whole or in parts. Neither ever has the
//! running entry, the last good one, or the one that the loader counted in this boot.

use super::efivar::BootVariables;
use super::esp::Found;
use super::layout::{Layout, Slot};
use super::name::EntryName;
use super::record::{Record, Verdict};
use super::uki::Uki;
use serde::{Deserialize, Serialize};

/// All that is known.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The running version and its roothash.
    pub running: &'a Uki,
    /// The entries on the ESP.
    pub found: &'a [Found],
    /// The slots on the disk.
    pub layout: &'a Layout,
    /// What the loader said.
    pub variables: &'a BootVariables,
    /// What is remembered.
    pub record: &'a Record,
    /// Attempts that a trial has.
    pub tries: u32,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct View {
    /// The slot that runs.
    pub running: SlotView,
    /// The other one.
    pub other: SlotView,
    /// If the running version is on trial: its entry.
    pub trial: Option<Trial>,
    /// The entry that the loader starts if the running one is no more: of the other slot, with no count or
    /// with tries left, and without a bad verdict.
    pub fallback: Option<EntryName>,
    /// What is to be done.
    pub next: Next,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SlotView {
    /// `a` or `b`.
    pub slot: char,
    /// How it stands.
    pub state: State,
    /// Its version, if an entry starts it.
    pub version: Option<String>,
    /// The entry that starts it.
    pub entry: Option<EntryName>,
    /// Why it is bad or incomplete.
    pub reason: Option<String>,
}

/// How a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It runs, and it is not on trial.
    Running,
    /// It would start and was good.
    Good,
    /// It has a counter and no verdict.
    Trial,
    /// It is not to be started.
    Bad,
    /// An entry is there for one of its two partitions only.
    Incomplete,
    /// No entry starts it: nothing was ever installed, or an installation was cut short.
    Empty,
}

/// The entry of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trial {
    /// Its name before this boot, to which it returns if the boot is not to count.
    pub before: EntryName,
    /// Its name now.
    pub now: EntryName,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// Nothing.
    Nothing,
    /// The running version is on trial.
    Trial,
    /// The other slot's trial came to nothing and has attempts left: this entry is to be armed.
    Retry(EntryName),
    /// The other slot's trial came to nothing and is over: it is bad.
    FellBack {
        /// Its version.
        version: String,
        /// What is inferred.
        reason: String,
    },
}

/// Judges.
#[must_use]
pub fn judge(facts: &Facts<'_>) -> View {
    let running = running_entry(facts);
    let trial = running.and_then(|found| trial(facts, &found.name));
    let other = other_slot(facts);
    let next = if trial.is_some() {
        Next::Trial
    } else {
        next(facts, running, &other)
    };
    View {
        running: running_slot(facts, running, trial.is_some()),
        fallback: fallback(facts),
        other,
        trial,
        next,
    }
}

/// Entries that start nothing on this disk and may be removed.
#[must_use]
pub fn stale(facts: &Facts<'_>) -> Vec<EntryName> {
    let layout = facts.layout;
    let starts_nothing = |uki: &Uki| {
        uki.image == facts.running.image
            && !layout.running.touches(&uki.roothash)
            && !layout.other.touches(&uki.roothash)
    };
    let is_stale = |found: &&Found| found.uki.as_ref().is_ok_and(starts_nothing);
    let (stale, kept): (Vec<&Found>, Vec<&Found>) =
        facts.found.iter().partition(|found| is_stale(found));
    let good_is_kept = kept.iter().any(|f| f.name.is_good() && f.uki.is_ok());
    stale
        .into_iter()
        .map(|found| &found.name)
        .filter(|name| !named(facts, name) && (good_is_kept || !name.is_good()))
        .cloned()
        .collect()
}

/// Entries that must go before the other slot is overwritten.
///
/// # Errors
/// Why it must not be overwritten now: there would be nothing to fall back to.
pub fn before_install(facts: &Facts<'_>) -> Result<Vec<EntryName>, String> {
    let version = &facts.running.version;
    let Some(running) = running_entry(facts) else {
        return Err(format!(
            "no entry on the ESP is known to start the running version {version}: boot it through the boot loader first"
        ));
    };
    if let Some(reason) = facts.record.is_bad(version) {
        return Err(format!(
            "the running version {version} is marked bad ({reason}), and the other slot is its fallback: reboot first"
        ));
    }
    if !running.name.is_good() {
        return Err(format!(
            "the running version {version} is on trial ({}), and the other slot is its fallback: wait until it is blessed",
            running.name
        ));
    }
    let doomed = |found: &&Found| match &found.uki {
        Ok(uki) => {
            facts.layout.other.touches(&uki.roothash) && uki.roothash != facts.running.roothash
        }
        // What it would start cannot be told, and it is ours by its name.
        Err(_) => found
            .name
            .stem
            .starts_with(&format!("{}_", facts.running.image)),
    };
    let doomed = facts.found.iter().filter(doomed).map(|found| &found.name);
    let doomed: Vec<EntryName> = doomed
        .filter(|name| **name != running.name)
        .cloned()
        .collect();
    match doomed.iter().find(|name| counted(facts, name)) {
        Some(name) => Err(format!(
            "the boot loader counted this boot for {name}, which starts the other slot: reboot first"
        )),
        None => Ok(doomed),
    }
}

/// The entry that this boot came from.
fn running_entry<'a>(facts: &Facts<'a>) -> Option<&'a Found> {
    let same = |found: &&Found| is(found, &facts.running.roothash);
    let candidates: Vec<&Found> = facts.found.iter().filter(same).collect();
    let by = |name: &EntryName| candidates.iter().find(|found| found.name == *name);
    let loader = loader_named(facts)?;
    // Within this boot it may have been blessed, or returned to its name before: then the variables still say
    // what it was called.
    let stem = || {
        candidates
            .iter()
            .find(|found| found.name.stem == loader.stem)
    };
    by(&loader)
        .or_else(|| by(&loader.good()))
        .or_else(stem)
        .copied()
}

/// What the loader called the entry, as it is after counting.
fn loader_named(facts: &Facts<'_>) -> Option<EntryName> {
    let variables = facts.variables;
    let counted = variables.count_path.as_deref();
    EntryName::parse(counted.or(variables.stub_image.as_deref())?)
}

/// Whether the loader named this entry as the one of this boot.
fn named(facts: &Facts<'_>, name: &EntryName) -> bool {
    let said = [&facts.variables.count_path, &facts.variables.stub_image];
    said.into_iter()
        .flatten()
        .any(|file| EntryName::parse(file).as_ref() == Some(name))
}

/// Whether the loader counted this boot for this entry.
fn counted(facts: &Facts<'_>, name: &EntryName) -> bool {
    let said = facts.variables.count_path.as_deref();
    said.and_then(EntryName::parse).as_ref() == Some(name)
}

/// The running entry as a trial, if it is one.
fn trial(facts: &Facts<'_>, now: &EntryName) -> Option<Trial> {
    let tries = now.tries?;
    if !named(facts, now) || facts.record.is_bad(&facts.running.version).is_some() {
        return None;
    }
    // The id of the selected entry is its name before the loader counted, in lower case.
    let selected = facts.variables.selected.as_deref();
    let before = selected
        .and_then(EntryName::parse)
        .filter(|before| before.stem == now.stem.to_ascii_lowercase())
        .and_then(|before| before.tries)
        .map(|before| now.with(before.left, before.done));
    let inferred = || match tries.done.checked_sub(1) {
        // `+0-N` came of `+0-M` or `+1-M`; the former never starts by itself.
        Some(done) => now.with(tries.left.saturating_add(u32::from(tries.left > 0)), done),
        None => now.clone(),
    };
    Some(Trial {
        before: before.unwrap_or_else(inferred),
        now: now.clone(),
    })
}

fn is(found: &Found, roothash: &[u8; 32]) -> bool {
    found
        .uki
        .as_ref()
        .is_ok_and(|uki| uki.roothash == *roothash)
}

fn running_slot(facts: &Facts<'_>, entry: Option<&Found>, on_trial: bool) -> SlotView {
    let reason = facts.record.is_bad(&facts.running.version);
    SlotView {
        slot: facts.layout.running.letter,
        state: match reason {
            _ if on_trial => State::Trial,
            Some(_) => State::Bad,
            None => State::Running,
        },
        version: Some(facts.running.version.clone()),
        entry: entry.map(|found| found.name.clone()),
        reason: reason.map(str::to_owned),
    }
}

/// The entries of a slot, the one that counts first: a good one, then the one with the most tries left.
fn entries<'a>(facts: &Facts<'a>, slot: &Slot) -> Vec<(&'a EntryName, &'a Uki)> {
    let pair = |found: &'a Found| Some((&found.name, found.uki.as_ref().ok()?));
    let mut entries: Vec<_> = facts
        .found
        .iter()
        .filter_map(pair)
        .filter(|(_, uki)| slot.holds(&uki.roothash))
        .collect();
    entries.sort_by_key(|(name, _)| {
        let tries = name
            .tries
            .map(|t| (std::cmp::Reverse(t.left), std::cmp::Reverse(t.done)));
        (tries.is_some(), tries)
    });
    entries
}

fn other_slot(facts: &Facts<'_>) -> SlotView {
    let slot = &facts.layout.other;
    let view = |state, entry: Option<(&EntryName, &Uki)>, reason: Option<&str>| SlotView {
        slot: slot.letter,
        state,
        version: entry.map(|(_, uki)| uki.version.clone()),
        entry: entry.map(|(name, _)| name.clone()),
        reason: reason.map(str::to_owned),
    };
    let Some((name, uki)) = entries(facts, slot).first().copied() else {
        let half = facts.found.iter().find_map(|found| {
            let uki = found.uki.as_ref().ok()?;
            let other = uki.roothash != facts.running.roothash && slot.touches(&uki.roothash);
            other.then_some((&found.name, uki))
        });
        return match half {
            Some(half) => view(
                State::Incomplete,
                Some(half),
                Some("the entry is for one of its two partitions only"),
            ),
            None => view(State::Empty, None, None),
        };
    };
    let known = facts.record.trial(&uki.version).map(|trial| trial.verdict);
    let entry = Some((name, uki));
    match (facts.record.is_bad(&uki.version), known) {
        (Some(reason), _) => view(State::Bad, entry, Some(reason)),
        // Its blessing has removed the counter: somebody has put one there since.
        (None, Some(Verdict::Blessed)) if name.is_bad() => view(
            State::Bad,
            entry,
            Some("its entry was marked bad after it had been blessed"),
        ),
        _ if name.is_good() => view(State::Good, entry, None),
        _ => view(State::Trial, entry, None),
    }
}

fn fallback(facts: &Facts<'_>) -> Option<EntryName> {
    let (name, uki) = entries(facts, &facts.layout.other).first().copied()?;
    let usable = !name.is_bad() && facts.record.is_bad(&uki.version).is_none();
    usable.then(|| name.clone())
}

/// What the old version does about a trial that it finds.
fn next(facts: &Facts<'_>, running: Option<&Found>, other: &SlotView) -> Next {
    // Only with a good entry of its own will any end of the attempt come back to it.
    let safe = running.is_some_and(|found| found.name.is_good())
        && facts.record.is_bad(&facts.running.version).is_none();
    let (State::Trial, true, Some(entry), Some(version)) =
        (other.state, safe, &other.entry, &other.version)
    else {
        return Next::Nothing;
    };
    let done = entry.tries.map_or(0, |tries| tries.done);
    let known = facts.record.trial(version);
    let (boots, armed) = known.map_or((0, 0), |trial| (trial.boots, trial.armed));
    if done.max(armed) < facts.tries {
        return Next::Retry(entry.clone());
    }
    Next::FellBack {
        version: version.clone(),
        reason: reason(done, boots),
    }
}

/// What became of a trial that left no verdict.
fn reason(done: u32, boots: u32) -> String {
    match (done, boots) {
        (0, 0) => {
            "it did not start: the firmware could not load it, or lost LoaderEntryOneShot".into()
        }
        (_, 0) => "it never reached the system stage: it panicked, hung, or found no root".into(),
        (_, boots) => {
            format!("it ended without a verdict after reaching the system stage {boots} times")
        }
    }
}

#[cfg(test)]
mod tests;
