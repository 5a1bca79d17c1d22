//! A simulated wire: one client, some servers, loss, delay, outages, and a checker that looks at
//! every single step. Time is simulated; a day takes milliseconds. One seed is one run.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use netcfg::dhcp4::client::{Action, Client, Event, To};
use netcfg::dhcp4::pace::Budget;
use netcfg::dhcp4::request::Identity;
use netcfg::mac::Mac;
use netcfg::rng::Rng;

pub const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub const IDENTITY: Identity = Identity {
    mac: MAC,
    max_message: 1472,
};

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As RFC 2131 has it, knowing every lease it ever gave.
    Honest,
    /// Offers, and then says nothing to the request.
    Forgetful,
    /// Offers, and then says no; says no to whatever it hears.
    Refusing,
    /// Grants leases that are too short to live on.
    Stingy,
    /// Answers with wrong transaction ids, other people's addresses, cut messages.
    Lying,
}

#[derive(Debug, Clone)]
pub struct Server {
    pub id: Ipv4Addr,
    pub address: Ipv4Addr,
    pub manner: Manner,
    pub lease: u32,
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
            dead: vec![],
        }
    }

    fn is_dead(&self, now: Duration) -> bool {
        self.dead
            .iter()
            .any(|(from, to)| (*from..*to).contains(&now))
    }

    /// What this server says to `asked`, if anything.
    fn answer(&self, asked: &Message, rng: &mut Rng) -> Option<Vec<u8>> {
        let option = |code| asked.opts().get(code);
        let requested = match option(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        };
        let chosen = match option(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        };
        let discover = asked.opts().has_msg_type(MessageType::Discover);
        let wanted = requested.unwrap_or_else(|| asked.ciaddr());
        let kind = match self.manner {
            _ if discover => MessageType::Offer,
            Manner::Refusing => MessageType::Nak,
            Manner::Forgetful => return None,
            _ if chosen.is_some_and(|chosen| chosen != self.id) => return None,
            _ if wanted != self.address && chosen.is_none() => {
                // Not authoritative for other people's networks: silence.
                return None;
            }
            _ => MessageType::Ack,
        };
        let lease = if self.manner == Manner::Stingy {
            3
        } else {
            self.lease
        };
        let mut bytes = reply(asked.xid(), kind, self.id, self.address, lease);
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

/// A reply with the usual options.
pub fn reply(xid: u32, kind: MessageType, id: Ipv4Addr, address: Ipv4Addr, lease: u32) -> Vec<u8> {
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
    message.to_vec().expect("encodes")
}

/// What the client asked, as the checker remembers it.
#[derive(Debug, Clone, Copy)]
struct Request {
    first_sent: Duration,
    address: Ipv4Addr,
}

pub struct World {
    pub now: Duration,
    pub client: Client,
    pub servers: Vec<Server>,
    /// Frames lost, of 256, each way.
    pub loss: u8,
    pub applied: u32,
    rng: Rng,
    wire: Vec<(Duration, Vec<u8>)>,
    requests: BTreeMap<u32, Request>,
    sends: VecDeque<Duration>,
    valid_until: Option<Option<Duration>>,
    /// Everything the client did, for comparing runs.
    pub log: Vec<(Duration, Action)>,
}

impl World {
    pub fn new(seed: u64, servers: Vec<Server>, loss: u8) -> World {
        let now = Duration::from_millis(1500);
        let mut rng = Rng::new(seed);
        World {
            now,
            client: Client::new(IDENTITY, Rng::new(rng.next_u64()), now, None),
            servers,
            loss,
            applied: 0,
            rng,
            wire: vec![],
            requests: BTreeMap::new(),
            sends: VecDeque::new(),
            valid_until: None,
            log: vec![],
        }
    }

    /// Gives the client an event, checks what it does, and puts it on the wire.
    pub fn step(&mut self, event: Event<'_>) {
        let now = self.now;
        let payload = match event {
            Event::Payload(payload) => Some(payload.to_vec()),
            _ => None,
        };
        let actions = self.client.step(now, event);
        for action in actions {
            self.check(&action, payload.as_deref());
            self.log.push((now, action.clone()));
            if let Action::Send { payload, .. } = action {
                self.transmit(&payload);
            }
        }
        // A lease that is over is off the link within the step that follows, whatever happens.
        if let Some(lease) = self.client.applied() {
            assert!(lease.times.is_valid_at(now), "an address after its lease");
            let until = self.valid_until.expect("applied without an Apply");
            assert!(
                until.is_none_or(|until| now < until),
                "longer than the server knows"
            );
        } else {
            assert_eq!(self.valid_until, None, "taken away without a Withdraw");
        }
        if let Some(deadline) = self.client.deadline() {
            assert!(
                deadline > now,
                "a busy loop: {deadline:?} at {now:?}, {:?}",
                self.client
            );
        }
    }

    fn check(&mut self, action: &Action, event: Option<&[u8]>) {
        match action {
            Action::Send { to, payload } => self.check_send(*to, payload),
            Action::Apply(lease) => {
                // The ACK is the event of this very step, and answers a request of ours.
                assert_eq!(event, Some(&lease.ack[..]), "an address out of nowhere");
                assert_eq!(lease.ack[28..34], MAC.0, "somebody else's address");
                let xid = u32::from_be_bytes(lease.ack[4..8].try_into().expect("four bytes"));
                let request = self.requests.get(&xid).expect("nobody asked");
                assert_eq!(lease.address.address(), request.address);
                let seconds = lease.seconds();
                assert!(seconds.is_none_or(|seconds| seconds >= 10), "a tiny lease");
                let until = seconds.map(|s| request.first_sent + Duration::from_secs(s));
                self.valid_until = Some(until);
                self.applied += 1;
            }
            Action::Withdraw(_) => {
                assert!(self.valid_until.take().is_some(), "withdrawn twice");
            }
            Action::Forget | Action::Note(_) => {}
        }
    }

    fn check_send(&mut self, to: To, payload: &[u8]) {
        let minute_ago = self.now.saturating_sub(Duration::from_secs(60));
        self.sends.push_back(self.now);
        while self.sends.front().is_some_and(|sent| *sent <= minute_ago) {
            self.sends.pop_front();
        }
        let refilled = Duration::from_secs(60).as_millis() / Budget::REFILL.as_millis();
        let most = u128::from(Budget::BURST) + refilled;
        assert!(
            self.sends.len() as u128 <= most,
            "a flood: {} in a minute",
            self.sends.len()
        );

        let message = Message::decode(&mut Decoder::new(payload)).expect("legal");
        assert_eq!(message.chaddr(), MAC.0);
        let bound = !message.ciaddr().is_unspecified();
        assert_eq!(
            bound,
            to != To::Broadcast,
            "RFC 2131, table 5: ciaddr when bound only"
        );
        let requested = match message.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        };
        assert!(
            !(bound && requested.is_some()),
            "RFC 2131, table 5: no option 50 when bound"
        );
        if message.opts().has_msg_type(MessageType::Request) {
            let address = requested.unwrap_or_else(|| message.ciaddr());
            self.requests.entry(message.xid()).or_insert(Request {
                first_sent: self.now,
                address,
            });
        }
    }

    fn transmit(&mut self, payload: &[u8]) {
        let Ok(asked) = Message::decode(&mut Decoder::new(payload)) else {
            return;
        };
        for at in 0..self.servers.len() {
            let delay = Duration::from_micros(200) + self.rng.up_to(Duration::from_millis(30));
            let lost = |rng: &mut Rng, loss| rng.next_u64() % 256 < u64::from(loss);
            if lost(&mut self.rng, self.loss) || self.servers[at].is_dead(self.now) {
                continue;
            }
            let Some(answer) = self.servers[at].answer(&asked, &mut self.rng) else {
                continue;
            };
            if !lost(&mut self.rng, self.loss) {
                self.wire.push((self.now + delay, answer.clone()));
            }
            // Now and then a frame comes twice, and late.
            if self.rng.next_u64().is_multiple_of(16) {
                let late = self.rng.up_to(Duration::from_secs(20));
                self.wire.push((self.now + delay + late, answer));
            }
        }
    }

    /// Lets the world turn until `end`, or until `stop` says so. True when it did.
    pub fn run_until(&mut self, end: Duration, stop: impl Fn(&World) -> bool) -> bool {
        loop {
            if stop(self) {
                return true;
            }
            let arrival = self.wire.iter().map(|(at, _)| *at).min();
            let next = [arrival, self.client.deadline()]
                .into_iter()
                .flatten()
                .min();
            match next.filter(|next| *next <= end) {
                None => {
                    self.now = end;
                    self.step(Event::Timer);
                    return stop(self);
                }
                Some(next) => self.now = next.max(self.now),
            }
            match self.wire.iter().position(|(at, _)| *at <= self.now) {
                Some(at) => {
                    let (_, payload) = self.wire.swap_remove(at);
                    self.step(Event::Payload(&payload));
                }
                None => self.step(Event::Timer),
            }
        }
    }

    /// Whether the client has an address.
    pub fn is_bound(&self) -> bool {
        self.client.applied().is_some()
    }
}
