//! The hostname, when the image gives none: the first that a DHCP server names.
//!
//! The configuration's `system.hostname` is final. Without it the machine takes the name from the first
//! `net.address` that has one, and later ones only of the same link: with two links, whichever
//! was there first names the machine, and it does not change names as the other one comes and goes.
//!
//! A server may say anything, and the name ends up in prompts, logs and scripts. So it is taken only
//! if it is a host name by the letter (RFC 952, RFC 1123, section 2.1): labels of letters, digits and
//! inner hyphens, of at most 63 bytes. The whole name is taken if it fits the kernel's 64 bytes
//! (`__NEW_UTS_LEN`), otherwise its first label, as systemd-networkd does it.

use supervisor::event::{Event, EventSink};

/// sethostname(2): `HOST_NAME_MAX`.
const NAME_MAX: usize = 64;

/// RFC 1035, section 2.3.4.
const LABEL_MAX: usize = 63;

/// Who names the machine.
#[derive(Debug)]
pub struct Hostname {
    /// The configuration has spoken.
    fixed: bool,
    /// The link whose servers name it, and the present name.
    given: Option<(String, String)>,
}

impl Hostname {
    /// `fixed` if the configuration names it.
    #[must_use]
    pub fn new(fixed: bool) -> Self {
        Self { fixed, given: None }
    }

    /// Sets the name that a `net.address` brings, if it is to be the machine's.
    pub fn take(&mut self, address: &Event, sink: &mut dyn EventSink) {
        let Some(name) = self.decide(address) else {
            return;
        };
        sink.emit(match rustix::system::sethostname(name.as_bytes()) {
            Ok(()) => Event::new("system.hostname")
                .with("hostname", name)
                .with("source", "dhcp"),
            Err(e) => Event::new("boot.warning")
                .with("what", "hostname")
                .with("seen", format!("{name}: {}", std::io::Error::from(e))),
        });
    }

    /// The machine's new name, if it gets one.
    fn decide(&mut self, address: &Event) -> Option<String> {
        let name = acceptable(address.field("hostname")?)?;
        let link = address.field("link")?;
        let ours = self.given.as_ref();
        let wanted = ours.is_none_or(|(first, present)| first == link && present != name);
        if self.fixed || !wanted {
            return None;
        }
        self.given = Some((link.to_owned(), name.to_owned()));
        Some(name.to_owned())
    }
}

/// Whether the configuration can give the machine this name, by the same rule, but whole.
///
/// # Errors
/// Says what a name is made of.
pub fn check(name: &str) -> Result<(), String> {
    if acceptable(name) == Some(name) {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the host name; write letters, digits and inner hyphens, \
         up to {NAME_MAX} bytes, as in \"node-7\""
    ))
}

/// What of a name can be the machine's.
fn acceptable(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let first = name.split('.').next()?;
    let good = name.split('.').all(is_label);
    // "localhost" would be taken for this very machine by everybody, and a number for an address.
    let misleading = first.eq_ignore_ascii_case("localhost")
        || name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let fitting = if name.len() <= NAME_MAX { name } else { first };
    (good && !misleading).then_some(fitting)
}

fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(link: &str, name: &str) -> Event {
        Event::new("net.address")
            .with("link", link)
            .with("hostname", name)
    }

    #[test]
    fn host_names_by_the_letter() {
        let label = "a".repeat(63);
        let long = format!("{label}.example");
        for (name, taken) in [
            ("node-7", Some("node-7")),
            ("Node7.example.org.", Some("Node7.example.org")),
            ("7up", Some("7up")),
            (&*label, Some(&*label)),
            (&long, Some(&*label)),
            ("", None),
            (".", None),
            ("a..b", None),
            ("-a", None),
            ("a-.b", None),
            ("a_b", None),
            ("a b", None),
            ("$(reboot)", None),
            ("n\u{f6}de", None),
            ("localhost", None),
            ("LOCALHOST.localdomain", None),
            ("10.0.0.1", None),
            (&"a".repeat(64), None),
        ] {
            assert_eq!(acceptable(name), taken, "{name}");
        }
    }

    #[test]
    fn the_first_link_names_the_machine() {
        let mut hostname = Hostname::new(false);
        let nameless = Event::new("net.address").with("link", "eth1");
        assert_eq!(hostname.decide(&nameless), None);
        assert_eq!(hostname.decide(&address("eth1", "a b")), None);
        assert_eq!(hostname.decide(&address("eth0", "a")), Some("a".into()));
        assert_eq!(hostname.decide(&address("eth1", "b")), None);
        assert_eq!(hostname.decide(&address("eth0", "a")), None, "the same");
        assert_eq!(hostname.decide(&address("eth0", "c")), Some("c".into()));
        assert_eq!(Hostname::new(true).decide(&address("eth0", "a")), None);
    }

    proptest! {
        #[test]
        fn whatever_is_said_only_host_names_are_taken(name in "[a-zA-Z0-9.\\-_ \u{80}-\u{ff}]{0,90}|.*") {
            if let Some(taken) = acceptable(&name) {
                prop_assert!(name.starts_with(taken) && (1..=64).contains(&taken.len()));
                let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
                prop_assert!(taken.bytes().all(good));
            }
        }
    }
}
