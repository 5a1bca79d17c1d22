//! The role `logger`: carries service output and PID 1's events to where somebody reads them.
//!
//! A serial line is slow, can be stopped by whoever is at its other end, and is fed by programs
//! that nobody here wrote; a disk can be full, or hang. So this is a process of its own, without
//! privileges, which PID 1 supervises like any service: PID 1 puts its event lines into a pipe that
//! never blocks it, and never touches a byte of service output.
//!
//! It waits in one `poll` for input of any stream and for room wherever something waits for room; a
//! time limit has this wait only while something is to be told at a time. A stream is never left
//! unread, so nothing that stalls here stalls a service:
//!
//! * `rate` holds back what a service says beyond its limit;
//! * `ring` keeps the last lines of each source in memory;
//! * `console` queues what the console does not take yet, up to a bound;
//! * `files` queues what the disk does not take yet, for the one thread that writes;
//! * `clients` queues what somebody who looks does not read yet;
//! * `losses` counts what found no room, by source and reason, and each count is told.
//!
//! In a turn the events are read first, then every stream until it is empty, and only then are the
//! events handled: what a service wrote before PID 1 saw its end is in the record of that end
//! (`exits`). All lines of a turn have the same time, so order and time never disagree.
//!
//! The loop tells PID 1 that it turns (`sd_notify(3)`, `WATCHDOG=1`). Services wait while nobody reads what they
//! write, so a logger that hangs is killed, and its successor reads what is in the pipes. What the logger itself
//! has to say is told among the events (`log.warning`); what it writes to its standard error, such as the message
//! of a panic, is a stream like that of any service, read by itself or by its successor.
//!
//! On `TERM` the logger takes what is in the pipes, waits a bounded time for the console and the
//! disk, and ends.

mod clients;
mod console;
mod control;
mod exits;
mod files;
mod lines;
mod losses;
mod outlets;
pub mod protocol;
mod rate;
mod ring;
mod source;
#[cfg(test)]
mod testing;
mod writer;

use crate::Time;
use crate::event::ROUTINE;
use crate::notifier::Notifier;
use console::Console;
pub use console::Target;
use control::Control;
use files::Files;
pub use files::{Folder, OLDER, SIZE};
pub use lines::Splitter;
use losses::Reason;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use outlets::Outlets;
pub use rate::Limit;
use rate::RateLimit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use source::Source;
use std::io;
use std::rc::Rc;
pub use writer::Rotation;

/// How long the console and the disk may take at the end.
const LAST_WORDS: Time = Time::from_secs(1);

/// The other end is gone (poll(2)); told without being asked for.
const HUNG_UP: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

/// The place of PID 1's events among the sources.
const EVENTS: usize = 0;

/// The name they have there, which no service may have.
pub const EVENTS_NAME: &str = "init";

/// What a logger is started with.
#[derive(Debug)]
pub struct Options {
    /// Complete lines of PID 1, shown as they are, but for those marked as [`ROUTINE`], which are only kept.
    pub events: OwnedFd,
    /// Services.
    pub services: Vec<Service>,
    /// Where to show them.
    pub console: Target,
    /// Where to write them.
    pub folder: Option<Folder>,
    /// To PID 1, non-blocking.
    pub control: Option<OwnedFd>,
    /// Tells whoever supervises it that the loop turns.
    pub notifier: Notifier,
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Its name, which is also that of its file.
    pub name: String,
    /// The read end of its output.
    pub output: OwnedFd,
    /// How much it may say.
    pub limit: Option<Limit>,
}

/// A line of a source.
#[derive(Clone, Debug)]
struct Line {
    /// Counts all lines of all sources, in the order in which they came.
    number: u64,
    at_ms: u64,
    source: usize,
    text: Rc<str>,
}

/// Runs until `TERM`.
///
/// # Errors
/// If the kernel refuses the calls it lives on; PID 1 starts it again then.
pub fn run(mut options: Options) -> io::Result<()> {
    // Before there is a second thread, which must not take the signal either.
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block()?;
    let signals = SignalFd::with_flags(&terminate, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut notifier = std::mem::take(&mut options.notifier);
    let mut logger = Logger::new(options)?;
    loop {
        logger.settle(now());
        let dues = [logger.due(), notifier.turn(now())];
        let ready = logger.wait(&signals, dues.into_iter().flatten().min())?;
        logger.turn(&ready, now());
        if ready.iter().any(|(who, _)| *who == Who::Terminate) {
            return logger.last_words(&signals);
        }
    }
}

struct Logger {
    events: Source,
    services: Vec<Source>,
    control: Option<Control>,
    outlets: Outlets,
}

/// Who is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Terminate,
    Events,
    Service(usize),
    Console,
    Files,
    Control,
    Client(usize),
}

impl Logger {
    fn new(options: Options) -> io::Result<Self> {
        let mut names = vec![EVENTS_NAME.to_owned()];
        let mut services = Vec::new();
        for service in options.services {
            let limit = RateLimit::new(service.limit);
            services.push(Source::new(names.len(), service.output, limit)?);
            names.push(service.name);
        }
        let boot = boot_id();
        let files = Files::start(options.folder, &names, &boot)?;
        Ok(Self {
            events: Source::new(EVENTS, options.events, RateLimit::new(None))?,
            services,
            control: options.control.map(Control::new),
            outlets: Outlets::new(names, Console::new(options.console), files, boot),
        })
    }

    /// Waits until somebody is ready, at most until this time.
    fn wait(&self, signals: &SignalFd, until: Option<Time>) -> io::Result<Vec<(Who, PollFlags)>> {
        let mut all = vec![
            (Who::Terminate, signals.as_fd(), PollFlags::IN),
            (Who::Files, self.outlets.files.bell(), PollFlags::IN),
        ];
        let events = self.events.wants();
        all.extend(events.map(|fd| (Who::Events, fd, PollFlags::IN)));
        for (index, service) in self.services.iter().enumerate() {
            let output = service.wants();
            all.extend(output.map(|fd| (Who::Service(index), fd, PollFlags::IN)));
        }
        let console = self.outlets.console.wants();
        all.extend(console.map(|fd| (Who::Console, fd, PollFlags::OUT)));
        let control = self.control.as_ref().and_then(Control::wants);
        all.extend(control.map(|(fd, flags)| (Who::Control, fd, flags)));
        let clients = self.outlets.clients.wants().enumerate();
        all.extend(clients.map(|(i, (fd, flags))| (Who::Client(i), fd, flags)));

        let limit = until.map(|until| until.saturating_sub(now()));
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds: Vec<PollFd<'_>> = all
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let results = all.iter().zip(&fds);
        Ok(results
            .map(|((who, ..), fd)| (*who, fd.revents()))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    /// When there is something to do though nobody is ready.
    fn due(&self) -> Option<Time> {
        let rates = self.services.iter().filter_map(|s| s.rate.due());
        let losses = &self.outlets.losses;
        // A console without room will be ready when it has some.
        let told = losses.due().filter(|_| self.outlets.console.has_room());
        let control = self.control.as_ref().and_then(|c| c.due(losses));
        rates.chain(told).chain(control).min()
    }

    /// Takes what there is; see the module about the order.
    fn turn(&mut self, ready: &[(Who, PollFlags)], now: Time) {
        let is_ready = |who: Who| ready.iter().any(|(w, _)| *w == who);
        self.outlets.console.open();
        let events = if is_ready(Who::Events) {
            self.events.lines()
        } else {
            Vec::new()
        };
        for (index, service) in self.services.iter_mut().enumerate() {
            // Its output may have come after the wait, but before the events.
            let is_due = !events.is_empty() || is_ready(Who::Service(index));
            if is_due && service.wants().is_some() {
                service.take(now, &mut self.outlets);
            }
        }
        for event in events {
            self.event(&event, now);
        }
        // Before the requests: a client that is admitted now was not waited for.
        for (who, flags) in ready {
            if let (Who::Client(place), true) = (who, flags.intersects(HUNG_UP)) {
                self.outlets.clients.hung_up(*place);
            }
        }
        for (who, flags) in ready {
            match who {
                Who::Files => self.outlets.hear_files(now),
                Who::Control => self.obey(*flags),
                _ => {}
            }
        }
    }

    fn event(&mut self, line: &str, now: Time) {
        let (event, shown) = match line.strip_prefix(ROUTINE) {
            Some(event) => (event, false),
            None => (line, true),
        };
        let ended = exits::ended(event);
        let source = ended.and_then(|service| self.outlets.source(service));
        let service = source.and_then(|place| place.checked_sub(1));
        if let Some(service) = service.and_then(|index| self.services.get_mut(index)) {
            // What it began to say it will not go on with.
            service.finish(now, &mut self.outlets);
        }
        if shown {
            self.outlets.line(EVENTS, now, event);
        } else {
            self.outlets.unshown_line(EVENTS, now, event);
        }
        if ended.is_some() {
            self.outlets.record_exit(event);
        }
    }

    fn obey(&mut self, flags: PollFlags) {
        let Some(control) = &mut self.control else {
            return;
        };
        if flags.contains(PollFlags::OUT) {
            control.has_room();
        }
        while let Some((request, client)) = control.receive() {
            self.outlets.answer(request, client);
        }
    }

    /// Does what has its time, and gives everybody what he takes.
    fn settle(&mut self, now: Time) {
        for service in &mut self.services {
            let over = service.rate.settle(now);
            self.outlets.losses.add(service.place, Reason::Rate, over);
        }
        self.outlets.write_console();
        self.outlets.confess(now);
        self.outlets.write_console();
        let Outlets { clients, names, .. } = &mut self.outlets;
        clients.send(names);
        if let Some(control) = &mut self.control {
            control.report(&mut self.outlets.losses, now);
        }
    }

    fn last_words(&mut self, signals: &SignalFd) -> io::Result<()> {
        let end = now() + LAST_WORDS;
        // A pipe that is fed without a pause must not keep the logger from its end.
        while now() < end {
            let ready = self.wait(signals, Some(Time::ZERO))?;
            let reads = |(who, _): &(Who, _)| matches!(who, Who::Events | Who::Service(_));
            let is_last = !ready.iter().any(reads);
            self.turn(&ready, now());
            self.settle(now());
            if is_last {
                break;
            }
        }
        let now_ends = now();
        for service in &mut self.services {
            service.finish(now_ends, &mut self.outlets);
            let over = service.rate.finish();
            self.outlets.losses.add(service.place, Reason::Rate, over);
        }
        self.events.finish(now_ends, &mut self.outlets);
        self.outlets.losses.hurry();
        self.settle(now_ends);
        self.outlets.files.close();
        while now() < end {
            // In this order: what is told after `done` is heard.
            let done = self.outlets.files.done();
            self.outlets.hear_files(now());
            self.outlets.losses.hurry();
            self.settle(now());
            if done && self.outlets.console.wants().is_none() {
                break;
            }
            let mut fds = vec![PollFd::from_borrowed_fd(
                self.outlets.files.bell(),
                PollFlags::IN,
            )];
            let console = self.outlets.console.wants();
            fds.extend(console.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
            let limit = Timespec::try_from(end.saturating_sub(now())).ok();
            match poll(&mut fds, limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        for (source, lines) in self.outlets.files.abandon().into_iter().enumerate() {
            self.outlets.losses.add(source, Reason::File, lines);
        }
        self.control.iter_mut().for_each(Control::hurry);
        self.settle(now());
        Ok(())
    }
}

/// Names the present boot (random(4)); empty without `/proc`.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim_end().to_owned()
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
