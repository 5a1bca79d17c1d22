//! The connections of netcfg's control socket.
//!
//! Anyone on the machine may connect, so everything here has a bound: clients, what is read of one at
//! a time, what waits for one. Nothing blocks, and there is no timer: a silent client costs its place
//! and nothing else, and when all places are taken the longest silent one is let go, such of other
//! users than root before root's own. One that does not read its answer is let go at the
//! next occasion after [`READ_WITHIN`].
//!
//! What changes something is only for root and for the user who runs netcfg; the kernel says who is
//! at the other end (unix(7), `SO_PEERCRED`).
//!
//! A client that does anything wrong is told so in one line and let go. One that passes a descriptor is
//! [held](super::held); when too many are, nobody is let in any more until netcfg ends.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixListener;

use super::connection::{Connection, Step};
use super::protocol::{REQUEST_MAX, Refusal, Reply, Verb, judge};
use crate::fair;

/// Clients at the same time.
pub const CLIENTS_MAX: usize = 8;

/// Connections in which a descriptor waits and which can therefore not be closed. Each takes a descriptor of
/// netcfg's own, of which the links need the rest.
pub const HELD_MAX: usize = 64;

/// An answer has at most so many bytes: a machine with a thousand links.
const OUTPUT_MAX: usize = 1 << 20;

/// How long a client may read nothing of its answer.
pub const READ_WITHIN: Duration = Duration::from_secs(10);

/// A request. Whether this user may make it is checked already.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub verb: Verb,
    /// The user.
    pub uid: u32,
    /// For the answer.
    pub client: Client,
}

/// The client of a request, which waits for its answer. One that is gone is not answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Client(u64);

/// See the module.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    owner: u32,
    clients: BTreeMap<u64, Connection>,
    last: u64,
    held: Vec<UnixStream>,
    warning: Option<String>,
}

impl Server {
    /// Listens at `path`, in place of the socket of a predecessor. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// Names the path, if something else than a socket is there or it cannot be made.
    pub fn bind(path: &Path) -> io::Result<Server> {
        let fail =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match path.symlink_metadata() {
            Ok(old) if old.file_type().is_socket() => fs::remove_file(path).map_err(fail)?,
            Ok(_) => {
                let kind = io::ErrorKind::AlreadyExists;
                let text = "is there and is no socket; remove it";
                return Err(fail(io::Error::new(kind, text)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        // Connecting takes the right to write (unix(7)); who may ask what is judged by request.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(fail)?;
        Ok(Server {
            listener,
            owner: rustix::process::geteuid().as_raw(),
            clients: BTreeMap::new(),
            last: 0,
            held: Vec::new(),
            warning: None,
        })
    }

    /// Clients at present.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// What happened since the last call that an operator should know.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// The next request. Takes connections, reads and sends as far as that goes now.
    pub fn poll_request(&mut self, cx: &mut Context<'_>, now: Duration) -> Poll<Request> {
        let deaf = |client: &Connection| {
            let since = client.deaf_since();
            since.is_some_and(|since| now.saturating_sub(since) >= READ_WITHIN)
        };
        for (_, client) in self.clients.extract_if(.., |_, client| deaf(client)) {
            hold(client, &mut self.held, &mut self.warning);
        }
        self.accept(cx, now);
        let ids: Vec<u64> = self.clients.keys().copied().collect();
        for id in ids {
            if let Some((verb, uid)) = self.step(id, cx, now) {
                let client = Client(id);
                return Poll::Ready(Request { verb, uid, client });
            }
        }
        Poll::Pending
    }

    /// Answers a request. The client may ask again afterwards.
    pub fn reply(&mut self, client: &Client, reply: &Reply, now: Duration) {
        match serde_json::to_string(reply) {
            Ok(line) if line.len() < OUTPUT_MAX => self.answer(client, &line, false, now),
            Ok(line) => {
                let text = format!(
                    "the answer has {} bytes, more than {OUTPUT_MAX}",
                    line.len()
                );
                self.refuse(client, &text, now);
            }
            Err(error) => self.refuse(client, &error.to_string(), now),
        }
    }

    /// Answers a request by what is wrong with it, and lets the client go.
    pub fn refuse(&mut self, client: &Client, text: &str, now: Duration) {
        self.answer(client, &refusal(text), true, now);
    }

    /// What the client takes of it is sent when it is polled next.
    fn answer(&mut self, client: &Client, line: &str, last: bool, now: Duration) {
        let asked = self.clients.get_mut(&client.0);
        if let Some(connection) = asked.filter(|connection| connection.is_asked()) {
            connection.answer(line, last, now);
        }
    }

    fn accept(&mut self, cx: &mut Context<'_>, now: Duration) {
        if self.held.len() >= HELD_MAX {
            return;
        }
        let mut accepted = Vec::new();
        let listener = &self.listener;
        let poll = |cx: &mut Context<'_>| match listener.poll_accept(cx) {
            Poll::Ready(Ok((stream, _))) => Poll::Ready(stream),
            // The kernel has no descriptor for it (accept(2), `EMFILE`): at the next occasion, for it
            // would be announced again and again.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        };
        fair::take(cx, poll, |stream| {
            accepted.push(stream);
            ControlFlow::Continue(())
        });
        for stream in accepted {
            // Who it is cannot be said of one that is gone already.
            let Ok(peer) = stream.peer_cred() else {
                continue;
            };
            self.make_room();
            self.last += 1;
            let connection = Connection::new(stream, peer.uid(), now);
            self.clients.insert(self.last, connection);
        }
    }

    /// Lets the longest silent client go if there is no place: another user's before root's.
    fn make_room(&mut self) {
        if self.clients.len() < CLIENTS_MAX {
            return;
        }
        let order = |(id, client): &(&u64, &Connection)| {
            (client.is_asked(), client.uid == 0, client.since, **id)
        };
        let silent = self.clients.iter().min_by_key(order).map(|(id, _)| *id);
        if let Some(id) = silent {
            self.remove(id);
        }
    }

    /// Lets a client go.
    fn remove(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            hold(client, &mut self.held, &mut self.warning);
        }
    }

    /// Looks at one client; its request, if that is complete now and it may make it.
    fn step(&mut self, id: u64, cx: &mut Context<'_>, now: Duration) -> Option<(Verb, u32)> {
        loop {
            let connection = self.clients.get_mut(&id)?;
            let uid = connection.uid;
            let wrong = match connection.poll_step(cx, now) {
                Poll::Pending => return None,
                Poll::Ready(Step::Gone | Step::Descriptor) => {
                    self.remove(id);
                    return None;
                }
                Poll::Ready(Step::Line(line)) => match judge(&line, uid, self.owner) {
                    Ok(verb) => return Some((verb, uid)),
                    Err(wrong) => wrong,
                },
                Poll::Ready(Step::TooLong) => {
                    format!("a request has at most {REQUEST_MAX} bytes")
                }
            };
            connection.answer(&refusal(&wrong), true, now);
        }
    }
}

/// Ends a connection, or keeps it in `held` if it must not be closed.
fn hold(client: Connection, held: &mut Vec<UnixStream>, warning: &mut Option<String>) {
    let uid = client.uid;
    let Some(connection) = client.close() else {
        return;
    };
    held.push(connection);
    let mut text = format!("uid {uid} passed a descriptor, which is kept and not closed");
    if held.len() >= HELD_MAX {
        text.push_str("; there are too many: nobody is let in until netcfg is started again");
    }
    *warning = Some(text);
}

fn refusal(text: &str) -> String {
    let refusal = Refusal {
        ok: false,
        error: text.to_owned(),
    };
    serde_json::to_string(&refusal).unwrap_or_default()
}

#[cfg(test)]
mod tests;
