//! Servers of all manners, and neighbours that speak ARP.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode, UnknownOption};
use netcfg::dhcp4::arp::{Arp, Op};
use netcfg::mac::Mac;
use netcfg::rng::Rng;

use super::MAC;

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As RFC 2131 has it, knowing every lease it ever gave.
    Honest,
    /// Honest, and binds in the first answer where it may (RFC 4039).
    Rapid,
    /// Honest, but hears only those who ask for a broadcast answer or have an address.
    BroadcastOnly,
    /// Offers, and then says nothing to the request.
    Forgetful,
    /// Offers, and then says no; says no to whatever it hears.
    Refusing,
    /// Grants leases that are too short to live on.
    Stingy,
    /// Confirms whatever is asked for, whoever was asked.
    Meddling,
    /// Answers with wrong transaction ids, other people's addresses, cut messages.
    Lying,
}

#[derive(Debug, Clone)]
pub struct Server {
    pub id: Ipv4Addr,
    pub address: Ipv4Addr,
    pub manner: Manner,
    pub lease: u32,
    /// Says that IPv6 is preferred, and for how many seconds.
    pub ipv6_only: Option<u32>,
    /// Hears nothing in these spans.
    pub dead: Vec<(Duration, Duration)>,
}

impl Server {
    pub fn new(number: u8, manner: Manner, lease: u32) -> Server {
        Server {
            id: Ipv4Addr::new(10, 0, number, 1),
            address: Ipv4Addr::new(10, 0, number, 50),
            manner,
            lease,
            ipv6_only: None,
            dead: vec![],
        }
    }

    pub fn is_dead(&self, now: Duration) -> bool {
        self.dead
            .iter()
            .any(|(from, to)| (*from..*to).contains(&now))
    }

    /// What this server says to `asked`, if anything.
    pub fn answer(
        &mut self,
        asked: &Message,
        times: Option<(u32, u32)>,
        rng: &mut Rng,
    ) -> Option<Vec<u8>> {
        let option = |code| asked.opts().get(code);
        let requested = match option(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        };
        let chosen = match option(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        };
        let has = |kind| asked.opts().has_msg_type(kind);
        if has(MessageType::Release) {
            return None;
        }
        if has(MessageType::Decline) {
            // Somebody has it who did not get it from here: never that one again.
            if chosen == Some(self.id) && requested == Some(self.address) {
                self.address = Ipv4Addr::from_bits(self.address.to_bits() + 1);
            }
            return None;
        }
        let discover = has(MessageType::Discover);
        let wanted = requested.unwrap_or_else(|| asked.ciaddr());
        let may_rapid = option(OptionCode::RapidCommit).is_some();
        let deaf = asked.ciaddr().is_unspecified() && !asked.flags().broadcast();
        let kind = match self.manner {
            Manner::BroadcastOnly if deaf => return None,
            Manner::Rapid if discover && may_rapid => MessageType::Ack,
            _ if discover => MessageType::Offer,
            Manner::Refusing => MessageType::Nak,
            Manner::Forgetful => return None,
            Manner::Meddling => MessageType::Ack,
            _ if chosen.is_some_and(|chosen| chosen != self.id) => return None,
            _ if wanted != self.address && chosen.is_none() => {
                // Not authoritative for other people's networks: silence.
                return None;
            }
            _ if wanted != self.address => MessageType::Nak,
            _ => MessageType::Ack,
        };
        let lease = if self.manner == Manner::Stingy {
            3
        } else {
            self.lease
        };
        let address = match self.manner {
            Manner::Meddling if !discover => wanted,
            _ => self.address,
        };
        let mut message = message(asked.xid(), kind, self.id, address, lease);
        if discover && kind == MessageType::Ack {
            message.opts_mut().insert(DhcpOption::RapidCommit);
        }
        if let Some((t1, t2)) = times {
            message.opts_mut().insert(DhcpOption::Renewal(t1));
            message.opts_mut().insert(DhcpOption::Rebinding(t2));
        }
        if let Some(seconds) = self.ipv6_only {
            // The codec would write its own variant under another number.
            let code = OptionCode::Unknown(108);
            let value = seconds.to_be_bytes().to_vec();
            let option = DhcpOption::Unknown(UnknownOption::new(code, value));
            message.opts_mut().insert(option);
        }
        let mut bytes = message.to_vec().expect("encodes");
        if self.manner == Manner::Lying {
            match rng.next_u32() % 5 {
                0 => bytes[4..8].copy_from_slice(&rng.next_u32().to_be_bytes()),
                1 => bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 8]),
                2 => bytes.truncate(rng.next_u32() as usize % bytes.len()),
                3 => bytes[2] = 200,
                _ => {
                    let at = 240 + rng.next_u32() as usize % (bytes.len() - 240);
                    bytes[at] = rng.next_u32().to_be_bytes()[0];
                }
            }
        }
        Some(bytes)
    }
}

fn message(xid: u32, kind: MessageType, id: Ipv4Addr, address: Ipv4Addr, lease: u32) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let yiaddr = if kind == MessageType::Nak {
        none
    } else {
        address
    };
    let mut message = Message::new_with_id(xid, none, yiaddr, none, none, &MAC.0);
    message.set_opcode(Opcode::BootReply).set_htype(HType::Eth);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(id));
    if kind != MessageType::Nak {
        options.insert(DhcpOption::AddressLeaseTime(lease));
        options.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        options.insert(DhcpOption::Router(vec![id]));
    }
    message
}

/// A reply with the usual options.
pub fn reply(xid: u32, kind: MessageType, id: Ipv4Addr, address: Ipv4Addr, lease: u32) -> Vec<u8> {
    message(xid, kind, id, address, lease)
        .to_vec()
        .expect("encodes")
}

/// A machine that answers by ARP for one address, and claims it whenever somebody else does.
#[derive(Debug, Clone)]
pub struct Neighbour {
    pub mac: Mac,
    pub address: Ipv4Addr,
}

impl Neighbour {
    /// The gateway that server `number` names.
    pub fn gateway(number: u8) -> Neighbour {
        Neighbour {
            mac: Mac([2, 0, 0, 1, 0, number]),
            address: Ipv4Addr::new(10, 0, number, 1),
        }
    }

    pub fn answer(&self, arp: &Arp) -> Option<Vec<u8>> {
        let asked = arp.target == self.address || arp.sender == self.address;
        let reply = Arp {
            op: Op::Reply,
            target_mac: arp.sender_mac,
            ..Arp::question(self.mac, self.address, arp.sender)
        };
        asked.then(|| reply.encode())
    }
}
