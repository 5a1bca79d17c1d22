//! The order of versions (UAPI.10 Version Format Specification), which is the loader's order too.
//!
//! A version is read as a list of parts, and lists compare part by part. Of two different parts at one
//! place the order is
//!
//! ```text
//! "~"  <  the end  <  "-"  <  "^"  <  "."  <  letters  <  digits
//! ```
//!
//! Digits compare as numbers of any length, letters as ASCII text. Characters that are none of these
//! separate parts and count for nothing: `1_2` is the parts 1 and 2. Since it is a comparison of lists, the
//! order is total.

use std::cmp::Ordering;

/// In the order of the specification.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    /// A pre-release: older than without it.
    Tilde,
    /// A version that ends is older than one that goes on.
    End,
    Dash,
    Caret,
    Dot,
    Letters(&'a str),
    /// Without leading zeros: the longer is the larger, then the digits decide.
    Digits(usize, &'a str),
}

/// Compares two versions.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    parts(a).cmp(parts(b))
}

/// The parts and the end, which compares like a part.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (part, after) = next(rest?);
        rest = after;
        Some(part)
    })
}

/// The next part, and what follows; nothing follows the end.
fn next(text: &str) -> (Part<'_>, Option<&str>) {
    let valid = |c: char| c.is_ascii_alphanumeric() || "~-^.".contains(c);
    let text = text.trim_start_matches(|c| !valid(c));
    let run = |of: fn(&char) -> bool| {
        let end = text.find(|c| !of(&c)).unwrap_or(text.len());
        text.split_at_checked(end).unwrap_or((text, ""))
    };
    let mut characters = text.chars();
    let Some(first) = characters.next() else {
        return (Part::End, None);
    };
    let one = |part| (part, Some(characters.as_str()));
    match first {
        '~' => one(Part::Tilde),
        '-' => one(Part::Dash),
        '^' => one(Part::Caret),
        '.' => one(Part::Dot),
        '0'..='9' => {
            let (digits, rest) = run(char::is_ascii_digit);
            let digits = digits.trim_start_matches('0');
            (Part::Digits(digits.len(), digits), Some(rest))
        }
        _ => {
            let (letters, rest) = run(char::is_ascii_alphabetic);
            (Part::Letters(letters), Some(rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rising(versions: &[&str]) {
        for (at, a) in versions.iter().enumerate() {
            for (other, b) in versions.iter().enumerate() {
                assert_eq!(compare(a, b), at.cmp(&other), "{a} and {b}");
            }
        }
    }

    /// The order and the examples that the specification gives.
    #[test]
    fn the_specifications_examples() {
        rising(&[
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123^post1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124-1",
        ]);
        for (a, expected, b) in [
            ("11", "==", "11"),
            ("systemd-123", "==", "systemd-123"),
            ("bar-123", "<", "foo-123"),
            ("123a", ">", "123"),
            ("123.a", ">", "123"),
            ("123.a", "<", "123.b"),
            ("123a", ">", "123.a"),
            ("11\u{3b1}", "==", "11\u{3b2}"),
            ("A", "<", "a"),
            ("", "<", "0"),
            ("0.", ">", "0"),
            ("0.0", ">", "0"),
            ("0", ">", "~"),
            ("", ">", "~"),
            ("1_", "==", "1"),
            ("_1", "==", "1"),
            ("1_", "<", "1.2"),
            ("1_2_3", ">", "1.3.3"),
            ("1+", "==", "1"),
            ("+1", "==", "1"),
            ("1+", "<", "1.2"),
            ("1+2+3", ">", "1.3.3"),
        ] {
            let expected = match expected {
                "<" => Ordering::Less,
                ">" => Ordering::Greater,
                _ => Ordering::Equal,
            };
            assert_eq!(compare(a, b), expected, "{a} and {b}");
        }
    }

    #[test]
    fn numbers_of_any_length() {
        let long = "9".repeat(100);
        rising(&[
            "9",
            "10",
            "18446744073709551616",
            &long,
            &format!("1{long}"),
        ]);
        assert_eq!(compare("007", "7"), Ordering::Equal);
        assert_eq!(compare("0", "000"), Ordering::Equal);
    }

    #[test]
    fn other_characters_separate() {
        assert_eq!(compare("1_2", "1 2"), Ordering::Equal);
        assert_eq!(compare("\u{e4}1\u{20ac}", "1"), Ordering::Equal);
        rising(&["1_2", "12"]);
    }

    /// Versions in which equal and nearly equal ones are common.
    fn version() -> impl Strategy<Value = String> {
        "[019a~^.b_-]{0,5}"
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in version(), b in version(), c in version()) {
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }

        #[test]
        fn any_text_is_survived(a in ".*", b in ".*") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        }
    }
}
