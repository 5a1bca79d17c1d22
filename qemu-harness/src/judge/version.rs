//! Which of two versions is newer, as systemd-boot compares (UAPI.10, Version Format
//! Specification; `strverscmp_improved` in systemd).

use std::cmp::Ordering;

/// Compares two versions; greater is newer.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = valid(a);
        b = valid(b);
        // What follows a `~` is before the version without it.
        match mark(&mut a, &mut b, b'~') {
            Ordering::Equal => {}
            order => return order,
        }
        // The longer is newer.
        if a.is_empty() || b.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        for separator in *b"-^." {
            match mark(&mut a, &mut b, separator) {
                Ordering::Equal => {}
                order => return order,
            }
        }
        let digits = |bytes: &[u8]| bytes.first().is_some_and(u8::is_ascii_digit);
        let order = if digits(a) || digits(b) {
            let (first, second) = (
                take(&mut a, u8::is_ascii_digit),
                take(&mut b, u8::is_ascii_digit),
            );
            numbers(first, second)
        } else {
            let (first, second) = (
                take(&mut a, u8::is_ascii_alphabetic),
                take(&mut b, u8::is_ascii_alphabetic),
            );
            first.cmp(second)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Skips what has no meaning in a version.
fn valid(bytes: &[u8]) -> &[u8] {
    let meant = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    let start = bytes.iter().position(meant).unwrap_or(bytes.len());
    &bytes[start..]
}

/// The one that has the mark here is older; when both have it, it is passed.
fn mark(a: &mut &[u8], b: &mut &[u8], mark: u8) -> Ordering {
    let order = (a.first() != Some(&mark)).cmp(&(b.first() != Some(&mark)));
    if order == Ordering::Equal && a.first() == Some(&mark) {
        *a = &a[1..];
        *b = &b[1..];
    }
    order
}

/// The run of bytes of one class at the beginning; it is passed.
fn take<'a>(bytes: &mut &'a [u8], class: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = bytes.iter().position(|byte| !class(byte));
    let (run, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    *bytes = rest;
    run
}

/// Any number is newer than none; zeros in front do not count.
fn numbers(a: &[u8], b: &[u8]) -> Ordering {
    let plain = |run: &[u8]| {
        run.iter()
            .position(|digit| *digit != b'0')
            .map_or(Vec::new(), |at| run[at..].to_vec())
    };
    let (first, second) = (plain(a), plain(b));
    (!a.is_empty())
        .cmp(&!b.is_empty())
        .then_with(|| first.len().cmp(&second.len()))
        .then_with(|| first.cmp(&second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The examples of the specification, from old to new, and those of `test-string-util`.
    #[test]
    fn the_examples_are_in_order() {
        let rows = [
            ("11", "11", Ordering::Equal),
            ("systemd-123", "systemd-123", Ordering::Equal),
            ("bar-123", "foo-123", Ordering::Less),
            ("123a", "123", Ordering::Greater),
            ("123.a", "123", Ordering::Greater),
            ("123.a", "123.b", Ordering::Less),
            ("123a", "123.a", Ordering::Greater),
            ("11\u{3b1}", "11\u{3b2}", Ordering::Equal),
            ("", "", Ordering::Equal),
            ("0_", "0", Ordering::Equal),
            ("_0_", "0", Ordering::Equal),
            ("a", "", Ordering::Greater),
            ("1", "1~rc1", Ordering::Greater),
            ("124", "123.5", Ordering::Greater),
            ("123-9", "123.1-1", Ordering::Less),
            ("1^fix", "1", Ordering::Greater),
            ("1.0", "1^fix", Ordering::Greater),
            ("00123", "123", Ordering::Equal),
            ("10", "9", Ordering::Greater),
            ("1.10", "1.9", Ordering::Greater),
            ("astromesh-os_2.efi", "astromesh-os_10.efi", Ordering::Less),
        ];
        for (a, b, expected) in rows {
            assert_eq!(compare(a, b), expected, "{a} and {b}");
            assert_eq!(compare(b, a), expected.reverse(), "{b} and {a}");
        }
    }

    proptest! {
        #[test]
        fn it_is_an_order(all in prop::collection::vec("[0-2ab~^._+-]{0,6}", 3)) {
            let [a, b, c] = [&all[0], &all[1], &all[2]];
            prop_assert_eq!(compare(a, b), compare(b, a).reverse());
            prop_assert_eq!(compare(a, a), Ordering::Equal);
            if compare(a, b) != Ordering::Greater && compare(b, c) != Ordering::Greater {
                prop_assert_ne!(compare(a, c), Ordering::Greater);
            }
        }

        #[test]
        fn a_greater_number_is_newer(a in 0_u32.., b in 0_u32..) {
            prop_assert_eq!(compare(&format!("1.{a}-x"), &format!("1.{b}-x")), a.cmp(&b));
        }
    }
}
