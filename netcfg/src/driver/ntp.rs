//! The sockets of the NTP client, and what it tells.
//!
//! A socket is open while an answer is awaited, so each round comes from another port that the kernel
//! picks: one more thing to be guessed by who wants to answer for a server (RFC 9109). They are not
//! connected, as one serves all servers of its family; the client looks at who answered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::unix::AsyncFd;

use super::clock;
use super::report::Reporter;
use crate::ntp::client::{Action, Client, Event, Note, Offset};
use crate::ntp::packet;
use crate::rng::Rng;
use crate::sys;

/// No time before this one is possible when the program's own file does not say when it was built:
/// 2025-01-01.
const OLDEST: Duration = Duration::from_secs(1_735_689_600);

/// A datagram, and when it was here on both clocks: an offset is only as good as these.
#[derive(Debug)]
pub struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
    now: Duration,
    wall: Duration,
}

/// The client with its sockets.
#[derive(Debug)]
pub struct TimePort {
    client: Client,
    v4: Option<AsyncFd<UdpSocket>>,
    v6: Option<AsyncFd<UdpSocket>>,
}

impl TimePort {
    /// Offline and without servers. The seed must be one that no server can guess.
    pub fn new(seed: u64) -> TimePort {
        TimePort {
            client: Client::new(Rng::new(seed), clock::now(), built()),
            v4: None,
            v6: None,
        }
    }

    /// When [`TimePort::step`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        self.client.deadline()
    }

    /// The next datagram, for [`TimePort::receive`].
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        if let Some(v4) = &self.v4
            && let Poll::Ready(received) = receive(v4, cx)
        {
            return Poll::Ready(received);
        }
        match &self.v6 {
            Some(v6) => receive(v6, cx),
            None => Poll::Pending,
        }
    }

    /// Gives the client a datagram and does what it says.
    pub fn receive(&mut self, datagram: &Datagram, report: &mut Reporter<'_>) {
        let event = Event::Payload {
            from: datagram.from,
            bytes: &datagram.bytes,
        };
        self.step_at(datagram.now, datagram.wall, event, report);
    }

    /// Gives the client another event and does what it says.
    pub fn step(&mut self, event: Event<'_>, report: &mut Reporter<'_>) {
        self.step_at(clock::now(), wall(), event, report);
    }

    fn step_at(
        &mut self,
        now: Duration,
        wall: Duration,
        event: Event<'_>,
        report: &mut Reporter<'_>,
    ) {
        for action in self.client.step(now, wall, event) {
            match action {
                Action::Send { to, bytes } => {
                    // A question that cannot be sent is a lost question.
                    if let Err(error) = self.send(to, &bytes) {
                        let detail = format!("{to}: {error}");
                        report.warning(now, "", "ntp-send", &[("detail", detail)]);
                    }
                }
                Action::Offset(offset) => report.event("net.time", &fields(&offset)),
                Action::Note(note) => tell(now, note, report),
            }
        }
        if !self.client.listens() {
            self.v4 = None;
            self.v6 = None;
        }
    }

    fn send(&mut self, to: IpAddr, bytes: &[u8]) -> io::Result<()> {
        let (socket, any) = match to {
            IpAddr::V4(_) => (&mut self.v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V6(_) => (&mut self.v6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let open = match socket {
            Some(open) => open,
            None => {
                let fresh = UdpSocket::bind((any, 0))?;
                fresh.set_nonblocking(true)?;
                socket.insert(sys::watch(fresh)?)
            }
        };
        open.get_ref().send_to(bytes, (to, packet::PORT))?;
        Ok(())
    }
}

fn receive(socket: &AsyncFd<UdpSocket>, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
    // One byte more than an answer has, so that a longer one is seen to be no answer.
    let mut buffer = [0; packet::LENGTH + 1];
    loop {
        let mut guard = ready!(socket.poll_read_ready(cx))?;
        if let Ok(received) = guard.try_io(|fd| fd.get_ref().recv_from(&mut buffer)) {
            let (length, from) = received?;
            return Poll::Ready(Ok(Datagram {
                from,
                bytes: buffer.get(..length).unwrap_or_default().to_vec(),
                now: clock::now(),
                wall: wall(),
            }));
        }
    }
}

/// The fields of `net.time`.
fn fields(offset: &Offset) -> [(&'static str, String); 5] {
    [
        ("server", offset.server.to_string()),
        ("offset_ns", offset.nanoseconds.to_string()),
        ("delay_us", offset.delay.as_micros().to_string()),
        ("stratum", offset.stratum.to_string()),
        ("at_ns", offset.at.as_nanos().to_string()),
    ]
}

fn tell(now: Duration, note: Note, report: &mut Reporter<'_>) {
    let (reason, details) = match note {
        Note::Refused { server } => ("ntp-refused", vec![("server", server.to_string())]),
        Note::TooOften { server, pause } => (
            "ntp-too-often",
            vec![
                ("server", server.to_string()),
                ("pause_s", pause.as_secs().to_string()),
            ],
        ),
        Note::Unusable { server, why } => (
            "ntp-unusable",
            vec![("server", server.to_string()), ("detail", why.to_string())],
        ),
        Note::Disagreement { answers } => {
            ("ntp-disagreement", vec![("answers", answers.to_string())])
        }
        Note::Silence { rounds } => ("ntp-silence", vec![("rounds", rounds.to_string())]),
    };
    report.warning(now, "", reason, &details);
}

/// What the wall clock shows, since 1970.
fn wall() -> Duration {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.unwrap_or_default()
}

/// When this program was built: the image gives all its files that time.
fn built() -> Duration {
    let modified = std::fs::metadata("/proc/self/exe").and_then(|file| file.modified());
    let since = modified.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default());
    since.unwrap_or_default().max(OLDEST)
}
