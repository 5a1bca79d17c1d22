//! What was seen: cells of the table, and stimuli that had an effect.

use super::stimulus::{KINDS, Kind};
use std::fmt::Write;
use supervisor::core::State;
use supervisor::core::table::{Reaction, STATES, TRIGGERS, Trigger, reaction};

/// The triggers in the order of the table.
const ALL: [Trigger; TRIGGERS] = [
    Trigger::Start,
    Trigger::Stop,
    Trigger::Spawned,
    Trigger::NotSpawned,
    Trigger::Ready,
    Trigger::Alive,
    Trigger::Fit,
    Trigger::Unfit,
    Trigger::Fault,
    Trigger::Leaving,
    Trigger::Exited,
    Trigger::Gone,
    Trigger::Due,
];

/// See the module.
#[derive(Clone, Debug)]
pub struct Coverage {
    cells: [[u64; TRIGGERS]; STATES],
    pub effective: [u64; KINDS],
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            cells: [[0; TRIGGERS]; STATES],
            effective: [0; KINDS],
        }
    }
}

impl Coverage {
    pub fn cell(&mut self, state: State, trigger: Trigger) {
        self.cells[state as usize][trigger as usize] += 1;
    }

    pub fn effect(&mut self, kind: Kind) {
        self.effective[kind as usize] += 1;
    }

    pub fn add(&mut self, other: &Self) {
        let cells = self.cells.iter_mut().flatten();
        for (sum, more) in cells.zip(other.cells.iter().flatten()) {
            *sum += more;
        }
        for (sum, more) in self.effective.iter_mut().zip(other.effective) {
            *sum += more;
        }
    }

    /// Kinds of stimuli that never did anything.
    pub fn idle(&self) -> Vec<Kind> {
        let kinds = Kind::ALL.iter().zip(self.effective);
        kinds
            .filter(|(_, count)| *count == 0)
            .map(|(kind, _)| *kind)
            .collect()
    }

    pub fn table(&self) -> String {
        let mut text = String::from("cells of the table (state by trigger):\n           ");
        for trigger in ALL {
            let _ = write!(text, "{:>11}", format!("{trigger:?}"));
        }
        let mut unseen = Vec::new();
        for (state, row) in State::ALL.iter().zip(&self.cells) {
            let _ = write!(text, "\n{:<11}", format!("{state:?}"));
            for (trigger, count) in ALL.iter().zip(row) {
                let _ = write!(text, "{count:>11}");
                if *count == 0 && reaction(*state, *trigger) != Reaction::Nothing {
                    unseen.push(format!("{state:?} x {trigger:?}"));
                }
            }
        }
        let _ = writeln!(
            text,
            "\ncells with a reaction that were not seen: {unseen:?}"
        );
        text
    }

    pub fn stimuli(&self) -> String {
        let mut text = String::from("stimuli that had an effect:\n");
        for (kind, count) in Kind::ALL.iter().zip(self.effective) {
            let _ = writeln!(
                text,
                "{count:>9} {:<16} {}",
                format!("{kind:?}"),
                kind.what()
            );
        }
        text
    }
}
