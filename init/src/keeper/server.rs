//! The control socket of the slots.
//!
//! Few ask here, and only root may: the socket belongs to root, mode 0600, and the kernel says who is
//! at the other end (unix(7), `SO_PEERCRED`). So one client is served at a time and in one turn of the
//! daemon's loop, with a deadline for its whole request, however it drips; what follows an update hears
//! its events as far as it reads them.

use super::protocol::{REQUEST_MAX, Request, parse};
use crate::control::protocol::Refusal;
use crate::slots::marks;
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd};
use serde::Serialize;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a client may take for its whole request, and for taking a reply.
const PATIENCE: Duration = Duration::from_secs(1);

/// Clients that follow an update at the same time.
const FOLLOWERS_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    followers: Vec<UnixStream>,
}

/// A client that waits for its answer.
#[derive(Debug)]
pub struct Client(UnixStream);

impl Server {
    /// Listens in this folder, which is made, in place of the socket of a predecessor.
    ///
    /// # Errors
    /// Names the path.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let path = folder.join("control");
        let make = || {
            marks::make_directory(folder)?;
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = make()
            .map_err(|e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(Self {
            listener,
            followers: Vec::new(),
        })
    }

    /// What to wait for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The request of the next client, if one waits and asks for something that there is.
    pub fn accept(&self) -> Option<(Request, Client)> {
        let (stream, _) = self.listener.accept().ok()?;
        let mut client = Client(stream);
        let end = Instant::now() + PATIENCE;
        match client.request(|| end.saturating_duration_since(Instant::now())) {
            Ok(request) => Some((request, client)),
            Err(wrong) => {
                client.refuse(&wrong);
                None
            }
        }
    }

    /// From now on this client hears events.
    pub fn follow(&mut self, client: Client) {
        if self.followers.len() < FOLLOWERS_MAX && client.0.set_nonblocking(true).is_ok() {
            self.followers.push(client.0);
        }
    }

    /// Sends a line to whoever follows; one that does not take it is let go.
    pub fn publish(&mut self, line: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(line) {
            let line = line + "\n";
            self.followers
                .retain_mut(|f| f.write_all(line.as_bytes()).is_ok());
        }
    }

    /// The end of what is followed.
    pub fn release(&mut self) {
        self.followers.clear();
    }
}

impl Client {
    /// Reads the request, while some time is left for the whole of it.
    fn request(&mut self, mut left: impl FnMut() -> Duration) -> Result<Request, String> {
        let fail = |e: io::Error| format!("the request: {e}");
        self.0.set_nonblocking(false).map_err(fail)?;
        self.0.set_write_timeout(Some(PATIENCE)).map_err(fail)?;
        let (uid, _) = sys::peer(&self.0).map_err(fail)?;
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(format!(
                "the slots are root's affair, not that of uid {uid}"
            ));
        }
        let mut line = Vec::new();
        let mut chunk = [0u8; 512];
        while !line.ends_with(b"\n") {
            // A timeout of zero would be none (setsockopt(2), `SO_RCVTIMEO`).
            let left = left();
            if left.is_zero() {
                return Err(format!("the request was not whole within {PATIENCE:?}"));
            }
            self.0.set_read_timeout(Some(left)).map_err(fail)?;
            match self.0.read(&mut chunk).map_err(fail)? {
                0 => return Err("the request has no end of line".into()),
                count => line.extend(chunk.get(..count).unwrap_or_default()),
            }
            if line.len() > REQUEST_MAX {
                return Err(format!("a request has at most {REQUEST_MAX} bytes"));
            }
        }
        parse(&line)
    }

    /// Answers; a client that is gone has its answer.
    pub fn reply(&mut self, reply: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(reply) {
            let _ = self.0.write_all((line + "\n").as_bytes());
        }
    }

    /// Says what is wrong.
    pub fn refuse(&mut self, text: &str) {
        self.reply(&Refusal {
            ok: false,
            error: text.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Reply;
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("slots-server-{name}-{}", std::process::id()))
    }

    fn ask(folder: &Path, text: &[u8]) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(folder.join("control")).unwrap();
        stream.write_all(text).unwrap();
        BufReader::new(stream)
    }

    fn line(reader: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn a_request_is_answered_and_followed() {
        let folder = folder("follow");
        let mut server = Server::bind(&folder).unwrap();
        assert!(server.accept().is_none());
        let mut reader = ask(&folder, b"{\"verb\":\"update\"}\n");
        let (request, mut client) = server.accept().unwrap();
        assert!(matches!(request, Request::Update { source: None, .. }));
        client.reply(&Reply {
            ok: true,
            slots: None,
        });
        server.follow(client);
        server.publish(&"told");
        server.release();
        assert_eq!(line(&mut reader), "{\"ok\":true}\n");
        assert_eq!(line(&mut reader), "\"told\"\n");
        assert_eq!(line(&mut reader), "");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_and_the_next_is_served() {
        let folder = folder("wrong");
        let server = Server::bind(&folder).unwrap();
        let mut wrong = ask(&folder, b"{\"verb\":\"blss\"}\n");
        let mut long = ask(&folder, &[b'x'; REQUEST_MAX + 2]);
        let half = ask(&folder, b"{\"verb\"");
        half.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let _good = ask(&folder, b"{\"verb\":\"slots\"}\n");
        // Each has a turn of its own.
        assert!((0..3).all(|_| server.accept().is_none()));
        let (request, _) = server.accept().unwrap();
        assert_eq!(request, Request::Slots {});
        assert!(line(&mut wrong).contains("not understood"));
        assert!(line(&mut long).contains("at most 4096 bytes"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_request_that_drips_is_given_up_before_it_is_whole() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // At each read there is another byte, well within the limit of one read.
        let mut reads = 0;
        let wrong = Client(ours).request(|| {
            theirs.write_all(b" ").unwrap();
            reads += 1;
            PATIENCE.saturating_sub(Duration::from_millis(100 * reads))
        });
        assert!(wrong.unwrap_err().contains("not whole within 1s"));
        assert_eq!(reads, 10);
    }

    #[test]
    fn a_predecessors_socket_is_replaced_and_only_root_gets_in() {
        let folder = folder("bind");
        drop(Server::bind(&folder).unwrap());
        let _server = Server::bind(&folder).unwrap();
        let mode = fs::metadata(folder.join("control")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let mode = fs::metadata(&folder).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
        fs::remove_dir_all(folder).unwrap();
    }
}
