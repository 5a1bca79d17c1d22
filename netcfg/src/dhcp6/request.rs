//! What the client says: the eight messages of RFC 8415, section 18.2, and what goes into which.

use std::net::Ipv6Addr;

use dhcproto::Encodable;
use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType, ORO, OptionCode};

use crate::mac::Mac;

/// Who we are to the servers; the same in every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The address of the link.
    pub mac: Mac,
}

impl Identity {
    /// Option 1: a DUID-LL, type 3 and hardware type 1 (RFC 8415, section 11.4). It comes from the
    /// hardware, not from an id in the image or on a copied disk, which clones would share, and
    /// with it the address.
    pub fn duid(&self) -> Vec<u8> {
        [&[0, 3, 0, 1], &self.mac.0[..]].concat()
    }

    /// IAID (RFC 8415, section 12). There is one association to a link and one DUID to a link, so any
    /// number that stays the same would do; servers show it, so it is one that is recognised.
    pub fn iaid(&self) -> u32 {
        let [_, _, a, b, c, d] = self.mac.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

/// The messages of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Who has an address for me, at once if that can be? Perhaps one of these.
    Solicit {
        /// Addresses to wish for.
        wish: &'a [Ipv6Addr],
    },
    /// I take the offer of this server.
    Request {
        /// Its DUID.
        server: &'a [u8],
        /// The addresses it offered.
        addresses: &'a [Ipv6Addr],
    },
    /// Do these addresses still belong on this link?
    Confirm {
        /// Which.
        addresses: &'a [Ipv6Addr],
    },
    /// Give me more time, you who gave me these.
    Renew {
        /// Its DUID.
        server: &'a [u8],
        /// Which.
        addresses: &'a [Ipv6Addr],
    },
    /// Give me more time, anybody.
    Rebind {
        /// Addresses we have.
        addresses: &'a [Ipv6Addr],
    },
    /// Tell me about this network.
    Inform,
    /// I do not need these any more.
    Release {
        /// Who gave them.
        server: &'a [u8],
        /// Which.
        addresses: &'a [Ipv6Addr],
    },
    /// Somebody else has these.
    Decline {
        /// Who gave them.
        server: &'a [u8],
        /// Which.
        addresses: &'a [Ipv6Addr],
    },
}

impl Ask<'_> {
    fn kind(&self) -> MessageType {
        match self {
            Ask::Solicit { .. } => MessageType::Solicit,
            Ask::Request { .. } => MessageType::Request,
            Ask::Confirm { .. } => MessageType::Confirm,
            Ask::Renew { .. } => MessageType::Renew,
            Ask::Rebind { .. } => MessageType::Rebind,
            Ask::Inform => MessageType::InformationRequest,
            Ask::Release { .. } => MessageType::Release,
            Ask::Decline { .. } => MessageType::Decline,
        }
    }

    /// Option 2, in the messages that are for one server only.
    fn server(&self) -> Option<&[u8]> {
        match self {
            Ask::Request { server, .. }
            | Ask::Renew { server, .. }
            | Ask::Release { server, .. }
            | Ask::Decline { server, .. } => Some(server),
            Ask::Solicit { .. } | Ask::Confirm { .. } | Ask::Rebind { .. } | Ask::Inform => None,
        }
    }

    /// Option 3, in all but one.
    fn addresses(&self) -> Option<&[Ipv6Addr]> {
        match self {
            Ask::Solicit { wish: addresses }
            | Ask::Request { addresses, .. }
            | Ask::Confirm { addresses }
            | Ask::Renew { addresses, .. }
            | Ask::Rebind { addresses }
            | Ask::Release { addresses, .. }
            | Ask::Decline { addresses, .. } => Some(addresses),
            Ask::Inform => None,
        }
    }

    /// Option 6. RFC 8415, sections 21.24 and 21.25: who asks for options must ask for the longest
    /// wait too, of SOLICITs in one case and of INFORMATION-REQUESTs in the other.
    fn wanted(&self) -> Option<Vec<OptionCode>> {
        let common = [
            OptionCode::DomainNameServers,
            OptionCode::DomainSearchList,
            OptionCode::NtpServer,
        ];
        match self {
            Ask::Solicit { .. } | Ask::Request { .. } | Ask::Renew { .. } | Ask::Rebind { .. } => {
                Some([&common[..], &[OptionCode::SolMaxRt]].concat())
            }
            Ask::Inform => {
                let more = [OptionCode::InformationRefreshTime, OptionCode::InfMaxRt];
                Some([&common[..], &more].concat())
            }
            Ask::Confirm { .. } | Ask::Release { .. } | Ask::Decline { .. } => None,
        }
    }
}

/// Encodes `ask`. `elapsed` is the time since the exchange began, in hundredths of a second
/// (RFC 8415, section 21.9).
pub fn encode(identity: &Identity, ask: Ask<'_>, xid: u32, elapsed: u16) -> Vec<u8> {
    let [_, a, b, c] = xid.to_be_bytes();
    let mut message = Message::new_with_id(ask.kind(), [a, b, c]);
    let options = message.opts_mut();
    options.insert(DhcpOption::ClientId(identity.duid()));
    options.insert(DhcpOption::ElapsedTime(elapsed));
    if let Some(server) = ask.server() {
        options.insert(DhcpOption::ServerId(server.to_vec()));
    }
    if let Some(opts) = ask.wanted() {
        options.insert(DhcpOption::ORO(ORO { opts }));
    }
    if let Some(addresses) = ask.addresses() {
        // RFC 8415, sections 21.4 and 21.6: times are the server's choice, ours are zero.
        options.insert(DhcpOption::IANA(IANA {
            id: identity.iaid(),
            t1: 0,
            t2: 0,
            opts: addresses
                .iter()
                .map(|address| {
                    DhcpOption::IAAddr(IAAddr {
                        addr: *address,
                        preferred_life: 0,
                        valid_life: 0,
                        opts: std::iter::empty().collect(),
                    })
                })
                .collect(),
        }));
    }
    if matches!(ask, Ask::Solicit { .. }) {
        options.insert(DhcpOption::RapidCommit);
    }
    // Encoding into memory fails only for names; there are none here.
    message.to_vec().unwrap_or_default()
}
