//! What systemd-boot 257 would start: a pure function of the UKIs on the ESP, `loader.conf` and the
//! variable `LoaderEntryOneShot` (`src/boot/boot.c` of systemd, systemd-boot(7), the Boot Loader
//! Specification).
//!
//! - A UKI is listed when it has an `.osrel` section that names a system; others are passed over.
//! - An entry without tries left is bad: it comes after all others. Among the others, and among the bad, the
//!   version decides, then the id, then the tries.
//! - `LoaderEntryOneShot` and `default` name entries by id, the file name in small letters without its counter, and may be
//!   patterns. They take the first entry in this order that they match, bad or not; when they match none, the
//!   next rule is asked.
//!
//! An entry that is chosen and cannot be loaded ends in the firmware; the next one is not tried.

use super::version::compare;
use std::cmp::Ordering;

/// Counters above this are not counters to it (`INT_MAX`).
const MOST_TRIES: u64 = 0x7fff_ffff;

/// The boot counter in a file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Tries left.
    pub left: u64,
    /// Tries done.
    pub done: u64,
}

/// An entry of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's name.
    pub file: String,
    /// What variables and `default` know it by.
    pub id: String,
    /// IMAGE_ID, else ID.
    pub sort_key: Option<String>,
    /// IMAGE_VERSION, else VERSION, VERSION_ID, BUILD_ID.
    pub version: Option<String>,
    /// The counter, if it has one.
    pub tries: Option<Tries>,
}

/// The rule by which an entry was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `LoaderEntryOneShot` names it.
    OneShot,
    /// `default` of `loader.conf` matches it.
    Default,
    /// It is the first.
    First,
}

impl Entry {
    /// The entry for a UKI, when it is listed.
    #[must_use]
    pub fn new(file: &str, os_release: &[u8]) -> Option<Self> {
        if !listed(file) {
            return None;
        }
        let text = String::from_utf8_lossy(os_release);
        let get = |key: &str| {
            let values = pairs(&text, "=").filter(|(found, _)| *found == key);
            values.last().map(|(_, value)| value.to_owned())
        };
        let first = |keys: &[&str]| keys.iter().find_map(|key| get(key));
        // Without a title it is not listed (`bootspec_pick_name_version_sort_key`).
        first(&["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"])?;
        Some(Self {
            file: file.to_owned(),
            id: id(file),
            sort_key: first(&["IMAGE_ID", "ID"]),
            version: first(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]),
            tries: tries(file),
        })
    }

    /// No tries left.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }
}

/// True for the names that are looked at.
#[must_use]
pub fn listed(file: &str) -> bool {
    file.to_ascii_lowercase().ends_with(".efi")
        && !file.starts_with('.')
        && !file.starts_with("auto-")
}

/// The file name in small letters, without its counter: 257.13 of Debian finds no entry by a name with
/// one (measured).
#[must_use]
pub fn id(file: &str) -> String {
    let stem = file.strip_suffix(".efi").unwrap_or(file);
    let plain = match (tries(file), stem.rsplit_once('+')) {
        (Some(_), Some((plain, _))) => format!("{plain}.efi"),
        _ => file.to_owned(),
    };
    plain.to_lowercase()
}

/// The counter is what follows the last `+`, up to the suffix: `LEFT` or `LEFT-DONE`.
#[must_use]
pub fn tries(file: &str) -> Option<Tries> {
    // The suffix is compared with its case here.
    let (_, counter) = file.strip_suffix(".efi")?.rsplit_once('+')?;
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value: u64 = text.parse().ok().filter(|_| digits)?;
        (value <= MOST_TRIES).then_some(value)
    };
    Some(Tries {
        left: number(left)?,
        done: number(done)?,
    })
}

/// The order of the menu (`boot_entry_compare`).
#[must_use]
pub fn order(a: &Entry, b: &Entry) -> Ordering {
    let keyed = || match (&a.sort_key, &b.sort_key) {
        (Some(first), Some(second)) => {
            let version = |entry: &Entry| entry.version.clone().unwrap_or_default();
            // By UTF-16 units, as the firmware's strings are.
            first
                .encode_utf16()
                .cmp(second.encode_utf16())
                .then_with(|| compare(&version(b), &version(a)))
        }
        (None, None) => Ordering::Equal,
        (first, second) => first.is_none().cmp(&second.is_none()),
    };
    let counted = || match (a.tries, b.tries) {
        (Some(first), Some(second)) => second
            .left
            .cmp(&first.left)
            .then_with(|| first.done.cmp(&second.done)),
        _ => Ordering::Equal,
    };
    a.is_bad()
        .cmp(&b.is_bad())
        .then_with(keyed)
        .then_with(|| compare(&b.id, &a.id))
        .then_with(counted)
}

/// What it would start of these entries, which are in the order of the menu.
#[must_use]
pub fn choose<'a>(
    entries: &'a [Entry],
    one_shot: Option<&str>,
    default: Option<&str>,
) -> Option<(&'a Entry, Rule)> {
    let named = |pattern: Option<&str>, rule| {
        let pattern = pattern?.to_lowercase();
        let found = entries.iter().find(|entry| matches(&pattern, &entry.id));
        found.map(|entry| (entry, rule))
    };
    named(one_shot, Rule::OneShot)
        .or_else(|| named(default, Rule::Default))
        .or_else(|| entries.first().map(|entry| (entry, Rule::First)))
}

/// `default` of a `loader.conf`; the last counts. `@saved`, which depends on a variable, is not for an appliance.
#[must_use]
pub fn default(config: &str) -> Option<String> {
    pairs(config, " \t")
        .filter(|(key, value)| *key == "default" && !value.starts_with('@'))
        .last()
        .map(|(_, value)| value.to_owned())
}

/// Lines of key and value (`line_get_key_value`): no comments, one pair of quotes taken off.
fn pairs<'a>(text: &'a str, separators: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    // To the loader the text is a string of C.
    let text = text.split('\0').next().unwrap_or_default();
    text.split(['\n', '\r']).filter_map(move |line| {
        let line = line.trim_matches([' ', '\t']);
        if line.starts_with('#') {
            return None;
        }
        let separates = |c: char| separators.contains(c);
        let (key, value) = line.split_once(separates)?;
        let value = value.trim_start_matches(separates);
        let quoted = ['"', '\''].iter().find_map(|quote| {
            let inner = value.strip_prefix(*quote)?;
            inner.strip_suffix(*quote)
        });
        Some((key, quoted.unwrap_or(value)))
    })
}

/// `efi_fnmatch`: `*`, `?`, sets in brackets, and a backslash before what is meant literally.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last star takes one more.
    let mut star = None;
    while t < text.len() {
        let taken = match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => set(&pattern, p + 1, text[t]),
            Some('\\') => (pattern.get(p + 1) == Some(&text[t])).then_some(p + 2),
            Some(c) => (*c == text[t]).then_some(p + 1),
            None => None,
        };
        match (taken, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// What follows a set when it has `c` in it.
fn set(pattern: &[char], from: usize, c: char) -> Option<usize> {
    let mut at = from;
    let mut found = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > from {
            return found.then_some(at + 1);
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                found |= (low..=*high).contains(&c);
                at += 3;
            }
            _ => {
                found |= low == c;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
