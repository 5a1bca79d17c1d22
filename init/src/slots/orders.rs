//! What PID 1 and the slot daemon tell each other: states, not commands.
//!
//! PID 1 sends the whole of what it wants, an [`Order`], whenever that changes and whenever a slot daemon
//! says that it has started ([`Report::Started`]). The daemon does what of it is not done yet. So a daemon
//! that was killed between two steps costs nothing: its successor is told the same order and looks at the
//! disk for what is left to do.
//!
//! The channel is a pair of sockets of its own, apart from the one for events: events are for people, have
//! a rate, and may be left out; an order may not. PID 1 keeps the daemon's end open too, so messages that
//! nobody has read yet outlive the daemon. A reader takes all that wait; the last order is the one that holds.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};
use std::io;

/// Bytes of a message. A longer one is cut by the kernel and then refused.
const MESSAGE_MAX: usize = 4096;

/// Bytes of a text in a message. JSON makes six bytes of a control character, so a message of one such
/// text always fits.
const TEXT_MAX: usize = 512;

/// What PID 1 wants done about the running version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Order {
    /// All required services have been healthy in this boot: updates and trials that wait have their turn.
    pub healthy: bool,
    /// What the trial of the running version has come to.
    pub verdict: Verdict,
    /// The machine is being stopped before the trial has a verdict, for a reason that is not the version's
    /// fault: this boot is not to count as one of its tries.
    pub return_try: bool,
}

/// What a trial has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    /// Nothing yet, or there is no trial.
    #[default]
    None,
    /// The version is kept.
    Bless,
    /// The version is bad, and the machine is to go back to the other one.
    Condemn {
        /// Why.
        reason: String,
    },
}

/// What the slot daemon tells PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// A daemon has started and knows no order.
    Started,
    /// How the running version stands; after each look at the slots that shows something else.
    Running(Standing),
    /// The other version starts next: the machine is to reboot.
    Reboot {
        /// Why.
        reason: String,
    },
    /// The running version was condemned, and there is nothing to go back to.
    Stuck {
        /// What was seen.
        seen: String,
    },
}

/// How the running version stands, by the name of its entry and by the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The loader started it with a counter, and it has no verdict.
    Trial,
    /// It is kept.
    Good,
    /// It was condemned or rolled back, and the machine has not rebooted yet.
    Bad,
}

/// A message that is not one of those above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// The daemon's end of the channel. That of PID 1 is a [`crate::manager::role_channel::RoleChannel`].
#[derive(Debug)]
pub struct Link(OwnedFd);

/// Sends an order from PID 1's end.
///
/// # Errors
/// `WouldBlock` if the daemon has not read for long; the order is to be sent again then.
pub fn send_order(channel: BorrowedFd<'_>, order: &Order) -> io::Result<()> {
    let mut order = order.clone();
    if let Verdict::Condemn { reason } = &mut order.verdict {
        bound(reason);
    }
    send_message(channel, &order)
}

/// Reads a report that PID 1 was sent; `None` if it is none.
#[must_use]
pub fn decode_report(message: &[u8]) -> Option<Report> {
    serde_json::from_slice(message).ok()
}

fn send_message(channel: BorrowedFd<'_>, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    send(channel, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

impl Link {
    /// This end.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// What to wait for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends a report to PID 1.
    ///
    /// # Errors
    /// `WouldBlock` if PID 1 has not read for long.
    pub fn send_report(&self, report: &Report) -> io::Result<()> {
        let mut report = report.clone();
        match &mut report {
            Report::Reboot { reason: text } | Report::Stuck { seen: text } => bound(text),
            Report::Started | Report::Running(_) => {}
        }
        send_message(self.fd(), &report)
    }

    /// The next order, if one waits.
    #[must_use]
    pub fn receive(&self) -> Option<Result<Order, Malformed>> {
        let mut message = [0u8; MESSAGE_MAX];
        let (count, _) = recv(&self.0, &mut message[..], RecvFlags::DONTWAIT).ok()?;
        // 0 is the end of the other side, which PID 1 keeps open: it is a daemon whose PID 1 is gone.
        let bytes = message.get(..count).filter(|bytes| !bytes.is_empty())?;
        Some(serde_json::from_slice(bytes).map_err(|e| Malformed(e.to_string())))
    }
}

fn bound(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn read(end: &OwnedFd) -> Vec<u8> {
        let mut message = [0u8; MESSAGE_MAX];
        let (count, _) = recv(end, &mut message[..], RecvFlags::DONTWAIT).unwrap();
        message[..count].to_vec()
    }

    #[test]
    fn messages_come_over_whole_and_in_order() {
        let (ours, theirs) = pair();
        let theirs = Link::new(theirs);
        let order = Order {
            healthy: true,
            verdict: Verdict::Condemn {
                reason: "no health".into(),
            },
            return_try: false,
        };
        send_order(ours.as_fd(), &Order::default()).unwrap();
        send_order(ours.as_fd(), &order).unwrap();
        assert_eq!(theirs.receive(), Some(Ok(Order::default())));
        assert_eq!(theirs.receive(), Some(Ok(order)));
        assert_eq!(theirs.receive(), None);
        for report in [
            Report::Started,
            Report::Running(Standing::Bad),
            Report::Reboot { reason: "x".into() },
        ] {
            theirs.send_report(&report).unwrap();
            assert_eq!(decode_report(&read(&ours)), Some(report));
        }
    }

    #[test]
    fn the_longest_text_fits_a_message() {
        let (ours, theirs) = pair();
        // Each becomes six bytes of JSON.
        let seen = "\u{1}".repeat(4000);
        Link::new(theirs)
            .send_report(&Report::Stuck { seen })
            .unwrap();
        let seen = "\u{1}".repeat(TEXT_MAX);
        assert_eq!(decode_report(&read(&ours)), Some(Report::Stuck { seen }));
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody() {
        let (ours, _theirs) = pair();
        let full = (0..100_000).find_map(|_| send_order(ours.as_fd(), &Order::default()).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    proptest! {
        #[test]
        fn any_message_is_survived(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let (ours, theirs) = pair();
            send(&ours, &bytes, SendFlags::NOSIGNAL).unwrap();
            prop_assert!(Link::new(theirs).receive().is_some());
            let _ = decode_report(&bytes);
        }
    }
}
