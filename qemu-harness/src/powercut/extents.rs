//! Which bytes lie where: a map from sectors to what was last written there.
//!
//! The map holds ranges that do not overlap; whatever is not in it was not written. A new range
//! cuts what it covers out of older ones. A stream of writes that follow each other on the disk
//! and in the data file is one range, so a map stays small when a whole partition is written.

use super::SECTOR;
use std::collections::BTreeMap;

/// Where the bytes of a range are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the data file, the first one here.
    Data(u64),
    /// Nowhere: they are zero.
    Zero,
}

impl Source {
    /// The same from `sectors` further on.
    #[must_use]
    pub const fn after(self, sectors: u64) -> Self {
        match self {
            Self::Data(position) => Self::Data(position + sectors * SECTOR),
            Self::Zero => Self::Zero,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    sectors: u64,
    source: Source,
}

/// A part of a range: all from one source, or not written at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// What was written, if anything.
    pub source: Option<Source>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtentMap(BTreeMap<u64, Extent>);

impl ExtentMap {
    /// Puts a range over what was there before.
    pub fn insert(&mut self, start: u64, sectors: u64, source: Source) {
        if sectors == 0 {
            return;
        }
        self.cut_out(start, start + sectors);
        if let Some((_, before)) = self
            .0
            .range_mut(..start)
            .next_back()
            .filter(|(at, extent)| {
                *at + extent.sectors == start && extent.source.after(extent.sectors) == source
            })
        {
            before.sectors += sectors;
        } else {
            self.0.insert(start, Extent { sectors, source });
        }
    }

    /// The sectors `start..end` in order, those that were not written included.
    #[must_use]
    pub fn tiles(&self, start: u64, end: u64) -> Vec<Tile> {
        let mut tiles = Vec::new();
        let mut at = start;
        let mut push = |from: u64, to: u64, source| {
            if from < to {
                tiles.push(Tile {
                    start: from,
                    sectors: to - from,
                    source,
                });
            }
        };
        let first = self
            .0
            .range(..=start)
            .next_back()
            .map_or(start, |(&first, _)| first);
        for (&from, extent) in self.0.range(first..end.max(first)) {
            let to = (from + extent.sectors).min(end);
            if to <= at {
                continue;
            }
            push(at, from.max(at), None);
            at = from.max(at);
            push(at, to, Some(extent.source.after(at - from)));
            at = to;
        }
        push(at, end, None);
        tiles
    }

    fn cut_out(&mut self, start: u64, end: u64) {
        if let Some((&from, extent)) = self.0.range_mut(..start).next_back() {
            let to = from + extent.sectors;
            if to > start {
                let source = extent.source;
                extent.sectors = start - from;
                self.put_back(from, to, end, source);
            }
        }
        while let Some((&from, &extent)) = self.0.range(start..end).next() {
            self.0.remove(&from);
            self.put_back(from, from + extent.sectors, end, extent.source);
        }
    }

    /// Of an extent `from..to`, what lies behind `end`.
    fn put_back(&mut self, from: u64, to: u64, end: u64, source: Source) {
        if to > end {
            let extent = Extent {
                sectors: to - end,
                source: source.after(end - from),
            };
            self.0.insert(end, extent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stream_is_one_range() {
        let mut map = ExtentMap::default();
        for n in 0..100 {
            map.insert(8 + n, 1, Source::Data(4096 + n * SECTOR));
        }
        assert_eq!(map.0.len(), 1);
        // The same place of the disk, but not of the data.
        map.insert(108, 1, Source::Data(0));
        assert_eq!(map.0.len(), 2);
    }

    const DISK: u64 = 40;

    proptest! {
        #[test]
        fn it_is_what_an_array_of_sectors_is(
            writes in prop::collection::vec((0..DISK, 0..DISK, any::<bool>()), 0..40),
            asked in (0..DISK, 0..=DISK),
        ) {
            let mut map = ExtentMap::default();
            let mut array: Vec<Option<Source>> = vec![None; 40];
            for (number, (start, sectors, zero)) in writes.into_iter().enumerate() {
                let sectors = sectors.min(DISK - start);
                let position = number as u64 * 1_000_000;
                let source = if zero { Source::Zero } else { Source::Data(position) };
                map.insert(start, sectors, source);
                for n in 0..sectors {
                    array[usize::try_from(start + n).expect("small")] = Some(source.after(n));
                }
            }
            let (start, end) = asked;
            let mut at = start;
            for tile in map.tiles(start, end) {
                prop_assert_eq!(tile.start, at);
                prop_assert!(tile.sectors > 0);
                for n in 0..tile.sectors {
                    let place = usize::try_from(at + n).expect("small");
                    prop_assert_eq!(tile.source.map(|s| s.after(n)), array[place]);
                }
                at += tile.sectors;
            }
            prop_assert_eq!(at, end.max(start));
        }
    }
}
