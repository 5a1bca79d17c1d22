//! From the bytes of a stream to lines that a terminal and a parser can bear.
//!
//! A service may write anything: half a line, a megabyte without a newline, NUL bytes, escape
//! sequences, broken UTF-8. Here it becomes lines of at most [`LINE_MAX`] bytes of input each (a
//! longer one goes on in the next line), in which control bytes and what is not UTF-8 stand as
//! `\xNN`. Nothing is left out.

use std::fmt::Write;

/// Input bytes of one line at most.
pub const LINE_MAX: usize = 1024;

/// Cuts one stream into lines.
#[derive(Debug, Default)]
pub struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes some bytes; `show` gets every line that is complete now, without its line end.
    pub fn push(&mut self, data: &[u8], mut show: impl FnMut(&str)) {
        for byte in data {
            if *byte == b'\n' {
                if self.partial.last() == Some(&b'\r') {
                    self.partial.pop();
                }
                self.flush(&mut show);
                continue;
            }
            if self.partial.len() >= LINE_MAX {
                self.flush(&mut show);
            }
            self.partial.push(*byte);
        }
    }

    /// The stream is over; what is left is a line too.
    pub fn finish(&mut self, mut show: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.flush(&mut show);
        }
    }

    fn flush(&mut self, show: &mut impl FnMut(&str)) {
        let mut line = String::with_capacity(self.partial.len());
        for chunk in self.partial.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() && c != '\t' {
                    spell(&mut line, c.encode_utf8(&mut [0; 4]).as_bytes());
                } else {
                    line.push(c);
                }
            }
            spell(&mut line, chunk.invalid());
        }
        self.partial.clear();
        show(&line);
    }
}

fn spell(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(line, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut shown = Vec::new();
        for part in parts {
            splitter.push(part, |line| shown.push(line.to_owned()));
        }
        splitter.finish(|line| shown.push(line.to_owned()));
        shown
    }

    #[test]
    fn halves_join_and_strange_bytes_are_spelled_out() {
        assert_eq!(
            lines(&[b"one\r\ntw", b"o\n\x1b[1m\0\xff", "ü\tx".as_bytes()]),
            ["one", "two", "\\x1b[1m\\x00\\xffü\tx"]
        );
    }

    #[test]
    fn a_line_of_the_longest_length_is_one_line_and_a_cut_takes_no_byte() {
        let longest = "a".repeat(LINE_MAX);
        assert_eq!(lines(&[longest.as_bytes(), b"\n"]), [longest.as_str()]);
        let cut = [&[b'a'; LINE_MAX - 1], &b"\rb\r"[..]].concat();
        assert_eq!(
            lines(&[&cut]),
            [format!("{}\\x0d", &longest[1..]), "b\\x0d".into()]
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
        fn any_bytes_give_lines_without_control_bytes(data in proptest::collection::vec(any::<u8>(), 0..5000), cut in 0usize..5000) {
            let (head, tail) = data.split_at(cut.min(data.len()));
            for line in lines(&[head, tail]) {
                prop_assert!(!line.contains(|c: char| c.is_control() && c != '\t'));
            }
            prop_assert_eq!(lines(&[head, tail]), lines(&[&data]));
        }
    }
}
