//! Reading a file from a source with patience: after a broken line it goes on where it was.

use super::End;
use super::hash::Hasher;
use super::manifest::Part;
use super::patience::Patience;
use super::source::{Opened, Source, SourceError};
use std::io::{self, Read};
use std::time::Duration;

/// Bytes that are handed on at once.
const PIECE: usize = 256 * 1024;

/// Percent between two reports of progress.
const REPORT: u64 = 5;

/// Waits between two tries; tests only count them.
pub type Wait<'a> = &'a mut dyn FnMut(Duration);

/// A file that is being read.
pub struct Fetch<'a> {
    source: &'a mut dyn Source,
    wait: Wait<'a>,
    name: &'a str,
    at: u64,
    opened: Option<Opened>,
    patience: Patience,
}

impl<'a> Fetch<'a> {
    /// Reads the file of this name, from its start.
    pub fn new(source: &'a mut dyn Source, name: &'a str, wait: Wait<'a>) -> Self {
        Self {
            source,
            wait,
            name,
            at: 0,
            opened: None,
            patience: Patience::default(),
        }
    }

    /// The next bytes; 0 is the end.
    ///
    /// # Errors
    /// If trying again is of no use, or was.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match self.try_read(buffer) {
                Ok(count) => {
                    self.at = self.at.saturating_add(count as u64);
                    self.patience.progress(count);
                    return Ok(count);
                }
                Err(e) if e.transient => {
                    self.opened = None;
                    let Some(pause) = self.patience.failed() else {
                        return Err(e);
                    };
                    (self.wait)(pause);
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let opened = match &mut self.opened {
            Some(opened) => opened,
            none => {
                let opened = self.source.open(self.name, self.at)?;
                self.patience.skipped(opened.skipped);
                none.insert(opened)
            }
        };
        loop {
            match opened.reader.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    return result.map_err(|e| SourceError::io(&self.source.place(self.name), &e));
                }
            }
        }
    }
}

/// Asks for a file's size, with the same patience.
///
/// # Errors
/// As reading.
pub fn size(
    source: &mut dyn Source,
    name: &str,
    wait: Wait<'_>,
) -> Result<Option<u64>, SourceError> {
    let mut patience = Patience::default();
    loop {
        match source.size(name) {
            Err(e) if e.transient => match patience.failed() {
                Some(pause) => wait(pause),
                None => return Err(e),
            },
            result => return result,
        }
    }
}

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// If it is longer or cannot be read.
pub fn small(
    source: &mut dyn Source,
    name: &str,
    max: usize,
    wait: Wait<'_>,
) -> Result<Vec<u8>, SourceError> {
    let place = source.place(name);
    let mut fetch = Fetch::new(source, name, wait);
    let mut bytes = Vec::new();
    let mut piece = vec![0; 16 * 1024];
    loop {
        let count = fetch.read(&mut piece)?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
        if bytes.len() > max {
            return Err(SourceError::lasting(format!(
                "{place}: longer than {max} bytes"
            )));
        }
    }
}

/// Reads a file of a version into `sink`, never a byte more than the manifest says. When this returns well, what
/// went into the sink has the size and the hash of the manifest.
///
/// # Errors
/// What is wrong with the file, or with the sink. What went into the sink is worthless then.
pub fn part(
    source: &mut dyn Source,
    part: &Part,
    wait: Wait<'_>,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), End>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), End> {
    let place = source.place(&part.name);
    let mut fetch = Fetch::new(source, &part.name, wait);
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE];
    let (mut done, mut told) = (0u64, 0);
    loop {
        let count = fetch.read(&mut piece)?;
        let bytes = piece.get(..count).unwrap_or_default();
        if count == 0 {
            break;
        }
        done = done.saturating_add(count as u64);
        if done > part.size {
            return Err(End::failed(format!(
                "{place}: longer than the {} bytes of the manifest",
                part.size
            )));
        }
        hasher.update(bytes);
        sink(bytes)?;
        let percent = done.saturating_mul(100) / part.size.max(1);
        if percent >= told + REPORT {
            told = percent - percent % REPORT;
            progress(percent);
        }
    }
    if done < part.size {
        return Err(End::failed(format!(
            "{place}: it ends after {done} bytes; the manifest says {}",
            part.size
        )));
    }
    let hash = hasher.finish();
    if hash != part.sha256 {
        return Err(End::failed(format!(
            "{place}: its SHA-256 is {hash}; the manifest says {}",
            part.sha256
        )));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
