//! Events of init's own children, on their way to the one emitter; and commands, the other way.
//!
//! Some of them read what strangers send, so their word is taken with care: a message of bounded size, a
//! name that starts as those of that child do, keys of letters, digits and `_`; values may be anything,
//! as the event line quotes them. A message has the form `NAME NUL KEY NUL VALUE NUL KEY NUL VALUE ...`.

use rustix::fd::{AsFd, OwnedFd};
use supervisor::event::Event;

/// A longer message is cut by the kernel and then refused here.
pub const MESSAGE_MAX: usize = 2048;

/// The next event that was sent, if there is one. Its name starts with one of `prefixes`, each the name
/// of an area with its dot, as in `net.`. A message that breaks the rules is an event about that.
#[must_use]
pub fn receive(channel: &OwnedFd, prefixes: &[&str]) -> Option<Event> {
    let mut message = [0u8; MESSAGE_MAX];
    let received = rustix::net::recv(
        channel.as_fd(),
        &mut message[..],
        rustix::net::RecvFlags::DONTWAIT,
    );
    match received {
        // 0 is the end of the other side: it is being restarted, with the same channel.
        Ok((0, _)) | Err(_) => None,
        Ok((count, _)) => {
            let message = message.get(..count).unwrap_or_default();
            Some(decode(message, prefixes).unwrap_or_else(|| {
                let area = prefixes.first().unwrap_or(&"init.");
                Event::new(format!("{area}warning")).with("reason", "a malformed event was sent")
            }))
        }
    }
}

/// Of a value, so much is sent: an event line has less room for it.
const VALUE_MAX: usize = 600;

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
    let mut parts = message.split(|b| *b == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let good_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    let known = prefixes.iter().any(|prefix| name.starts_with(prefix));
    if !known || name.len() > 40 || !name.bytes().all(good_name) {
        return None;
    }
    let mut event = Event::new(name.to_owned());
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
    fn nothing_but_events_of_the_area_comes_over() {
        for message in [
            &b"boot.healthy"[..],
            b"net.a b",
            b"net.x\0key",
            b"net.x\0k=y\0v",
            b"",
            b"net.\xff",
        ] {
            assert_eq!(decode(message, &["net."]), None, "{message:?}");
        }
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
