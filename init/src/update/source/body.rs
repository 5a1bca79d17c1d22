//! The body of an answer (RFC 9112, sections 6 and 7): where it ends.

use super::head::Head;
use std::io::{self, Read};

/// Bytes of the line in front of a chunk, its extensions included.
const CHUNK_LINE_MAX: usize = 256;

/// Bytes of all lines behind the last chunk.
const TRAILER_MAX: usize = 4096;

/// A body. It ends where the head says, and `UnexpectedEof` is an end anywhere else.
#[derive(Debug)]
pub(super) struct Body<R> {
    inner: R,
    rest: Rest,
}

/// What is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// So many bytes.
    Length(u64),
    /// So many bytes of a chunk and then another, if there is one.
    Chunk(u64),
    /// The line in front of the first chunk.
    FirstChunk,
    /// All until the line is closed. Whether that was too early only the reader can tell, by what he expects.
    Close,
}

impl<R: Read> Body<R> {
    /// The body that follows this head.
    pub(super) fn new(head: &Head, inner: R) -> Self {
        let rest = match head.length {
            _ if head.chunked => Rest::FirstChunk,
            Some(length) => Rest::Length(length),
            None => Rest::Close,
        };
        Self { inner, rest }
    }

    /// A line without its end; of at most `max` bytes.
    fn line(&mut self, max: usize) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            self.inner.read_exact(&mut byte)?;
            match byte {
                [b'\n'] => break,
                [byte] if line.len() < max => line.push(byte),
                _ => return Err(malformed("a line that is too long")),
            }
        }
        line.pop_if(|last| *last == b'\r');
        Ok(line)
    }

    fn next_chunk(&mut self) -> io::Result<u64> {
        let line = self.line(CHUNK_LINE_MAX)?;
        let digits = line.split(|b| *b == b';').next().unwrap_or_default();
        let digits = digits.trim_ascii();
        let good = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(digits)
            .ok()
            .filter(|_| good)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or_else(|| malformed("no size in front of a chunk"))?;
        if size == 0 {
            let mut left = TRAILER_MAX;
            loop {
                let line = self.line(left)?;
                if line.is_empty() {
                    break;
                }
                left = left.saturating_sub(line.len() + 1);
            }
        }
        Ok(size)
    }

    fn some(&mut self, buffer: &mut [u8], left: u64) -> io::Result<usize> {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        match self.inner.read(buffer)? {
            0 if most > 0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the line was closed with {left} bytes to come"),
            )),
            count => Ok(count),
        }
    }
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.rest == Rest::FirstChunk {
            self.rest = match self.next_chunk()? {
                0 => Rest::Length(0),
                size => Rest::Chunk(size),
            };
        }
        match self.rest {
            Rest::Length(0) => Ok(0),
            Rest::Length(left) => {
                let count = self.some(buffer, left)?;
                self.rest = Rest::Length(left.saturating_sub(count as u64));
                Ok(count)
            }
            Rest::Chunk(left) => {
                let count = self.some(buffer, left)?;
                let left = left.saturating_sub(count as u64);
                self.rest = Rest::Chunk(left);
                if left == 0 {
                    if !self.line(1)?.is_empty() {
                        return Err(malformed("a chunk that is longer than it says"));
                    }
                    self.rest = Rest::FirstChunk;
                }
                Ok(count)
            }
            Rest::Close => self.inner.read(buffer),
            Rest::FirstChunk => Err(malformed("no chunk")),
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a malformed chunked body: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(head: &Head, bytes: &[u8]) -> Result<Vec<u8>, (Vec<u8>, io::ErrorKind)> {
        let mut body = Body::new(head, bytes);
        let mut got = Vec::new();
        let mut buffer = [0; 7];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(got),
                Ok(count) => got.extend_from_slice(&buffer[..count]),
                Err(e) => return Err((got, e.kind())),
            }
        }
    }

    fn chunked() -> Head {
        Head {
            chunked: true,
            ..Head::default()
        }
    }

    #[test]
    fn a_body_ends_where_the_head_says() {
        let length = Head {
            length: Some(4),
            ..Head::default()
        };
        assert_eq!(read(&length, b"abcdef"), Ok(b"abcd".to_vec()));
        let early = (b"abc".to_vec(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&length, b"abc"), Err(early));
        assert_eq!(read(&Head::default(), b"abc"), Ok(b"abc".to_vec()));
        let body = b"4;x=y\r\nabcd\r\n0a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nmore";
        assert_eq!(read(&chunked(), body), Ok(b"abcd0123456789".to_vec()));
    }

    #[test]
    fn chunks_that_break_the_rules_are_refused() {
        for (body, kind) in [
            (&b"4\r\nabcdX\r\n0\r\n\r\n"[..], io::ErrorKind::InvalidData),
            (b"-4\r\nabcd", io::ErrorKind::InvalidData),
            (b"\r\n", io::ErrorKind::InvalidData),
            (b"fffffffffffffffff\r\n", io::ErrorKind::InvalidData),
            (&[b'1'; 300], io::ErrorKind::InvalidData),
            (b"4\r\nab", io::ErrorKind::UnexpectedEof),
            (b"4\r\nabcd\r\n0\r\n", io::ErrorKind::UnexpectedEof),
            (b"4\r\nabcd\r\n", io::ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(read(&chunked(), body).unwrap_err().1, kind, "{body:?}");
        }
        let trailer = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(2000)].concat();
        assert_eq!(
            read(&chunked(), &trailer).unwrap_err().1,
            io::ErrorKind::InvalidData
        );
    }

    proptest! {
        #[test]
        fn any_body_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in proptest::option::of(0u64..300)) {
            for head in [chunked(), Head { length, ..Head::default() }] {
                let (Ok(got) | Err((got, _))) = read(&head, &bytes);
                prop_assert!(got.len() <= bytes.len());
            }
        }

        #[test]
        fn chunks_are_put_together(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6)) {
            let mut body = Vec::new();
            for part in &parts {
                body.extend(format!("{:X}\r\n", part.len()).bytes());
                body.extend(part);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            prop_assert_eq!(read(&chunked(), &body), Ok(parts.concat()));
        }
    }
}
