//! A connection that can neither hang nor trickle.
//!
//! Each call to the kernel has a limit; and over every minute that was spent waiting for the peer a
//! minimum of bytes must have come. The time that the reader takes for himself, as to write to a slow disk, does not count.
//! The pace is kept below TLS, so that a handshake or a record of one byte at a time is no way around it.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
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

/// Connects, and with `tls` sets up TLS for this host. The handshake comes with the first bytes.
pub(super) fn connect(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> io::Result<Wire> {
    let tcp = Paced {
        tcp: reach(host, port)?,
        pace: Pace::default(),
    };
    let Some(config) = tls else {
        return Ok(Box::new(tcp));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    Ok(Box::new(StreamOwned::new(connection, tcp)))
}

fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    // A resolver that does not answer, or knows no address now, may do so later.
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|e| io::Error::new(io::ErrorKind::HostUnreachable, e))?;
    let mut failed = io::Error::new(io::ErrorKind::HostUnreachable, "the host has no address");
    for address in addresses.take(ADDRESSES_MAX) {
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

struct Paced {
    tcp: TcpStream,
    pace: Pace,
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let count = self.tcp.read(buffer)?;
        if self.pace.keeps(start.elapsed(), count) {
            Ok(count)
        } else {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("fewer than {WINDOW_MIN} bytes came in a minute"),
            ))
        }
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
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
