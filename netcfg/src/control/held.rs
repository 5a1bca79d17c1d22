//! Descriptors that came over the control socket, and that must not be closed here.
//!
//! Whoever may connect may also pass descriptors (unix(7), `SCM_RIGHTS`), and the last one to close such a
//! thing does what its end takes: a TCP socket that lingers (socket(7), `SO_LINGER`) keeps its closer
//! until the other end has read everything. netcfg has one thread, which would stand still for as
//! long as a stranger likes. To switch lingering off on receipt is not enough: the socket may wait inside
//! another one that was passed, and go with it.
//!
//! So none is ever received, and none is closed: each look at a connection is one that takes nothing
//! ([`peek`]), and a connection in which a descriptor waits is [held](close) until netcfg ends. The
//! kernel does not linger for a process that ends. How many are held is the matter of
//! [`Server`](super::server::Server).

use std::io::{self, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};

use super::protocol::REQUEST_MAX;

/// What waits at the head of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// So many bytes, which may be read; none at the end.
    Bytes(usize),
    /// At least one descriptor.
    Descriptor,
}

/// Looks at what waits, as far as `buffer` has room, and takes nothing.
pub fn peek(connection: impl AsFd, buffer: &mut [u8]) -> io::Result<Head> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let mut parts = [IoSliceMut::new(buffer)];
    // Without room for descriptors the kernel says by this flag that there are some.
    let seen = recvmsg(
        connection,
        &mut parts,
        &mut RecvAncillaryBuffer::default(),
        flags,
    )?;
    if seen.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(Head::Descriptor);
    }
    Ok(Head::Bytes(seen.bytes))
}

/// Ends a connection. Gives it back if a descriptor waits in it: then it is to be held.
pub fn close(connection: UnixStream) -> Option<UnixStream> {
    // From here on nothing can be put into it, and what is in it is no more than the peer's send buffer
    // has let pass. An error says that the peer has ended it already.
    let _ = connection.shutdown(Shutdown::Both);
    let mut buffer = [0; REQUEST_MAX];
    loop {
        match peek(&connection, &mut buffer) {
            Ok(Head::Descriptor) => return Some(connection),
            Ok(Head::Bytes(0)) => return None,
            Ok(Head::Bytes(count)) => {
                let seen = buffer.get_mut(..count).unwrap_or_default();
                if let Err(error) = io::Read::read(&mut &connection, seen)
                    && error.kind() != io::ErrorKind::Interrupted
                {
                    return Some(connection);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Reset by a peer that ended with something unread, which is told once; or nothing there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(_) => return None,
        }
    }
}
