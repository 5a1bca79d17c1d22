//! The NTP client as part of the core: who its servers are, and what it measures.
//!
//! Setting the clock is not for us: we have no right to. What was measured is told, and PID 1
//! decides what to make of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::interface::Command;
use super::report::Out;
use crate::ntp::client::{Action, Client, Event, Note, Offset};
use crate::rng::Rng;

/// The clock of the machine, measured.
#[derive(Debug)]
pub struct Time {
    client: Client,
    servers: Vec<IpAddr>,
    /// Those of them that the configuration names; the others a lease did.
    configured: Vec<IpAddr>,
    online: bool,
    /// The sockets are open.
    open: bool,
    /// What was measured last.
    pub last: Option<Offset>,
}

impl Time {
    /// Offline, without servers. Nobody must be able to guess the seed: it makes the numbers by
    /// which a server's answer is known. `floor` is when the program was built, since 1970.
    pub fn new(seed: u64, now: Duration, floor: Duration) -> Time {
        Time {
            client: Client::new(Rng::new(seed), now, floor),
            servers: Vec::new(),
            configured: Vec::new(),
            online: false,
            open: false,
            last: None,
        }
    }

    /// When [`Time::tick`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        self.client.deadline()
    }

    /// What is due.
    pub fn tick(&mut self, out: &mut Out) {
        if self.client.deadline().is_some_and(|at| out.now >= at) {
            self.step(Event::Timer, out);
        }
    }

    /// Who the servers are, best first, which of them the configuration names, and whether there is a
    /// way to any.
    pub fn update(
        &mut self,
        servers: Vec<IpAddr>,
        configured: &[IpAddr],
        online: bool,
        out: &mut Out,
    ) {
        configured.clone_into(&mut self.configured);
        if servers != self.servers {
            self.servers.clone_from(&servers);
            self.step(Event::Servers(servers), out);
        }
        if online != self.online {
            self.online = online;
            self.step(Event::Online(online), out);
        }
    }

    /// A datagram came in at this time since boot, when the wall clock showed that.
    pub fn receive(
        &mut self,
        clocks: [Duration; 2],
        from: SocketAddr,
        bytes: &[u8],
        out: &mut Out,
    ) {
        self.step_at(clocks, Event::Payload { from, bytes }, out);
    }

    /// What happens besides needs no wall clock.
    fn step(&mut self, event: Event<'_>, out: &mut Out) {
        self.step_at([out.now, Duration::ZERO], event, out);
    }

    fn step_at(&mut self, [now, wall]: [Duration; 2], event: Event<'_>, out: &mut Out) {
        for action in self.client.step(now, wall, event) {
            match action {
                Action::Send { to, bytes } => {
                    self.open = true;
                    out.push(Command::SendNtp { to, bytes });
                }
                Action::Offset(offset) => {
                    self.last = Some(offset);
                    out.event("net.time", fields(&offset, &self.configured));
                }
                Action::Note(note) => tell(note, out),
            }
        }
        // Each round comes from a new port, which has to be guessed by who wants to answer for a
        // server (RFC 9109).
        if self.open && !self.client.listens() {
            self.open = false;
            out.push(Command::CloseNtp);
        }
    }
}

/// The fields of `net.time`.
fn fields(offset: &Offset, configured: &[IpAddr]) -> Vec<(&'static str, String)> {
    let agreeing = || offset.agreeing.iter().flatten();
    let known = agreeing()
        .filter(|server| configured.contains(server))
        .count();
    vec![
        ("servers", offset.answered.to_string()),
        ("agreeing", agreeing().count().to_string()),
        ("configured", known.to_string()),
        ("server", offset.server.to_string()),
        ("offset_ns", offset.nanoseconds.to_string()),
        ("delay_us", offset.delay.as_micros().to_string()),
        ("stratum", offset.stratum.to_string()),
        ("at_ns", offset.at.as_nanos().to_string()),
    ]
}

fn tell(note: Note, out: &mut Out) {
    let server = |server: IpAddr| ("server", server.to_string());
    let (reason, details) = match note {
        Note::Refused { server: by, pause } => (
            "ntp-refused",
            vec![server(by), ("pause_s", pause.as_secs().to_string())],
        ),
        Note::GivenUp { server: by } => ("ntp-given-up", vec![server(by)]),
        Note::TooOften { server: by, pause } => (
            "ntp-too-often",
            vec![server(by), ("pause_s", pause.as_secs().to_string())],
        ),
        Note::Unusable { server: by, why } => (
            "ntp-unusable",
            vec![server(by), ("detail", why.to_string())],
        ),
        Note::Disagreement { answers } => {
            ("ntp-disagreement", vec![("answers", answers.to_string())])
        }
        Note::Silence { rounds } => ("ntp-silence", vec![("rounds", rounds.to_string())]),
    };
    out.warning("", reason, details);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_the_configuration_are_counted() {
        let server = |number| IpAddr::from([192, 0, 2, number]);
        let offset = Offset {
            nanoseconds: 5,
            delay: Duration::ZERO,
            server: server(3),
            stratum: 2,
            leap: 0,
            at: Duration::ZERO,
            answered: 4,
            agreeing: [Some(server(1)), Some(server(3)), Some(server(4)), None],
        };
        let told = |configured: &[IpAddr]| {
            let fields = fields(&offset, configured);
            let field = |key| {
                fields
                    .iter()
                    .find(|(k, _)| *k == key)
                    .map(|(_, v)| v.clone())
            };
            ["servers", "agreeing", "configured"].map(|key| field(key).expect("told"))
        };
        assert_eq!(told(&[]), ["4", "3", "0"]);
        assert_eq!(told(&[server(1), server(2)]), ["4", "3", "1"]);
    }
}
