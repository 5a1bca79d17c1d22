//! What the tests of this module share.

use super::SECTOR;
use super::entry::Entry;
use super::journal::Journal;
use super::states::State;
use proptest::prelude::*;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is gone when the test is.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("powercut-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// An image of `sectors` sectors, each full of its number plus 100.
    pub fn image(&self, sectors: u8) -> PathBuf {
        let path = self.0.join("base");
        let bytes: Vec<u8> = (0..sectors)
            .flat_map(|n| [n.wrapping_add(100); 512])
            .collect();
        fs::write(&path, bytes).expect("an image");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is only waste.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Any entry that fits a disk of 16 sectors and 1500 bytes more of data than it is long.
pub fn entry() -> impl Strategy<Value = Entry> {
    let (offset, len) = (0..8_u64, 1..8_u64);
    let (position, fua) = (0..1000_u64, any::<bool>());
    prop_oneof![
        (offset.clone(), len.clone(), position, fua).prop_map(|(offset, len, position, fua)| {
            let (offset, len) = (offset * SECTOR, len * SECTOR);
            Entry::Write {
                offset,
                len,
                position,
                fua,
            }
        }),
        (offset, len, any::<bool>(), any::<bool>()).prop_map(|(offset, len, trim, fua)| {
            let (offset, len) = (offset * SECTOR, len * SECTOR);
            Entry::Zero {
                offset,
                len,
                trim,
                fua,
            }
        }),
        Just(Entry::Flush { covers: 0 }),
        "[^\\r\\n]{0,20}".prop_map(Entry::Mark),
    ]
}

/// The journal of a small disk. Flushes cover what they like of what came before, as the writes on
/// their way have it.
pub fn journal() -> impl Strategy<Value = Journal> {
    prop::collection::vec((entry(), 0..3_usize), 0..24).prop_map(|all| {
        let mut entries = Vec::new();
        for (index, (entry, open)) in all.into_iter().enumerate() {
            entries.push(match entry {
                Entry::Flush { .. } => Entry::Flush {
                    covers: index.saturating_sub(open),
                },
                Entry::Mark(_) => Entry::Mark("here".into()),
                other => other,
            });
        }
        Journal::new(16 * SECTOR, entries, 8192).expect("all inside")
    })
}

/// What a sector holds: the entry that wrote it, or nothing new.
pub type Content = Option<usize>;

/// What survived, written to an array.
pub fn disk(journal: &Journal, state: &State) -> Vec<Content> {
    let survivors = state.survivors(journal).expect("of this journal");
    let mut disk = vec![None; usize::try_from(journal.size() / 512).expect("small")];
    let mut put = |index: usize, part: Range<u64>| {
        let (start, sectors) = journal.entries()[index].sectors().unwrap_or_default();
        for n in part.start..part.end.min(sectors) {
            disk[usize::try_from(start + n).expect("small")] = Some(index);
        }
    };
    (0..survivors.durable).for_each(|index| put(index, 0..u64::MAX));
    for piece in survivors.later {
        put(piece.entry, piece.sectors);
    }
    disk
}

/// A write of whole sectors, whose bytes do not matter.
pub fn write(start: u64, sectors: u64, fua: bool) -> Entry {
    Entry::Write {
        offset: start * 512,
        len: sectors * 512,
        position: 0,
        fua,
    }
}

/// The journal of a disk of four sectors.
pub fn small(entries: Vec<Entry>) -> Journal {
    Journal::new(4 * 512, entries, 4 * 512).expect("a journal")
}
