//! One file of lines, appended to and rotated by size.
//!
//! What an earlier boot left is never touched but by rotation: a file is opened for appending,
//! and the first thing a boot writes into it is the line [`BOOT`]. A file that would grow beyond
//! its size becomes `NAME.1`, the older ones move on by one, and the oldest goes.
//!
//! What lies at one of these names and cannot be a log file is renamed to `NAME.obstructed-N`, and told.
//!
//! A disk can refuse at any byte. A line is in the file whole, or it is lost and its owner is
//! told so: after a failed write the torn rest is cut off again, or, if even that is refused,
//! ended with a line break at the next occasion. Every line is a new attempt; a disk that has room
//! again is simply used.

use base::beneath;
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The line with which a boot starts.
pub const BOOT: &str = "-- boot --";

/// What is collected before it is written: one write of a flood takes this much, and no more
/// memory than this is needed besides the queue.
const CHUNK: usize = 64 * 1024;

/// The group may read, as it is with log files; the group is the logger's own.
const MODE: Mode = Mode::from_raw_mode(0o640);

/// When a file is full, and how many full ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of one file at most. A line that is longer has a file for itself.
    pub size: u64,
    /// Files that are kept besides the one that is written.
    pub older: u32,
}

/// See the module.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: Option<File>,
    size: u64,
    /// Whether [`BOOT`] is still to be written.
    starts_boot: bool,
    /// Whether what was written has to survive a power cut.
    durable: bool,
    /// What is to be written next. It may begin with what is no line of an owner.
    pending: Vec<u8>,
    /// Where the part of `pending` ends that is no line of an owner.
    prelude: usize,
    /// Where each line of `pending` ends, and whose it is.
    ends: Vec<(usize, usize)>,
    /// What was in the way of a file, and where it is now.
    moved: Vec<String>,
}

impl LogFile {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(path: PathBuf, rotation: Rotation, starts_boot: bool, durable: bool) -> Self {
        Self {
            path,
            rotation,
            file: None,
            size: 0,
            starts_boot,
            durable,
            pending: Vec::new(),
            prelude: 0,
            ends: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// What was in the way since the last call, and where it is now.
    pub fn moved(&mut self) -> std::vec::Drain<'_, String> {
        self.moved.drain(..)
    }

    /// Opens the file and starts the boot in it. A failure is found again with the first line.
    pub fn start(&mut self) {
        if self.open().is_ok() {
            self.flush(&mut |_| {});
        }
    }

    /// Takes a line, given without its end, and writes it sooner or later. `lost` gets the owner
    /// of each line that could not be written, be it this one or one before.
    pub fn push(&mut self, line: &str, owner: usize, lost: &mut dyn FnMut(usize)) {
        let wanted = line.len() + 1;
        if self.pending.len() + wanted > CHUNK || self.full_with(self.pending.len() + wanted) {
            self.flush(lost);
        }
        if self.make_room(wanted).is_err() {
            lost(owner);
            return;
        }
        self.pending.extend(line.as_bytes());
        self.pending.push(b'\n');
        self.ends.push((self.pending.len(), owner));
    }

    /// Writes what was taken.
    pub fn flush(&mut self, lost: &mut dyn FnMut(usize)) {
        if let Err(whole) = self.write() {
            let torn = self.ends.iter().filter(|(end, _)| *end > whole);
            torn.for_each(|(_, owner)| lost(*owner));
        }
        self.pending.clear();
        self.ends.clear();
        self.prelude = 0;
    }

    fn full_with(&self, more: usize) -> bool {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        self.size.saturating_add(more) > self.rotation.size
    }

    /// Sees to it that there is an open file with room for so many bytes more.
    fn make_room(&mut self, wanted: usize) -> io::Result<()> {
        self.open()?;
        if self.size > 0 && self.full_with(self.pending.len() + wanted) {
            // All that can be pending here is what `open` puts before the first line.
            self.pending.clear();
            self.rotate()?;
            self.open()?;
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let file = match open_log(&self.path) {
            Err(_) if std::fs::symlink_metadata(&self.path).is_ok() => {
                // It is no file, or not ours: it is kept, and another one takes its place.
                let aside = beneath::move_aside(CWD, &self.path)?;
                let path = self.path.display();
                self.moved
                    .push(format!("{path}: what was there is now {aside}"));
                open_log(&self.path)?
            }
            other => other?,
        };
        self.size = file.metadata()?.len();
        if !ends_with_a_line(&file, self.size)? {
            self.pending.push(b'\n');
        }
        if self.starts_boot {
            self.pending.extend(BOOT.as_bytes());
            self.pending.push(b'\n');
        }
        self.prelude = self.pending.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes `pending`. The error is how many bytes of it are in the file as whole lines.
    fn write(&mut self) -> Result<(), usize> {
        let Some(file) = &mut self.file else {
            return if self.pending.is_empty() {
                Ok(())
            } else {
                Err(0)
            };
        };
        let mut written = 0;
        while let Some(rest) = self.pending.get(written..).filter(|r| !r.is_empty()) {
            match file.write(rest) {
                Ok(count @ 1..) => written += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        if written >= self.prelude {
            self.starts_boot = false;
        }
        if written == self.pending.len() {
            self.size += u64::try_from(written).unwrap_or(0);
            if self.durable && written > 0 {
                // Nothing more can be done for it if this is refused.
                let _ = file.sync_data();
            }
            return Ok(());
        }
        let ends = self.ends.iter().map(|(end, _)| *end);
        let whole = ends.chain([self.prelude]).filter(|e| *e <= written).max();
        let whole = whole.unwrap_or(0);
        // If this is refused too, `open` finds the torn line and ends it.
        let _ = file.set_len(self.size + u64::try_from(whole).unwrap_or(0));
        self.file = None;
        Err(whole)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let numbered = |number: u32| -> PathBuf {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            path.into()
        };
        let missing_is_fine = |result: io::Result<()>| match result {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        if self.rotation.older == 0 {
            return missing_is_fine(std::fs::remove_file(&self.path));
        }
        for number in 1..=self.rotation.older {
            self.moved.extend(beneath::make_way(&numbered(number))?);
        }
        for number in (1..self.rotation.older).rev() {
            missing_is_fine(std::fs::rename(numbered(number), numbered(number + 1)))?;
        }
        missing_is_fine(std::fs::rename(&self.path, numbered(1)))
    }
}

/// Opens a log file, or makes it. `O_NONBLOCK`: a FIFO is waited neither for nor on.
fn open_log(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOCTTY
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, MODE)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(ErrorKind::InvalidInput.into())
    }
}

fn ends_with_a_line(file: &File, size: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if let Some(place) = size.checked_sub(1) {
        file.read_exact_at(&mut last, place)?;
    }
    Ok(last == *b"\n")
}

/// At most the last `limit` bytes of a file; nothing if there is none that can be read.
#[must_use]
pub fn tail(path: &Path, limit: usize) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let size = file.metadata()?.len();
        let length = limit.min(usize::try_from(size).unwrap_or(limit));
        let mut bytes = vec![0; length];
        let start = size - u64::try_from(length).unwrap_or(0);
        file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;
    use proptest::prelude::*;

    fn file(folder: &Folder, size: u64, older: u32) -> LogFile {
        let rotation = Rotation { size, older };
        LogFile::new(folder.path().join("s.log"), rotation, true, false)
    }

    fn nothing_lost() -> impl FnMut(usize) {
        |owner| panic!("a line of {owner} is lost")
    }

    #[test]
    fn a_boot_goes_on_where_the_last_one_stopped() {
        let folder = Folder::new();
        for left in ["", "earlier\n", "torn"] {
            std::fs::write(folder.path().join("s.log"), left).unwrap();
            let mut file = file(&folder, 1000, 3);
            file.start();
            file.push("now", 0, &mut nothing_lost());
            file.flush(&mut nothing_lost());
            let whole = if left == "torn" { "torn\n" } else { left };
            assert_eq!(folder.read("s.log"), format!("{whole}-- boot --\nnow\n"));
        }
    }

    #[test]
    fn what_is_no_file_gives_way() {
        use rustix::fs::{CWD, FileType, mknodat};
        let folder = Folder::new();
        let path = folder.path().join("s.log");
        for (number, kind) in (1..).zip(["fifo", "link", "directory", "directory"]) {
            let _ = std::fs::remove_file(&path);
            match kind {
                "fifo" => mknodat(CWD, &path, FileType::Fifo, MODE, 0).unwrap(),
                "link" => std::os::unix::fs::symlink("/dev/null", &path).unwrap(),
                _ => std::fs::create_dir_all(path.join("full")).unwrap(),
            }
            let mut file = file(&folder, 1000, 3);
            file.start();
            file.push("now", 0, &mut nothing_lost());
            file.flush(&mut nothing_lost());
            assert_eq!(folder.read("s.log"), "-- boot --\nnow\n", "{kind}");
            let aside = format!("s.log.obstructed-{number}");
            let there = std::fs::symlink_metadata(folder.path().join(&aside));
            assert!(!there.unwrap().is_file(), "{kind}");
            let told: Vec<String> = file.moved().collect();
            assert!(told.len() == 1 && told[0].ends_with(&aside), "{told:?}");
        }
    }

    #[test]
    fn a_directory_in_the_way_of_an_older_file_hinders_no_rotation() {
        let folder = Folder::new();
        for older in ["s.log.1", "s.log.3"] {
            std::fs::create_dir_all(folder.path().join(older).join("full")).unwrap();
        }
        let mut file = file(&folder, 22, 3);
        for number in 10..=30 {
            file.push(&format!("line {number}"), 0, &mut nothing_lost());
        }
        file.flush(&mut nothing_lost());
        assert_eq!(folder.read("s.log.1"), "line 27\nline 28\n");
        assert_eq!(folder.read("s.log.3"), "line 23\nline 24\n");
        let told: Vec<String> = file.moved().collect();
        assert_eq!(told.len(), 2, "{told:?}");
        for (told, older) in told.iter().zip(["s.log.1", "s.log.3"]) {
            assert!(told.ends_with(&format!("{older}.obstructed-1")), "{told}");
            assert!(
                folder
                    .path()
                    .join(format!("{older}.obstructed-1/full"))
                    .is_dir()
            );
        }
    }

    #[test]
    fn rotation_keeps_so_many_and_drops_the_oldest() {
        let folder = Folder::new();
        let mut file = file(&folder, 22, 3);
        for number in 10..=30 {
            file.push(&format!("line {number}"), 0, &mut nothing_lost());
        }
        file.flush(&mut nothing_lost());
        assert_eq!(folder.read("s.log"), "line 29\nline 30\n");
        assert_eq!(folder.read("s.log.1"), "line 27\nline 28\n");
        assert_eq!(folder.read("s.log.3"), "line 23\nline 24\n");
        assert_eq!(folder.names(), ["s.log", "s.log.1", "s.log.2", "s.log.3"]);
    }

    #[test]
    fn without_older_files_a_full_one_is_simply_begun_anew() {
        let folder = Folder::new();
        let mut file = file(&folder, 20, 0);
        for number in 10..=30 {
            file.push(&format!("line {number}"), 0, &mut nothing_lost());
        }
        file.flush(&mut nothing_lost());
        assert_eq!(folder.read("s.log"), "line 29\nline 30\n");
        assert_eq!(folder.names(), ["s.log"]);
    }

    #[test]
    fn a_disk_that_is_full_loses_whole_lines_and_each_is_counted() {
        let folder = Folder::small();
        let mut file = file(&folder, 1 << 20, 3);
        file.start();
        let mut lost = 0u64;
        for number in 0..3000u64 {
            file.push(
                &format!("{number:06} {}", "x".repeat(40)),
                7,
                &mut |owner| {
                    assert_eq!(owner, 7);
                    lost += 1;
                },
            );
            if number % 10 == 0 {
                file.flush(&mut |_| lost += 1);
            }
        }
        file.flush(&mut |_| lost += 1);
        let text = folder.read("s.log");
        let kept = text.lines().filter(|l| l.len() == 47).count() as u64;
        assert_eq!(text.lines().count() as u64, kept + 1, "a torn line");
        assert_eq!(kept + lost, 3000);
        assert!(lost > 1000 && kept > 1000, "{lost} {kept}");

        // Somebody makes room, and it is used.
        let mut more = nothing_lost();
        File::options()
            .write(true)
            .open(folder.path().join("s.log"))
            .and_then(|f| f.set_len(100))
            .unwrap();
        file.push("room", 7, &mut more);
        file.flush(&mut more);
        assert!(folder.read("s.log").ends_with("\nroom\n"));
    }

    #[test]
    fn a_folder_that_is_gone_loses_each_line() {
        let folder = Folder::new();
        let mut file = LogFile::new(
            folder.path().join("gone/s.log"),
            Rotation { size: 10, older: 1 },
            true,
            true,
        );
        let mut lost = Vec::new();
        file.start();
        file.push("one", 1, &mut |owner| lost.push(owner));
        file.push("two", 2, &mut |owner| lost.push(owner));
        file.flush(&mut |owner| lost.push(owner));
        assert_eq!(lost, [1, 2]);
    }

    #[test]
    fn a_tail_is_the_end_of_what_is_there() {
        let folder = Folder::new();
        let path = folder.path().join("x");
        assert!(tail(&path, 10).is_empty());
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(tail(&path, 4), b"6789");
        assert_eq!(tail(&path, 100), b"0123456789");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_kept_is_the_end_of_what_was_pushed_and_no_file_is_too_large(
            lengths in proptest::collection::vec((0usize..60, any::<bool>()), 1..100),
            size in 1u64..100,
            older in 0u32..4,
        ) {
            let folder = Folder::new();
            let mut file = file(&folder, size, older);
            let mut all = format!("{BOOT}\n");
            for (number, (length, flush)) in lengths.iter().enumerate() {
                let line = format!("{number} {}", "x".repeat(*length));
                all.push_str(&format!("{line}\n"));
                file.push(&line, 0, &mut nothing_lost());
                if *flush {
                    file.flush(&mut nothing_lost());
                }
            }
            file.flush(&mut nothing_lost());
            let mut kept = String::new();
            for number in (1..=older).rev() {
                kept.push_str(&folder.read(&format!("s.log.{number}")));
            }
            kept.push_str(&folder.read("s.log"));
            prop_assert!(all.ends_with(&kept) && !kept.is_empty());
            for name in folder.names() {
                let text = folder.read(&name);
                prop_assert!(text.len() as u64 <= size || text.lines().count() <= 2, "{}", text);
            }
        }
    }
}
