//! The socket of the DHCPv6 client of one link.

use std::io;
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use crate::dhcp6::client::{SERVER_PORT, TO};
use crate::sys;

/// Larger than any frame of an Ethernet with the usual MTU; what does not fit is cut, and the walk
/// over its options takes what is left.
const BUFFER: usize = 2048;

/// Open while the client asks for something, or holds a lease.
pub struct Udp6 {
    fd: AsyncFd<UdpSocket>,
    link: u32,
}

impl Udp6 {
    /// For the link of this name and number.
    pub fn open(link_name: &str, link: u32) -> io::Result<Udp6> {
        Ok(Udp6 {
            fd: sys::watch(sys::udp6_socket(link_name)?)?,
            link,
        })
    }

    /// Sends a DHCPv6 message to all servers and relays of the link. The kernel takes the link-local
    /// address as its source, as for every destination of that scope (RFC 6724, section 5).
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(TO, SERVER_PORT, 0, self.link);
        self.fd.get_ref().send_to(payload, to).map(|_| ())
    }

    /// The next datagram; `None` for one from an address that is not of the link. We ask from a
    /// link-local address, so whoever answers does so from one too; nobody further away can
    /// have one.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let mut buffer = [0; BUFFER];
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            if let Ok(received) = guard.try_io(|fd| fd.get_ref().recv_from(&mut buffer)) {
                let (length, from) = received?;
                let near = match from {
                    SocketAddr::V6(from) => from.ip().is_unicast_link_local(),
                    SocketAddr::V4(_) => false,
                };
                let payload = buffer.get(..length).filter(|_| near);
                return Poll::Ready(Ok(payload.map(<[u8]>::to_vec)));
            }
        }
    }
}
