//! Descriptors that strangers sent, and what becomes of them.
//!
//! Whoever sends a descriptor decides what happens when the last copy is closed: a socket with
//! `SO_LINGER` waits for its peer, a file of FUSE for whoever serves it. PID 1 has one thread, so it
//! closes nothing that it received. It does not poll, stat or set an option of it either, all of which
//! may wait for a lock that the sender holds.
//!
//! ```text
//!            received                dropped              a child closes it
//!  a socket ----------> ReceivedFd ----------> waiting --------------------> gone
//!                       (maybe stored          (number not
//!                        for a service)         used again)
//! ```
//!
//! The child is made by [`Closer`], one at a time; [`crate::sys::close`] says how it does not wait
//! either. One that is stuck in the kernel for good is left alone, and the next goes on behind it.
//!
//! All of it is bounded. Of one [`Source`] so many may wait to be closed ([`Source::may_receive`]); until
//! they are, nothing is read of it. Of all together so many may be open that PID 1 has descriptors left
//! for its own work: one that it could not take would be closed by the kernel, in PID 1.

use crate::Time;
use crate::sys::close::{self, Begun, Unclosed};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use rustix::net::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use std::cell::Cell;
use std::io;
use std::rc::Rc;

/// The most descriptors that one message can carry (unix(7), `SCM_MAX_FD`).
pub const MESSAGE_MAX: usize = 253;

/// So many of one source may wait to be closed before nothing is read of it.
const WAITING_MAX: usize = 64;

/// How long a child may take for its batch, when a signal can end what it waits for. Closing takes
/// microseconds.
const CLOSE_LIMIT: Time = Time::from_millis(20);

/// When a child is killed that its own timer did not end ...
const KILL_AFTER: Time = Time::from_secs(1);

/// ... and when it is left alone. In between it has surely got the signal, so it makes no further system
/// call and closes nothing behind what it is stuck at.
const LEAVE_AFTER: Time = Time::from_secs(2);

/// So many children may be stuck in the kernel before nothing is closed until one of them ends.
const STUCK_MAX: usize = 32;

/// When a child is tried again that could not be made.
const RETRY: Time = Time::from_millis(200);

/// What is known of all descriptors that were received.
#[derive(Default)]
struct Ledger {
    /// Those that are open in this process.
    open: Cell<usize>,
    /// How many may be.
    open_max: Cell<usize>,
    /// Those that wait to be closed.
    waiting: Cell<Vec<Waiting>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Ledger");
        shown
            .field("open", &self.open)
            .field("open_max", &self.open_max);
        shown.finish_non_exhaustive()
    }
}

/// A number that nobody uses any more and that is to be closed.
#[derive(Debug)]
struct Waiting {
    number: RawFd,
    source: Rc<Cell<usize>>,
}

/// Somebody who may send descriptors: a notify socket, the clients of the control socket, a role.
#[derive(Clone, Debug)]
pub struct Source {
    ledger: Rc<Ledger>,
    /// Of its descriptors, those that wait to be closed.
    waiting: Rc<Cell<usize>>,
}

impl Source {
    /// Whether a further message may be taken, whatever it brings along.
    #[must_use]
    pub fn may_receive(&self) -> bool {
        let room = self.ledger.open_max.get();
        self.waiting.get() < WAITING_MAX && self.ledger.open.get() + MESSAGE_MAX <= room
    }

    /// Whether descriptors of any source are open in this process, or waiting to be closed.
    #[must_use]
    pub fn any_open(&self) -> bool {
        self.ledger.open.get() > 0
    }

    /// Takes charge of a descriptor that came from this source.
    #[must_use]
    pub fn received(&self, fd: OwnedFd) -> ReceivedFd {
        let open = &self.ledger.open;
        open.set(open.get().saturating_add(1));
        ReceivedFd {
            fd: fd.into(),
            source: self.clone(),
            stream: false,
        }
    }

    /// Takes charge of a stream socket that was accepted: what this source sent, descriptors included,
    /// may still be queued in it when it is closed.
    #[must_use]
    pub fn accepted(&self, stream: OwnedFd) -> ReceivedFd {
        let mut received = self.received(stream);
        received.stream = true;
        received
    }
}

/// A descriptor that a stranger sent, or in which descriptors of a stranger may be queued. Dropping it does
/// not close it; see the module.
#[derive(Debug)]
pub struct ReceivedFd {
    fd: Unclosed,
    source: Source,
    /// Whether it is a stream socket whose other copies are nobody's.
    stream: bool,
}

impl ReceivedFd {
    /// Whether it may be kept for longer: only while there is room to receive besides.
    #[must_use]
    pub fn may_be_kept(&self) -> bool {
        let ledger = &self.source.ledger;
        ledger.open.get() + 2 * MESSAGE_MAX <= ledger.open_max.get()
    }

    /// Another process has a copy of this stream, which goes on after ours is dropped.
    pub fn set_shared(&mut self) {
        self.stream = false;
    }
}

impl AsFd for ReceivedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for ReceivedFd {
    fn drop(&mut self) {
        let Source { ledger, waiting } = &self.source;
        if self.stream && is_drained(self.fd.as_fd()) {
            ledger.open.set(ledger.open.get().saturating_sub(1));
            return self.fd.close();
        }
        waiting.set(waiting.get().saturating_add(1));
        let mut list = ledger.waiting.take();
        list.push(Waiting {
            number: self.fd.number(),
            source: Rc::clone(waiting),
        });
        ledger.waiting.set(list);
    }
}

/// Whether a stream is empty, and stays so: nothing is queued any more at an end that is shut down
/// (kernel: `net/unix/af_unix.c`, `unix_stream_sendmsg`). Closing it then frees nothing but itself.
fn is_drained(stream: BorrowedFd<'_>) -> bool {
    let _ = rustix::net::shutdown(stream, Shutdown::Both);
    rustix::io::ioctl_fionread(stream).is_ok_and(|queued| queued == 0)
}

/// Closes what was dropped.
#[derive(Debug)]
pub struct Closer {
    ledger: Rc<Ledger>,
    begun: Begun,
    child: Option<Child>,
    /// Children that were left alone, by their pids.
    stuck: Vec<i32>,
    /// Not before this time.
    retry: Option<Time>,
}

/// The child that closes at present.
#[derive(Debug)]
struct Child {
    pid: i32,
    started: Time,
    killed: bool,
    batch: Vec<Waiting>,
}

impl Closer {
    /// With room for so many received descriptors at the same time.
    ///
    /// # Errors
    /// Without memory.
    pub fn new(open_max: usize) -> io::Result<Self> {
        let ledger = Ledger::default();
        ledger.open_max.set(open_max.max(MESSAGE_MAX + WAITING_MAX));
        Ok(Self {
            ledger: Rc::new(ledger),
            begun: Begun::new()?,
            child: None,
            stuck: Vec::new(),
            retry: None,
        })
    }

    /// Somebody else who may send descriptors.
    #[must_use]
    pub fn source(&self) -> Source {
        Source {
            ledger: Rc::clone(&self.ledger),
            waiting: Rc::default(),
        }
    }

    /// When [`run`](Self::run) has something to do, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let child = self.child.as_ref();
        let wait = |child: &Child| {
            let after = if child.killed {
                LEAVE_AFTER
            } else {
                KILL_AFTER
            };
            child.started.saturating_add(after)
        };
        child.map(wait).or(self.retry)
    }

    /// Has closed what waits. To be called whenever something may have been dropped, and at the deadline.
    pub fn run(&mut self, now: Time) {
        if let Some(child) = &mut self.child {
            let age = now.saturating_sub(child.started);
            if age >= LEAVE_AFTER && child.killed {
                self.stuck.push(child.pid);
                self.settle();
            } else if age >= KILL_AFTER && !child.killed {
                child.killed = true;
                // It is our child and not reaped, so the pid is its own.
                if let Some(pid) = Pid::from_raw(child.pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
        let rests = self.retry.is_some_and(|at| now < at);
        if self.child.is_some() || rests || self.stuck.len() >= STUCK_MAX {
            return;
        }
        self.retry = None;
        let batch = self.ledger.waiting.take();
        if batch.is_empty() {
            return;
        }
        let numbers: Vec<RawFd> = batch.iter().map(|w| w.number).collect();
        match close::spawn(&numbers, &self.begun, CLOSE_LIMIT) {
            Ok(pid) => {
                self.child = Some(Child {
                    pid,
                    started: now,
                    killed: false,
                    batch,
                });
            }
            Err(_) => {
                self.ledger.waiting.set(batch);
                self.retry = Some(now.saturating_add(RETRY));
            }
        }
    }

    /// A child of this process was reaped; whether it was one of these.
    pub fn reaped(&mut self, pid: i32, now: Time) -> bool {
        if let Some(place) = self.stuck.iter().position(|stuck| *stuck == pid) {
            self.stuck.swap_remove(place);
        } else if self.child.as_ref().is_some_and(|child| child.pid == pid) {
            self.settle();
        } else {
            return false;
        }
        self.run(now);
        true
    }

    /// What the child began to close is gone; the rest waits for the next one.
    fn settle(&mut self) {
        let Some(Child { mut batch, .. }) = self.child.take() else {
            return;
        };
        let mut rest = batch.split_off(self.begun.count().min(batch.len()));
        let ledger = &self.ledger;
        ledger
            .open
            .set(ledger.open.get().saturating_sub(batch.len()));
        for Waiting { source, .. } in batch {
            source.set(source.get().saturating_sub(1));
        }
        rest.append(&mut ledger.waiting.take());
        ledger.waiting.set(rest);
    }
}
