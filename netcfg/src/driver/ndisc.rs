//! The socket on which the kernel passes on options of Router Advertisements.
//!
//! It is one of its own, beside those of [`netlink`](super::netlink): `netlink-packet-route` cannot
//! read these messages and gives them as malformed, without their bytes. Listening to the group
//! needs no privilege. When it overruns, an option is lost, which the next Router Advertisement
//! repeats: receiving again is all there is to do about it.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recvfrom, sendto,
    socket_with, sockopt,
};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// linux/rtnetlink.h: `RTNLGRP_ND_USEROPT` is 20, and groups are counted from 1.
const GROUP: u32 = 1 << (20 - 1);

/// An option is of at most 2040 bytes, a message holds one.
const BUFFER: usize = 4096;

/// RFC 4861, section 4.1: type 133, code 0, a checksum that the kernel makes (RFC 3542, section
/// 3.1), four reserved bytes. Without our link-layer address as an option a router answers to all.
const ROUTER_SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
/// RFC 4861, section 6.1.1: what came through a router is no solicitation.
const HOP_LIMIT: u32 = 255;
/// All routers of the link (RFC 4291, section 2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Asks the routers of a link to advertise themselves. Needs `CAP_NET_RAW`.
pub fn solicit(link: u32) -> io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let kind = SocketType::RAW;
    let fd = socket_with(AddressFamily::INET6, kind, flags, Some(ipproto::ICMPV6))?;
    sockopt::set_ipv6_multicast_hops(&fd, HOP_LIMIT)?;
    let to = SocketAddrV6::new(ALL_ROUTERS, 0, 0, link);
    sendto(&fd, &ROUTER_SOLICITATION, SendFlags::empty(), &to)?;
    Ok(())
}

/// Options of Router Advertisements on all links.
pub struct Ndisc {
    fd: AsyncFd<OwnedFd>,
}

impl Ndisc {
    /// Begins to listen. Must be called within a tokio runtime.
    pub fn open() -> io::Result<Ndisc> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            // linux/netlink.h: NETLINK_ROUTE is protocol 0.
            None,
        )?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Ndisc {
            fd: sys::watch(fd)?,
        })
    }

    /// The next datagram for [`ra::parse`](crate::ra::parse), from the kernel. What a process sent
    /// is received like it and is dropped here.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let mut buffer = [0; BUFFER];
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let received = guard.try_io(|fd| {
                let flags = RecvFlags::empty();
                Ok(recvfrom(fd.get_ref(), &mut buffer[..], flags)?)
            });
            let Ok(received) = received else { continue };
            let (_, length, sender) = received?;
            let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
            if sender.is_some_and(|sender| sender.pid() == 0) {
                let datagram = buffer.get(..length).unwrap_or_default();
                return Poll::Ready(Ok(datagram.to_vec()));
            }
        }
    }
}
