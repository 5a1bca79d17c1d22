//! The disk as the machine sees it while it runs: the image with everything written so far on top.
//!
//! Requests come from any number of connections. Each is one step under one lock: the bytes go to
//! the end of the data file, a line to the journal, the place of the bytes into the map. The order of
//! the journal is therefore the order in which the requests took effect.
//!
//! Which of them a flush covers is another order, that of the answers: a flush covers what the
//! client had been told about when it asked. [`Device::settled`] counts that. Whoever reads requests
//! looks at it when the request arrives, and says [`Device::answered`] when an answer goes out.

use super::SECTOR;
use super::entry::Entry;
use super::extents::ExtentMap;
use super::files::Files;
use super::journal::{DATA, JOURNAL, Writer};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Device {
    size: u64,
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    map: ExtentMap,
    log: Writer,
    /// The end of the data file.
    position: u64,
    /// Entries that were not answered.
    unanswered: BTreeSet<usize>,
    /// Why the recording is not complete.
    fault: Option<String>,
}

impl Device {
    /// A disk that is the file `base`, with a recording in `folder`.
    ///
    /// # Errors
    /// When `base` is no disk of whole sectors, or `folder` has a recording already.
    pub fn create(base: &Path, folder: &Path) -> Result<Self> {
        let shown = base.display();
        let base = File::open(base).with_context(|| format!("cannot open the disk {shown}"))?;
        let size = base.metadata()?.len();
        ensure!(
            size > 0 && size % SECTOR == 0,
            "{shown} has {size} bytes, which is no disk of sectors of {SECTOR} bytes"
        );
        let path = folder.join(DATA);
        let data = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let path = folder.join(JOURNAL);
        let log = Writer::create(&path, size)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let state = State {
            map: ExtentMap::default(),
            log,
            position: 0,
            unanswered: BTreeSet::new(),
            fault: None,
        };
        Ok(Self {
            size,
            files: Files { base, data },
            state: Mutex::new(state),
        })
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let tiles = self.lock().map.tiles(offset / SECTOR, end.div_ceil(SECTOR));
        // Bytes that are in the data file stay as they are, so nothing need be locked.
        self.files.read(&tiles, offset, buffer)
    }

    /// Writes whole sectors, and gives the entry that has to be [answered](Self::answered).
    ///
    /// # Errors
    /// When the host cannot; the recording is then at its end.
    pub fn write(&self, offset: u64, bytes: &[u8], fua: bool) -> io::Result<usize> {
        let mut state = self.lock();
        let position = state.position;
        let len = bytes.len() as u64;
        let written = self.files.data.write_all_at(bytes, position);
        state.check(written)?;
        state.position += len;
        state.change(&Entry::Write {
            offset,
            len,
            position,
            fua,
        })
    }

    /// Makes whole sectors zero, because it was asked for or because they were given up (`trim`).
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn zero(&self, offset: u64, len: u64, trim: bool, fua: bool) -> io::Result<usize> {
        self.lock().change(&Entry::Zero {
            offset,
            len,
            trim,
            fua,
        })
    }

    /// Flushes; the argument is what [`Self::settled`] was when this was asked for.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&self, covers: usize) -> io::Result<()> {
        self.lock().append(&Entry::Flush { covers }).map(drop)
    }

    /// Puts a mark between the requests.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn mark(&self, text: &str) -> io::Result<()> {
        self.lock().append(&Entry::Mark(text.to_owned())).map(drop)
    }

    /// The answer to entry `index` goes out now.
    pub fn answered(&self, index: usize) {
        self.lock().unanswered.remove(&index);
    }

    /// How many entries from the first on have all been answered.
    #[must_use]
    pub fn settled(&self) -> usize {
        let state = self.lock();
        let first = state.unanswered.first().copied();
        first.unwrap_or(state.log.len())
    }

    /// Why the recording is not complete, if it is not.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.lock().fault.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics with the lock, and if so, the journal is as good as before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append(&mut self, entry: &Entry) -> io::Result<usize> {
        if let Some(fault) = &self.fault {
            return Err(io::Error::other(fault.clone()));
        }
        let appended = self.log.append(entry);
        self.check(appended)
    }

    fn change(&mut self, entry: &Entry) -> io::Result<usize> {
        let index = self.append(entry)?;
        entry.apply(&(0..u64::MAX), &mut self.map);
        self.unanswered.insert(index);
        Ok(index)
    }

    /// After the first thing that could not be recorded nothing is: a hole would be a lie.
    fn check<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && self.fault.is_none()
        {
            self.fault = Some(format!("the disk could not be recorded: {error}"));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::testing::Scratch;

    #[test]
    fn reads_see_the_image_and_what_was_written() {
        let scratch = Scratch::new("device");
        let base = scratch.image(8);
        let device = Device::create(&base, scratch.path()).expect("a disk");
        device.write(512, &[1; 1024], false).expect("written");
        device.write(1024, &[2; 1024], true).expect("written");
        device.zero(1536, 512, true, false).expect("zeroed");
        let mut whole = vec![9; 8 * 512];
        device.read(0, &mut whole).expect("read");
        let first: Vec<u8> = whole.iter().copied().step_by(512).collect();
        // The image has its sector's number, plus 100, in each byte.
        assert_eq!(first, [100, 1, 2, 0, 104, 105, 106, 107]);
        let mut one = vec![9; 512];
        device.read(4 * 512, &mut one).expect("read");
        assert_eq!(one, [104; 512]);
        let error = Device::create(&base, scratch.path()).expect_err("not over another");
        assert!(format!("{error:#}").contains(DATA), "{error:#}");
        assert_eq!(
            std::fs::read(&base).expect("it")[512],
            101,
            "it was written"
        );
    }

    #[test]
    fn what_is_settled_was_answered() {
        let scratch = Scratch::new("settled");
        let device = Device::create(&scratch.image(8), scratch.path()).expect("a disk");
        assert_eq!(device.settled(), 0);
        let first = device.write(0, &[1; 512], false).expect("written");
        let second = device.write(0, &[2; 512], false).expect("written");
        device.mark("here").expect("marked");
        assert_eq!((first, second, device.settled()), (0, 1, 0));
        device.answered(second);
        assert_eq!(device.settled(), 0);
        device.answered(first);
        assert_eq!(device.settled(), 3);
    }

    #[test]
    fn after_something_was_not_recorded_nothing_is() {
        let scratch = Scratch::new("fault");
        let device = Device::create(&scratch.image(8), scratch.path()).expect("a disk");
        device.write(0, &[1; 512], false).expect("written");
        assert_eq!(device.fault(), None);
        let full = device
            .lock()
            .check::<()>(Err(io::ErrorKind::StorageFull.into()));
        full.expect_err("the host is full");
        device
            .write(512, &[2; 512], false)
            .expect_err("not any more");
        device
            .zero(512, 512, false, false)
            .expect_err("not any more");
        device.flush(0).expect_err("not any more");
        let fault = device.fault().expect("a fault");
        assert!(fault.contains("could not be recorded"), "{fault}");
        let mut bytes = vec![0; 1024];
        device.read(0, &mut bytes).expect("it can still be read");
        assert_eq!((bytes[0], bytes[512]), (1, 101));
    }

    #[test]
    fn a_base_of_broken_sectors_is_no_disk() {
        let scratch = Scratch::new("broken");
        let base = scratch.path().join("base");
        for len in [0, 513] {
            std::fs::write(&base, vec![0; len]).expect("written");
            let error = Device::create(&base, scratch.path()).expect_err("no disk");
            assert!(error.to_string().contains("no disk"), "{error}");
        }
    }
}
