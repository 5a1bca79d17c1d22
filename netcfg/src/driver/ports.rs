//! The sockets of all links, as the core wants them.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use super::socket::{Arp, Raw, Udp};
use super::udp6::Udp6;
use crate::core::Socket;
use crate::dhcp4::client::To;
use crate::fair;

/// What came in.
pub enum Packet {
    /// A message to the DHCPv4 client port.
    Dhcp4(Vec<u8>),
    /// An ARP frame.
    Arp(Vec<u8>),
    /// A message to the DHCPv6 client port.
    Dhcp6(Vec<u8>),
}

/// An open socket.
enum Opened {
    Packet(Raw),
    Udp(Udp),
    Arp(Arp),
    Udp6(Udp6),
}

/// The sockets, by link and kind.
#[derive(Default)]
pub struct Ports {
    sockets: BTreeMap<(u32, Socket), Opened>,
}

impl Ports {
    /// Opens a socket of the link with this name.
    pub fn open(&mut self, link: u32, name: &str, socket: Socket) -> io::Result<()> {
        let opened = match socket {
            Socket::Packet => Opened::Packet(Raw::open(link)?),
            Socket::Udp => Opened::Udp(Udp::open(name)?),
            Socket::Arp => Opened::Arp(Arp::open(link)?),
            Socket::Udp6 => Opened::Udp6(Udp6::open(name, link)?),
        };
        self.sockets.insert((link, socket), opened);
        Ok(())
    }

    /// Closes it.
    pub fn close(&mut self, link: u32, socket: Socket) {
        self.sockets.remove(&(link, socket));
    }

    /// Sends a DHCPv4 message.
    pub fn send(&self, link: u32, to: To, payload: &[u8]) -> io::Result<()> {
        let socket = match to {
            To::Broadcast => Socket::Packet,
            To::Unicast(_) | To::BroadcastFromLease => Socket::Udp,
        };
        match self.sockets.get(&(link, socket)) {
            Some(Opened::Packet(raw)) => raw.send(payload),
            Some(Opened::Udp(udp)) => udp.send(to, payload),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Broadcasts an ARP frame.
    pub fn send_arp(&self, link: u32, payload: &[u8]) -> io::Result<()> {
        match self.sockets.get(&(link, Socket::Arp)) {
            Some(Opened::Arp(arp)) => arp.send(payload),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends a DHCPv6 message.
    pub fn send6(&self, link: u32, payload: &[u8]) -> io::Result<()> {
        match self.sockets.get(&(link, Socket::Udp6)) {
            Some(Opened::Udp6(udp)) => udp.send(payload),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Takes what has arrived.
    pub fn poll(&self, cx: &mut Context<'_>, mut took: impl FnMut(u32, io::Result<Packet>)) {
        for ((link, _), socket) in &self.sockets {
            fair::take(
                cx,
                |cx| socket.poll_receive(cx),
                |received| match received {
                    Ok(Some(packet)) => {
                        took(*link, Ok(packet));
                        ControlFlow::Continue(())
                    }
                    // A packet that holds no message.
                    Ok(None) => ControlFlow::Continue(()),
                    // A socket says this once when its link is switched off, and works on after.
                    Err(error) if error.kind() == io::ErrorKind::NetworkDown => {
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        took(*link, Err(error));
                        ControlFlow::Break(())
                    }
                },
            );
        }
    }
}

impl Opened {
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Packet>>> {
        let (received, kind): (_, fn(Vec<u8>) -> Packet) = match self {
            Opened::Packet(raw) => (raw.poll_receive(cx), Packet::Dhcp4),
            Opened::Udp(udp) => (udp.poll_receive(cx), Packet::Dhcp4),
            Opened::Arp(arp) => (arp.poll_receive(cx), Packet::Arp),
            Opened::Udp6(udp) => (udp.poll_receive(cx), Packet::Dhcp6),
        };
        received.map_ok(|payload| payload.map(kind))
    }
}
