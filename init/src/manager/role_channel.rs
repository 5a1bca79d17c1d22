//! PID 1's end of a channel from one of its own roles.
//!
//! It is a `SOCK_SEQPACKET` socket, and every loop of PID 1 that reads one is here: so many messages a turn, as the
//! epoll is level-triggered and brings the rest; each judged by [`Conduct`], with its sender by the kernel's word
//! (`SO_PASSCRED`, unix(7)). What a message means is its owner's matter, who hands in how to decode it.

use super::conduct::{Conduct, Judgement};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use std::io;
use supervisor::Time;
use supervisor::driver::Token;
use supervisor::event::Event;
use supervisor::poller::{Poller, Watched};
use supervisor::received::Source;

/// A longer message is malformed.
const MESSAGE_MAX: usize = 4096;

/// Messages that are taken of one channel in one turn of the loop.
pub const BATCH: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct RoleChannel {
    service: &'static str,
    fd: Watched<OwnedFd>,
    /// Of descriptors, which no role sends, but somebody in its place may.
    source: Source,
    conduct: Conduct,
}

/// A message, decoded, and the process that sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<T> {
    /// Its content.
    pub content: T,
    /// The sender.
    pub pid: i32,
}

/// What a turn brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<T> {
    /// The messages that count, in their order.
    pub messages: Vec<Message<T>>,
    /// Why the role is to be killed, if it is.
    pub condemned: Option<String>,
}

impl RoleChannel {
    /// Makes a channel of this service, and has `poller` report with this token when something waits in it; returns
    /// the service's end, too. What descriptors come belong to `source`.
    ///
    /// # Errors
    /// If the kernel gives no socket, or what epoll_ctl(2) says.
    pub fn pair(
        service: &'static str,
        source: Source,
        poller: &Poller,
        token: Token,
    ) -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        sockopt::set_socket_passcred(&fd, true)?;
        // Where the kernel has this, no descriptor comes; where it has not, who sends one is condemned.
        supervisor::sys::set_passrights(fd.as_fd(), false);
        let channel = Self {
            service,
            fd: poller.watch(fd, token, EventFlags::IN)?,
            source,
            conduct: Conduct::default(),
        };
        Ok((channel, theirs))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// Has the epoll look for messages only while they can be taken: while the descriptors of earlier ones wait to
    /// be closed, what is left in the channel would wake the loop for nothing, over and over. To be called before
    /// each wait.
    pub fn listen_if_room(&mut self) {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, self.source.may_receive());
        let _ = self.fd.set_interest(interest);
    }

    /// To send.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes what came, up to [`BATCH`] messages. `decode` gives the content of a message and how many bytes of
    /// events it tells; `None`: it is malformed.
    pub fn receive<T>(
        &mut self,
        now: Time,
        decode: impl Fn(&[u8]) -> Option<(T, usize)>,
    ) -> Taken<T> {
        let mut taken = Taken {
            messages: Vec::new(),
            condemned: None,
        };
        for _ in 0..BATCH {
            // Until what came before is closed, which takes a child a moment.
            if !self.source.may_receive() {
                break;
            }
            let mut data = [0u8; MESSAGE_MAX];
            let received = supervisor::sys::receive(self.fd.as_fd(), &mut data, &self.source);
            let Ok(received) = received else {
                break;
            };
            // An end of the other side has no sender, an empty message has. While PID 1 holds that side for the
            // role's successor there is no end.
            let Some(sender) = received.sender else {
                break;
            };
            if !received.descriptors.is_empty() {
                taken.condemned = self.conduct.condemn(now, sender.pid).or(taken.condemned);
                continue;
            }
            let message = data.get(..received.bytes).filter(|_| !received.truncated);
            let decoded = message.and_then(&decode);
            let tells = decoded.as_ref().map_or(0, |(_, bytes)| *bytes);
            let tells = u32::try_from(tells).unwrap_or(u32::MAX);
            match self
                .conduct
                .judge(now, sender.pid, decoded.is_some(), tells)
            {
                Judgement::Take => taken.messages.extend(decoded.map(|(content, _)| Message {
                    content,
                    pid: sender.pid,
                })),
                Judgement::Drop => {}
                Judgement::Condemn(why) => taken.condemned = Some(why),
            }
        }
        taken
    }

    /// When [`RoleChannel::warning`] has something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.conduct.deadline()
    }

    /// How much was dropped, if it is time to tell that.
    pub fn warning(&mut self, now: Time) -> Option<Event> {
        self.conduct.warning(now, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use supervisor::received::Closer;

    const NOW: Time = Time::from_secs(100);

    const TOKEN: Token = Token { kind: 1, number: 7 };

    fn pair(source: Source) -> (RoleChannel, OwnedFd) {
        RoleChannel::pair("netcfg", source, &Poller::new().unwrap(), TOKEN).unwrap()
    }

    fn send(end: &OwnedFd, message: &[u8]) {
        rustix::net::send(end, message, SendFlags::DONTWAIT).unwrap();
    }

    fn text(message: &[u8]) -> Option<(String, usize)> {
        let text = std::str::from_utf8(message).ok()?.to_owned();
        (!text.is_empty()).then_some((text, message.len()))
    }

    #[test]
    fn a_turn_takes_so_many_messages_and_the_next_takes_the_rest() {
        let closer = Closer::new(usize::MAX).unwrap();
        let (mut channel, end) = pair(closer.source());
        for number in 0..BATCH + 3 {
            send(&end, number.to_string().as_bytes());
        }
        let own = i32::try_from(std::process::id()).unwrap();
        let contents = |taken: Taken<String>| -> Vec<String> {
            assert_eq!(taken.condemned, None);
            assert!(taken.messages.iter().all(|m| m.pid == own));
            taken.messages.into_iter().map(|m| m.content).collect()
        };
        let numbers = |range: std::ops::Range<usize>| -> Vec<String> {
            range.map(|number| number.to_string()).collect()
        };
        assert_eq!(contents(channel.receive(NOW, text)), numbers(0..BATCH));
        let rest = contents(channel.receive(NOW, text));
        assert_eq!(rest, numbers(BATCH..BATCH + 3));
        assert!(channel.receive(NOW, text).messages.is_empty());
    }

    #[test]
    fn what_is_no_message_is_counted() {
        let closer = Closer::new(usize::MAX).unwrap();
        let (mut channel, end) = pair(closer.source());
        send(&end, b"");
        send(&end, b"\xff");
        send(&end, &[b'x'; MESSAGE_MAX + 1]);
        send(&end, b"good");
        let taken = channel.receive(NOW, text);
        assert_eq!(taken.messages.len(), 1);
        let told = channel.warning(NOW).unwrap();
        assert_eq!(told.field("malformed"), Some("3"));
        assert_eq!(told.field("service"), Some("netcfg"));
        assert_eq!(channel.warning(NOW), None);
    }

    fn send_descriptor(end: &OwnedFd) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = [end.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let message = [IoSlice::new(b"good")];
        sendmsg(end, &message, &mut control, SendFlags::empty())
    }

    #[test]
    fn a_kernel_that_can_refuse_descriptors_does() {
        let closer = Closer::new(usize::MAX).unwrap();
        let (mut channel, end) = pair(closer.source());
        let can = supervisor::sys::set_passrights(channel.fd(), false);
        assert_eq!(send_descriptor(&end).is_err(), can);
        let taken = channel.receive(NOW, text);
        assert_eq!(taken.condemned.is_none(), can);
        assert!(taken.messages.is_empty());
    }

    #[test]
    fn who_sends_descriptors_is_no_role_of_ours() {
        let closer = Closer::new(usize::MAX).unwrap();
        let (mut channel, end) = pair(closer.source());
        // As a kernel before 6.16 has it.
        supervisor::sys::set_passrights(channel.fd(), true);
        send_descriptor(&end).unwrap();
        send(&end, b"more");
        let taken = channel.receive(NOW, text);
        assert_eq!(taken.condemned.as_deref(), Some("sends descriptors"));
        assert!(taken.messages.is_empty(), "what it goes on with is dropped");
    }

    #[test]
    fn a_channel_that_cannot_be_read_now_wakes_nobody() {
        let closer = Closer::new(usize::MAX).unwrap();
        let poller = Poller::new().unwrap();
        let source = closer.source();
        let (mut channel, end) =
            RoleChannel::pair("netcfg", source.clone(), &poller, TOKEN).unwrap();
        let ready = || {
            let mut room = [MaybeUninit::uninit(); 4];
            let zero = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            poller.wait(&mut room, Some(&zero)).unwrap().len()
        };
        supervisor::sys::set_passrights(channel.fd(), true);
        // So many that nothing is read before they are closed.
        let passed = [end.as_fd(); 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let message = [IoSlice::new(b"good")];
        sendmsg(&end, &message, &mut control, SendFlags::empty()).unwrap();
        send(&end, b"more");
        assert_eq!(ready(), 1);
        assert!(channel.receive(NOW, text).condemned.is_some());
        assert!(!source.may_receive());
        channel.listen_if_room();
        assert_eq!(ready(), 0, "one message waits");
        drop(closer);
    }

    #[test]
    fn a_flood_condemns_after_a_bounded_number_of_turns() {
        let closer = Closer::new(usize::MAX).unwrap();
        let (mut channel, end) = pair(closer.source());
        let mut turns = 0;
        let condemned = loop {
            while rustix::net::send(&end, b"x", SendFlags::DONTWAIT).is_ok() {}
            turns += 1;
            if let Some(why) = channel.receive(NOW, text).condemned {
                break why;
            }
        };
        assert_eq!(condemned, "sends messages without end");
        assert_eq!(turns, super::super::conduct::TOLERANCE as usize / BATCH + 1);
    }
}
