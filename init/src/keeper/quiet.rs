//! What of an update's events is news.
//!
//! A source that is looked at by itself offers the same version day after day: one that runs, or that this
//! machine refuses. That is told the first time and then no more, until the answer is another one. An update
//! that an operator asked for is told whole.

use supervisor::event::Event;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// What the update that runs has said before it was known whether it is news.
    held: Vec<Event>,
    /// The last answer that changed nothing.
    answer: Option<Vec<String>>,
}

impl Quiet {
    /// What is to be told when an update says this. `unasked` is whether it began by itself.
    pub(super) fn hear(&mut self, event: Event, unasked: bool) -> Vec<Event> {
        let unchanged = matches!(event.name(), "update.refused" | "update.current");
        let preamble = matches!(event.name(), "update.start" | "update.manifest");
        if unasked && preamble {
            self.held.push(event);
            return Vec::new();
        }
        let mut told = std::mem::take(&mut self.held);
        let fields = event.fields().map(|(key, value)| format!("{key}={value}"));
        let answer = [event.name().to_owned()]
            .into_iter()
            .chain(fields)
            .collect();
        if unasked && unchanged && self.answer.as_ref() == Some(&answer) {
            return Vec::new();
        }
        if unchanged {
            self.answer = Some(answer);
        } else if !preamble {
            self.answer = None;
        }
        told.push(event);
        told
    }

    /// The update has ended: what it said and nobody has heard is news, for it gave no answer.
    pub(super) fn end(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of an update that says these, each with this reason.
    fn told(quiet: &mut Quiet, names: &[&'static str], reason: &str, unasked: bool) -> Vec<String> {
        let mut all = Vec::new();
        for name in names {
            let event = Event::new(*name).with("reason", reason);
            all.extend(quiet.hear(event, unasked));
        }
        all.extend(quiet.end());
        all.iter().map(|event| event.name().to_owned()).collect()
    }

    #[test]
    fn the_same_answer_is_told_once() {
        let mut quiet = Quiet::default();
        let refused = ["update.start", "update.manifest", "update.refused"];
        assert_eq!(told(&mut quiet, &refused, "bad", true), refused);
        assert!(told(&mut quiet, &refused, "bad", true).is_empty());
        assert_eq!(told(&mut quiet, &refused, "older", true), refused);
        // An operator hears all of it, and need not hear it again from the next look.
        assert_eq!(told(&mut quiet, &refused, "older", false), refused);
        assert!(told(&mut quiet, &refused, "older", true).is_empty());
        let failed = ["update.start", "update.failed"];
        for _ in 0..2 {
            assert_eq!(told(&mut quiet, &failed, "line", true), failed);
        }
        assert_eq!(told(&mut quiet, &refused, "older", true), refused);
        assert_eq!(
            told(&mut quiet, &["update.start"], "", true),
            ["update.start"]
        );
    }
}
