//! One connection of the control socket.
//!
//! ```text
//!          a request           answer            sent
//! Asking -----------> Asked ----------> Answering ----> Asking, or the end
//! ```
//!
//! Only while it is **asking** is anything read of it, and never more than one request may have. So
//! whatever else a client sends stays in the kernel and costs nothing here.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::held::{self, Head};
use super::protocol::REQUEST_MAX;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    Asked,
    /// Whether another request may come after it.
    Answering {
        last: bool,
    },
}

/// What a look at a connection brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A line, without its end. It waits for its answer.
    Line(Vec<u8>),
    /// More than a request may have.
    TooLong,
    /// The client is gone, or has heard its last.
    Gone,
    /// The client has passed a descriptor.
    Descriptor,
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// The user at the other end.
    pub uid: u32,
    phase: Phase,
    /// Since when it is in its phase, or when it last took something.
    pub since: Duration,
    input: Vec<u8>,
    output: VecDeque<u8>,
}

impl Connection {
    pub fn new(stream: UnixStream, uid: u32, now: Duration) -> Connection {
        Connection {
            stream,
            uid,
            phase: Phase::Asking,
            since: now,
            input: Vec::new(),
            output: VecDeque::new(),
        }
    }

    /// Whether its request waits for an answer.
    pub fn is_asked(&self) -> bool {
        self.phase == Phase::Asked
    }

    /// Since when it reads nothing of its answer.
    pub fn deaf_since(&self) -> Option<Duration> {
        matches!(self.phase, Phase::Answering { .. }).then_some(self.since)
    }

    /// Queues an answer, and sends what the client takes.
    pub fn answer(&mut self, line: &str, last: bool, now: Duration) {
        self.output.extend(line.as_bytes());
        self.output.push_back(b'\n');
        self.phase = Phase::Answering { last };
        self.since = now;
    }

    /// Goes on until there is nothing more to do at present.
    pub fn poll_step(&mut self, cx: &mut Context<'_>, now: Duration) -> Poll<Step> {
        loop {
            match self.phase {
                // Nothing is awaited of the client; that it has gone is seen when it is answered.
                Phase::Asked => return Poll::Pending,
                Phase::Answering { last } => match self.poll_send(cx, now) {
                    Poll::Ready(Ok(())) if !last => {
                        self.phase = Phase::Asking;
                        self.since = now;
                    }
                    Poll::Ready(_) => return Poll::Ready(Step::Gone),
                    Poll::Pending => return Poll::Pending,
                },
                Phase::Asking => {
                    if let Some(step) = self.take_line() {
                        self.phase = Phase::Asked;
                        self.since = now;
                        return Poll::Ready(step);
                    }
                    match self.poll_receive(cx) {
                        Poll::Ready(Ok(Head::Descriptor)) => return Poll::Ready(Step::Descriptor),
                        Poll::Ready(Ok(Head::Bytes(0)) | Err(_)) => return Poll::Ready(Step::Gone),
                        Poll::Ready(Ok(Head::Bytes(_))) => {}
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }

    /// A request that is there whole, or that there is too much of one.
    fn take_line(&mut self) -> Option<Step> {
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            return (self.input.len() >= REQUEST_MAX).then_some(Step::TooLong);
        };
        let rest = self.input.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.input, rest);
        line.pop();
        Some(Step::Line(line))
    }

    /// Reads on, as far as a request may go, and only what comes without a descriptor.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Head>> {
        let mut buffer = [0; REQUEST_MAX];
        let room = REQUEST_MAX.saturating_sub(self.input.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        loop {
            let stream = &self.stream;
            let received = stream.try_io(Interest::READABLE, || {
                let head = held::peek(stream, buffer)?;
                if let Head::Bytes(count) = head {
                    let seen = buffer.get_mut(..count).unwrap_or_default();
                    // Nobody else reads, so these are the bytes that were seen.
                    rustix::io::read(stream, seen)?;
                }
                Ok(head)
            });
            match received {
                Ok(head) => {
                    if let Head::Bytes(count) = head {
                        let read = buffer.get(..count).unwrap_or_default();
                        self.input.extend(read);
                    }
                    return Poll::Ready(Ok(head));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            std::task::ready!(self.stream.poll_read_ready(cx))?;
        }
    }

    /// Ends it. Gives the socket back if it is to be held: see [`held`].
    pub fn close(self) -> Option<std::os::unix::net::UnixStream> {
        // No longer watched, the descriptor itself could only fail to be given back.
        held::close(self.stream.into_std().ok()?)
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>, now: Duration) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match self.stream.try_write(self.output.as_slices().0) {
                Ok(count) => {
                    self.output.drain(..count.min(self.output.len()));
                    self.since = now;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            std::task::ready!(self.stream.poll_write_ready(cx))?;
        }
        // Gives the memory back: a client may stay for days after one long answer.
        self.output = VecDeque::new();
        Poll::Ready(Ok(()))
    }
}
