//! Counts of several boots: phases, medians, how far boots lie apart, ratios.

use anyhow::{Context, Result, ensure};

use super::told::Told;

/// What lies between two marks, in the order of the boot: EFI stub to init in the initramfs, to the mounted root, to
/// the runtime's program, to its first 200.
pub const PHASES: [&str; 4] = ["kernel", "initramfs", "root", "runtime"];

/// The instructions of one boot.
#[derive(Debug, Clone)]
pub struct Count {
    /// Before the kernel: firmware and loader.
    pub before: u64,
    /// Of each phase.
    pub phases: [u64; PHASES.len()],
    /// What the guest told.
    pub told: Told,
}

impl Count {
    /// Of the counts at the five marks.
    ///
    /// # Errors
    /// When they are not in the order of the boot.
    pub fn new(marks: [u64; PHASES.len() + 1], told: Told) -> Result<Self> {
        let mut phases = [0; PHASES.len()];
        for ((phase, pair), name) in phases.iter_mut().zip(marks.windows(2)).zip(PHASES) {
            let [from, to] = *pair else { continue };
            *phase = to
                .checked_sub(from)
                .with_context(|| format!("the end of `{name}` was seen before its beginning"))?;
        }
        Ok(Self {
            before: marks[0],
            phases,
            told,
        })
    }

    /// From the kernel's start to health.
    pub fn total(&self) -> u64 {
        self.phases.iter().sum()
    }
}

/// One figure of several boots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The middle one; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The largest over the smallest, minus one.
    pub apart: f64,
}

impl Figure {
    /// Of the values of some boots.
    ///
    /// # Errors
    /// When there are none.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Result<Self> {
        let mut sorted: Vec<u64> = values.into_iter().collect();
        sorted.sort_unstable();
        let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else {
            anyhow::bail!("nothing was measured");
        };
        let at = |index: usize| sorted.get(index).map_or(0.0, |value| float(*value));
        let high = sorted.len() / 2;
        let low = (sorted.len() - 1) / 2;
        Ok(Self {
            median: f64::midpoint(at(low), at(high)),
            apart: if least == 0 {
                0.0
            } else {
                float(most) / float(least) - 1.0
            },
        })
    }
}

/// Counts of a boot are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float(count: u64) -> f64 {
    count as f64
}

/// The median of the totals over that of others.
///
/// # Errors
/// When one of them has no boots.
pub fn ratio(ours: &[Count], other: &[Count]) -> Result<f64> {
    let median = |counts: &[Count]| Figure::of(counts.iter().map(Count::total)).map(|f| f.median);
    let base = median(other)?;
    ensure!(base > 0.0, "no instructions were counted");
    Ok(median(ours)? / base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(marks: [u64; 5]) -> Result<Count> {
        Count::new(
            marks,
            Told::read(["ran ns=1", "pid1 rss=1 anon=1 private=1"]).expect("a report"),
        )
    }

    #[test]
    fn phases_lie_between_marks() {
        let boot = count([100, 300, 600, 1000, 1500]).expect("in order");
        assert_eq!((boot.before, boot.phases), (100, [200, 300, 400, 500]));
        assert_eq!(boot.total(), 1400);
        let error = count([100, 300, 200, 1000, 1500]).expect_err("out of order");
        assert!(error.to_string().contains("`initramfs`"), "{error}");
    }

    #[test]
    fn a_figure_has_the_median_and_how_far_boots_lie_apart() {
        let figure = Figure::of([104, 100, 101]).expect("three");
        assert_eq!(figure.median, 101.0);
        assert!((figure.apart - 0.04).abs() < 1e-9, "{figure:?}");
        assert_eq!(Figure::of([4, 1, 3, 2]).expect("four").median, 2.5);
        assert_eq!(
            Figure::of([7]).expect("one"),
            Figure {
                median: 7.0,
                apart: 0.0
            }
        );
        assert!(Figure::of([]).is_err());
    }

    #[test]
    fn ratios_are_of_medians() {
        let boots = |ends: &[u64]| -> Vec<Count> {
            let one = |end: &u64| count([0, 10, 20, 30, *end]).expect("in order");
            ends.iter().map(one).collect()
        };
        let ratio = |a: &[u64], b: &[u64]| ratio(&boots(a), &boots(b));
        assert_eq!(ratio(&[50, 51, 99], &[100, 102, 104]).expect("both"), 0.5);
        assert!(ratio(&[50], &[]).is_err());
    }
}
