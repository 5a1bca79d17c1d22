//! The steps, done: what follows from a list of [`Step`]s on the disk and in the firmware.

use super::Keeper;
use super::gather::{Look, VARIABLES, look};
use super::steps::{Change, Fate, Situation, Step};
use crate::slots::efivar;
use crate::slots::judgement::View;
use crate::slots::record::{self, Record, Verdict};
use std::path::Path;
use supervisor::event::Event;

impl Keeper {
    /// Looks at everything anew.
    pub(super) fn see(&self) -> Result<(Look, View), String> {
        let look = look()?;
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
                    look.esp
                        .rename(&from, &to)
                        .map_err(|e| format!("{} to {}: {e}", from.file(), to.file()))?;
                }
                Step::Record(change) => self.record(look, &change)?,
                Step::Arm(entry) => {
                    efivar::set_one_shot(Path::new(VARIABLES), &entry.id()).map_err(|e| {
                        format!("LoaderEntryOneShot in {VARIABLES}: {e}; the firmware must keep variables")
                    })?;
                }
                Step::Reboot(reason) => self.reboot(&reason),
            }
        }
        Ok(())
    }

    /// Writes a verdict down, and tells it if it is news.
    fn record(&mut self, look: &Look, change: &Change) -> Result<(), String> {
        // Anew: an update may have written in between.
        let mut record = Record::load(Path::new(record::PATH)).unwrap_or_default();
        let before = record.clone();
        let known = match &change.fate {
            Fate::Armed => {
                record.armed(&change.version, &change.roothash);
                true
            }
            Fate::Started => {
                record.started(&change.version, &change.roothash);
                true
            }
            Fate::Blessed => {
                let known = record.trial(&change.version);
                let known = known.is_some_and(|trial| trial.verdict == Verdict::Blessed);
                record.blessed(&change.version, &change.roothash);
                known
            }
            Fate::Bad(reason) => {
                record.bad(&change.version, &change.roothash, reason);
                false
            }
        };
        let saved = match record == before {
            true => Ok(()),
            false => record
                .save(Path::new(record::PATH))
                .map_err(|e| e.to_string()),
        };
        // A verdict stands even if it cannot be kept; the entry's name tells most of it.
        let event = match &change.fate {
            Fate::Blessed if !known => Event::new("slot.blessed")
                .with("version", &change.version)
                .with("slot", look.layout.running.letter),
            Fate::Bad(reason) => Event::new("slot.bad")
                .with("version", &change.version)
                .with("reason", reason),
            Fate::Armed | Fate::Started | Fate::Blessed => return saved,
        };
        self.tell(&event);
        saved.or_else(|why| {
            self.warn("record", &why);
            Ok(())
        })
    }
}
