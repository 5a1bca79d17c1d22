//! One file of the configuration, from its text to its typed form, with every fault of the way.
//!
//! The TOML parser goes on after a fault of the grammar, so all of those are collected. serde does not go
//! on: the first value that does not fit its type ends it. So the value that does not fit is left out and
//! the document is read again, until what is left fits. Each fault carries the path of its key, and the
//! caller keeps silent about what follows from a key that was left out.

use super::place;
use super::similar::similar;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// More faults of one file are not told: nobody mends them in one go, and PID 1 reads the file too.
const FAULTS_MAX: usize = 64;

/// Something that is wrong with a file.
#[derive(Debug)]
pub(super) struct Fault {
    /// The keys that lead there; an entry of a list has its number. Empty for the grammar.
    pub path: Vec<String>,
    /// Where in the text.
    pub at: Option<usize>,
    /// What.
    pub message: String,
}

/// What fits of `text`, and everything that does not. Nothing if the grammar is broken: what would be left
/// of such a file could mean something else.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> (Option<T>, Vec<Fault>) {
    let (document, wrong) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = Vec::new();
    let mut whole = true;
    for error in &wrong {
        let (fault, harmless) = of_grammar(text, error);
        whole &= harmless;
        faults.push(fault);
    }
    if !whole {
        // The parser often stumbles over one mistake several times.
        faults.dedup_by_key(|fault| fault.at.map(|at| place::of_byte(text, at).0));
        return (None, faults);
    }
    let walk = Walk::default();
    while faults.len() < FAULTS_MAX {
        let read = T::deserialize(Table {
            table: document.get_ref(),
            walk: &walk,
        });
        let wrong = match read {
            Ok(value) => return (Some(value), faults),
            Err(wrong) => wrong,
        };
        walk.path.borrow_mut().clear();
        let path = wrong.path.unwrap_or_default();
        faults.push(Fault {
            message: match path.is_empty() {
                true => wrong.message,
                false => format!("{}: {}", written(&path), wrong.message),
            },
            at: wrong.at.map(|span| span.start),
            path: path.clone(),
        });
        if path.is_empty() || !walk.left_out.borrow_mut().insert(path) {
            break;
        }
    }
    (None, faults)
}

/// A path of keys as it is written: `network.link[0].dhcp4`.
fn written(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            text.push_str(&format!("[{part}]"));
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(part);
    }
    text
}

/// A fault of the grammar, and whether the rest of the document means what it says all the same.
fn of_grammar(text: &str, error: &toml::de::Error) -> (Fault, bool) {
    let span = error.span();
    // The parser knows both places but tells one.
    let duplicate = error.message() == "duplicate key";
    let name = span.clone().and_then(|span| text.get(span));
    let message = match (name, span.clone()) {
        (Some(name), Some(span)) if duplicate => {
            let first = first_place(text, name, span.start);
            let first = first.map_or_else(String::new, |at| {
                let (line, column) = place::of_byte(text, at);
                format!("; it is first given at {line}:{column}")
            });
            format!("the key `{name}` is given twice{first}")
        }
        _ => error.message().replace('\n', " "),
    };
    let fault = Fault {
        path: Vec::new(),
        at: span.map(|span| span.start),
        message,
    };
    (fault, duplicate)
}

/// Where the key `name` is given before the byte `at`, where it is given again. The text up to there,
/// closed by a key of our own, has that key in the table that is looked for.
fn first_place(text: &str, name: &str, at: usize) -> Option<usize> {
    const OURS: &str = "the-key-that-is-given-twice";
    let before = text.get(..at)?;
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
    let close = match line {
        _ if line.starts_with("[[") => "]]",
        _ if line.starts_with('[') => "]",
        _ => " = 0",
    };
    let ours = format!("{before}{OURS}{close}\n");
    let (document, _) = DeTable::parse_recoverable(&ours);
    let table = table_with(document.get_ref(), OURS)?;
    let name = name.trim_matches(['"', '\'']);
    let (key, _) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    Some(key.span().start)
}

fn table_with<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<&'t DeTable<'i>> {
    if table.iter().any(|(key, _)| key.get_ref() == name) {
        return Some(table);
    }
    table.iter().find_map(|(_, value)| match value.get_ref() {
        DeValue::Table(inner) => table_with(inner, name),
        DeValue::Array(entries) => entries.iter().find_map(|entry| match entry.get_ref() {
            DeValue::Table(inner) => table_with(inner, name),
            _ => None,
        }),
        _ => None,
    })
}

/// Where the reading is, and what it leaves out.
#[derive(Debug, Default)]
struct Walk {
    path: RefCell<Vec<String>>,
    left_out: RefCell<BTreeSet<Vec<String>>>,
}

impl Walk {
    /// Goes one step down; false if what is there is left out.
    fn enter(&self, part: String) -> bool {
        let mut path = self.path.borrow_mut();
        path.push(part);
        let left_out = self.left_out.borrow().contains(&*path);
        if left_out {
            path.pop();
        }
        !left_out
    }

    fn leave(&self) {
        self.path.borrow_mut().pop();
    }

    /// Ties an error to where the reading is, if it is not tied to a place further down.
    fn tie<T>(&self, result: Result<T, Wrong>, at: &Range<usize>) -> Result<T, Wrong> {
        result.map_err(|mut wrong| {
            if wrong.path.is_none() {
                wrong.path = Some(self.path.borrow().clone());
                wrong.at = Some(at.clone());
            }
            wrong
        })
    }
}

/// Why a value does not fit.
#[derive(Debug)]
struct Wrong {
    path: Option<Vec<String>>,
    at: Option<Range<usize>>,
    message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: None,
            at: None,
            message: message.to_string().replace('\n', " "),
        }
    }

    fn invalid_type(seen: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        let seen = match seen {
            Unexpected::Bool(value) => value.to_string(),
            Unexpected::Signed(number) => format!("the number {number}"),
            Unexpected::Unsigned(number) => format!("the number {number}"),
            Unexpected::Float(number) => format!("the number {number}"),
            Unexpected::Str(text) => format!("the string {text:?}"),
            Unexpected::Seq => "a list".into(),
            Unexpected::Map => "a table".into(),
            other => other.to_string(),
        };
        // What serde calls a sequence is a list to whoever writes the file, and a map a table.
        let wanted = match wanted.to_string().as_str() {
            "a sequence" => "a list such as [\"first\", \"second\"]".into(),
            "a map" => "a table".into(),
            "a boolean" => "true or false".into(),
            "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
            "f32" | "f64" => "a number".into(),
            wanted if wanted.starts_with("struct ") => "a table".into(),
            wanted => wanted.trim_start_matches("expected ").to_owned(),
        };
        Self::custom(format!("expected {wanted}, found {seen}"))
    }

    fn invalid_value(seen: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid_type(seen, wanted)
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::custom(match similar(name, known) {
            Some(meant) => format!("unknown key; did you mean `{meant}`?"),
            None => format!("unknown key; known here are {}", known.join(", ")),
        })
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        let meant = similar(name, known)
            .map(|meant| format!("; did you mean \"{meant}\"?"))
            .unwrap_or_default();
        Self::custom(format!(
            "{name:?} is not one of {}{meant}",
            known.join(", ")
        ))
    }

    fn missing_field(name: &'static str) -> Self {
        Self::custom(format!("the key `{name}` is missing"))
    }
}

/// The document.
struct Table<'a, 'i> {
    table: &'a DeTable<'i>,
    walk: &'a Walk,
}

impl<'de> de::Deserializer<'de> for Table<'_, '_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(Entries {
            rest: self.table.iter(),
            value: None,
            walk: self.walk,
        })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The entries of a table.
struct Entries<'a, 'i, I> {
    rest: I,
    value: Option<&'a Spanned<DeValue<'i>>>,
    walk: &'a Walk,
}

impl<'a, 'i: 'a, 'de, I> MapAccess<'de> for Entries<'a, 'i, I>
where
    I: Iterator<
        Item = (
            &'a Spanned<toml::de::DeString<'i>>,
            &'a Spanned<DeValue<'i>>,
        ),
    >,
{
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        for (key, value) in self.rest.by_ref() {
            let name = key.get_ref().as_ref();
            if !self.walk.enter(name.to_owned()) {
                continue;
            }
            self.value = Some(value);
            let read = seed.deserialize(name.into_deserializer());
            return self.walk.tie(read, &key.span()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        let Some(value) = self.value.take() else {
            return Err(de::Error::custom("a value was read twice"));
        };
        let walk = self.walk;
        let read = walk.tie(seed.deserialize(Value { value, walk }), &value.span());
        walk.leave();
        read
    }
}

/// The entries of a list.
struct Elements<'a, I> {
    rest: I,
    walk: &'a Walk,
}

impl<'a, 'i: 'a, 'de, I> SeqAccess<'de> for Elements<'a, I>
where
    I: Iterator<Item = (usize, &'a Spanned<DeValue<'i>>)>,
{
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Wrong> {
        for (number, value) in self.rest.by_ref() {
            if !self.walk.enter(number.to_string()) {
                continue;
            }
            let walk = self.walk;
            let read = walk.tie(seed.deserialize(Value { value, walk }), &value.span());
            walk.leave();
            return read.map(Some);
        }
        Ok(None)
    }
}

/// A value.
struct Value<'a, 'i> {
    value: &'a Spanned<DeValue<'i>>,
    walk: &'a Walk,
}

impl<'de> de::Deserializer<'de> for Value<'_, '_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let walk = self.walk;
        match self.value.get_ref() {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Integer(number) => {
                let (text, radix) = (number.as_str(), number.radix());
                match (
                    i64::from_str_radix(text, radix),
                    u64::from_str_radix(text, radix),
                ) {
                    (Ok(number), _) => visitor.visit_i64(number),
                    (_, Ok(number)) => visitor.visit_u64(number),
                    _ => Err(de::Error::custom(format!("{number} is too large a number"))),
                }
            }
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(de::Error::custom(format!("{number} is not a number"))),
            },
            DeValue::Boolean(value) => visitor.visit_bool(*value),
            DeValue::Datetime(_) => Err(de::Error::invalid_type(
                Unexpected::Other("a date"),
                &visitor,
            )),
            DeValue::Array(entries) => visitor.visit_seq(Elements {
                rest: entries.iter().enumerate(),
                walk,
            }),
            DeValue::Table(table) => Table { table, walk }.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.value.get_ref() {
            DeValue::String(text) => visitor.visit_enum(Word(text)),
            other => Err(de::Error::custom(format!(
                "expected one of {}, found the {}",
                known.join(", "),
                other.type_str()
            ))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A word that stands for one of several, such as `"always"`.
struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Wrong;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Wrong> {
        let read = seed.deserialize(self.0.into_deserializer())?;
        Ok((read, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'_> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, Wrong> {
        Err(de::Error::invalid_type(Unexpected::Str(self.0), &"a table"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::invalid_type(Unexpected::Str(self.0), &"a list"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Wrong> {
        Err(de::Error::invalid_type(Unexpected::Str(self.0), &"a table"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;
    use proptest::prelude::*;

    fn faults(text: &str) -> Vec<String> {
        let (_, faults) = read::<File>(text);
        faults.into_iter().map(|fault| fault.message).collect()
    }

    #[test]
    fn a_key_that_is_given_twice() {
        for (text, first) in [
            ("a = 1\na = 2", "1:1"),
            ("[service.a]\n[service.b]\n[service.a]", "1:10"),
            (
                "[[directory]]\npath = '/a'\n[[directory]]\npath = '/b'\npath = '/c'",
                "4:1",
            ),
            ("service.a = { exec = [], exec = [] }", "1:15"),
            ("[service.a]\nstop.signal = 'x'\nstop.signal = 'y'", "2:6"),
        ] {
            let faults = faults(text);
            let expected = format!("is given twice; it is first given at {first}");
            assert!(
                faults.iter().any(|f| f.ends_with(&expected)),
                "{text}: {faults:?}"
            );
        }
    }

    #[test]
    fn a_broken_grammar_is_told_once_a_line_and_nothing_else() {
        let text = "[service.a]\nexec = ]]\n[service.b]\nrestrat = 'x' 'y' 'z'\n";
        let (file, faults) = read::<File>(text);
        assert!(file.is_none());
        let lines: Vec<usize> = faults
            .iter()
            .map(|f| place::of_byte(text, f.at.unwrap()).0)
            .collect();
        assert_eq!(lines, [2, 4], "{faults:?}");
    }

    #[test]
    fn there_is_an_end_to_what_is_told() {
        let text: String = (0..1000).map(|n| format!("k{n} = 1\n")).collect();
        assert_eq!(faults(&text).len(), FAULTS_MAX);
    }

    /// Text that is nearly a configuration.
    fn nearly() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            ",",
            ".",
            "\n",
            "\"",
            "'",
            " ",
            "#",
            "service",
            "a",
            "exec",
            "directory",
            "path",
            "network",
            "link",
            "match",
            "name",
            "restart",
            "\"always\"",
            "true",
            "-5",
            "1e999",
            "0xffffffffffffffffff",
            "1979-05-27",
            "limits",
            "nofile",
            "\u{e9}",
            "probe",
            "http",
        ]);
        prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
    }

    proptest! {
        /// Whatever is written, reading ends, and each fault is at a place of the text. What passes here
        /// passes the library's own way, too, and the other way round.
        #[test]
        fn any_text_is_judged_as_the_library_judges_it(text in nearly()) {
            let (file, faults) = read::<File>(&text);
            for fault in &faults {
                prop_assert!(fault.at.is_none_or(|at| at <= text.len()));
                prop_assert!(!fault.message.contains('\n'));
            }
            prop_assert_eq!(file.is_some() && faults.is_empty(), toml::from_str::<File>(&text).is_ok(), "{:?}", faults);
        }
    }
}
