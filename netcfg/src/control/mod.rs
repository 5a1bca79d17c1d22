//! The socket at which netcfg is asked and told, in the manner of PID 1's: one JSON object a line.
//!
//! [`protocol`] has its words, [`server`] its connections.

mod connection;
mod held;
pub mod protocol;
pub mod server;
