//! The network of the appliance: links, DHCPv4, routes and `resolv.conf`, in a process of its own.
//!
//! The crate is a functional core and an imperative shell. The core is pure: the
//! [DHCP client](dhcp4::client) is a state machine, [`desired`] turns configuration and leases
//! into the state each link should have, [`reconcile`] into the operations that lead there from
//! what the kernel has. The driver, behind [`run`], turns kernel events into events of the core,
//! and its actions into system calls.
//!
//! It runs with `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_NET_BIND_SERVICE` and nothing else, in
//! whatever network namespace it is started in. It never gives up and never exits on its own
//! account: a network that is not there yet is waited for, one that went is waited for again.
//! When it is killed, what it configured stays (until the lease ends, which the kernel sees to),
//! and its next run takes over from there.
//!
//! Events, told through an [`Outlet`]:
//!
//! | event | fields | when |
//! | --- | --- | --- |
//! | `net.link` | `link state mac mtu` | a managed link is found, gets or loses its carrier |
//! | `net.address` | `link address gateway dns lease_s server mtu domain hostname` | address, routes and `resolv.conf` are in place; fields without a value are left out |
//! | `net.renewed` | `link address lease_s server` | the lease has more time, nothing else changed |
//! | `net.lost` | `link address reason` | an address is taken away: `expired`, `nak`, `carrier`, `gone` |
//! | `net.warning` | `link reason ...` | something is not as it should be; at most once a minute each |

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
pub mod link;
pub mod mac;
pub mod ntp;
pub mod ra;
pub mod reconcile;
pub mod rng;
pub mod rtnl;
pub mod sandbox;
pub mod status;
pub mod store;
#[expect(unsafe_code, reason = "the sockets that std cannot make")]
mod sys;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;

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
