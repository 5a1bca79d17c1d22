//! The serial line of a VM.
//!
//! QEMU connects its serial port to a Unix socket of ours. One thread reads it, keeps every byte
//! on disk, stamps each line with the host's time since power-on and appends it to a [`Journal`].
//! A wait names the event it wants and a deadline, looks at what has already come first, and on
//! failure says what the machine said last instead of only "timeout".

use crate::classify::{Untangler, clean};
use crate::clock::PowerClock;
use crate::event::Event;
use crate::journal::{Journal, Waited};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A line without an end must not fill the memory.
const LONGEST_LINE: usize = 64 * 1024;
/// How much of the end of the log an error quotes.
const QUOTED_LINES: usize = 15;

/// One line of the serial log.
#[derive(Debug, Clone, PartialEq)]
pub struct SerialLine {
    /// Host time since power-on at which the line was complete.
    pub at: Duration,
    /// The line without escape sequences.
    pub text: String,
    /// What it says, when it is an event line.
    pub event: Option<Event>,
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The index of the line: waiting from `index + 1` looks past it.
    pub index: usize,
    /// Host time since power-on.
    pub at: Duration,
    /// The event itself.
    pub event: Event,
}

/// The reading end of a serial line.
#[derive(Debug)]
pub struct Serial {
    lines: Arc<Journal<SerialLine>>,
    thread: Option<JoinHandle<()>>,
}

impl Serial {
    /// Reads `stream` until it ends, and keeps all bytes in `log`.
    ///
    /// # Errors
    /// When `log` cannot be made.
    pub fn read(stream: UnixStream, log: &Path, clock: PowerClock) -> Result<Self> {
        let file = File::create(log)
            .with_context(|| format!("cannot write the serial log {}", log.display()))?;
        let lines = Arc::new(Journal::default());
        let journal = Arc::clone(&lines);
        let thread = std::thread::Builder::new()
            .name("serial".into())
            .spawn(move || {
                pump(stream, BufWriter::new(file), &journal, &clock);
                journal.close();
            })
            .context("cannot start the serial reader")?;
        Ok(Self {
            lines,
            thread: Some(thread),
        })
    }

    /// A line that never says anything: the VM has no serial port.
    #[must_use]
    pub fn absent() -> Self {
        let lines = Journal::default();
        lines.close();
        Self {
            lines: Arc::new(lines),
            thread: None,
        }
    }

    /// The number of lines so far; waiting from there sees only newer ones.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.lines.len()
    }

    /// All lines from `from` on.
    #[must_use]
    pub fn lines(&self, from: usize) -> Vec<SerialLine> {
        self.lines.since(from)
    }

    /// All events from line `from` on.
    #[must_use]
    pub fn events(&self, from: usize) -> Vec<Event> {
        self.lines(from)
            .into_iter()
            .filter_map(|line| line.event)
            .collect()
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// When the line ended or the deadline passed first; the message quotes the end of the log.
    pub fn wait_line(
        &self,
        from: usize,
        deadline: Instant,
        what: &str,
        mut wanted: impl FnMut(&SerialLine) -> bool,
    ) -> Result<(usize, SerialLine)> {
        let found = self
            .lines
            .wait(from, deadline, |line| wanted(line).then(|| line.clone()));
        match found {
            Waited::Found(index, line) => Ok((index, line)),
            Waited::Closed => bail!(
                "the serial line ended before {what}\n{}",
                self.quote_end(from)
            ),
            Waited::TimedOut => bail!(
                "{what} did not come within its deadline\n{}",
                self.quote_end(from)
            ),
        }
    }

    /// Waits for event `name` with these field values.
    ///
    /// # Errors
    /// As [`Self::wait_line`].
    pub fn wait_for(
        &self,
        from: usize,
        deadline: Instant,
        name: &str,
        fields: &[(&str, &str)],
    ) -> Result<Seen> {
        let mut what = format!("event {name}");
        for (key, value) in fields {
            what.push_str(&format!(" {key}={value}"));
        }
        let (index, line) = self.wait_line(from, deadline, &what, |line| {
            line.event.as_ref().is_some_and(|e| e.is(name, fields))
        })?;
        let event = line.event.context("the line just matched as an event")?;
        Ok(Seen {
            index,
            at: line.at,
            event,
        })
    }

    /// The last lines, for an error message.
    #[must_use]
    pub fn quote_end(&self, from: usize) -> String {
        let lines = self.lines(from);
        if lines.is_empty() {
            return "the serial line was silent".into();
        }
        let skip = lines.len().saturating_sub(QUOTED_LINES);
        let mut text = String::from("the serial line said last:");
        for line in lines.iter().skip(skip) {
            text.push_str(&format!("\n  {:9.3}  {}", line.at.as_secs_f64(), line.text));
        }
        text
    }

    /// Waits until the reader has seen the end of the line (QEMU is gone).
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The reader has no state that a panic could spoil; the log on disk is complete.
            let _ = thread.join();
        }
    }
}

fn pump(
    mut stream: UnixStream,
    mut log: BufWriter<File>,
    journal: &Journal<SerialLine>,
    clock: &PowerClock,
) {
    let mut untangler = Untangler::default();
    let mut line = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let got = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            // QEMU died: what came until then is all there is.
            Err(_) => break,
        };
        let at = clock.elapsed();
        let bytes = buffer.get(..got).unwrap_or_default();
        // A full disk must not stop the test run: the journal has the lines too.
        let _ = log.write_all(bytes).and_then(|()| log.flush());
        for byte in bytes {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() >= LONGEST_LINE {
                emit(journal, &mut untangler, at, &line);
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        emit(journal, &mut untangler, clock.elapsed(), &line);
    }
    if let Some(text) = untangler.finish() {
        push(journal, clock.elapsed(), text);
    }
}

fn emit(journal: &Journal<SerialLine>, untangler: &mut Untangler, at: Duration, raw: &[u8]) {
    for text in untangler.line(clean(raw)) {
        push(journal, at, text);
    }
}

fn push(journal: &Journal<SerialLine>, at: Duration, text: String) {
    let event = Event::parse(&text).ok();
    journal.push(SerialLine { at, text, event });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn pair(name: &str) -> (UnixStream, Serial, std::path::PathBuf) {
        let log = std::env::temp_dir().join(format!("serial-{name}-{}.log", std::process::id()));
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let serial = Serial::read(theirs, &log, PowerClock::default()).expect("a reader");
        (ours, serial, log)
    }

    #[test]
    fn lines_arrive_whole_whatever_the_chunks() {
        let (mut port, mut serial, log) = pair("chunks");
        let text = b"\x1b[2JBdsDxe: go\r\ninit: 0.100 boot.start stage=initramfs\r\ninit: 0.2";
        for byte in text {
            port.write_all(&[*byte]).expect("the reader lives");
        }
        let seen = serial
            .wait_for(0, soon(), "boot.start", &[("stage", "initramfs")])
            .expect("the event");
        assert_eq!(seen.index, 1);
        drop(port);
        serial.join();
        let texts: Vec<_> = serial.lines(0).into_iter().map(|l| l.text).collect();
        assert_eq!(
            texts,
            [
                "BdsDxe: go",
                "init: 0.100 boot.start stage=initramfs",
                "init: 0.2"
            ]
        );
        assert_eq!(std::fs::read(&log).expect("the log"), text);
        std::fs::remove_file(log).expect("our file");
    }

    #[test]
    fn an_ended_line_is_an_error_that_quotes_the_end() {
        let (mut port, serial, log) = pair("ended");
        port.write_all(b"Kernel panic\n").expect("the reader lives");
        drop(port);
        let error = serial
            .wait_for(0, soon(), "boot.healthy", &[])
            .expect_err("no such event");
        let text = error.to_string();
        assert!(text.contains("ended before event boot.healthy"), "{text}");
        assert!(text.contains("Kernel panic"), "{text}");
        std::fs::remove_file(log).expect("our file");
    }

    #[test]
    fn an_absent_line_is_over_at_once() {
        let error = Serial::absent()
            .wait_for(0, soon(), "boot.healthy", &[])
            .expect_err("no such event");
        assert!(error.to_string().contains("was silent"), "{error}");
    }
}
