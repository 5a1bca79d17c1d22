//! A process's own side of `sd_notify(3)`: it says that it is ready, and then that its loop turns.
//!
//! What it is called in has to be the loop that does the work: a supervisor that hears `WATCHDOG=1` from a thread of
//! its own knows only that the thread lives. It never waits for the supervisor: what does not go out now is said
//! a little later.

use crate::Time;
use std::io;
use std::os::unix::net::UnixDatagram;

/// As sd_watchdog_enabled(3) advises, twice in the interval of the supervisor.
const PER_INTERVAL: u32 = 2;

/// What the supervisor did not take is said again after this part of the interval.
const RETRIES_PER_INTERVAL: u32 = 16;

/// See the module.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// The longest silence that the supervisor allows.
    interval: Option<Time>,
    ready: bool,
    due: Time,
}

impl Notifier {
    /// By `NOTIFY_SOCKET` and `WATCHDOG_USEC`, as a supervisor sets them; without the first it says nothing.
    ///
    /// To be made before a sandbox takes the way to the socket.
    ///
    /// # Errors
    /// If the socket cannot be connected.
    pub fn from_environment() -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self::default());
        };
        let interval = std::env::var("WATCHDOG_USEC").ok();
        let interval = interval.and_then(|usec| Some(Time::from_micros(usec.parse().ok()?)));
        let connect = || -> io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            socket.connect(&path)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = connect().map_err(|e| {
            let path = path.to_string_lossy();
            io::Error::new(e.kind(), format!("NOTIFY_SOCKET={path}: {e}"))
        })?;
        Ok(Self::new(socket, interval))
    }

    fn new(socket: UnixDatagram, interval: Option<Time>) -> Self {
        Self {
            socket: Some(socket),
            interval: interval.filter(|interval| !interval.is_zero()),
            ready: false,
            due: Time::ZERO,
        }
    }

    /// To be called in each turn of the loop, the first time when it is ready. Returns until when it has to be
    /// called again at the latest, also if nothing happens.
    pub fn turn(&mut self, now: Time) -> Option<Time> {
        let socket = self.socket.as_ref()?;
        let owes = !self.ready || self.interval.is_some();
        if owes && now >= self.due {
            let text = if self.ready { "WATCHDOG=1" } else { "READY=1" };
            let sent = socket.send(text.as_bytes()).is_ok();
            self.ready |= sent;
            // Without a watchdog only a READY=1 that did not go out is owed, and nothing else tells when.
            let interval = self.interval.unwrap_or(Time::from_secs(1));
            let parts = if sent {
                PER_INTERVAL
            } else {
                RETRIES_PER_INTERVAL
            };
            self.due = now + interval / parts;
        }
        (!self.ready || self.interval.is_some()).then_some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(100);

    fn pair(interval: Option<Time>) -> (Notifier, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Notifier::new(ours, interval), theirs)
    }

    fn said(supervisor: &UnixDatagram) -> Vec<String> {
        let mut data = [0u8; 64];
        std::iter::from_fn(|| {
            let count = supervisor.recv(&mut data).ok()?;
            Some(String::from_utf8_lossy(&data[..count]).into_owned())
        })
        .collect()
    }

    #[test]
    fn it_is_ready_once_and_alive_twice_in_each_interval() {
        let (mut notifier, supervisor) = pair(Some(Time::from_secs(8)));
        let half = Time::from_secs(4);
        assert_eq!(notifier.turn(NOW), Some(NOW + half));
        assert_eq!(said(&supervisor), ["READY=1"]);
        // A loop that turns often says no more.
        assert_eq!(notifier.turn(NOW + half / 2), Some(NOW + half));
        assert!(said(&supervisor).is_empty());
        assert_eq!(notifier.turn(NOW + half), Some(NOW + half * 2));
        assert_eq!(said(&supervisor), ["WATCHDOG=1"]);
    }

    #[test]
    fn what_the_supervisor_does_not_take_is_said_again_soon() {
        let (mut notifier, supervisor) = pair(Some(Time::from_secs(8)));
        let mut now = NOW;
        // Nobody reads, until there is no room.
        let retry = loop {
            let due = notifier.turn(now).unwrap();
            if due < now + Time::from_secs(4) {
                break due;
            }
            now = due;
        };
        assert_eq!(
            retry,
            now + Time::from_millis(500),
            "later, so that nothing spins"
        );
        assert!(said(&supervisor).len() > 1);
        assert_eq!(notifier.turn(retry), Some(retry + Time::from_secs(4)));
        assert_eq!(said(&supervisor), ["WATCHDOG=1"]);
    }

    #[test]
    fn without_a_watchdog_or_a_supervisor_nothing_is_owed() {
        let (mut notifier, supervisor) = pair(None);
        assert_eq!(notifier.turn(NOW), None);
        assert_eq!(notifier.turn(NOW * 2), None);
        assert_eq!(said(&supervisor), ["READY=1"]);
        assert_eq!(Notifier::default().turn(NOW), None);
    }
}
