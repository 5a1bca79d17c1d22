//! `initctl slots | update | bless | rollback`: the versions of the system.
//!
//! The keeper of the slots has a socket of its own and is asked there; PID 1 has no part in it. An update
//! is followed to its end, each event a line.

use super::client::{Client, Failure, SLOTS};
use super::lines;
use super::service::Block;
use super::text::clean;
use crate::control::protocol::EventLine;
use crate::keeper::protocol::{Reply, Report, Request};
use crate::slots::judgement::{SlotView, State};
use crate::slots::record::{Trial, Verdict};
use std::path::PathBuf;

/// Where the keeper has its socket, on the machine.
pub(super) const RUNTIME_DIR: &str = "/run/slots";

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotsCall {
    pub runtime_dir: PathBuf,
    pub json: bool,
    pub request: Request,
}

/// The request that a verb and the word after it mean, if the verb is one of these.
pub(super) fn parse(
    verb: &str,
    words: &mut dyn Iterator<Item = String>,
    no_reboot: bool,
) -> Option<Request> {
    match verb {
        "slots" => Some(Request::Slots {}),
        "bless" => Some(Request::Bless {}),
        "rollback" => Some(Request::Rollback {}),
        "update" => {
            let source = words.next();
            Some(Request::Update { source, no_reboot })
        }
        _ => None,
    }
}

/// Asks, and shows what comes.
pub(super) fn answer(
    call: &SlotsCall,
    mut say: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut client = Client::connect(&call.runtime_dir, SLOTS)?;
    let line = client.ask(&call.request)?;
    match &call.request {
        Request::Update { .. } => follow(call, &mut client, say),
        _ if call.json => say(&line),
        Request::Bless {} => say("the running version is kept\n"),
        Request::Rollback {} => say("the machine reboots into the other version\n"),
        Request::Slots {} => {
            let reply: Reply = SLOTS.read(&line)?;
            let report = reply
                .slots
                .ok_or_else(|| Failure::Lost("the keeper answered without the slots".into()))?;
            say(&render(&report))
        }
    }
}

/// Shows an update's events. How it ended is what its last one says.
fn follow(
    call: &SlotsCall,
    client: &mut Client,
    mut say: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    client.be_patient()?;
    let mut ended = Err(Failure::Lost(
        "the update ended without a word; `initctl logs slots` may say more".into(),
    ));
    while let Some(line) = client.line()? {
        let event: EventLine = SLOTS.read(&line)?;
        let reason = || {
            let reason = event.fields.get("reason");
            reason.map_or_else(|| event.event.clone(), |reason| clean(reason))
        };
        match event.event.as_str() {
            "update.installed" | "update.current" => ended = Ok(()),
            "update.refused" | "update.failed" => ended = Err(Failure::Refused(reason())),
            _ => {}
        }
        if call.json {
            say(&line)?;
        } else {
            say(&(lines::event(&event) + "\n"))?;
        }
    }
    ended
}

fn render(report: &Report) -> String {
    let mut shown = Block(String::new());
    for (slot, runs) in [(&report.view.running, true), (&report.view.other, false)] {
        shown.0.push_str(&slot_block(slot, runs));
    }
    shown.0.push_str("versions\n");
    shown.line(
        "floor",
        &format!("none up to {} is installed", report.floor),
    );
    let fallback = report.view.fallback.as_ref();
    shown.line(
        "fallback",
        &fallback.map_or_else(
            || "none: there is no other version to go back to".into(),
            |entry| entry.file(),
        ),
    );
    if report.updating {
        shown.line("update", "one is being installed");
    }
    for trial in report.trials.iter().rev() {
        shown.line(&clean(&trial.version), &fate(trial));
    }
    shown.0
}

fn slot_block(slot: &SlotView, runs: bool) -> String {
    let mut block = Block(format!("slot {}\n", slot.slot));
    let version = slot
        .version
        .as_deref()
        .map_or_else(|| "none".into(), str::to_owned);
    block.line("version", &version);
    let state = match slot.state {
        State::Running => "runs",
        State::Good => "good: it can be gone back to",
        State::Trial if runs => "runs, on trial",
        State::Trial => "waits for its trial",
        State::Bad if runs => "runs, though it is bad",
        State::Bad => "bad",
        State::Incomplete => "incomplete",
        State::Empty => "empty",
    };
    block.line("state", state);
    if let Some(entry) = &slot.entry {
        let tries = entry.tries.map_or_else(String::new, |tries| {
            format!(" (tries left {}, done {})", tries.left, tries.done)
        });
        block.line("entry", &format!("{}{tries}", entry.file()));
    }
    block.line("why", slot.reason.as_deref().unwrap_or_default());
    block.0
}

/// What became of a version.
fn fate(trial: &Trial) -> String {
    let boots = match trial.boots {
        0 => String::new(),
        1 => ", reached its system stage once".into(),
        boots => format!(", reached its system stage {boots} times"),
    };
    match trial.verdict {
        Verdict::Installed => format!("installed, not seen to run{boots}"),
        Verdict::Running => format!("without a verdict{boots}"),
        Verdict::Blessed => "kept".into(),
        Verdict::Bad => format!("bad: {}{boots}", trial.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::judgement::{Next, View};
    use crate::slots::name::EntryName;

    fn slot(letter: char, state: State, file: &str, reason: Option<&str>) -> SlotView {
        SlotView {
            slot: letter,
            state,
            version: Some(letter.to_string()),
            entry: EntryName::parse(file),
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_shown() {
        let bad = Trial {
            version: "2".into(),
            verdict: Verdict::Bad,
            reason: "no \x1bhealth".into(),
            boots: 1,
            ..Trial::default()
        };
        let report = Report {
            view: View {
                running: slot('a', State::Running, "os_1.efi", None),
                other: slot('b', State::Bad, "os_2+0-1.efi", Some("no \x1bhealth")),
                trial: None,
                fallback: None,
                next: Next::Nothing,
            },
            floor: "1".into(),
            trials: vec![bad],
            updating: true,
        };
        let shown = render(&report);
        for expected in [
            "slot a\n",
            "runs",
            "os_2+0-1.efi (tries left 0, done 1)",
            "none up to 1 is installed",
            "bad: no \\x1bhealth, reached its system stage once",
            "one is being installed",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }

    #[test]
    fn verbs() {
        let mut words = ["/var/update.json".to_owned()].into_iter();
        let update = parse("update", &mut words, true);
        let source = Some("/var/update.json".to_owned());
        let no_reboot = true;
        assert_eq!(update, Some(Request::Update { source, no_reboot }));
        assert_eq!(parse("slots", &mut words, false), Some(Request::Slots {}));
        assert_eq!(parse("status", &mut words, false), None);
    }
}
