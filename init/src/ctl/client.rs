//! The connection to init, or to netcfg.
//!
//! Both answer within milliseconds, or something is very wrong; so there is a limit to everything but
//! to following. What they send is bounded too: whoever may replace the socket must not be able to
//! fill the caller's memory.

use crate::control::protocol::Refusal;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A longer line is not read; the server's own limit is a quarter of that.
const LINE_MAX: u64 = 4 * 1024 * 1024;

/// How long it may take to take a connection or to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is talked to, and where to look when it does not answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partner {
    name: &'static str,
    hint: &'static str,
}

impl Partner {
    /// What a line of its means.
    pub fn read<T: DeserializeOwned>(self, line: &str) -> Result<T, Failure> {
        serde_json::from_str(line).map_err(|e| {
            Failure::Lost(format!(
                "{}'s answer is not understood ({e}); is initctl of the same version?",
                self.name
            ))
        })
    }
}

/// PID 1.
pub(super) const INIT: Partner = Partner {
    name: "init",
    hint: "is init running with this --runtime-dir?",
};

/// The network part.
pub(super) const NETCFG: Partner = Partner {
    name: "netcfg",
    hint: "is netcfg running with this --runtime-dir? On the machine, `initctl explain netcfg` says why not",
};

/// The keeper of the slots.
pub(super) const SLOTS: Partner = Partner {
    name: "the keeper of the slots",
    hint: "it is for root; `initctl explain slots` says whether it runs",
};

/// Why there is no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The partner refuses, or the service is not as wanted.
    Refused(String),
    /// There is no talking to the partner.
    Lost(String),
    /// Nobody reads what we show.
    Unheard,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    reader: BufReader<UnixStream>,
    partner: Partner,
}

impl Client {
    /// To the partner with this runtime directory.
    pub fn connect(runtime_dir: &Path, partner: Partner) -> Result<Self, Failure> {
        let path = runtime_dir.join("control");
        let stream = open(&path).map_err(|e| {
            Failure::Lost(format!(
                "{}: {}; {}",
                path.display(),
                io::Error::from(e),
                partner.hint
            ))
        })?;
        Ok(Self {
            reader: BufReader::new(stream),
            partner,
        })
    }

    /// Asks; the line of a good answer, with its line end.
    pub fn ask(&mut self, request: &impl Serialize) -> Result<String, Failure> {
        let mut line = serde_json::to_string(request)
            .map_err(|e| Failure::Lost(format!("the request: {e}")))?;
        line.push('\n');
        // It may have refused and let go before it was asked, and what it said is still to be read.
        let sent = self.reader.get_mut().write_all(line.as_bytes());
        let answer = match (self.line(), sent) {
            (Ok(Some(answer)), _) => answer,
            (Err(e), _) => return Err(e),
            (Ok(None), Ok(())) => {
                return Err(Failure::Lost(format!(
                    "{} closed the connection without an answer",
                    self.partner.name
                )));
            }
            (Ok(None), Err(e)) => return Err(self.lost(&e)),
        };
        match serde_json::from_str::<Refusal>(&answer) {
            Ok(refusal) if !refusal.ok => Err(Failure::Refused(refusal.error)),
            _ => Ok(answer),
        }
    }

    /// The next line, with its line end; nothing at the end.
    pub fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.reader)
            .take(LINE_MAX)
            .read_until(b'\n', &mut line);
        match read {
            Ok(_) => {}
            // Closed while something of ours was unread: for us the same as closed.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            Err(e) => return Err(self.lost(&e)),
        }
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(Failure::Lost(format!(
                "{}'s answer is cut off after {} bytes",
                self.partner.name,
                line.len()
            )));
        }
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    /// From now on waits for lines without a limit.
    pub fn be_patient(&mut self) -> Result<(), Failure> {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(None).map_err(|e| self.lost(&e))
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let name = self.partner.name;
        Failure::Lost(match error.kind() {
            io::ErrorKind::WouldBlock => format!("{name} does not answer within {PATIENCE:?}"),
            _ => format!("the connection to {name}: {error}"),
        })
    }
}

/// Connected within the time: of a full backlog, connect(2) waits as long as a send may take
/// (unix(7), socket(7) `SO_SNDTIMEO`).
fn open(path: &Path) -> rustix::io::Result<UnixStream> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Request;

    /// A client, and what it gets before the other side is gone.
    fn told(text: &[u8]) -> Client {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(text).unwrap();
        Client {
            reader: BufReader::new(ours),
            partner: INIT,
        }
    }

    #[test]
    fn a_refusal_is_heard_even_if_the_request_was_not() {
        let mut client = told(b"{\"ok\":false,\"error\":\"too many\"}\n");
        match client.ask(&Request::Boot {}) {
            Err(Failure::Refused(why)) => assert_eq!(why, "too many"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_that_ends_early_is_no_answer() {
        for (text, expected) in [
            (&b"{\"ok\":tr"[..], "cut off after 8 bytes"),
            (b"", "connection"),
        ] {
            match told(text).ask(&Request::Boot {}) {
                Err(Failure::Lost(why)) => assert!(why.contains(expected), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_endless_line_is_read_to_a_bound() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let chunk = [b'x'; 65536];
            while theirs.write_all(&chunk).is_ok() {}
        });
        let mut client = Client {
            reader: BufReader::new(ours),
            partner: INIT,
        };
        match client.line() {
            Err(Failure::Lost(why)) => assert!(why.contains("4194304 bytes"), "{why}"),
            other => panic!("{other:?}"),
        }
        drop(client);
        writer.join().unwrap();
    }
}
