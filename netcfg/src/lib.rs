//! The network of the appliance: links, DHCP, IPv6, routes, `resolv.conf` and the measuring of the
//! clock, in a process of its own.
//!
//! The crate is a functional core and an imperative shell. The [`core`] is pure: it is made of the
//! clients of [DHCPv4](dhcp4::client), [DHCPv6](dhcp6::client) and [NTP](ntp::client), which are
//! state machines, of what [routers](ra) said, of [`desired`], which turns configuration and what
//! was learnt into the state each link should have, and of [`reconcile`], which turns that into the
//! operations that lead there from what the kernel has. The driver, behind [`run`], turns kernel
//! events into inputs of the core, and its commands into system calls.
//!
//! Before it hears the first byte from the network it goes into a [`sandbox`]. It runs with `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_NET_BIND_SERVICE` and nothing else, in
//! whatever network namespace it is started in. It never gives up and never exits on its own
//! account: a network that is not there yet is waited for, one that went is waited for again.
//! When it is killed, what it configured stays (until the lease ends, which the kernel sees to),
//! and its next run takes over from there.
//!
//! Its events, told through an [`Outlet`], are `net.link`, `net.address`, `net.renewed`, `net.lost`,
//! `net.time` and `net.warning`; `docs/interfaces.md` has their fields.

#![deny(unsafe_code)]

pub mod cidr;
pub mod config;
pub mod control;
pub mod core;
pub mod desired;
pub mod dhcp4;
pub mod dhcp6;
pub mod dns;
mod driver;
mod fair;
pub mod link;
pub mod mac;
pub mod ntp;
pub mod ra;
pub mod reconcile;
pub mod rng;
pub mod rtnl;
pub mod sandbox;
pub mod shun;
pub mod status;
pub mod store;
#[expect(unsafe_code, reason = "the sockets that std cannot make")]
mod sys;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use config::{Config, ConfigError, LinkConfig};

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to do with which link.
    pub config: Config,
    /// Where leases are kept over a restart; best on a disk that survives a reboot.
    pub state_dir: PathBuf,
    /// Where `resolv.conf` is written. Must be writable: the file is replaced, not rewritten.
    pub runtime_dir: PathBuf,
}

/// Where events go.
pub trait Outlet {
    /// One event, as a name of dotted lower-case words and its fields in order.
    fn event(&mut self, name: &str, fields: &[(&str, String)]);

    /// The same of an event that is as in any good start, so that nobody need be shown it.
    fn routine(&mut self, name: &str, fields: &[(&str, String)]) {
        self.event(name, fields);
    }

    /// Called in each turn of the loop, the first time when the network part runs: whoever supervises it can be
    /// told so. Returns until when it is to be called again at the latest.
    fn alive(&mut self, _now: Duration) -> Option<Duration> {
        None
    }
}

/// Why the network part cannot run, or cannot go on. A supervisor should start it again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be carried out.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// No event loop.
    #[error("cannot make an event loop: {0}")]
    Runtime(#[source] io::Error),
    /// No netlink sockets.
    #[error("cannot open the netlink sockets: {0}")]
    Netlink(#[source] io::Error),
    /// A netlink socket ended.
    #[error("the kernel closed the netlink connection")]
    NetlinkClosed,
    /// No timer.
    #[error("cannot use a timer: {0}")]
    Timer(#[source] io::Error),
}

/// Configures the network, and keeps it configured. Blocks; returns only on an error.
pub fn run(options: Options, outlet: &mut dyn Outlet) -> Result<Infallible, Error> {
    options.config.validate()?;
    driver::run(options, outlet)
}
