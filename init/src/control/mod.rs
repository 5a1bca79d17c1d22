//! The control socket: how the machine is asked and told what to do while it runs.
//!
//! [`protocol`] has the words, [`server`] the connections of PID 1.

mod connection;
mod output;
pub mod protocol;
pub mod server;
