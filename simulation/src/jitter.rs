//! Whether the delays of restarts, retries and deferred starts are spread as their jitter says.
//!
//! The model judges each delay by its bounds. That it is drawn at random between them shows only in many of them: a core
//! without jitter, or with the same for every machine, keeps all bounds. So each delay is put into a bin by its place
//! between its bounds, and when there are enough of them no bin is nearly empty.

use super::invariants::{Checked, Law, check};
use std::time::Duration;

const BINS: usize = 8;

/// So many delays for each bin are enough: one in 10^13 runs has a bin with less than a tenth of that.
const ENOUGH: u64 = 50;

/// The first delays of the seeds are fewer.
const FIRST_BINS: usize = 4;
const FIRST_ENOUGH: u64 = 15;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Jitter {
    drawn: [[u64; BINS]; 3],
    /// The first delay of each seed.
    first: [u64; FIRST_BINS],
}

/// The laws that draw delays.
const LAWS: [Law; 3] = [Law::Backoff, Law::RetryAfter, Law::Deferral];

/// The place of a delay between its bounds, in so many steps.
fn bin(bins: usize, (low, high): (Duration, Duration), delay: Duration) -> usize {
    let part = (delay - low).as_secs_f64() / (high - low).as_secs_f64();
    let steps = (1..bins).filter(|step| part >= *step as f64 / bins as f64);
    steps.count()
}

impl Jitter {
    /// A delay within its bounds. Where these are all but one, nothing was drawn.
    pub fn add(&mut self, law: Law, bounds: (Duration, Duration), delay: Duration) {
        let drawn = bounds.1 - bounds.0 > Duration::from_micros(1);
        let Some(place) = LAWS.iter().position(|l| *l == law).filter(|_| drawn) else {
            return;
        };
        if self.drawn == [[0; BINS]; 3] {
            self.first[bin(FIRST_BINS, bounds, delay)] += 1;
        }
        self.drawn[place][bin(BINS, bounds, delay)] += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        let ours = self.drawn.iter_mut().flatten().chain(&mut self.first);
        for (sum, more) in ours.zip(other.drawn.iter().flatten().chain(&other.first)) {
            *sum += more;
        }
    }

    /// No bin is nearly empty.
    pub fn judge(&self) -> Checked {
        for (law, bins) in LAWS.into_iter().zip(&self.drawn) {
            let all: u64 = bins.iter().sum();
            let enough = all >= ENOUGH * BINS as u64;
            let spread = bins.iter().all(|bin| bin * 10 * BINS as u64 >= all);
            check(!enough || spread, law, || {
                format!("delays between their bounds, from the shortest to the longest: {bins:?}")
            })?;
        }
        let first = &self.first;
        let all: u64 = first.iter().sum();
        let enough = all >= FIRST_ENOUGH * FIRST_BINS as u64;
        let spread = first.iter().all(|bin| bin * 10 * FIRST_BINS as u64 >= all);
        check(!enough || spread, Law::Backoff, || {
            format!("the first delays of all seeds, between their bounds: {first:?}")
        })
    }

    /// How many delays were looked at.
    pub fn count(&self) -> u64 {
        self.drawn.iter().flatten().sum()
    }
}
