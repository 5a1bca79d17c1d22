//! The sockets of one link, as the client wants them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use crate::dhcp4::arp;
use crate::dhcp4::client::To;
use crate::dhcp4::frame;
use crate::dhcp4::frame::SERVER_PORT;
use crate::sys::{self, Protocol};

/// Larger than any DHCP message we say that we take (option 57), headers included.
const BUFFER: usize = 2048;

/// Open while the client looks for an address.
pub struct Raw {
    fd: AsyncFd<OwnedFd>,
    link: u32,
}

impl Raw {
    /// For one link.
    pub fn open(link: u32) -> io::Result<Raw> {
        Ok(Raw {
            fd: sys::watch(sys::packet_socket(link, Protocol::Ip)?)?,
            link,
        })
    }

    /// Broadcasts a DHCP message from no address.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        let packet = frame::build(payload).ok_or(io::ErrorKind::InvalidInput)?;
        sys::send_to_all(self.fd.get_ref().as_fd(), self.link, Protocol::Ip, &packet)
    }

    /// The next DHCP message; `None` for a packet that holds none.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let mut buffer = [0; BUFFER];
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let received = guard.try_io(|fd| sys::receive(fd.get_ref().as_fd(), &mut buffer));
            if let Ok(received) = received {
                let received = received?;
                let packet = buffer.get(..received.length).unwrap_or_default();
                let payload = frame::parse(packet, received.checksum)
                    .filter(|_| !received.foreign)
                    .map(<[u8]>::to_vec);
                return Poll::Ready(Ok(payload));
            }
        }
    }
}

/// Open while the client cares for its neighbours.
pub struct Arp {
    fd: AsyncFd<OwnedFd>,
    link: u32,
}

impl Arp {
    /// For one link.
    pub fn open(link: u32) -> io::Result<Arp> {
        Ok(Arp {
            fd: sys::watch(sys::packet_socket(link, Protocol::Arp)?)?,
            link,
        })
    }

    /// Broadcasts the payload of an ARP frame.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        sys::send_to_all(self.fd.get_ref().as_fd(), self.link, Protocol::Arp, payload)
    }

    /// The payload of the next ARP frame; Ethernet pads it.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let mut buffer = [0; 128];
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let received = guard.try_io(|fd| sys::receive(fd.get_ref().as_fd(), &mut buffer));
            if let Ok(received) = received {
                let received = received?;
                let payload = buffer.get(..received.length.min(arp::LENGTH));
                let payload = payload.filter(|_| !received.foreign);
                return Poll::Ready(Ok(payload.map(<[u8]>::to_vec)));
            }
        }
    }
}

/// Open while there is an address.
pub struct Udp {
    fd: AsyncFd<UdpSocket>,
}

impl Udp {
    /// For the link of this name.
    pub fn open(link_name: &str) -> io::Result<Udp> {
        Ok(Udp {
            fd: sys::watch(sys::udp_socket(link_name)?)?,
        })
    }

    /// Sends a DHCP message from the leased address.
    pub fn send(&self, to: To, payload: &[u8]) -> io::Result<()> {
        let server = match to {
            To::Unicast(server) => server,
            To::Broadcast | To::BroadcastFromLease => Ipv4Addr::BROADCAST,
        };
        let to = SocketAddrV4::new(server, SERVER_PORT);
        self.fd.get_ref().send_to(payload, to).map(|_| ())
    }

    /// The next datagram.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let mut buffer = [0; BUFFER];
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            if let Ok(received) = guard.try_io(|fd| fd.get_ref().recv(&mut buffer)) {
                let length = received?;
                return Poll::Ready(Ok(buffer.get(..length).map(<[u8]>::to_vec)));
            }
        }
    }
}
