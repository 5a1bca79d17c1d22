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

/// Cells with a reaction that cannot be reached: a `Spawn` is answered before any other input, and no step both starts and
/// stops a service. They are there in case a driver does otherwise.
pub const OUT_OF_REACH: [&str; 2] = ["Stopping x Spawned", "Stopping x NotSpawned"];

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
        for (state, row) in State::ALL.iter().zip(&self.cells) {
            let _ = write!(text, "\n{:<11}", format!("{state:?}"));
            for count in row {
                let _ = write!(text, "{count:>11}");
            }
        }
        text.push('\n');
        text
    }

    /// Cells with a reaction that were never seen.
    pub fn unseen(&self) -> Vec<String> {
        let rows = State::ALL.iter().zip(&self.cells);
        let cells = rows.flat_map(|(state, row)| {
            let cells = ALL.iter().zip(row);
            cells.map(move |(trigger, count)| (*state, *trigger, *count))
        });
        cells
            .filter(|(state, trigger, count)| {
                *count == 0 && reaction(*state, *trigger) != Reaction::Nothing
            })
            .map(|(state, trigger, _)| format!("{state:?} x {trigger:?}"))
            .collect()
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
