//! Where lines come from: a pipe, and what becomes of its bytes.

use super::lines::Splitter;
use super::outlets::Outlets;
use super::rate::RateLimit;
use crate::Time;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::io;

/// What is read at once.
const READ_MAX: usize = 8 * 1024;

/// What is read of one stream in a turn: all that its pipe can hold (`/proc/sys/fs/pipe-max-size`
/// is 1 MiB), and no more, or a flood of one would end the turn of all.
const TURN_MAX: usize = 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Source {
    /// Its place among all sources.
    pub place: usize,
    /// What holds its lines back.
    pub rate: RateLimit,
    fd: OwnedFd,
    splitter: Splitter,
    open: bool,
}

impl Source {
    /// Reads from this pipe.
    ///
    /// # Errors
    /// If it cannot be made non-blocking.
    pub fn new(place: usize, fd: OwnedFd, rate: RateLimit) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            place,
            rate,
            fd,
            splitter: Splitter::default(),
            open: true,
        })
    }

    /// The pipe, if there can be something in it.
    #[must_use]
    pub fn wants(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.fd.as_fd())
    }

    /// The lines that are complete now, without giving them to anybody.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let splitter = &mut self.splitter;
        self.open = read(&self.fd, |data| {
            splitter.push(data, |line| lines.push(line.to_owned()));
        });
        lines
    }

    /// Gives the lines that are complete now to the outlets, as far as the limit lets them pass.
    pub fn take(&mut self, now: Time, outlets: &mut Outlets) {
        let (splitter, rate, place) = (&mut self.splitter, &mut self.rate, self.place);
        self.open = read(&self.fd, |data| {
            splitter.push(data, |line| {
                if rate.offer(now) {
                    outlets.line(place, now, line);
                }
            });
            outlets.relieve();
        });
        if !self.open {
            self.finish(now, outlets);
        }
    }

    /// What it began to say is a line too.
    pub fn finish(&mut self, now: Time, outlets: &mut Outlets) {
        let (rate, place) = (&mut self.rate, self.place);
        self.splitter.finish(|line| {
            if rate.offer(now) {
                outlets.line(place, now, line);
            }
        });
    }
}

/// Reads until there is nothing more, or enough of it. `false`: there will be nothing any more.
fn read(fd: &OwnedFd, mut take: impl FnMut(&[u8])) -> bool {
    let mut taken = 0;
    while taken < TURN_MAX {
        let mut data = [0u8; READ_MAX];
        match rustix::io::read(fd, &mut data) {
            Ok(count @ 1..) => {
                taken += count;
                take(data.get(..count).unwrap_or_default());
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Ok(_) | Err(_) => return false,
        }
    }
    true
}
