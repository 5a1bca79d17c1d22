//! The words of the control socket: one JSON object a line, in both directions.
//!
//! A client sends one [`Verb`] and gets one line with `"ok"`: a [`Reply`], or a [`Refusal`]. Then it
//! may ask again.
//!
//! The client may be older or newer than the server: unknown fields of a reply are to be ignored.
//! Unknown fields or verbs of a request are refused.

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// The longest request that is read, with its line end.
pub const REQUEST_MAX: usize = 1024;

/// What a client may ask.
///
/// The verb without an argument is written with braces, because serde lets any field pass at a
/// variant without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    /// Everything that is known.
    Net {},
    /// Ask for more time for a lease now.
    Renew {
        /// Of which link.
        link: String,
    },
    /// Give a lease back, and be without an address by DHCP until it is renewed or the carrier
    /// comes anew.
    Release {
        /// Of which link.
        link: String,
    },
}

impl Verb {
    /// Whether it changes nothing. Any user may ask such a thing; the rest is for root and for
    /// whoever runs netcfg.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Net {} => true,
            Self::Renew { .. } | Self::Release { .. } => false,
        }
    }
}

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// `true`.
    pub ok: bool,
    /// To `net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<Status>,
}

impl Reply {
    /// That it is being done.
    #[must_use]
    pub fn done() -> Reply {
        Reply {
            ok: true,
            net: None,
        }
    }

    /// Everything that is known.
    #[must_use]
    pub fn net(status: Status) -> Reply {
        Reply {
            ok: true,
            net: Some(status),
        }
    }
}

/// A bad answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `false`.
    pub ok: bool,
    /// What is wrong, and what to do.
    pub error: String,
}

/// What a client of this user is told instead of having its request carried out, if anything.
pub fn judge(line: &[u8], uid: u32, owner: u32) -> Result<Verb, String> {
    let verb = serde_json::from_slice::<Verb>(line)
        .map_err(|error| format!("the request is not understood: {error}"))?;
    if verb.is_open() || uid == 0 || uid == owner {
        return Ok(verb);
    }
    Err(format!(
        "only root and the user who runs netcfg (uid {owner}) may ask this, not uid {uid}"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_as_they_are_written() {
        let link = || String::from("eth0");
        for (text, expected) in [
            (r#"{"verb":"net"}"#, Some(Verb::Net {})),
            (
                r#"{"verb":"renew","link":"eth0"}"#,
                Some(Verb::Renew { link: link() }),
            ),
            (
                r#"{"link":"eth0","verb":"release"}"#,
                Some(Verb::Release { link: link() }),
            ),
            (r#"{"verb":"net","link":"eth0"}"#, None),
            (r#"{"verb":"renew"}"#, None),
            (r#"{"verb":"renew","link":7}"#, None),
            (r#"{"verb":"renew","link":"eth0","now":true}"#, None),
            (r#"{"verb":"status"}"#, None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(judge(text.as_bytes(), 0, 801).ok(), expected, "{text}");
        }
    }

    #[test]
    fn who_may_ask_what() {
        let renew = br#"{"verb":"renew","link":"eth0"}"#;
        let net = br#"{"verb":"net"}"#;
        for (uid, may) in [(0, true), (801, true), (800, false), (u32::MAX, false)] {
            assert_eq!(judge(renew, uid, 801).is_ok(), may, "{uid}");
            assert!(judge(net, uid, 801).is_ok());
        }
        let told = judge(renew, 800, 801).expect_err("refused");
        assert!(told.contains("uid 801") && told.contains("not uid 800"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(line in proptest::collection::vec(any::<u8>(), 0..REQUEST_MAX)) {
            // Nobody without rights gets anything changed, whatever he writes.
            prop_assert!(judge(&line, 7, 801).is_ok_and(|verb| verb.is_open()) || judge(&line, 7, 801).is_err());
        }

        #[test]
        fn what_is_like_a_request_is_judged_by_its_meaning(
            verb in "(net|renew|release|halt)",
            link in any::<String>(),
            extra in any::<bool>(),
            uid in prop_oneof![Just(0_u32), Just(801), any::<u32>()],
        ) {
            let mut object = serde_json::json!({ "verb": verb });
            if verb != "net" {
                object["link"] = serde_json::json!(link);
            }
            if extra {
                object["more"] = serde_json::json!(1);
            }
            let text = serde_json::to_string(&object).expect("json");
            let judged = judge(text.as_bytes(), uid, 801);
            let may = verb == "net" || uid == 0 || uid == 801;
            prop_assert_eq!(judged.is_ok(), may && verb != "halt" && !extra);
            if let Ok(verb) = judged {
                let again = serde_json::to_string(&verb).expect("json");
                prop_assert_eq!(judge(again.as_bytes(), 0, 801), Ok(verb));
            }
        }
    }
}
