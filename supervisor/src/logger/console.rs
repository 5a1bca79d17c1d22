//! The console: slow, stoppable by whoever is at its other end, and perhaps not there at all.
//!
//! What it does not take at once waits in a queue of at most [`QUEUE_MAX`] bytes, in whole
//! lines; a line that finds no room there is refused, and its owner counts it. A console that is
//! not there refuses nothing: nobody misses lines at it. One that hangs up while lines wait loses
//! them, and they are counted.
//!
//! It is either a path, which is opened when there is something to show and opened again after a
//! hang-up, or a descriptor that was passed, which is used as it is and never replaced.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::path::PathBuf;

/// Bytes that wait for the console, bookkeeping included: half a minute of a line at 115200 baud.
const QUEUE_MAX: usize = 256 * 1024;

/// Where to show lines.
#[derive(Debug)]
pub enum Target {
    /// A device, opened by us.
    Path(PathBuf),
    /// A descriptor, non-blocking.
    Passed(OwnedFd),
}

/// A line in the queue.
#[derive(Debug)]
struct Waiting {
    /// Whose loss it would be; `None` for what the logger says itself.
    owner: Option<usize>,
    /// Bytes of it that were not written yet.
    rest: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Console {
    path: Option<PathBuf>,
    fd: Option<OwnedFd>,
    queue: VecDeque<u8>,
    lines: VecDeque<Waiting>,
}

impl Console {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let (path, fd) = match target {
            Target::Path(path) => (Some(path), None),
            Target::Passed(fd) => (None, Some(fd)),
        };
        Self {
            path,
            fd,
            queue: VecDeque::new(),
            lines: VecDeque::new(),
        }
    }

    /// Non-blocking, and never as a controlling terminal (open(2), `O_NOCTTY`): a hang-up of the
    /// line must not end the logger.
    pub fn open(&mut self) {
        if let (Some(path), None) = (&self.path, &self.fd) {
            let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.fd = rustix::fs::open(path, flags, Mode::empty()).ok();
        }
    }

    /// Takes a line, given in parts and without its end. `false`: there was no room.
    pub fn offer(&mut self, owner: Option<usize>, parts: [&str; 2]) -> bool {
        if self.fd.is_none() {
            return true;
        }
        let length = parts.iter().map(|p| p.len()).sum::<usize>() + 1;
        if self.filled() + length + size_of::<Waiting>() > QUEUE_MAX {
            return false;
        }
        for part in parts {
            self.queue.extend(part.as_bytes());
        }
        // The terminal adds the return a serial line needs (termios(3), `ONLCR`, on by default).
        self.queue.push_back(b'\n');
        let rest = length;
        self.lines.push_back(Waiting { owner, rest });
        true
    }

    /// Writes as much as the console takes. If it hung up, `lost` gets the owner of every line
    /// that waited.
    pub fn write(&mut self, mut lost: impl FnMut(usize)) {
        while let (Some(fd), false) = (&self.fd, self.queue.is_empty()) {
            match rustix::io::write(fd, self.queue.as_slices().0) {
                // A device that takes nothing and says nothing is none.
                Ok(0) => self.hang_up(&mut lost),
                Ok(count) => self.written(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // What waits is dropped, or a console that opens and never takes anything would
                // be a busy loop.
                Err(_) => self.hang_up(&mut lost),
            }
        }
    }

    /// The descriptor, if there is something to write to it.
    #[must_use]
    pub fn wants(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.fd.as_ref().filter(|_| !self.queue.is_empty());
        fd.map(AsFd::as_fd)
    }

    /// Whether the queue is so empty that a confession does not take the room of the next lines.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.filled() < QUEUE_MAX / 2
    }

    fn filled(&self) -> usize {
        self.queue.len() + self.lines.len() * size_of::<Waiting>()
    }

    fn written(&mut self, mut count: usize) {
        self.queue.drain(..count.min(self.queue.len()));
        while let Some(line) = self.lines.front_mut() {
            if line.rest > count {
                line.rest -= count;
                break;
            }
            count -= line.rest;
            self.lines.pop_front();
        }
    }

    fn hang_up(&mut self, lost: &mut impl FnMut(usize)) {
        self.fd = None;
        self.queue.clear();
        self.lines.drain(..).filter_map(|l| l.owner).for_each(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn piped() -> (Console, OwnedFd) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (Console::new(Target::Passed(write)), read)
    }

    fn read_all(fd: &OwnedFd) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0u8; 4096]);
        while let Ok(count @ 1..) = rustix::io::read(fd, &mut buffer) {
            all.extend(&buffer[..count]);
        }
        all
    }

    #[test]
    fn without_a_console_nothing_is_refused_or_kept() {
        let mut console = Console::new(Target::Path("/nowhere/at/all".into()));
        console.open();
        let long = "x".repeat(QUEUE_MAX);
        assert!(console.offer(Some(0), ["", &long]));
        assert!(console.wants().is_none() && console.has_room());
    }

    #[test]
    fn a_hang_up_loses_what_waits_and_says_whose_it_was() {
        let (mut console, read) = piped();
        drop(read);
        for owner in [Some(1), None, Some(2), Some(1)] {
            assert!(console.offer(owner, ["s: ", "text"]));
        }
        let mut lost = Vec::new();
        console.write(|owner| lost.push(owner));
        assert_eq!(lost, [1, 2, 1]);
        console.open();
        assert!(console.fd.is_none(), "a passed descriptor is not replaced");
        assert!(console.offer(Some(1), ["", "gone"]) && console.wants().is_none());
    }

    #[test]
    fn a_line_that_was_shown_is_not_lost_by_a_later_hang_up() {
        let (mut console, read) = piped();
        assert!(console.offer(Some(1), ["", "one"]));
        console.write(|_| panic!("nothing is lost"));
        assert!(console.offer(Some(2), ["", "two"]));
        assert_eq!(read_all(&read), b"one\n");
        drop(read);
        let mut lost = Vec::new();
        console.write(|owner| lost.push(owner));
        assert_eq!(lost, [2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_taken_comes_out_whole_and_in_order(lengths in proptest::collection::vec(0usize..9000, 1..200)) {
            let (mut console, read) = piped();
            let mut expected = Vec::new();
            let mut shown = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                let text = "x".repeat(*length);
                let name = format!("{number}: ");
                if console.offer(Some(number), [&name, &text]) {
                    expected.extend(format!("{name}{text}\n").into_bytes());
                }
                prop_assert!(console.filled() <= QUEUE_MAX);
                if number % 7 == 0 {
                    console.write(|_| panic!("nothing is lost"));
                }
                if number % 50 == 0 {
                    shown.extend(read_all(&read));
                }
            }
            while console.wants().is_some() {
                console.write(|_| panic!("nothing is lost"));
                shown.extend(read_all(&read));
            }
            prop_assert!(console.lines.is_empty());
            shown.extend(read_all(&read));
            prop_assert_eq!(shown, expected);
        }
    }
}
