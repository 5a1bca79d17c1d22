//! Events of netcfg, on their way to the one emitter.
//!
//! netcfg reads what strangers send, so its word is taken with care: a message of bounded size, a
//! name that starts with `net.`, keys of letters, digits and `_`; values may be anything, as the
//! event line quotes them. A message has the form `NAME NUL KEY NUL VALUE NUL KEY NUL VALUE ...`.

use rustix::fd::{AsFd, OwnedFd};
use supervisor::event::Event;

/// A longer message is cut by the kernel and then refused here.
pub const MESSAGE_MAX: usize = 2048;

/// The next event that netcfg sent, if there is one. A message that breaks the rules is an event
/// about that.
#[must_use]
pub fn receive(channel: &OwnedFd) -> Option<Event> {
    let mut message = [0u8; MESSAGE_MAX];
    let received = rustix::net::recv(
        channel.as_fd(),
        &mut message[..],
        rustix::net::RecvFlags::DONTWAIT,
    );
    match received {
        // 0 is the end of the other side: netcfg is being restarted, with the same channel.
        Ok((0, _)) | Err(_) => None,
        Ok((count, _)) => Some(
            decode(message.get(..count).unwrap_or_default()).unwrap_or_else(|| {
                Event::new("net.warning").with("reason", "netcfg sent a malformed event")
            }),
        ),
    }
}

/// The message for an event, as [`receive`] reads it.
#[must_use]
pub fn encode(name: &str, fields: &[(&str, String)]) -> Vec<u8> {
    let mut message = name.as_bytes().to_vec();
    for (key, value) in fields {
        for part in [key.as_bytes(), value.as_bytes()] {
            message.push(0);
            // The separator cannot be part of a value.
            message.extend(part.iter().filter(|b| **b != 0));
        }
    }
    message
}

fn decode(message: &[u8]) -> Option<Event> {
    let mut parts = message.split(|b| *b == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let good_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    if !name.starts_with("net.") || name.len() > 40 || !name.bytes().all(good_name) {
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
        let event = decode(&message).unwrap();
        assert_eq!(event.name(), "net.address");
        assert_eq!(event.field("link"), Some("eth0"));
        assert_eq!(event.field("dns"), Some("1.1.1.1  8.8.8.8"));
    }

    #[test]
    fn nothing_but_net_events_comes_over() {
        for message in [
            &b"boot.healthy"[..],
            b"net.a b",
            b"net.x\0key",
            b"net.x\0k=y\0v",
            b"",
            b"net.\xff",
        ] {
            assert_eq!(decode(message), None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_survived(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(event) = decode(&message) {
                prop_assert!(event.name().starts_with("net."));
            }
        }
    }
}
