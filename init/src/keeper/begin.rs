//! What a slot daemon does once, after its first look that succeeds.

use super::Keeper;
use super::gather::Look;
use super::steps::{self, Situation, Step};
use crate::cmdline::parse_hash;
use crate::slots::judgement::{Next, View, stale};
use crate::slots::marks::Mark;
use supervisor::event::Event;

impl Keeper {
    /// Tells how things stand, and writes down what is to be known of them.
    pub(super) fn begin(&mut self, look: &Look, view: &View) {
        if let Some(error) = &look.unreadable {
            self.warn("record", &error.to_string());
        }
        if let Some(damage) = &look.damage {
            self.warn("record", &format!("{damage}; its copy is used"));
        }
        if let Some(surplus) = &look.surplus {
            self.warn(
                "ESP",
                &format!("{surplus}; no update is installed until then"),
            );
        }
        let running = &look.running.version;
        if let Some(floor) = look.record.unfounded_floor(running, &look.found) {
            let seen = format!(
                "nothing newer than version {floor} is installed, and nothing but the record's floor tells of that version; \
                 `initctl bless` makes the running version the floor"
            );
            self.warn("floor", &seen);
        }
        let situation = match look.situation(view, self.config.tries) {
            Ok(situation) => situation,
            // A kernel that was started in another way. No look will find another entry, and no harm is done.
            Err(why) => return self.warn("slots", &why),
        };
        let fallback = situation.fallback.as_ref();
        self.tell(
            &Event::new("slot.state")
                .with("version", &situation.version)
                .with("slot", look.layout.running.letter)
                .with("entry", situation.entry.file())
                .with("trial", situation.is_trial())
                .with(
                    "fallback",
                    fallback.map_or_else(|| "none".into(), |f| f.file()),
                ),
        );
        self.marker(&format!("ASTROMESH_BUILD={}", situation.version));
        match &view.next {
            Next::Trial => self.begin_trial(look, &situation),
            Next::FellBack { version, reason } => self.fell_back(look, view, version, reason),
            Next::Nothing | Next::Retry(_) | Next::Armed(_) => {}
        }
        if !situation.is_trial() && situation.entry.is_good() {
            self.remove_stale(look);
        }
    }

    fn begin_trial(&mut self, look: &Look, situation: &Situation) {
        self.tell(
            &Event::new("slot.trial")
                .with("version", &situation.version)
                .with("probation_ms", self.config.probation.as_millis())
                .with("timeout_ms", self.config.timeout.as_millis()),
        );
        // A boot counts once, however many daemons begin in it.
        if !self.marks.has(Mark::Begun) {
            let mut steps = steps::begin(situation);
            steps.push(Step::Mark(Mark::Begun));
            self.take(look, steps, "record");
        }
    }

    /// The trial of the other version came to nothing.
    fn fell_back(&mut self, look: &Look, view: &View, version: &str, reason: &str) {
        self.tell(
            &Event::new("slot.fallback")
                .with("version", version)
                .with("reason", reason),
        );
        self.marker(&format!("[update] version {version} is bad, not retrying"));
        let known = look.record.trial(version);
        let known = known.and_then(|trial| parse_hash(&trial.roothash));
        let entry = view.other.entry.as_ref();
        let found = entry.and_then(|entry| look.roothash_of(entry));
        if let Some(roothash) = found.or(known) {
            let change = steps::Change {
                version: version.to_owned(),
                roothash,
                fate: steps::Fate::Bad(reason.to_owned()),
            };
            self.take(look, vec![Step::Record(change)], "record");
        }
    }

    /// What a power cut kept an update from clearing away.
    fn remove_stale(&mut self, look: &Look) {
        for entry in stale(&look.facts(self.config.tries)) {
            if let Err(e) = look.esp.remove(&entry) {
                self.warn("stale entry", &format!("{}: {e}", entry.file()));
            }
        }
    }
}
