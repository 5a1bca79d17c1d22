//! What the ESP and the partition table cannot say: verdicts with their reasons, and the floor.
//!
//! The record is one small file on `/var` and a copy of it ([`crate::state`]), which both versions share and which
//! a reset of the machine's data may take away. So nothing that a boot needs is in it: where there is none, no
//! trial is known to be bad and the floor is found anew from what is on the ESP.
//!
//! A record that is there and cannot be read is another matter: it may have known that a version is bad, or that
//! none below a floor is to be installed. Then the copy counts; and if that cannot be read either
//! ([`Unreadable`]), nothing is installed, tried again or written over until an operator says so by `initctl bless`.
//!
//! Nothing proves that a floor was ever reached: whoever writes the disk can write any, and then no update is newer. So an
//! operator's `initctl bless` sets it to the version that runs.
//!
//! A newer version may have written fields that an older
//! one does not know; they are passed over, since the older one is what a trial falls back to.

use super::esp::Found;
use super::{uki, version};
use crate::cmdline::parse_hash;
use crate::initramfs::verity::hex;
use crate::state::{Problem, SLOTS, SLOTS_COPY, StateDir, StateError, StateFile};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// How often a read is tried that the disk refuses.
const READS: usize = 3;

/// Versions that are remembered.
const TRIALS_MAX: usize = 16;

/// Bytes of a reason that are kept.
const REASON_MAX: usize = 512;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Record {
    /// The highest version that was ever blessed, or the one that an operator kept last: none that is not higher is
    /// installed.
    pub floor: Option<String>,
    /// What became of the newest versions, the newest last; at most 16.
    pub trials: Vec<Trial>,
}

/// What became of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Trial {
    /// The version.
    pub version: String,
    /// Its root, in hexadecimal.
    pub roothash: String,
    /// How it stands.
    pub verdict: Verdict,
    /// Why, if it is bad.
    pub reason: String,
    /// Boots that reached the system stage.
    pub boots: u32,
    /// How often the next boot was made to start it, by its installation and by retries.
    pub armed: u32,
}

/// How a version stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is on the disk and has not been seen to run.
    #[default]
    Installed,
    /// It has reached the system stage.
    Running,
    /// It was healthy for its probation.
    Blessed,
    /// It is not to be started, nor installed again.
    Bad,
}

/// Why there is a record that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The disk did not give it, or somebody else had it; the next try may.
    Passing(String),
    /// Neither it nor its copy is a record any more.
    Damaged(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing(what) => f.write_str(what),
            Self::Damaged(what) => write!(
                f,
                "{what}; nothing is installed until `initctl bless` keeps the running version and starts a new record"
            ),
        }
    }
}

impl From<StateError> for Unreadable {
    fn from(e: StateError) -> Self {
        match e.problem {
            Problem::Io(_) | Problem::Locked => Self::Passing(e.to_string()),
            _ => Self::Damaged(e.to_string()),
        }
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The record.
    pub record: Record,
    /// What was wrong with it, if this is the copy.
    pub damage: Option<String>,
}

impl Record {
    /// Reads the record, or its copy if it is damaged; one that is missing is empty.
    ///
    /// # Errors
    /// There is one, and it is not known.
    pub fn load(state: &StateDir) -> Result<Loaded, Unreadable> {
        let loaded = |record, damage| Loaded { record, damage };
        let copy = || Self::read(state, SLOTS_COPY);
        match Self::read(state, SLOTS) {
            Ok(Some(record)) => Ok(loaded(record, None)),
            Ok(None) => Ok(loaded(copy()?.unwrap_or_default(), None)),
            Err(Unreadable::Passing(what)) => Err(Unreadable::Passing(what)),
            Err(Unreadable::Damaged(what)) => match copy() {
                Ok(Some(copy)) => Ok(loaded(copy, Some(what))),
                Err(Unreadable::Passing(what)) => Err(Unreadable::Passing(what)),
                Ok(None) | Err(Unreadable::Damaged(_)) => Err(Unreadable::Damaged(what)),
            },
        }
    }

    fn read(state: &StateDir, file: StateFile) -> Result<Option<Self>, Unreadable> {
        let mut read = state.read(file);
        for _ in 1..READS {
            match &read {
                Err(e) if matches!(e.problem, Problem::Io(_)) => read = state.read(file),
                _ => break,
            }
        }
        let Some(bytes) = read? else {
            return Ok(None);
        };
        let damaged = |what: &dyn fmt::Display| {
            Unreadable::Damaged(format!("{}: {what}", file.path().display()))
        };
        let mut record: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(&e))?;
        record.bound();
        if !record.is_ours() {
            return Err(damaged(&"it names a version or a root that cannot be one"));
        }
        Ok(Some(record))
    }

    /// Writes the record and its copy, each whole or not at all; they are on the disk when this returns.
    ///
    /// # Errors
    /// Names the file.
    pub fn save(&self, state: &StateDir) -> Result<(), StateError> {
        let failed = |e: serde_json::Error| StateError {
            path: SLOTS.path(),
            problem: Problem::Io(e.into()),
        };
        let bytes = serde_json::to_vec_pretty(self).map_err(failed)?;
        state.write(SLOTS, &bytes)?;
        state.write(SLOTS_COPY, &bytes)
    }

    /// Whether the record could be written now. Asked before anything is changed that has to be recorded.
    ///
    /// # Errors
    /// Names the file.
    pub fn prove_writable(state: &StateDir) -> Result<(), StateError> {
        state.prove_writable(SLOTS)?;
        state.prove_writable(SLOTS_COPY)
    }

    /// Starts a new record in place of one that is damaged, with a floor that is known otherwise. What was there is
    /// kept beside it.
    ///
    /// # Errors
    /// Names the file.
    pub fn start_anew(state: &StateDir, floor: &str) -> Result<(), StateError> {
        for file in [SLOTS, SLOTS_COPY] {
            state.set_aside(file)?;
        }
        let record = Self {
            floor: Some(floor.to_owned()),
            ..Self::default()
        };
        record.save(state)
    }

    /// What is known about a version.
    #[must_use]
    pub fn trial(&self, version: &str) -> Option<&Trial> {
        let same = |trial: &&Trial| version::compare(&trial.version, version) == Ordering::Equal;
        self.trials.iter().rev().find(same)
    }

    /// Why a version is bad, if it is.
    #[must_use]
    pub fn is_bad(&self, version: &str) -> Option<&str> {
        self.trial(version)
            .filter(|trial| trial.verdict == Verdict::Bad)
            .map(|trial| trial.reason.as_str())
    }

    /// The floor: the highest version that was ever blessed. Those on the ESP count with the record, in case
    /// a cut came between a blessing and its record; the running one only if the record knows no
    /// floor, since it may be on trial.
    #[must_use]
    pub fn floor(&self, running: &str, found: &[Found]) -> String {
        let ukis = || {
            found
                .iter()
                .filter_map(|f| Some((&f.name, f.uki.as_ref().ok()?)))
        };
        // Another image on the same ESP has versions of its own.
        let image = ukis()
            .find(|(_, uki)| uki.version == running)
            .map(|(_, uki)| uki.image.as_str());
        let blessed = ukis()
            .filter(|(name, uki)| name.is_good() && Some(uki.image.as_str()) == image)
            .map(|(_, uki)| uki.version.as_str());
        let first = self.floor.as_deref().unwrap_or(running);
        blessed.fold(first, higher).to_owned()
    }

    /// A version is on the disk, and whatever was known of that version no longer holds.
    pub fn installed(&mut self, version: &str, roothash: &[u8; 32]) {
        self.trials.retain(|trial| trial.version != version);
        self.entry(version, roothash);
    }

    /// The next boot was made to start a version.
    pub fn armed(&mut self, version: &str, roothash: &[u8; 32]) {
        let trial = self.entry(version, roothash);
        trial.armed = trial.armed.saturating_add(1);
    }

    /// A version on trial has reached the system stage.
    pub fn started(&mut self, version: &str, roothash: &[u8; 32]) {
        let trial = self.entry(version, roothash);
        trial.boots = trial.boots.saturating_add(1);
        if trial.verdict == Verdict::Installed {
            trial.verdict = Verdict::Running;
        }
    }

    /// A version has proven good: it raises the floor.
    pub fn blessed(&mut self, version: &str, roothash: &[u8; 32]) {
        let trial = self.entry(version, roothash);
        trial.verdict = Verdict::Blessed;
        trial.reason.clear();
        let floor = self.floor.as_deref().unwrap_or(version);
        self.floor = Some(higher(floor, version).to_owned());
    }

    /// An operator keeps a version: it has proven good, and it is the floor whatever the record said. So a floor that
    /// somebody has written into the record, above any version that will ever be published, ends with this.
    pub fn kept(&mut self, version: &str, roothash: &[u8; 32]) {
        self.blessed(version, roothash);
        self.floor = Some(version.to_owned());
    }

    /// The floor, if nothing else that is known tells of such a version: neither what became of versions, nor what is
    /// on the ESP. A blessing leaves more than that.
    #[must_use]
    pub fn unfounded_floor(&self, running: &str, found: &[Found]) -> Option<&str> {
        let floor = self.floor.as_deref()?;
        let same = |version: &str| version::compare(version, floor) == Ordering::Equal;
        let on_esp = |f: &Found| f.uki.as_ref().is_ok_and(|uki| same(&uki.version));
        let known = same(running) || self.trial(floor).is_some() || found.iter().any(on_esp);
        (!known).then_some(floor)
    }

    /// A version is bad, and why.
    pub fn bad(&mut self, version: &str, roothash: &[u8; 32], reason: &str) {
        let trial = self.entry(version, roothash);
        trial.verdict = Verdict::Bad;
        reason.clone_into(&mut trial.reason);
        self.bound();
    }

    /// What is known about this build of a version, as the newest; of another build nothing is.
    fn entry(&mut self, version: &str, roothash: &[u8; 32]) -> &mut Trial {
        let roothash = hex(roothash);
        let same = |trial: &Trial| trial.version == version;
        let known = self.trials.iter().position(same);
        let known = known.map(|at| self.trials.remove(at));
        let trial = known
            .filter(|trial| trial.roothash == roothash)
            .unwrap_or_else(|| Trial {
                version: version.to_owned(),
                roothash,
                ..Trial::default()
            });
        if self.trials.len() >= TRIALS_MAX {
            self.trials.remove(0);
        }
        self.trials.push_mut(trial)
    }

    /// Whether all in it can have come from a version. A stranger's record with longer texts would leave no room for
    /// what is to be written down next, and no update could ever be recorded.
    fn is_ours(&self) -> bool {
        let trial = |trial: &Trial| {
            let root = trial.roothash.as_str();
            uki::is_name(&trial.version) && (root.is_empty() || parse_hash(root).is_some())
        };
        self.floor.as_deref().is_none_or(uki::is_name) && self.trials.iter().all(trial)
    }

    fn bound(&mut self) {
        let surplus = self.trials.len().saturating_sub(TRIALS_MAX);
        self.trials.drain(..surplus);
        for trial in &mut self.trials {
            let end = trial.reason.floor_char_boundary(REASON_MAX);
            trial.reason.truncate(end);
        }
    }
}

fn higher<'a>(a: &'a str, b: &'a str) -> &'a str {
    if version::compare(b, a) == Ordering::Greater {
        b
    } else {
        a
    }
}

#[cfg(test)]
mod tests;
