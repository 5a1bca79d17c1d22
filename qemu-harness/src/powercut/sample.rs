//! Which states of a recording to look at: every flush, and any number out of a seed.

use super::entry::Entry;
use super::journal::Journal;
use super::states::{Kind, State};
use crate::random::Random;
use std::ops::Range;

impl Journal {
    /// The states right after a flush that guaranteed something new, in order.
    pub fn flushes(&self) -> impl Iterator<Item = State> + '_ {
        let mut durable = 0;
        let mut fua = false;
        self.entries()
            .iter()
            .enumerate()
            .filter_map(move |(index, entry)| {
                fua |= entry.is_fua();
                let Entry::Flush { covers } = *entry else {
                    return None;
                };
                let fresh = self.entries().get(durable..covers).unwrap_or_default();
                let news = fua || fresh.iter().any(|entry| entry.sectors().is_some());
                durable = covers.max(durable);
                fua = false;
                news.then_some(State {
                    cut: index + 1,
                    kind: Kind::Flushed,
                    seed: 0,
                })
            })
    }

    /// The state in which nothing is lost.
    #[must_use]
    pub fn whole(&self) -> State {
        State {
            cut: self.entries().len(),
            kind: Kind::Prefix,
            seed: 0,
        }
    }

    /// `count` states of all kinds but [`Kind::Flushed`], in the order of their cuts: half of them
    /// in the regions of `focus` (see [`Journal::between`]), if there are any, and the others all over the
    /// journal. The same seed gives the same states. There are none if nothing was written.
    #[must_use]
    pub fn random(&self, seed: u64, count: usize, focus: &[Range<usize>]) -> Vec<State> {
        let mut random = Random::new(seed);
        let requests: Vec<usize> = (0..self.entries().len())
            .filter(|&n| !matches!(self.entries()[n], Entry::Mark(_)))
            .collect();
        let focused: Vec<usize> = requests
            .iter()
            .copied()
            .filter(|n| focus.iter().any(|region| region.contains(n)))
            .collect();
        let near = if focused.is_empty() { 0 } else { count / 2 };
        let mut states = self.spread(&focused, near, &mut random);
        states.extend(self.spread(&requests, count - near, &mut random));
        states.sort_unstable();
        states
    }

    /// Cuts after some of these entries: one in each of `count` equal parts of them.
    fn spread(&self, after: &[usize], count: usize, random: &mut Random) -> Vec<State> {
        if after.is_empty() {
            return Vec::new();
        }
        let kinds = [Kind::Prefix, Kind::Dropped, Kind::Reordered, Kind::Torn];
        let scale = |part: usize| part * after.len() / count;
        let state = |part: usize| {
            let (low, high) = (scale(part), scale(part + 1));
            let mut place = low + random.index(high - low);
            let kind = kinds[random.index(kinds.len())];
            if kind == Kind::Torn {
                // What was written last is what is torn, if it can be.
                let parted = |n: &usize| {
                    self.entries()[after[*n]]
                        .sectors()
                        .is_some_and(|(_, s)| s > 1)
                };
                place = (low..=place).rev().find(parted).unwrap_or(place);
            }
            State {
                cut: after[place] + 1,
                kind,
                seed: random.bits(),
            }
        };
        (0..count).map(state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::testing::{disk, journal, small, write};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_flush_state_has_all_that_it_covers(journal in journal()) {
            let mut last = 0;
            for state in journal.flushes() {
                prop_assert!(state.cut > last);
                last = state.cut;
                let Entry::Flush { covers } = journal.entries()[state.cut - 1] else {
                    panic!("{state} is after no flush");
                };
                let survivors = state.survivors(&journal).expect("of this journal");
                prop_assert!(survivors.durable >= covers);
            }
        }

        #[test]
        fn a_seed_is_a_list_of_states(journal in journal(), seed: u64, count in 0..40_usize) {
            let half = journal.entries().len() / 2;
            let focus = vec![0..half / 2, half / 2..half];
            let states = journal.random(seed, count, &focus);
            prop_assert_eq!(&states, &journal.random(seed, count, &focus));
            let written = journal.entries().iter().any(|e| !matches!(e, Entry::Mark(_)));
            prop_assert_eq!(states.len(), if written { count } else { 0 });
            prop_assert!(states.is_sorted_by_key(|state| state.cut));
            for state in &states {
                prop_assert!(state.cut > 0 && state.survivors(&journal).is_ok());
            }
            let request = |e: &Entry| !matches!(e, Entry::Mark(_));
            if journal.entries()[..half].iter().any(request) {
                let near = states.iter().filter(|state| state.cut <= half).count();
                prop_assert!(near >= count / 2);
            }
        }
    }

    #[test]
    fn flushes_without_news_are_no_states() {
        let flush = |covers| Entry::Flush { covers };
        let journal = small(vec![
            flush(0),
            Entry::Mark("x".into()),
            flush(2),
            write(0, 1, false),
            flush(4),
            flush(5),
        ]);
        let cuts: Vec<usize> = journal.flushes().map(|state| state.cut).collect();
        assert_eq!(cuts, [5]);
        assert_eq!(
            disk(&journal, &journal.whole()),
            [Some(3), None, None, None]
        );
    }
}
