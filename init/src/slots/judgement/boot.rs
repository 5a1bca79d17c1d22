//! What this boot is: which entry it came from, and whether that is on trial.
//!
//! The entry that runs is the one that the loader named *and* whose roothash is the running one. A kernel
//! that was started in another way (kexec, a direct boot) has variables of an earlier boot or none; then no
//! entry runs, nothing is blessed and no trial is begun.

use super::{Facts, Trial};
use crate::slots::esp::Found;
use crate::slots::name::{EntryName, Tries};

/// The entry that this boot came from.
pub(super) fn running_entry<'a>(facts: &Facts<'a>) -> Option<&'a Found> {
    let same = |found: &&Found| is(found, &facts.running.roothash);
    let candidates: Vec<&Found> = facts.found.iter().filter(same).collect();
    let by = |name: &EntryName| candidates.iter().find(|found| found.name == *name);
    let loader = loader_named(facts)?;
    // Within this boot it may have been blessed, marked bad, or given its former name: then the variables
    // still say what it was called.
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
pub(super) fn named(facts: &Facts<'_>, name: &EntryName) -> bool {
    let said = [&facts.variables.count_path, &facts.variables.stub_image];
    said.into_iter()
        .flatten()
        .any(|file| EntryName::parse(file).as_ref() == Some(name))
}

/// Whether the loader counted this boot for this entry.
pub(super) fn counted(facts: &Facts<'_>, name: &EntryName) -> bool {
    let said = facts.variables.count_path.as_deref();
    said.and_then(EntryName::parse).as_ref() == Some(name)
}

/// The running entry as a trial, if it is one: the loader started it with a counter, and it still has one.
pub(super) fn trial(facts: &Facts<'_>, now: &EntryName) -> Option<Trial> {
    let started = loader_named(facts)?;
    if now.is_good() || started.is_good() || facts.record.is_bad(&facts.running.version).is_some() {
        return None;
    }
    // The id of the selected entry is its name before the loader counted, in lower case.
    let selected = facts.variables.selected.as_deref();
    let before = selected
        .and_then(EntryName::parse)
        .filter(|before| before.stem == started.stem.to_ascii_lowercase())
        .and_then(|before| before.tries)
        .map(|tries| now.with(tries.left, tries.done))
        .filter(|before| before.tries == started.tries || counts_to(before, &started));
    Some(Trial {
        before: before.unwrap_or_else(|| uncounted(&started)),
        now: now.clone(),
    })
}

/// Whether the loader's counting makes the second of the first.
fn counts_to(before: &EntryName, after: &EntryName) -> bool {
    let counted = before.tries.map(|tries| Tries {
        left: tries.left.saturating_sub(1),
        done: tries.done.saturating_add(1),
    });
    counted == after.tries
}

/// A name that the loader's counting makes this one of. `+0-N` came of `+0-M` or `+1-M`: the former is taken,
/// which never starts by itself.
fn uncounted(after: &EntryName) -> EntryName {
    match after.tries {
        Some(Tries {
            left,
            done: done @ 1..,
        }) => after.with(
            left.saturating_add(u32::from(left > 0)),
            done.saturating_sub(1),
        ),
        _ => after.clone(),
    }
}

/// Whether an entry starts this root.
pub(super) fn is(found: &Found, roothash: &[u8; 32]) -> bool {
    found
        .uki
        .as_ref()
        .is_ok_and(|uki| uki.roothash == *roothash)
}
