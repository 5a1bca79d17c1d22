//! One connection of the control socket.
//!
//! ```text
//!          a request           answer            sent
//! Asking -----------> Asked ----------> Answering ----> Asking, or the end
//!                           ----------> Following       until the client goes
//!                             stream
//! ```
//!
//! Only while it is **asking** is anything read of it, so whatever else a client sends stays in the
//! kernel and costs nothing here. A request is taken out of the kernel up to its line end and no
//! further (recv(2), `MSG_PEEK`): what follows it is announced again when its turn comes, and a
//! connection that is given away in between is given away complete.
//!
//! A client that passes descriptors is let go. They are received all the same, and so is urgent data
//! (`MSG_OOB`), which could carry them past a plain read: see [`supervisor::received`].

use super::output::Output;
use super::protocol::REQUEST_MAX;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use std::io;
use supervisor::Time;
use supervisor::received::{ReceivedFd, Source};
use supervisor::sys;

/// How long a client may be connected and ask nothing.
pub(super) const ASK_WITHIN: Time = Time::from_secs(60);

/// How long a client may read nothing of its answer.
pub(super) const READ_WITHIN: Time = Time::from_secs(10);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Asking,
    Asked,
    /// Whether another request may come after it.
    Answering {
        last: bool,
    },
    Following,
}

/// What reading brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing yet.
    Partial,
    /// A line, without its end.
    Line(Vec<u8>),
    /// More than a request may have.
    TooLong,
    /// The client has ended its side, is gone, or has passed descriptors.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    fd: ReceivedFd,
    source: Source,
    pub uid: u32,
    pub pid: i32,
    phase: Phase,
    /// Since when it is in its phase, or when it last took something.
    since: Time,
    input: Vec<u8>,
    /// Nothing is read before this time: its user has asked too often.
    rests_until: Option<Time>,
    pub output: Output,
}

impl Connection {
    /// Of a non-blocking socket, whose client sends as `source`.
    pub fn new(fd: ReceivedFd, source: Source, (uid, pid): (u32, i32), now: Time) -> Self {
        let _ = sockopt::set_socket_oobinline(&fd, true);
        Self {
            fd,
            source,
            uid,
            pid,
            phase: Phase::Asking,
            since: now,
            input: Vec::new(),
            rests_until: None,
            output: Output::default(),
        }
    }

    /// It is given away: another process has it, too, and goes on with it.
    pub fn set_shared(&mut self) {
        self.fd.set_shared();
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn enter(&mut self, phase: Phase, now: Time) {
        self.phase = phase;
        self.since = now;
    }

    /// Whether there is something to read, and to write.
    pub fn wants(&self) -> (bool, bool) {
        let reads = self.phase == Phase::Asking && self.rests_until.is_none();
        (reads, !self.output.is_empty())
    }

    /// Reads nothing until then.
    pub fn rest_until(&mut self, end: Time) {
        self.rests_until = Some(end);
    }

    /// Reads on if it has rested for long enough.
    pub fn wake(&mut self, now: Time) {
        self.rests_until = self.rests_until.filter(|end| *end > now);
    }

    /// Whether its patience has ended.
    pub fn has_expired(&self, now: Time) -> bool {
        self.patience_ends().is_some_and(|end| end <= now)
    }

    /// When something is to be done about it, if nothing else happens.
    pub fn deadline(&self) -> Option<Time> {
        let dues = [self.patience_ends(), self.rests_until];
        dues.into_iter().flatten().min()
    }

    /// When its patience ends. A follower may be silent, and may read nothing: lines are dropped then.
    fn patience_ends(&self) -> Option<Time> {
        match self.phase {
            Phase::Asking | Phase::Asked => Some(self.since + ASK_WITHIN),
            Phase::Answering { .. } => Some(self.since + READ_WITHIN),
            Phase::Following => None,
        }
    }

    /// Bytes of a request that is not complete.
    #[cfg(test)]
    pub fn pending(&self) -> usize {
        self.input.len()
    }

    /// Reads on, at most up to a line end and at most [`REQUEST_MAX`] bytes.
    pub fn read(&mut self) -> Read {
        let mut buffer = [0u8; REQUEST_MAX];
        let room = REQUEST_MAX.saturating_sub(self.input.len());
        let Some(buffer) = buffer.get_mut(..room) else {
            return Read::TooLong;
        };
        let seen = match self.peek(buffer) {
            Ok(seen) => seen,
            Err(read) => return read,
        };
        let end = seen.iter().position(|b| *b == b'\n');
        let count = end.map_or(seen.len(), |end| end + 1);
        let Some(buffer) = buffer.get_mut(..count) else {
            return Read::TooLong;
        };
        match sys::receive(self.fd.as_fd(), buffer, &self.source) {
            Ok(message) if message.descriptors.is_empty() && message.bytes > 0 => {
                let taken = buffer.get(..message.bytes).unwrap_or_default();
                self.input.extend(taken);
            }
            Ok(_) => return Read::Gone,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Read::Partial,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Read::Partial,
            Err(_) => return Read::Gone,
        }
        if self.input.last() == Some(&b'\n') {
            let mut line = std::mem::take(&mut self.input);
            line.pop();
            Read::Line(line)
        } else if self.input.len() >= REQUEST_MAX {
            self.input = Vec::new();
            Read::TooLong
        } else {
            Read::Partial
        }
    }

    /// What waits in the kernel. Descriptors stay where they are: of a look the kernel closes only copies.
    fn peek<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Read> {
        match recv(&self.fd, &mut *buffer, RecvFlags::PEEK) {
            Ok((0, _)) => Err(Read::Gone),
            Ok((count, _)) => Ok(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Err(Read::Partial),
            Err(_) => Err(Read::Gone),
        }
    }

    /// Sends what waits, as far as the client takes it; whether the connection goes on.
    pub fn flush(&mut self, now: Time) -> bool {
        // Without `NOSIGNAL` a client that is gone would be a SIGPIPE (send(2)).
        let fd = &self.fd;
        match self
            .output
            .drain(|data| send(fd, data, SendFlags::NOSIGNAL))
        {
            Ok(progress) => {
                if progress {
                    self.since = now;
                }
            }
            Err(_) => return false,
        }
        match self.phase {
            Phase::Answering { last } if self.output.is_empty() => {
                if !last {
                    self.enter(Phase::Asking, now);
                }
                !last
            }
            _ => true,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
