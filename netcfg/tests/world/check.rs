//! What must hold in every single step, whatever the world does.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};
use netcfg::dhcp4::arp::Arp;
use netcfg::dhcp4::client::To;
use netcfg::dhcp4::lease::Lease;
use netcfg::dhcp4::walk::walk;

use super::MAC;

/// What may be sent in any minute: ten at once, and one every four seconds.
const MOST: usize = 10 + 15;

/// What the client asked under one transaction id.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// A DISCOVER that may be answered by a rapid commit.
    rapid: Option<Duration>,
    request: Option<Requested>,
}

/// What a REQUEST was for.
#[derive(Debug, Clone, Copy)]
struct Requested {
    at: Duration,
    address: Ipv4Addr,
    /// Option 54: the one server that may grant it. Without it anybody may.
    chosen: Option<Ipv4Addr>,
}

/// A lease as the server that granted it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub ack: Vec<u8>,
    pub address: Ipv4Addr,
    /// `None` for ever.
    pub until: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct Checker {
    asked: BTreeMap<u32, Asked>,
    /// Answers to what was asked that have reached the client.
    heard: Vec<Vec<u8>>,
    sends: VecDeque<Duration>,
    arps: VecDeque<Duration>,
    /// What is on the link.
    pub applied: Option<Granted>,
    /// What a start may go by.
    pub saved: Option<Granted>,
    /// Whether the saved lease may be used unverified: its age is known, and the right gateway
    /// answered in this boot.
    pub age_known: bool,
    pub gateway_answered: bool,
}

impl Checker {
    /// A new process or machine: nothing is asked any more.
    pub fn restart(&mut self) {
        self.asked.clear();
        self.heard.clear();
        self.gateway_answered = false;
        // The budget is one of the process.
        self.sends.clear();
        self.arps.clear();
    }

    pub fn payload(&mut self, payload: &[u8]) {
        let xid = payload.get(4..8).and_then(|xid| xid.try_into().ok());
        let asked = xid.is_some_and(|xid| self.asked.contains_key(&u32::from_be_bytes(xid)));
        if asked {
            self.heard.push(payload.to_vec());
        }
    }

    /// Property 3: no address without an ACK that answers a question of ours.
    pub fn apply(&mut self, now: Duration, lease: &Lease) {
        assert!(self.heard.contains(&lease.ack), "an address out of nowhere");
        assert_eq!(lease.ack[0], 2, "BOOTREPLY");
        let canonical = walk(&lease.ack).expect("readable").bytes;
        let ack = Message::decode(&mut Decoder::new(&canonical)).expect("legal");
        assert_eq!(ack.chaddr(), MAC.0, "somebody else's address");
        assert!(ack.opts().has_msg_type(MessageType::Ack));
        let address = lease.address.address();
        assert_eq!(ack.yiaddr(), address);
        let asked = self.asked.get(&ack.xid()).expect("nobody asked");
        let rapid = asked
            .rapid
            .filter(|_| ack.opts().contains(OptionCode::RapidCommit));
        let server = address_of(&ack, OptionCode::ServerIdentifier);
        let from = match asked.request {
            Some(requested) if requested.address == address => {
                let chosen = requested.chosen;
                assert!(
                    chosen.is_none() || server == chosen,
                    "{server:?} confirms, not {chosen:?}"
                );
                requested.at
            }
            _ => rapid.expect("nobody asked for this address"),
        };
        let seconds = match ack.opts().get(OptionCode::AddressLeaseTime) {
            Some(DhcpOption::AddressLeaseTime(seconds)) => *seconds,
            _ => panic!("no lease time"),
        };
        assert!(seconds >= 10, "a tiny lease");
        let until = (seconds != u32::MAX).then(|| from + Duration::from_secs(seconds.into()));
        assert!(until.is_none_or(|until| now < until), "over on arrival");
        let granted = Granted {
            ack: lease.ack.clone(),
            address,
            until,
        };
        self.applied = Some(granted.clone());
        self.saved = Some(granted);
        self.age_known = true;
    }

    /// The lease of before, without a word from a server.
    pub fn apply_unverified(&mut self, lease: &Lease) {
        assert!(self.applied.is_none(), "unverified over something better");
        let saved = self.saved.clone().expect("nothing was saved");
        assert_eq!(lease.ack, saved.ack, "another lease than the saved one");
        assert!(self.age_known, "of unknown age");
        assert!(self.gateway_answered, "in an unknown network");
        self.applied = Some(saved);
    }

    /// Properties 4 and 5, after each step.
    pub fn after_step(&self, now: Duration, applied: Option<&Lease>) {
        let there = applied.map(|lease| lease.address.address());
        let known = self.applied.as_ref().map(|granted| granted.address);
        assert_eq!(there, known, "applied without an Apply, or the reverse");
        let until = self.applied.as_ref().and_then(|granted| granted.until);
        assert!(
            until.is_none_or(|until| now < until),
            "longer than the server knows"
        );
    }

    /// Property 5: a bound on what is sent in any minute.
    fn count(sends: &mut VecDeque<Duration>, now: Duration) {
        let minute = Duration::from_secs(60);
        sends.push_back(now);
        while sends.front().is_some_and(|sent| *sent + minute <= now) {
            sends.pop_front();
        }
        assert!(sends.len() <= MOST, "a flood: {}", sends.len());
    }

    pub fn send(&mut self, now: Duration, to: To, payload: &[u8]) {
        Checker::count(&mut self.sends, now);
        let message = Message::decode(&mut Decoder::new(payload)).expect("legal");
        assert_eq!(message.chaddr(), MAC.0);
        let requested = address_of(&message, OptionCode::RequestedIpAddress);
        let bound = !message.ciaddr().is_unspecified();
        // Property 6, and table 5 of RFC 2131.
        assert_eq!(bound, to != To::Broadcast, "ciaddr when bound only");
        assert!(!(bound && requested.is_some()), "no option 50 when bound");
        if bound {
            let applied = self.applied.as_ref().map(|granted| granted.address);
            assert_eq!(
                applied,
                Some(message.ciaddr()),
                "an address that is not there"
            );
            assert!(!message.flags().broadcast());
        }
        let kind = message.opts().msg_type().expect("a kind");
        let asked = self.asked.entry(message.xid()).or_default();
        if kind == MessageType::Discover && message.opts().contains(OptionCode::RapidCommit) {
            asked.rapid.get_or_insert(now);
        } else if kind == MessageType::Request {
            let address = requested.unwrap_or_else(|| message.ciaddr());
            let chosen = address_of(&message, OptionCode::ServerIdentifier);
            asked.request.get_or_insert(Requested {
                at: now,
                address,
                chosen,
            });
        }
    }

    /// Who speaks by ARP says nothing wrong, and not too often.
    pub fn arp(&mut self, now: Duration, arp: &Arp) {
        Checker::count(&mut self.arps, now);
        assert_eq!(arp.sender_mac, MAC);
        let applied = self.applied.as_ref().map(|granted| granted.address);
        assert!(
            arp.sender.is_unspecified() || applied == Some(arp.sender),
            "claims an address that is not there"
        );
    }
}

/// The value of an option that is one address.
fn address_of(message: &Message, code: OptionCode) -> Option<Ipv4Addr> {
    match message.opts().get(code)? {
        DhcpOption::ServerIdentifier(address) | DhcpOption::RequestedIpAddress(address) => {
            Some(*address)
        }
        _ => None,
    }
}
