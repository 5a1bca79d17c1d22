//! The epoll of PID 1's loop, and what is registered there.
//!
//! An epoll reports a file as long as *any* process has it open, not only this one, and once our number
//! is closed the registration cannot be taken back (epoll(7), question 6). Every child has copies of
//! all descriptors until its exec. So what is registered is owned together with its registration
//! ([`Watched`]), which is taken back before the descriptor is closed.

use crate::driver::Token;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// See the module. Clones are the same epoll.
#[derive(Clone, Debug)]
pub struct Poller(Rc<OwnedFd>);

impl Poller {
    /// Makes an epoll.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self(Rc::new(epoll::create(CreateFlags::CLOEXEC)?)))
    }

    /// Waits for something to be ready, at most for `limit`.
    ///
    /// # Errors
    /// `EINTR`, and what only a fault of ours brings about.
    pub fn wait<'a>(
        &self,
        room: &'a mut [MaybeUninit<Event>],
        limit: Option<&Timespec>,
    ) -> rustix::io::Result<&'a mut [Event]> {
        epoll::wait(&self.0, room, limit).map(|(ready, _)| ready)
    }

    /// Takes charge of a descriptor. It is registered when an interest is set.
    pub fn own<F: AsFd>(&self, fd: F, token: Token) -> Watched<F> {
        Watched {
            poller: self.clone(),
            token,
            interest: None,
            fd,
        }
    }

    /// Takes charge of a descriptor and registers it for this interest.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn watch<F: AsFd>(
        &self,
        fd: F,
        token: Token,
        interest: EventFlags,
    ) -> rustix::io::Result<Watched<F>> {
        let mut watched = self.own(fd, token);
        watched.set_interest(interest)?;
        Ok(watched)
    }

    /// Registers a descriptor that somebody else owns, who takes it back ([`forget`](Self::forget)) before
    /// closing it, or keeps it as long as the loop turns.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn add(
        &self,
        fd: BorrowedFd<'_>,
        token: Token,
        interest: EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.0, fd, token.data(), interest)
    }

    /// Takes such a descriptor's registration back.
    pub fn forget(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.0, fd);
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor, and its registration at a [`Poller`].
#[derive(Debug)]
pub struct Watched<F: AsFd> {
    poller: Poller,
    token: Token,
    /// What epoll looks for; `None`: it is not registered.
    interest: Option<EventFlags>,
    /// The last field, so that it is closed last.
    fd: F,
}

impl<F: AsFd> Watched<F> {
    /// Has epoll look for this from now on. Hang-ups and errors are reported in any case
    /// (epoll_ctl(2), `EPOLLHUP`).
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn set_interest(&mut self, interest: EventFlags) -> rustix::io::Result<()> {
        let data = self.token.data();
        match self.interest {
            Some(now) if now == interest => return Ok(()),
            Some(_) => epoll::modify(&self.poller, &self.fd, data, interest)?,
            None => epoll::add(&self.poller, &self.fd, data, interest)?,
        }
        self.interest = Some(interest);
        Ok(())
    }

    /// Whether it is registered.
    pub fn is_watched(&self) -> bool {
        self.interest.is_some()
    }

    /// Takes the registration back: nothing of it is reported any more.
    pub fn unwatch(&mut self) {
        if self.interest.take().is_some() {
            let _ = epoll::delete(&self.poller, &self.fd);
        }
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        self.unwatch();
    }
}

impl<F: AsFd> AsFd for Watched<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> Deref for Watched<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.fd
    }
}

impl<F: AsFd> DerefMut for Watched<F> {
    fn deref_mut(&mut self) -> &mut F {
        &mut self.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_here_and_open_elsewhere_is_not_reported() {
        let poller = Poller::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        // What a child between clone and exec has.
        let copy = rustix::io::dup(&read).unwrap();
        let token = Token { kind: 1, number: 7 };
        let watched = poller.watch(read, token, EventFlags::IN).unwrap();
        drop(write);
        let ready = || {
            let mut room = [MaybeUninit::uninit(); 4];
            let zero = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            poller.wait(&mut room, Some(&zero)).unwrap().len()
        };
        assert_eq!(ready(), 1);
        drop(watched);
        assert_eq!(ready(), 0);
        drop(copy);
    }
}
