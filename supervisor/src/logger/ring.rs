//! The last lines of one source, in memory.
//!
//! What `initctl logs` shows, and what an exit record takes the last words from. Bounded by
//! bytes, not by lines, because it is memory that has to be bounded: a line costs its text and
//! [`OVERHEAD`], so that a million empty lines are no way around the bound.

use super::Line;
use std::collections::VecDeque;

/// What a source keeps: some six hundred lines of a hundred bytes, which is what somebody reads
/// back to find a cause. A machine has a dozen sources, so all of them stay below a megabyte.
pub const RING_MAX: usize = 64 * 1024;

/// What a line costs besides its text: the entry, and the head of its allocation.
pub const OVERHEAD: usize = size_of::<Line>() + 16;

/// See the module.
#[derive(Debug, Default)]
pub struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Ring {
    /// Keeps a line; the oldest ones go if there is no room.
    pub fn push(&mut self, line: Line) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.bytes > RING_MAX {
            match self.lines.pop_front() {
                Some(oldest) => self.bytes -= cost(&oldest),
                None => break,
            }
        }
    }

    /// The last `count` lines, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &Line> {
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(count))
    }
}

/// The last `count` lines of all these rings together, in the order in which they came.
#[must_use]
pub fn merged<'a>(rings: impl Iterator<Item = &'a Ring>, count: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = rings.flat_map(|ring| ring.last(count)).cloned().collect();
    lines.sort_by_key(|line| line.number);
    lines.split_off(lines.len().saturating_sub(count))
}

fn cost(line: &Line) -> usize {
    line.text.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(number: u64, text: &str) -> Line {
        Line {
            number,
            at_ms: number,
            source: 0,
            text: text.into(),
        }
    }

    #[test]
    fn rings_merge_in_order_of_coming() {
        let mut rings = [Ring::default(), Ring::default()];
        for number in 0..10 {
            rings[usize::from(number % 3 == 0)].push(line(number, "x"));
        }
        let numbers = |count| -> Vec<u64> {
            let lines = merged(rings.iter(), count);
            lines.iter().map(|l| l.number).collect()
        };
        assert_eq!(numbers(4), [6, 7, 8, 9]);
        assert_eq!(numbers(100), (0..10).collect::<Vec<_>>());
        assert!(numbers(0).is_empty());
    }

    proptest! {
        #[test]
        fn the_newest_lines_stay_and_the_bound_holds(lengths in proptest::collection::vec(0usize..5000, 1..200)) {
            let mut ring = Ring::default();
            for (number, length) in (0u64..).zip(&lengths) {
                ring.push(line(number, &"x".repeat(*length)));
            }
            let kept: Vec<&Line> = ring.last(usize::MAX).collect();
            prop_assert!(kept.iter().map(|l| cost(l)).sum::<usize>() <= RING_MAX);
            let first = lengths.len() - kept.len();
            for (number, line) in (first..).zip(&kept) {
                prop_assert_eq!(line.number, number as u64);
                prop_assert_eq!(line.text.len(), lengths[number]);
            }
            // One more would not have fitted.
            if let Some(before) = first.checked_sub(1) {
                let bytes: usize = lengths[before..].iter().map(|l| l + OVERHEAD).sum();
                prop_assert!(bytes > RING_MAX);
            }
        }
    }

    #[test]
    fn empty_lines_are_bounded_too() {
        let mut ring = Ring::default();
        for number in 0..100_000 {
            ring.push(line(number, ""));
        }
        assert_eq!(ring.last(usize::MAX).count(), RING_MAX / OVERHEAD);
        assert_eq!(ring.last(1).next().unwrap().number, 99_999);
    }
}
