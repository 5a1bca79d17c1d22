//! What PID 1 and the logger say to each other, over one `SOCK_SEQPACKET` socket.
//!
//! A message is one JSON object. PID 1 sends a [`Request`] together with the stream socket of the
//! client who asked (`SCM_RIGHTS`, unix(7)); the logger answers that client itself, so no byte of
//! service output passes PID 1. The logger sends a [`Report`] when it lost lines, for `initctl
//! status`. Both sides bound what they read and take nothing for granted.
//!
//! What the client gets is one JSON object a line: [`Answer`] first, then [`Shown`] lines or exit
//! records, and [`Missed`] where it read too slowly.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

/// A longer message is refused on both sides; a name of a service is a few dozen bytes.
pub const MESSAGE_MAX: usize = 4096;

/// From PID 1: what a client wants to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The last lines, and those to come.
    Logs {
        /// Of this service; `None`: of all, and the events, as that of the service `init`.
        service: Option<String>,
        /// How many of those that have been.
        lines: u64,
        /// Whether those to come are wanted too.
        follow: bool,
    },
    /// The exit records.
    Exits {
        /// Of this service; `None`: of all.
        service: Option<String>,
    },
}

/// From the logger: something PID 1 should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// Lines that were lost since the logger started.
    Lost {
        /// Whose.
        service: String,
        /// Not shown on the console.
        console: u64,
        /// Over the service's rate limit.
        rate: u64,
        /// Not written to the files.
        file: u64,
    },
}

/// To a client: the first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether there is an answer.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// To a client: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown<'a> {
    /// When it was read, in milliseconds since the kernel started.
    pub at_ms: u64,
    /// Whose line it is.
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    /// Its text.
    #[serde(borrow)]
    pub line: Cow<'a, str>,
}

/// What the wall clock showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallTime {
    /// Seconds since 1970, in UTC.
    pub unix: u64,
    /// Whether the kernel held the clock to be synchronised. Before that it may show the time of the build.
    pub synchronised: bool,
}

impl WallTime {
    /// What it shows now; nothing if that is before 1970.
    #[must_use]
    pub fn now() -> Option<Self> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            unix: unix.as_secs(),
            synchronised: crate::sys::clock_is_synchronised(),
        })
    }
}

/// To a client, and on the disk: how an instance of a service ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The id of the boot.
    pub boot: String,
    /// When it was, by the wall clock; records of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<WallTime>,
    /// The line of the event that told it.
    pub event: String,
    /// The last that the service wrote.
    pub lines: Vec<String>,
}

/// To a client: how many lines it did not get here, because it read too slowly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// So many.
    pub lost: u64,
}

impl Request {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From a message; `None` if it is none.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        decode(message)
    }
}

impl Report {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From a message; `None` if it is none.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        decode(message)
    }
}

/// An object as JSON. These types have no map with keys that are no text, so it cannot fail.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Option<T> {
    let message = Some(message).filter(|m| m.len() <= MESSAGE_MAX)?;
    serde_json::from_slice(message).ok()
}

/// Gives a client to the logger. Never blocks; the caller closes its own copy of the client.
///
/// # Errors
/// `EAGAIN` if the logger does not keep up, `EMSGSIZE` if the request is too long, and what
/// sendmsg(2) says of a socket whose other end is gone.
pub fn hand_over(
    channel: BorrowedFd<'_>,
    request: &Request,
    client: BorrowedFd<'_>,
) -> io::Result<()> {
    let message = request.encode();
    if message.len() > MESSAGE_MAX {
        return Err(Errno::MSGSIZE.into());
    }
    let descriptors = [client];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(channel, &[IoSlice::new(&message)], &mut control, flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_messages_are_those_that_are_written_down() {
        let logs = Request::Logs {
            service: Some("x".into()),
            lines: 3,
            follow: true,
        };
        let all = Request::Exits { service: None };
        let lost = Report::Lost {
            service: "x".into(),
            console: 1,
            rate: 2,
            file: 3,
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(logs.encode()),
            r#"{"logs":{"service":"x","lines":3,"follow":true}}"#
        );
        assert_eq!(text(all.encode()), r#"{"exits":{"service":null}}"#);
        assert_eq!(
            text(lost.encode()),
            r#"{"lost":{"service":"x","console":1,"rate":2,"file":3}}"#
        );
        let refused = Answer {
            ok: false,
            error: Some("why".into()),
        };
        assert_eq!(text(encode(&refused)), r#"{"ok":false,"error":"why"}"#);
        let accepted = Answer {
            ok: true,
            error: None,
        };
        assert_eq!(text(encode(&accepted)), r#"{"ok":true}"#);
    }

    #[test]
    fn what_breaks_the_rules_is_no_message() {
        let long = Request::Exits {
            service: Some("x".repeat(MESSAGE_MAX)),
        };
        for message in [
            &b""[..],
            b"{}",
            br#"{"logs":{}}"#,
            br#"{"logs":{"service":null,"lines":-1,"follow":true}}"#,
            br#"{"exits":{"service":null,"more":1}}"#,
            br#"{"exits":{"service":null}} "x""#,
            &"[".repeat(4000).into_bytes(),
            &long.encode(),
        ] {
            assert_eq!(Request::decode(message), None);
        }
        assert_eq!(Report::decode(br#"{"lost":{"service":"x"}}"#), None);
    }

    fn request() -> impl Strategy<Value = Request> {
        let service = || proptest::option::of(".{0,40}");
        prop_oneof![
            (service(), any::<u64>(), any::<bool>()).prop_map(|(service, lines, follow)| {
                Request::Logs {
                    service,
                    lines,
                    follow,
                }
            }),
            service().prop_map(|service| Request::Exits { service }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_comes_over_whole(request in request(), service in ".{0,40}", counts in any::<[u64; 3]>()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
            let [console, rate, file] = counts;
            let report = Report::Lost { service, console, rate, file };
            prop_assert_eq!(Report::decode(&report.encode()), Some(report));
        }

        #[test]
        fn any_bytes_are_survived(mut message in proptest::collection::vec(any::<u8>(), 0..200), request in request(), at in any::<proptest::sample::Index>(), byte: u8) {
            let _ = (Request::decode(&message), Report::decode(&message));
            message = request.encode();
            let place = at.index(message.len());
            message[place] = byte;
            let _ = (Request::decode(&message), Report::decode(&message));
        }
    }
}
