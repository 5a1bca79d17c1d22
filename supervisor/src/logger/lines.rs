//! From the bytes of a stream to lines that a terminal and a parser can bear.
//!
//! A service may write anything: half a line, a megabyte without a newline, NUL bytes, escape
//! sequences, broken UTF-8. Here it becomes lines with the service's name in front, of at most
//! [`LINE_MAX`] bytes of input each (a longer one goes on in the next line), in which control
//! bytes and what is not UTF-8 stand as `\xNN`. Nothing is left out.

use std::fmt::Write;

/// Input bytes of one line at most.
pub const LINE_MAX: usize = 1024;

/// Cuts one stream into lines.
#[derive(Debug)]
pub struct Splitter {
    prefix: String,
    partial: Vec<u8>,
}

impl Splitter {
    /// Lines get `NAME: ` in front.
    #[must_use]
    pub fn prefixed(name: &str) -> Self {
        Self {
            prefix: format!("{name}: "),
            partial: Vec::new(),
        }
    }

    /// Lines are shown as they are.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            prefix: String::new(),
            partial: Vec::new(),
        }
    }

    /// Takes some bytes; `show` gets every line that is complete now, with its line end.
    pub fn push(&mut self, data: &[u8], mut show: impl FnMut(&[u8])) {
        for byte in data {
            if *byte == b'\n' {
                self.flush(&mut show);
                continue;
            }
            self.partial.push(*byte);
            if self.partial.len() >= LINE_MAX {
                self.flush(&mut show);
            }
        }
    }

    /// The stream is over; what is left is a line too.
    pub fn finish(&mut self, mut show: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            self.flush(&mut show);
        }
    }

    fn flush(&mut self, show: &mut impl FnMut(&[u8])) {
        let mut text = self.partial.as_slice();
        if let Some(shorter) = text.strip_suffix(b"\r") {
            text = shorter;
        }
        let mut line = self.prefix.clone();
        for chunk in text.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\t' => line.push(c),
                    c if c.is_control() => {
                        let _ = write!(line, "\\x{:02x}", u32::from(c));
                    }
                    c => line.push(c),
                }
            }
            for byte in chunk.invalid() {
                let _ = write!(line, "\\x{byte:02x}");
            }
        }
        // The terminal adds the return a serial line needs (termios(3), `ONLCR`, on by default).
        line.push('\n');
        self.partial.clear();
        show(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::prefixed("s");
        let mut shown = Vec::new();
        for part in parts {
            splitter.push(part, |line| {
                shown.push(String::from_utf8_lossy(line).into_owned());
            });
        }
        splitter.finish(|line| shown.push(String::from_utf8_lossy(line).into_owned()));
        shown
    }

    #[test]
    fn halves_join_and_strange_bytes_are_spelled_out() {
        assert_eq!(
            lines(&[b"one\r\ntw", b"o\n\x1b[1m\0\xff", "ü\tx".as_bytes()]),
            ["s: one\n", "s: two\n", "s: \\x1b[1m\\x00\\xffü\tx\n",]
        );
    }

    #[test]
    fn an_endless_line_is_cut_and_nothing_is_left_out() {
        let shown = lines(&[&[b'a'; 3 * LINE_MAX + 5]]);
        assert_eq!(shown.len(), 4);
        assert_eq!(
            shown.iter().map(|l| l.matches('a').count()).sum::<usize>(),
            3 * LINE_MAX + 5
        );
    }

    proptest! {
        #[test]
        fn any_bytes_give_prefixed_lines(data in proptest::collection::vec(any::<u8>(), 0..5000), cut in 0usize..5000) {
            let (head, tail) = data.split_at(cut.min(data.len()));
            for line in lines(&[head, tail]) {
                prop_assert!(line.starts_with("s: ") && line.ends_with('\n'));
                let body = &line[3..line.len() - 1];
                prop_assert!(!body.contains(|c: char| c.is_control() && c != '\t'));
            }
            prop_assert_eq!(lines(&[head, tail]), lines(&[&data]));
        }
    }
}
