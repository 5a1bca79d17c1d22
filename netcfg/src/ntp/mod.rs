//! The time of day from NTP servers (SNTP: RFC 4330, and the client mode of RFC 5905).
//!
//! Pure, as all of the core. [`packet`] writes questions and reads answers strictly, [`choose`] says
//! whom of those that answered to believe, and [`client`] is the state machine: whom to ask and when.
//! What comes out is an *offset*, how far the wall clock is from the servers' time. Nothing here
//! sets a clock: this process may not. PID 1 hears of the offset as `net.time` and has a policy of
//! its own, for which all that is said here is the word of a stranger.
//!
//! Servers are addresses, never names: a name needs the resolver, a resolver that validates needs
//! the time, and the answer would be one more thing that a stranger decides. They come from the
//! configuration or from DHCP (option 42; option 56 of DHCPv6), at most [`client::SERVERS`] of them.
//!
//! What differs from the letter of RFC 4330 and RFC 5905, and why:
//! - no random delay before the first question (RFC 4330, section 10, rule 1): services that speak
//!   TLS wait for the clock. A burst is bounded and its retries are jittered.
//! - the wall clock is in no packet: the transmit timestamp of a question is a random number, and
//!   everything else is zero (as in draft-ietf-ntp-data-minimization). It tells strangers nothing,
//!   and an answer is known by it, which makes 64 bits to be guessed by whoever cannot see the question.
//! - an offset is one sample of one server, not the average of a filter over eight. The kernel's
//!   discipline is the filter.
//! - leap seconds are not announced to the kernel: after one, the clock is a second off and slewed.

pub mod choose;
pub mod client;
pub mod packet;
