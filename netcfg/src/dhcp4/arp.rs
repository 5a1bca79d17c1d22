//! The payload of an ARP frame for IPv4 over Ethernet (RFC 826), both ways.
//!
//! Three frames are sent: the *probe* of RFC 5227, which has no sender address and so changes
//! nobody's table; the *announcement*, which has ours twice; and the plain question for a
//! gateway. What is read comes from strangers: anything but 28 bytes of the one kind is nothing.

use std::net::Ipv4Addr;

use crate::mac::Mac;

/// Hardware type 1 (Ethernet), protocol 0x0800 (IPv4), their address lengths.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Everything of an ARP frame behind its Ethernet header.
pub const LENGTH: usize = 28;

/// Question or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// What an ARP frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Question or answer.
    pub op: Op,
    /// Who speaks.
    pub sender_mac: Mac,
    /// The address it claims; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// To whom, in an answer.
    pub target_mac: Mac,
    /// The address that is asked for.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Does anybody have `target`? From nobody, so that no table changes (RFC 5227, section 1.1).
    pub const fn probe(mac: Mac, target: Ipv4Addr) -> Arp {
        Arp::question(mac, Ipv4Addr::UNSPECIFIED, target)
    }

    /// `address` is at `mac` (RFC 5227, section 1.1: both addresses are the same).
    pub const fn announcement(mac: Mac, address: Ipv4Addr) -> Arp {
        Arp::question(mac, address, address)
    }

    /// Who has `target`? From `sender`.
    pub const fn question(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Arp {
        Arp {
            op: Op::Request,
            sender_mac: mac,
            sender,
            target_mac: Mac([0; 6]),
            target,
        }
    }

    /// The 28 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let op = match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        };
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(KIND);
        bytes.extend([0, op]);
        bytes.extend(self.sender_mac.0);
        bytes.extend(self.sender.octets());
        bytes.extend(self.target_mac.0);
        bytes.extend(self.target.octets());
        bytes
    }

    /// Reads a payload, behind which Ethernet may have padded. `None` for other protocols and
    /// operations, and for a sender that no card can be: a group address or zero.
    pub fn decode(payload: &[u8]) -> Option<Arp> {
        let rest = payload.strip_prefix(&KIND)?;
        let (op, rest) = rest.split_first_chunk::<2>()?;
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (target_mac, rest) = rest.split_first_chunk::<6>()?;
        let (target, _) = rest.split_first_chunk::<4>()?;
        let op = match op {
            [0, 1] => Op::Request,
            [0, 2] => Op::Reply,
            _ => return None,
        };
        if sender_mac[0] & 1 != 0 || *sender_mac == [0; 6] {
            return None;
        }
        Some(Arp {
            op,
            sender_mac: Mac(*sender_mac),
            sender: Ipv4Addr::from(*sender),
            target_mac: Mac(*target_mac),
            target: Ipv4Addr::from(*target),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    #[test]
    fn the_bytes_are_those_of_the_rfc() {
        let bytes = Arp::announcement(ME, HERE).encode();
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!(
            bytes,
            [
                0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0,
                9
            ]
        );
        assert!(Arp::probe(ME, HERE).sender.is_unspecified());
    }

    #[test]
    fn it_reads_what_it_writes_and_refuses_the_rest() {
        let answer = Arp {
            op: Op::Reply,
            target_mac: Mac([2, 0, 0, 0, 0, 8]),
            ..Arp::question(ME, HERE, Ipv4Addr::new(10, 0, 0, 8))
        };
        let bytes = answer.encode();
        assert_eq!(Arp::decode(&bytes), Some(answer));
        assert_eq!(Arp::decode(&[&bytes[..], &[0; 18]].concat()), Some(answer));
        for cut in 0..LENGTH {
            assert_eq!(Arp::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        // Another hardware, protocol, length or operation; a sender that is a group.
        for (at, value) in [(1, 6), (2, 9), (4, 8), (5, 16), (7, 3), (6, 1), (8, 1)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert_eq!(Arp::decode(&bytes), None, "byte {at}");
        }
        assert_eq!(Arp::decode(&Arp::probe(Mac([0; 6]), HERE).encode()), None);
    }
}
