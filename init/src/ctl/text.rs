//! Values as a person reads them, and safe for his terminal.

use std::fmt::Write;

/// Appends a text in which nothing moves a cursor, changes a colour, or turns the direction of writing:
/// control characters as `\xNN`, those that only change how others are shown as `\u{NNNN}`. Other
/// characters stay.
pub(super) fn push_clean(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            // Marks, embeddings, overrides and isolates of direction, and separators of lines and
            // paragraphs (Unicode, annex 9).
            '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// [`push_clean`] of one text.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_clean(&mut out, text);
    out
}

/// Appends a value of a field: bare if it is one word, otherwise quoted.
pub(super) fn push_value(out: &mut String, value: &str) {
    let bare = |c: char| c.is_alphanumeric() || "_./:@%+,=-".contains(c);
    if !value.is_empty() && value.chars().all(bare) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => push_clean(out, c.encode_utf8(&mut [0; 4])),
        }
    }
    out.push('"');
}

/// A duration in the two units that matter.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A point in time, as events have it.
pub(super) fn moment(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// A point in time by the wall clock, given in seconds since 1970: its date in the Gregorian calendar, in UTC.
pub(super) fn date(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Eras of 400 years, which have 146,097 days, from 0000-03-01 on: so a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months from March on have 153 days, and so have the next five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        era * 400 + year + later,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// A size.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = bytes % unit * 10 / unit;
            format!("{}.{tenths} {name}", bytes / unit)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (3_290, "3.2 s"),
            (125_000, "2 min 5 s"),
            (3_600_000, "1 h 0 min"),
            (200_000_000, "2 d 7 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
        for (bytes, text) in [
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_600_000, "1.5 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(moment(12_045), "12.045");
        // As `date --utc --date=@N` has them.
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(unix), text);
        }
    }

    #[test]
    fn a_terminal_is_not_played_with() {
        assert_eq!(
            clean("\x1b[2Jüß\u{9b}31m\t\u{202e}x漢\n"),
            "\\x1b[2Jüß\\x9b31m\\x09\\u{202e}x漢\\x0a"
        );
        let mut out = String::new();
        push_value(&mut out, "two \"w\\\n\x07ü");
        assert_eq!(out, r#""two \"w\\\n\x07ü""#);
    }

    proptest! {
        #[test]
        fn any_time_has_a_date(unix in any::<u64>()) {
            prop_assert!(date(unix).ends_with(" UTC"));
        }

        #[test]
        fn no_control_character_survives(text in any::<String>()) {
            prop_assert!(!clean(&text).contains(char::is_control));
        }
    }
}
