//! The file name of a boot entry, with the loader's count of tries in it.
//!
//! The rules are systemd-boot's (`src/boot/boot.c`, `boot_entry_parse_tries`; UAPI.1 Boot Loader
//! Specification, "Boot counting"): the last `+` of the name starts the counters, `LEFT` or `LEFT-DONE` in
//! digits, and `.efi` must follow at once. Anything else is part of the name, and such an entry is not
//! counted: it is good. `LEFT` = 0 is "bad": the loader sorts it last and does not start it by itself.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The loader takes no larger count (`INT_MAX`).
const COUNT_MAX: u32 = i32::MAX.unsigned_abs();

/// A longer name is none that FAT can hold (long names have 255 UTF-16 units).
const NAME_MAX: usize = 255;

/// A boot entry's file name without `.efi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// All before the counters.
    pub stem: String,
    /// The counters; an entry without them is good.
    pub tries: Option<Tries>,
}

/// How often an entry may still be started, and how often it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Starts left; 0 is "bad".
    pub left: u32,
    /// Starts so far.
    pub done: u32,
}

impl EntryName {
    /// Reads a file name; `None` if the loader takes such a file for no entry: it ends in something else
    /// than `.efi`, or starts with `.` or `auto-`.
    #[must_use]
    pub fn parse(file: &str) -> Option<Self> {
        let (base, suffix) = file.split_at_checked(file.len().checked_sub(4)?)?;
        let lower = file.to_ascii_lowercase();
        let foreign = lower.starts_with('.') || lower.starts_with("auto-");
        if foreign || file.len() > NAME_MAX || base.contains(['/', '\\', '\0']) {
            return None;
        }
        match suffix {
            ".efi" => Some(Self::count(base)),
            // The loader finds the entry in any case, but counters only before small letters.
            _ if suffix.eq_ignore_ascii_case(".efi") => Some(Self {
                stem: base.to_owned(),
                tries: None,
            }),
            _ => None,
        }
    }

    fn count(base: &str) -> Self {
        let counted = base.rsplit_once('+').and_then(|(stem, counters)| {
            let (left, done) = match counters.split_once('-') {
                Some((left, done)) => (number(left)?, number(done)?),
                None => (number(counters)?, 0),
            };
            Some(Self {
                stem: stem.to_owned(),
                tries: Some(Tries { left, done }),
            })
        });
        counted.unwrap_or_else(|| Self {
            stem: base.to_owned(),
            tries: None,
        })
    }

    /// The file name, always with both counters if there are any.
    #[must_use]
    pub fn file(&self) -> String {
        match self.tries {
            Some(Tries { left, done }) => format!("{}+{left}-{done}.efi", self.stem),
            None => format!("{}.efi", self.stem),
        }
    }

    /// What the loader's variables call it: the file name without counters, in lower case (`strtolower16`, which
    /// is of ASCII). Measured with systemd-boot 257.13 of Debian: a name with counters is not found.
    #[must_use]
    pub fn id(&self) -> String {
        self.good().file().to_ascii_lowercase()
    }

    /// Its name once it is blessed: without counters.
    #[must_use]
    pub fn good(&self) -> Self {
        Self {
            stem: self.stem.clone(),
            tries: None,
        }
    }

    /// Whether it is not counted (any more).
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.tries.is_none()
    }

    /// Whether the loader does not start it by itself: no tries are left.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }

    /// The same entry with these counters.
    #[must_use]
    pub fn with(&self, left: u32, done: u32) -> Self {
        Self {
            stem: self.stem.clone(),
            tries: Some(Tries { left, done }),
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file())
    }
}

impl Serialize for EntryName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.file())
    }
}

impl<'de> Deserialize<'de> for EntryName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let file = String::deserialize(deserializer)?;
        Self::parse(&file).ok_or_else(|| D::Error::custom(format!("{file:?} is no entry's name")))
    }
}

fn number(digits: &str) -> Option<u32> {
    // `parse` would take a sign.
    let number: u32 = digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())??;
    (number <= COUNT_MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(stem: &str, left: u32, done: u32) -> Option<EntryName> {
        let name = EntryName {
            stem: stem.into(),
            tries: None,
        };
        Some(name.with(left, done))
    }

    fn plain(stem: &str) -> Option<EntryName> {
        counted(stem, 0, 0).map(|name| name.good())
    }

    #[test]
    fn counters_are_read_as_the_loader_does() {
        for (file, expected) in [
            ("os_1+3-0.efi", counted("os_1", 3, 0)),
            ("os_1+3.efi", counted("os_1", 3, 0)),
            ("os_1+0-2.efi", counted("os_1", 0, 2)),
            ("os_1.efi", plain("os_1")),
            ("a+1+2-3.efi", counted("a+1", 2, 3)),
            ("a+b.efi", plain("a+b")),
            ("a+.efi", plain("a+")),
            ("a+1-.efi", plain("a+1-")),
            ("a+-1.efi", plain("a+-1")),
            ("a++1.efi", counted("a+", 1, 0)),
            ("a+1x.efi", plain("a+1x")),
            ("a+1-2-3.efi", plain("a+1-2-3")),
            ("a+2147483647.efi", counted("a", 2_147_483_647, 0)),
            ("a+2147483648.efi", plain("a+2147483648")),
            ("a+1.EFI", plain("a+1")),
            ("+1-0.efi", counted("", 1, 0)),
        ] {
            assert_eq!(EntryName::parse(file), expected, "{file}");
        }
    }

    #[test]
    fn what_is_no_entry() {
        for file in [
            "",
            "efi",
            "a.conf",
            ".a.efi",
            ".efi",
            "Auto-a.efi",
            "a/b.efi",
            "os_2.efi.new",
            "\u{20ac}fi",
        ] {
            assert_eq!(EntryName::parse(file), None, "{file}");
        }
        assert_eq!(EntryName::parse(&format!("{}.efi", "x".repeat(252))), None);
    }

    #[test]
    fn names_of_one_entry() {
        let name = EntryName::parse("Os_1+0-0.efi").unwrap();
        assert_eq!(name.id(), "os_1.efi");
        assert_eq!(name.good().file(), "Os_1.efi");
        assert_eq!(name.with(0, 3).to_string(), "Os_1+0-3.efi");
        assert!(name.is_bad() && !name.is_good() && name.good().is_good());
        assert!(!name.with(1, 0).is_bad() && !name.with(1, 0).is_good());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(stem in "[a-z][a-z0-9_.~^-]{0,20}", left in 0..=COUNT_MAX, done in 0..=COUNT_MAX) {
            prop_assume!(!stem.starts_with("auto-"));
            let name = counted(&stem, left, done).unwrap();
            prop_assert_eq!(EntryName::parse(&name.file()), Some(name.clone()));
            prop_assert_eq!(EntryName::parse(&name.good().file()), Some(name.good()));
        }

        #[test]
        fn any_name_is_survived(file in "\\PC{0,12}(\\+|-|[0-9]){0,6}(\\.efi)?") {
            if let Some(name) = EntryName::parse(&file) {
                prop_assert!(name.id().ends_with(".efi"));
            }
        }
    }
}
