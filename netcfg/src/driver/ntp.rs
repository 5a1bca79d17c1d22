//! The sockets of the NTP client.
//!
//! A socket is opened by the first question of a round, at a port that the kernel picks, and closed
//! when no answer is awaited any more. They are not connected, as one serves all servers of its
//! family; the client looks at who answered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::clock;
use crate::ntp::packet;
use crate::sys;

/// A datagram, and when it was here on both clocks: an offset is only as good as these.
#[derive(Debug)]
pub struct Datagram {
    /// Whose.
    pub from: SocketAddr,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The time since boot.
    pub now: Duration,
    /// The wall clock, since 1970.
    pub wall: Duration,
}

/// The sockets, one of each family.
#[derive(Default)]
pub struct Ntp {
    v4: Option<AsyncFd<UdpSocket>>,
    v6: Option<AsyncFd<UdpSocket>>,
}

impl Ntp {
    /// Sends a question.
    pub fn send(&mut self, to: IpAddr, bytes: &[u8]) -> io::Result<()> {
        let (socket, any) = match to {
            IpAddr::V4(_) => (&mut self.v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V6(_) => (&mut self.v6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let open = match socket {
            Some(open) => open,
            None => {
                let fresh = UdpSocket::bind((any, 0))?;
                fresh.set_nonblocking(true)?;
                socket.insert(sys::watch(fresh)?)
            }
        };
        open.get_ref().send_to(bytes, (to, packet::PORT))?;
        Ok(())
    }

    /// Closes both.
    pub fn close(&mut self) {
        *self = Ntp::default();
    }

    /// The next datagram.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            if let Poll::Ready(received) = receive(socket, cx) {
                return Poll::Ready(received);
            }
        }
        Poll::Pending
    }
}

fn receive(socket: &AsyncFd<UdpSocket>, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
    // One byte more than an answer has, so that a longer one is seen to be no answer.
    let mut buffer = [0; packet::LENGTH + 1];
    loop {
        let mut guard = ready!(socket.poll_read_ready(cx))?;
        if let Ok(received) = guard.try_io(|fd| fd.get_ref().recv_from(&mut buffer)) {
            let (length, from) = received?;
            return Poll::Ready(Ok(Datagram {
                from,
                bytes: buffer.get(..length).unwrap_or_default().to_vec(),
                now: clock::now(),
                wall: clock::wall(),
            }));
        }
    }
}
