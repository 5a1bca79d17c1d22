//! Where in a file something is said, so that an error can name line and column.

use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Line and column of a byte, from 1.
pub(super) fn of_byte(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

/// Line and column of the value under this path of keys, or of the innermost table on the way to
/// it, and how many of the keys were found.
pub(super) fn of_key(text: &str, path: &[&str]) -> (usize, Option<(usize, usize)>) {
    let Ok(document) = DeTable::parse(text) else {
        return (0, None);
    };
    let mut table = document.get_ref();
    let mut found = (0, None::<Range<usize>>);
    for (depth, key) in path.iter().enumerate() {
        let entry = table.iter().find(|(name, _)| name.get_ref() == key);
        let Some((name, value)) = entry else { break };
        // A table's own span may be its header's; its name tells better where it is spoken of.
        let span = match value.get_ref() {
            DeValue::Table(_) => name.span(),
            _ => value.span(),
        };
        found = (depth + 1, Some(span));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    (found.0, found.1.map(|span| of_byte(text, span.start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_or_the_nearest_table() {
        let text = "x = 1\n[service.a]\nexec = ['/a']\n  probe.liveness = { tcp = 'y' }\n";
        let place = |path: &[&str]| of_key(text, path);
        assert_eq!(place(&["service", "a", "exec"]), (3, Some((3, 8))));
        assert_eq!(
            place(&["service", "a", "probe", "liveness", "tcp"]),
            (5, Some((4, 28)))
        );
        assert_eq!(place(&["service", "a", "nice"]), (2, Some((2, 10))));
        assert_eq!(place(&["service", "b"]).0, 1);
        assert_eq!(place(&["network"]), (0, None));
    }
}
