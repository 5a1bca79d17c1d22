//! What waits to be sent to one client, within bounds.
//!
//! An answer is queued as a whole. A line of a stream that finds more than [`FOLLOW_MAX`] bytes waiting
//! is dropped and counted, and so are all after it until the client has read half of that; then
//! `{"lost":N}` stands where they are missing. Half, because a client at the brink would otherwise get
//! a gap after every line.

use super::protocol::Missed;
use rustix::io::Errno;
use std::collections::VecDeque;

/// Bytes that may wait for a client, answers included.
pub(super) const OUTPUT_MAX: usize = 1024 * 1024;

/// Bytes that may wait for a follower before lines are dropped.
pub(super) const FOLLOW_MAX: usize = 256 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: VecDeque<u8>,
    lost: u64,
}

impl Output {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Queues a line of an answer. The caller has seen that it fits.
    pub fn push(&mut self, line: &str) {
        self.bytes.extend(line.as_bytes());
        self.bytes.push_back(b'\n');
    }

    /// Queues lines of an answer: the newest that fit, and how many are missing before them.
    pub fn push_newest(&mut self, lines: &[String]) {
        // What `{"lost":N}` needs at most: 20 digits, and the words around them.
        let mut room = OUTPUT_MAX.saturating_sub(self.bytes.len() + 64);
        let fitting = lines.iter().rev().take_while(|line| {
            let fits = line.len() < room;
            room = room.saturating_sub(line.len() + 1);
            fits
        });
        let missing = lines.len() - fitting.count();
        self.push_lost(u64::try_from(missing).unwrap_or(u64::MAX));
        for line in lines.iter().skip(missing) {
            self.push(line);
        }
    }

    /// Queues a line of a stream, or counts it.
    pub fn offer(&mut self, line: &str) {
        if self.lost > 0 || self.bytes.len() + line.len() >= FOLLOW_MAX {
            self.lost = self.lost.saturating_add(1);
        } else {
            self.push(line);
        }
    }

    /// Writes until nothing is left or the other side takes no more; whether it took anything.
    ///
    /// # Errors
    /// If the other side is gone.
    pub fn drain(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<bool, Errno> {
        let mut progress = false;
        while !self.bytes.is_empty() {
            match write(self.bytes.as_slices().0) {
                Ok(count) => {
                    self.bytes.drain(..count.min(self.bytes.len()));
                    progress = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e),
            }
            if self.bytes.len() <= FOLLOW_MAX / 2 {
                let lost = std::mem::take(&mut self.lost);
                self.push_lost(lost);
            }
        }
        if self.bytes.is_empty() {
            // Gives the memory back: a client may stay for days after one long answer.
            self.bytes = VecDeque::new();
        }
        Ok(progress)
    }

    fn push_lost(&mut self, lost: u64) {
        if lost > 0 {
            self.push(&serde_json::to_string(&Missed { lost }).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes up to `room` bytes into `taken`.
    fn reader(taken: &mut Vec<u8>, mut room: usize) -> impl FnMut(&[u8]) -> Result<usize, Errno> {
        move |data| {
            let count = data.len().min(room);
            room -= count;
            taken.extend(&data[..count]);
            if count == 0 {
                Err(Errno::AGAIN)
            } else {
                Ok(count)
            }
        }
    }

    #[test]
    fn of_too_long_an_answer_the_newest_lines_are_sent() {
        let mut output = Output::default();
        let line = |n: usize| format!("{n:09}{}", "x".repeat(100_000));
        let lines: Vec<String> = (0..12).map(line).collect();
        output.push_newest(&lines);
        assert!(output.len() <= OUTPUT_MAX);
        let mut taken = Vec::new();
        output.drain(reader(&mut taken, usize::MAX)).unwrap();
        let text = String::from_utf8(taken).unwrap();
        let got: Vec<&str> = text.lines().collect();
        assert_eq!(got[0], r#"{"lost":2}"#);
        assert_eq!(got[1..], lines[2..]);
    }

    #[test]
    fn all_lines_that_fit_are_sent_and_no_gap_is_told() {
        let mut output = Output::default();
        output.push_newest(&["a".into(), String::new(), "c".into()]);
        let mut taken = Vec::new();
        output.drain(reader(&mut taken, usize::MAX)).unwrap();
        assert_eq!(taken, b"a\n\nc\n");
    }

    proptest! {
        #[test]
        fn every_line_arrives_or_is_counted_where_it_is_missing(
            steps in proptest::collection::vec((1usize..200, 1usize..3000, 0usize..400_000), 1..40)
        ) {
            let (mut output, mut taken, mut sent) = (Output::default(), Vec::new(), 0u64);
            for (lines, length, room) in steps {
                for _ in 0..lines {
                    output.offer(&format!("{sent} {}", "x".repeat(length)));
                    sent += 1;
                    prop_assert!(output.len() <= FOLLOW_MAX + 64);
                }
                output.drain(reader(&mut taken, room)).unwrap();
            }
            output.drain(reader(&mut taken, usize::MAX)).unwrap();
            let mut expected = 0u64;
            for line in String::from_utf8(taken).unwrap().lines() {
                match serde_json::from_str::<Missed>(line) {
                    Ok(gap) => expected += gap.lost,
                    Err(_) => {
                        let number = line.split_once(' ').unwrap().0;
                        prop_assert_eq!(number.parse::<u64>().unwrap(), expected);
                        expected += 1;
                    }
                }
            }
            prop_assert_eq!(expected, sent);
        }
    }
}
