//! Whom to believe, of the servers that answered (after RFC 5905, section 11.2.1).
//!
//! A server's word is an interval: its offset, give or take how wrong it may be by its own account
//! and by the time that the answer took. Two servers agree if their intervals meet.
//!
//! Of three or more, only those count with which more than half of all agree (with themselves
//! counted); of these the one in the middle is taken. So a minority of wrong clocks never wins:
//! those that tell the truth agree with each other and are more than half, hence all of them count,
//! and what lies in the middle has one of them on either side. When there is no such majority,
//! nobody is believed. Of two, or of one, there is no telling: the one that says it is closer to
//! the truth is taken.

use std::time::Duration;

/// As precise as an answer is taken to be at best, either way (RFC 5905, `MINDISP`): the stamps of
/// both sides are made by programs.
const PRECISION: Duration = Duration::from_millis(5);

/// One server's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// How far the wall clock is behind the server, in nanoseconds.
    pub offset: i64,
    /// How wrong that may be.
    pub distance: Duration,
}

impl Word {
    /// Whether both can be right.
    pub fn agrees(&self, other: &Word) -> bool {
        let apart = self.offset.abs_diff(other.offset);
        let slack = self.distance + other.distance + PRECISION * 2;
        u128::from(apart) <= slack.as_nanos()
    }
}

/// The place of the one to believe, if there is one.
pub fn choose(words: &[Word]) -> Option<usize> {
    let all = words.iter().enumerate();
    if words.len() < 3 {
        return all.min_by_key(|(_, word)| word.distance).map(|(at, _)| at);
    }
    let supported = |word: &Word| words.iter().filter(|other| word.agrees(other)).count();
    let mut credible: Vec<(usize, &Word)> = all
        .filter(|(_, word)| supported(word) * 2 > words.len())
        .collect();
    credible.sort_by_key(|(_, word)| word.offset);
    let middle = credible.len().saturating_sub(1) / 2;
    credible.get(middle).map(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000_000;

    fn word(offset: i64, distance_ms: u64) -> Word {
        Word {
            offset,
            distance: Duration::from_millis(distance_ms),
        }
    }

    #[test]
    fn few_are_believed_by_their_distance() {
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[word(7, 9)]), Some(0));
        assert_eq!(choose(&[word(0, 9), word(5 * SECOND, 8)]), Some(1));
    }

    #[test]
    fn without_a_majority_nobody_is_believed() {
        let apart = [word(0, 1), word(SECOND, 1), word(2 * SECOND, 1)];
        assert_eq!(choose(&apart), None);
        let halves = [word(0, 1), word(1, 1), word(SECOND, 1), word(SECOND + 1, 1)];
        assert_eq!(choose(&halves), None);
    }

    #[test]
    fn the_best_distance_does_not_buy_a_majority() {
        let words = [word(-3600 * SECOND, 0), word(0, 90), word(SECOND / 50, 80)];
        assert_eq!(choose(&words), Some(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

        /// Truthful ones are off by less than they say; liars say anything.
        #[test]
        fn a_minority_of_liars_never_wins(
            truths in proptest::collection::vec((-1.0f64..=1.0, 0u64..1500), 2..4),
            lies in proptest::collection::vec((any::<i32>(), 0u64..1500), 1..3),
            turn in 0usize..4,
        ) {
            let lies = &lies[..lies.len().min(truths.len() - 1)];
            let honest = truths.iter().map(|(share, distance)| {
                #[expect(clippy::cast_possible_truncation, reason = "below 1.5e9")]
                let offset = (share * 1e6) as i64 * i64::try_from(*distance).unwrap();
                word(offset, *distance)
            });
            let low = honest.clone().map(|w| w.offset).min().unwrap();
            let high = honest.clone().map(|w| w.offset).max().unwrap();
            let liars = lies.iter().map(|(offset, distance)| word(i64::from(*offset) * 1000, *distance));
            let mut words: Vec<Word> = honest.chain(liars).collect();
            let count = words.len();
            words.rotate_left(turn % count);
            // There is a majority, so somebody is believed; and never beyond what honest ones say.
            let chosen = words[choose(&words).expect("a majority")];
            prop_assert!((low..=high).contains(&chosen.offset), "{words:?} {chosen:?}");
        }
    }
}
