//! DHCP servers of four makes, described once.
//!
//! A [`Server`] says what is to be served; each [`Kind`] has a file that turns it into that
//! server's configuration, starts it, and waits until it serves. What a make cannot do it says
//! through [`Kind::cannot`], with the reason, and is not started.
//!
//! No server probes an address before it offers it, unless it is told to: that costs seconds,
//! and what is tested is the client.

pub mod dnsmasq;
mod isc;
mod kea;
mod udhcpd;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use super::Bed;
use super::process::Process;
use super::tools::ip;

/// A namespace in which servers run, on the link `srv`.
#[derive(Debug)]
pub struct Host {
    pub netns: String,
    /// For configuration and leases of the servers here.
    pub folder: PathBuf,
}

impl Host {
    pub fn new(netns: String, folder: PathBuf) -> Host {
        Host { netns, folder }
    }

    /// `ip` in here.
    pub fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.netns[..]], arguments].concat())
    }

    /// A program in here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, program]);
        command
    }

    /// Gives `srv` another address.
    pub fn renumber(&self, address: &str) {
        self.ip(&["addr", "flush", "dev", "srv"]);
        self.ip(&["addr", "add", address, "dev", "srv"]);
    }
}

/// What is served, from 10.NET.0.0/24.
#[derive(Debug, Clone)]
pub struct Server {
    pub net: u8,
    /// Last octets of the first and the last address to give.
    pub pool: (u8, u8),
    /// In seconds, as T1 and T2 are.
    pub lease: u32,
    pub t1: u32,
    pub t2: u32,
    pub router: Ipv4Addr,
    pub dns: [Ipv4Addr; 2],
    pub domain: &'static str,
    pub mtu: Option<u16>,
    /// Option 121: destination and router.
    pub routes: Vec<(&'static str, Ipv4Addr)>,
    /// Mask 255.255.255.255 instead of that of the network.
    pub lone: bool,
    /// RFC 4039: an ACK at once, to who asks for it.
    pub rapid_commit: bool,
    /// Says no to who asks for an address of another network, instead of nothing.
    pub authoritative: bool,
    /// Answers only by broadcast, as a server that cannot send to an address which nobody has
    /// yet. udhcpd always does.
    pub broadcast_only: bool,
    /// dnsmasq alone: sends a ping to an address, and waits for three seconds, before it offers it.
    pub ping_check: bool,
}

impl Server {
    /// A plain one that gives leases of an hour.
    pub fn new(net: u8) -> Server {
        let address = |last| Ipv4Addr::new(10, net, 0, last);
        Server {
            net,
            pool: (50, 99),
            lease: 3600,
            t1: 1800,
            t2: 3150,
            router: address(1),
            dns: [address(3), address(4)],
            domain: "lan.example",
            mtu: None,
            routes: vec![],
            lone: false,
            rapid_commit: false,
            authoritative: true,
            broadcast_only: false,
            ping_check: false,
        }
    }

    /// With these times in seconds.
    pub fn times(self, lease: u32, t1: u32, t2: u32) -> Server {
        Server {
            lease,
            t1,
            t2,
            ..self
        }
    }

    /// An address of the network.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.net, 0, last)
    }

    fn mask(&self) -> Ipv4Addr {
        if self.lone {
            Ipv4Addr::BROADCAST
        } else {
            Ipv4Addr::new(255, 255, 255, 0)
        }
    }

    /// The value of option 121 (RFC 3442).
    fn route_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![];
        for (to, via) in &self.routes {
            let (to, prefix) = to.split_once('/').expect("with a prefix");
            let to: Ipv4Addr = to.parse().expect("an address");
            let prefix: u8 = prefix.parse().expect("a number");
            bytes.push(prefix);
            bytes.extend(&to.octets()[..usize::from(prefix.div_ceil(8))]);
            bytes.extend(via.octets());
        }
        bytes
    }
}

/// The makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Kea,
    Dnsmasq,
    Isc,
    Udhcpd,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Kea, Kind::Dnsmasq, Kind::Isc, Kind::Udhcpd];

    /// Why this make cannot serve that.
    pub fn cannot(self, server: &Server) -> Option<&'static str> {
        match self {
            Kind::Kea => kea::cannot(server),
            Kind::Dnsmasq => dnsmasq::cannot(server),
            Kind::Isc => isc::cannot(server),
            Kind::Udhcpd => udhcpd::cannot(server),
        }
    }

    /// Starts it on `host`, where its leases of before are known to it. It serves when this
    /// returns. The link must be up.
    pub fn start(self, host: &Host, server: &Server) -> Process {
        if let Some(reason) = self.cannot(server) {
            panic!("{self} cannot: {reason}");
        }
        match self {
            Kind::Kea => kea::start(host, server),
            Kind::Dnsmasq => dnsmasq::start(host, server),
            Kind::Isc => isc::start(host, server),
            Kind::Udhcpd => udhcpd::start(host, server),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kea => "kea",
            Kind::Dnsmasq => "dnsmasq",
            Kind::Isc => "isc",
            Kind::Udhcpd => "udhcpd",
        })
    }
}

impl Bed {
    /// dnsmasq on the server's side, for `10.NET.0.50` to `10.NET.0.99`, with arguments of its
    /// own for what [`Server`] has no word for.
    pub fn dnsmasq(&self, net: u8, arguments: &[&str]) -> Process {
        let arguments = [&["--no-ping"][..], arguments].concat();
        dnsmasq::start_with(&self.server, net, (50, 99), 120, &arguments)
    }

    /// Kea on the server's side, with these times in seconds.
    pub fn kea(&self, net: u8, lease: u32, renew: u32, rebind: u32) -> Process {
        self.switch_on();
        let server = Server::new(net).times(lease, renew, rebind);
        kea::start(&self.server, &server)
    }
}
