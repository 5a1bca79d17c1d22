//! What the client is told, and what it wants done.

use std::net::Ipv4Addr;

#[cfg(doc)]
use super::super::pace::Budget;
use crate::dhcp4::lease::{Lease, Refused};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The link can carry frames.
    CarrierUp,
    /// It cannot, or is gone.
    CarrierDown,
    /// The payload of a datagram to the client port of this link.
    Payload(&'a [u8]),
    /// Nothing but time passing.
    Timer,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this DHCP message.
    Send {
        /// How.
        to: To,
        /// The message.
        payload: Vec<u8>,
    },
    /// This lease is now the one of the link: configure it, or refresh its lifetimes, and keep
    /// it for the next start.
    Apply(Box<Lease>),
    /// Take the lease off the link.
    Withdraw(Why),
    /// Do not keep the lease for the next start any more.
    Forget,
    /// Something a person may want to know.
    Note(Note),
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// From no address to everybody on the link, as a raw packet.
    Broadcast,
    /// From the leased address to everybody on the link.
    BroadcastFromLease,
    /// From the leased address to one server.
    Unicast(Ipv4Addr),
}

/// Why an address was withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The lease is over.
    Expired,
    /// The server said no.
    Nak,
    /// The carrier is away.
    Carrier,
}

/// Things that are no action but worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A server said no.
    Nak {
        /// Which.
        server: Option<Ipv4Addr>,
        /// Its words, printable.
        message: Option<String>,
    },
    /// An offer or confirmation that gives no usable lease.
    Refused {
        /// From whom.
        server: Option<Ipv4Addr>,
        /// What is wrong with it.
        why: Refused,
    },
    /// Nobody answered for a while.
    Silence {
        /// DISCOVERs sent so far.
        sent: u32,
    },
}

/// What was dropped, and how often; for whoever asks why there is no address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages sent.
    pub sent: u64,
    /// Messages not sent because of the [budget](Budget).
    pub suppressed: u64,
    /// Payloads that are no DHCP answer.
    pub unreadable: u64,
    /// Answers to somebody else.
    pub not_ours: u64,
    /// Answers to us that nobody asked for (any more).
    pub unexpected: u64,
    /// Options ignored because they were malformed.
    pub malformed_options: u64,
    /// Offers and confirmations without a usable lease.
    pub refused: u64,
    /// NAKs obeyed.
    pub naks: u64,
}

/// Which sockets the present phase needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// Whole packets, address or not.
    pub raw: bool,
    /// UDP on the client port, as soon as there is an address; open while bound even when nothing
    /// is asked, for without it the kernel tells the server that the port is unreachable.
    pub udp: bool,
}

/// A lease from before: from the last run of this program, or of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The lease; its times are on our clock.
    pub lease: Lease,
    /// Whether its address is on the link right now.
    pub applied: bool,
}
