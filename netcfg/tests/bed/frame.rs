//! Enough of Ethernet, IPv4, UDP and DHCP to see in a test what went over the cable.
//!
//! Written apart from the code under test on purpose, and only for frames that are whole.

use std::net::Ipv4Addr;

const ETHERNET: usize = 14;
const UDP: usize = 8;
/// RFC 2131, section 2: the fixed part, cookie included.
const OPTIONS_AT: usize = 240;

/// RFC 2132, section 9.6.
pub const DISCOVER: u8 = 1;
/// RFC 2132, section 9.6.
pub const OFFER: u8 = 2;
/// RFC 2132, section 9.6.
pub const REQUEST: u8 = 3;
/// RFC 2132, section 9.6.
pub const DECLINE: u8 = 4;
/// RFC 2132, section 9.6.
pub const ACK: u8 = 5;
/// RFC 2132, section 9.6.
pub const NAK: u8 = 6;

/// A DHCP message with the addresses of its frame.
#[derive(Debug, Clone)]
pub struct Dhcp {
    pub source_mac: [u8; 6],
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// The payload of the datagram.
    pub message: Vec<u8>,
}

impl Dhcp {
    /// The DHCP message in an Ethernet frame, if it holds one.
    pub fn of(frame: &[u8]) -> Option<Dhcp> {
        let source_mac = frame.get(6..12)?.try_into().ok()?;
        // IPv4, UDP, either of the two ports on both ends.
        let ip = frame.get(ETHERNET..)?;
        if frame.get(12..14)? != [8, 0] || *ip.get(9)? != 17 {
            return None;
        }
        let header = usize::from(ip.first()? & 15) * 4;
        let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
        let udp = ip.get(header..total)?;
        if !matches!(udp.get(..4)?, [0, 67 | 68, 0, 67 | 68]) {
            return None;
        }
        let address = |at: usize| {
            let octets: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets))
        };
        let message = udp.get(UDP..)?.to_vec();
        (message.len() >= OPTIONS_AT).then_some(Dhcp {
            source_mac,
            source: address(12)?,
            destination: address(16)?,
            message,
        })
    }

    /// Whether it is from a client.
    pub fn is_request(&self) -> bool {
        self.message[0] == 1
    }

    /// Option 53, or 0.
    pub fn kind(&self) -> u8 {
        self.option(53).map_or(0, |value| value[0])
    }

    /// Transaction id.
    pub fn xid(&self) -> [u8; 4] {
        self.message[4..8].try_into().expect("four bytes")
    }

    /// The address that the client says it uses.
    pub fn ciaddr(&self) -> Ipv4Addr {
        let octets: [u8; 4] = self.message[12..16].try_into().expect("four bytes");
        octets.into()
    }

    /// RFC 2131, section 2: the flag of a client that wants to be answered by broadcast.
    pub fn wants_broadcast(&self) -> bool {
        self.message[10] & 0x80 != 0
    }

    /// The value of the first option with this code.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        let mut area = self.message.get(OPTIONS_AT..)?;
        loop {
            match area {
                [0, rest @ ..] => area = rest,
                [255, ..] | [] => return None,
                [found, rest @ ..] => {
                    let (&length, rest) = rest.split_first()?;
                    let (value, next) = rest.split_at_checked(usize::from(length))?;
                    if *found == code {
                        return Some(value);
                    }
                    area = next;
                }
            }
        }
    }

    /// The value of an option that is an address.
    pub fn address_option(&self, code: u8) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(octets.into())
    }
}
