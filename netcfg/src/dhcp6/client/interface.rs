//! What the client is told, and what it wants done.

use std::net::Ipv6Addr;

#[cfg(doc)]
use crate::dhcp4::pace::Budget;
use crate::dhcp6::lease::{Lease6, Refused};

/// What the routers of the link say is to be had from DHCPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Off,
    /// Information, such as DNS servers.
    Stateless,
    /// An address, and information with it.
    Stateful,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The routers said this, again or for the first time.
    Mode(Mode),
    /// The link can carry frames and has a link-local address that passed duplicate detection.
    LinkUp,
    /// It cannot, or is gone.
    LinkDown,
    /// The payload of a datagram to the client port of this link.
    Payload(&'a [u8]),
    /// Nothing but time passing.
    Timer,
    /// Give the address back and stop, until the next [`Event::Mode`].
    Release,
    /// Ask now for what would be asked for later.
    Renew,
    /// The kernel found this address to be in use by somebody else.
    AddressConflict(Ipv6Addr),
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this DHCPv6 message to [`TO`](super::TO) from the link-local address.
    Send {
        /// The message.
        payload: Vec<u8>,
    },
    /// This lease is now the one of the link: configure it, or refresh its lifetimes.
    Apply(Box<Lease6>),
    /// Take the lease off the link, with all that came with it.
    Withdraw(Why),
    /// Something a person may want to know.
    Note(Note),
}

/// Why a lease was withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The lease is over.
    Expired,
    /// A server said that the addresses do not belong here, or took them away.
    Refused,
    /// The carrier is away.
    Carrier,
    /// Somebody else uses the address.
    Conflict,
    /// We were told to release it.
    Released,
    /// It was information only, and the routers do not offer it any more.
    Mode,
}

/// Things that are no action but worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// An answer that gives no usable lease.
    Refused {
        /// The DUID of who sent it.
        server: Vec<u8>,
        /// What is wrong with it.
        why: Refused,
        /// The words of the server, printable, often none.
        message: String,
    },
    /// Nobody answered for a while.
    Silence {
        /// Messages sent so far.
        sent: u32,
    },
    /// An address that a server gave us is in use by somebody else; the server is told.
    Conflict {
        /// Which.
        address: Ipv6Addr,
    },
}

/// What was dropped, and how often; for whoever asks why there is no address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages sent.
    pub sent: u64,
    /// Answers to us.
    pub received: u64,
    /// Messages not sent because of the [budget](Budget).
    pub suppressed: u64,
    /// Payloads that are no DHCPv6 answer.
    pub unreadable: u64,
    /// Answers to somebody else.
    pub not_ours: u64,
    /// Answers to us that nobody asked for (any more), or from a server that was not asked.
    pub unexpected: u64,
    /// Options ignored because they were malformed.
    pub malformed_options: u64,
    /// Answers without a usable lease.
    pub refused: u64,
    /// Addresses declined.
    pub declined: u64,
}
