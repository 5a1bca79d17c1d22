//! What an answer means for a file that is read from an offset on: pure.
//!
//! The first answer says which file it is, by size and entity tag. Every later one must be about that same
//! file: a publisher who replaces it while machines read must not give them halves of two. A server may
//! send the whole file in place of a range (RFC 9110, section 14.2); then what is known already is skipped.

use super::SourceError;
use super::head::Head;

/// How a file is told from another under the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) etag: Option<String>,
    /// The URL that gave the tag: servers that hold the same file need not give it the same one.
    pub(super) place: String,
    pub(super) total: Option<u64>,
}

impl Known {
    /// A tag that stands for the exact bytes (RFC 9110, section 13.1.5: only such may be in `If-Range`).
    /// None for another URL than the one that gave it.
    pub(super) fn strong(&self, place: &str) -> Option<&str> {
        let here = self.etag.as_deref().filter(|_| self.place == place);
        here.filter(|tag| !tag.starts_with("W/"))
    }
}

/// What to do with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The body follows after so many bytes that are to be passed over.
    Body { skip: u64, known: Known },
    /// Ask there.
    Elsewhere(String),
    /// This server does not answer such a question.
    Unable,
}

/// Judges the answer to a request for all from `offset` on; `known` is of the answers before. `place` is the URL.
pub(super) fn judge(
    head: &Head,
    offset: u64,
    known: Option<&Known>,
    place: &str,
) -> Result<Answer, SourceError> {
    let lasting = |what: String| SourceError::lasting(format!("{place}: {what}"));
    match head.status {
        200 => {
            let now = Known {
                etag: head.etag.clone(),
                place: place.to_owned(),
                total: head.length,
            };
            let known = same(known, now).map_err(lasting)?;
            if known.total.is_some_and(|total| total < offset) {
                return Err(lasting(format!("it has fewer than {offset} bytes")));
            }
            Ok(Answer::Body {
                skip: offset,
                known,
            })
        }
        206 => {
            let range = head
                .range
                .filter(|range| offset > 0 && range.first == offset)
                .ok_or_else(|| {
                    lasting(format!("another range than the one from {offset} was sent"))
                })?;
            let length = range.last.saturating_sub(range.first).saturating_add(1);
            if head.length.is_some_and(|told| told != length) {
                return Err(lasting("Content-Range and Content-Length disagree".into()));
            }
            let now = Known {
                etag: head.etag.clone(),
                place: place.to_owned(),
                total: range.total,
            };
            let known = same(known, now).map_err(lasting)?;
            Ok(Answer::Body { skip: 0, known })
        }
        301 | 302 | 303 | 307 | 308 => match &head.location {
            Some(location) => Ok(Answer::Elsewhere(location.clone())),
            None => Err(lasting("a redirection to nowhere".into())),
        },
        405 | 501 => Ok(Answer::Unable),
        // It is out of range only if the file is another one now.
        416 => Err(lasting(format!(
            "it has no byte {offset} any more: it was changed on the server meanwhile"
        ))),
        status => {
            let message = format!("{place}: the server says {status} {}", head.reason);
            Err(SourceError {
                // Those that the specification calls temporary (RFC 9110, section 15; RFC 6585; RFC 8470).
                transient: matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
                message: message.trim_end().to_owned(),
            })
        }
    }
}

/// What is known after one more answer, if it can be about the same file.
fn same(known: Option<&Known>, now: Known) -> Result<Known, String> {
    let Some(known) = known else {
        return Ok(now);
    };
    let changed = |what: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        Err(format!(
            "it was changed on the server meanwhile: its {what} was {from} and is {to}"
        ))
    };
    if let (Some(from), Some(to)) = (&known.etag, &now.etag)
        && known.place == now.place
        && from != to
    {
        return changed("tag", from, to);
    }
    if let (Some(from), Some(to)) = (known.total, now.total)
        && from != to
    {
        return changed("size", &from, &to);
    }
    let (etag, place) = match &known.etag {
        Some(etag) => (Some(etag.clone()), known.place.clone()),
        None => (now.etag, now.place),
    };
    Ok(Known {
        etag,
        place,
        total: known.total.or(now.total),
    })
}

#[cfg(test)]
mod tests {
    use super::super::head::Range;
    use super::*;
    use proptest::prelude::*;

    fn known(etag: &str, total: u64) -> Known {
        Known {
            etag: Some(etag.into()),
            place: "http://h/x".into(),
            total: Some(total),
        }
    }

    fn whole(etag: &str, length: u64) -> Head {
        Head {
            status: 200,
            length: Some(length),
            etag: Some(etag.into()),
            ..Head::default()
        }
    }

    fn part(etag: &str, first: u64, total: u64) -> Head {
        Head {
            status: 206,
            range: Some(Range {
                first,
                last: total - 1,
                total: Some(total),
            }),
            ..whole(etag, total - first)
        }
    }

    fn ask(head: &Head, offset: u64, before: Option<&Known>) -> Result<Answer, SourceError> {
        judge(head, offset, before, "http://h/x")
    }

    #[test]
    fn a_part_goes_on_and_a_whole_is_skipped() {
        let before = known("\"a\"", 10);
        let body = |skip| {
            Ok(Answer::Body {
                skip,
                known: before.clone(),
            })
        };
        assert_eq!(ask(&whole("\"a\"", 10), 0, None), body(0));
        assert_eq!(ask(&part("\"a\"", 4, 10), 4, Some(&before)), body(0));
        assert_eq!(ask(&whole("\"a\"", 10), 4, Some(&before)), body(4));
    }

    #[test]
    fn another_file_or_another_range_is_refused() {
        let before = known("\"a\"", 10);
        for (head, offset, say) in [
            (part("\"b\"", 4, 10), 4, "its tag was \"a\" and is \"b\""),
            (whole("\"b\"", 10), 4, "its tag"),
            (whole("\"a\"", 11), 4, "its size was 10 and is 11"),
            (part("\"a\"", 4, 11), 4, "its size"),
            (part("\"a\"", 5, 10), 4, "another range"),
            (part("\"a\"", 0, 10), 0, "another range"),
            (
                Head {
                    length: Some(1),
                    ..part("\"a\"", 4, 10)
                },
                4,
                "disagree",
            ),
            (
                Head {
                    status: 416,
                    ..Head::default()
                },
                4,
                "changed on the server",
            ),
            (
                Head {
                    status: 302,
                    ..Head::default()
                },
                4,
                "redirection to nowhere",
            ),
            (whole("\"a\"", 10), 11, "fewer than 11"),
        ] {
            let error = ask(&head, offset, Some(&before)).unwrap_err();
            assert!(!error.transient && error.message.contains(say), "{error:?}");
            assert!(error.message.starts_with("http://h/x: "), "{error:?}");
        }
    }

    #[test]
    fn a_tag_is_compared_only_with_one_of_the_same_url() {
        let before = known("\"a\"", 10);
        let head = |tag: &str| Head {
            status: 200,
            length: Some(10),
            etag: Some(tag.into()),
            ..Head::default()
        };
        // A mirror with tags of its own.
        let elsewhere = judge(&head("\"b\""), 5, Some(&before), "http://mirror/x");
        let Ok(Answer::Body { known, .. }) = elsewhere else {
            panic!("{elsewhere:?}");
        };
        assert_eq!(known, before);
        assert_eq!(known.strong("http://h/x"), Some("\"a\""));
        assert_eq!(known.strong("http://mirror/x"), None);
        let same = judge(&head("\"b\""), 5, Some(&before), "http://h/x");
        assert!(same.unwrap_err().message.contains("changed on the server"));
    }

    #[test]
    fn a_busy_server_may_be_asked_again() {
        let status = |status| {
            let head = Head {
                status,
                reason: "Why".into(),
                ..Head::default()
            };
            ask(&head, 0, None)
        };
        let error = status(503).unwrap_err();
        assert!(
            error.transient && error.message.ends_with("says 503 Why"),
            "{error:?}"
        );
        for lasting in [400, 401, 403, 404, 410, 304, 204] {
            assert!(!status(lasting).unwrap_err().transient);
        }
        assert_eq!(status(405), Ok(Answer::Unable));
    }

    proptest! {
        #[test]
        fn a_body_is_always_that_of_the_offset(
            status in prop_oneof![Just(200u16), Just(206)],
            length in proptest::option::of(0u64..40), first in 0u64..20, more in 0u64..20, offset in 0u64..20,
            before in proptest::option::of((0u64..40).prop_map(|total| known("\"a\"", total))),
        ) {
            let range = Range { first, last: first + more, total: Some(first + more + 1) };
            let head = Head { status, length, range: Some(range), ..Head::default() };
            if let Ok(Answer::Body { skip, known }) = ask(&head, offset, before.as_ref()) {
                prop_assert!(skip == offset || (skip == 0 && first == offset));
                if let Some(before) = before {
                    prop_assert_eq!(known, before);
                }
            }
        }
    }
}
