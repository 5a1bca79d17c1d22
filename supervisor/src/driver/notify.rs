//! The notify socket of one service (systemd: `sd_notify(3)`).
//!
//! Each service has a socket of its own, so who is meant is known from where a datagram arrives, also
//! when the sender is gone by then. Who *speaks* is checked all the same: the socket belongs to
//! the service's user and nobody else may write to it; the kernel's word on the sender
//! (`SCM_CREDENTIALS`, unix(7)) must be that user or root; and a sender that is still there
//! must be in the service's cgroup. Which of its processes are heard is the service's `notify-access`, by the
//! sender's pid. The main process is known by it also when it has ended, as it is not reaped before its
//! datagrams are read. Any other sender that is gone cannot be attributed: it is heard with
//! `notify-access = "all"`, where a child may say one thing and end.
//!
//! Descriptors that come along (`FDSTORE=1`, `BARRIER=1`) are close-on-exec from the first moment, and
//! closed unless somebody keeps them, see [`crate::received`]. A barrier asks for nothing more than that.

use crate::Time;
use crate::core::Notification;
use crate::received::{ReceivedFd, Source};
use crate::sys::{self, Received};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with, sockopt,
};
use std::io;
use std::path::{Path, PathBuf};

/// A longer datagram is not taken; systemd's own limit is 4096 (`NOTIFY_BUFFER_MAX`).
const DATAGRAM_MAX: usize = 4096;

/// So many datagrams are taken at one go; the rest waits for the next turn of the loop.
const BATCH: usize = 16;

/// So many assignments of one datagram are read; a service has a handful to say.
const ASSIGNMENTS_MAX: usize = 32;

/// sd_pid_notify_with_fds(3): the longest name of a stored descriptor.
const FD_NAME_MAX: usize = 255;

/// One service's socket.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    socket: OwnedFd,
    source: Source,
    uid: u32,
}

/// What one datagram says.
#[derive(Debug)]
pub enum Message {
    /// The service speaks.
    Said(Said),
    /// Somebody else does, and who.
    Stranger(String),
}

/// What a service says in one datagram.
#[derive(Debug, Default)]
pub struct Said {
    /// Who says it.
    pub sender: i32,
    /// What concerns its states, in order.
    pub notifications: Vec<Notification>,
    /// `MAINPID=`.
    pub main_pid: Option<i32>,
    /// `FDSTORE=1` or `FDSTOREREMOVE=1`, with `FDNAME=`.
    pub store: Option<Store>,
    /// The descriptors that came along.
    pub descriptors: Vec<ReceivedFd>,
}

/// What is to happen to a service's stored descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Those of the datagram are added, by this name.
    Add(String),
    /// Those of this name are closed.
    Remove(String),
}

impl NotifySocket {
    /// Makes the socket at `path`, writable by `uid` only. What is sent there comes from `source`.
    ///
    /// # Errors
    /// Names the path.
    pub fn bind(path: &Path, uid: u32, source: Source) -> io::Result<Self> {
        let make = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
            sockopt::set_socket_passcred(&socket, true)?;
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            std::os::unix::fs::chown(path, Some(uid), None)?;
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o200))?;
            Ok(socket)
        };
        let socket = make().map_err(|e| {
            io::Error::new(e.kind(), format!("notify socket {}: {e}", path.display()))
        })?;
        Ok(Self {
            path: path.to_owned(),
            socket,
            source,
            uid,
        })
    }

    /// Whether [`receive`](Self::receive) takes anything at present: not while too many of the descriptors
    /// that came wait to be closed.
    #[must_use]
    pub fn may_receive(&self) -> bool {
        self.source.may_receive()
    }

    /// For `NOTIFY_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what arrived, up to a bound. `holds` says whether a process is in the service's cgroup,
    /// if it is still there.
    #[must_use]
    pub fn receive(&self, holds: impl Fn(i32) -> Option<bool>) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..BATCH {
            if !self.may_receive() {
                break;
            }
            match self.receive_one(&holds) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        messages
    }

    fn receive_one(&self, holds: &impl Fn(i32) -> Option<bool>) -> io::Result<Option<Message>> {
        let mut data = [0u8; DATAGRAM_MAX];
        let Received {
            bytes,
            truncated,
            sender,
            descriptors,
        } = sys::receive(self.socket.as_fd(), &mut data, &self.source)?;
        let Some(sys::Sender { pid, uid }) = sender else {
            return Ok(None);
        };
        // Pid 0 is a process of another pid namespace, which can be none of this service.
        if (uid != 0 && uid != self.uid) || pid == 0 || holds(pid) == Some(false) {
            let who = format!("pid {pid} of uid {uid} is not of this service");
            return Ok(Some(Message::Stranger(who)));
        }
        if truncated {
            let who = format!("pid {pid} sent more than {DATAGRAM_MAX} bytes");
            return Ok(Some(Message::Stranger(who)));
        }
        let mut said = parse(data.get(..bytes).unwrap_or_default());
        (said.sender, said.descriptors) = (pid, descriptors);
        Ok(Some(Message::Said(said)))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads the assignments of one datagram, [`ASSIGNMENTS_MAX`] of them; what is unknown or malformed is left
/// out.
fn parse(data: &[u8]) -> Said {
    let mut said = Said::default();
    let (mut add, mut remove, mut name) = (false, false, None);
    for line in data.split(|b| *b == b'\n').take(ASSIGNMENTS_MAX) {
        let line = String::from_utf8_lossy(line);
        let usec = |text: &str| text.parse().ok().map(Time::from_micros);
        said.notifications.extend(match line.split_once('=') {
            Some(("READY", "1")) => Some(Notification::Ready),
            Some(("RELOADING", "1")) => Some(Notification::Reloading),
            Some(("STOPPING", "1")) => Some(Notification::Stopping),
            Some(("WATCHDOG", "1")) => Some(Notification::Watchdog),
            Some(("WATCHDOG", "trigger")) => Some(Notification::WatchdogTrigger),
            Some(("WATCHDOG_USEC", text)) => usec(text).map(Notification::WatchdogInterval),
            Some(("EXTEND_TIMEOUT_USEC", text)) => usec(text).map(Notification::ExtendTimeout),
            Some(("STATUS", text)) => Some(Notification::Status(text.chars().take(200).collect())),
            Some(("MAINPID", text)) => {
                said.main_pid = text.parse().ok().filter(|pid| *pid > 1);
                None
            }
            Some(("FDSTORE", "1")) => {
                add = true;
                None
            }
            Some(("FDSTOREREMOVE", "1")) => {
                remove = true;
                None
            }
            Some(("FDNAME", text)) => {
                name = Some(text.to_owned()).filter(|n| is_fd_name(n));
                None
            }
            _ => None,
        });
    }
    said.store = match (add, remove, name) {
        // systemd's name for a descriptor without one.
        (true, false, name) => Some(Store::Add(name.unwrap_or_else(|| "stored".into()))),
        (false, true, Some(name)) => Some(Store::Remove(name)),
        _ => None,
    };
    said
}

/// It goes into `LISTEN_FDNAMES`, separated by colons.
fn is_fd_name(name: &str) -> bool {
    let good = |b: u8| (0x20..0x7f).contains(&b) && b != b':';
    !name.is_empty() && name.len() <= FD_NAME_MAX && name.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn assignments_are_read_and_the_rest_is_left_out() {
        let said = parse(
            b"READY=1\nSTATUS=up and well\nX=1\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=x\nREADY=0\nMAINPID=77\nWATCHDOG_USEC=5",
        );
        assert_eq!(
            said.notifications,
            [
                Notification::Ready,
                Notification::Status("up and well".into()),
                Notification::Watchdog,
                Notification::WatchdogInterval(Time::from_micros(5)),
            ]
        );
        assert_eq!(said.main_pid, Some(77));
        assert_eq!(said.store, None);
        assert_eq!(parse(b"MAINPID=1").main_pid, None, "never us");
    }

    #[test]
    fn what_is_stored_has_a_harmless_name() {
        assert_eq!(
            parse(b"FDSTORE=1\nFDNAME=a").store,
            Some(Store::Add("a".into()))
        );
        assert_eq!(
            parse(b"FDSTORE=1\nFDNAME=a:b").store,
            Some(Store::Add("stored".into()))
        );
        assert_eq!(
            parse(b"FDNAME=a\nFDSTOREREMOVE=1").store,
            Some(Store::Remove("a".into()))
        );
        assert_eq!(parse(b"FDSTOREREMOVE=1").store, None);
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(data in proptest::collection::vec(any::<u8>(), 0..DATAGRAM_MAX)) {
            let said = parse(&data);
            prop_assert!(said.notifications.len() <= ASSIGNMENTS_MAX);
        }
    }
}
