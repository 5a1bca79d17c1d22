//! A state's disk, before the [judge](crate::judge).

use super::SECTOR;
use super::view::View;
use crate::judge::Disk;
use anyhow::{Context, Result};
use std::ops::Range;

impl Disk for View<'_> {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        View::read_at(self, offset, buffer)
            .with_context(|| format!("cannot read {} bytes at {offset}", buffer.len()))
    }

    fn unchanged(&self, range: Range<u64>) -> bool {
        self.tiles(range.start / SECTOR, range.end.div_ceil(SECTOR))
            .iter()
            .all(|tile| tile.source.is_none())
    }
}
