//! The ground floor: what the crates of init, of the supervisor and of the network have in common. It knows none of them.

#![forbid(unsafe_code)]

pub mod beneath;
