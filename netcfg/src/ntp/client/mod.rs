//! Whom to ask for the time and when, as a pure state machine.
//!
//! [`Client::step`] takes the time and one event and gives back what is to be done;
//! [`Client::deadline`] says when to call it again at the latest. There are two clocks: the time
//! since boot, by which all waiting goes, and the wall clock, which is what is measured and may be
//! set at any moment. It is read once for a measurement, when the answer is there; how long the answer
//! took is counted on the other clock.
//!
//! ```text
//!          online and a server             all have answered, a second after the first answer,
//!   Idle ─────────────────────▶ Waiting    or it is time for the next round
//!    ▲                           │   ▲──────────────────┐
//!    └─ offline, or no server ───┤   │ due              │
//!                                ▼   │                  │
//!                               (one question to each) Asking
//! ```
//!
//! Work goes in rounds: one question to each server, then one judgement ([`choose`]) of all that
//! answered. Until the first that has a result, rounds follow after 2, 4, 8, ... 64 seconds; after
//! that each 64 s to 1024 s (RFC 5905: `tau` from 6 to 10), seldom while the clock is well or nobody
//! answers, often while it is not. Each wait is made longer by up to an eighth or a quarter, so
//! that machines that start together do not ask together.
//!
//! Only an answer to a question that is out counts: from the server's address and port, and with the
//! question's number. Whoever guesses wrong changes nothing. The numbers cannot be told from
//! each other (see [`Nonces`]), or one server could speak for the others.
//!
//! An answer is not signed, so neither is a refusal (`DENY`, `RSTR`): who sees a question can answer it with one. A
//! server that refuses is asked less often, as one that complains (`RATE`); it is given up only when it has also
//! answered none of the last [`REACH`] questions with the time, as ntpd-rs does.
//!
//! Whatever the world does, no more is sent than the [`Budget`] has, and no two rounds begin within two
//! seconds.

mod interface;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use self::interface::{Action, Event, Note, Offset};
use super::choose::{self, Word};
use super::packet::{self, Answer, Kiss, Reply, Wrong};
use crate::dhcp4::pace::Budget;
use crate::rng::Rng;

/// How many servers are asked. Four is what it takes to see one wrong and miss another (RFC 8633,
/// section 3.2).
pub const SERVERS: usize = 4;

/// The first wait of a burst, and the least between two rounds (as ntpd's `iburst` has it).
pub const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest wait for a first result, and the shortest after it (RFC 5905, `tau` 6).
pub const MIN_POLL: Duration = Duration::from_secs(64);
/// The longest wait (RFC 5905, `tau` 10).
pub const MAX_POLL: Duration = Duration::from_secs(1024);
/// How long the others may answer after the first did.
const WINDOW: Duration = Duration::from_secs(1);
/// A clock that is off by less is asked about less often.
const WELL: u64 = 10_000_000;
/// One that is off by more is asked about often (RFC 5905, `STEPT`).
const UNWELL: u64 = 128_000_000;
/// Rounds without any usable answer before that is told; told again each time their number has doubled.
const SILENT_ROUNDS: u32 = 4;
/// A server is reachable while it has answered one of so many questions with the time (RFC 5905, section 9.2: `reach`
/// is a register of eight bits).
const REACH: u8 = 8;

/// Numbers for questions, each of which says nothing about the next.
///
/// [`Rng`] would be no good for these: whoever knows one of its numbers knows all that follow, and each
/// server gets to know one. A hash of a secret and a counter keeps the secret.
#[derive(Debug)]
struct Nonces {
    secret: [u64; 2],
    count: u64,
}

impl Nonces {
    fn next(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        let mut hasher = DefaultHasher::new();
        (self.secret, self.count).hash(&mut hasher);
        hasher.finish()
    }
}

/// A question that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    nonce: u64,
    at: Duration,
}

#[derive(Debug)]
struct Server {
    address: IpAddr,
    asked: Option<Asked>,
    /// Its answer in this round.
    sample: Option<(Word, Offset)>,
    /// It has refused to serve, and has not told the time since.
    refused: bool,
    /// Questions in a row that it did not answer with the time.
    unanswered: u8,
    /// How long it wants to be left alone between questions; zero until it complains.
    pause: Duration,
    /// Not to be asked before this.
    rests_until: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle,
    Waiting,
    Asking {
        /// When the others have had their time.
        closes: Option<Duration>,
    },
}

/// The client.
#[derive(Debug)]
pub struct Client {
    rng: Rng,
    nonces: Nonces,
    floor: Duration,
    budget: Budget,
    servers: Vec<Server>,
    online: bool,
    phase: Phase,
    /// When the next round may start.
    due: Duration,
    /// When the last one started.
    last: Option<Duration>,
    /// The present wait, once there was a result.
    poll: Option<Duration>,
    /// Rounds of the burst so far.
    burst: u32,
    /// Rounds in a row without a usable answer.
    silent: u32,
    out: Vec<Action>,
}

impl Client {
    /// A client that is not online and knows no server. No time before `floor` (since 1970) is
    /// possible: it is when the program was built. Who can guess the generator's seed can answer for
    /// the servers.
    pub fn new(mut rng: Rng, now: Duration, floor: Duration) -> Client {
        Client {
            nonces: Nonces {
                secret: [rng.next_u64(), rng.next_u64()],
                count: 0,
            },
            rng,
            floor,
            budget: Budget::new(now),
            servers: Vec::new(),
            online: false,
            phase: Phase::Idle,
            due: now,
            last: None,
            poll: None,
            burst: 0,
            silent: 0,
            out: Vec::new(),
        }
    }

    /// One event at one time since boot, with what the wall clock shows (since 1970). What was due by
    /// then happens first.
    #[must_use]
    pub fn step(&mut self, now: Duration, wall: Duration, event: Event<'_>) -> Vec<Action> {
        self.advance(now);
        match event {
            Event::Timer => {}
            Event::Servers(addresses) => self.take_servers(&addresses),
            Event::Online(online) => self.set_online(online),
            Event::Payload { from, bytes } => self.receive(now, wall, from, bytes),
        }
        self.advance(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Client::step`] must be called again, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Idle => None,
            Phase::Waiting => Some(self.due),
            Phase::Asking { closes } => Some(closes.map_or(self.due, |at| at.min(self.due))),
        }
    }

    /// Whether an answer is awaited.
    pub fn listens(&self) -> bool {
        self.servers.iter().any(|server| server.asked.is_some())
    }

    /// Whether there is anybody to ask, and a way to do so.
    fn can_ask(&self) -> bool {
        self.online && self.servers.iter().any(|server| !server.is_given_up())
    }

    fn advance(&mut self, now: Duration) {
        if !self.can_ask() {
            self.phase = Phase::Idle;
            self.forget_questions();
            return;
        }
        if let Phase::Asking { closes } = self.phase {
            let late = self.due <= now || closes.is_some_and(|closes| closes <= now);
            if late || !self.listens() {
                self.judge();
            }
        } else {
            self.phase = Phase::Waiting;
        }
        if matches!(self.phase, Phase::Waiting) && self.due <= now {
            self.ask(now);
        }
    }

    /// Starts a round, unless all rest, or the budget is spent.
    fn ask(&mut self, now: Duration) {
        let mut any = false;
        for server in &mut self.servers {
            server.sample = None;
            server.asked = None;
            if server.is_given_up() || now < server.rests_until || !self.budget.take(now) {
                continue;
            }
            let nonce = self.nonces.next();
            server.asked = Some(Asked { nonce, at: now });
            server.rests_until = now.saturating_add(server.pause);
            self.out.push(Action::Send {
                to: server.address,
                bytes: packet::question(nonce).to_vec(),
            });
            any = true;
        }
        self.last = Some(now);
        let wait = self.wait();
        self.burst = self.burst.saturating_add(1);
        self.due = now.saturating_add(wait);
        if any {
            self.phase = Phase::Asking { closes: None };
        }
    }

    /// How long to wait for the next round after one that starts now.
    fn wait(&mut self) -> Duration {
        match self.poll {
            Some(poll) => poll + self.rng.up_to(poll / 8),
            None => {
                let base = FIRST_RETRY.saturating_mul(1 << self.burst.min(5));
                base + self.rng.up_to(base / 4)
            }
        }
    }

    /// Ends a round.
    fn judge(&mut self) {
        self.phase = Phase::Waiting;
        let silent = self.servers.iter_mut().filter(|s| s.asked.is_some());
        self.out
            .extend(silent.filter_map(Server::missed).map(Action::Note));
        let samples = self.servers.iter_mut().filter_map(|s| s.sample.take());
        let (words, offsets): (Vec<Word>, Vec<Offset>) = samples.unzip();
        self.forget_questions();
        let chosen = choose::choose(&words).and_then(|at| words.get(at).zip(offsets.get(at)));
        match chosen {
            Some((word, offset)) => {
                let mut offset = *offset;
                offset.answered = words.len();
                offset.agreeing = [None; SERVERS];
                let pairs = words.iter().zip(&offsets);
                let agreeing = pairs.filter(|(other, _)| word.agrees(other));
                for (place, (_, other)) in offset.agreeing.iter_mut().zip(agreeing) {
                    *place = Some(other.server);
                }
                let off = offset.nanoseconds.unsigned_abs();
                let poll = match self.poll {
                    Some(poll) if off <= WELL => (poll * 2).min(MAX_POLL),
                    Some(poll) if off <= UNWELL => poll,
                    _ => MIN_POLL,
                };
                self.poll = Some(poll);
                self.silent = 0;
                self.out.push(Action::Offset(offset));
                let wait = self.wait();
                let started = self.last.unwrap_or_default();
                self.due = started.saturating_add(wait);
            }
            None => {
                self.poll = self.poll.map(|poll| (poll * 2).min(MAX_POLL));
                if !words.is_empty() {
                    let answers = words.len();
                    self.out.push(Action::Note(Note::Disagreement { answers }));
                } else {
                    self.silent = self.silent.saturating_add(1);
                    let rounds = self.silent;
                    if rounds >= SILENT_ROUNDS && rounds.is_power_of_two() {
                        self.out.push(Action::Note(Note::Silence { rounds }));
                    }
                }
            }
        }
    }

    fn forget_questions(&mut self) {
        for server in &mut self.servers {
            server.asked = None;
            server.sample = None;
        }
    }

    fn take_servers(&mut self, addresses: &[IpAddr]) {
        let mut servers: Vec<Server> = Vec::new();
        let mut any_new = false;
        for address in addresses.iter().copied().filter(can_be_asked) {
            if servers.len() == SERVERS || servers.iter().any(|s| s.address == address) {
                continue;
            }
            let known = self.servers.iter().position(|s| s.address == address);
            servers.push(match known {
                Some(at) => self.servers.swap_remove(at),
                None => {
                    any_new = true;
                    Server {
                        address,
                        asked: None,
                        sample: None,
                        refused: false,
                        unanswered: 0,
                        pause: Duration::ZERO,
                        rests_until: Duration::ZERO,
                    }
                }
            });
        }
        self.servers = servers;
        if any_new {
            self.hurry();
        }
    }

    fn set_online(&mut self, online: bool) {
        if online && !self.online {
            self.hurry();
        }
        self.online = online;
    }

    /// Begins the burst anew, if there is no result yet.
    fn hurry(&mut self) {
        if self.poll.is_none() {
            self.burst = 0;
            let earliest = self.last.map(|last| last.saturating_add(FIRST_RETRY));
            self.due = self.due.min(earliest.unwrap_or_default());
        }
    }

    fn receive(&mut self, now: Duration, wall: Duration, from: SocketAddr, bytes: &[u8]) {
        let Phase::Asking { closes } = &mut self.phase else {
            return;
        };
        let sender = self.servers.iter_mut().find(|s| s.address == from.ip());
        let Some(server) = sender.filter(|_| from.port() == packet::PORT) else {
            return;
        };
        let Some(asked) = server.asked else {
            return;
        };
        let reply = match packet::decode(bytes, asked.nonce) {
            // Anybody could have sent this.
            Err(Wrong::Length | Wrong::Mode | Wrong::Version | Wrong::Origin) => return,
            read => read,
        };
        server.asked = None;
        let measured = match reply {
            Ok(Reply::Time(answer)) => {
                measure(&answer, server.address, asked.at, now, wall, self.floor)
            }
            Ok(Reply::Kiss(kiss)) => {
                let note = server.take_kiss(kiss, now);
                let notes = [Some(note), server.missed()];
                self.out
                    .extend(notes.into_iter().flatten().map(Action::Note));
                return;
            }
            Err(why) => Err(why),
        };
        match measured {
            Ok(sample) => {
                server.sample = Some(sample);
                (server.refused, server.unanswered) = (false, 0);
                closes.get_or_insert(now.saturating_add(WINDOW));
            }
            Err(why) => {
                let address = server.address;
                let unusable = Note::Unusable {
                    server: address,
                    why,
                };
                let notes = [Some(unusable), server.missed()];
                self.out
                    .extend(notes.into_iter().flatten().map(Action::Note));
            }
        }
    }
}

impl Server {
    /// Whether it is not asked any more, until the list of servers has been without it.
    fn is_given_up(&self) -> bool {
        self.refused && self.unanswered >= REACH
    }

    /// Counts a question that was not answered with the time; tells if that was one too many.
    fn missed(&mut self) -> Option<Note> {
        self.unanswered = self.unanswered.saturating_add(1);
        let server = self.address;
        self.is_given_up().then_some(Note::GivenUp { server })
    }

    fn take_kiss(&mut self, kiss: Kiss, now: Duration) -> Note {
        let server = self.address;
        if kiss == Kiss::Other {
            let why = Wrong::Unsynchronised;
            return Note::Unusable { server, why };
        }
        self.pause = (self.pause * 2).clamp(MIN_POLL * 2, MAX_POLL);
        self.rests_until = now.saturating_add(self.pause);
        let pause = self.pause;
        if kiss == Kiss::Refused {
            self.refused = true;
            Note::Refused { server, pause }
        } else {
            Note::TooOften { server, pause }
        }
    }
}

/// Works out what an answer says of the wall clock (RFC 5905, section 8).
fn measure(
    answer: &Answer,
    server: IpAddr,
    asked: Duration,
    now: Duration,
    wall: Duration,
    floor: Duration,
) -> Result<(Word, Offset), Wrong> {
    let nanos = |time: Duration| {
        i128::from(time.as_secs()) * 1_000_000_000 + i128::from(time.subsec_nanos())
    };
    let took = now.saturating_sub(asked);
    let received = nanos(answer.received.since_1970(floor));
    let sent = nanos(answer.sent.since_1970(floor));
    let (back, out) = (nanos(wall), nanos(wall) - nanos(took));
    let offset = ((received - out) + (sent - back)) / 2;
    let within = u64::try_from(sent - received).map_err(|_| Wrong::Timestamps)?;
    let delay = took.saturating_sub(Duration::from_nanos(within));
    let distance = answer.distance + delay / 2;
    if distance > packet::MAX_DISTANCE {
        return Err(Wrong::Distance);
    }
    let offset = i64::try_from(offset).map_err(|_| Wrong::Timestamps)?;
    Ok((
        Word { offset, distance },
        Offset {
            nanoseconds: offset,
            delay,
            server,
            stratum: answer.stratum,
            leap: answer.leap,
            at: now,
            answered: 1,
            agreeing: [Some(server), None, None, None],
        },
    ))
}

/// Addresses that a server can have. Those of one link only would need that link's number, and the
/// machine itself is what wants to know the time.
fn can_be_asked(address: &IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    !special
        && match address {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}

#[cfg(test)]
mod tests;
