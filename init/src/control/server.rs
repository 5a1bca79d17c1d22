//! The connections of PID 1's control socket.
//!
//! Anyone on the machine may connect, so everything here has a bound: clients, and clients of one user,
//! what is read of one at a time, what waits for one, and how long one may be silent. Nothing blocks,
//! and there is no loop and no clock of its own: whoever owns the [`Server`] watches its sockets,
//! hands in what is ready, and answers what is [`Asked`].
//!
//! What changes something, or shows what a service wrote, is only for root and for the user who runs
//! init; the kernel says who is at the other end ([`crate::sys::peer`]). Part of the places is kept for
//! root, so that no number of other users locks it out.
//!
//! A client that does anything wrong is told so in one line and let go.

use super::connection::{Connection, Phase, Read};
use super::output::OUTPUT_MAX;
use super::protocol::{EventLine, REQUEST_MAX, Refusal, Reply, Request};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    send, socket_with,
};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use supervisor::Time;
use supervisor::driver::Token;
use supervisor::poller::{Poller, Watched};
use supervisor::received::{ReceivedFd, Source};
use supervisor::token_bucket::TokenBucket;

/// Clients at the same time.
pub const CLIENTS_MAX: usize = 32;

/// Of these, such that are not root's.
const OTHERS_MAX: usize = 24;

/// Of these, such of one user.
const ONE_USER_MAX: usize = 8;

/// Connections taken at a time, so that a flood of them does not keep the loop from its work.
const ACCEPT_MAX: usize = 16;

/// Connections that may wait in the kernel to be taken.
const BACKLOG: i32 = 64;

/// How long no connection is taken after the kernel had no descriptor for one (accept(2), `EMFILE`):
/// it would be announced again and again.
const PAUSE: Time = Time::from_secs(1);

/// The number of the listener among the tokens; clients have the others.
const LISTENER: u32 = 0;

/// Reads of the clients of one user at once, root and who runs init apart: a request is one or two ...
const READS_AT_ONCE: u32 = 40;

/// ... and after which time a further one. What comes earlier waits in the kernel; nothing is refused.
const READ_EVERY: Time = Time::from_millis(50);

/// Users whose rate is remembered. Those who have not asked for a while are forgotten first.
const RATES_MAX: usize = 256;

/// A request, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The connection, for the answer.
    pub id: u32,
    /// What is asked. Whether this user may is checked already.
    pub request: Request,
    /// The user.
    pub uid: u32,
    /// The process that connected; 0 if it is in none of our PID namespaces.
    pub pid: i32,
    /// Whether that is root or who runs init, who may see what services write.
    pub trusted: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    listener: Watched<OwnedFd>,
    owner: u32,
    source: Source,
    poller: Poller,
    /// The kind of the tokens: number 0 is the listener, the others are clients.
    kind: u8,
    clients: BTreeMap<u32, Watched<Connection>>,
    /// By user, how often he may still ask.
    rates: BTreeMap<u32, TokenBucket>,
    last: u32,
    paused: Option<Time>,
}

impl Server {
    /// Listens at `path`, in place of the socket of a predecessor. Its sockets are reported by `poller`
    /// with tokens of this kind; what clients send comes from `source`.
    ///
    /// # Errors
    /// Names the path, if something else than a socket is there or it cannot be made.
    pub fn bind(
        path: &Path,
        owner_uid: u32,
        source: Source,
        poller: &Poller,
        kind: u8,
    ) -> io::Result<Self> {
        let fail = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        match path.symlink_metadata() {
            Ok(old) if old.file_type().is_socket() => std::fs::remove_file(path).map_err(fail)?,
            Ok(_) => {
                let kind = io::ErrorKind::AlreadyExists;
                return Err(fail(io::Error::new(kind, "is there and is no socket")));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
        }
        let listener = listen_at(path).map_err(|e| fail(e.into()))?;
        Ok(Self {
            listener: poller.own(
                listener,
                Token {
                    kind,
                    number: LISTENER,
                },
            ),
            owner: owner_uid,
            source,
            poller: poller.clone(),
            kind,
            clients: BTreeMap::new(),
            rates: BTreeMap::new(),
            last: 0,
            paused: None,
        })
    }

    /// Clients at present.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Has looked for what is of interest from now on. To be called before every wait.
    ///
    /// Hang-ups are reported in any case (epoll_ctl(2), `EPOLLHUP`). The end of only the client's side
    /// is not looked for: `printf ... | nc -N` has ended its side and wants its answer.
    pub fn watch(&mut self) {
        let takes = self.paused.is_none() && self.source.may_receive();
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, takes);
        // Without the listener there are no clients; the rest of the machine does not need them.
        let _ = self.listener.set_interest(interest);
        self.clients.retain(|_, connection| {
            let (read, write) = connection.wants();
            let mut interest = EventFlags::empty();
            interest.set(EventFlags::IN, read && self.source.may_receive());
            interest.set(EventFlags::OUT, write);
            connection.set_interest(interest).is_ok()
        });
    }

    /// Takes who wants to connect; the new connections.
    fn accept(&mut self, now: Time) -> Vec<u32> {
        let mut new = Vec::new();
        for _ in 0..ACCEPT_MAX {
            if !self.source.may_receive() {
                break;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.listener, flags) {
                Ok(fd) => new.extend(self.admit(self.source.accepted(fd), now)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.paused = Some(now + PAUSE);
                    break;
                }
            }
        }
        new
    }

    fn admit(&mut self, fd: ReceivedFd, now: Time) -> Option<u32> {
        let (uid, pid) = crate::sys::peer(&fd).ok()?;
        let of =
            |which: &dyn Fn(u32) -> bool| self.clients.values().filter(|c| which(c.uid)).count();
        let full = self.clients.len() >= CLIENTS_MAX
            || uid != 0 && (of(&|u| u != 0) >= OTHERS_MAX || of(&|u| u == uid) >= ONE_USER_MAX);
        if full {
            let mut line = refusal("too many clients are connected; try again when some are gone");
            line.push('\n');
            let _ = send(&fd, line.as_bytes(), SendFlags::NOSIGNAL);
            return None;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != LISTENER && !self.clients.contains_key(&self.last) {
                break;
            }
        }
        let (kind, number) = (self.kind, self.last);
        let connection = Connection::new(fd, self.source.clone(), (uid, pid), now);
        let connection = self.poller.own(connection, Token { kind, number });
        self.clients.insert(number, connection);
        Some(number)
    }

    /// Handles what was reported with a token of this server.
    pub fn ready(&mut self, id: u32, flags: EventFlags, now: Time) -> Option<Asked> {
        if id == LISTENER {
            self.accept(now);
            return None;
        }
        // The last request of a client that is gone already is its wish all the same, so reading comes
        // first. It finds the end by itself.
        let (read, write) = self.clients.get(&id)?.wants();
        if read && flags.contains(EventFlags::IN) {
            return self.readable(id, now);
        }
        if write && flags.contains(EventFlags::OUT) {
            self.writable(id, now);
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.close(id);
        }
        None
    }

    /// Reads of a client; its request, if that is complete now and it may ask it.
    fn readable(&mut self, id: u32, now: Time) -> Option<Asked> {
        let uid = self.clients.get(&id)?.uid;
        let in_time = self.may_ask(uid, now);
        let connection = self.clients.get_mut(&id)?;
        if connection.phase() != Phase::Asking || !self.source.may_receive() {
            return None;
        }
        if !in_time {
            connection.rest_until(now.saturating_add(READ_EVERY));
            return None;
        }
        let line = match connection.read() {
            Read::Line(line) => line,
            Read::Partial => return None,
            Read::Gone => {
                self.close(id);
                return None;
            }
            Read::TooLong => {
                let most = format!("a request has at most {REQUEST_MAX} bytes");
                self.end_with(id, &most, now);
                return None;
            }
        };
        let (uid, pid) = (connection.uid, connection.pid);
        let trusted = uid == 0 || uid == self.owner;
        match serde_json::from_slice::<Request>(&line) {
            Err(e) => self.end_with(id, &not_understood(&line, &e), now),
            Ok(request) if !request.is_open() && !trusted => {
                let only = format!(
                    "only root and the user who runs init (uid {}) may ask this, not uid {uid}",
                    self.owner
                );
                self.end_with(id, &only, now);
            }
            Ok(request) => {
                connection.enter(Phase::Asked, now);
                return Some(Asked {
                    id,
                    request,
                    uid,
                    pid,
                    trusted,
                });
            }
        }
        None
    }

    /// Whether something of this user is read now, by his rate.
    fn may_ask(&mut self, uid: u32, now: Time) -> bool {
        if uid == 0 || uid == self.owner {
            return true;
        }
        if self.rates.len() >= RATES_MAX && !self.rates.contains_key(&uid) {
            // Whose bucket is full again is as good as forgotten.
            let is_full = |bucket: &TokenBucket| bucket.clone().take(now, READS_AT_ONCE);
            self.rates.retain(|_, bucket| !is_full(bucket));
            if self.rates.len() >= RATES_MAX {
                return false;
            }
        }
        let fresh = || TokenBucket::new(READS_AT_ONCE, READ_EVERY);
        self.rates.entry(uid).or_insert_with(fresh).take(now, 1)
    }

    /// Sends on to a client.
    fn writable(&mut self, id: u32, now: Time) {
        if self.clients.get_mut(&id).is_some_and(|c| !c.flush(now)) {
            self.close(id);
        }
    }

    /// Answers a request. The client may ask again afterwards.
    pub fn reply(&mut self, id: u32, reply: &Reply, now: Time) {
        match serde_json::to_string(reply) {
            Ok(line) if line.len() < OUTPUT_MAX => {
                if let Some(connection) = self.asked(id) {
                    connection.output.push(&line);
                    connection.enter(Phase::Answering { last: false }, now);
                    self.writable(id, now);
                }
            }
            Ok(line) => {
                let (length, most) = (line.len(), OUTPUT_MAX);
                let text =
                    format!("the answer has {length} bytes, more than {most}; ask for one service");
                self.refuse(id, &text, now);
            }
            Err(e) => self.refuse(id, &e.to_string(), now),
        }
    }

    /// Answers a request by what is wrong with it, and lets the client go.
    pub fn refuse(&mut self, id: u32, text: &str, now: Time) {
        if self.asked(id).is_some() {
            self.end_with(id, text, now);
        }
    }

    /// Answers a request by lines: these, the newest of them if they are too many, and with `follow`
    /// what is [published](Self::publish) from now on.
    pub fn stream(&mut self, id: u32, lines: &[String], follow: bool, now: Time) {
        if let Some(connection) = self.asked(id) {
            connection.output.push(r#"{"ok":true}"#);
            connection.output.push_newest(lines);
            let phase = if follow {
                Phase::Following
            } else {
                Phase::Answering { last: true }
            };
            connection.enter(phase, now);
            self.writable(id, now);
        }
    }

    /// Whether [`Server::publish`] has anybody to send to.
    #[must_use]
    pub fn has_followers(&self) -> bool {
        let mut clients = self.clients.values();
        clients.any(|c| c.phase() == Phase::Following)
    }

    /// Sends an event to whoever follows.
    pub fn publish(&mut self, event: &EventLine, now: Time) {
        let line = serde_json::to_string(event).unwrap_or_default();
        self.clients.retain(|_, connection| {
            if connection.phase() != Phase::Following {
                return true;
            }
            connection.output.offer(&line);
            connection.flush(now)
        });
    }

    /// Gives away a connection whose request waits for an answer, by this function, which passes it to
    /// another process. Nothing was sent on it yet, and nothing read beyond the request.
    pub fn give_away(&mut self, id: u32, give: impl FnOnce(BorrowedFd<'_>)) {
        if self.asked(id).is_none() {
            return;
        }
        if let Some(mut connection) = self.clients.remove(&id) {
            connection.unwatch();
            connection.set_shared();
            give(connection.as_fd());
        }
    }

    /// Lets a client go.
    pub fn close(&mut self, id: u32) {
        self.clients.remove(&id);
    }

    /// When to call [`expire`](Self::expire) next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let clients = self.clients.values().filter_map(|c| c.deadline());
        clients.chain(self.paused).min()
    }

    /// Lets go who was silent or did not read for too long, and reads on of who has rested.
    pub fn expire(&mut self, now: Time) {
        self.clients.retain(|_, c| {
            c.wake(now);
            !c.has_expired(now)
        });
        self.paused = self.paused.filter(|end| *end > now);
    }

    fn asked(&mut self, id: u32) -> Option<&mut Connection> {
        let connection = self.clients.get_mut(&id)?;
        Some(&mut **connection).filter(|c| c.phase() == Phase::Asked)
    }

    /// The last that a client hears.
    fn end_with(&mut self, id: u32, text: &str, now: Time) {
        if let Some(connection) = self.clients.get_mut(&id) {
            connection.output.push(&refusal(text));
            connection.enter(Phase::Answering { last: true }, now);
            self.writable(id, now);
        }
    }
}

fn listen_at(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    // Connecting takes the right to write (unix(7)); who may ask what is judged by request.
    rustix::fs::chmod(path, Mode::from_raw_mode(0o666))?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}

fn refusal(text: &str) -> String {
    let refusal = Refusal {
        ok: false,
        error: text.to_owned(),
    };
    serde_json::to_string(&refusal).unwrap_or_default()
}

/// What somebody is told whose request is not one of ours. The verbs of the network and of the slots are of
/// other sockets, which a container does not have.
fn not_understood(line: &[u8], error: &serde_json::Error) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        verb: String,
    }
    const ELSEWHERE: [&str; 7] = [
        "net", "renew", "release", "slots", "update", "bless", "rollback",
    ];
    match serde_json::from_slice::<Named>(line) {
        Ok(Named { verb }) if ELSEWHERE.contains(&verb.as_str()) => format!(
            "init itself does not answer `{verb}`: on a machine netcfg does, in /run/netcfg, or the slot daemon, in \
             /run/slots; a container has neither"
        ),
        _ => format!("the request is not understood: {error}"),
    }
}

#[cfg(test)]
mod tests;
