//! Events of our own roles, on their way to the one emitter; and commands, the other way.
//!
//! Some of them read what strangers send, so their word is taken with care: a message of bounded
//! size, a name that starts as those of this role do, keys of letters, digits and `_`; values may be
//! anything, as the event line quotes them. A message has the form
//! `NAME NUL KEY NUL VALUE NUL KEY NUL VALUE ...`; that of a routine event has [`ROUTINE`] before it.

use crate::manager::role_channel::{RoleChannel, Taken};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use supervisor::Time;
use supervisor::event::{Event, ROUTINE};

/// A longer message is cut by the kernel and then refused here.
pub const MESSAGE_MAX: usize = 2048;

/// Of a value, so much is sent: an event line has less room for it.
const VALUE_MAX: usize = 600;

/// A role that tells events, and how their names start: `net.` for `net.address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teller {
    /// The service.
    pub service: &'static str,
    /// What it may tell of.
    pub prefixes: &'static [&'static str],
}

/// PID 1's end of the channel that a role tells events by.
#[derive(Debug)]
pub struct Channel {
    /// Who is at the other end.
    pub teller: Teller,
    /// This end.
    pub end: RoleChannel,
}

impl Channel {
    /// The events that were sent, as far as one turn of the loop takes them and the role keeps to the rules.
    pub fn receive(&mut self, now: Time) -> Taken<Event> {
        let prefixes = self.teller.prefixes;
        self.end.receive(now, |message| {
            Some((decode(message, prefixes)?, message.len()))
        })
    }
}

/// What a look at a channel gave.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message {
        /// How long it is.
        bytes: usize,
        /// The event that it tells; none if it breaks the rules.
        event: Option<Event>,
    },
    /// None at present.
    Nothing,
    /// None any more: nobody has the other end. poll(2) says at once, and for ever, that this can be read.
    End,
}

/// The next message of a channel, for whoever reads it in a role of its own. The name of an event starts
/// with one of `prefixes`.
#[must_use]
pub fn receive(channel: &OwnedFd, prefixes: &[&str]) -> Received {
    let mut message = [0u8; MESSAGE_MAX];
    let received = rustix::net::recv(
        channel.as_fd(),
        &mut message[..],
        rustix::net::RecvFlags::DONTWAIT,
    );
    match received {
        Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Ok((0, _)) | Err(_) => Received::End,
        Ok((bytes, _)) => Received::Message {
            bytes,
            event: decode(message.get(..bytes).unwrap_or_default(), prefixes),
        },
    }
}

/// Sends an event from the role's end, or a command from the other.
pub fn send(channel: &OwnedFd, name: &str, fields: &[(&str, String)]) {
    // A full channel means that whoever reads is far behind, and will not miss one more.
    let _ = rustix::net::send(
        channel,
        &encode(name, fields),
        rustix::net::SendFlags::NOSIGNAL,
    );
}

/// The same for a routine event.
pub fn send_routine(channel: &OwnedFd, name: &str, fields: &[(&str, String)]) {
    send(channel, &format!("{ROUTINE}{name}"), fields);
}

/// The message for an event, as [`receive`] reads it.
#[must_use]
pub fn encode(name: &str, fields: &[(&str, String)]) -> Vec<u8> {
    let mut message = name.as_bytes().to_vec();
    for (key, value) in fields {
        let value = value.as_bytes();
        for part in [key.as_bytes(), value.get(..VALUE_MAX).unwrap_or(value)] {
            message.push(0);
            // The separator cannot be part of a value.
            message.extend(part.iter().filter(|b| **b != 0));
        }
    }
    message
}

fn decode(message: &[u8], prefixes: &[&str]) -> Option<Event> {
    let unmarked = message.strip_prefix(ROUTINE.as_bytes());
    let routine = unmarked.is_some();
    let mut parts = unmarked.unwrap_or(message).split(|b| *b == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let good_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    let own = prefixes.iter().any(|prefix| name.starts_with(prefix));
    if !own || name.len() > 40 || !name.bytes().all(good_name) {
        return None;
    }
    let mut event = Event::new(name.to_owned());
    if routine {
        event = event.routine();
    }
    while let Some(key) = parts.next() {
        let key = std::str::from_utf8(key).ok()?;
        let value = String::from_utf8_lossy(parts.next()?).into_owned();
        if key.is_empty()
            || key.len() > 40
            || !key
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            return None;
        }
        event = event.with(key.to_owned(), value);
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use supervisor::received::Closer;

    #[test]
    fn an_event_comes_over_whole() {
        let message = encode(
            "net.address",
            &[
                ("link", "eth0".into()),
                ("dns", "1.1.1.1 \0 8.8.8.8".into()),
            ],
        );
        let event = decode(&message, &["net."]).unwrap();
        assert_eq!(event.name(), "net.address");
        assert_eq!(event.field("link"), Some("eth0"));
        assert_eq!(event.field("dns"), Some("1.1.1.1  8.8.8.8"));
    }

    #[test]
    fn a_routine_event_stays_one() {
        let down = [("state", "down".to_owned())];
        let decoded = |name: &str| decode(&encode(name, &down), &["net."]).unwrap();
        assert!(!decoded("net.link").is_routine());
        let routine = decoded("<6>net.link");
        assert!(routine.is_routine());
        assert_eq!(
            (routine.name(), routine.field("state")),
            ("net.link", Some("down"))
        );
        assert_eq!(decode(b"<6>boot.healthy", &["net."]), None);
        assert_eq!(decode(b"<6><6>net.link", &["net."]), None);
    }

    #[test]
    fn nothing_but_the_roles_own_events_comes_over() {
        for message in [
            &b"boot.healthy"[..],
            b"net",
            b"net.a b",
            b"net.x\0key",
            b"net.x\0k=y\0v",
            b"",
            b"net.\xff",
        ] {
            assert_eq!(decode(message, &["net."]), None, "{message:?}");
        }
        let two = ["slot.", "update."];
        assert!(decode(b"slot.state", &two).is_some() && decode(b"update.start", &two).is_some());
        assert_eq!(decode(b"net.address", &two), None);
    }

    #[test]
    fn events_of_others_are_counted_as_malformed() {
        let teller = Teller {
            service: "grow",
            prefixes: &["var."],
        };
        let closer = Closer::new(usize::MAX).unwrap();
        let (mut channel, theirs) = channel(teller, &closer);
        send(&theirs, "var.grown", &[("ms", "7".into())]);
        send(&theirs, "net.lost", &[]);
        let now = Time::from_secs(1);
        let taken = channel.receive(now).messages;
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].content.field("ms"), Some("7"));
        let warning = channel.end.warning(now).unwrap();
        assert_eq!(warning.field("malformed"), Some("1"));
    }

    #[test]
    fn a_flood_of_events_is_cut_to_the_rate_of_the_role() {
        let teller = Teller {
            service: "netcfg",
            prefixes: &["net."],
        };
        let closer = Closer::new(usize::MAX).unwrap();
        let (mut channel, theirs) = channel(teller, &closer);
        let now = Time::from_secs(1);
        let (mut told, mut turns) = (0, 0);
        let condemned = loop {
            send(&theirs, "net.warning", &[("reason", "x".repeat(200))]);
            let taken = channel.receive(now);
            told += taken.messages.len();
            turns += 1;
            if taken.condemned.is_some() {
                break turns;
            }
        };
        assert!((50..200).contains(&told), "{told} of {condemned}");
    }

    fn channel(teller: Teller, closer: &Closer) -> (Channel, OwnedFd) {
        let poller = supervisor::poller::Poller::new().unwrap();
        let token = supervisor::driver::Token { kind: 1, number: 0 };
        let (end, theirs) =
            RoleChannel::pair(teller.service, closer.source(), &poller, token).unwrap();
        (Channel { teller, end }, theirs)
    }

    proptest! {
        #[test]
        fn any_message_is_survived(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(event) = decode(&message, &["net."]) {
                prop_assert!(event.name().starts_with("net."));
            }
        }
    }
}
