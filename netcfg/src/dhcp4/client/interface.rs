//! What the client is told, and what it wants done.

use std::net::Ipv4Addr;

#[cfg(doc)]
use super::super::conflict::Conflict;
#[cfg(doc)]
use super::super::pace::Budget;
use crate::dhcp4::lease::{Lease, Refused};
use crate::mac::Mac;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The link can carry frames.
    CarrierUp,
    /// It cannot, or is gone.
    CarrierDown,
    /// The payload of a datagram to the client port of this link.
    Payload(&'a [u8]),
    /// The payload of an ARP frame on this link. Frames from other links of this machine are not
    /// for here: on one wire with this link they would look like a neighbour with our address.
    Arp(&'a [u8]),
    /// Somebody wants to know now: more time for the lease that there is, or else a new start.
    Renew,
    /// Somebody wants the address given back.
    Release,
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
    /// Broadcast this payload in a frame of type 0x0806.
    Arp(Vec<u8>),
    /// This lease is now the one of the link: configure it, or refresh its lifetimes. It takes
    /// the place of the one before.
    Apply {
        /// The lease.
        lease: Box<Lease>,
        /// Whether a server confirmed it just now. Then it is to be kept for the next start. If
        /// not, it comes from there, and its times are too late to be written down again.
        verified: bool,
    },
    /// Keep this lease for the next start: something was learnt beside it. On the link nothing
    /// changes.
    Remember(Box<Lease>),
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
    /// Somebody else has it.
    Conflict,
    /// Another address was granted, which is probed before it is used.
    Replaced,
    /// It was given back on request.
    Released,
    /// The network prefers that we do without IPv4.
    Ipv6Only,
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
    /// Somebody else has our address, and it was given up.
    Conflict {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        mac: Mac,
    },
    /// Somebody else claims our address; it was defended.
    Defended {
        /// The address.
        address: Ipv4Addr,
        /// Who claims it.
        mac: Mac,
    },
    /// The network prefers that we do without IPv4 (RFC 8925).
    Ipv6Only {
        /// For how long.
        seconds: u64,
    },
}

/// What was dropped, and how often; for whoever asks why there is no address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages sent.
    pub sent: u64,
    /// Answers to us.
    pub received: u64,
    /// ARP frames sent.
    pub arps_sent: u64,
    /// Messages and ARP frames not sent because of the [budget](Budget).
    pub suppressed: u64,
    /// Payloads that are no DHCP answer.
    pub unreadable: u64,
    /// FORCERENEWs, which are never obeyed.
    pub force_renews: u64,
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
    /// Addresses given up to somebody else.
    pub conflicts: u64,
}

/// Which sockets the present phase needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// Whole packets, address or not.
    pub raw: bool,
    /// UDP on the client port, as soon as there is an address; open while bound even when nothing
    /// is asked, for without it the kernel tells the server that the port is unreachable.
    pub udp: bool,
    /// ARP frames, both ways. Never with [`Conflict::Off`].
    pub arp: bool,
}

/// A lease from before: from the last run of this program, or of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The lease; its times are on our clock.
    pub lease: Lease,
    /// Whether its address is on the link right now.
    pub applied: bool,
    /// Whether its age is known. If not, its times are those of a lease granted just now: good
    /// enough to ask with, not to use an address by.
    pub age_known: bool,
}
