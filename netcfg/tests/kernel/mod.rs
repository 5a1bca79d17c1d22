//! A model of what netcfg needs of a machine: links, addresses, routes, files, and a wire with one
//! honest DHCP server and a gateway on it, which answers by ARP. Whatever is asked of it can be made to fail.
//!
//! IPv6, router advertisements, time servers and VLANs are not here: who asks for them hears nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use ipnet::IpNet;
use netcfg::Config;
use netcfg::config::Role;
use netcfg::core::{Command, Core, Doing, Event, Failure, Input, Socket, Start};
use netcfg::desired::{Address, Route};
use netcfg::dhcp4::arp::{self, Arp};
use netcfg::link::Link;
use netcfg::mac::Mac;
use netcfg::reconcile::{Detection, Op, Seen, SeenAddress, SeenRoute};
use netcfg::rng::Rng;
use netcfg::store::{self, Clocks};

/// What the server grants, in seconds.
pub const LEASE: u32 = 600;

/// The card of every gateway.
const GATEWAY: Mac = Mac([2, 0, 0, 1, 0, 1]);

/// How often, of 255, each kind of thing goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Dumps that cannot be had.
    pub asking: u8,
    /// The loopback link, which cannot be switched on.
    pub loopback: u8,
    /// Addresses and routes that cannot be set.
    pub applying: u8,
    /// Files that cannot be written.
    pub writing: u8,
    /// Sockets that cannot be opened.
    pub opening: u8,
    /// Links that cannot be set up.
    pub preparing: u8,
    /// Frames that cannot be sent.
    pub sending: u8,
    /// Frames that are lost, each way.
    pub loss: u8,
}

impl Faults {
    /// It goes wrong every time.
    pub const ALWAYS: u8 = u8::MAX;
}

/// The machine.
pub struct Machine {
    pub now: Duration,
    pub core: Core,
    pub links: Vec<Link>,
    pub seen: Seen,
    pub resolv_conf: Option<String>,
    pub leases: BTreeMap<Mac, String>,
    pub faults: Faults,
    /// The server answers.
    pub serving: bool,
    /// Everything that was wanted, for comparing runs.
    pub log: Vec<(Duration, Command)>,
    /// What was told.
    pub events: Vec<Event>,
    plugged: u32,
    open: BTreeSet<(u32, Socket)>,
    wire: Vec<(Duration, u32, Frame)>,
    granted: BTreeMap<Mac, Duration>,
    /// The addresses that were told, by the name of their link, until their end was told.
    told: BTreeSet<(String, IpNet)>,
    /// What was told to be lost, by the number of its link, until it is set again.
    lost: Vec<(u32, IpNet)>,
    write_failed: bool,
    /// A dump or a change of addresses and routes was refused: who tries later and later may be late. Or a lease was
    /// not kept: the next run knows an older one.
    failed: bool,
    rng: Rng,
    seed: u64,
    config: Config,
}

/// What an answer is.
enum Frame {
    Dhcp(Vec<u8>),
    Arp(Vec<u8>),
}

/// The kernel gives no number twice: a card that comes back is another link. Modulo this, it is
/// the same card.
const CARDS: u32 = 10;

fn card(link: u32) -> u8 {
    u8::try_from(link % CARDS).expect("a small number")
}

/// The address of the card.
pub fn mac(link: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, card(link)])
}

/// The server on the wire of this card.
fn server(link: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, card(link), 0, 1)
}

/// What that server grants.
pub fn address(link: u32) -> IpNet {
    let [a, b, c, _] = server(link).octets();
    IpNet::new(Ipv4Addr::new(a, b, c, 50).into(), 24).expect("short enough")
}

fn start(seed: u64, now: Duration) -> Start {
    Start {
        now,
        built: Duration::from_secs(1_700_000_000),
        seed,
        time_seed: !seed,
        resolv_conf: "resolv.conf".to_owned(),
    }
}

impl Machine {
    pub fn new(seed: u64, config: Config, faults: Faults) -> Machine {
        let now = Duration::from_secs(2);
        let mut rng = Rng::new(seed);
        let seed = rng.next_u64();
        let (core, first) = Core::new(config.clone(), start(seed, now));
        let mut machine = Machine {
            now,
            core,
            links: vec![],
            seen: Seen::default(),
            resolv_conf: None,
            leases: BTreeMap::new(),
            faults,
            serving: true,
            log: vec![],
            events: vec![],
            plugged: 0,
            open: BTreeSet::new(),
            wire: vec![],
            granted: BTreeMap::new(),
            told: BTreeSet::new(),
            lost: vec![],
            write_failed: false,
            failed: false,
            rng,
            seed,
            config,
        };
        machine.carry_out(first);
        machine
    }

    /// The program is killed and started again; what the kernel has stays.
    pub fn restart(&mut self) {
        self.seed = self.seed.wrapping_add(1);
        self.open.clear();
        let (core, first) = Core::new(self.config.clone(), start(self.seed, self.now));
        self.core = core;
        self.carry_out(first);
    }

    /// A card is plugged in, or taken out.
    pub fn plug(&mut self, card: u32, there: bool) {
        match (self.link(card), there) {
            (None, true) => {
                self.plugged += 1;
                self.links.push(Link {
                    index: self.plugged * CARDS + card,
                    name: format!("eth{card}"),
                    mac: mac(card),
                    mtu: 1500,
                    ..Link::default()
                });
            }
            (Some(index), false) => {
                self.links.retain(|link| link.index != index);
                self.seen.addresses.retain(|seen| seen.link != index);
                self.seen.routes.retain(|seen| seen.link != index);
            }
            _ => {}
        }
        self.input(Input::Changed);
    }

    /// The link of a card that is plugged in.
    fn link(&self, card: u32) -> Option<u32> {
        let mut links = self.links.iter();
        let link = links.find(|link| link.mac == mac(card));
        link.map(|link| link.index)
    }

    /// The cable is pulled, or put in.
    pub fn carrier(&mut self, card: u32, on: bool) {
        for link in &mut self.links {
            if link.mac == mac(card) {
                link.carrier = on && link.up;
            }
        }
        self.input(Input::Changed);
    }

    /// Somebody else puts an address and a route there.
    pub fn intrude(&mut self, card: u32) {
        let link = self.link(card).expect("plugged in");
        let address = Address {
            net: "192.0.2.77/24".parse().expect("a prefix"),
            preferred: None,
            until: None,
            broadcast: None,
        };
        self.seen.addresses.push(SeenAddress {
            link,
            address,
            ours: false,
            detection: Detection::Passed,
        });
        let route = Route {
            to: "198.51.100.0/24".parse().expect("a prefix"),
            via: Some(IpAddr::from([192, 0, 2, 1])),
            onlink: false,
            source: None,
            metric: 7,
            mtu: None,
        };
        let ours = false;
        self.seen.routes.push(SeenRoute { link, route, ours });
        self.input(Input::Changed);
    }

    /// Somebody takes away what is ours.
    pub fn rob(&mut self, card: u32) {
        let stays = |ours: bool, link: u32| !ours || mac(link) != mac(card);
        self.seen.addresses.retain(|s| stays(s.ours, s.link));
        self.seen.routes.retain(|s| stays(s.ours, s.link));
        self.input(Input::Changed);
        self.input(Input::RouteGone { ours: true });
    }

    /// Gives the core an input, and does what it wants.
    pub fn input(&mut self, input: Input<'_>) {
        let commands = self.core.step(self.now, input);
        self.carry_out(commands);
        if !self.failed {
            let has = |(link, net): &(u32, IpNet)| {
                let mut addresses = self.seen.addresses.iter();
                addresses.any(|s| s.ours && s.link == *link && s.address.net == *net)
            };
            let stays = self.lost.iter().find(|lost| has(lost));
            assert_eq!(stays, None, "told to be lost, and not taken away");
        }
        if let Some(deadline) = self.core.deadline() {
            assert!(
                deadline > self.now,
                "a busy loop: {deadline:?} at {:?}",
                self.now
            );
        }
    }

    /// As the driver does it.
    fn carry_out(&mut self, commands: Vec<Command>) {
        let mut steps = 0;
        let mut commands: std::collections::VecDeque<Command> = commands.into();
        while let Some(command) = commands.pop_front() {
            steps += 1;
            assert!(steps < 1000, "no end: {command:?}");
            self.log.push((self.now, command.clone()));
            if let Some(answer) = self.execute(command) {
                for command in self.core.step(self.now, answer).into_iter().rev() {
                    commands.push_front(command);
                }
            }
        }
    }

    fn goes_wrong(&mut self, of_255: u8) -> bool {
        self.rng.next_u64() % 255 < u64::from(of_255)
    }

    fn execute(&mut self, command: Command) -> Option<Input<'static>> {
        let failed = |doing, link| {
            let why = "a fault".to_owned();
            Some(Input::Failed(Failure { doing, link, why }))
        };
        match command {
            Command::Look | Command::See if self.goes_wrong(self.faults.asking) => {
                self.failed = true;
                failed(Doing::Asking, None)
            }
            Command::Look => Some(Input::Links(self.links.clone())),
            Command::See => Some(Input::Seen(self.seen.clone())),
            Command::ReadLease { link, mac } => Some(Input::Lease {
                link,
                text: self.leases.get(&mac).cloned(),
                clocks: self.clocks(),
            }),
            Command::ReadResolvConf => Some(Input::ResolvConf(self.resolv_conf.clone())),
            Command::Apply(ops) => {
                let mut failures = vec![];
                for op in ops {
                    let (Op::SetAddress(link, _)
                    | Op::SetRoute(link, _)
                    | Op::RemoveRoute(link, _)
                    | Op::RemoveAddress(link, _)) = op;
                    let there = self.links.iter().any(|known| known.index == link);
                    if !there || self.goes_wrong(self.faults.applying) {
                        self.failed = true;
                        failures.push((op, "a fault".to_owned()));
                    } else {
                        self.apply(op);
                    }
                }
                Some(Input::Applied(failures))
            }
            Command::WriteResolvConf(text) => {
                self.write_failed = self.goes_wrong(self.faults.writing);
                if self.write_failed {
                    return Some(Input::Written(Some("a fault".to_owned())));
                }
                self.resolv_conf = Some(text);
                Some(Input::Written(None))
            }
            Command::Prepare { link, up, mtu, .. } => {
                // Property 9: nobody on the wire changes a link's MTU, which resets some cards.
                assert_eq!(mtu, None, "the configuration sets none");
                if self.goes_wrong(self.faults.preparing) {
                    return failed(Doing::Preparing, Some(link));
                }
                for known in &mut self.links {
                    if known.index == link && up {
                        known.up = true;
                        known.carrier = true;
                    }
                }
                None
            }
            Command::Open { link, socket, .. } => {
                if self.goes_wrong(self.faults.opening) {
                    return failed(Doing::Opening(socket), Some(link));
                }
                assert!(self.open.insert((link, socket)), "opened twice");
                None
            }
            Command::Close { link, socket } => {
                self.open.remove(&(link, socket));
                None
            }
            Command::Send { link, .. } | Command::SendArp { link, .. }
                if self.goes_wrong(self.faults.sending) =>
            {
                failed(Doing::Sending, Some(link))
            }
            Command::Send { link, payload, .. } => {
                if self.carries(link) {
                    self.transmit(link, &payload);
                }
                None
            }
            Command::SendArp { link, payload } => {
                if self.carries(link) {
                    self.transmit_arp(link, &payload);
                }
                None
            }
            Command::SyncLease { link, .. } if self.goes_wrong(self.faults.writing) => {
                failed(Doing::Storing, Some(link))
            }
            Command::SaveLease { link, mac, lease } => {
                if self.goes_wrong(self.faults.writing) {
                    self.failed = true;
                    return failed(Doing::Storing, Some(link));
                }
                let text = store::write(&lease, &self.clocks());
                self.leases.insert(mac, text);
                None
            }
            Command::RemoveLease { mac, .. } => {
                self.leases.remove(&mac);
                None
            }
            Command::Event(event) => {
                self.told(&event);
                self.events.push(event);
                None
            }
            Command::LoopbackUp if self.goes_wrong(self.faults.loopback) => {
                failed(Doing::Loopback, None)
            }
            Command::SyncLease { .. }
            | Command::LoopbackUp
            | Command::AddVlan { .. }
            | Command::Send6 { .. }
            | Command::Solicit { .. }
            | Command::SendNtp { .. }
            | Command::CloseNtp => None,
        }
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            boot_id: "this".to_owned(),
            since_boot: self.now,
            wall: 1_700_000_000 + self.now.as_secs(),
        }
    }

    /// What is told is true at this moment.
    fn told(&mut self, event: &Event) {
        match event.name {
            "net.address" => self.told_address(event),
            "net.renewed" => self.told_renewed(event),
            "net.lost" => self.told_lost(event),
            _ => {}
        }
    }

    /// The number of the link of this name, if it is there.
    fn index(&self, name: &str) -> Option<u32> {
        let mut links = self.links.iter();
        let link = links.find(|link| link.name == name);
        link.map(|link| link.index)
    }

    /// Until when the kernel keeps an address of ours, if it has it.
    fn kept(&self, link: u32, net: IpNet) -> Option<Option<Duration>> {
        let mut addresses = self.seen.addresses.iter();
        let ours = addresses.find(|s| s.ours && s.link == link && s.address.net == net);
        ours.map(|seen| seen.address.until)
    }

    /// Whoever reads that there is an address finds it, its way out, and its servers.
    fn told_address(&mut self, event: &Event) {
        let name = field(event, "link").expect("of a link");
        let index = self.index(name).expect("a link that is there");
        let net = net(event);
        assert!(
            self.kept(index, net).is_some(),
            "told before it was there: {event:?}"
        );
        let mut routes = self.seen.routes.iter();
        if let Some(gateway) = field(event, "gateway") {
            let via: IpAddr = gateway.parse().expect("an address");
            assert!(routes.any(|seen| seen.link == index && seen.route.via == Some(via)));
        }
        let text = self.resolv_conf.as_deref().unwrap_or_default();
        for dns in field(event, "dns")
            .into_iter()
            .flat_map(|dns| dns.split(','))
        {
            let listed = text.contains(&format!("nameserver {dns}\n"));
            let crowded = text.matches("nameserver").count() == 3;
            assert!(listed || crowded || self.write_failed, "{event:?}: {text}");
        }
        self.told.insert((name.to_owned(), net));
    }

    /// It is the address that was told, and the kernel keeps it for as long as the server has just granted.
    fn told_renewed(&self, event: &Event) {
        let name = field(event, "link").expect("of a link");
        let index = self.index(name).expect("a link that is there");
        let net = net(event);
        let told = self.told.contains(&(name.to_owned(), net));
        assert!(told, "{event:?}");
        assert_eq!(field(event, "lease_s"), Some("600"));
        assert_eq!(field(event, "server"), Some(&server(index).to_string()[..]));
        let until = self.kept(index, net).expect("told before it was there");
        let granted = *self.granted.get(&mac(index)).expect("nobody granted it");
        let least = granted + Duration::from_secs(590);
        assert!(until >= Some(least), "{event:?}: {until:?}");
    }

    /// For the reason that it says. Whether it is taken away is looked at when all is done.
    fn told_lost(&mut self, event: &Event) {
        let name = field(event, "link").expect("of a link");
        let index = self.index(name);
        let net = net(event);
        if !self.failed {
            let told = self.told.remove(&(name.to_owned(), net));
            assert!(told, "{event:?}");
            let reason = field(event, "reason").expect("a reason");
            let link = self.links.iter().find(|link| Some(link.index) == index);
            let holds = match reason {
                "gone" => link.is_none(),
                "carrier" => link.is_some_and(|link| !link.carrier),
                // What was kept over a restart is in whole seconds, and the kernel's time may be that much later.
                "expired" => index.is_some_and(|index| {
                    let until = self.kept(index, net);
                    until.is_none_or(|until| until <= Some(self.now + Duration::from_secs(3)))
                }),
                _ => false,
            };
            assert!(holds, "{event:?}: {link:?}");
        }
        self.lost.extend(index.map(|index| (index, net)));
    }

    /// What the kernel does with an operation, and what must never be asked of it.
    fn apply(&mut self, op: Op) {
        let seen = &mut self.seen;
        match op {
            Op::SetAddress(link, address) => {
                let there = |s: &SeenAddress| s.link == link && s.address.net == address.net;
                if let Some(known) = seen.addresses.iter_mut().find(|s| there(s)) {
                    assert!(known.ours, "a foreign address was changed");
                    known.address = address;
                } else {
                    seen.addresses.push(SeenAddress {
                        link,
                        address,
                        ours: true,
                        detection: Detection::Passed,
                    });
                }
                self.lost.retain(|lost| *lost != (link, address.net));
                if self.config.link[0].address.contains(&address.net) {
                    assert_eq!(address.until, None, "fixed");
                    return;
                }
                // Never for longer than the server knows.
                let granted = self.granted.get(&mac(link)).expect("nobody granted it");
                let until = address.until.expect("the lease ends");
                assert!(until <= *granted + Duration::from_secs(LEASE.into()));
            }
            Op::SetRoute(link, route) => {
                let key = (route.to, route.metric);
                if let Some(at) = seen
                    .routes
                    .iter()
                    .position(|s| (s.route.to, s.route.metric) == key)
                {
                    assert!(seen.routes[at].ours, "a foreign route was replaced");
                    seen.routes.remove(at);
                }
                seen.routes.push(SeenRoute {
                    link,
                    route,
                    ours: true,
                });
            }
            Op::RemoveRoute(link, route) => {
                let same = |s: &SeenRoute| s.link == link && s.route == route;
                if let Some(at) = seen.routes.iter().position(same) {
                    assert!(seen.routes.remove(at).ours, "a foreign route was removed");
                }
            }
            Op::RemoveAddress(link, net) => {
                let same = |s: &SeenAddress| s.link == link && s.address.net == net;
                if let Some(at) = seen.addresses.iter().position(same) {
                    let gone = seen.addresses.remove(at);
                    assert!(gone.ours, "a foreign address was removed");
                    // Routes go with their source address.
                    seen.routes
                        .retain(|s| s.link != link || s.route.source != Some(net.addr()));
                }
            }
        }
    }

    /// The wire and the server at its other end.
    fn transmit(&mut self, index: u32, payload: &[u8]) {
        if !self.serving {
            return;
        }
        let Ok(asked) = Message::decode(&mut Decoder::new(payload)) else {
            panic!("an illegal message");
        };
        let IpAddr::V4(ours) = address(index).addr() else {
            return;
        };
        let kind = if asked.opts().has_msg_type(MessageType::Discover) {
            MessageType::Offer
        } else {
            let wanted = match asked.opts().get(OptionCode::RequestedIpAddress) {
                Some(DhcpOption::RequestedIpAddress(address)) => *address,
                _ => asked.ciaddr(),
            };
            if wanted != ours {
                return;
            }
            self.granted.insert(mac(index), self.now);
            MessageType::Ack
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let mut reply = Message::new_with_id(asked.xid(), none, ours, none, none, &mac(index).0);
        reply.set_opcode(Opcode::BootReply).set_htype(HType::Eth);
        for option in [
            DhcpOption::MessageType(kind),
            DhcpOption::ServerIdentifier(server(index)),
            DhcpOption::AddressLeaseTime(LEASE),
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![server(index)]),
            DhcpOption::DomainNameServer(vec![server(index)]),
        ] {
            reply.opts_mut().insert(option);
        }
        let delay = Duration::from_micros(100) + self.rng.up_to(Duration::from_millis(5));
        let bytes = reply.to_vec().expect("encodes");
        self.wire
            .push((self.now + delay, index, Frame::Dhcp(bytes)));
    }

    /// Whether a frame, and the answer to it, gets over the wire.
    fn carries(&mut self, index: u32) -> bool {
        let carried = self.links.iter().any(|l| l.index == index && l.carrier);
        let lost = self.goes_wrong(self.faults.loss) || self.goes_wrong(self.faults.loss);
        carried && !lost
    }

    /// The gateway answers for its address, whether the DHCP server does or not.
    fn transmit_arp(&mut self, index: u32, payload: &[u8]) {
        let arp = Arp::decode(payload).expect("a legal frame");
        assert_eq!(arp.sender_mac, mac(index));
        if arp.op == arp::Op::Request && arp.target == server(index) {
            let answer = Arp {
                op: arp::Op::Reply,
                target_mac: arp.sender_mac,
                ..Arp::question(GATEWAY, arp.target, arp.sender)
            };
            let delay = Duration::from_micros(100) + self.rng.up_to(Duration::from_millis(2));
            let frame = Frame::Arp(answer.encode());
            self.wire.push((self.now + delay, index, frame));
        }
    }

    /// Lets the world turn until `end`.
    pub fn run_until(&mut self, end: Duration) {
        loop {
            let arrival = self.wire.iter().map(|(at, ..)| *at).min();
            let expiry = self.seen.addresses.iter().filter_map(|s| s.address.until);
            let next = [arrival, self.core.deadline(), expiry.min()];
            let Some(next) = next.into_iter().flatten().min().filter(|n| *n <= end) else {
                self.now = end;
                return;
            };
            self.now = next.max(self.now);
            self.expire();
            match self.wire.iter().position(|(at, ..)| *at <= self.now) {
                Some(at) => {
                    let (_, link, frame) = self.wire.swap_remove(at);
                    let listens = |socket| self.open.contains(&(link, socket));
                    match &frame {
                        Frame::Dhcp(payload) if listens(Socket::Packet) || listens(Socket::Udp) => {
                            self.input(Input::Dhcp4 { link, payload });
                        }
                        Frame::Arp(payload) if listens(Socket::Arp) => {
                            self.input(Input::Arp { link, payload });
                        }
                        _ => {}
                    }
                }
                None => self.input(Input::Timer),
            }
        }
    }

    /// The kernel takes away what is over, and its routes.
    fn expire(&mut self) {
        let now = self.now;
        let over = |s: &SeenAddress| s.address.until.is_some_and(|until| until <= now);
        let gone: Vec<SeenAddress> = self.seen.addresses.iter().copied().filter(over).collect();
        if gone.is_empty() {
            return;
        }
        self.seen.addresses.retain(|s| !over(s));
        for gone in gone {
            let source = Some(gone.address.net.addr());
            self.seen
                .routes
                .retain(|s| s.link != gone.link || s.route.source != source);
        }
        self.input(Input::Changed);
    }

    /// Whether the link of a card has what its server gives and the configuration says, and only that.
    pub fn is_configured(&self, card: u32) -> bool {
        let link = self.link(card);
        let config = &self.config.link[0];
        let uplink = config.role == Role::Uplink;
        let addresses = self.seen.addresses.iter();
        let nets: BTreeSet<IpNet> = addresses
            .filter(|s| s.ours && Some(s.link) == link)
            .map(|s| s.address.net)
            .collect();
        let leased = config.dhcp4.then(|| address(card));
        let wanted: BTreeSet<IpNet> = config.address.iter().copied().chain(leased).collect();
        let routes = self.seen.routes.iter();
        let routes = routes.filter(|s| s.ours && Some(s.link) == link);
        let direct = routes.clone().filter(|s| s.route.via.is_none());
        let direct: BTreeSet<IpNet> = direct.map(|s| s.route.to).collect();
        let ways: Vec<IpAddr> = routes.filter_map(|s| s.route.via).collect();
        let router = (config.dhcp4 && uplink).then(|| IpAddr::V4(server(card)));
        let router = config.gateway.first().copied().or(router);
        let text = self.resolv_conf.as_deref().unwrap_or_default();
        let line = format!("nameserver {}\n", server(card));
        nets == wanted
            && direct == wanted.iter().map(IpNet::trunc).collect()
            && ways == Vec::from_iter(router)
            && text.contains(&line) == (config.dhcp4 && uplink)
    }
}

/// The value of a field of an event.
fn field<'a>(event: &'a Event, key: &str) -> Option<&'a str> {
    let mut fields = event.fields.iter();
    fields.find_map(|(name, value)| (*name == key).then_some(value.as_str()))
}

/// The address that an event is about.
fn net(event: &Event) -> IpNet {
    let net = field(event, "address").unwrap_or_default();
    net.parse().expect("a prefix")
}
