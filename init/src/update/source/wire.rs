//! A connection that can neither hang nor trickle.
//!
//! Each call to the kernel has a limit; and over every minute that was spent waiting for the peer a
//! minimum of bytes must have come. The time that the reader takes for himself, as to write to a slow disk, does not count.
//! The pace is kept below TLS, so that a handshake or a record of one byte at a time is no way around it, and once
//! more around the body, so that chunks of one byte are none either.
//!
//! A server elsewhere must not send this machine, by a redirection, to itself or to its link ([`Reached`]): there are
//! services that answer whoever asks from there, such as the metadata of clouds.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// To connect to one address.
const CONNECT: Duration = Duration::from_secs(10);

/// For one call that reads or writes.
const IDLE: Duration = Duration::from_secs(30);

/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;

/// See the module: so much of waiting ...
const WINDOW: Duration = Duration::from_secs(60);
/// ... must bring so many bytes.
const WINDOW_MIN: usize = 16 * 1024;

/// A connection to a server, plain or TLS.
pub(super) type Wire = Box<dyn Stream>;

/// Both directions.
pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Where a connection may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// Anywhere: somebody who may has named the host.
    Anywhere,
    /// Not to this machine and not to its link.
    Elsewhere,
}

/// Whether an address is this machine or only on its link (RFC 6890). `connect` to the unspecified address
/// reaches the loopback (ip(7)).
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some_and(|v4| is_near(v4.into()))
        }
    }
}

/// Connects, and with `tls` sets up TLS for this host. The handshake comes with the first bytes.
///
/// Whether the peer is near is told too.
pub(super) fn connect(
    host: &str,
    port: u16,
    tls: Option<&Arc<ClientConfig>>,
    reached: Reached,
) -> io::Result<(Wire, bool)> {
    let tcp = Paced::new(reach(host, port, reached)?);
    let near = tcp.inner.peer_addr().is_ok_and(|peer| is_near(peer.ip()));
    let Some(config) = tls else {
        return Ok((Box::new(tcp), near));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    Ok((Box::new(StreamOwned::new(connection, tcp)), near))
}

fn reach(host: &str, port: u16, reached: Reached) -> io::Result<TcpStream> {
    // A resolver that does not answer, or knows no address now, may do so later.
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|e| io::Error::new(io::ErrorKind::HostUnreachable, e))?;
    let mut failed = io::Error::new(io::ErrorKind::HostUnreachable, "the host has no address");
    for address in addresses.take(ADDRESSES_MAX) {
        if reached == Reached::Elsewhere && is_near(address.ip()) {
            // Lasting: the next answer of that server would say the same.
            failed = io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("a redirection to {address}, this machine or its link, is not followed"),
            );
            continue;
        }
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(tcp) => {
                tcp.set_read_timeout(Some(IDLE))?;
                tcp.set_write_timeout(Some(IDLE))?;
                return Ok(tcp);
            }
            Err(e) => failed = io::Error::new(e.kind(), format!("connect to {address}: {e}")),
        }
    }
    Err(failed)
}

/// A reader of which too little must not come for too long. Around the connection it bounds the handshake and the
/// head; around the body it bounds what is of use, which is little of the bytes where each has a chunk of its own.
#[derive(Debug)]
pub(super) struct Paced<R> {
    inner: R,
    pace: Pace,
}

impl<R> Paced<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            pace: Pace::default(),
        }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let count = self.inner.read(buffer)?;
        // The end of a body is as good as any bytes.
        if count == 0 || self.pace.keeps(start.elapsed(), count) {
            Ok(count)
        } else {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("fewer than {WINDOW_MIN} bytes came in a minute"),
            ))
        }
    }
}

impl<W: Write> Write for Paced<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// How much came in the present window of waiting.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: usize,
}

impl Pace {
    /// Takes note of a read; whether it is fast enough.
    fn keeps(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < WINDOW {
            return true;
        }
        let enough = self.bytes >= WINDOW_MIN;
        *self = Self::default();
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_its_link_are_near() {
        for near in [
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "0.0.0.0",
            "::",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.1.1",
        ] {
            assert!(is_near(near.parse().unwrap()), "{near}");
        }
        for far in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert!(!is_near(far.parse().unwrap()), "{far}");
        }
        // Nobody is asked, and the same will be said the next time.
        let error = reach("127.0.0.1", 9, Reached::Elsewhere).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(!crate::update::source::SourceError::io("x", &error).transient);
    }

    #[test]
    fn a_trickle_is_told_from_a_slow_line() {
        let second = Duration::from_secs(1);
        let mut slow = Pace::default();
        assert!((0..600).all(|_| slow.keeps(second, 1000)));
        let mut trickle = Pace::default();
        assert_eq!(
            (0..600).take_while(|_| trickle.keeps(second, 100)).count(),
            59
        );
        // What takes no time is never too slow.
        let mut fast = Pace::default();
        assert!((0..600).all(|_| fast.keeps(Duration::ZERO, 1)));
    }
}
