//! What the standard library cannot do: enter a namespace, and open a packet socket.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// Moves this thread, and no other, into a namespace that `ip netns` made.
pub fn enter(netns: &str) -> io::Result<()> {
    let namespace = File::open(format!("/run/netns/{netns}"))?;
    // SAFETY: setns takes a descriptor, which is open for the whole call, and no memory.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Gives this thread, and no other, mounts of its own.
pub fn own_mounts() -> io::Result<()> {
    // SAFETY: unshare takes a number. The thread no longer shares its working folder with the
    // others, which is no matter of memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    Ok(())
}

/// What frames a packet socket carries in front of their Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Nothing.
    None,
    /// What the kernel has not done yet, above all sums (packet(7), `PACKET_VNET_HDR`): a frame
    /// that is read and written again stays what it was.
    Offload,
}

/// All frames that arrive at `link` of this thread's namespace, and the way to send others.
pub fn packet_socket(link: &str, prefix: Prefix) -> io::Result<File> {
    let name = CString::new(link)?;
    // SAFETY: the name is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let index = i32::try_from(index).map_err(io::Error::other)?;
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socket takes numbers only. Protocol 0 receives nothing before bind.
    let fd =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is fresh, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&fd, libc::PACKET_IGNORE_OUTGOING, 1)?;
    if prefix == Prefix::Offload {
        set(&fd, libc::PACKET_VNET_HDR, 1)?;
    }
    let every = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    // SAFETY: all zero bits are a value of this structure of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = every;
    address.sll_ifindex = index;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: the address is a sockaddr_ll of the length given, and outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(File::from(fd))
}

fn set(fd: &OwnedFd, option: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or_default();
    // SAFETY: the value is an int of the length given, and outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            length,
        )
    })?;
    Ok(())
}

/// Which of `files` can be read now, waiting for one of them, but not longer than `patience`.
pub fn readable<const N: usize>(files: [&File; N], patience: Duration) -> io::Result<[bool; N]> {
    let mut entries = files.map(|file| libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // Rounded up: to be woken just before the time would be to turn in circles until it.
    let wait = i32::try_from(patience.as_millis() + 1).unwrap_or(i32::MAX);
    // SAFETY: the entries are as many as stated, and outlive the call.
    check(unsafe {
        libc::poll(
            entries.as_mut_ptr(),
            libc::nfds_t::try_from(N).unwrap_or(0),
            wait,
        )
    })?;
    Ok(entries.map(|entry| entry.revents != 0))
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
