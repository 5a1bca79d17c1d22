//! The channel to PID 1: requests of clients come, sums of losses go. See [`super::protocol`].

use super::losses::Losses;
use super::protocol::{MESSAGE_MAX, Request};
use crate::Time;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use std::mem::MaybeUninit;

/// How often sums are sent, at most.
const PAUSE: Time = Time::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
    open: bool,
    /// The socket was full: nothing is sent before it has room.
    full: bool,
    /// When the next report may be sent.
    due: Time,
}

impl Control {
    /// Works on this socket.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            open: true,
            full: false,
            due: Time::ZERO,
        }
    }

    /// What to wait for.
    #[must_use]
    pub fn wants(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let room = if self.full {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        self.open.then(|| (self.fd.as_fd(), PollFlags::IN | room))
    }

    /// There is room again.
    pub fn has_room(&mut self) {
        self.full = false;
    }

    /// The next request, `None` in its place if it was malformed, and the client who asked. A
    /// message without exactly one descriptor has nobody to answer, and is dropped with what it
    /// brought.
    pub fn receive(&mut self) -> Option<(Option<Request>, OwnedFd)> {
        while self.open {
            let mut message = [0u8; MESSAGE_MAX];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.fd,
                &mut [IoSliceMut::new(&mut message)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
            );
            let received = match received {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return None,
                Ok(received) if received.bytes > 0 => received,
                // The other end is gone, and with it whoever could ask.
                Ok(_) | Err(_) => {
                    self.open = false;
                    return None;
                }
            };
            let mut clients: Vec<OwnedFd> = Vec::new();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                    clients.extend(descriptors);
                }
            }
            let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
            let whole = !received.flags.intersects(cut);
            if let (true, Some(client), 0) = (whole, clients.pop(), clients.len()) {
                let message = message.get(..received.bytes).unwrap_or_default();
                return Some((Request::decode(message), client));
            }
        }
        None
    }

    /// When [`Control::report`] has something to do.
    #[must_use]
    pub fn due(&self, losses: &Losses) -> Option<Time> {
        (self.open && !self.full && losses.changed()).then_some(self.due)
    }

    /// Sends the sums that changed, if it is time to.
    pub fn report(&mut self, losses: &mut Losses, now: Time) {
        if self.due(losses).is_none_or(|due| now < due) {
            return;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.full = !losses.report(|r| send(&self.fd, &r.encode(), flags).is_ok());
        self.due = now + PAUSE;
    }

    /// The next report does not wait for its time: there will be no other occasion.
    pub fn hurry(&mut self) {
        self.due = Time::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::super::losses::Reason;
    use super::super::protocol::{Report, hand_over};
    use super::*;
    use rustix::io::IoSlice;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SocketFlags, SocketType, sendmsg,
        socketpair,
    };

    fn pair() -> (Control, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Control::new(ours), theirs)
    }

    fn send_with(channel: &OwnedFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let slices = [IoSlice::new(message)];
        sendmsg(channel, &slices, &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_client_that_is_handed_over_arrives_with_its_request() {
        let (mut control, channel) = pair();
        let (client, theirs) = rustix::pipe::pipe().unwrap();
        let request = Request::Exits { service: None };
        hand_over(channel.as_fd(), &request, theirs.as_fd()).unwrap();
        drop(theirs);
        let (received, descriptor) = control.receive().unwrap();
        assert_eq!(received, Some(request));
        let flags = rustix::io::fcntl_getfd(&descriptor).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        rustix::io::write(&descriptor, b"x").unwrap();
        let mut byte = [0u8; 2];
        assert_eq!(rustix::io::read(&client, &mut byte), Ok(1));
        assert!(control.receive().is_none());
    }

    #[test]
    fn messages_that_break_the_rules_leave_nothing_open() {
        let (mut control, channel) = pair();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let good = Request::Exits { service: None }.encode();
        send_with(&channel, &good, &[]);
        send_with(&channel, &good, &[write.as_fd(), write.as_fd()]);
        send_with(
            &channel,
            &good,
            &[write.as_fd(), write.as_fd(), write.as_fd()],
        );
        send_with(&channel, &vec![b' '; MESSAGE_MAX + 1], &[write.as_fd()]);
        send_with(&channel, b"what", &[write.as_fd()]);
        drop(write);
        let (request, client) = control.receive().unwrap();
        assert_eq!(request, None, "malformed, but there is somebody to tell");
        drop(client);
        assert!(control.receive().is_none());
        let mut byte = [0u8; 1];
        assert_eq!(rustix::io::read(&read, &mut byte), Ok(0), "all are closed");
        drop(channel);
        assert!(control.receive().is_none() && control.wants().is_none());
    }

    #[test]
    fn too_long_a_request_and_a_full_channel_are_errors_for_the_caller() {
        let (_control, channel) = pair();
        let (_read, write) = rustix::pipe::pipe().unwrap();
        let long = Request::Exits {
            service: Some("x".repeat(MESSAGE_MAX)),
        };
        assert!(hand_over(channel.as_fd(), &long, write.as_fd()).is_err());
        let request = Request::Exits { service: None };
        let error = loop {
            if let Err(e) = hand_over(channel.as_fd(), &request, write.as_fd()) {
                break e;
            }
        };
        // ETOOMANYREFS comes first where a user may have few descriptors in flight (unix(7)).
        let full = [
            Errno::AGAIN.raw_os_error(),
            Errno::TOOMANYREFS.raw_os_error(),
        ];
        assert!(full.contains(&error.raw_os_error().unwrap()));
    }

    #[test]
    fn sums_are_reported_once_a_second_and_later_if_there_is_no_room() {
        let (mut control, channel) = pair();
        let mut losses = Losses::new(["a"].into_iter());
        let receive = || {
            let mut message = [0u8; MESSAGE_MAX];
            let received = rustix::net::recv(&channel, &mut message[..], RecvFlags::DONTWAIT);
            Report::decode(&message[..received.ok()?.0])
        };
        let lost = |console| Report::Lost {
            service: "a".into(),
            console,
            rate: 0,
            file: 0,
        };
        let second = Time::from_secs(100);
        assert_eq!(control.due(&losses), None);
        for console in 1..=2 {
            losses.add(0, Reason::Console, 1);
            control.report(&mut losses, second);
            assert_eq!(receive(), (console == 1).then(|| lost(1)));
        }
        assert_eq!(control.due(&losses), Some(second + PAUSE));
        control.report(&mut losses, second + PAUSE);
        assert_eq!(receive(), Some(lost(2)));

        // Nobody reads.
        let mut now = second + PAUSE;
        while !control.full {
            now += PAUSE;
            losses.add(0, Reason::Console, 1);
            control.report(&mut losses, now);
        }
        assert_eq!(control.due(&losses), None, "no time helps");
        let (_, flags) = control.wants().unwrap();
        assert!(flags.contains(PollFlags::OUT));
        while receive().is_some() {}
        control.has_room();
        control.report(&mut losses, now + PAUSE);
        assert!(matches!(receive(), Some(Report::Lost { console: 3.., .. })));
    }
}
