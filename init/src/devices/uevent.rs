//! The kernel's announcements of devices (netlink(7), `NETLINK_KOBJECT_UEVENT`).
//!
//! Waiting for a device means waiting for its announcement. The socket is opened before sysfs is
//! looked at, so what comes in between is not missed. Only the kernel itself is believed: any
//! root process may send to the group, so the sender's port must be 0. When the kernel had to drop
//! announcements (`ENOBUFS`) the receiver is told to look again at everything.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use std::io;

/// Group 1 is the kernel's own; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// So many messages of others are passed over at one look. A process with `CAP_NET_ADMIN` can send them as fast as
/// they are read; the socket stays readable, so the next look goes on.
const OTHERS_MAX: usize = 64;

/// kernel: `UEVENT_BUFFER_SIZE` is 2048, with the header before it.
const MESSAGE_MAX: usize = 4096;

/// The socket.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

/// One announcement, or the news that some were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `ACTION`: `add`, `remove`, `change`, ... Empty if announcements were lost.
    pub action: String,
    /// `SUBSYSTEM`.
    pub subsystem: String,
    /// `DEVNAME`, below `/dev`.
    pub devname: String,
    /// `MODALIAS`.
    pub modalias: String,
}

impl Uevents {
    /// Opens the socket, non-blocking.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(KOBJECT_UEVENT),
        )?;
        // Room for a burst of devices; beyond the limit only with privilege, so no matter if not.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 1 << 20);
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// For the loop.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next announcement, if one is there. Also `None` behind [`OTHERS_MAX`] messages of others.
    #[must_use]
    pub fn next(&self) -> Option<Uevent> {
        for _ in 0..OTHERS_MAX {
            let mut message = [0u8; MESSAGE_MAX];
            match recvfrom(&self.0, &mut message, RecvFlags::DONTWAIT) {
                Ok((count, _, Some(sender))) => {
                    let kernel = SocketAddrNetlink::try_from(sender).is_ok_and(|a| a.pid() == 0);
                    if kernel {
                        return Some(parse(message.get(..count).unwrap_or_default()));
                    }
                }
                Ok((_, _, None)) | Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Some(Uevent::default()),
                Err(_) => return None,
            }
        }
        None
    }
}

fn parse(message: &[u8]) -> Uevent {
    let mut uevent = Uevent::default();
    for field in message.split(|b| *b == 0) {
        let field = String::from_utf8_lossy(field);
        match field.split_once('=') {
            Some(("ACTION", value)) => value.clone_into(&mut uevent.action),
            Some(("SUBSYSTEM", value)) => value.clone_into(&mut uevent.subsystem),
            Some(("DEVNAME", value)) => value.clone_into(&mut uevent.devname),
            Some(("MODALIAS", value)) => value.clone_into(&mut uevent.modalias),
            _ => {}
        }
    }
    uevent
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_announcement_is_read() {
        let uevent = parse(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=vda\0MODALIAS=virtio:d2\0SEQNUM=9\0");
        assert_eq!(
            (uevent.action.as_str(), uevent.subsystem.as_str()),
            ("add", "block")
        );
        assert_eq!(
            (uevent.devname.as_str(), uevent.modalias.as_str()),
            ("vda", "virtio:d2")
        );
    }

    #[test]
    fn messages_of_others_are_not_read_without_end() {
        let ours = Uevents::open().unwrap();
        let any = |flags| {
            let kind = SocketType::RAW;
            socket_with(AddressFamily::NETLINK, kind, flags, Some(KOBJECT_UEVENT)).unwrap()
        };
        let address = rustix::net::getsockname(ours.fd()).unwrap();
        let address = SocketAddrNetlink::try_from(address).unwrap();
        let stranger = any(SocketFlags::CLOEXEC);
        let message = b"add@/x\0ACTION=add\0SUBSYSTEM=input\0";
        for _ in 0..OTHERS_MAX + 1 {
            rustix::net::sendto(
                &stranger,
                message,
                rustix::net::SendFlags::empty(),
                &address,
            )
            .unwrap();
        }
        assert_eq!(ours.next(), None);
        let left = |uevents: &Uevents| {
            let flags = RecvFlags::DONTWAIT;
            recvfrom(uevents.fd(), &mut [0u8; MESSAGE_MAX], flags).is_ok()
        };
        assert!(left(&ours), "one is left for the next look");
        assert!(!left(&ours));
    }

    proptest! {
        /// Whatever is announced, each field is what stands behind its name in the message.
        #[test]
        fn any_announcement_is_survived(message in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..20),
                Just(b"ACTION=add".to_vec()),
                Just(b"MODALIAS=x".to_vec()),
                Just(b"DEVNAME".to_vec()),
            ],
            0..8,
        )) {
            let message = message.join(&0);
            let uevent = parse(&message);
            let text = String::from_utf8_lossy(&message).into_owned();
            for (name, value) in [
                ("ACTION", &uevent.action),
                ("SUBSYSTEM", &uevent.subsystem),
                ("DEVNAME", &uevent.devname),
                ("MODALIAS", &uevent.modalias),
            ] {
                let written = format!("{name}={value}");
                prop_assert!(value.is_empty() || text.split('\0').any(|field| field == written), "{uevent:?}");
            }
        }
    }
}
