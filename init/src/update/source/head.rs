//! The head of an answer (RFC 9112, sections 4 and 5): what of it an update needs.
//!
//! It comes from a stranger, so it is bounded, and where two readers could read it in two ways it is refused.

/// Bytes of a head.
pub(super) const SIZE_MAX: usize = 16 * 1024;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// The words after the status, for people.
    pub(super) reason: String,
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub(super) chunked: bool,
    /// `Content-Range: bytes FIRST-LAST/TOTAL`.
    pub(super) range: Option<Range>,
    pub(super) etag: Option<String>,
    pub(super) location: Option<String>,
}

/// RFC 9110, section 14.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: Option<u64>,
}

/// The length of the head at the start of these bytes, its empty line included.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    // A line may end in LF alone (RFC 9112, section 2.2).
    let mut start = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'\n') {
        let line = bytes.get(start..at)?;
        if start > 0 && matches!(line, b"" | b"\r") {
            return Some(at + 1);
        }
        start = at + 1;
    }
    None
}

impl Head {
    /// Reads a whole head.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        // RFC 9112, section 2.2: a CR that ends no line is invalid. Some readers take it for the end of one.
        let bare = |pair: &[u8]| pair.first() == Some(&b'\r') && pair.get(1) != Some(&b'\n');
        if bytes.windows(2).any(bare) || bytes.last() == Some(&b'\r') {
            return Err("a CR that ends no line".into());
        }
        let text = bytes.iter().map(|b| match b {
            b'\t' | b' '..=b'~' => char::from(*b),
            b'\r' | b'\n' => '\n',
            // Only values that are not looked at may have others.
            _ => '\u{fffd}',
        });
        let text: String = text.collect();
        let mut lines = text.split('\n').filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let mut head = status_line(first)
            .ok_or_else(|| format!("not an answer of HTTP/1: it starts with {first:.40?}"))?;
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                return Err(format!("a header line without a colon: {line:.60?}"));
            };
            // A line that starts with a space belonged to the one before, long ago (RFC 9112, section 5.2).
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!("a header with the name {name:.60?}"));
            }
            head.take(&name.to_ascii_lowercase(), value.trim_matches([' ', '\t']))?;
        }
        if head.chunked && head.length.is_some() {
            return Err("both Content-Length and Transfer-Encoding".into());
        }
        Ok(head)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = || format!("{name}: {value:.80?} is not understood");
        match name {
            "content-length" => {
                let length = number(value).ok_or_else(wrong)?;
                once(&mut self.length, length, name)?;
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") && !self.chunked => {
                self.chunked = true;
            }
            "transfer-encoding" => return Err(wrong()),
            "content-encoding" if !value.eq_ignore_ascii_case("identity") => return Err(wrong()),
            "content-range" => once(&mut self.range, range(value).ok_or_else(wrong)?, name)?,
            // One that is malformed is as good as none.
            "etag" => etag(value).map_or(Ok(()), |tag| once(&mut self.etag, tag, name))?,
            "location" => once(&mut self.location, value.to_owned(), name)?,
            _ => {}
        }
        Ok(())
    }
}

/// A value that an answer has once: readers differ in which of two they take.
fn once<T: PartialEq>(known: &mut Option<T>, value: T, name: &str) -> Result<(), String> {
    match known {
        Some(other) if *other != value => Err(format!("two different {name}")),
        _ => {
            *known = Some(value);
            Ok(())
        }
    }
}

fn status_line(line: &str) -> Option<Head> {
    let rest = line.strip_prefix("HTTP/1.")?;
    let (version, rest) = rest.split_once(' ')?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let status = number(status).and_then(|s| u16::try_from(s).ok())?;
    (matches!(version, "0" | "1") && (100..600).contains(&status)).then(|| Head {
        status,
        reason: reason.chars().take(60).collect(),
        ..Head::default()
    })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn range(value: &str) -> Option<Range> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    // Of an answer 416: no range was sent.
    let (first, last) = match range {
        "*" => (0, 0),
        range => {
            let (first, last) = range.split_once('-')?;
            (number(first)?, number(last)?)
        }
    };
    (first <= last && total.is_none_or(|total| last < total || range == "*")).then_some(Range {
        first,
        last,
        total,
    })
}

/// RFC 9110, section 8.8.3.
fn etag(value: &str) -> Option<String> {
    let opaque = value.strip_prefix("W/").unwrap_or(value);
    let inner = opaque.strip_prefix('"')?.strip_suffix('"')?;
    let good = |b: u8| b.is_ascii_graphic() && b != b'"';
    (value.len() <= 256 && inner.bytes().all(good)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_is_read() {
        let text =
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 5-9/10\r\n\
            ETag: \"x-1\"\r\nServer: \xff\r\n\r\nbody";
        let end = end(text).unwrap();
        assert_eq!(&text[end..], b"body");
        let head = Head::parse(&text[..end]).unwrap();
        assert_eq!(head.status, 206);
        assert_eq!(head.length, Some(5));
        let range = Range {
            first: 5,
            last: 9,
            total: Some(10),
        };
        assert_eq!(head.range, Some(range));
        assert_eq!(head.etag.as_deref(), Some("\"x-1\""));
        let head =
            Head::parse(b"HTTP/1.0 302\nLocation:  /x \ntransfer-encoding: Chunked\n\n").unwrap();
        assert_eq!((head.location.as_deref(), head.chunked), (Some("/x"), true));
        assert_eq!(
            Head::parse(b"HTTP/1.1 200 OK\r\nETag: \"a b\"\r\n\r\n")
                .unwrap()
                .etag,
            None
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (lines, say) in [
            ("Content-Length: 5\r\nContent-Length: 6", "two different"),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", "both"),
            ("Content-Length: +5", "content-length"),
            ("Content-Length: 5, 5", "content-length"),
            ("Content-Length: 99999999999999999999", "content-length"),
            ("Transfer-Encoding: gzip, chunked", "transfer-encoding"),
            ("Content-Encoding: gzip", "content-encoding"),
            ("Content-Range: bytes 9-5/10", "content-range"),
            ("Content-Range: bytes 5-10/10", "content-range"),
            ("Content-Range: items 1-2/3", "content-range"),
            ("ETag: \"a\"\r\nETag: \"b\"", "two different etag"),
            ("Location: /a\r\nLocation: /b", "two different location"),
            (
                "Content-Range: bytes 5-9/10\r\nContent-Range: bytes 6-9/10",
                "two different content-range",
            ),
            ("X: a\rLocation: /b", "CR"),
            ("X: a\r", "CR"),
            (" folded: x", "name"),
            ("Content-Length : 5", "name"),
            ("nonsense", "without a colon"),
        ] {
            let error = Head::parse(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n").as_bytes());
            let error = error.unwrap_err();
            assert!(error.contains(say), "{lines}: {error}");
        }
        for first in [
            "HTTP/2 200",
            "HTTP/1.1 99 x",
            "HTTP/1.1 2000",
            "SSH-2.0",
            "",
        ] {
            assert!(
                Head::parse(format!("{first}\r\n\r\n").as_bytes()).is_err(),
                "{first}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Head::parse(&bytes);
            if let Some(end) = end(&bytes) {
                prop_assert!(end <= bytes.len());
            }
        }

        #[test]
        fn a_damaged_head_keeps_the_rules(at in 0usize..120, value in any::<u8>()) {
            let mut bytes = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 5-9/10\r\n\
                ETag: \"x-1\"\r\nLocation: /x\r\n\r\n".to_vec();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(head) = Head::parse(&bytes) {
                prop_assert!((100..600).contains(&head.status));
                prop_assert!(head.range.is_none_or(|r| r.first <= r.last));
                prop_assert!(head.etag.is_none_or(|e| e.bytes().all(|b| b.is_ascii_graphic())));
            }
        }
    }
}
