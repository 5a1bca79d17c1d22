//! Reads the disk of a state.
//!
//! Thousands of states of one recording are looked at. Building the map of each from the first entry
//! on would take most of the time, so a [`Replayer`] keeps the map of what is durable and moves it on
//! from state to state; what is not durable in a state is a small map of its own on top. States in the
//! order of their cuts, as [`Journal::random`](super::Journal::random) gives them, are the quick way.

use super::SECTOR;
use super::extents::{ExtentMap, Tile};
use super::files::Files;
use super::journal::Recording;
use super::states::State;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Gives the views of a recording's states.
#[derive(Debug)]
pub struct Replayer<'a> {
    recording: &'a Recording,
    durable: Arc<ExtentMap>,
    /// The entries that are in it.
    upto: usize,
}

/// The disk of one state.
#[derive(Debug)]
pub struct View<'a> {
    files: &'a Files,
    size: u64,
    durable: Arc<ExtentMap>,
    later: ExtentMap,
}

impl Recording {
    /// The disk of one state; for many, take a [`Replayer`].
    ///
    /// # Errors
    /// When the state is of another journal.
    pub fn view(&self, state: &State) -> Result<View<'_>> {
        Replayer::new(self).view(state)
    }
}

impl<'a> Replayer<'a> {
    /// Begins with the first entry.
    #[must_use]
    pub fn new(recording: &'a Recording) -> Self {
        Self {
            recording,
            durable: Arc::default(),
            upto: 0,
        }
    }

    /// The disk of a state. A view that is kept costs the next one a copy of the map.
    ///
    /// # Errors
    /// When the state is of another journal.
    pub fn view(&mut self, state: &State) -> Result<View<'a>> {
        let journal = &self.recording.journal;
        let survivors = state.survivors(journal)?;
        if survivors.durable < self.upto {
            (self.durable, self.upto) = (Arc::default(), 0);
        }
        let whole = 0..u64::MAX;
        let fresh = journal.entries().get(self.upto..survivors.durable);
        let map = Arc::make_mut(&mut self.durable);
        for entry in fresh.unwrap_or_default() {
            entry.apply(&whole, map);
        }
        self.upto = survivors.durable;
        let mut later = ExtentMap::default();
        for piece in &survivors.later {
            if let Some(entry) = journal.entries().get(piece.entry) {
                entry.apply(&piece.sectors, &mut later);
            }
        }
        Ok(View {
            files: &self.recording.files,
            size: journal.size(),
            durable: Arc::clone(&self.durable),
            later,
        })
    }
}

impl View<'_> {
    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads any bytes.
    ///
    /// # Errors
    /// When they are not on the disk, or a file cannot be read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        let end = end.filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let tiles = self.tiles(offset / SECTOR, end.div_ceil(SECTOR));
        self.files.read(&tiles, offset, buffer)
    }

    /// Writes some bytes of the disk into a new sparse file, such as a partition to be checked.
    ///
    /// # Errors
    /// When they are not whole sectors of the disk, or a file cannot be read or written.
    pub fn materialise(&self, bytes: &Range<u64>, out: &Path) -> Result<()> {
        let Range { start, end } = *bytes;
        let shown = out.display();
        ensure!(
            start <= end && end <= self.size && start % SECTOR == 0 && end % SECTOR == 0,
            "bytes {start}..{end} are no sectors of a disk of {} bytes",
            self.size
        );
        // A new file, not the old one emptied: ext4 has a file that was cut to nothing on the disk of
        // the host as soon as it is closed (ext4(5), auto_da_alloc), and here are thousands.
        match fs::remove_file(out) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot replace {shown}"));
            }
            _ => {}
        }
        let file = File::create_new(out).with_context(|| format!("cannot make {shown}"))?;
        let written = file.set_len(end - start).and_then(|()| {
            let tiles = self.tiles(start / SECTOR, end / SECTOR);
            self.files.copy(&tiles, start, &file)
        });
        written.with_context(|| format!("cannot write a part of the disk to {shown}"))
    }

    /// Writes the disk into a new sparse file, to be booted.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn materialise_all(&self, out: &Path) -> Result<()> {
        self.materialise(&(0..self.size), out)
    }

    /// Where each sector of a range comes from.
    pub(super) fn tiles(&self, start: u64, end: u64) -> Vec<Tile> {
        let layered = |tile: Tile| match tile.source {
            Some(_) => vec![tile],
            None => self.durable.tiles(tile.start, tile.start + tile.sectors),
        };
        let later = self.later.tiles(start, end);
        later.into_iter().flat_map(layered).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::device::Device;
    use crate::powercut::entry::Entry;
    use crate::powercut::states::Kind;
    use crate::powercut::testing::{Scratch, journal};
    use proptest::prelude::*;

    /// A recording with the requests of `journal` on a disk of 16 sectors. Entry n writes n + 1.
    fn record(scratch: &Scratch, journal: &[Entry]) -> Recording {
        let base = scratch.image(16);
        let device = Device::create(&base, scratch.path()).expect("a disk");
        for (index, entry) in journal.iter().enumerate() {
            match *entry {
                Entry::Write {
                    offset, len, fua, ..
                } => {
                    let len = usize::try_from(len).expect("small");
                    let byte = u8::try_from(index + 1).expect("few");
                    device.write(offset, &vec![byte; len], fua).map(drop)
                }
                Entry::Zero {
                    offset,
                    len,
                    trim,
                    fua,
                } => device.zero(offset, len, trim, fua).map(drop),
                Entry::Flush { covers } => device.flush(covers),
                Entry::Mark(ref text) => device.mark(text),
            }
            .expect("recorded");
        }
        Recording::open(&base, scratch.path()).expect("a recording")
    }

    /// The disk of a state, made the slow way.
    fn naive(recording: &Recording, state: &State) -> Vec<u8> {
        let journal = &recording.journal;
        let mut disk: Vec<u8> = (100..116).flat_map(|n| [n; 512]).collect();
        let mut put = |index: usize, part: Range<u64>| {
            let entry = &journal.entries()[index];
            let (start, sectors) = entry.sectors().unwrap_or_default();
            let byte = match entry {
                Entry::Write { .. } => u8::try_from(index + 1).expect("few"),
                _ => 0,
            };
            let place = |n: u64| usize::try_from((start + n) * 512).expect("small");
            if part.start < sectors {
                disk[place(part.start)..place(part.end.min(sectors))].fill(byte);
            }
        };
        let survivors = state.survivors(journal).expect("of this journal");
        (0..survivors.durable).for_each(|index| put(index, 0..u64::MAX));
        for piece in survivors.later {
            put(piece.entry, piece.sectors);
        }
        disk
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_view_is_what_the_requests_make_one_by_one(
            journal in journal(), seed: u64, (start, len) in (0..8192_u64, 0..8192_u64),
        ) {
            let scratch = Scratch::new("view");
            let recording = record(&scratch, journal.entries());
            let mut states = recording.journal.random(seed, 20, &[]);
            states.extend(recording.journal.flushes());
            states.push(recording.journal.whole());
            let mut replayer = Replayer::new(&recording);
            let out = scratch.path().join("out");
            let len = len.min(8192 - start);
            for state in &states {
                let view = replayer.view(state).expect("of this journal");
                let disk = naive(&recording, state);
                let mut part = vec![0; usize::try_from(len).expect("small")];
                view.read_at(start, &mut part).expect("on the disk");
                let from = usize::try_from(start).expect("small");
                prop_assert_eq!(&part, &disk[from..from + part.len()]);
                view.materialise_all(&out).expect("written");
                prop_assert_eq!(&std::fs::read(&out).expect("a file"), &disk);
                view.materialise(&(1024..4096), &out).expect("written");
                prop_assert_eq!(&std::fs::read(&out).expect("a file"), &disk[1024..4096]);
            }
        }
    }

    #[test]
    fn holes_of_the_image_stay_holes() {
        let scratch = Scratch::new("holes");
        let base = scratch.path().join("base");
        let size = 64 << 20;
        let file = File::create(&base).expect("an image");
        file.set_len(size).expect("a hole");
        let device = Device::create(&base, scratch.path()).expect("a disk");
        device.write(size - 512, &[7; 512], false).expect("written");
        device.zero(0, 1 << 20, false, false).expect("zeroed");
        let recording = Recording::open(&base, scratch.path()).expect("a recording");
        let view = recording.view(&recording.journal.whole()).expect("a view");
        let out = scratch.path().join("out");
        view.materialise_all(&out).expect("written");
        let meta = std::fs::metadata(&out).expect("a file");
        assert_eq!(meta.len(), size);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&meta);
        assert!(blocks * 512 <= 1 << 20, "{blocks} blocks");
        let mut last = [0; 2];
        view.read_at(size - 2, &mut last).expect("on the disk");
        assert_eq!(last, [7, 7]);
    }

    #[test]
    fn what_is_not_on_the_disk_is_refused() {
        let scratch = Scratch::new("bounds");
        let recording = record(&scratch, &[]);
        let view = recording.view(&recording.journal.whole()).expect("a view");
        assert!(view.read_at(8191, &mut [0; 2]).is_err());
        assert!(view.read_at(u64::MAX, &mut [0; 2]).is_err());
        let out = scratch.path().join("out");
        for bytes in [0..8704, 1..512, 0..511] {
            let error = view.materialise(&bytes, &out).expect_err("no sectors");
            assert!(error.to_string().contains("8192 bytes"), "{error}");
        }
        let kind = Kind::Prefix;
        let state = State {
            cut: 1,
            kind,
            seed: 0,
        };
        assert!(recording.view(&state).is_err());
    }
}
