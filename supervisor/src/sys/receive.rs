//! Taking one message from a socket, with its sender and its descriptors.

use crate::received::{ReceivedFd, Source};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ffi::c_int;
use std::io;
use std::ptr;

/// Who sent a datagram, by the kernel's word (unix(7)). `pid` is 0 for a process
/// outside of our pid namespace, which is why this is not a library's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// One datagram with what came along.
#[derive(Debug)]
pub struct Received {
    /// How much of the buffer it fills.
    pub bytes: usize,
    /// Whether it was longer than the buffer, or brought more than there was room for.
    pub truncated: bool,
    /// Who sent it.
    pub sender: Option<Sender>,
    /// The descriptors that it brought, close-on-exec.
    pub descriptors: Vec<ReceivedFd>,
}

/// Bytes for one set of credentials and the most descriptors that a datagram can carry (unix(7):
/// `SCM_MAX_FD`, 253), with their headers.
const CONTROL: usize = 2048;

/// Whether senders may pass descriptors to a unix socket (unix(7), `SO_PASSRIGHTS`); without that sendmsg(2)
/// fails for who tries. Gives false if the kernel does not have this, which came with 6.16.
pub fn set_passrights(socket: BorrowedFd<'_>, allowed: bool) -> bool {
    /// kernel: `include/uapi/asm-generic/socket.h`.
    const SO_PASSRIGHTS: c_int = 83;
    /// Of an int.
    const LENGTH: libc::socklen_t = 4;
    let value = c_int::from(allowed);
    // SAFETY: the value outlives the call, and its length is said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            ptr::from_ref(&value).cast(),
            LENGTH,
        )
    };
    set == 0
}

/// Takes one message from a socket without waiting. The sender is known if the socket has
/// `SO_PASSCRED`. What comes along belongs to `source`, also where nobody wants descriptors: without
/// room for them the kernel would close them itself, in the receiver (unix(7), `MSG_CTRUNC`).
///
/// # Errors
/// `WouldBlock` if there is none.
pub fn receive(socket: BorrowedFd<'_>, data: &mut [u8], source: &Source) -> io::Result<Received> {
    #[repr(align(8))]
    struct Control([u8; CONTROL]);
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    // SAFETY: `msghdr` is plain data for which zeros are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` names two buffers with their lengths, both of which outlive the call.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    let mut received = Received {
        bytes,
        truncated: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        sender: None,
        descriptors: Vec::new(),
    };
    // SAFETY: the kernel filled `msg_control` with `msg_controllen` bytes of well-formed headers; the
    // macros of cmsg(3) stay within them. The data may be unaligned, hence `read_unaligned`. Each
    // descriptor is new, and nobody else owns it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let length = (*header).cmsg_len as usize - (data as usize - header as usize);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                    let who: libc::ucred = ptr::read_unaligned(data.cast());
                    received.sender = Some(Sender {
                        pid: who.pid,
                        uid: who.uid,
                    });
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for place in 0..length / size_of::<c_int>() {
                        let fd: c_int = ptr::read_unaligned(data.cast::<c_int>().add(place));
                        let fd = OwnedFd::from_raw_fd(fd);
                        received.descriptors.push(source.received(fd));
                    }
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(received)
}
