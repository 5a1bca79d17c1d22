//! The files: a queue that never lets anybody wait, and one thread that writes.
//!
//! A disk can hang for minutes, so no call here touches it: lines go into a queue of at most
//! [`QUEUE_MAX`] bytes, and the one thread behind it does everything with the file system, from
//! making the folder on. What the queue does not take, and what the disk refuses, is lost for the
//! files only, and counted by owner. The thread tells through an eventfd when it has news, so that
//! the logger's `poll` is the only place where anybody waits.
//!
//! A folder that cannot be made is told once, and then there are no files: nothing is lost at
//! them.

use super::writer::{LogFile, Rotation, tail};
use base::beneath;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that wait for the disk: what a flood of lines writes in the tens of milliseconds that a
/// disk is busy with others now and then.
const QUEUE_MAX: usize = 1024 * 1024;

/// What a line in the queue costs besides its text.
const OVERHEAD: usize = size_of::<Entry>() + 16;

/// A file of a service is at most so large: with three older ones it is 4 MiB, and a dozen of
/// services stay far below the smallest `/var`.
pub const SIZE: u64 = 1024 * 1024;

/// Older files of a service that are kept.
pub const OLDER: u32 = 3;

/// Exit records: a record is one or two kilobytes, so this is the last hundred or two.
const EXITS: Rotation = Rotation {
    size: 256 * 1024,
    older: 1,
};

/// What is told at once of what was in the way of files.
const MOVED_MAX: usize = 16;

/// What is read of the exit records of earlier boots.
const EXITS_TAIL: usize = 64 * 1024;

/// The file that names the boot which wrote here last, by which a logger that was started again
/// knows that it is still the same boot.
const BOOT_ID: &str = "boot-id";

/// Where files are, and how they are rotated.
#[derive(Debug)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// For the files of the sources.
    pub rotation: Rotation,
}

/// What the thread has to say.
#[derive(Debug, Default)]
pub struct News {
    /// Lines lost by owner.
    pub lost: Vec<u64>,
    /// The end of the exit records of earlier boots, once.
    pub exits: Option<Vec<u8>>,
    /// Why nothing is written, once.
    pub problem: Option<String>,
    /// What was in the way of files, and where it is now.
    pub moved: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    owner: usize,
    line: String,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Entry>,
    /// Of the lines that were taken and are not settled, be they in the queue or being written.
    bytes: usize,
    /// How many these are, by owner.
    owed: Vec<u64>,
    news: News,
    off: bool,
    closing: bool,
    done: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    bell: OwnedFd,
}

/// The logger's side.
#[derive(Debug)]
pub struct Files {
    shared: Arc<Shared>,
    exits: usize,
}

impl Files {
    /// Starts the thread. There is a file for each name, in this order, and the one for exit
    /// records.
    ///
    /// # Errors
    /// If the kernel gives no eventfd or no thread.
    pub fn start(folder: Option<Folder>, names: &[String], boot: &str) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let state = State {
            owed: vec![0; names.len()],
            off: folder.is_none(),
            done: folder.is_none(),
            news: News {
                lost: vec![0; names.len()],
                ..News::default()
            },
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            bell: eventfd(0, flags)?,
        });
        if let Some(folder) = folder {
            let (shared, names, boot) = (shared.clone(), names.to_vec(), boot.to_owned());
            let thread = std::thread::Builder::new().name("files".into());
            thread.spawn(move || write_all(&shared, &folder, &names, &boot))?;
        }
        Ok(Self {
            shared,
            exits: names.len(),
        })
    }

    /// Takes a line, given without its end, for the file of its owner. `false`: it is lost.
    pub fn offer(&self, owner: usize, line: impl FnOnce() -> String) -> bool {
        self.put(owner, owner, line)
    }

    /// Takes an exit record. `false`: it is lost.
    pub fn offer_exit(&self, owner: usize, record: &str) -> bool {
        self.put(self.exits, owner, || record.to_owned())
    }

    fn put(&self, file: usize, owner: usize, line: impl FnOnce() -> String) -> bool {
        let mut state = self.shared.lock();
        if state.off {
            return true;
        }
        let line = line();
        let cost = line.len() + OVERHEAD;
        if state.bytes + cost > QUEUE_MAX || state.closing {
            return false;
        }
        state.bytes += cost;
        if let Some(owed) = state.owed.get_mut(owner) {
            *owed += 1;
        }
        state.queue.push_back(Entry { file, owner, line });
        self.shared.work.notify_one();
        true
    }

    /// Readable when there are news.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    /// What came since the last call.
    pub fn news(&self) -> News {
        let mut count = [0u8; 8];
        // Only resets it (eventfd(2)); the news are what counts.
        let _ = rustix::io::read(&self.shared.bell, &mut count);
        let mut state = self.shared.lock();
        let none = vec![0; state.news.lost.len()];
        News {
            lost: std::mem::replace(&mut state.news.lost, none),
            exits: state.news.exits.take(),
            problem: state.news.problem.take(),
            moved: std::mem::take(&mut state.news.moved),
        }
    }

    /// Nothing more comes; the thread ends when everything is written, and rings.
    pub fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }

    /// Whether everything is written, after [`Files::close`].
    #[must_use]
    pub fn done(&self) -> bool {
        self.shared.lock().done
    }

    /// Gives up what the disk did not take until now: what is not written, by owner.
    pub fn abandon(&self) -> Vec<u64> {
        std::mem::take(&mut self.shared.lock().owed)
    }
}

impl Shared {
    /// A thread that panicked leaves nothing half done that matters here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // It fails only if nobody has heard it for 2^64 - 2 times.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// The next lines; `None` if there will be none.
    fn wait(&self) -> Option<VecDeque<Entry>> {
        let mut state = self.lock();
        while state.queue.is_empty() && !state.closing {
            let woken = self.work.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut state.queue)).filter(|q| !q.is_empty())
    }

    /// What was in the way of files is told. Somebody who puts things there without end is told of no more than that.
    fn tell_moved(&self, moved: impl Iterator<Item = String>) {
        let mut state = self.lock();
        let room = MOVED_MAX.saturating_sub(state.news.moved.len());
        state.news.moved.extend(moved.take(room));
        if !state.news.moved.is_empty() {
            self.ring();
        }
    }

    /// These lines are in the files, less those that are lost.
    fn settle(&self, batch: &VecDeque<Entry>, lost: &[u64]) {
        let mut state = self.lock();
        for entry in batch {
            state.bytes = state.bytes.saturating_sub(entry.line.len() + OVERHEAD);
            if let Some(owed) = state.owed.get_mut(entry.owner) {
                *owed = owed.saturating_sub(1);
            }
        }
        for (sum, count) in state.news.lost.iter_mut().zip(lost) {
            *sum += count;
        }
        if lost.iter().any(|count| *count > 0) {
            self.ring();
        }
    }
}

/// The thread.
fn write_all(shared: &Shared, folder: &Folder, names: &[String], boot: &str) {
    let path = &folder.path;
    if let Err(e) = make(path) {
        let mut state = shared.lock();
        state.news.problem = Some(format!("{}: {e}", path.display()));
        (state.off, state.done) = (true, true);
        state.queue.clear();
        state.owed.fill(0);
        return shared.ring();
    }
    let exits = path.join("exits.jsonl");
    shared.lock().news.exits = Some(tail(&exits, EXITS_TAIL));
    shared.ring();
    let (starts_boot, moved) = is_new_boot(path, boot);
    shared.tell_moved(moved.into_iter());
    let logs = names.iter().map(|name| {
        let path = path.join(format!("{name}.log"));
        LogFile::new(path, folder.rotation, starts_boot, false)
    });
    // A record of why a service ended may be the last thing before the reboot that it causes.
    let mut files: Vec<LogFile> = logs
        .chain([LogFile::new(exits, EXITS, false, true)])
        .collect();
    let logs = files.iter_mut().take(names.len());
    logs.for_each(LogFile::start);
    shared.tell_moved(files.iter_mut().flat_map(LogFile::moved));
    while let Some(batch) = shared.wait() {
        let mut lost = vec![0u64; names.len()];
        let mut lose = |owner: usize| {
            if let Some(count) = lost.get_mut(owner) {
                *count += 1;
            }
        };
        for entry in &batch {
            match files.get_mut(entry.file) {
                Some(file) => file.push(&entry.line, entry.owner, &mut lose),
                None => lose(entry.owner),
            }
        }
        for file in &mut files {
            file.flush(&mut lose);
        }
        shared.tell_moved(files.iter_mut().flat_map(LogFile::moved));
        shared.settle(&batch, &lost);
    }
    shared.lock().done = true;
    shared.ring();
}

/// For the logger and its group, as the files are.
fn make(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o750).create(path)
}

/// Whether this boot has not written here yet. If that cannot be kept, the next start of the
/// logger is taken for one. The second is what was in the way of the file, if anything was.
fn is_new_boot(folder: &Path, boot: &str) -> (bool, Option<String>) {
    let path = folder.join(BOOT_ID);
    if tail(&path, 64) == boot.as_bytes() {
        return (false, None);
    }
    let moved = beneath::make_way(&path).ok().flatten();
    // What lies there may be a FIFO, which is waited for, or a link.
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::write(&path, boot);
    (true, moved)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn start(folder: &testing::Folder, boot: &str) -> Files {
        let folder = Folder {
            path: folder.path().join("made/here"),
            rotation: Rotation {
                size: SIZE,
                older: OLDER,
            },
        };
        Files::start(Some(folder), &["init".into(), "a".into()], boot).unwrap()
    }

    fn finish(files: &Files) -> News {
        files.close();
        let mut sum = News {
            lost: vec![0; 2],
            ..News::default()
        };
        loop {
            let done = files.done();
            let news = files.news();
            sum.exits = news.exits.or(sum.exits);
            sum.problem = news.problem.or(sum.problem);
            sum.moved.extend(news.moved);
            for (sum, count) in sum.lost.iter_mut().zip(news.lost) {
                *sum += count;
            }
            if done {
                return sum;
            }
            let mut fds = [PollFd::from_borrowed_fd(files.bell(), PollFlags::IN)];
            poll(&mut fds, None).unwrap();
        }
    }

    #[test]
    fn a_boot_is_begun_once_and_its_records_are_found_by_the_next() {
        let folder = testing::Folder::new();
        for (boot, line) in [("1", "one"), ("1", "two"), ("2", "three")] {
            let files = start(&folder, boot);
            assert!(files.offer(1, || line.into()));
            assert!(files.offer_exit(1, &format!("record {line}")));
            let news = finish(&files);
            assert_eq!(news.lost, [0, 0]);
            if boot == "2" {
                assert_eq!(news.exits.unwrap(), b"record one\nrecord two\n");
            }
            assert_eq!(files.abandon(), [0, 0]);
        }
        assert_eq!(
            folder.read("made/here/a.log"),
            "-- boot --\none\ntwo\n-- boot --\nthree\n"
        );
        assert_eq!(
            folder.read("made/here/init.log"),
            "-- boot --\n-- boot --\n"
        );
    }

    #[test]
    fn directories_in_the_way_of_files_are_told() {
        let folder = testing::Folder::new();
        for name in ["boot-id", "a.log", "exits.jsonl"] {
            std::fs::create_dir_all(folder.path().join("made/here").join(name)).unwrap();
        }
        let files = start(&folder, "1");
        assert!(files.offer(1, || "line".into()));
        assert!(files.offer_exit(1, "record"));
        let news = finish(&files);
        assert_eq!(news.lost, [0, 0]);
        assert_eq!(news.moved.len(), 3, "{:?}", news.moved);
        assert_eq!(folder.read("made/here/boot-id"), "1");
        assert_eq!(folder.read("made/here/a.log"), "-- boot --\nline\n");
        assert_eq!(folder.read("made/here/exits.jsonl"), "record\n");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told_and_no_loss() {
        let folder = testing::Folder::new();
        std::fs::write(folder.path().join("made"), "a file").unwrap();
        let files = start(&folder, "1");
        assert!(files.offer(1, || "line".into()));
        let news = finish(&files);
        assert_eq!(news.lost, [0, 0]);
        let problem = news.problem.unwrap();
        assert!(problem.contains("made/here: "), "{problem}");
    }

    #[test]
    fn a_disk_that_hangs_lets_nobody_wait_and_loses_by_count() {
        // Nobody takes anything out of this queue.
        let files = Files {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    owed: vec![0; 2],
                    ..State::default()
                }),
                work: Condvar::new(),
                bell: eventfd(0, EventfdFlags::NONBLOCK).unwrap(),
            }),
            exits: 2,
        };
        let taken = (0..100_000).filter(|_| files.offer(1, String::new)).count();
        assert_eq!(taken, QUEUE_MAX / OVERHEAD);
        assert_eq!(files.abandon(), [0, taken as u64]);
    }
}
