//! What a server said: OFFER, ACK or NAK as plain data.
//!
//! The bytes pass the strict [walk](super::walk) first; `dhcproto` decodes only the canonical
//! form that the walk writes.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Decodable, Decoder};

use super::walk::{Unreadable, is_name, walk};
use crate::cidr::Cidr;
use crate::mac::Mac;

/// RFC 8925. The codec (0.15) has the name, but at number 106.
const IPV6_ONLY_PREFERRED: u8 = 108;
/// RFC 8925, section 3.4: shorter waits than this are taken as this.
const MIN_V6ONLY_WAIT: Duration = Duration::from_secs(300);
/// Whatever the server says, it is asked again after that: one false answer of a stranger must not
/// take IPv4 away for years, and a true one is only repeated.
const MAX_V6ONLY_WAIT: Duration = Duration::from_secs(3600);

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
    /// Option 33: destination and router.
    pub static_routes: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Option 121, or 249 for want of it: destination and router.
    pub routes: Vec<(Cidr, Ipv4Addr)>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 119.
    pub search: Vec<String>,
    /// Option 12.
    pub hostname: Option<String>,
    /// Option 26.
    pub mtu: Option<u16>,
    /// Option 28.
    pub broadcast: Option<Ipv4Addr>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Option 80: bound without OFFER and REQUEST (RFC 4039).
    pub rapid_commit: bool,
    /// Option 108: for how long a client that can do without IPv4 should (RFC 8925).
    pub ipv6_only_wait: Option<Duration>,
    /// Option 114.
    pub captive_portal: Option<String>,
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
    /// FORCERENEW (RFC 3203). Without the authentication that the RFC demands and nobody uses,
    /// it lets strangers make a whole network talk (CVE-2020-13529).
    #[error("FORCERENEW, which nobody here obeys")]
    ForceRenew,
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
            Some(MessageType::ForceRenew) => return Err(NotAReply::ForceRenew),
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
            static_routes: Vec::new(),
            routes: Vec::new(),
            dns: Vec::new(),
            domain: None,
            search: Vec::new(),
            hostname: None,
            mtu: None,
            broadcast: None,
            ntp: Vec::new(),
            rapid_commit: false,
            ipv6_only_wait: None,
            captive_portal: None,
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
            DhcpOption::BroadcastAddr(address) => self.broadcast = Some(*address),
            DhcpOption::NtpServers(servers) => self.ntp.clone_from(servers),
            DhcpOption::StaticRoutingTable(routes) => self.static_routes.clone_from(routes),
            DhcpOption::RapidCommit => self.rapid_commit = true,
            DhcpOption::Unknown(option) if u8::from(option.code()) == IPV6_ONLY_PREFERRED => {
                let seconds = option.data().first_chunk().copied().map(u32::from_be_bytes);
                let wait = seconds.map(|seconds| Duration::from_secs(seconds.into()));
                self.ipv6_only_wait = wait.map(|wait| wait.clamp(MIN_V6ONLY_WAIT, MAX_V6ONLY_WAIT));
            }
            DhcpOption::CaptivePortal(uri) => self.captive_portal = Some(uri.clone()),
            DhcpOption::DomainSearch(names) => {
                // The plain form: `Display` would turn `xn--` labels into other scripts.
                self.search = names
                    .iter()
                    .map(|name| name.to_ascii().trim_end_matches('.').to_owned())
                    .filter(|name| is_name(name.as_bytes()))
                    .collect();
            }
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
