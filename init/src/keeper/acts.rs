//! The steps, done: what follows from a list of [`Step`]s on the disk and in the firmware.

use super::Keeper;
use super::gather::{Look, look};
use super::steps::{Change, Fate, Situation, Step};
use crate::slots::efivar;
use crate::slots::judgement::View;
use crate::slots::record::{Record, Unreadable, Verdict};
use crate::state::StateDir;
use std::path::Path;
use supervisor::event::Event;

impl Keeper {
    /// Looks at everything anew.
    pub(super) fn see(&self) -> Result<(Look, View), String> {
        let look = look(&self.marks)?;
        let view = look.view(self.config.tries);
        Ok((look, view))
    }

    /// Where things stand now.
    pub(super) fn situation(&self) -> Result<(Look, Situation), String> {
        let (look, view) = self.see()?;
        let situation = look.situation(&view, self.config.tries)?;
        Ok((look, situation))
    }

    /// Takes the steps; what fails is told.
    pub(super) fn take(&mut self, look: &Look, steps: Vec<Step>, what: &str) {
        if let Err(why) = self.perform(look, steps) {
            self.warn(what, &why);
        }
    }

    /// Takes the steps, up to the first that fails.
    pub(super) fn perform(&mut self, look: &Look, steps: Vec<Step>) -> Result<(), String> {
        for step in steps {
            match step {
                Step::Rename(from, to) => {
                    let renamed = look.esp.rename(&from, &to);
                    let moved =
                        renamed.map_err(|e| format!("{} to {}: {e}", from.file(), to.file()))?;
                    if let Some(seen) = moved {
                        self.warn("ESP", &seen);
                    }
                }
                Step::Record(change) => self.record(look, &change)?,
                Step::Arm(entry) => {
                    efivar::set_one_shot(Path::new(efivar::DIRECTORY), &entry.id()).map_err(
                        |e| format!("LoaderEntryOneShot: {e}; the firmware must keep variables"),
                    )?;
                }
                Step::Mark(mark) => self.marks.set(mark).map_err(|e| e.to_string())?,
                Step::Reboot(reason) => self.reboot(&reason),
            }
        }
        Ok(())
    }

    /// Writes a verdict down, and tells it if it is news.
    fn record(&mut self, look: &Look, change: &Change) -> Result<(), String> {
        // Anew: an update may have written in between.
        let state = StateDir::open().map_err(Unreadable::from);
        let known = state.and_then(|state| Ok((Record::load(&state)?.record, state)));
        // One that cannot be read is not written over: what it knew would be lost.
        let (mut record, state) = match known {
            Ok((record, state)) => (record, Ok(state)),
            Err(e) => (Record::default(), Err(e.to_string())),
        };
        let before = record.clone();
        let kept =
            record.trial(&change.version).map(|trial| trial.verdict) == Some(Verdict::Blessed);
        change.apply(&mut record);
        let saved = match state {
            Ok(_) if record == before => Ok(()),
            Ok(state) => record.save(&state).map_err(|e| e.to_string()),
            Err(why) => Err(why),
        };
        match &change.fate {
            // Told once, and written down at the next try if not now: the entry's name says it already.
            Fate::Blessed | Fate::Kept if !kept && !self.blessed => {
                self.blessed = true;
                self.tell(
                    &Event::new("slot.blessed")
                        .with("version", &change.version)
                        .with("slot", look.layout.running.letter),
                );
                saved
            }
            // The verdict stands even if it cannot be written down: the reboot back is not to wait for a disk,
            // and the entry's name will say most of it.
            Fate::Bad(reason) => {
                self.tell(
                    &Event::new("slot.bad")
                        .with("version", &change.version)
                        .with("reason", reason),
                );
                saved.or_else(|why| {
                    self.warn("record", &why);
                    Ok(())
                })
            }
            Fate::Armed | Fate::Started | Fate::Blessed | Fate::Kept => saved,
        }
    }
}
