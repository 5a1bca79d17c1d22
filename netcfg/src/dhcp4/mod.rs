//! The DHCPv4 client: a codec guarded at its edge, the lease it yields, and the state machine.
//!
//! Everything in here is pure. Bytes come in, bytes and decisions come out; the
//! driver, behind [`run`](crate::run), owns the sockets and the clock.
//!
//! | module | idea |
//! | --- | --- |
//! | [`walk`] | the strict walk over options that strangers sent |
//! | [`search`] | the compressed names in option 119 |
//! | [`reply`] | OFFER, ACK, NAK as plain data |
//! | [`request`] | who we are, and what we ask, as bytes |
//! | [`arp`] | the payload of ARP frames |
//! | [`conflict`] | whether somebody else has our address (RFC 5227) |
//! | [`frame`] | the IPv4 and UDP headers around them |
//! | [`lease`] | what an ACK grants |
//! | [`pace`] | when to send again, how often at most |
//! | [`client`] | the states of RFC 2131 |

pub mod arp;
pub mod client;
pub mod conflict;
pub mod frame;
pub mod lease;
pub mod pace;
pub mod reply;
pub mod request;
pub mod search;
pub mod walk;
