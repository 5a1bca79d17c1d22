//! What the client says: DISCOVER and the four kinds of REQUEST.
//!
//! RFC 2131, table 5 says which of ciaddr, option 50 and option 54 go into which message. The
//! table is [`Ask`]: a combination that the RFC forbids cannot be written.

use std::net::Ipv4Addr;

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode};

use super::reply::WANTED;
use crate::mac::Mac;

/// RFC 1542, section 2.1 expects BOOTP messages of at least 300 bytes; relays drop shorter ones.
const SHORTEST_MESSAGE: usize = 300;

/// Who we are to the servers; the same in every message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The address of the link.
    pub mac: Mac,
    /// Option 57: the largest message we take, headers not counted.
    pub max_message: u16,
}

impl Identity {
    /// Option 61: hardware type and address (RFC 2132, section 9.14). Not an id from the image
    /// or a copied disk, which clones would share, and with it the address.
    pub fn client_id(&self) -> Vec<u8> {
        [&[1], &self.mac.0[..]].concat()
    }
}

/// The messages a client sends to get and keep an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Who has an address for me? Perhaps the one I had.
    Discover {
        /// Option 50.
        wish: Option<Ipv4Addr>,
    },
    /// I take this offer of this server.
    Select {
        /// Option 50.
        address: Ipv4Addr,
        /// Option 54.
        server: Ipv4Addr,
    },
    /// I had this address before; may I use it?
    Reboot {
        /// Option 50.
        address: Ipv4Addr,
    },
    /// I use this address; give me more time. Unicast when renewing, broadcast when rebinding.
    Extend {
        /// ciaddr.
        address: Ipv4Addr,
    },
}

/// Encodes `ask`. `with_mtu` is whether to ask for option 26 (one cloud answers nothing at all
/// to a client that does).
pub fn encode(identity: &Identity, ask: Ask, xid: u32, secs: u16, with_mtu: bool) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let ciaddr = match ask {
        Ask::Extend { address } => address,
        Ask::Discover { .. } | Ask::Select { .. } | Ask::Reboot { .. } => none,
    };
    let mut message = Message::new_with_id(xid, ciaddr, none, none, none, &identity.mac.0);
    message
        .set_opcode(Opcode::BootRequest)
        .set_htype(HType::Eth)
        .set_flags(Flags::default())
        .set_secs(secs);
    let options = message.opts_mut();
    let kind = match ask {
        Ask::Discover { .. } => MessageType::Discover,
        Ask::Select { .. } | Ask::Reboot { .. } | Ask::Extend { .. } => MessageType::Request,
    };
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ClientIdentifier(identity.client_id()));
    options.insert(DhcpOption::MaxMessageSize(identity.max_message));
    options.insert(DhcpOption::ParameterRequestList(
        WANTED
            .into_iter()
            .filter(|code| with_mtu || *code != OptionCode::InterfaceMtu)
            .collect(),
    ));
    match ask {
        Ask::Discover { wish: None } | Ask::Extend { .. } => {}
        Ask::Discover {
            wish: Some(address),
        }
        | Ask::Reboot { address } => {
            options.insert(DhcpOption::RequestedIpAddress(address));
        }
        Ask::Select { address, server } => {
            options.insert(DhcpOption::RequestedIpAddress(address));
            options.insert(DhcpOption::ServerIdentifier(server));
        }
    }
    // Encoding into memory fails only for texts longer than their field; there are none here.
    let mut bytes = message.to_vec().unwrap_or_default();
    if bytes.len() < SHORTEST_MESSAGE {
        bytes.resize(SHORTEST_MESSAGE, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::{Decodable, Decoder};

    const ME: Identity = Identity {
        mac: Mac([2, 0, 0, 0, 0, 9]),
        max_message: 1472,
    };
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn sent(ask: Ask) -> Message {
        let bytes = encode(&ME, ask, 77, 3, true);
        assert!(bytes.len() >= SHORTEST_MESSAGE);
        Message::decode(&mut Decoder::new(&bytes)).expect("legal")
    }

    #[test]
    fn each_message_carries_what_table_5_allows() {
        use OptionCode::{RequestedIpAddress, ServerIdentifier};
        let cases = [
            (
                Ask::Discover { wish: None },
                MessageType::Discover,
                false,
                false,
                false,
            ),
            (
                Ask::Discover { wish: Some(HERE) },
                MessageType::Discover,
                true,
                false,
                false,
            ),
            (
                Ask::Select {
                    address: HERE,
                    server: SERVER,
                },
                MessageType::Request,
                true,
                true,
                false,
            ),
            (
                Ask::Reboot { address: HERE },
                MessageType::Request,
                true,
                false,
                false,
            ),
            (
                Ask::Extend { address: HERE },
                MessageType::Request,
                false,
                false,
                true,
            ),
        ];
        for (ask, kind, requested, server, ciaddr) in cases {
            let message = sent(ask);
            assert_eq!(message.opts().msg_type(), Some(kind), "{ask:?}");
            assert_eq!(
                message.opts().contains(RequestedIpAddress),
                requested,
                "{ask:?}"
            );
            assert_eq!(message.opts().contains(ServerIdentifier), server, "{ask:?}");
            assert_eq!(message.ciaddr() == HERE, ciaddr, "{ask:?}");
            assert_eq!(message.xid(), 77);
            assert_eq!(message.secs(), 3);
            assert_eq!(message.chaddr(), ME.mac.0);
            assert_eq!(
                message.opts().get(OptionCode::ClientIdentifier),
                Some(&DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0, 9]))
            );
        }
    }

    #[test]
    fn classless_routes_are_asked_for_before_routers() {
        let list = sent(Ask::Discover { wish: None });
        let Some(DhcpOption::ParameterRequestList(list)) =
            list.opts().get(OptionCode::ParameterRequestList)
        else {
            panic!("no parameter request list");
        };
        let at = |code| list.iter().position(|listed| *listed == code);
        assert!(at(OptionCode::ClasslessStaticRoute) < at(OptionCode::Router));
        assert!(at(OptionCode::InterfaceMtu).is_some());
        let without = encode(&ME, Ask::Discover { wish: None }, 1, 0, false);
        let without = Message::decode(&mut Decoder::new(&without)).expect("legal");
        let Some(DhcpOption::ParameterRequestList(without)) =
            without.opts().get(OptionCode::ParameterRequestList)
        else {
            panic!("no parameter request list");
        };
        assert!(!without.contains(&OptionCode::InterfaceMtu));
    }
}
