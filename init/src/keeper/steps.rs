//! What is done to the slots, step by step: pure, from where things stand.
//!
//! Each list of steps is in the order in which a power cut between any two of them does no harm:
//!
//! * **bless**: the rename comes first, for it is what the loader reads. A record that misses it is set
//!   right at the next start, which finds a running entry without a counter.
//! * **condemn**: the reason is on the disk before the reboot that would lose it. The entry is out of
//!   tries already if it was started by `LoaderEntryOneShot`; if the loader counted it, it is renamed.
//! * **return try** (a reboot or power-off that has nothing to do with the trial): the name goes back to what
//!   it was, then the loader is told to start it once more. Cut between the two, the other version
//!   starts, finds the trial without a verdict, and tries it again.
//! * **roll back**: first the verdict, then the name. Cut between the two, the version starts once more,
//!   and nothing is lost but the wish.

use crate::slots::judgement::{View, marked_bad};
use crate::slots::marks::Mark;
use crate::slots::name::EntryName;
use crate::slots::record::Record;
use crate::slots::uki::Uki;

/// Where things stand, as far as the steps hang on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The running version.
    pub version: String,
    /// Its root hash.
    pub roothash: [u8; 32],
    /// The entry that it was started from, by the name that it has now.
    pub entry: EntryName,
    /// The name that the entry had before this boot, if the running version is on trial.
    pub before: Option<EntryName>,
    /// The entry of the other slot, if it can be gone back to.
    pub fallback: Option<EntryName>,
    /// How often a version is tried that ends without a verdict.
    pub tries: u32,
}

impl Situation {
    /// Where things stand by what a look has shown; nowhere if no entry is the one that this boot came from.
    #[must_use]
    pub fn of(running: &Uki, view: &View, tries: u32) -> Option<Self> {
        Some(Self {
            version: running.version.clone(),
            roothash: running.roothash,
            entry: view.running.entry.clone()?,
            before: view.trial.as_ref().map(|trial| trial.before.clone()),
            fallback: view.fallback.clone(),
            tries,
        })
    }

    /// Whether the running version is on trial.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.before.is_some()
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Give an entry another name, durably.
    Rename(EntryName, EntryName),
    /// Write down a verdict, durably.
    Record(Change),
    /// Have the loader start this entry at the next start, and only then.
    Arm(EntryName),
    /// Remember for the rest of this boot that this has happened.
    Mark(Mark),
    /// Start the machine anew, and why.
    Reboot(String),
}

/// What is written down about a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which version.
    pub version: String,
    /// Its root hash.
    pub roothash: [u8; 32],
    /// What became of it.
    pub fate: Fate,
}

/// What became of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The loader is told to start it next.
    Armed,
    /// It has reached its system stage once more.
    Started,
    /// It is kept; older ones are not installed any more.
    Blessed,
    /// An operator keeps it: newer ones than it are installed again, whatever the record said.
    Kept,
    /// It is not, and why.
    Bad(String),
}

impl Change {
    /// Writes it down, in memory.
    pub fn apply(&self, record: &mut Record) {
        let (version, roothash) = (&self.version, &self.roothash);
        match &self.fate {
            Fate::Armed => record.armed(version, roothash),
            Fate::Started => record.started(version, roothash),
            Fate::Blessed => record.blessed(version, roothash),
            Fate::Kept => record.kept(version, roothash),
            Fate::Bad(reason) => record.bad(version, roothash, reason),
        }
    }
}

fn change(situation: &Situation, fate: Fate) -> Step {
    Step::Record(Change {
        version: situation.version.clone(),
        roothash: situation.roothash,
        fate,
    })
}

/// A trial begins.
#[must_use]
pub fn begin(situation: &Situation) -> Vec<Step> {
    vec![change(situation, Fate::Started)]
}

/// The running version has proven good. Nothing but the record is written if it is kept already.
#[must_use]
pub fn bless(situation: &Situation) -> Vec<Step> {
    good(situation, Fate::Blessed)
}

/// The running version is kept because somebody wishes it.
#[must_use]
pub fn keep(situation: &Situation) -> Vec<Step> {
    good(situation, Fate::Kept)
}

fn good(situation: &Situation, fate: Fate) -> Vec<Step> {
    let rename = Step::Rename(situation.entry.clone(), situation.entry.good());
    let mut steps = vec![rename, change(situation, fate)];
    if situation.entry.is_good() {
        steps.remove(0);
    }
    steps
}

/// The trial has failed.
///
/// # Errors
/// If there is nothing to go back to.
pub fn condemn(situation: &Situation, reason: &str) -> Result<Vec<Step>, String> {
    let Some(fallback) = &situation.fallback else {
        return Err(format!(
            "version {} has no other version to go back to: {reason}",
            situation.version
        ));
    };
    let mut steps = vec![change(situation, Fate::Bad(reason.to_owned()))];
    steps.extend(out_of_tries(situation));
    steps.push(Step::Reboot(format!(
        "version {} is bad, back to {}",
        situation.version, fallback.stem
    )));
    Ok(steps)
}

/// A reboot, or a power-off, that is not the version's fault.
#[must_use]
pub fn return_try(situation: &Situation) -> Vec<Step> {
    let Some(before) = &situation.before else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    // A daemon that was killed between the two steps has renamed it already.
    if situation.entry != *before {
        steps.push(Step::Rename(situation.entry.clone(), before.clone()));
    }
    // An entry that the loader counts down starts by itself again.
    if before.is_bad() {
        steps.push(Step::Arm(before.clone()));
    }
    steps
}

/// Back to the other version, because somebody wishes it.
///
/// # Errors
/// If there is nothing to go back to.
pub fn roll_back(situation: &Situation, who: &str) -> Result<Vec<Step>, String> {
    let Some(fallback) = &situation.fallback else {
        return Err(
            "the other slot holds no version that can be gone back to; `initctl slots` shows why"
                .into(),
        );
    };
    let reason = format!("rolled back by {who}");
    let mut steps = vec![change(situation, Fate::Bad(reason))];
    steps.extend(out_of_tries(situation));
    steps.push(Step::Reboot(format!("rollback to {}", fallback.stem)));
    Ok(steps)
}

/// A trial that came to nothing is tried once more. That it was armed is counted first, and once a boot: where
/// the firmware loses the variable, nothing else bounds the tries. The reboot follows from what the next look shows.
#[must_use]
pub fn retry(entry: &EntryName, version: &str, roothash: [u8; 32], counted: bool) -> Vec<Step> {
    let armed = Change {
        version: version.to_owned(),
        roothash,
        fate: Fate::Armed,
    };
    let mut steps = Vec::new();
    if !counted {
        steps.extend([Step::Record(armed), Step::Mark(Mark::Armed)]);
    }
    steps.extend([Step::Mark(Mark::Reboot), Step::Arm(entry.clone())]);
    steps
}

/// The rename that has the loader start the entry last, and that outlives the record.
fn out_of_tries(situation: &Situation) -> Option<Step> {
    let bad = marked_bad(&situation.entry, situation.tries);
    (bad != situation.entry).then(|| Step::Rename(situation.entry.clone(), bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(file: &str) -> EntryName {
        EntryName::parse(file).unwrap()
    }

    fn on(entry: &str, fallback: Option<&str>) -> Situation {
        let before = |now: &str| match now {
            "a_2+0-1.efi" => Some(name("a_2+0-0.efi")),
            "a_2+2-1.efi" | "a_1+2-1.efi" => Some(name(now).with(3, 0)),
            _ => None,
        };
        Situation {
            version: "2".into(),
            roothash: [2; 32],
            entry: name(entry),
            before: before(entry),
            fallback: fallback.map(name),
            tries: 1,
        }
    }

    fn renames(steps: &[Step]) -> Vec<(String, String)> {
        let of = |step: &Step| match step {
            Step::Rename(from, to) => Some((from.file(), to.file())),
            _ => None,
        };
        steps.iter().filter_map(of).collect()
    }

    #[test]
    fn a_blessing_takes_the_counter_off_and_is_written_down() {
        let steps = bless(&on("a_2+0-1.efi", Some("a_1.efi")));
        assert_eq!(
            renames(&steps),
            [("a_2+0-1.efi".into(), "a_2.efi".to_owned())]
        );
        assert!(
            matches!(&steps[1], Step::Record(c) if c.fate == Fate::Blessed && c.version == "2")
        );
        let again = bless(&on("a_2.efi", None));
        assert!(matches!(&again[..], [Step::Record(_)]), "{again:?}");
    }

    #[test]
    fn an_operators_word_takes_back_a_floor_that_somebody_wrote() {
        for (entry, steps) in [("a_2+0-1.efi", 2), ("a_2.efi", 1)] {
            let situation = on(entry, Some("a_1.efi"));
            let after = |steps: &[Step]| {
                let mut record = Record {
                    floor: Some("99999999".into()),
                    ..Record::default()
                };
                for step in steps {
                    if let Step::Record(change) = step {
                        change.apply(&mut record);
                    }
                }
                assert!(record.is_bad("2").is_none());
                record.floor
            };
            let kept = keep(&situation);
            assert_eq!(kept.len(), steps);
            assert_eq!(after(&kept).as_deref(), Some("2"));
            // A trial that went well is no such word.
            assert_eq!(after(&bless(&situation)).as_deref(), Some("99999999"));
        }
    }

    #[test]
    fn the_reason_is_written_before_anything_else() {
        for (entry, renamed) in [("a_2+0-1.efi", 0), ("a_2+2-1.efi", 1)] {
            let steps = condemn(&on(entry, Some("a_1.efi")), "no health").unwrap();
            assert!(
                matches!(&steps[0], Step::Record(c) if c.fate == Fate::Bad("no health".into()))
            );
            assert_eq!(renames(&steps).len(), renamed, "{entry}");
            assert!(matches!(steps.last(), Some(Step::Reboot(_))));
        }
        let error = condemn(&on("a_2+0-1.efi", None), "no health").unwrap_err();
        assert!(
            error.contains("no other version") && error.contains("no health"),
            "{error}"
        );
    }

    #[test]
    fn an_ordinary_reboot_gives_the_try_back() {
        let steps = return_try(&on("a_2+0-1.efi", Some("a_1.efi")));
        assert_eq!(
            renames(&steps),
            [("a_2+0-1.efi".into(), "a_2+0-0.efi".to_owned())]
        );
        assert_eq!(steps.last(), Some(&Step::Arm(name("a_2+0-0.efi"))));
        // Counted by the loader, as the first image of a machine is.
        let steps = return_try(&on("a_1+2-1.efi", None));
        assert_eq!(
            renames(&steps),
            [("a_1+2-1.efi".into(), "a_1+3-0.efi".to_owned())]
        );
        assert_eq!(steps.len(), 1);
        assert_eq!(return_try(&on("a_2.efi", None)), []);
    }

    #[test]
    fn a_rollback_leaves_the_entry_without_tries() {
        let steps = roll_back(&on("a_2.efi", Some("a_1.efi")), "uid 0").unwrap();
        assert!(
            matches!(&steps[0], Step::Record(c) if c.fate == Fate::Bad("rolled back by uid 0".into()))
        );
        assert_eq!(
            renames(&steps),
            [("a_2.efi".into(), "a_2+0-1.efi".to_owned())]
        );
        assert!(
            roll_back(&on("a_2.efi", None), "uid 0")
                .unwrap_err()
                .contains("initctl slots")
        );
    }
}
