//! What the ESP and the partition table cannot say: verdicts with their reasons, and the floor.
//!
//! The record is one small file on `/var`, which both versions share and which a reset of the machine's
//! data may take away. So nothing that a boot needs is in it: without it no trial is known to be bad and
//! the floor is found anew from what is on the ESP. A newer version may have written fields that an older
//! one does not know; they are passed over, since the older one is what a trial falls back to.

use super::esp::Found;
use super::version;
use crate::durable;
use crate::initramfs::verity::hex;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::io::{self, Read};
use std::path::Path;

/// The record is kept here.
pub const PATH: &str = "/var/lib/astromesh-init/slots.json";

/// Bytes of the file that are read.
const SIZE_MAX: u64 = 64 * 1024;

/// Versions that are remembered.
const TRIALS_MAX: usize = 16;

/// Bytes of a reason that are kept.
const REASON_MAX: usize = 512;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Record {
    /// The highest version that was ever blessed: none that is not higher is installed.
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

impl Record {
    /// Reads the record; one that is missing is empty.
    ///
    /// # Errors
    /// Names the file and what is wrong with it. The caller tells it and goes on with an empty one.
    pub fn load(path: &Path) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let mut bytes = Vec::new();
        match std::fs::File::open(path) {
            Ok(file) => file
                .take(SIZE_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| wrong(&e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(wrong(&e)),
        };
        if bytes.len() as u64 > SIZE_MAX {
            return Err(wrong(&format!("longer than {SIZE_MAX} bytes")));
        }
        let mut record: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
        record.bound();
        Ok(record)
    }

    /// Writes the record, whole or not at all; it is on the disk when this returns.
    ///
    /// # Errors
    /// Names the file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .and_then(|bytes| durable::write(path, &bytes))
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
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
