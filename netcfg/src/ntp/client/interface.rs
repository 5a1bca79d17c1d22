//! What the client is told, and what it wants done.

use std::net::{IpAddr, SocketAddr};

use super::SERVERS;
use std::time::Duration;

use crate::ntp::packet::Wrong;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The servers there are now, the preferred ones first. Replaces what was said before.
    Servers(Vec<IpAddr>),
    /// Whether there is an address and a route.
    Online(bool),
    /// A datagram.
    Payload {
        /// Whose.
        from: SocketAddr,
        /// All of it.
        bytes: &'a [u8],
    },
    /// Nothing but time passing.
    Timer,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this from any port to the NTP port of a server.
    Send {
        /// The server.
        to: IpAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The clock was measured.
    Offset(Offset),
    /// Something a person may want to know.
    Note(Note),
}

/// How far the wall clock is from the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// To be added to the wall clock: positive if that is behind.
    pub nanoseconds: i64,
    /// How long the question and the answer were on their way together.
    pub delay: Duration,
    /// Who said so.
    pub server: IpAddr,
    /// Its distance from a reference clock in steps.
    pub stratum: u8,
    /// What it said of a leap second: 0 none, 1 one more, 2 one less at the end of the day.
    pub leap: u8,
    /// The time since boot at which the answer came.
    pub at: Duration,
    /// How many servers answered in this round.
    pub answered: usize,
    /// Those of them that agree with this offset, itself included.
    pub agreeing: [Option<IpAddr>; SERVERS],
}

/// Things that are no action but worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A server refuses to serve. Anybody on its path could have said that, so it is asked less often.
    Refused {
        /// Which.
        server: IpAddr,
        /// How long it is left alone each time.
        pause: Duration,
    },
    /// A server that refused has not told the time for long, and is not asked any more.
    GivenUp {
        /// Which.
        server: IpAddr,
    },
    /// A server wants to be asked less often.
    TooOften {
        /// Which.
        server: IpAddr,
        /// How long it is left alone each time.
        pause: Duration,
    },
    /// A server answered, but not with a usable time.
    Unusable {
        /// Which.
        server: IpAddr,
        /// What is wrong with its answer.
        why: Wrong,
    },
    /// Three or more answered, and no majority agrees on the time.
    Disagreement {
        /// How many answered.
        answers: usize,
    },
    /// Nobody gave a usable answer, again and again.
    Silence {
        /// Rounds of questions so far.
        rounds: u32,
    },
}
