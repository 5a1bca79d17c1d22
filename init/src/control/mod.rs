//! The control socket: how the machine is asked and told what to do while it runs.
//!
//! [`protocol`] has the words, [`server`] the connections of PID 1, [`metrics`] the text for a
//! scraper. The client is [`crate::ctl`].

mod connection;
pub mod metrics;
mod output;
pub mod protocol;
pub mod server;
