//! The head of an HTTP/1.1 request, as far as a file server needs it (RFC 9110, RFC 9112).

use std::io::{self, Read};

/// Longer heads are refused.
const HEAD_MAX: usize = 16 << 10;

/// One range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first byte.
    pub first: u64,
    /// The last byte, or the end of the file.
    pub last: Option<u64>,
}

impl Range {
    /// `bytes=5-` or `bytes=5-9`; what else the header can say may be ignored (RFC 9110, 14.2).
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let first = first.parse().ok()?;
        let last = match last {
            "" => None,
            last => Some(last.parse().ok().filter(|last| *last >= first)?),
        };
        Some(Self { first, last })
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The method.
    pub method: String,
    /// The path without the `/` it begins with, and without a query.
    pub file: String,
    /// The range.
    pub range: Option<Range>,
    /// The entity tag that the range is of.
    pub if_range: Option<String>,
}

impl Request {
    /// Reads the head of a request.
    pub(crate) fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend_from_slice(&byte);
            if head.len() > HEAD_MAX {
                return Err(io::Error::other("the head of the request is too long"));
            }
        }
        Self::parse(&String::from_utf8_lossy(&head))
            .ok_or_else(|| io::Error::other("that is no HTTP request"))
    }

    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        if !words.next()?.starts_with("HTTP/1.") {
            return None;
        }
        let path = target.split('?').next()?;
        let header = |wanted: &str| {
            lines.clone().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(wanted).then(|| value.trim())
            })
        };
        Some(Self {
            method: method.to_owned(),
            file: path.strip_prefix('/')?.to_owned(),
            range: header("range").and_then(Range::parse),
            if_range: header("if-range").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_method_file_and_range() {
        let head =
            "GET /a.raw?x=1 HTTP/1.1\r\nHost: h\r\nRANGE: bytes=5-9\r\nIf-Range: \"t\"\r\n\r\n";
        let request = Request::read(&mut head.as_bytes()).unwrap();
        assert_eq!(
            (request.method.as_str(), request.file.as_str()),
            ("GET", "a.raw")
        );
        assert_eq!(
            request.range,
            Some(Range {
                first: 5,
                last: Some(9)
            })
        );
        assert_eq!(request.if_range.as_deref(), Some("\"t\""));
    }

    #[test]
    fn other_ranges_are_ignored() {
        assert_eq!(
            Range::parse("bytes=7-"),
            Some(Range {
                first: 7,
                last: None
            })
        );
        for text in [
            "bytes=-5",
            "bytes=9-5",
            "bytes=1-2,4-5",
            "lines=1-2",
            "bytes=a-",
        ] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        for text in [
            "",
            "GET /x HTTP/1.1\r\n",
            "GET\r\n\r\n",
            "GET x HTTP/1.1\r\n\r\n",
        ] {
            assert!(Request::read(&mut text.as_bytes()).is_err(), "{text}");
        }
        let endless = "GET /".to_owned() + &"x".repeat(HEAD_MAX);
        assert!(Request::read(&mut endless.as_bytes()).is_err());
    }
}
