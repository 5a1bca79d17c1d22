//! What happened, as one typed value with one text form.
//!
//! Everything that happens on the machine is an [`Event`]: a dotted name and a few
//! key-value pairs. Its line is what a person reads on the serial console and what a test
//! harness waits for:
//!
//! ```text
//! init: 3.412 service.healthy service=astromeshd pid=97 after_ms=1840
//! ```
//!
//! A value is bare when it consists of letters, digits and `_./:@%+,=-`; any other value is
//! quoted, with `\"`, `\\`, `\n` and `\xNN` for what a terminal or a parser could trip over.
//! So a line is printable ASCII whatever a service, a server or a disk put into a value, and
//! it never holds a line break.

use crate::Time;
use std::borrow::Cow;
use std::fmt::{self, Write};

/// The longest event line in bytes, without its newline.
///
/// `/dev/kmsg` refuses a record longer than `LOG_LINE_MAX` (1024 less the prefix) with
/// `EINVAL` (kernel: `kernel/printk/printk.c`, `devkmsg_write`); 976 leaves room for the
/// priority that is put in front of it there.
pub const LINE_MAX: usize = 976;

/// One thing that happened: a name and its key-value pairs, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    name: Cow<'static, str>,
    fields: Vec<(Cow<'static, str>, String)>,
}

impl Event {
    /// An event without fields. `name` is dotted, as in `service.exit`.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            fields: Vec::new(),
        }
    }

    /// Adds one field. The value may be any text; see the module about quoting.
    #[must_use]
    pub fn with(mut self, key: impl Into<Cow<'static, str>>, value: impl fmt::Display) -> Self {
        self.fields.push((key.into(), value.to_string()));
        self
    }

    /// Adds a field in whole milliseconds.
    #[must_use]
    pub fn with_ms(self, key: &'static str, value: Time) -> Self {
        self.with(key, value.as_millis())
    }

    /// The dotted name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of a field, if the event has it.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Its fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(k, v)| (k.as_ref(), v.as_str()))
    }

    /// The console line, without a newline, at most [`LINE_MAX`] bytes of printable ASCII.
    ///
    /// What does not fit is cut at the end of a value and marked by `...`.
    #[must_use]
    pub fn line(&self, at: Time) -> String {
        let mut line = String::with_capacity(160);
        let _ = write!(
            line,
            "init: {}.{:03} {}",
            at.as_secs(),
            at.subsec_millis(),
            self.name
        );
        for (key, value) in &self.fields {
            let _ = write!(line, " {key}=");
            push_value(&mut line, value.as_bytes());
            if line.len() > LINE_MAX {
                line.truncate(LINE_MAX - 4);
                line.push_str("...\"");
                break;
            }
        }
        line
    }
}

/// Appends `value` bare or quoted. Bytes that are not printable ASCII become `\xNN`.
pub fn push_value(line: &mut String, value: &[u8]) {
    let bare = |b: &u8| b.is_ascii_alphanumeric() || b"_./:@%+,=-".contains(b);
    if !value.is_empty() && value.iter().all(bare) {
        line.extend(value.iter().map(|b| char::from(*b)));
        return;
    }
    line.push('"');
    for byte in value {
        match byte {
            b'"' => line.push_str("\\\""),
            b'\\' => line.push_str("\\\\"),
            b'\n' => line.push_str("\\n"),
            0x20..=0x7e => line.push(char::from(*byte)),
            other => {
                let _ = write!(line, "\\x{other:02x}");
            }
        }
    }
    line.push('"');
}

/// Whoever takes events: the console, a test's vector, the boot report.
pub trait EventSink {
    /// Takes one event. Must not block.
    fn emit(&mut self, event: Event);
}

impl EventSink for Vec<Event> {
    fn emit(&mut self, event: Event) {
        self.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_line_of_the_design() {
        let event = Event::new("service.healthy")
            .with("service", "astromeshd")
            .with("pid", 97)
            .with_ms("after_ms", Time::from_millis(1840));
        assert_eq!(
            event.line(Time::from_millis(3412)),
            "init: 3.412 service.healthy service=astromeshd pid=97 after_ms=1840"
        );
    }

    #[test]
    fn values_that_need_it_are_quoted() {
        let event = Event::new("a.b")
            .with("x", "two words")
            .with("y", "")
            .with("z", "q\"\\\n\u{7}ü");
        assert_eq!(
            event.line(Time::ZERO),
            r#"init: 0.000 a.b x="two words" y="" z="q\"\\\n\x07\xc3\xbc""#
        );
    }

    proptest! {
        #[test]
        fn any_value_gives_one_short_printable_line(value in ".*", repeat in 1usize..60) {
            let line = Event::new("a.b").with("k", value.repeat(repeat)).line(Time::from_secs(1));
            prop_assert!(line.len() <= LINE_MAX);
            prop_assert!(line.bytes().all(|b| (0x20..0x7f).contains(&b)));
        }
    }
}
