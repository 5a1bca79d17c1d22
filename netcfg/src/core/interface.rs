//! What the core is told, and what it wants done.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::dhcp4::client::To;
use crate::dhcp4::lease::Lease;
use crate::link::Link;
use crate::mac::Mac;
use crate::reconcile::{Op, Seen};
use crate::store::Clocks;

/// What happened, or what was found.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// Nothing but time passing.
    Timer,
    /// Something of links or addresses changed, or notifications were lost.
    Changed,
    /// A route went: one of ours, or one that may have been in our way.
    RouteGone {
        /// Whether it carried our mark.
        ours: bool,
    },
    /// The answer to [`Command::Look`].
    Links(Vec<Link>),
    /// The answer to [`Command::See`].
    Seen(Seen),
    /// The answer to [`Command::ReadLease`].
    Lease {
        /// For which link.
        link: u32,
        /// The file, if there is one.
        text: Option<String>,
        /// Where the clocks stand.
        clocks: Clocks,
    },
    /// A part of this program is not there, `sandbox` or `control`, and why. Work goes on.
    Gap(&'static str, String),
    /// The answer to [`Command::ReadResolvConf`].
    ResolvConf(Option<String>),
    /// The answer to [`Command::Apply`]: what could not be done, and why.
    Applied(Vec<(Op, String)>),
    /// The answer to [`Command::WriteResolvConf`]: why it could not be written, if so.
    Written(Option<String>),
    /// The payload of a datagram to the DHCPv4 client port of a link.
    Dhcp4 {
        /// The link.
        link: u32,
        /// The DHCP message.
        payload: &'a [u8],
    },
    /// The payload of an ARP frame on a link.
    Arp {
        /// The link.
        link: u32,
        /// The payload.
        payload: &'a [u8],
    },
    /// The payload of a datagram to the DHCPv6 client port of a link.
    Dhcp6 {
        /// The link.
        link: u32,
        /// The DHCPv6 message.
        payload: &'a [u8],
    },
    /// Options of router advertisements, as rtnetlink passes them on.
    RouterOptions(&'a [u8]),
    /// An answer of a time server, perhaps.
    Ntp {
        /// Whose.
        from: SocketAddr,
        /// All of it.
        bytes: &'a [u8],
        /// When it came: the time since boot.
        at: Duration,
        /// What the wall clock showed then, since 1970.
        wall: Duration,
    },
    /// A command without an answer of its own could not be carried out.
    Failed(Failure),
}

/// What could not be done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What.
    pub doing: Doing,
    /// Of which link, if of one.
    pub link: Option<u32>,
    /// Why, for people.
    pub why: String,
}

/// What can fail without an answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// [`Command::Look`] or [`Command::See`].
    Asking,
    /// [`Command::Prepare`].
    Preparing,
    /// A setting of [`Command::Prepare`].
    Setting,
    /// [`Command::LoopbackUp`].
    Loopback,
    /// [`Command::AddVlan`].
    Making,
    /// [`Command::Open`].
    Opening(Socket),
    /// [`Command::Send`], [`Command::SendArp`], [`Command::Send6`], [`Command::Solicit`] or
    /// [`Command::SendNtp`].
    Sending,
    /// Receiving, which nobody asked for.
    Receiving,
    /// [`Command::SaveLease`], [`Command::SyncLease`] or [`Command::RemoveLease`].
    Storing,
}

/// What is to be done, in this order. What has an answer is answered before anything else is
/// told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Dump the links.
    Look,
    /// Dump addresses and routes.
    See,
    /// Read the lease kept for a card.
    ReadLease {
        /// The link.
        link: u32,
        /// The address of its card.
        mac: Mac,
    },
    /// Read `resolv.conf`.
    ReadResolvConf,
    /// Carry out these operations.
    Apply(Vec<Op>),
    /// Replace `resolv.conf` by this text.
    WriteResolvConf(String),
    /// Switch the loopback link on.
    LoopbackUp,
    /// Make a VLAN.
    AddVlan {
        /// The name of the new link.
        name: String,
        /// The number of the link that carries it.
        link: u32,
        /// The tag.
        id: u16,
    },
    /// Set a link up, once.
    Prepare {
        /// The link.
        link: u32,
        /// Its name.
        name: String,
        /// Whether to switch it on.
        up: bool,
        /// The MTU to set.
        mtu: Option<u32>,
        /// Kernel settings: `net.FAMILY.conf.NAME.KEY = VALUE`.
        settings: Vec<Setting>,
    },
    /// Open a socket of a link.
    Open {
        /// The link.
        link: u32,
        /// Its name.
        name: String,
        /// Which socket.
        socket: Socket,
    },
    /// Close a socket of a link.
    Close {
        /// The link.
        link: u32,
        /// Which socket.
        socket: Socket,
    },
    /// Send a DHCPv4 message.
    Send {
        /// The link.
        link: u32,
        /// How.
        to: To,
        /// The message.
        payload: Vec<u8>,
    },
    /// Broadcast the payload of an ARP frame.
    SendArp {
        /// The link.
        link: u32,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Send a DHCPv6 message to all servers and relays of a link.
    Send6 {
        /// The link.
        link: u32,
        /// The message.
        payload: Vec<u8>,
    },
    /// Ask the routers of a link to advertise themselves.
    Solicit {
        /// The link.
        link: u32,
    },
    /// Ask a time server.
    SendNtp {
        /// Whom.
        to: IpAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Close the sockets that time servers were asked from.
    CloseNtp,
    /// Keep a lease for the next start.
    SaveLease {
        /// The link.
        link: u32,
        /// The address of its card.
        mac: Mac,
        /// The lease.
        lease: Box<Lease>,
    },
    /// Make the kept lease last over a power cut.
    SyncLease {
        /// The link.
        link: u32,
        /// The address of its card.
        mac: Mac,
    },
    /// Make sure that no lease is kept.
    RemoveLease {
        /// The link.
        link: u32,
        /// The address of its card.
        mac: Mac,
    },
    /// Tell.
    Event(Event),
}

/// One setting of the kernel for a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Its name.
    pub key: &'static str,
    /// Its value.
    pub value: String,
}

/// The sockets that a link can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// Whole packets to the DHCPv4 client port, address or not.
    Packet,
    /// UDP on the DHCPv4 client port.
    Udp,
    /// ARP frames.
    Arp,
    /// UDP on the DHCPv6 client port.
    Udp6,
}

/// A thing worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// Its fields, in order.
    pub fields: Vec<(&'static str, String)>,
    /// Whether it is as in any good start, so that nobody need be shown it.
    pub routine: bool,
}
