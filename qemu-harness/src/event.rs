//! Event lines of the console.
//!
//! init tells everything that happens in one line of one shape:
//!
//! ```text
//! init: <seconds>.<millis> <event.name> key=value key="value with space" ...
//! ```
//!
//! This module takes such a line apart again. It is strict: a line that begins like an event and
//! is not one is an error that says where, because tests lean on these lines and a sloppy writer
//! must be seen. A kernel time stamp in front (an event that came through /dev/kmsg) is accepted.

use std::fmt;

/// One event as it was printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Seconds since the kernel started.
    pub at: f64,
    /// For example `service.healthy`.
    pub name: String,
    /// Keys and values in the order of the line.
    pub fields: Vec<(String, String)>,
}

/// Why a line is not an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAnEvent {
    /// It does not begin with `init: `: some other line.
    OtherLine,
    /// It begins like an event; the text says what is wrong with it.
    Malformed(String),
}

impl fmt::Display for NotAnEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherLine => f.write_str("the line does not begin with `init: `"),
            Self::Malformed(why) => write!(f, "malformed event line: {why}"),
        }
    }
}

impl std::error::Error for NotAnEvent {}

impl Event {
    /// Reads one line, already free of escape sequences (see [`crate::classify::clean`]).
    ///
    /// # Errors
    /// [`NotAnEvent`] tells other lines from broken ones.
    pub fn parse(line: &str) -> Result<Self, NotAnEvent> {
        let line = kernel_stamp(line).map_or(line, |(_, rest)| rest);
        let rest = line.strip_prefix("init: ").ok_or(NotAnEvent::OtherLine)?;
        let (stamp, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let at = seconds(stamp)
            .ok_or_else(|| malformed(format!("`{stamp}` is not <seconds>.<millis>")))?;
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if !is_name(name) {
            return Err(malformed(format!("`{name}` is not an event name")));
        }
        Ok(Self {
            at,
            name: name.to_owned(),
            fields: fields(rest)?,
        })
    }

    /// The value of the first field of that name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find_map(|(name, value)| (name == key).then_some(value.as_str()))
    }

    /// Whether this is event `name` and all of `fields` are in it with these values.
    #[must_use]
    pub fn is(&self, name: &str, fields: &[(&str, &str)]) -> bool {
        self.name == name
            && fields
                .iter()
                .all(|(key, value)| self.get(key) == Some(*value))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "init: {:.3} {}", self.at, self.name)?;
        for (key, value) in &self.fields {
            write!(f, " {key}=")?;
            write_value(f, value)?;
        }
        Ok(())
    }
}

/// Splits `[    1.234567] text` into the seconds and the text.
#[must_use]
pub fn kernel_stamp(line: &str) -> Option<(f64, &str)> {
    let (stamp, rest) = line.strip_prefix('[')?.split_once(']')?;
    let stamp = stamp.trim_start_matches(' ');
    let (whole, micros) = stamp.split_once('.')?;
    if !digits(whole) || micros.len() != 6 || !digits(micros) {
        return None;
    }
    // With CONFIG_PRINTK_CALLER a second bracket follows: `[    T1]` or `[    C0]`.
    let rest = match rest.strip_prefix('[') {
        Some(caller) => caller.split_once(']')?.1,
        None => rest,
    };
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    Some((stamp.parse().ok()?, rest))
}

fn malformed(why: impl Into<String>) -> NotAnEvent {
    NotAnEvent::Malformed(why.into())
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn seconds(stamp: &str) -> Option<f64> {
    let (whole, millis) = stamp.split_once('.')?;
    if !digits(whole) || millis.len() != 3 || !digits(millis) {
        return None;
    }
    stamp.parse().ok()
}

/// `[a-z0-9-]+(\.[a-z0-9-]+)+`
fn is_name(name: &str) -> bool {
    name.contains('.')
        && name.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// `[a-z0-9_]+`
fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn fields(mut rest: &str) -> Result<Vec<(String, String)>, NotAnEvent> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| malformed(format!("`{rest}` is not key=value")))?;
        if !is_key(key) {
            return Err(malformed(format!("`{key}` is not a key")));
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)
                .ok_or_else(|| malformed(format!("the value of `{key}` does not end")))?,
            None => bare(key, after)?,
        };
        fields.push((key.to_owned(), value));
        rest = match after.strip_prefix(' ') {
            Some(next) => next,
            None if after.is_empty() => "",
            None => {
                return Err(malformed(format!("no space after the value of `{key}`")));
            }
        };
    }
    Ok(fields)
}

fn bare<'a>(key: &str, text: &'a str) -> Result<(String, &'a str), NotAnEvent> {
    let end = text.find(' ').unwrap_or(text.len());
    let (value, after) = text.split_at(end);
    if value.is_empty() || value.contains(['"', '\\']) {
        return Err(malformed(format!("the value of `{key}` needs quotes")));
    }
    Ok((value.to_owned(), after))
}

/// Reads up to the closing quote. `\xNN` stands for one byte, so the bytes are collected first
/// and only then read as UTF-8; what is not UTF-8 becomes U+FFFD.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut bytes = Vec::new();
    let mut rest = text;
    loop {
        let stop = rest.find(['"', '\\'])?;
        bytes.extend_from_slice(rest.get(..stop)?.as_bytes());
        let mark = rest.as_bytes().get(stop)?;
        rest = rest.get(stop + 1..)?;
        if *mark == b'"' {
            return Some((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let escape = rest.as_bytes().first()?;
        rest = rest.get(1..)?;
        match escape {
            b'"' | b'\\' => bytes.push(*escape),
            b'n' => bytes.push(b'\n'),
            b'x' => {
                let hex = rest.get(..2)?;
                if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(hex, 16).ok()?);
                rest = rest.get(2..)?;
            }
            _ => return None,
        }
    }
}

fn write_value(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b"_./:@%+,=-".contains(&b);
    if !value.is_empty() && value.bytes().all(bare) {
        return f.write_str(value);
    }
    f.write_str("\"")?;
    for c in value.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_interface() {
        let event =
            Event::parse("init: 3.412 service.healthy service=astromeshd pid=97 after_ms=1840")
                .expect("an event");
        assert!((event.at - 3.412).abs() < 1e-9);
        assert!(event.is(
            "service.healthy",
            &[("service", "astromeshd"), ("after_ms", "1840")]
        ));
        assert_eq!(event.get("pid"), Some("97"));
        assert_eq!(event.get("uid"), None);
    }

    #[test]
    fn a_kernel_stamp_in_front_is_accepted() {
        let event = Event::parse("[    0.912345] init: 0.912 boot.start stage=initramfs")
            .expect("an event");
        assert!(event.is("boot.start", &[("stage", "initramfs")]));
    }

    #[test]
    fn quotes_and_escapes() {
        let event = Event::parse(
            r#"init: 1.000 boot.failed what="no \"root\"" seen="a\\b\nc\x07" empty="""#,
        )
        .expect("an event");
        assert_eq!(event.get("what"), Some("no \"root\""));
        assert_eq!(event.get("seen"), Some("a\\b\nc\u{7}"));
        assert_eq!(event.get("empty"), Some(""));
    }

    #[test]
    fn other_lines_are_told_from_broken_ones() {
        for line in ["", "init", "init:", "astromeshd: init: 1.000 a.b", "init:1"] {
            assert_eq!(Event::parse(line), Err(NotAnEvent::OtherLine), "{line}");
        }
        for line in [
            "init: ",
            "init: 1.2 boot.start",
            "init: 1.234 boot",
            "init: 1.234 Boot.start",
            "init: 1.234 boot.start stage",
            "init: 1.234 boot.start stage=",
            "init: 1.234 boot.start stage=\"x",
            "init: 1.234 boot.start stage=\"x\"y=1",
            "init: 1.234 boot.start Stage=x",
            "init: 1.234 boot.start stage=\"\\x4\"",
            "init: 1.234 boot.start  stage=x",
        ] {
            let parsed = Event::parse(line);
            assert!(
                matches!(parsed, Err(NotAnEvent::Malformed(_))),
                "{line}: {parsed:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            millis in 0_u32..100_000_000,
            name in "[a-z0-9-]{1,8}(\\.[a-z0-9-]{1,8}){1,3}",
            fields in prop::collection::vec(("[a-z0-9_]{1,12}", any::<String>()), 0..6),
        ) {
            let event = Event { at: f64::from(millis) / 1000.0, name, fields };
            let line = event.to_string();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(Event::parse(&line), Ok(event));
        }

        #[test]
        fn no_line_panics(line in any::<String>(), tail in any::<String>()) {
            let _ = Event::parse(&line);
            let _ = Event::parse(&format!("init: 1.000 a.b k=\"{tail}"));
            let _ = kernel_stamp(&line);
        }
    }
}
