//! A trial whose UKI on the ESP cannot be read any more.
//!
//! It was read back whole when it was installed, so the ESP has lost it since. The loader lists it by
//! what it can still read, the firmware cannot load it, and the machine is back by a reset.

use super::{Facts, Next};
use crate::slots::record::Verdict;

/// The end of such a trial, if there is one: its entry's name is that of a version without a verdict.
pub(super) fn damaged(facts: &Facts<'_>) -> Option<Next> {
    let prefix = format!("{}_", facts.running.image);
    facts.found.iter().find_map(|found| {
        let why = found.uki.as_ref().err()?;
        let version = found.name.stem.strip_prefix(&prefix)?;
        let trial = facts.record.trial(version)?;
        let open = matches!(trial.verdict, Verdict::Installed | Verdict::Running);
        open.then(|| Next::FellBack {
            version: version.to_owned(),
            reason: format!("its UKI on the ESP is damaged, {}: {why}", found.name),
        })
    })
}
