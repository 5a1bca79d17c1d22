//! Those who look: clients of `initctl logs`, each with a stream socket of its own.
//!
//! A client first gets what was asked for of the past, then, if it follows, every new line. Nobody
//! waits for a client: new lines queue for it up to [`LIVE_MAX`] bytes, beyond that they are
//! dropped, and when it has read half of what waits it is told how many it missed. The past is
//! not counted there: it is a bounded selection of what is in memory anyway, and shares its text.
//!
//! Nothing that a client sends is read. One that hangs up is forgotten at once.

use super::Line;
use super::protocol::{Answer, Missed, Shown, encode};
use super::ring::OVERHEAD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::rc::Rc;

/// Clients at once: somebody with a dozen terminals.
const CLIENTS_MAX: usize = 16;

/// Bytes that are made ready for a client at once.
const CHUNK: usize = 16 * 1024;

/// Bytes of new lines that wait for one client, so that with what was made ready it is 256 KiB.
const LIVE_MAX: usize = 256 * 1024 - CHUNK;

/// What a client gets.
#[derive(Debug)]
enum Item {
    /// A line that came while it was there.
    New(Line),
    /// A line of before.
    Past(Line),
    /// An exit record.
    Record(Rc<str>),
    /// So many lines were dropped here.
    Missed(u64),
}

/// Which new lines a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// None: it is done after the past.
    Nothing,
    /// Those of one source.
    One(usize),
    /// All.
    All,
}

/// What of the past a client gets.
#[derive(Debug)]
pub enum Past {
    /// Lines, in order.
    Lines(Vec<Line>),
    /// Exit records, in order.
    Records(Vec<Rc<str>>),
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    follow: Follow,
    queue: VecDeque<Item>,
    /// Bytes of new lines in the queue.
    live: usize,
    missed: u64,
    /// What was made ready, and how much of it was sent.
    ready: Vec<u8>,
    sent: usize,
    gone: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
}

impl Clients {
    /// Takes a client and begins to answer it.
    pub fn admit(&mut self, fd: OwnedFd, past: Past, follow: Follow) {
        if self.clients.len() >= CLIENTS_MAX {
            self.forget_the_gone();
        }
        if self.clients.len() >= CLIENTS_MAX {
            return refuse(
                &fd,
                "too many clients read logs; try again when one has ended",
            );
        }
        if rustix::io::ioctl_fionbio(&fd, true).is_err() {
            return;
        }
        let queue = match past {
            Past::Lines(lines) => lines.into_iter().map(Item::Past).collect(),
            Past::Records(records) => records.into_iter().map(Item::Record).collect(),
        };
        let accepted = Answer {
            ok: true,
            error: None,
        };
        self.clients.push(Client {
            fd,
            follow,
            queue,
            live: 0,
            missed: 0,
            ready: line_of(&encode(&accepted)),
            sent: 0,
            gone: false,
        });
    }

    /// Looks for hang-ups that `poll` has not told yet: somebody else may have the place now.
    fn forget_the_gone(&mut self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        self.clients.retain(|client| {
            let mut fds = [PollFd::from_borrowed_fd(
                client.fd.as_fd(),
                PollFlags::empty(),
            )];
            let _ = poll(&mut fds, Some(&now));
            fds.iter().all(|fd| fd.revents().is_empty())
        });
    }

    /// A new line, for all who follow.
    pub fn show(&mut self, line: &Line) {
        for client in &mut self.clients {
            client.show(line);
        }
    }

    /// Sends what the clients take, and forgets those who are done or gone.
    pub fn send(&mut self, names: &[String]) {
        for client in &mut self.clients {
            client.send(names);
        }
        self.clients.retain(|c| !c.gone);
    }

    /// Sends to those for whom much waits. Who is gone stays until [`Clients::send`].
    pub fn relieve(&mut self, names: &[String]) {
        let full = self.clients.iter_mut().filter(|c| c.live > LIVE_MAX / 2);
        full.for_each(|client| client.send(names));
    }

    /// What to wait for: a hang-up is always told (poll(2), `POLLHUP`).
    pub fn wants(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().map(|c| {
            let flags = if c.is_idle() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            (c.fd.as_fd(), flags)
        })
    }

    /// The client with this place in [`Clients::wants`] hung up.
    pub fn hung_up(&mut self, place: usize) {
        if let Some(client) = self.clients.get_mut(place) {
            client.gone = true;
        }
    }
}

impl Client {
    fn is_idle(&self) -> bool {
        self.sent == self.ready.len() && self.queue.is_empty()
    }

    fn show(&mut self, line: &Line) {
        let wanted = match self.follow {
            Follow::Nothing => false,
            Follow::One(source) => source == line.source,
            Follow::All => true,
        };
        if !wanted {
            return;
        }
        let cost = line.text.len() + OVERHEAD;
        // After a gap nothing comes before the gap was told, or it would stand at a wrong place.
        if self.missed > 0 || self.live + cost > LIVE_MAX {
            self.missed += 1;
        } else {
            self.live += cost;
            self.queue.push_back(Item::New(line.clone()));
        }
    }

    fn send(&mut self, names: &[String]) {
        while !self.gone {
            let rest = self.ready.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                self.gone = !self.make_ready(names) && self.follow == Follow::Nothing;
                if self.ready.is_empty() {
                    break;
                }
                continue;
            }
            match send(&self.fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.gone = true,
            }
        }
    }

    /// Makes the next bytes ready; `false`: there is nothing.
    fn make_ready(&mut self, names: &[String]) -> bool {
        self.ready.clear();
        self.sent = 0;
        while self.ready.len() < CHUNK {
            let Some(item) = self.queue.pop_front() else {
                break;
            };
            let bytes = match &item {
                Item::New(line) => {
                    self.live = self.live.saturating_sub(line.text.len() + OVERHEAD);
                    shown(line, names)
                }
                Item::Past(line) => shown(line, names),
                Item::Record(json) => json.as_bytes().to_vec(),
                Item::Missed(lost) => encode(&Missed { lost: *lost }),
            };
            self.ready.extend(line_of(&bytes));
        }
        if self.missed > 0 && self.live <= LIVE_MAX / 2 {
            self.queue.push_back(Item::Missed(self.missed));
            self.missed = 0;
        }
        !self.ready.is_empty()
    }
}

/// Tells a client that it gets nothing. A new socket has room for that.
pub fn refuse(fd: &OwnedFd, why: &str) {
    let answer = Answer {
        ok: false,
        error: Some(why.to_owned()),
    };
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = send(fd, &line_of(&encode(&answer)), flags);
}

fn shown(line: &Line, names: &[String]) -> Vec<u8> {
    encode(&Shown {
        at_ms: line.at_ms,
        service: names.get(line.source).map_or("", String::as_str).into(),
        line: (&*line.text).into(),
    })
}

fn line_of(object: &[u8]) -> Vec<u8> {
    [object, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    fn line(number: u64, source: usize, text: &str) -> Line {
        Line {
            number,
            at_ms: number,
            source,
            text: text.into(),
        }
    }

    /// What there is to read, and whether the other side is still there.
    fn read(fd: &OwnedFd) -> (String, bool) {
        let (mut all, mut buffer) = (Vec::new(), [0u8; 4096]);
        loop {
            match rustix::io::read(fd, &mut buffer) {
                Ok(0) => return (String::from_utf8(all).unwrap(), false),
                Ok(count) => all.extend(&buffer[..count]),
                Err(Errno::AGAIN) => return (String::from_utf8(all).unwrap(), true),
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn names() -> Vec<String> {
        vec!["init".into(), "a".into()]
    }

    #[test]
    fn the_past_is_answered_and_the_connection_closed() {
        let (ours, theirs) = pair();
        let mut clients = Clients::default();
        let past = Past::Lines(vec![line(5, 1, "x\"y"), line(6, 0, "z")]);
        clients.admit(ours, past, Follow::Nothing);
        clients.show(&line(7, 1, "new"));
        clients.send(&names());
        let expected = "{\"ok\":true}\n\
             {\"at_ms\":5,\"service\":\"a\",\"line\":\"x\\\"y\"}\n\
             {\"at_ms\":6,\"service\":\"init\",\"line\":\"z\"}\n";
        assert_eq!(read(&theirs), (expected.into(), false));
        assert_eq!(clients.wants().count(), 0);
    }

    #[test]
    fn who_follows_gets_what_is_wanted_and_stays() {
        let (ours, theirs) = pair();
        let mut clients = Clients::default();
        clients.admit(ours, Past::Lines(Vec::new()), Follow::One(1));
        clients.show(&line(7, 1, "mine"));
        clients.show(&line(8, 0, "not mine"));
        clients.send(&names());
        let (text, open) = read(&theirs);
        assert!(open && text.contains("\"mine\"") && !text.contains("not mine"));
        let wants: Vec<PollFlags> = clients.wants().map(|(_, flags)| flags).collect();
        assert_eq!(
            wants,
            [PollFlags::empty()],
            "nothing to wait for but its end"
        );
        drop(theirs);
        clients.hung_up(0);
        clients.send(&names());
        assert_eq!(clients.wants().count(), 0);
    }

    #[test]
    fn one_too_many_is_refused() {
        let mut clients = Clients::default();
        let pairs: Vec<OwnedFd> = (0..=CLIENTS_MAX)
            .map(|_| {
                let (ours, theirs) = pair();
                clients.admit(ours, Past::Records(Vec::new()), Follow::All);
                theirs
            })
            .collect();
        clients.send(&names());
        let (text, open) = read(pairs.last().unwrap());
        assert!(text.starts_with("{\"ok\":false,\"error\":\"too many") && !open);
        assert_eq!(read(&pairs[0]), ("{\"ok\":true}\n".into(), true));
        assert_eq!(clients.wants().count(), CLIENTS_MAX);

        // Those who are gone keep nobody out, even if nobody has told of them yet.
        drop(pairs);
        let (ours, theirs) = pair();
        clients.admit(ours, Past::Records(Vec::new()), Follow::All);
        clients.send(&names());
        assert_eq!(read(&theirs), ("{\"ok\":true}\n".into(), true));
        assert_eq!(clients.wants().count(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_came_and_what_was_missed_is_all_and_in_order(
            bursts in proptest::collection::vec((0u64..3000, any::<bool>()), 1..12),
            length in 0usize..200,
        ) {
            let (ours, theirs) = pair();
            let mut clients = Clients::default();
            clients.admit(ours, Past::Lines(Vec::new()), Follow::All);
            let (mut offered, mut text) = (0, String::new());
            for (count, reads) in bursts {
                for _ in 0..count {
                    clients.show(&line(offered, 1, &"x".repeat(length)));
                    prop_assert!(clients.clients[0].live <= LIVE_MAX);
                    offered += 1;
                }
                clients.send(&names());
                if reads {
                    text.push_str(&read(&theirs).0);
                }
            }
            while clients.wants().any(|(_, flags)| flags == PollFlags::OUT) {
                clients.send(&names());
                text.push_str(&read(&theirs).0);
            }
            text.push_str(&read(&theirs).0);
            let mut next = 0;
            for line in text.lines().skip(1) {
                if let Ok(missed) = serde_json::from_str::<Missed>(line) {
                    next += missed.lost;
                } else {
                    let shown: Shown<'_> = serde_json::from_str(line).unwrap();
                    prop_assert_eq!(shown.at_ms, next);
                    next += 1;
                }
            }
            prop_assert_eq!(next, offered);
        }
    }
}
