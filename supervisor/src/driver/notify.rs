//! The notify socket of one service (systemd: `sd_notify(3)`).
//!
//! Each service has a socket of its own, so who speaks is known from where it arrives, also
//! when the sender is gone by then. The socket belongs to the service's user and nobody else may
//! write to it; the kernel's word on the sender's user (`SCM_CREDENTIALS`, unix(7)) is checked
//! all the same.

use crate::Time;
use crate::core::Notification;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, bind, recvmsg, socket_with, sockopt,
};
use std::io::{self, IoSliceMut};
use std::path::{Path, PathBuf};

/// A longer datagram is cut; systemd's own limit is 4096 (`NOTIFY_BUFFER_MAX`).
const DATAGRAM_MAX: usize = 4096;

/// So many datagrams are taken at one go; the rest waits for the next turn of the loop.
const BATCH: usize = 16;

/// One service's socket.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    socket: OwnedFd,
    uid: u32,
}

impl NotifySocket {
    /// Makes the socket at `path`, writable by `uid` only.
    ///
    /// # Errors
    /// Names the path.
    pub fn bind(path: &Path, uid: u32) -> io::Result<Self> {
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
            uid,
        })
    }

    /// For the loop.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// For `NOTIFY_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what arrived, up to a bound.
    #[must_use]
    pub fn receive(&self) -> Vec<Notification> {
        let mut notifications = Vec::new();
        for _ in 0..BATCH {
            let mut data = [0u8; DATAGRAM_MAX];
            let mut space =
                [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut data)],
                &mut control,
                RecvFlags::DONTWAIT,
            );
            let Ok(message) = received else { break };
            let sender = control.drain().find_map(|m| match m {
                RecvAncillaryMessage::ScmCredentials(c) => Some(c.uid.as_raw()),
                _ => None,
            });
            if sender.is_some_and(|uid| uid == 0 || uid == self.uid) {
                parse(
                    data.get(..message.bytes).unwrap_or_default(),
                    &mut notifications,
                );
            }
        }
        notifications
    }
}

/// Reads the assignments of one datagram; what is unknown or malformed is left out.
fn parse(data: &[u8], notifications: &mut Vec<Notification>) {
    for line in data.split(|b| *b == b'\n') {
        let line = String::from_utf8_lossy(line);
        notifications.extend(match line.split_once('=') {
            Some(("READY", "1")) => Some(Notification::Ready),
            Some(("RELOADING", "1")) => Some(Notification::Reloading),
            Some(("STOPPING", "1")) => Some(Notification::Stopping),
            Some(("WATCHDOG", "1")) => Some(Notification::Watchdog),
            Some(("STATUS", text)) => Some(Notification::Status(text.chars().take(200).collect())),
            Some(("EXTEND_TIMEOUT_USEC", usec)) => usec
                .parse()
                .ok()
                .map(|u| Notification::ExtendTimeout(Time::from_micros(u))),
            _ => None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn assignments_are_read_and_the_rest_is_left_out() {
        let mut read = Vec::new();
        parse(
            b"READY=1\nSTATUS=up and well\nX=1\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=x\nREADY=0",
            &mut read,
        );
        assert_eq!(
            read,
            [
                Notification::Ready,
                Notification::Status("up and well".into()),
                Notification::Watchdog
            ]
        );
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(data in proptest::collection::vec(any::<u8>(), 0..DATAGRAM_MAX)) {
            let mut read = Vec::new();
            parse(&data, &mut read);
            prop_assert!(read.len() <= data.len());
        }
    }
}
