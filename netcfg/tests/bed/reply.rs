//! An answer to a client, byte by byte: honest as it is made, and whatever one makes of it.

use std::net::Ipv4Addr;

use super::frame::Dhcp;

/// RFC 2131, section 3.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const UDP: u8 = 17;

/// Something done to a finished frame.
type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// An answer in the making. Every field is as it goes over the wire.
pub struct Draft {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub ports: [u16; 2],
    /// Options of IPv4, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// Flags and fragment offset of IPv4.
    pub fragment: u16,
    pub protocol: u8,

    /// op, htype, hlen, hops.
    pub head: [u8; 4],
    pub xid: [u8; 4],
    pub secs: u16,
    pub flags: u16,
    pub ciaddr: Ipv4Addr,
    pub yiaddr: Ipv4Addr,
    pub siaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub chaddr: [u8; 16],
    pub sname: Vec<u8>,
    pub file: Vec<u8>,
    pub cookie: [u8; 4],
    pub options: Vec<(u8, Vec<u8>)>,
    /// What follows the options; the end option, usually.
    pub tail: Vec<u8>,
    /// Where the DHCP message ends early.
    pub cut: Option<usize>,
    /// What is done to the frame last, its sums not made again.
    pub damage: Option<Damage>,
}

impl Draft {
    /// An answer of this kind to `question` from a server that has the MAC address `from_mac`,
    /// without lease. By broadcast, unless the client has an address.
    pub fn new(question: &Dhcp, kind: u8, from_mac: [u8; 6], server: Ipv4Addr) -> Draft {
        let client = question.ciaddr();
        let mut chaddr = [0; 16];
        chaddr[..6].copy_from_slice(&question.source_mac);
        Draft {
            from_mac,
            to_mac: if client.is_unspecified() {
                [255; 6]
            } else {
                question.source_mac
            },
            source: server,
            destination: if client.is_unspecified() {
                Ipv4Addr::BROADCAST
            } else {
                client
            },
            ports: [67, 68],
            ip_options: vec![],
            fragment: 0,
            protocol: UDP,
            head: [2, 1, 6, 0],
            xid: question.xid(),
            secs: 0,
            flags: 0,
            ciaddr: client,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            sname: vec![0; 64],
            file: vec![0; 128],
            cookie: COOKIE,
            options: vec![(53, vec![kind]), (54, server.octets().to_vec())],
            tail: vec![255],
            cut: None,
            damage: None,
        }
    }

    /// Replaces the options with this code, or adds one.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.options.iter().position(|(found, _)| *found == code) {
            Some(at) => self.options[at].1 = value,
            None => self.options.push((code, value)),
        }
    }

    /// Removes the options with this code.
    pub fn remove(&mut self, code: u8) {
        self.options.retain(|(found, _)| *found != code);
    }

    /// The DHCP message.
    pub fn message(&self) -> Vec<u8> {
        let mut bytes = [&self.head[..], &self.xid].concat();
        bytes.extend(self.secs.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            bytes.extend(address.octets());
        }
        bytes.extend(self.chaddr);
        bytes.extend(&self.sname);
        bytes.extend(&self.file);
        bytes.extend(self.cookie);
        for (code, value) in &self.options {
            bytes.push(*code);
            // A longer value is one whose length is wrong.
            bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            bytes.extend(value);
        }
        bytes.extend(&self.tail);
        bytes.truncate(self.cut.unwrap_or(bytes.len()));
        bytes
    }

    /// The Ethernet frame, its sums made.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.ethernet();
        frame.extend(self.datagram(&self.udp(&self.message()), self.fragment));
        if let Some(damage) = &self.damage {
            damage(&mut frame);
        }
        frame
    }

    /// The same in two fragments, each a frame.
    pub fn two_fragments(&self) -> [Vec<u8>; 2] {
        let udp = self.udp(&self.message());
        // The offset is in units of eight bytes; RFC 791: "more fragments" is bit 13.
        let (first, second) = udp.split_at(udp.len() / 16 * 8);
        let offset = u16::try_from(first.len() / 8).expect("a datagram");
        [(first, 0x2000), (second, offset)].map(|(part, fragment)| {
            let mut frame = self.ethernet();
            frame.extend(self.datagram(part, fragment));
            frame
        })
    }

    fn ethernet(&self) -> Vec<u8> {
        [&self.to_mac[..], &self.from_mac, &[8, 0]].concat()
    }

    fn udp(&self, message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + message.len()).expect("fits");
        let mut udp: Vec<u8> = [self.ports[0], self.ports[1], length, 0]
            .into_iter()
            .flat_map(u16::to_be_bytes)
            .collect();
        udp.extend(message);
        let pseudo = [
            &self.source.octets()[..],
            &self.destination.octets(),
            &[0, UDP],
        ]
        .concat();
        let sum = sum(&[&pseudo[..], &length.to_be_bytes(), &udp].concat());
        // RFC 768: zero would mean that there is none.
        let sum = if sum == 0 { u16::MAX } else { sum };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        udp
    }

    fn datagram(&self, payload: &[u8], fragment: u16) -> Vec<u8> {
        let words = 5 + u8::try_from(self.ip_options.len() / 4).expect("at most ten words");
        let total = u16::try_from(usize::from(words) * 4 + payload.len()).expect("fits");
        let mut ip = vec![0x40 | words, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0]);
        ip.extend(self.source.octets());
        ip.extend(self.destination.octets());
        ip.extend(&self.ip_options);
        let sum = sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(payload);
        ip
    }
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
