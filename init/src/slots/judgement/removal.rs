//! What may be removed from the ESP, and what must be.
//!
//! It is asked twice. [`stale`] are entries that start nothing on this disk. [`before_install`] are those
//! that would start the slot that is about to be overwritten, whole or in parts: they go first, so that a
//! cut in the middle leaves no entry for half a root. Neither ever has the running entry, the last good
//! one, or the one that the loader counted in this boot, which whoever blesses it will look for.

use super::Facts;
use super::boot::{counted, named, running_entry};
use crate::slots::esp::Found;
use crate::slots::name::EntryName;
use crate::slots::uki::Uki;

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
    let (stale, kept): (Vec<&Found>, Vec<&Found>) = facts.found.iter().partition(is_stale);
    let good_is_kept = kept.iter().any(|f| f.name.is_good() && f.uki.is_ok());
    stale
        .into_iter()
        .map(|found| &found.name)
        .filter(|name| good_is_kept || !name.is_good())
        .filter(|name| !named(facts, name) && !kept.iter().any(|found| found.name == **name))
        .cloned()
        .collect()
}

/// The name of an entry that is bad and must not be tried again, even if the record is lost: it has no
/// attempts left.
#[must_use]
pub fn marked_bad(name: &EntryName, tries: u32) -> EntryName {
    let done = name.tries.map_or(0, |tries| tries.done);
    name.with(0, done.max(tries))
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
    if facts.forgotten {
        return Err("the record of versions cannot be read: which of them are bad, and which are too old, is not known. `initctl bless` keeps the running version and starts a new record first".into());
    }
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
            "the boot loader counted this boot for {name}, which would have to go: reboot first"
        )),
        None => Ok(doomed),
    }
}
