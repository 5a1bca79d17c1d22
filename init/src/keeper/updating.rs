//! An update that is being installed: a child process of the role `update`.
//!
//! It sends its events over a channel of its own and ends with a status that says how it went. It lives
//! in the keeper's cgroup, so it is gone when the keeper is stopped.

use crate::system::relay;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::process::{Child, Command};
use supervisor::event::Event;

/// See the module.
#[derive(Debug)]
pub struct Update {
    child: Child,
    channel: OwnedFd,
    reboots: bool,
}

/// How an update stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It goes on.
    Not,
    /// The version is installed, and starts next.
    Installed,
    /// There is nothing new, it was refused, or it failed; its events say which.
    Otherwise,
}

impl Update {
    /// Starts the update from `source`.
    ///
    /// # Errors
    /// If the kernel gives no socket or no process.
    pub fn start(source: &str, ca: Option<&str>, reboots: bool) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (channel, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["update", "--events", &theirs.as_raw_fd().to_string()]);
        if let Some(ca) = ca {
            command.args(["--ca", ca]);
        }
        let child = command.arg(source).spawn()?;
        Ok(Self {
            child,
            channel,
            reboots,
        })
    }

    /// What to wait for: an event, or the end.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Its next event, if there is one.
    pub fn event(&mut self) -> Option<Event> {
        relay::receive(&self.channel, &["update."])
    }

    /// Whether the machine is to be started anew when it is installed.
    #[must_use]
    pub fn reboots(&self) -> bool {
        self.reboots
    }

    /// How it stands. What it said before its end can be heard afterwards.
    pub fn ended(&mut self) -> Ended {
        match self.child.try_wait() {
            Ok(None) => Ended::Not,
            Ok(Some(status)) if status.success() => Ended::Installed,
            Ok(Some(_)) | Err(_) => Ended::Otherwise,
        }
    }
}
