//! The one emitter of PID 1: every event passes here.
//!
//! An event goes to the kernel's log, to the console, and into the record of this boot. None of
//! the ways may block: before the `logger` runs, the line is written to the console itself,
//! opened non-blocking; after that, into the logger's pipe, marked if the logger is not to show it; and to the console itself again while the
//! logger does not come back, or nobody would hear of that. A console that hung up is opened anew with the
//! next event. What finds no room is counted, and the count is told with the next event that does (`lost=N`).

use crate::kmsg_logger::{self, Kmsg};
use crate::record::Record;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;
use supervisor::Time;
use supervisor::event::{Event, EventSink, ROUTINE};
use supervisor::logger::now;

/// Syslog severity `info`: below the console's level, so that the kernel does not show there
/// what we show ourselves.
const SEVERITY: u8 = 6;

/// See the module.
#[derive(Debug)]
pub struct Emitter {
    kmsg: Option<&'static Kmsg>,
    /// The console itself, or the standard output of a container.
    console: Option<OwnedFd>,
    /// Where the console is, if it is ours to open.
    console_path: Option<PathBuf>,
    /// To the logger.
    pipe: Option<OwnedFd>,
    /// Whether the pipe is to be used, once there is one.
    through_logger: bool,
    /// Since the last event that found room.
    lost: u64,
    lost_total: u64,
    record: Record,
    /// How many of the newest were not taken by [`Emitter::fresh`] yet.
    fresh: usize,
}

impl Emitter {
    /// Emits to the kernel's log and the console itself. Without a console, only to the kernel's log.
    #[must_use]
    pub fn direct() -> Self {
        Self::on_console(Some(kmsg_logger::install()), "/dev/console".into())
    }

    fn on_console(kmsg: Option<&'static Kmsg>, path: PathBuf) -> Self {
        let mut emitter = Self::new(kmsg, None);
        emitter.console_path = Some(path);
        emitter.open_console();
        emitter
    }

    /// Emits to this descriptor only, which must be non-blocking: in a container the kernel's log and
    /// its console are not ours.
    #[must_use]
    pub fn contained(out: Option<OwnedFd>) -> Self {
        Self::new(None, out)
    }

    fn new(kmsg: Option<&'static Kmsg>, console: Option<OwnedFd>) -> Self {
        Self {
            kmsg,
            console,
            console_path: None,
            pipe: None,
            through_logger: true,
            lost: 0,
            lost_total: 0,
            record: Record::default(),
            fresh: 0,
        }
    }

    /// From now on emits into the logger's pipe, which must be non-blocking.
    pub fn use_pipe(&mut self, pipe: OwnedFd) {
        self.pipe = Some(pipe);
    }

    /// Whether the logger is there to read its pipe. While it is not, events go to the console itself.
    pub fn logger_runs(&mut self, runs: bool) {
        self.through_logger = runs;
    }

    /// From now on emits to the console itself again, opened anew: it may have been hung up.
    pub fn use_console(&mut self) {
        self.pipe = None;
        self.open_console();
    }

    /// Non-blocking and never as a controlling terminal: PID 1 must not wait for a serial line, nor be hung up by
    /// it.
    fn open_console(&mut self) {
        if let Some(path) = &self.console_path {
            let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.console = rustix::fs::open(path, flags, Mode::empty()).ok();
        }
    }

    /// Writes a line to where the events go. `false`: there was no room for it.
    fn write(&mut self, line: &str) -> bool {
        let to_console = self.is_direct();
        for _ in 0..2 {
            let Some(out) = self.out() else {
                return true;
            };
            match rustix::io::write(out, line.as_bytes()) {
                Ok(count) => return count == line.len(),
                // A terminal that hung up says so for ever (termio: EIO); opened anew it is one again.
                Err(e) if e != Errno::AGAIN && to_console && self.console_path.is_some() => {
                    self.open_console();
                }
                Err(_) => return false,
            }
        }
        false
    }

    /// Whether events go to the console itself.
    fn is_direct(&self) -> bool {
        self.pipe.is_none() || !self.through_logger
    }

    fn out(&self) -> Option<&OwnedFd> {
        let pipe = self.pipe.as_ref().filter(|_| self.through_logger);
        pipe.or(self.console.as_ref())
    }

    /// The newest so many events of this boot, oldest first, as far as they are kept.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = (Time, Event)> {
        self.record.from(self.record.len().saturating_sub(count))
    }

    /// What happened since the last call, oldest first.
    pub fn fresh(&mut self) -> impl Iterator<Item = (Time, Event)> {
        let count = std::mem::take(&mut self.fresh);
        self.newest(count)
    }

    /// Nobody wants to know what happened since the last call of [`Emitter::fresh`].
    pub fn pass_over_fresh(&mut self) {
        self.fresh = 0;
    }

    /// Events that found no room on their way to the console, since the start.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost_total
    }

    /// Waits until the console sent what it was given, at most for `limit`.
    ///
    /// For the last moment before a reboot, which would cut the line off.
    pub fn drain(&self, limit: Duration) {
        let end = now() + limit;
        while let Some(out) = self.out() {
            if crate::sys::unsent(out) == 0 || now() >= end {
                break;
            }
            let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
                tv_sec: 0,
                tv_nsec: 2_000_000,
            });
        }
    }
}

impl EventSink for Emitter {
    fn emit(&mut self, event: Event) {
        let at = now();
        // A count of lost lines is shown in any case.
        let routine = event.is_routine() && self.lost == 0;
        let (event, mut line) = if self.lost > 0 {
            let line = event.line_with_lost(at, self.lost);
            (event.with("lost", self.lost), line)
        } else {
            let line = event.line(at);
            (event, line)
        };
        if let Some(kmsg) = self.kmsg {
            kmsg.write(SEVERITY, &line);
        }
        if self.record.push(at, &event) {
            self.fresh = self.fresh.saturating_add(1);
        }
        if routine {
            if self.is_direct() {
                return;
            }
            line.insert_str(0, ROUTINE);
        }
        line.push('\n');
        if self.write(&line) {
            self.lost = 0;
        } else {
            self.lost += 1;
            self.lost_total += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::{BufRead, BufReader};

    /// A terminal that `path` leads to; returns its other end.
    fn terminal(path: &std::path::Path) -> OwnedFd {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let _ = std::fs::remove_file(path);
        std::os::unix::fs::symlink(name.to_str().unwrap(), path).unwrap();
        master
    }

    fn line(master: OwnedFd) -> String {
        let mut line = String::new();
        let mut reader = BufReader::new(std::fs::File::from(master));
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[test]
    fn a_console_that_hung_up_is_opened_anew() {
        let path = std::env::temp_dir().join(format!("init-test-emit-{}", std::process::id()));
        let first = terminal(&path);
        let mut emitter = Emitter::on_console(None, path.clone());
        emitter.emit(Event::new("a.first"));
        assert!(line(first).ends_with(" a.first"));
        // The other end is closed, which is a hang-up; then there is a terminal again.
        let second = terminal(&path);
        emitter.emit(Event::new("a.second"));
        assert_eq!(emitter.lost_total(), 0);
        assert!(line(second).ends_with(" a.second"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_routine_event_is_marked_for_the_logger_and_not_shown_on_the_console_itself() {
        let lines = |to_logger: bool, lost: u64| {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::empty()).unwrap();
            let mut emitter = Emitter::contained(None);
            if to_logger {
                emitter.use_pipe(write);
            } else {
                emitter.console = Some(write);
            }
            emitter.lost = lost;
            emitter.emit(Event::new("a.routine").routine());
            emitter.emit(Event::new("a.other"));
            assert_eq!(emitter.newest(9).count(), 2, "both are kept");
            drop(emitter);
            let lines = BufReader::new(std::fs::File::from(read)).lines();
            let bare = |line: String| line.split(' ').skip(2).collect::<Vec<_>>().join(" ");
            let marked = |line: &String| line.starts_with(ROUTINE);
            let lines = lines.map_while(Result::ok);
            lines
                .map(|line| (marked(&line), bare(line)))
                .collect::<Vec<_>>()
        };
        let line = |marked: bool, text: &str| (marked, text.to_owned());
        assert_eq!(lines(false, 0), [line(false, "a.other")]);
        assert_eq!(
            lines(true, 0),
            [line(true, "a.routine"), line(false, "a.other")]
        );
        // What was lost is told by the first line that finds room, and that one is seen.
        assert_eq!(
            lines(false, 3),
            [line(false, "a.routine lost=3"), line(false, "a.other")]
        );
    }

    #[test]
    fn a_full_console_is_no_hang_up_and_the_count_is_told_on_a_cut_line() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut emitter = Emitter::contained(Some(write));
        while emitter.lost_total() < 3 {
            emitter.emit(Event::new("a.flood").with("value", "x".repeat(900)));
        }
        let mut reader = std::fs::File::from(read);
        let mut data = vec![0u8; 1 << 20];
        let _ = std::io::Read::read(&mut reader, &mut data);
        emitter.emit(Event::new("a.long").with("value", "x".repeat(5_000)));
        let mut reader = BufReader::new(reader).lines().map_while(Result::ok);
        let told = reader.find(|line| line.contains("a.long")).unwrap();
        assert!(told.ends_with(" lost=3"), "{told}");
    }
}
