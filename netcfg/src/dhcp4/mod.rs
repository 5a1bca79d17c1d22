//! The DHCPv4 client: a codec guarded at its edge, the lease it yields, and the state machine.
//!
//! Everything in here is pure. Bytes come in, bytes and decisions come out; the
//! driver, behind [`run`](crate::run), owns the sockets and the clock.
//!
//! | module | idea |
//! | --- | --- |
//! | [`walk`] | the strict walk over options that strangers sent |
//! | [`reply`] | OFFER, ACK, NAK as plain data |
//! | [`request`] | DISCOVER and REQUEST as bytes |
//! | [`frame`] | the IPv4 and UDP headers around them |
//! | [`lease`] | what an ACK grants |
//! | [`pace`] | when to send again, how often at most |
//! | [`client`] | the states of RFC 2131 |

pub mod client;
pub mod frame;
pub mod lease;
pub mod pace;
pub mod reply;
pub mod request;
pub mod walk;
