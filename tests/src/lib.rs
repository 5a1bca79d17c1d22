//! What the tests that cross crates share.

#![forbid(unsafe_code)]

pub mod appliance;
pub mod background;
pub mod cuts;
pub mod dhcp;
pub mod fleet;
pub mod ntp;
pub mod seed;
