//! A connection that knows when its bytes came.
//!
//! A flush covers the writes that had been answered when it was asked for. So for each request the
//! server must know how many were answered when it arrived, although it reads it only when it is done
//! with those before. Whatever lies in the socket when an answer is about to go out was sent without
//! having seen that answer; so it is taken out then ([`Wire::drain`]) and kept with the count. A request
//! that arrives between that look and the answer is counted as if it had seen it: the other mistake
//! would invent losses that no disk may have.

use super::device::Device;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Bytes asked of the socket at once.
const CHUNK: usize = 256 * 1024;
/// What is kept at most before a client that does not wait for answers has to.
const KEPT: usize = 64 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    device: Arc<Device>,
    buffer: Vec<u8>,
    /// How much of the buffer was taken.
    head: usize,
    /// Bytes that came before those in the buffer.
    gone: u64,
    /// From which byte on how many entries were settled.
    arrivals: VecDeque<(u64, usize)>,
}

impl Wire {
    pub fn new(stream: UnixStream, device: Arc<Device>) -> Self {
        Self {
            stream,
            device,
            buffer: Vec::new(),
            head: 0,
            gone: 0,
            arrivals: VecDeque::new(),
        }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        if !self.has(len)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let from = self.head;
        self.head += len;
        Ok(self.buffer.get(from..self.head).unwrap_or_default())
    }

    /// The next bytes as an array.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let taken = self.take(N)?.try_into();
        taken.map_err(|_| io::ErrorKind::UnexpectedEof.into())
    }

    /// Throws `len` bytes away.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn skip(&mut self, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let step = usize::try_from(len).unwrap_or(CHUNK).min(CHUNK);
            self.take(step)?;
            len -= step as u64;
        }
        Ok(())
    }

    /// Whether there is a next byte. Waits for it or for the end.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn more(&mut self) -> io::Result<bool> {
        self.has(1)
    }

    /// How many entries were settled when the next byte came.
    pub fn arrival(&mut self) -> usize {
        let at = self.gone + self.head as u64;
        while self.arrivals.get(1).is_some_and(|(from, _)| *from <= at) {
            self.arrivals.pop_front();
        }
        self.arrivals.front().map_or(0, |(_, settled)| *settled)
    }

    /// Takes what lies in the socket, without waiting.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn drain(&mut self) -> io::Result<()> {
        while self.buffer.len() - self.head < KEPT {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::WOULDBLOCK) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends the connection for everybody who has it.
    pub fn close(&self) {
        // Fails when the client has ended it.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Waits until there are `len` bytes; false if the connection ends before.
    fn has(&mut self, len: usize) -> io::Result<bool> {
        self.forget();
        while self.buffer.len() - self.head < len {
            if self.receive(RecvFlags::empty())? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<usize, Errno> {
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        let result = loop {
            let free = self.buffer.get_mut(old..).unwrap_or_default();
            match recv(&self.stream, free, flags) {
                Err(Errno::INTR) => {}
                other => break other.map(|(got, _)| got),
            }
        };
        let got = result.unwrap_or(0);
        self.buffer.truncate(old + got);
        if got > 0 {
            let from = self.gone + old as u64;
            self.arrivals.push_back((from, self.device.settled()));
        }
        result
    }

    /// Drops what was taken, when that is cheap or much.
    fn forget(&mut self) {
        if self.head == self.buffer.len() || self.head >= CHUNK {
            self.gone += self.head as u64;
            self.buffer.drain(..self.head);
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::testing::Scratch;

    #[test]
    fn bytes_keep_the_count_of_their_arrival() {
        let scratch = Scratch::new("wire");
        let device = Device::create(&scratch.image(8), scratch.path()).expect("a disk");
        let device = Arc::new(device);
        let (mut client, ours) = UnixStream::pair().expect("a socket pair");
        let mut wire = Wire::new(ours, Arc::clone(&device));
        client.write_all(b"one").expect("sent");
        assert_eq!(wire.take(1).expect("a byte"), b"o");
        let index = device.write(0, &[1; 512], false).expect("written");
        client.write_all(b"two").expect("sent");
        wire.drain().expect("drained");
        device.answered(index);
        client.write_all(b"three").expect("sent");
        drop(client);
        assert_eq!(wire.arrival(), 0);
        assert_eq!(wire.array::<2>().expect("two bytes"), *b"ne");
        assert_eq!(wire.arrival(), 0, "it did not know of the answer");
        wire.skip(3).expect("three bytes");
        assert!(wire.more().expect("connected"));
        assert_eq!(wire.arrival(), 1);
        assert_eq!(wire.take(5).expect("five bytes"), b"three");
        assert!(!wire.more().expect("ended in order"));
        assert!(wire.take(1).is_err());
    }
}
