//! Where in a file something is said, so that an error can name line and column.

use std::ops::Range;
use toml::de::{DeArray, DeTable, DeValue};

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
/// it, and how many of the keys were found. An entry of a list goes by its number.
pub(super) fn of_key(text: &str, path: &[&str]) -> (usize, Option<(usize, usize)>) {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut inner = Inner::Table(document.get_ref());
    let mut found = (0, None::<Range<usize>>);
    for (depth, key) in path.iter().enumerate() {
        let (span, value) = match inner {
            Inner::Table(table) => {
                let entry = table.iter().find(|(name, _)| name.get_ref() == key);
                let Some((name, value)) = entry else { break };
                // A table's own span may be its header's; its name tells better where it is spoken of.
                let named = matches!(value.get_ref(), DeValue::Table(_));
                (if named { name.span() } else { value.span() }, value)
            }
            Inner::List(list) => {
                let entry = key.parse().ok().and_then(|n: usize| list.get(n));
                let Some(value) = entry else { break };
                (value.span(), value)
            }
        };
        found = (depth + 1, Some(span));
        inner = match value.get_ref() {
            DeValue::Table(table) => Inner::Table(table),
            DeValue::Array(list) => Inner::List(list),
            _ => break,
        };
    }
    (found.0, found.1.map(|span| of_byte(text, span.start)))
}

/// What has entries.
enum Inner<'a, 'i> {
    Table(&'a DeTable<'i>),
    List(&'a DeArray<'i>),
}

/// How many entries the list under this key of the document has.
pub(super) fn entries(text: &str, list: &str) -> usize {
    let (document, _) = DeTable::parse_recoverable(text);
    let value = document
        .get_ref()
        .iter()
        .find(|(name, _)| name.get_ref() == list);
    value
        .and_then(|(_, value)| value.get_ref().as_array())
        .map_or(0, |list| list.len())
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
