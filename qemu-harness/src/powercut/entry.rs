//! One entry of the journal of a disk, and its line of text.

use super::SECTOR;
use super::extents::{ExtentMap, Source};
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Bytes were written.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Where the bytes are in the data file.
        position: u64,
        /// Whether it was durable when answered.
        fua: bool,
    },
    /// Bytes became zero.
    Zero {
        /// First byte on the disk.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Whether they were given up (`TRIM`) instead of asked to be zero; this disk reads zeros either way.
        trim: bool,
        /// Whether it was durable when answered.
        fua: bool,
    },
    /// What had been answered before is durable.
    Flush {
        /// The number of entries from the first on that had been answered when it was asked for.
        covers: usize,
    },
    /// What the machine was doing.
    Mark(String),
}

impl Entry {
    /// First sector and number of sectors of what it changes.
    #[must_use]
    pub fn sectors(&self) -> Option<(u64, u64)> {
        match self {
            Self::Write { offset, len, .. } | Self::Zero { offset, len, .. } => {
                Some((offset / SECTOR, len / SECTOR))
            }
            Self::Flush { .. } | Self::Mark(_) => None,
        }
    }

    /// Whether it was durable by itself when answered.
    #[must_use]
    pub fn is_fua(&self) -> bool {
        matches!(
            self,
            Self::Write { fua: true, .. } | Self::Zero { fua: true, .. }
        )
    }

    /// Puts what it changed into a map: of its sectors, those in `part`.
    pub fn apply(&self, part: &Range<u64>, map: &mut ExtentMap) {
        let source = match self {
            Self::Write { position, .. } => Source::Data(*position),
            Self::Zero { .. } => Source::Zero,
            Self::Flush { .. } | Self::Mark(_) => return,
        };
        let (start, sectors) = self.sectors().unwrap_or_default();
        let end = part.end.min(sectors);
        if part.start < end {
            let source = source.after(part.start);
            map.insert(start + part.start, end - part.start, source);
        }
    }

    /// Checks that it stays on a disk of `size` bytes and within `data` bytes of data, and that it is entry `index`.
    pub(super) fn check(&self, index: usize, size: u64, data: u64) -> Result<()> {
        let inside = |at: u64, len: u64, end: u64| at.checked_add(len).is_some_and(|to| to <= end);
        match self {
            Self::Write { offset, len, .. } | Self::Zero { offset, len, .. } => {
                ensure!(
                    *len > 0 && offset % SECTOR == 0 && len % SECTOR == 0,
                    "{self:?} is not of whole sectors"
                );
                ensure!(inside(*offset, *len, size), "{self:?} is not on the disk");
            }
            Self::Flush { covers } => ensure!(*covers <= index, "{self:?} is of the future"),
            Self::Mark(_) => {}
        }
        if let Self::Write { len, position, .. } = self {
            ensure!(inside(*position, *len, data), "the data of {self:?} is cut");
        }
        Ok(())
    }
}

/// A line of the journal, without its end.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fua = if self.is_fua() { " fua" } else { "" };
        match self {
            Self::Write {
                offset,
                len,
                position,
                ..
            } => write!(f, "write {offset} {len} {position}{fua}"),
            Self::Zero {
                offset, len, trim, ..
            } => {
                let verb = if *trim { "trim" } else { "zero" };
                write!(f, "{verb} {offset} {len}{fua}")
            }
            Self::Flush { covers } => write!(f, "flush {covers}"),
            // One line, whatever was marked.
            Self::Mark(text) => write!(f, "mark {}", text.replace(['\n', '\r'], " ")),
        }
    }
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "mark" {
            return Ok(Self::Mark(rest.to_owned()));
        }
        let (numbers, fua) = match rest.strip_suffix(" fua") {
            Some(numbers) => (numbers, true),
            None => (rest, false),
        };
        let numbers = numbers
            .split(' ')
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>()
            .with_context(|| format!("`{line}` is no entry of a journal"))?;
        Ok(match (verb, numbers[..].as_ref(), fua) {
            ("write", &[offset, len, position], fua) => Self::Write {
                offset,
                len,
                position,
                fua,
            },
            ("trim" | "zero", &[offset, len], fua) => Self::Zero {
                offset,
                len,
                trim: verb == "trim",
                fua,
            },
            ("flush", &[covers], false) => Self::Flush {
                covers: usize::try_from(covers)?,
            },
            _ => bail!("`{line}` is no entry of a journal"),
        })
    }
}
