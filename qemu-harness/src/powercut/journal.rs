//! The record of everything that was asked of a disk, in order.
//!
//! On the host it is two files: `disk.journal`, a line of text for each request, and `disk.data`, the
//! bytes of all writes one after the other. Both only ever grow, so they are whole however the
//! harness ends; a last line without its end is not counted. A [mark](Entry::Mark) is put between the
//! requests by whoever watches the machine, and says what it was doing.

use super::entry::Entry;
use super::files::Files;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

/// The first word of a journal and its version.
const MAGIC: &str = "disk-journal 1";
/// The file of requests in a recording's folder.
pub const JOURNAL: &str = "disk.journal";
/// The file of written bytes beside it.
pub const DATA: &str = "disk.data";

/// What was asked of a disk, without the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    size: u64,
    entries: Vec<Entry>,
}

impl Journal {
    /// The journal of a disk of `size` bytes with `data` bytes of written data.
    ///
    /// # Errors
    /// When an entry is outside of the disk, the data, or its time.
    pub fn new(size: u64, entries: Vec<Entry>, data: u64) -> Result<Self> {
        for (index, entry) in entries.iter().enumerate() {
            entry
                .check(index, size, data)
                .with_context(|| format!("entry {index}"))?;
        }
        Ok(Self { size, entries })
    }

    /// Reads the text of a journal.
    fn parse(text: &str, data: u64) -> Result<Self> {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.split('\n');
        let size = lines
            .next()
            .and_then(|head| head.strip_prefix(MAGIC)?.trim().parse().ok())
            .context("it does not begin as the journal of a disk")?;
        let entries = lines.map(str::parse).collect::<Result<Vec<Entry>>>()?;
        Self::new(size, entries, data)
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All entries in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries between two marks: the first that begins with `from`, and the next after it that
    /// begins with `to`.
    ///
    /// # Errors
    /// Names the mark that is missing.
    pub fn between(&self, from: &str, to: &str) -> Result<Range<usize>> {
        let find = |start: usize, wanted: &str| {
            let is = |entry: &Entry| matches!(entry, Entry::Mark(t) if t.starts_with(wanted));
            let place = self.entries.iter().skip(start).position(is);
            place
                .map(|place| start + place)
                .with_context(|| format!("no mark `{wanted}` from entry {start} on"))
        };
        let start = find(0, from)?;
        Ok(start..find(start + 1, to)?)
    }

    /// The last mark before entry `index`.
    #[must_use]
    pub fn mark_before(&self, index: usize) -> Option<&str> {
        let before = self.entries.get(..index).unwrap_or(&self.entries);
        before.iter().rev().find_map(|entry| match entry {
            Entry::Mark(text) => Some(text.as_str()),
            _ => None,
        })
    }
}

/// Appends to the file of a journal.
#[derive(Debug)]
pub struct Writer {
    file: File,
    entries: usize,
}

impl Writer {
    /// Begins a journal.
    ///
    /// # Errors
    /// When the file is there already or cannot be made.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        file.write_all(format!("{MAGIC} {size}\n").as_bytes())?;
        Ok(Self { file, entries: 0 })
    }

    /// The number of entries so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Appends an entry and gives its index.
    ///
    /// # Errors
    /// When the file cannot be written; what follows in it is worth nothing then.
    pub fn append(&mut self, entry: &Entry) -> io::Result<usize> {
        self.file.write_all(format!("{entry}\n").as_bytes())?;
        self.entries += 1;
        Ok(self.entries - 1)
    }
}

/// A journal with its data and the image it began from.
#[derive(Debug)]
pub struct Recording {
    /// What was asked of the disk.
    pub journal: Journal,
    /// The image and the bytes.
    pub files: Files,
}

impl Recording {
    /// Opens what was recorded into `folder` on top of the image `base`.
    ///
    /// # Errors
    /// Names the file that is missing, damaged, or does not belong to the others.
    pub fn open(base: &Path, folder: &Path) -> Result<Self> {
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))
        };
        let data = open(&folder.join(DATA))?;
        let path = folder.join(JOURNAL);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let journal = Journal::parse(&text, data.metadata()?.len())
            .with_context(|| path.display().to_string())?;
        let base_file = open(base)?;
        let size = base_file.metadata()?.len();
        ensure!(
            size == journal.size,
            "{} has {size} bytes, but {} is of a disk of {}",
            base.display(),
            path.display(),
            journal.size
        );
        Ok(Self {
            journal,
            files: Files {
                base: base_file,
                data,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::testing::entry;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_journal_is_read_as_it_was_written(entries in prop::collection::vec(entry(), 0..20)) {
            let mut text = format!("{MAGIC} 1048576\n");
            for entry in &entries {
                text += &format!("{entry}\n");
            }
            let journal = Journal::new(1 << 20, entries, 1 << 20).expect("all inside");
            prop_assert_eq!(&Journal::parse(&text, 1 << 20).expect("a journal"), &journal);
            // The harness died while it wrote a line.
            prop_assert_eq!(&Journal::parse(&(text + "write 0 5"), 1 << 20).expect("still"), &journal);
        }

        #[test]
        fn no_text_is_too_strange(text in "(disk-journal 1 4096\n)?((write|trim|zero|flush|mark|fua|[0-9]{1,20}|.)[ \n]){0,12}") {
            if let Ok(journal) = Journal::parse(&text, 4096) {
                let inside = |(start, sectors)| start + sectors <= 8;
                let all = journal.entries().iter().filter_map(Entry::sectors).all(inside);
                prop_assert!(all);
            }
        }
    }

    #[test]
    fn what_cannot_have_been_is_refused() {
        for (line, why) in [
            ("write 0 512 0", "is cut"),
            ("write 4096 512 0", "not on the disk"),
            ("zero 18446744073709551104 1024", "not on the disk"),
            ("zero 1 512", "whole sectors"),
            ("zero 0 0", "whole sectors"),
            ("flush 1", "of the future"),
            ("flush 0 fua", "no entry"),
            ("write 0 512", "no entry"),
            ("", "no entry"),
        ] {
            let text = format!("{MAGIC} 4096\n{line}\n");
            let error = Journal::parse(&text, 511).expect_err(line);
            assert!(format!("{error:#}").contains(why), "{line}: {error:#}");
        }
        assert!(Journal::parse("4096\n", 0).is_err());
        assert!(Journal::parse("", 0).is_err());
    }

    #[test]
    fn marks_make_regions() {
        let mark = |text: &str| Entry::Mark(text.into());
        let entries = vec![
            mark("update.start source=x"),
            Entry::Flush { covers: 0 },
            mark("update.installed version=2"),
            mark("update.start again"),
        ];
        let journal = Journal::new(4096, entries, 0).expect("a journal");
        let region = journal.between("update.start", "update.installed");
        assert_eq!(region.expect("both"), 0..2);
        let error = journal.between("update.installed", "boot.healthy");
        let error = error.expect_err("no such mark");
        assert!(error.to_string().contains("boot.healthy"), "{error}");
        assert_eq!(journal.mark_before(2), Some("update.start source=x"));
        assert_eq!(journal.mark_before(99), Some("update.start again"));
        assert_eq!(journal.mark_before(0), None);
    }
}
