//! What the client says, and as whom: DISCOVER, the four kinds of REQUEST, DECLINE and RELEASE.
//!
//! RFC 2131, table 5 says which of ciaddr, option 50 and option 54 go into which message. The
//! table is [`Ask`]: a combination that the RFC forbids cannot be written.

use std::net::Ipv4Addr;

use dhcproto::Encodable;
use dhcproto::v4::{
    DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode, UnknownOption,
};
use serde::Deserialize;

use super::conflict::Conflict;
use super::lease::Lease;
use super::walk::is_name;
use crate::mac::Mac;

/// RFC 1542, section 2.1 expects BOOTP messages of at least 300 bytes; relays drop shorter ones.
const SHORTEST_MESSAGE: usize = 300;

/// RFC 8925. The codec (0.15) has the name, but at number 106.
const IPV6_ONLY_PREFERRED: OptionCode = OptionCode::Unknown(108);
/// Classless routes as Microsoft numbered them before RFC 3442; the codec has no name for it.
const OLD_ROUTES: OptionCode = OptionCode::Unknown(249);

/// What the requests of this client ask for (option 55). RFC 3442 wants 121 before 3 and 33.
const WANTED: [OptionCode; 17] = [
    OptionCode::ClasslessStaticRoute,
    OLD_ROUTES,
    OptionCode::SubnetMask,
    OptionCode::Router,
    OptionCode::StaticRoutingTable,
    OptionCode::DomainNameServer,
    OptionCode::Hostname,
    OptionCode::DomainName,
    OptionCode::DomainSearch,
    OptionCode::InterfaceMtu,
    OptionCode::BroadcastAddr,
    OptionCode::NtpServers,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
    OptionCode::Renewal,
    OptionCode::Rebinding,
    OptionCode::CaptivePortal,
];

/// By what servers tell us from others (option 61). Never an id from the image or a copied
/// disk, which clones would share, and with it the address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientId {
    /// Hardware type and address (RFC 2132, section 9.14).
    #[default]
    Mac,
    /// The form that DHCPv6 has too (RFC 4361): an id for the link and one for the machine, both
    /// from the address of the link (DUID-LL, RFC 8415, section 11.4).
    Duid,
}

/// Who we are to the servers, and how we deal with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The address of the link.
    pub mac: Mac,
    /// Option 57: the largest message we take, headers not counted.
    pub max_message: u16,
    /// Option 61.
    pub client_id: ClientId,
    /// Our name, for the server to put into its DNS; sent if it is a name. With a domain it goes
    /// as option 81, without one as option 12: no message may have both (RFC 4702, section 3.1).
    pub hostname: Option<String>,
    /// Option 60, for servers that answer by it.
    pub vendor_class: Option<String>,
    /// Whether answers must be broadcast: for a link that takes no unicast before it has an
    /// address. When nobody answers it is tried anyway.
    pub broadcast: bool,
    /// Whether a server may bind us in its first answer (RFC 4039).
    pub rapid_commit: bool,
    /// Whether we can do without IPv4 where the network prefers that (RFC 8925).
    pub ipv6_only: bool,
    /// What care is taken that nobody else has the address.
    pub conflict: Conflict,
}

impl Identity {
    /// The usual client for a link with this address.
    pub const fn new(mac: Mac) -> Identity {
        Identity {
            mac,
            max_message: 1472,
            client_id: ClientId::Mac,
            hostname: None,
            vendor_class: None,
            broadcast: false,
            rapid_commit: true,
            ipv6_only: false,
            conflict: Conflict::Background,
        }
    }

    /// Option 61.
    pub fn client_id(&self) -> Vec<u8> {
        let mac = &self.mac.0[..];
        match self.client_id {
            ClientId::Mac => [&[1], mac].concat(),
            ClientId::Duid => {
                let [.., a, b, c, d] = self.mac.0;
                // Type 255, IAID; DUID type 3, hardware type 1.
                [&[255, a, b, c, d, 0, 3, 0, 1], mac].concat()
            }
        }
    }

    /// Takes away a name that the server only repeats: it is not what the server calls us.
    pub fn drop_own_name(&self, lease: &mut Lease) {
        let first = |name: &str| {
            let name = name.trim_end_matches('.');
            name.split('.').next().unwrap_or(name).to_ascii_lowercase()
        };
        if let (Some(ours), Some(theirs)) = (&self.hostname, &lease.hostname)
            && first(ours) == first(theirs)
        {
            lease.hostname = None;
        }
    }

    /// The options of messages that want an answer.
    fn describe(&self, message: &mut Message, form: Form) {
        let options = message.opts_mut();
        options.insert(DhcpOption::MaxMessageSize(self.max_message));
        let mtu = |code: &OptionCode| form.with_mtu || *code != OptionCode::InterfaceMtu;
        let ipv6 = self.ipv6_only.then_some(IPV6_ONLY_PREFERRED);
        let wanted = WANTED.into_iter().filter(mtu).chain(ipv6);
        options.insert(DhcpOption::ParameterRequestList(wanted.collect()));
        if let Some(class) = &self.vendor_class {
            let class = class.bytes().take(255).collect::<Vec<_>>();
            if !class.is_empty() {
                options.insert(DhcpOption::ClassIdentifier(class));
            }
        }
        let name = self.hostname.as_deref().filter(|n| is_name(n.as_bytes()));
        if let Some(name) = name {
            let name = name.trim_end_matches('.');
            options.insert(if name.contains('.') {
                DhcpOption::Unknown(UnknownOption::new(OptionCode::ClientFQDN, fqdn(name)))
            } else {
                DhcpOption::Hostname(name.to_owned())
            });
        }
    }
}

/// RFC 4702, section 2: flags, two bytes of history, and the name as in DNS. The flags are S, the
/// server may write the address record, and E, the name is encoded.
fn fqdn(name: &str) -> Vec<u8> {
    let mut value = vec![0b0101, 0, 0];
    for label in name.split('.') {
        value.push(u8::try_from(label.len()).unwrap_or(0));
        value.extend(label.bytes());
    }
    value.push(0);
    value
}

/// The messages a client sends.
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
    /// Somebody else has this address.
    Decline {
        /// Option 50.
        address: Ipv4Addr,
        /// Option 54.
        server: Ipv4Addr,
    },
    /// I need this address no more. Unicast.
    Release {
        /// ciaddr.
        address: Ipv4Addr,
        /// Option 54.
        server: Ipv4Addr,
    },
}

/// What differs between the tries of one question, since some servers do not answer every form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Whether to ask for option 26: one cloud answers nothing at all to a client that does.
    pub with_mtu: bool,
    /// Whether to ask for a broadcast answer: some cards, switches and relays lose the others.
    pub broadcast: bool,
}

impl Form {
    /// The form of try number `attempt` (from 1). The first two are as configured: a slow switch
    /// port may have swallowed them. After that all four come in turn.
    pub const fn of(identity: &Identity, attempt: u32) -> Form {
        if attempt < 3 {
            return Form::first(identity);
        }
        Form {
            with_mtu: attempt.is_multiple_of(2),
            broadcast: identity.broadcast || (attempt / 2).is_multiple_of(2),
        }
    }

    /// As configured.
    pub const fn first(identity: &Identity) -> Form {
        Form {
            with_mtu: true,
            broadcast: identity.broadcast,
        }
    }
}

/// Encodes `ask`.
pub fn encode(identity: &Identity, ask: Ask, xid: u32, secs: u16, form: Form) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let (kind, ciaddr, requested, server) = match ask {
        Ask::Discover { wish } => (MessageType::Discover, none, wish, None),
        Ask::Select { address, server } => {
            (MessageType::Request, none, Some(address), Some(server))
        }
        Ask::Reboot { address } => (MessageType::Request, none, Some(address), None),
        Ask::Extend { address } => (MessageType::Request, address, None, None),
        Ask::Decline { address, server } => {
            (MessageType::Decline, none, Some(address), Some(server))
        }
        Ask::Release { address, server } => (MessageType::Release, address, None, Some(server)),
    };
    // Who has an address gets its answers there; who says farewell gets none.
    let answered = !matches!(ask, Ask::Decline { .. } | Ask::Release { .. });
    let flags = if form.broadcast && answered && ciaddr.is_unspecified() {
        Flags::default().set_broadcast()
    } else {
        Flags::default()
    };
    let mut message = Message::new_with_id(xid, ciaddr, none, none, none, &identity.mac.0);
    message
        .set_opcode(Opcode::BootRequest)
        .set_htype(HType::Eth)
        .set_flags(flags)
        .set_secs(secs);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ClientIdentifier(identity.client_id()));
    if let Some(address) = requested {
        options.insert(DhcpOption::RequestedIpAddress(address));
    }
    if let Some(server) = server {
        options.insert(DhcpOption::ServerIdentifier(server));
    }
    if kind == MessageType::Discover && identity.rapid_commit {
        options.insert(DhcpOption::RapidCommit);
    }
    if answered {
        identity.describe(&mut message, form);
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

    const ME: Identity = Identity::new(Mac([2, 0, 0, 0, 0, 9]));
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn sent_by(identity: &Identity, ask: Ask, form: Form) -> Message {
        let bytes = encode(identity, ask, 77, 3, form);
        assert!(bytes.len() >= SHORTEST_MESSAGE);
        Message::decode(&mut Decoder::new(&bytes)).expect("legal")
    }

    fn sent(ask: Ask) -> Message {
        sent_by(&ME, ask, Form::first(&ME))
    }

    fn wanted(message: &Message) -> Vec<OptionCode> {
        match message.opts().get(OptionCode::ParameterRequestList) {
            Some(DhcpOption::ParameterRequestList(list)) => list.clone(),
            _ => vec![],
        }
    }

    #[test]
    fn each_message_carries_what_table_5_allows() {
        use MessageType::{Decline, Discover, Release, Request};
        let both = (HERE, SERVER);
        let (address, server) = both;
        // Message type, option 50, option 54, ciaddr.
        let cases = [
            (Ask::Discover { wish: None }, Discover, false, false, false),
            (
                Ask::Discover { wish: Some(HERE) },
                Discover,
                true,
                false,
                false,
            ),
            (Ask::Select { address, server }, Request, true, true, false),
            (Ask::Reboot { address }, Request, true, false, false),
            (Ask::Extend { address }, Request, false, false, true),
            (Ask::Decline { address, server }, Decline, true, true, false),
            (Ask::Release { address, server }, Release, false, true, true),
        ];
        for (ask, kind, requested, server, ciaddr) in cases {
            let message = sent(ask);
            let has = |code| message.opts().contains(code);
            assert_eq!(message.opts().msg_type(), Some(kind), "{ask:?}");
            assert_eq!(has(OptionCode::RequestedIpAddress), requested, "{ask:?}");
            assert_eq!(has(OptionCode::ServerIdentifier), server, "{ask:?}");
            assert_eq!(message.ciaddr() == HERE, ciaddr, "{ask:?}");
            assert_eq!(has(OptionCode::RapidCommit), kind == Discover, "{ask:?}");
            // Table 5: a farewell asks for nothing.
            let asks = !matches!(kind, Decline | Release);
            assert_eq!(has(OptionCode::ParameterRequestList), asks, "{ask:?}");
            assert_eq!(has(OptionCode::MaxMessageSize), asks, "{ask:?}");
            assert_eq!((message.xid(), message.secs()), (77, 3));
            assert_eq!(message.chaddr(), ME.mac.0);
            assert_eq!(
                message.opts().get(OptionCode::ClientIdentifier),
                Some(&DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0, 9]))
            );
        }
    }

    #[test]
    fn classless_routes_are_asked_for_before_routers() {
        let list = wanted(&sent(Ask::Discover { wish: None }));
        let at = |code| list.iter().position(|listed| *listed == code);
        assert!(at(OptionCode::ClasslessStaticRoute) < at(OptionCode::Router));
        assert!(at(OptionCode::ClasslessStaticRoute) < at(OptionCode::StaticRoutingTable));
        assert!(at(OptionCode::InterfaceMtu).is_some());
        assert!(at(IPV6_ONLY_PREFERRED).is_none());
        let v6 = Identity {
            ipv6_only: true,
            ..ME
        };
        let without = Form {
            with_mtu: false,
            broadcast: false,
        };
        let list = wanted(&sent_by(&v6, Ask::Discover { wish: None }, without));
        assert!(!list.contains(&OptionCode::InterfaceMtu));
        assert!(list.contains(&IPV6_ONLY_PREFERRED));
    }

    #[test]
    fn every_form_has_its_turn_after_the_second_try() {
        let forms = |range: std::ops::Range<u32>| {
            range
                .map(|attempt| {
                    let form = Form::of(&ME, attempt);
                    let message = sent_by(&ME, Ask::Discover { wish: None }, form);
                    let mtu = wanted(&message).contains(&OptionCode::InterfaceMtu);
                    (mtu, message.flags().broadcast())
                })
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(forms(1..3).into_iter().collect::<Vec<_>>(), [(true, false)]);
        assert_eq!(forms(3..7).len(), 4);
        assert_eq!(forms(7..11).len(), 4);
        let extend = Form {
            with_mtu: true,
            broadcast: true,
        };
        let extend = sent_by(&ME, Ask::Extend { address: HERE }, extend);
        assert!(!extend.flags().broadcast(), "it has an address");
    }

    #[test]
    fn names_and_classes_are_sent_as_they_may_be() {
        let named = |name: &str| {
            let identity = Identity {
                hostname: Some(name.to_owned()),
                vendor_class: Some("appliance".to_owned()),
                client_id: ClientId::Duid,
                ..ME
            };
            sent_by(&identity, Ask::Reboot { address: HERE }, Form::first(&ME))
        };
        let short = named("box-7");
        let get = |code| short.opts().get(code);
        assert_eq!(
            get(OptionCode::Hostname),
            Some(&DhcpOption::Hostname("box-7".to_owned()))
        );
        assert_eq!(
            get(OptionCode::ClassIdentifier),
            Some(&DhcpOption::ClassIdentifier(b"appliance".to_vec()))
        );
        assert_eq!(
            get(OptionCode::ClientIdentifier),
            Some(&DhcpOption::ClientIdentifier(vec![
                255, 0, 0, 0, 9, 0, 3, 0, 1, 2, 0, 0, 0, 0, 9
            ]))
        );
        let long = named("box-7.example.");
        assert!(!long.opts().contains(OptionCode::Hostname));
        assert!(long.opts().contains(OptionCode::ClientFQDN));
        assert_eq!(fqdn("a.bc"), [5, 0, 0, 1, b'a', 2, b'b', b'c', 0]);
        for bad in ["", "a b", "-x", "a\n"] {
            let message = named(bad);
            assert!(!message.opts().contains(OptionCode::Hostname), "{bad:?}");
            assert!(!message.opts().contains(OptionCode::ClientFQDN), "{bad:?}");
        }
    }
}
