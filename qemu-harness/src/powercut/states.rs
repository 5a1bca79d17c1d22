//! What a power cut may have left on a disk.
//!
//! At the moment of a cut the entries before it have arrived. Those that were guaranteed are on the disk; of
//! the others, the open ones, the disk kept what it pleased. Of a sector that was written several
//! times since it was last guaranteed, any of these contents may be there, or the guaranteed one; never
//! one from before that. So a state is a choice: which open writes survived, how much of each, and which
//! of two that overlap came last. The last request before the cut is still on its way, so neither a flush
//! nor FUA counts for it, except in a [`Kind::Flushed`] state, which is the cut right after the answer.
//!
//! A state is three numbers and its choices follow from them and the journal: its text, such as
//! `torn@1234#9f3a`, is all that is needed to have it again from the same recording.

use super::entry::Entry;
use super::journal::Journal;
use crate::random::Random;
use anyhow::{Context, Result};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// What became of the open writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The last request was answered, and nothing open survived: for a flush, exactly what it guarantees.
    Flushed,
    /// All survived.
    Prefix,
    /// Any of them are lost.
    Dropped,
    /// The disk wrote them in an order of its own, and did not come to the end.
    Reordered,
    /// The last ones that survived did so in part, up to or from a sector within.
    Torn,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Flushed, "flushed"),
    (Kind::Prefix, "prefix"),
    (Kind::Dropped, "dropped"),
    (Kind::Reordered, "reordered"),
    (Kind::Torn, "torn"),
];

/// Of the open writes, so many at most are torn at once: a disk has its cache in more than one place.
const TORN: usize = 3;

/// One disk that a power cut may have left; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// The number of entries that had arrived.
    pub cut: usize,
    /// What became of the open ones.
    pub kind: Kind,
    /// Decides all choices.
    pub seed: u64,
}

/// The sectors of an entry that survived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The entry.
    pub entry: usize,
    /// Which of its sectors, from 0.
    pub sectors: Range<u64>,
}

/// What is on the disk of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivors {
    /// All entries before this one, whole.
    pub durable: usize,
    /// Then these, in the order in which the disk wrote them.
    pub later: Vec<Piece>,
    /// The number of open writes that are lost entirely.
    pub lost: usize,
}

/// A write behind the last flush that counts.
struct Late {
    piece: Piece,
    /// Whether it is guaranteed by itself.
    fixed: bool,
}

impl State {
    /// Decides what survived.
    ///
    /// # Errors
    /// When the cut is behind the end of the journal.
    pub fn survivors(&self, journal: &Journal) -> Result<Survivors> {
        let entries = journal.entries().get(..self.cut).with_context(|| {
            let len = journal.entries().len();
            format!("{self} is not of this journal, which has {len} entries")
        })?;
        let answered = match self.kind {
            Kind::Flushed => self.cut,
            _ => self.cut.saturating_sub(1),
        };
        let durable = covered(entries.get(..answered).unwrap_or(entries));
        let mut late = late(entries, durable, answered);
        let all = late.len();
        let mut random = Random::new(self.seed);
        match self.kind {
            Kind::Flushed => late.retain(|write| write.fixed),
            Kind::Prefix => {}
            Kind::Dropped => drop_some(&mut late, &mut random),
            Kind::Reordered => reorder(&mut late, &mut random),
            Kind::Torn => {
                if random.percent(50) {
                    drop_some(&mut late, &mut random);
                }
                tear(&mut late, &mut random);
            }
        }
        let lost = all - late.len();
        let later = late.into_iter().map(|write| write.piece).collect();
        Ok(Survivors {
            durable,
            later,
            lost,
        })
    }

    /// Tells what it is, for people.
    ///
    /// # Errors
    /// As [`Self::survivors`].
    pub fn describe(&self, journal: &Journal) -> Result<String> {
        let Survivors {
            durable,
            later,
            lost,
        } = self.survivors(journal)?;
        let (total, kept) = (journal.entries().len(), later.len());
        let mark = journal.mark_before(self.cut).unwrap_or("the beginning");
        let torn: Vec<String> = later
            .iter()
            .filter_map(|piece| {
                let (start, sectors) = journal.entries().get(piece.entry)?.sectors()?;
                let Range { start: from, end } = piece.sectors;
                (end - from < sectors).then(|| {
                    format!(
                        "; of entry {}, which is sectors {start}..{}, only {}..{}",
                        piece.entry,
                        start + sectors,
                        start + from,
                        start + end
                    )
                })
            })
            .collect();
        Ok(format!(
            "{self}: cut after {} of {total} entries, after mark `{mark}`; entries before {durable} are durable, of \
             {} later writes {kept} survived{}",
            self.cut,
            kept + lost,
            torn.concat()
        ))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|(kind, _)| *kind == self.kind);
        let kind = kind.map_or("", |(_, name)| name);
        write!(f, "{kind}@{}#{:x}", self.cut, self.seed)
    }
}

impl FromStr for State {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let (name, rest) = text.split_once('@')?;
            let (cut, seed) = rest.split_once('#')?;
            let (kind, _) = KINDS.iter().find(|(_, known)| *known == name)?;
            Some(Self {
                cut: cut.parse().ok()?,
                kind: *kind,
                seed: u64::from_str_radix(seed, 16).ok()?,
            })
        };
        parsed().with_context(|| format!("`{text}` is no state, such as `torn@1234#9f3a`"))
    }
}

/// How many entries from the first on are durable by these flushes.
fn covered(answered: &[Entry]) -> usize {
    let covers = |entry: &Entry| match entry {
        Entry::Flush { covers } => Some(*covers),
        _ => None,
    };
    answered.iter().filter_map(covers).max().unwrap_or(0)
}

/// The writes from entry `durable` on.
fn late(entries: &[Entry], durable: usize, answered: usize) -> Vec<Late> {
    let each = entries.iter().enumerate().skip(durable);
    each.filter_map(|(index, entry)| {
        let (_, sectors) = entry.sectors()?;
        Some(Late {
            piece: Piece {
                entry: index,
                sectors: 0..sectors,
            },
            fixed: entry.is_fua() && index < answered,
        })
    })
    .collect()
}

/// Loses one open write, few, half, or most.
fn drop_some(late: &mut Vec<Late>, random: &mut Random) {
    let open = late.iter().filter(|write| !write.fixed).count();
    let one = random.index(open);
    let chance = match random.index(4) {
        0 => None,
        1 => Some(10),
        2 => Some(50),
        _ => Some(90),
    };
    let mut number = 0;
    late.retain(|write| {
        if write.fixed {
            return true;
        }
        number += 1;
        match chance {
            None => number - 1 != one,
            Some(chance) => !random.percent(chance),
        }
    });
}

/// Writes the open ones in any order up to a point. Those before and after a guaranteed one stay
/// before and after it, so that it cannot be undone by what it had replaced.
fn reorder(late: &mut Vec<Late>, random: &mut Random) {
    let mut order: Vec<usize> = (0..late.len()).filter(|&n| !late[n].fixed).collect();
    random.shuffle(&mut order);
    order.truncate(random.index(order.len() + 1));
    let mut rank = vec![None; late.len()];
    for (number, &place) in order.iter().enumerate() {
        rank[place] = Some(number);
    }
    let mut group = 0;
    let mut kept: Vec<((usize, usize), Late)> = Vec::new();
    for (write, rank) in std::mem::take(late).into_iter().zip(rank) {
        if write.fixed {
            group += 2;
            kept.push(((group - 1, 0), write));
        } else if let Some(rank) = rank {
            kept.push(((group, rank), write));
        }
    }
    kept.sort_by_key(|(key, _)| *key);
    late.extend(kept.into_iter().map(|(_, write)| write));
}

/// Keeps only a part of the last open writes that have one.
fn tear(late: &mut [Late], random: &mut Random) {
    let most = 1 + random.index(TORN);
    let parted = |write: &&mut Late| !write.fixed && write.piece.sectors.end > 1;
    for write in late.iter_mut().rev().filter(parted).take(most) {
        let sectors = write.piece.sectors.end;
        let inside = 1 + random.below(sectors - 1);
        write.piece.sectors = if random.percent(70) {
            0..inside
        } else {
            inside..sectors
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::testing::{Content, disk, journal, small, write};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// All contents of a sector that a disk may have at this cut, by the rule and nothing else. The
    /// first of them is the guaranteed one, the last the newest.
    fn allowed(journal: &Journal, state: &State, sector: u64) -> Vec<Content> {
        let answered = match state.kind {
            Kind::Flushed => state.cut,
            _ => state.cut.saturating_sub(1),
        };
        let entries = &journal.entries()[..state.cut];
        let guaranteed = |index: usize| {
            let flushed = entries[..answered]
                .iter()
                .any(|entry| matches!(entry, Entry::Flush { covers } if index < *covers));
            flushed || (entries[index].is_fua() && index < answered)
        };
        let mut contents = vec![None];
        for (index, entry) in entries.iter().enumerate() {
            let (start, sectors) = entry.sectors().unwrap_or_default();
            if (start..start + sectors).contains(&sector) {
                if guaranteed(index) {
                    contents.clear();
                }
                contents.push(Some(index));
            }
        }
        contents
    }

    fn kind() -> impl Strategy<Value = Kind> {
        (0..KINDS.len()).prop_map(|n| KINDS[n].0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_state_has_what_no_disk_may_have(
            journal in journal(), cut in any::<prop::sample::Index>(), kind in kind(), seed: u64,
        ) {
            let cut = cut.index(journal.entries().len() + 1);
            let state = State { cut, kind, seed };
            let disk = disk(&journal, &state);
            for (sector, content) in (0..).zip(&disk) {
                let allowed = allowed(&journal, &state, sector);
                prop_assert!(allowed.contains(content), "{sector}: {content:?} not of {allowed:?}");
                match kind {
                    Kind::Flushed => prop_assert_eq!(Some(content), allowed.first()),
                    Kind::Prefix => prop_assert_eq!(Some(content), allowed.last()),
                    _ => {}
                }
            }
            prop_assert_eq!(&disk, &crate::powercut::testing::disk(&journal, &state.to_string().parse().expect("a state")));
            let text = state.describe(&journal).expect("of this journal");
            prop_assert!(text.starts_with(&state.to_string()));
        }

        #[test]
        fn no_text_is_too_strange(text in "(torn|flush|dropped|.){0,3}[@#]?[0-9a-f]{0,30}[@#]?.{0,20}") {
            if let Ok(state) = text.parse::<State>() {
                prop_assert_eq!(state.to_string().parse::<State>().expect("its own text"), state);
            }
        }
    }

    /// The contents that the kinds of this list reach with many seeds.
    fn reached(journal: &Journal, cut: usize, kinds: &[Kind]) -> BTreeSet<Vec<Content>> {
        let states = kinds.iter().flat_map(|&kind| {
            (0..400).map(move |n| State {
                cut,
                kind,
                seed: Random::new(n).bits(),
            })
        });
        states.map(|state| disk(journal, &state)).collect()
    }

    #[test]
    fn every_subset_every_order_and_every_tear_are_reached() {
        let journal = small(vec![
            write(0, 4, false),
            Entry::Flush { covers: 1 },
            write(0, 3, false),
            write(2, 2, false),
        ]);
        let (a, b, c) = (Some(0), Some(2), Some(3));
        let dropped = reached(&journal, 4, &[Kind::Dropped]);
        let subsets = [[a, a, a, a], [b, b, b, a], [a, a, c, c], [b, b, c, c]];
        assert_eq!(dropped, subsets.iter().map(|s| s.to_vec()).collect());
        let reordered = reached(&journal, 4, &[Kind::Reordered]);
        let mut orders = dropped;
        orders.insert(vec![b, b, b, c]);
        assert_eq!(reordered, orders);
        let torn = reached(&journal, 4, &[Kind::Torn]);
        for one in [
            [b, b, b, c],
            [b, b, c, a],
            [b, a, a, c],
            [a, b, b, c],
            [a, b, c, a],
        ] {
            assert!(torn.contains(one.as_slice()), "{one:?}");
        }
        assert!(torn.iter().all(|disk| disk[0] != c && disk[3] != b));
    }

    #[test]
    fn a_flush_that_was_not_answered_guarantees_nothing() {
        let journal = small(vec![
            write(0, 1, false),
            Entry::Flush { covers: 1 },
            write(1, 1, false),
        ]);
        let lost = vec![None; 4];
        assert!(reached(&journal, 2, &[Kind::Dropped]).contains(&lost));
        let kept = reached(&journal, 3, &[Kind::Dropped, Kind::Reordered]);
        assert!(kept.iter().all(|disk| disk[0] == Some(0)), "{kept:?}");
    }

    #[test]
    fn a_write_that_was_on_its_way_is_not_covered() {
        let journal = small(vec![
            write(0, 1, false),
            write(1, 1, false),
            Entry::Flush { covers: 1 },
            write(2, 1, true),
            Entry::Flush { covers: 4 },
        ]);
        let first = journal.flushes().next().expect("a flush");
        assert_eq!(disk(&journal, &first), [Some(0), None, None, None]);
        assert!(reached(&journal, 4, &[Kind::Dropped]).contains(&vec![Some(0), None, None, None]));
        let second = journal.flushes().nth(1).expect("another flush");
        assert_eq!(disk(&journal, &second), [Some(0), Some(1), Some(3), None]);
    }

    #[test]
    fn fua_counts_when_it_is_answered_and_is_not_undone() {
        let journal = small(vec![
            write(0, 2, false),
            write(0, 1, true),
            write(3, 1, false),
        ]);
        let on_its_way = reached(&journal, 2, &[Kind::Reordered, Kind::Dropped]);
        assert!(on_its_way.contains(&vec![None; 4]));
        let answered = reached(&journal, 3, &[Kind::Reordered, Kind::Dropped, Kind::Torn]);
        assert!(
            answered.iter().all(|disk| disk[0] == Some(1)),
            "{answered:?}"
        );
        assert!(
            answered
                .iter()
                .any(|disk| disk[1].is_none() && disk[3].is_some())
        );
    }

    #[test]
    fn a_description_says_what_was_torn() {
        let journal = small(vec![Entry::Mark("update.start".into()), write(1, 2, false)]);
        let state: State = "torn@2#1".parse().expect("a state");
        let text = state.describe(&journal).expect("of this journal");
        assert!(text.contains("after mark `update.start`"), "{text}");
        assert!(
            text.contains("of entry 1, which is sectors 1..3, only"),
            "{text}"
        );
        let error = State { cut: 3, ..state }
            .describe(&journal)
            .expect_err("too late");
        assert!(error.to_string().contains("torn@3#1"), "{error}");
    }
}
