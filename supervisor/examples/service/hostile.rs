//! What a service does that was taken over by somebody who read the code of init.

use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, sockopt,
};
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::time::Duration;

/// How long a close of such a socket sleeps, unless somebody takes care.
const LINGER: Duration = Duration::from_secs(60);

/// Descriptors in one message; unix(7) allows 253.
const DESCRIPTORS: usize = 4;

/// A TCP socket whose last close sleeps: data waits that the listener `LINGER_PEER` never reads, and
/// `SO_LINGER` says how long it is waited for.
fn lingering() -> io::Result<OwnedFd> {
    let peer = std::env::var("LINGER_PEER").map_err(io::Error::other)?;
    let mut socket = TcpStream::connect(peer)?;
    sockopt::set_socket_linger(&socket, Some(LINGER))?;
    socket.set_nonblocking(true)?;
    let block = [b'x'; 65_536];
    while socket.write(&block).is_ok() {}
    Ok(socket.into())
}

/// Sends a message with lingering sockets and keeps none of them.
fn pass(socket: &OwnedFd, text: &[u8], flags: SendFlags) -> io::Result<()> {
    let sockets: Vec<OwnedFd> = (0..DESCRIPTORS)
        .map(|_| lingering())
        .collect::<io::Result<_>>()?;
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&borrowed));
    let sent = sendmsg(socket, &[IoSlice::new(text)], &mut control, flags);
    // Our own close might be the last and linger. The end of this process closes them, and does not.
    std::mem::forget(sockets);
    Ok(sent.map(drop)?)
}

fn connected(path: &str, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// `TEXT` on the notify socket, together with lingering sockets, by a child that ends then.
pub fn notify(text: &str) -> io::Result<()> {
    let child = crate::again(&[&format!("linger-notify-now={text}")]).status()?;
    child
        .success()
        .then_some(())
        .ok_or_else(|| io::Error::other(child.to_string()))
}

/// The same by this process.
pub fn notify_now(text: &str) -> io::Result<()> {
    let path = std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?;
    let socket = connected(&path, SocketType::DGRAM)?;
    let text = text.replace(';', "\n");
    pass(&socket, text.as_bytes(), SendFlags::empty())
}

/// Half a request on the control socket with lingering sockets: as data, as urgent data
/// (`MSG_OOB`), and several unread ones behind each other when the connection ends.
pub fn control(path: &str) -> io::Result<()> {
    for (flags, messages) in [
        (SendFlags::empty(), 1),
        (SendFlags::OOB, 1),
        (SendFlags::empty(), 3),
    ] {
        let socket = connected(path, SocketType::STREAM)?;
        for _ in 0..messages {
            match pass(&socket, b"{", flags) {
                // The server let go of this client, or its kernel refuses descriptors for it.
                Err(e)
                    if [libc::EPIPE, libc::EPERM, libc::ECONNRESET]
                        .contains(&e.raw_os_error().unwrap_or(0)) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// So many notifications of each kind that made PID 1 tell something each time: pairs of a reload, a main
/// process that is not there, and a descriptor for which there is no room.
pub fn flood(count: u64) -> io::Result<()> {
    let path = std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?;
    let socket = connected(&path, SocketType::DGRAM)?;
    let pairs = "RELOADING=1\nREADY=1\n".repeat(100);
    for number in 0..count {
        let pid = 2_000_000 + number;
        rustix::net::send(
            &socket,
            format!("MAINPID={pid}").as_bytes(),
            SendFlags::empty(),
        )?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let stored = [socket.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&stored));
        let parts = [IoSlice::new(b"FDSTORE=1")];
        sendmsg(&socket, &parts, &mut control, SendFlags::empty())?;
        if number % 200 == 0 {
            rustix::net::send(&socket, pairs.as_bytes(), SendFlags::empty())?;
        }
    }
    Ok(())
}
