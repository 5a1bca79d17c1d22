//! A simulated link with DHCPv6 servers: one client, loss, delay, outages, and a checker that
//! looks at every single step. Time is simulated; a month takes milliseconds. One seed is one run.

#![allow(dead_code, reason = "each test binary uses a part of the world")]

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::v6::{
    DhcpOption, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode, UnknownOption,
};
use dhcproto::{Decodable, Decoder, Encodable};
use netcfg::dhcp6::client::{Action, Client, Counters, Event, Note};
use netcfg::dhcp6::request::Identity;
use netcfg::mac::Mac;
use netcfg::rng::Rng;

/// What may be sent in any minute: ten at once, and one every four seconds.
const MOST: usize = 10 + 15;

pub const IDENTITY: Identity = Identity {
    mac: Mac([2, 0, 0, 0, 0, 9]),
};

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As RFC 8415 has it, knowing every lease it ever gave.
    Honest,
    /// Advertises, and then says nothing to the request.
    Forgetful,
    /// Advertises, and then refuses; refuses whatever it hears.
    Refusing,
    /// Grants leases that are too short to live on.
    Stingy,
    /// Answers with wrong ids, other people's addresses, cut and damaged messages.
    Lying,
}

/// Times of a lease in seconds: T1, T2, preferred, valid.
pub type Seconds = [u32; 4];

#[derive(Debug, Clone)]
pub struct Server {
    pub duid: Vec<u8>,
    pub address: Ipv6Addr,
    pub manner: Manner,
    pub seconds: Seconds,
    pub preference: Option<u8>,
    pub rapid_commit: bool,
    /// Hears nothing in these spans.
    pub dead: Vec<(Duration, Duration)>,
}

impl Server {
    pub fn new(number: u8, manner: Manner, valid: u32) -> Server {
        Server {
            duid: vec![0, 3, 0, 1, 2, 0, 0, 0, 1, number],
            address: Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 0x50),
            manner,
            seconds: [0, 0, valid, valid],
            preference: None,
            rapid_commit: false,
            dead: vec![],
        }
    }

    fn is_dead(&self, now: Duration) -> bool {
        self.dead
            .iter()
            .any(|(from, to)| (*from..*to).contains(&now))
    }

    /// What this server says to `asked`, if anything, and until when it then knows our lease.
    fn answer(&self, asked: &Message, rng: &mut Rng) -> Option<(Vec<u8>, Option<u32>)> {
        let for_whom = server_of(asked);
        if for_whom.is_some_and(|server| server != self.duid) {
            return None;
        }
        let mine = || addresses_of(asked).contains(&self.address);
        let rapid = asked.opts().get(OptionCode::RapidCommit).is_some() && self.rapid_commit;
        let mut answer = Answer::new(asked.xid(), &self.duid);
        let refuses = self.manner == Manner::Refusing;
        match asked.msg_type() {
            MessageType::Solicit if rapid && !refuses => answer.rapid_commit = true,
            MessageType::Solicit => answer.kind = MessageType::Advertise,
            MessageType::InformationRequest => {
                return Some((answer.without_addresses().bytes(), None));
            }
            MessageType::Confirm | MessageType::Release | MessageType::Decline => {
                if asked.msg_type() == MessageType::Confirm && !mine() && !refuses {
                    return None;
                }
                if refuses {
                    answer.status = Some(Status::NotOnLink);
                }
                return Some((answer.without_addresses().bytes(), None));
            }
            _ if self.manner == Manner::Forgetful => return None,
            MessageType::Request if refuses => answer.ia_status = Some(Status::NoAddrsAvail),
            MessageType::Renew | MessageType::Rebind if refuses => {
                answer.ia_status = Some(Status::NoBinding);
            }
            MessageType::Rebind if !mine() => return None,
            MessageType::Request | MessageType::Renew | MessageType::Rebind => {}
            other => panic!("no client says {other:?}"),
        }
        answer.preference = self.preference;
        let mut seconds = self.seconds;
        if self.manner == Manner::Stingy {
            seconds = [0, 0, 3, 3];
        }
        if answer.ia_status.is_none() {
            answer = answer.granting(self.address, seconds);
        }
        let committed = (answer.kind == MessageType::Reply).then_some(seconds[3]);
        if self.manner != Manner::Lying {
            return Some((answer.bytes(), committed));
        }
        match rng.next_u32() % 5 {
            0 => answer.xid = [rng.next_u32().to_be_bytes()[0], 1, 2],
            1 => answer.client = vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 8],
            2 => answer.server = vec![0, 3, 0, 1, 2, 0, 0, 0, 2, 0],
            _ => {}
        }
        let mut bytes = answer.bytes();
        match rng.next_u32() % 4 {
            0 => bytes.truncate(rng.next_u32() as usize % bytes.len()),
            1 => {
                let at = 4 + rng.next_u32() as usize % (bytes.len() - 4);
                bytes[at] = rng.next_u32().to_be_bytes()[0];
            }
            _ => {}
        }
        Some((bytes, None))
    }
}

/// An ADVERTISE or REPLY to be.
#[derive(Debug, Clone)]
pub struct Answer {
    pub kind: MessageType,
    pub xid: [u8; 3],
    pub client: Vec<u8>,
    pub server: Vec<u8>,
    pub preference: Option<u8>,
    pub rapid_commit: bool,
    pub status: Option<Status>,
    pub ia_status: Option<Status>,
    pub granted: Vec<(Ipv6Addr, Seconds)>,
    pub association: bool,
    /// Options of four bytes, which `dhcproto` has no name for or writes for us.
    pub numbers: Vec<(OptionCode, u32)>,
}

impl Answer {
    /// A REPLY to our client.
    pub fn new(xid: [u8; 3], server: &[u8]) -> Answer {
        Answer {
            kind: MessageType::Reply,
            xid,
            client: IDENTITY.duid(),
            server: server.to_vec(),
            preference: None,
            rapid_commit: false,
            status: None,
            ia_status: None,
            granted: vec![],
            association: true,
            numbers: vec![],
        }
    }

    pub fn granting(mut self, address: Ipv6Addr, seconds: Seconds) -> Answer {
        self.granted.push((address, seconds));
        self
    }

    pub fn without_addresses(mut self) -> Answer {
        self.association = false;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let status = |status| {
            DhcpOption::StatusCode(StatusCode {
                status,
                msg: "as it is".to_owned(),
            })
        };
        let mut message = Message::new_with_id(self.kind, self.xid);
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(self.client.clone()));
        options.insert(DhcpOption::ServerId(self.server.clone()));
        options.insert(DhcpOption::DomainNameServers(vec![Ipv6Addr::new(
            0xfd00, 0, 0, 0, 0, 0, 0, 0x53,
        )]));
        if let Some(preference) = self.preference {
            options.insert(DhcpOption::Preference(preference));
        }
        if self.rapid_commit {
            options.insert(DhcpOption::RapidCommit);
        }
        options.extend_with(self.status.map(status));
        for (code, number) in &self.numbers {
            let data = number.to_be_bytes().to_vec();
            options.insert(DhcpOption::Unknown(UnknownOption::new(*code, data)));
        }
        if self.association {
            let first = self.granted.first().map_or([0; 4], |(_, seconds)| *seconds);
            let addresses = self.granted.iter().map(|(addr, seconds)| {
                DhcpOption::IAAddr(IAAddr {
                    addr: *addr,
                    preferred_life: seconds[2],
                    valid_life: seconds[3],
                    opts: std::iter::empty().collect(),
                })
            });
            options.insert(DhcpOption::IANA(IANA {
                id: IDENTITY.iaid(),
                t1: first[0],
                t2: first[1],
                opts: addresses.chain(self.ia_status.map(status)).collect(),
            }));
        }
        message.to_vec().expect("encodes")
    }
}

trait ExtendWith {
    fn extend_with(&mut self, option: Option<DhcpOption>);
}

impl ExtendWith for dhcproto::v6::DhcpOptions {
    fn extend_with(&mut self, option: Option<DhcpOption>) {
        if let Some(option) = option {
            self.insert(option);
        }
    }
}

pub fn decode(payload: &[u8]) -> Message {
    Message::decode(&mut Decoder::new(payload)).expect("legal")
}

pub fn server_of(message: &Message) -> Option<Vec<u8>> {
    match message.opts().get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(server)) => Some(server.clone()),
        _ => None,
    }
}

pub fn addresses_of(message: &Message) -> Vec<Ipv6Addr> {
    let Some(DhcpOption::IANA(association)) = message.opts().get(OptionCode::IANA) else {
        return vec![];
    };
    let all = association.opts.iter();
    all.filter_map(|option| match option {
        DhcpOption::IAAddr(address) => Some(address.addr),
        _ => None,
    })
    .collect()
}

/// What the client asked last, as the checker remembers it.
#[derive(Debug, Clone)]
struct Asked {
    xid: [u8; 3],
    kind: MessageType,
    server: Option<Vec<u8>>,
}

pub struct World {
    pub now: Duration,
    pub client: Client,
    pub servers: Vec<Server>,
    /// Frames lost, of 256, each way.
    pub loss: u8,
    rng: Rng,
    wire: Vec<(Duration, Vec<u8>)>,
    asked: Option<Asked>,
    sends: VecDeque<Duration>,
    /// What the servers know of our leases; `None` for ever.
    known: BTreeMap<Ipv6Addr, Option<Duration>>,
    on_link: bool,
    /// What the client has to have counted, and the datagrams that it got.
    tally: Counters,
    payloads: u64,
    /// Everything the client did, for comparing runs.
    pub log: Vec<(Duration, Action)>,
}

impl World {
    pub fn new(seed: u64, servers: Vec<Server>, loss: u8) -> World {
        let now = Duration::from_millis(1500);
        let mut rng = Rng::new(seed);
        World {
            now,
            client: Client::new(IDENTITY, Rng::new(rng.next_u64()), now),
            servers,
            loss,
            rng,
            wire: vec![],
            asked: None,
            sends: VecDeque::new(),
            known: BTreeMap::new(),
            on_link: false,
            tally: Counters::default(),
            payloads: 0,
            log: vec![],
        }
    }

    /// Gives the client an event, checks what it does, and puts it on the wire.
    pub fn step(&mut self, event: Event<'_>) {
        let now = self.now;
        let before: Vec<_> = self.client.applied().cloned().into_iter().collect();
        let asked = self.asked.clone();
        self.payloads += u64::from(matches!(event, Event::Payload(_)));
        let actions = self.client.step(now, event);
        for action in actions {
            match &action {
                Action::Send { payload } => {
                    self.tally.sent += 1;
                    self.check_send(payload);
                }
                Action::Apply(lease) => {
                    self.on_link = true;
                    let part = before.iter().any(|before| {
                        lease.times.granted == before.times.granted
                            && lease.addresses.len() < before.addresses.len()
                            && lease.addresses.iter().all(|a| before.addresses.contains(a))
                    });
                    if !part {
                        self.check_grant(event, asked.as_ref());
                    }
                    self.check_lease(lease);
                }
                Action::Withdraw(_) => {
                    assert!(std::mem::take(&mut self.on_link), "withdrawn twice");
                }
                Action::Note(Note::Refused { .. }) => self.tally.refused += 1,
                Action::Note(Note::Conflict { .. }) => self.tally.declined += 1,
                Action::Note(Note::Silence { .. }) => {}
            }
            self.log.push((now, action.clone()));
            if let Action::Send { payload } = action {
                self.transmit(&payload);
            }
        }
        // Whoever asks why there is no address is told what there was.
        let counted = self.client.counters();
        let seen = |of: &Counters| [of.sent, of.refused, of.declined];
        assert_eq!(seen(&counted), seen(&self.tally));
        let dropped = counted.not_ours + counted.unreadable;
        assert_eq!(counted.received + dropped, self.payloads);
        assert_eq!(self.client.applied().is_some(), self.on_link);
        if let Some(lease) = self.client.applied() {
            for address in &lease.addresses {
                assert!(address.is_valid_at(now), "an address after its lease");
            }
        }
        if let Some(deadline) = self.client.deadline() {
            assert!(
                deadline > now,
                "a busy loop: {deadline:?} at {now:?}, {:?}",
                self.client
            );
        }
    }

    /// A lease comes with the REPLY of this very step, to the question that was open before it.
    fn check_grant(&self, event: Event<'_>, asked: Option<&Asked>) {
        let Event::Payload(payload) = event else {
            panic!("a lease out of nowhere");
        };
        let asked = asked.expect("nobody asked");
        assert_eq!(payload[0], 7, "only a REPLY grants");
        assert_eq!(payload[1..4], asked.xid, "to another question");
        // Damaged messages are not for the codec crate: find the ids by hand.
        let contains = |what: &[u8]| payload.windows(what.len()).any(|part| part == what);
        assert!(contains(&IDENTITY.duid()), "somebody else's lease");
        if let Some(server) = &asked.server {
            assert!(contains(server), "of another server");
        }
        assert!(
            matches!(
                asked.kind,
                MessageType::Request
                    | MessageType::Renew
                    | MessageType::Rebind
                    | MessageType::Confirm
                    | MessageType::InformationRequest
            ) || (asked.kind == MessageType::Solicit && contains(&[0, 14, 0, 0])),
            "no answer to a {:?} grants",
            asked.kind
        );
    }

    fn check_lease(&self, lease: &netcfg::dhcp6::lease::Lease6) {
        for address in &lease.addresses {
            let honest = self
                .servers
                .iter()
                .any(|server| server.address == address.address && server.manner == Manner::Honest);
            if honest {
                let known = self.known.get(&address.address).expect("granted");
                let within = match (address.valid, known) {
                    (_, None) => true,
                    (Some(ours), Some(theirs)) => ours <= *theirs,
                    (None, Some(_)) => false,
                };
                assert!(within, "longer than the server knows");
            }
            let order = [address.preferred, address.valid].map(|at| at.unwrap_or(Duration::MAX));
            assert!(order.is_sorted(), "{lease:?}");
        }
        if let (Some(renew), Some(rebind)) = (lease.times.renew, lease.times.rebind) {
            assert!(renew <= rebind, "{lease:?}");
            let expire = lease.expire().unwrap_or(Duration::MAX);
            assert!(rebind <= expire, "{lease:?}");
        }
    }

    fn check_send(&mut self, payload: &[u8]) {
        let minute_ago = self.now.saturating_sub(Duration::from_secs(60));
        self.sends.push_back(self.now);
        while self.sends.front().is_some_and(|sent| *sent <= minute_ago) {
            self.sends.pop_front();
        }
        let sends = self.sends.len();
        assert!(sends <= MOST, "a flood: {sends} in a minute");

        let message = decode(payload);
        let has = |code| message.opts().get(code).is_some();
        let kind = message.msg_type();
        // RFC 8415, appendix B.
        assert_eq!(
            message.opts().get(OptionCode::ClientId),
            Some(&DhcpOption::ClientId(IDENTITY.duid()))
        );
        assert!(has(OptionCode::ElapsedTime));
        let for_one = matches!(
            kind,
            MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline
        );
        assert_eq!(has(OptionCode::ServerId), for_one, "{kind:?}");
        assert_eq!(has(OptionCode::RapidCommit), kind == MessageType::Solicit);
        assert_eq!(
            has(OptionCode::IANA),
            kind != MessageType::InformationRequest
        );
        let bare = matches!(
            kind,
            MessageType::Confirm | MessageType::Release | MessageType::Decline
        );
        assert_eq!(has(OptionCode::ORO), !bare, "{kind:?}");
        if !matches!(kind, MessageType::Solicit | MessageType::InformationRequest) {
            assert!(!addresses_of(&message).is_empty(), "{kind:?} about nothing");
        }
        self.asked = Some(Asked {
            xid: message.xid(),
            kind,
            server: server_of(&message),
        });
    }

    fn transmit(&mut self, payload: &[u8]) {
        let asked = decode(payload);
        for at in 0..self.servers.len() {
            let delay = Duration::from_micros(200) + self.rng.up_to(Duration::from_millis(30));
            let lost = |rng: &mut Rng, loss| rng.next_u64() % 256 < u64::from(loss);
            if lost(&mut self.rng, self.loss) || self.servers[at].is_dead(self.now) {
                continue;
            }
            let Some((answer, valid)) = self.servers[at].answer(&asked, &mut self.rng) else {
                continue;
            };
            if let Some(valid) = valid {
                let until =
                    (valid != u32::MAX).then(|| self.now + Duration::from_secs(valid.into()));
                self.known.insert(self.servers[at].address, until);
            }
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
        let lease = self.client.applied();
        lease.is_some_and(|lease| !lease.addresses.is_empty())
    }

    /// What was sent since, and when.
    pub fn sent_since(&self, at: Duration) -> Vec<(Duration, Message)> {
        let since = self.log.iter().filter(|(when, _)| *when >= at);
        since
            .filter_map(|(when, action)| match action {
                Action::Send { payload } => Some((*when, decode(payload))),
                _ => None,
            })
            .collect()
    }
}
