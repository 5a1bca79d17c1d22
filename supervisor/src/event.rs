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
//!
//! An event may be **routine** ([`Event::routine`]): it is kept and can be asked for like any other, but is not shown
//! on the console, where a person looks for what is not routine.

use crate::Time;
use std::borrow::Cow;
use std::fmt::{self, Write};

/// The longest event line in bytes, without its newline.
///
/// `/dev/kmsg` refuses a record longer than `LOG_LINE_MAX` (1024 less the prefix) with
/// `EINVAL` (kernel: `kernel/printk/printk.c`, `devkmsg_write`); 976 leaves room for the
/// priority that is put in front of it there.
pub const LINE_MAX: usize = 976;

/// Stands before the line of a routine event wherever events go as lines or messages to somebody who shows them: its
/// priority, as in sd-daemon(3) (`SD_INFO`).
pub const ROUTINE: &str = "<6>";

/// Stands for the fields that found no room.
const MORE: &str = " more=...";

/// The end of a value that was cut.
const CUT: &str = "...\"";

/// One thing that happened: a name and its key-value pairs, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    name: Cow<'static, str>,
    fields: Vec<(Cow<'static, str>, String)>,
    routine: bool,
}

impl Event {
    /// An event without fields. `name` is dotted, as in `service.exit`.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            fields: Vec::new(),
            routine: false,
        }
    }

    /// The same, not to be shown on the console.
    #[must_use]
    pub fn routine(mut self) -> Self {
        self.routine = true;
        self
    }

    /// Whether it is not to be shown on the console.
    #[must_use]
    pub fn is_routine(&self) -> bool {
        self.routine
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
    /// A value that does not fit is cut, which is marked by `...` at its end, and the fields after it are left
    /// out; if not even the begin of a value fits, a field `more=...` says that there are more.
    #[must_use]
    pub fn line(&self, at: Time) -> String {
        self.line_within(at, LINE_MAX)
    }

    /// The line with a last field `lost=N`, which is there however long the rest is: whoever counts what was
    /// lost adds these up.
    #[must_use]
    pub fn line_with_lost(&self, at: Time, lost: u64) -> String {
        let field = format!(" lost={lost}");
        let mut line = self.line_within(at, LINE_MAX.saturating_sub(field.len()));
        line.push_str(&field);
        line
    }

    fn line_within(&self, at: Time, most: usize) -> String {
        let mut line = String::with_capacity(160);
        let _ = write!(
            line,
            "init: {}.{:03} {}",
            at.as_secs(),
            at.subsec_millis(),
            self.name
        );
        // A name is a few dozen bytes, but for one that somebody made up.
        line.truncate(most);
        let mut fields = self.fields.iter().peekable();
        while let Some((key, value)) = fields.next() {
            let end = line.len();
            let _ = write!(line, " {key}=");
            let value_at = line.len();
            push_value(&mut line, value.as_bytes());
            let reserve = fields.peek().map_or(0, |_| MORE.len());
            if line.len() + reserve <= most {
                continue;
            }
            line.truncate(value_at);
            if !push_cut(&mut line, value.as_bytes(), most) {
                line.truncate(end);
                if end + MORE.len() <= most {
                    line.push_str(MORE);
                }
            }
            break;
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
        push_quoted(line, *byte);
    }
    line.push('"');
}

/// Appends as much of a value as fits, quoted and marked as cut. `false`: nothing of it fits.
fn push_cut(line: &mut String, value: &[u8], most: usize) -> bool {
    let start = line.len();
    line.push('"');
    for byte in value {
        let end = line.len();
        push_quoted(line, *byte);
        if line.len() + CUT.len() > most {
            // A whole escape or nothing of it: half of one would take the closing quote along.
            line.truncate(end);
            break;
        }
    }
    line.push_str(CUT);
    line.len() <= most && line.len() > start + 1 + CUT.len()
}

fn push_quoted(line: &mut String, byte: u8) {
    match byte {
        b'"' => line.push_str("\\\""),
        b'\\' => line.push_str("\\\\"),
        b'\n' => line.push_str("\\n"),
        0x20..=0x7e => line.push(char::from(byte)),
        other => {
            let _ = write!(line, "\\x{other:02x}");
        }
    }
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

    /// Splits a line as docs/interfaces.md has it, independently of how it is made. Panics if it is none.
    fn parse(line: &str) -> Vec<(String, String)> {
        let mut rest = line.splitn(4, ' ').nth(3).unwrap_or_default();
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=').expect("key=value");
            let Some(quoted) = after.strip_prefix('"') else {
                let (value, next) = after.split_once(' ').unwrap_or((after, ""));
                assert!(!value.is_empty() && !value.contains(['"', '\\']), "{line}");
                fields.push((key.to_owned(), value.to_owned()));
                rest = next;
                continue;
            };
            let mut end = None;
            let mut bytes = quoted.bytes().enumerate();
            while let Some((place, byte)) = bytes.next() {
                match byte {
                    b'"' => {
                        end = Some(place);
                        break;
                    }
                    b'\\' => match bytes.next().expect("an escape").1 {
                        b'x' => {
                            for _ in 0..2 {
                                assert!(bytes.next().expect("two digits").1.is_ascii_hexdigit());
                            }
                        }
                        other => assert!(b"\"\\n".contains(&other), "{line}"),
                    },
                    _ => {}
                }
            }
            let (value, after) = quoted.split_at(end.expect("a closing quote"));
            fields.push((key.to_owned(), value.to_owned()));
            rest = &after[1..];
            rest = rest.strip_prefix(' ').unwrap_or(rest);
        }
        fields
    }

    #[test]
    fn a_line_that_is_cut_is_still_one_and_keeps_the_count_of_the_lost() {
        for value in ["x", "y z", "\"", "\\", "\n", "\u{7}", "ü"] {
            for length in 0..1200 {
                let event = Event::new("a.b")
                    .with("k", value.repeat(length))
                    .with("then", "next");
                let line = event.line_with_lost(Time::from_secs(1), 17);
                assert!(line.len() <= LINE_MAX, "{line}");
                let fields = parse(&line);
                assert_eq!(fields.last(), Some(&("lost".to_owned(), "17".to_owned())));
                let cut = fields.iter().any(|(_, v)| v.ends_with("..."));
                let whole =
                    fields.len() == 3 && fields[1] == ("then".to_owned(), "next".to_owned());
                assert_eq!(cut, !whole, "{line}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_fields_give_a_line_that_can_be_read(values in proptest::collection::vec(".{0,300}", 0..12)) {
            let event = values.iter().fold(Event::new("a.b"), |e, v| e.with("k", v));
            let line = event.line(Time::from_secs(1));
            prop_assert!(line.len() <= LINE_MAX);
            let fields = parse(&line);
            let marked = fields.iter().any(|(_, v)| v.ends_with("..."));
            prop_assert!(marked || fields.len() == values.len());
        }

        #[test]
        fn any_value_gives_one_short_printable_line(value in ".*", repeat in 1usize..60) {
            let line = Event::new("a.b").with("k", value.repeat(repeat)).line(Time::from_secs(1));
            prop_assert!(line.len() <= LINE_MAX);
            prop_assert!(line.bytes().all(|b| (0x20..0x7f).contains(&b)));
        }
    }
}
