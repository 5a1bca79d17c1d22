//! What a server said: OFFER, ACK or NAK as plain data.
//!
//! The bytes pass the strict [walk](super::walk) first; `dhcproto` decodes only the canonical
//! form that the walk writes.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};

use super::walk::{Unreadable, walk};
use crate::cidr::Cidr;
use crate::mac::Mac;

/// Which of the three answers a client can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// DHCPOFFER
    Offer,
    /// DHCPACK
    Ack,
    /// DHCPNAK
    Nak,
}

/// One answer, not yet compared with what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// OFFER, ACK or NAK.
    pub kind: Kind,
    /// Transaction id.
    pub xid: u32,
    /// Whom it is for.
    pub chaddr: Mac,
    /// The address offered or confirmed.
    pub yiaddr: Ipv4Addr,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 61, which servers send back (RFC 6842).
    pub client_id: Option<Vec<u8>>,
    /// Option 1.
    pub mask: Option<Ipv4Addr>,
    /// Option 3.
    pub routers: Vec<Ipv4Addr>,
    /// Option 121: destination and router.
    pub routes: Vec<(Cidr, Ipv4Addr)>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 12.
    pub hostname: Option<String>,
    /// Option 26.
    pub mtu: Option<u16>,
    /// Option 51, in seconds.
    pub lease_time: Option<u32>,
    /// Option 58, in seconds.
    pub t1: Option<u32>,
    /// Option 59, in seconds.
    pub t2: Option<u32>,
    /// Option 56, printable.
    pub message: Option<String>,
    /// How many options were left out because they were malformed.
    pub malformed: u32,
}

/// Why bytes are no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAReply {
    /// The strict walk refused the message.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The codec refused what the walk let through.
    #[error("the DHCP codec refused it")]
    Codec,
    /// Option 53 is missing or is not OFFER, ACK or NAK.
    #[error("no OFFER, ACK or NAK")]
    Kind,
}

impl Reply {
    /// Reads an answer from the payload of a datagram.
    pub fn decode(payload: &[u8]) -> Result<Reply, NotAReply> {
        let walked = walk(payload)?;
        let message =
            Message::decode(&mut Decoder::new(&walked.bytes)).map_err(|_| NotAReply::Codec)?;
        let kind = match message.opts().msg_type() {
            Some(MessageType::Offer) => Kind::Offer,
            Some(MessageType::Ack) => Kind::Ack,
            Some(MessageType::Nak) => Kind::Nak,
            _ => return Err(NotAReply::Kind),
        };
        // The walk let only hlen 6 through; `chaddr()` slices by hlen.
        let chaddr = Mac::from_slice(message.chaddr()).ok_or(NotAReply::Codec)?;
        let mut reply = Reply {
            kind,
            xid: message.xid(),
            chaddr,
            yiaddr: message.yiaddr(),
            server: None,
            client_id: None,
            mask: None,
            routers: Vec::new(),
            routes: Vec::new(),
            dns: Vec::new(),
            domain: None,
            hostname: None,
            mtu: None,
            lease_time: None,
            t1: None,
            t2: None,
            message: None,
            malformed: walked.malformed,
        };
        for (_, option) in message.opts().iter() {
            reply.take(option);
        }
        Ok(reply)
    }

    fn take(&mut self, option: &DhcpOption) {
        match option {
            DhcpOption::SubnetMask(mask) => self.mask = Some(*mask),
            DhcpOption::Router(routers) => self.routers.clone_from(routers),
            DhcpOption::DomainNameServer(servers) => self.dns.clone_from(servers),
            DhcpOption::Hostname(name) => self.hostname = Some(name.clone()),
            DhcpOption::DomainName(name) => self.domain = Some(name.clone()),
            DhcpOption::InterfaceMtu(mtu) => self.mtu = Some(*mtu),
            DhcpOption::AddressLeaseTime(seconds) => self.lease_time = Some(*seconds),
            DhcpOption::Renewal(seconds) => self.t1 = Some(*seconds),
            DhcpOption::Rebinding(seconds) => self.t2 = Some(*seconds),
            DhcpOption::ServerIdentifier(server) => self.server = Some(*server),
            DhcpOption::Message(text) => self.message = Some(text.clone()),
            DhcpOption::ClientIdentifier(id) => self.client_id = Some(id.clone()),
            DhcpOption::ClasslessStaticRoute(routes) => {
                self.routes = routes
                    .iter()
                    .filter_map(|(net, router)| {
                        Some((Cidr::new(net.addr(), net.prefix_len())?.network(), *router))
                    })
                    .collect();
            }
            _ => {}
        }
    }
}

/// What the requests of this client ask for (option 55). RFC 3442 wants 121 before 3.
pub(super) const WANTED: [OptionCode; 11] = [
    OptionCode::ClasslessStaticRoute,
    OptionCode::SubnetMask,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::Hostname,
    OptionCode::DomainName,
    OptionCode::InterfaceMtu,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
    OptionCode::Renewal,
    OptionCode::Rebinding,
];
