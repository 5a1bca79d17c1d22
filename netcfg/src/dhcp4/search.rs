//! A list of search domains in the compressed form of DNS (RFC 3397; RFC 1035, section 4.1.4).
//!
//! Compression is where parsers of this option have gone wrong: a pointer that leads forward, or
//! to itself, never ends. Here a pointer leads strictly before the part of the name that it
//! ends, so that each jump goes further back, and a name has at most 255 bytes.

use super::walk::is_name;

/// RFC 1035, section 3.1: a name with all its lengths and its final zero.
const MAX_WIRE: usize = 255;
/// More names than any resolver looks at; the rest is not read.
const MAX_NAMES: usize = 32;

/// The list written out without pointers, or `None` when any of it is not as it must be.
pub fn expand(value: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut at = 0;
    for _ in 0..MAX_NAMES {
        if at >= value.len() {
            break;
        }
        let (name, next) = name(value, at)?;
        all.extend(name);
        at = next;
    }
    (!all.is_empty()).then_some(all)
}

/// The name at `start` without pointers, and where the next one begins.
fn name(value: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut part) = (start, start);
    let mut next = None;
    let (mut wire, mut text) = (Vec::new(), Vec::new());
    loop {
        let length = *value.get(at)?;
        match length {
            0 => {
                next.get_or_insert(at + 1);
                break;
            }
            1..=63 => {
                let end = at + 1 + usize::from(length);
                let label = value.get(at + 1..end)?;
                // A label with a dot in it would read as two.
                if label.contains(&b'.') {
                    return None;
                }
                if !text.is_empty() {
                    text.push(b'.');
                }
                text.extend_from_slice(label);
                wire.push(length);
                wire.extend_from_slice(label);
                if wire.len() >= MAX_WIRE {
                    return None;
                }
                at = end;
            }
            // The two highest bits are set: 14 bits of offset into this very option.
            0xc0.. => {
                let low = *value.get(at + 1)?;
                let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                if target >= part {
                    return None;
                }
                next.get_or_insert(at + 2);
                (at, part) = (target, target);
            }
            // The other two kinds of label were never used.
            64..=191 => return None,
        }
    }
    if !is_name(&text) {
        return None;
    }
    wire.push(0);
    Some((wire, next?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> Vec<u8> {
        let mut wire = Vec::new();
        for name in names {
            for label in name.split('.') {
                wire.push(u8::try_from(label.len()).expect("short"));
                wire.extend(label.bytes());
            }
            wire.push(0);
        }
        wire
    }

    #[test]
    fn pointers_backwards_are_followed() {
        // The example of RFC 3397, section 2: eng.apple.com. and marketing.apple.com.
        let value = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        let expanded = labels(&["eng.apple.com", "marketing.apple.com"]);
        assert_eq!(expand(value), Some(expanded.clone()));
        assert_eq!(expand(&expanded), Some(expanded));
        // A name that is nothing but a pointer, and a pointer to a pointer.
        let value = b"\x01a\x01b\x00\xc0\x02\xc0\x05";
        assert_eq!(expand(value), Some(labels(&["a.b", "b", "b"])));
    }

    #[test]
    fn a_bad_list_is_no_list() {
        for (value, why) in [
            (&b""[..], "empty"),
            (b"\x00", "the root"),
            (b"\x03com", "no end"),
            (b"\x04com\x00", "a label past the end"),
            (b"\xc0\x00", "itself"),
            (b"\x01a\xc0\x00", "its own beginning"),
            (b"\x01a\xc0\x04\x01b\x00", "forward"),
            (b"\x01a\x00\xc0", "half a pointer"),
            (b"\x41a\x00", "an extended label"),
            (b"\x03a.b\x00", "a dot in a label"),
            (b"\x03a b\x00", "a space"),
            (b"\x02a\n\x00", "a line break"),
            (b"\x01a\x00\x02-b\x00", "a good name and a bad one"),
        ] {
            assert_eq!(expand(value), None, "{why}");
        }
        let long = labels(&[&["x".repeat(63).as_str(); 4].join(".")]);
        assert_eq!(expand(&long), None, "256 bytes");
    }

    #[test]
    fn a_small_option_cannot_grow_large() {
        let mut value = labels(&[&["x".repeat(61).as_str(); 4].join(".")]);
        for _ in 0..1000 {
            value.extend([0xc0, 0]);
        }
        let expanded = expand(&value).expect("good");
        assert!(expanded.len() <= MAX_NAMES * MAX_WIRE);
    }
}
