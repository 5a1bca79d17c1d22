//! The role `logger`: carries service output and PID 1's events to the console.
//!
//! A serial line is slow, can be stopped by whoever is at its other end, and is fed by programs
//! that nobody here wrote. So this is a process of its own, without privileges, which PID 1
//! supervises like any service: PID 1 puts its event lines into a pipe that never blocks it, and
//! never touches a byte of service output.
//!
//! It waits in one `poll` for input of any stream and for room on the console. What the console
//! does not take yet is queued up to [`QUEUE_MAX`]; beyond that whole lines are dropped, counted
//! by stream, and the count is told as soon as there is room: `log.lost service=NAME lines=N`. A
//! stream is never left unread, so a stalled console stalls no service.
//!
//! A console that cannot be opened or hangs up is tried again with every new input, and what
//! cannot be shown is dropped: the kernel's log has the events all the same. On `TERM` the
//! logger takes what is in the pipes, waits a bounded time for the console, and ends.

mod lines;

use crate::Time;
use crate::event::Event;
pub use lines::Splitter;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

/// Bytes that wait for the console: half a minute of a line at 115200 baud.
const QUEUE_MAX: usize = 256 * 1024;

/// What is read of one stream before the others get their turn.
const READ_MAX: usize = 8 * 1024;

/// How long the console may take at the end.
const LAST_WORDS: Time = Time::from_secs(1);

/// What a logger is started with.
#[derive(Debug)]
pub struct Options {
    /// Complete lines of PID 1, shown as they are.
    pub events: OwnedFd,
    /// Services by name, and the read ends of their output.
    pub streams: Vec<(String, OwnedFd)>,
    /// Where to show them.
    pub console: PathBuf,
}

/// Runs until `TERM`.
///
/// # Errors
/// If the kernel refuses the calls it lives on; PID 1 starts it again then.
pub fn run(options: Options) -> io::Result<()> {
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block()?;
    let signals = SignalFd::with_flags(&terminate, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut logger = Logger::new(options)?;
    loop {
        logger.open_console();
        let ready = logger.wait(&signals, None)?;
        logger.take(&ready);
        logger.show();
        if ready.terminate {
            return logger.last_words(&signals);
        }
    }
}

struct Logger {
    streams: Vec<Stream>,
    path: PathBuf,
    console: Option<OwnedFd>,
    queue: VecDeque<u8>,
}

struct Stream {
    fd: OwnedFd,
    splitter: Splitter,
    name: String,
    lost: u64,
    open: bool,
}

/// What a wait ended with.
struct Ready {
    streams: Vec<usize>,
    terminate: bool,
}

impl Logger {
    fn new(options: Options) -> io::Result<Self> {
        let Options {
            events,
            streams,
            console,
        } = options;
        let events = (String::new(), events);
        let streams = [events].into_iter().chain(streams).map(|(name, fd)| {
            rustix::io::ioctl_fionbio(&fd, true)?;
            let splitter = if name.is_empty() {
                Splitter::plain()
            } else {
                Splitter::prefixed(&name)
            };
            Ok(Stream {
                fd,
                splitter,
                name,
                lost: 0,
                open: true,
            })
        });
        Ok(Self {
            streams: streams.collect::<io::Result<_>>()?,
            path: console,
            console: None,
            queue: VecDeque::new(),
        })
    }

    /// Non-blocking, and never as a controlling terminal (open(2), `O_NOCTTY`): a hang-up of the
    /// line must not end the logger.
    fn open_console(&mut self) {
        if self.console.is_none() {
            let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.console = rustix::fs::open(&self.path, flags, Mode::empty()).ok();
        }
        if self.console.is_none() {
            self.queue.clear();
        }
    }

    fn wait(&self, signals: &SignalFd, limit: Option<&Timespec>) -> io::Result<Ready> {
        let open: Vec<usize> = (0..self.streams.len())
            .filter(|i| self.streams.get(*i).is_some_and(|s| s.open))
            .collect();
        let mut fds: Vec<PollFd<'_>> =
            vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        let stream_fds = open.iter().filter_map(|i| self.streams.get(*i));
        fds.extend(stream_fds.map(|s| PollFd::from_borrowed_fd(s.fd.as_fd(), PollFlags::IN)));
        if let (Some(console), false) = (&self.console, self.queue.is_empty()) {
            fds.push(PollFd::from_borrowed_fd(console.as_fd(), PollFlags::OUT));
        }
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = |i: usize| fds.get(i).is_some_and(|f| !f.revents().is_empty());
        let streams = open
            .iter()
            .enumerate()
            .filter(|(place, _)| ready(place + 1))
            .map(|(_, i)| *i)
            .collect();
        Ok(Ready {
            streams,
            terminate: ready(0),
        })
    }

    /// Reads from every stream that has something.
    fn take(&mut self, ready: &Ready) {
        for index in &ready.streams {
            let Some(stream) = self.streams.get_mut(*index) else {
                continue;
            };
            let mut data = [0u8; READ_MAX];
            match rustix::io::read(&stream.fd, &mut data) {
                Ok(0) => stream.open = false,
                Ok(count) => stream.accept(data.get(..count).unwrap_or_default(), &mut self.queue),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => stream.open = false,
            }
        }
    }

    /// Writes as much as the console takes.
    fn show(&mut self) {
        while let (Some(console), false) = (&self.console, self.queue.is_empty()) {
            match rustix::io::write(console, self.queue.as_slices().0) {
                Ok(count) => drop(self.queue.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Hung up, or the device is gone: opened anew at the next turn. What waits is
                // dropped, or a console that opens and never takes anything would be a busy loop.
                Err(_) => {
                    self.console = None;
                    self.queue.clear();
                }
            }
        }
        for stream in &mut self.streams {
            stream.confess(&mut self.queue);
        }
    }

    fn last_words(&mut self, signals: &SignalFd) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            let ready = self.wait(signals, Some(&limit))?;
            if ready.streams.is_empty() {
                break;
            }
            self.take(&ready);
            self.show();
        }
        for stream in &mut self.streams {
            stream.finish(&mut self.queue);
        }
        let end = now() + LAST_WORDS;
        self.show();
        while let (Some(console), false, true) = (&self.console, self.queue.is_empty(), now() < end)
        {
            let limit = Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            poll(
                &mut [PollFd::from_borrowed_fd(console.as_fd(), PollFlags::OUT)],
                Some(&limit),
            )?;
            self.show();
        }
        Ok(())
    }
}

impl Stream {
    fn accept(&mut self, data: &[u8], queue: &mut VecDeque<u8>) {
        let lost = &mut self.lost;
        self.splitter
            .push(data, |line| *lost += u64::from(!enqueue(line, queue)));
    }

    fn finish(&mut self, queue: &mut VecDeque<u8>) {
        let lost = &mut self.lost;
        self.splitter
            .finish(|line| *lost += u64::from(!enqueue(line, queue)));
        self.confess(queue);
    }

    /// Tells how many lines were dropped, once there is room to say so.
    fn confess(&mut self, queue: &mut VecDeque<u8>) {
        if self.lost > 0 && queue.len() < QUEUE_MAX / 2 {
            let name = if self.name.is_empty() {
                "init"
            } else {
                &self.name
            };
            let event = Event::new("log.lost")
                .with("service", name)
                .with("lines", self.lost);
            let mut line = event.line(now()).into_bytes();
            line.push(b'\n');
            if enqueue(&line, queue) {
                self.lost = 0;
            }
        }
    }
}

fn enqueue(line: &[u8], queue: &mut VecDeque<u8>) -> bool {
    let fits = queue.len() + line.len() <= QUEUE_MAX;
    if fits {
        queue.extend(line);
    }
    fits
}

/// Since the kernel started.
#[must_use]
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Time::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A descriptor that the parent passed under this number, checked to be open.
///
/// # Errors
/// If it is not open.
pub fn passed(number: i32) -> io::Result<OwnedFd> {
    crate::sys::passed(number)
}

/// A borrowed descriptor as an owned copy, close-on-exec.
///
/// # Errors
/// If the kernel gives no further descriptor.
pub fn copy(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}
