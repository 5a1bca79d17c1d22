//! One probe attempt: a TCP connection, and for HTTP one request and the status line.
//!
//! Nothing blocks: the socket is non-blocking and the loop says when to go on. Nothing is
//! resolved, no redirect is followed, and no more than [`STATUS_LINE`] bytes of an answer are ever
//! read, however much a server sends. There is no deadline here; the core cancels by dropping.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, connect, getpeername, send, socket_with,
    sockopt,
};
use std::net::SocketAddr;

/// `HTTP/1.1 200`: what of an answer decides (RFC 9112 section 4).
const STATUS_LINE: usize = 12;

/// An attempt on its way.
#[derive(Debug)]
pub struct Attempt {
    /// The number that the core gave it.
    pub number: u64,
    socket: OwnedFd,
    phase: Phase,
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    Connecting,
    Sending,
    Reading,
}

/// Where an attempt is after a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Wait until the socket can be written.
    WaitWrite,
    /// Wait until the socket can be read.
    WaitRead,
    /// The answer.
    Done(Result<(), String>),
}

impl Attempt {
    /// Starts to connect; with a path, to `GET` it then.
    ///
    /// # Errors
    /// If no socket is to be had or the kernel refuses at once.
    pub fn start(number: u64, address: &SocketAddr, path: Option<&str>) -> Result<Self, String> {
        let request = path.map(|path| {
            format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: astromesh-init\r\nConnection: close\r\n\r\n"
            )
        });
        let request = request.map(String::into_bytes).unwrap_or_default();
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let say = |e: Errno| format!("connect to {address}: {}", std::io::Error::from(e));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(say)?;
        match connect(&socket, address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(say(e)),
        }
        Ok(Self {
            number,
            socket,
            phase: Phase::Connecting,
            request,
            sent: 0,
            answer: Vec::with_capacity(STATUS_LINE),
        })
    }

    /// Goes on as far as it can without waiting.
    pub fn step(&mut self) -> Progress {
        loop {
            match self.phase {
                Phase::Connecting => match sockopt::socket_error(&self.socket) {
                    // No error yet may also mean not yet connected.
                    Ok(Ok(())) if self.request.is_empty() => {
                        return if getpeername(&self.socket).is_ok() {
                            Progress::Done(Ok(()))
                        } else {
                            Progress::WaitWrite
                        };
                    }
                    Ok(Ok(())) => self.phase = Phase::Sending,
                    Ok(Err(e)) | Err(e) => return failed("connect", e),
                },
                Phase::Sending => match send(
                    &self.socket,
                    self.request.get(self.sent..).unwrap_or_default(),
                    SendFlags::NOSIGNAL,
                ) {
                    Ok(count) => {
                        self.sent += count;
                        if self.sent >= self.request.len() {
                            self.phase = Phase::Reading;
                        }
                    }
                    Err(Errno::AGAIN | Errno::NOTCONN) => return Progress::WaitWrite,
                    Err(Errno::INTR) => {}
                    Err(e) => return failed("send", e),
                },
                Phase::Reading => {
                    let mut part = [0u8; STATUS_LINE];
                    let wanted = STATUS_LINE - self.answer.len();
                    match rustix::io::read(&self.socket, part.get_mut(..wanted).unwrap_or_default())
                    {
                        Ok(0) => return Progress::Done(Err("closed without an answer".into())),
                        Ok(count) => {
                            self.answer
                                .extend_from_slice(part.get(..count).unwrap_or_default());
                            if self.answer.len() >= STATUS_LINE {
                                return Progress::Done(judge(&self.answer));
                            }
                        }
                        Err(Errno::AGAIN) => return Progress::WaitRead,
                        Err(Errno::INTR) => {}
                        Err(e) => return failed("receive", e),
                    }
                }
            }
        }
    }
}

impl AsFd for Attempt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn failed(what: &str, error: Errno) -> Progress {
    Progress::Done(Err(format!("{what}: {}", std::io::Error::from(error))))
}

/// Success is a status of 200 to 399, as Kubernetes has it for HTTP probes.
fn judge(answer: &[u8]) -> Result<(), String> {
    let status = answer
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("status {status}")),
        None => Err("not an HTTP answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_decides() {
        assert_eq!(judge(b"HTTP/1.1 200"), Ok(()));
        assert_eq!(judge(b"HTTP/1.0 302"), Ok(()));
        assert_eq!(judge(b"HTTP/1.1 503"), Err("status 503".into()));
        assert!(judge(b"SSH-2.0-Open").is_err());
        assert!(judge(b"HTTP/1.1 2x0").is_err());
    }
}
