//! The DHCPv6 client: a strict codec, the lease it yields, and the state machine.
//!
//! Everything in here is pure, as in [`dhcp4`](crate::dhcp4): bytes come in, bytes and decisions
//! come out; the driver owns the socket and the clock. Whether the client runs at all, and for an
//! address or for information only, is said by the flags of Router Advertisements
//! ([`ra::Flags`](crate::ra::Flags)).
//!
//! | module | idea |
//! | --- | --- |
//! | [`walk`] | the strict walk over options that strangers sent |
//! | [`hosts`] | which names and addresses of strangers may be used |
//! | [`reply`] | ADVERTISE and REPLY as plain data |
//! | [`request`] | the eight messages of a client as bytes |
//! | [`lease`] | what a REPLY grants |
//! | [`pace`] | when to send again (RFC 8415, section 15) |
//! | [`client`] | the states of RFC 8415 |
//!
//! `dhcproto` encodes what we say. It does not decode what we hear: the walk that must come first
//! already yields every value, and the format needs no second pass over them. Behind the walk the
//! crate would be of no help, before it of harm (0.15, read in its source): it ends, with `Ok`, at
//! the first option that it cannot read; it computes `len - 2` of a status code and `len - 11`
//! of an authentication option without asking whether they are that long, which is a panic where
//! sums are checked; it follows options inside options to any depth, which is the end of the stack
//! for one datagram of 64 KiB; and it keeps options of the same code in no particular order. It also writes search lists with
//! compressed names, which RFC 8415, section 10 forbids; we never write any. On
//! messages that are in order the two must agree, which the tests of the codec demand.

pub mod client;
pub mod hosts;
pub mod lease;
pub mod pace;
pub mod reply;
pub mod request;
pub mod walk;
