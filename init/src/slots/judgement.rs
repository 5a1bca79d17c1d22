//! What the slots are, and what is to be done next: pure, from what was read.
//!
//! **A trial** is: the loader started the running entry with a counter, and it still has one. It ends with
//! a verdict, or with a boot of the old version, which finds the trial in the other slot. An attempt is a
//! boot that the loader counted (`DONE`), or one that was armed: the latter bounds the attempts where the
//! firmware loses the variable and the loader never counts.
//!
//! What may be removed from the ESP is judged in [`removal`].

mod boot;
mod damaged;
pub mod removal;

use boot::{running_entry, trial};
pub use removal::{before_install, marked_bad, stale};

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
    /// Whether there is a record that cannot be read; what is remembered is empty then, and nothing may follow
    /// from that.
    pub forgotten: bool,
    /// Attempts that a trial has.
    pub tries: u32,
    /// Whether the other version was armed in this boot, and counted for it. That boot is still to come.
    pub armed_in_this_boot: bool,
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
    /// The other version starts next: it was armed in this boot.
    Armed(EntryName),
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
        match next(facts, running, &other) {
            Next::Nothing if running.is_some() => damaged::damaged(facts).unwrap_or(Next::Nothing),
            next => next,
        }
    };
    View {
        running: running_slot(facts, running, trial.is_some()),
        fallback: fallback(facts),
        other,
        trial,
        next,
    }
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
    if facts.forgotten {
        return Next::Nothing;
    }
    if facts.armed_in_this_boot {
        return match facts.variables.one_shot.as_deref() == Some(entry.id().as_str()) {
            true => Next::Armed(entry.clone()),
            false => Next::Retry(entry.clone()),
        };
    }
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
        (0, 0) => "did not start: the firmware lost LoaderEntryOneShot, or could not load it".into(),
        (_, 0) => "never reached the system stage: it could not be loaded, panicked, hung, or found no root".into(),
        (_, 1) => "ended without a verdict after reaching the system stage once".into(),
        (_, boots) => format!("ended without a verdict after reaching the system stage {boots} times"),
    }
}

#[cfg(test)]
mod tests;
