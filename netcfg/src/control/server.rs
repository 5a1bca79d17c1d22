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
//! A client that does anything wrong is told so in one line and let go.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixListener;

use super::connection::{Connection, Step};
use super::protocol::{REQUEST_MAX, Refusal, Reply, Verb, judge};
use crate::fair;

/// Clients at the same time.
pub const CLIENTS_MAX: usize = 8;

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
        })
    }

    /// Clients at present.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The next request. Takes connections, reads and sends as far as that goes now.
    pub fn poll_request(&mut self, cx: &mut Context<'_>, now: Duration) -> Poll<Request> {
        self.clients.retain(|_, client| {
            let deaf = client.deaf_since();
            deaf.is_none_or(|since| now.saturating_sub(since) < READ_WITHIN)
        });
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
            self.clients.remove(&id);
        }
    }

    /// Looks at one client; its request, if that is complete now and it may make it.
    fn step(&mut self, id: u64, cx: &mut Context<'_>, now: Duration) -> Option<(Verb, u32)> {
        loop {
            let connection = self.clients.get_mut(&id)?;
            let uid = connection.uid;
            let wrong = match connection.poll_step(cx, now) {
                Poll::Pending => return None,
                Poll::Ready(Step::Gone) => {
                    self.clients.remove(&id);
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

fn refusal(text: &str) -> String {
    let refusal = Refusal {
        ok: false,
        error: text.to_owned(),
    };
    serde_json::to_string(&refusal).unwrap_or_default()
}

#[cfg(test)]
mod tests;
