//! The three sockets that the standard library cannot make. All `unsafe` of this crate is here.
//!
//! The packet socket is created with protocol 0, gets its filter, and is bound to its link and
//! protocol last. So nothing unfiltered is ever queued, and, measured: a socket created with a
//! protocol is hooked into the receive path at once and unhooked again by `bind`, which waits
//! for an RCU grace period, 5 to 23 ms of the boot.

use std::ffi::c_void;
use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val, zeroed};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::dhcp4::frame::{CLIENT_PORT, Checksum};
use crate::dhcp6;

/// The protocols of packet sockets (`linux/if_ether.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `ETH_P_IP`: DHCP answers, as far as [`FILTER`] lets anything through.
    Ip,
    /// `ETH_P_ARP`.
    Arp,
}

impl Protocol {
    /// As the kernel wants it in addresses: in network byte order.
    const fn number(self) -> u16 {
        match self {
            Protocol::Ip => 0x0800_u16.to_be(),
            Protocol::Arp => 0x0806_u16.to_be(),
        }
    }
}

/// Classic BPF: what is not UDP to the client port, whole and saying BOOTREPLY, is not queued.
/// The packet starts at its IPv4 header, as `SOCK_DGRAM` sockets see it.
const FILTER: [libc::sock_filter; 11] = {
    const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        #[expect(clippy::cast_possible_truncation, reason = "BPF opcodes are below 256")]
        let code = code as u16;
        libc::sock_filter { code, jt, jf, k }
    }
    const LOAD: u32 = libc::BPF_LD | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        // IPv4 protocol: UDP.
        op(LOAD | libc::BPF_B, 0, 0, 9),
        op(EQUAL, 0, 8, 17),
        // More fragments, or an offset: drop.
        op(LOAD | libc::BPF_H, 0, 0, 6),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 6, 0, 0x3fff),
        // x = length of the IPv4 header; destination port; the first byte of BOOTP.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),
        op(EQUAL, 0, 3, CLIENT_PORT as u32),
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 0, 0, 8),
        op(EQUAL, 0, 1, 2),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0xffff),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
};

/// A packet socket on one link. Needs `CAP_NET_RAW`.
pub fn packet_socket(link: u32, protocol: Protocol) -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes numbers only.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        )
    };
    let fd = owned(fd)?;
    if protocol == Protocol::Ip {
        let mut filter = FILTER;
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or(0),
            filter: filter.as_mut_ptr(),
        };
        set(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    }
    set(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
    let address = link_address(link, protocol, [0; 6])?;
    // SAFETY: the pointer is to a live `sockaddr_ll` and the length is its size.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            len_of(&address),
        )
    };
    done(bound)?;
    Ok(fd)
}

/// Sends a packet to everybody on the link.
pub fn send_to_all(
    socket: BorrowedFd<'_>,
    link: u32,
    protocol: Protocol,
    packet: &[u8],
) -> io::Result<()> {
    let address = link_address(link, protocol, [0xff; 6])?;
    // SAFETY: pointer and length of `packet` are a slice's; those of the address are of a live
    // `sockaddr_ll`. The kernel only reads.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast::<c_void>(),
            packet.len(),
            libc::MSG_NOSIGNAL,
            (&raw const address).cast::<libc::sockaddr>(),
            len_of(&address),
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A packet received: its length in the buffer and what the kernel says of it.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Bytes of the buffer that are the packet.
    pub length: usize,
    /// Whether its UDP checksum means anything.
    pub checksum: Checksum,
    /// It came tagged for another VLAN than this link, or did not fit.
    pub foreign: bool,
}

/// Room for the control message of one `tpacket_auxdata`, aligned as one.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; 64],
}

/// Receives one packet without waiting.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast::<c_void>(),
        iov_len: buffer.len(),
    };
    let mut control = Control { bytes: [0; 64] };
    // SAFETY: `msghdr` is plain data for which all zeroes (null pointers, no lengths) is valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast::<c_void>();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: `message` points to one `iovec` over `buffer` and to `control`, all of which live
    // until the call returns, with their true lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;

    let mut received = Received {
        length: length.min(buffer.len()),
        checksum: Checksum::Complete,
        foreign: message.msg_flags & libc::MSG_TRUNC != 0,
    };
    // SAFETY: `message` is as the kernel filled it in: CMSG_FIRSTHDR gives null or a header
    // within `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok(received);
    }
    // SAFETY: not null, so it points to a whole `cmsghdr` in `control`, aligned by the union.
    let (level, kind, space) = unsafe {
        let header = &*header;
        (
            header.cmsg_level,
            header.cmsg_type,
            header.cmsg_len as usize,
        )
    };
    if level == libc::SOL_PACKET
        && kind == libc::PACKET_AUXDATA
        && space >= size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>()
    {
        let mut aux = MaybeUninit::<libc::tpacket_auxdata>::uninit();
        // SAFETY: the length was just checked, so that many bytes follow the header; they are
        // copied, which needs no alignment, and any bytes are a valid `tpacket_auxdata`.
        let aux = unsafe {
            std::ptr::copy_nonoverlapping(
                libc::CMSG_DATA(header),
                aux.as_mut_ptr().cast::<u8>(),
                size_of::<libc::tpacket_auxdata>(),
            );
            aux.assume_init()
        };
        if aux.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            received.checksum = Checksum::Partial;
        }
        // IEEE 802.1Q: an id of 0 is only a priority; any other is a network that is not ours.
        if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && aux.tp_vlan_tci & 0x0fff != 0 {
            received.foreign = true;
        }
    }
    Ok(received)
}

/// A UDP socket on the client port of one link, for a client with an address. Needs
/// `CAP_NET_BIND_SERVICE`.
pub fn udp_socket(link_name: &str) -> io::Result<UdpSocket> {
    // SAFETY: `socket` takes numbers only.
    let fd = unsafe {
        libc::socket(
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        )
    };
    let fd = owned(fd)?;
    // Every link has a socket on this port, told apart by the device they are bound to.
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &1_i32)?;
    set(
        &fd,
        libc::SOL_SOCKET,
        libc::SO_BINDTODEVICE,
        &name_of(link_name),
    )?;
    let address = libc::sockaddr_in {
        sin_family: family(libc::AF_INET),
        sin_port: CLIENT_PORT.to_be(),
        sin_addr: libc::in_addr {
            s_addr: libc::INADDR_ANY,
        },
        sin_zero: [0; 8],
    };
    // SAFETY: the pointer is to a live `sockaddr_in` and the length is its size.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            len_of(&address),
        )
    };
    done(bound)?;
    Ok(UdpSocket::from(fd))
}

/// A UDP socket on the DHCPv6 client port of one link. Needs `CAP_NET_BIND_SERVICE`.
pub fn udp6_socket(link_name: &str) -> io::Result<UdpSocket> {
    // SAFETY: `socket` takes numbers only.
    let fd = unsafe {
        libc::socket(
            libc::AF_INET6,
            libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        )
    };
    let fd = owned(fd)?;
    set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
    // Every link has a socket on this port, told apart by the device they are bound to.
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    set(
        &fd,
        libc::SOL_SOCKET,
        libc::SO_BINDTODEVICE,
        &name_of(link_name),
    )?;
    let address = libc::sockaddr_in6 {
        sin6_family: family(libc::AF_INET6),
        sin6_port: dhcp6::client::CLIENT_PORT.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    };
    // SAFETY: the pointer is to a live `sockaddr_in6` and the length is its size.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            len_of(&address),
        )
    };
    done(bound)?;
    Ok(UdpSocket::from(fd))
}

/// A name as `SO_BINDTODEVICE` wants it. The last byte stays NUL.
fn name_of(link_name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut name = [0_u8; libc::IFNAMSIZ];
    name.iter_mut()
        .zip(link_name.bytes().take(libc::IFNAMSIZ - 1))
        .for_each(|(to, from)| *to = from);
    name
}

fn link_address(link: u32, protocol: Protocol, to: [u8; 6]) -> io::Result<libc::sockaddr_ll> {
    let [a, b, c, d, e, f] = to;
    Ok(libc::sockaddr_ll {
        sll_family: family(libc::AF_PACKET),
        sll_protocol: protocol.number(),
        sll_ifindex: i32::try_from(link)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    })
}

fn family(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or(libc::sa_family_t::MAX)
}

fn len_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).unwrap_or(0)
}

fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length are of `value`, which lives until the call returns; the callers
    // pass the type that the option wants. The kernel copies it, following the pointer inside
    // `sock_fprog` while its array is alive.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast::<c_void>(),
            len_of(value),
        )
    };
    done(result)
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    done(fd)?;
    // SAFETY: a descriptor that `socket` just returned, not negative, belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn done(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What may be registered with the event loop: types that own one descriptor and keep it.
pub trait Owner: AsRawFd {}
impl Owner for OwnedFd {}
impl Owner for UdpSocket {}

/// Registers a descriptor with the event loop, for reading.
pub fn watch<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor of an `OwnedFd` or a `UdpSocket` stays open, and the same, until it
    // is dropped, and `AsyncFd` hands out nothing through which it could be exchanged.
    let registered = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
    Ok(registered?)
}
