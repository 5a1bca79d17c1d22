//! A model of what netcfg needs of a machine: links, addresses, routes, files, and a wire with one
//! honest DHCP server on it. Whatever is asked of it can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use ipnet::IpNet;
use netcfg::Config;
use netcfg::core::{Command, Core, Doing, Event, Failure, Input, Socket, Start};
use netcfg::desired::{Address, Route};
use netcfg::link::Link;
use netcfg::mac::Mac;
use netcfg::reconcile::{Detection, Op, Seen, SeenAddress, SeenRoute};
use netcfg::rng::Rng;
use netcfg::store::{self, Clocks};

/// What the server grants, in seconds.
pub const LEASE: u32 = 600;

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
    wire: Vec<(Duration, u32, Vec<u8>)>,
    granted: BTreeMap<Mac, Duration>,
    write_failed: bool,
    rng: Rng,
    seed: u64,
    config: Config,
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
            write_failed: false,
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
            Command::Send { link, payload, .. } => {
                self.transmit(link, &payload);
                None
            }
            Command::SaveLease { link, mac, lease } => {
                if self.goes_wrong(self.faults.writing) {
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
            | Command::SendArp { .. }
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

    /// Whoever reads that there is an address finds it, its way out, and its servers.
    fn told(&self, event: &Event) {
        if event.name != "net.address" {
            return;
        }
        let field = |key| {
            let mut fields = event.fields.iter();
            fields.find_map(|(name, value)| (*name == key).then_some(value.as_str()))
        };
        let link = self
            .links
            .iter()
            .find(|l| Some(&l.name[..]) == field("link"));
        let index = link.expect("a link that is there").index;
        let net: IpNet = field("address")
            .unwrap_or_default()
            .parse()
            .expect("a prefix");
        let mut addresses = self.seen.addresses.iter();
        assert!(
            addresses.any(|seen| seen.link == index && seen.address.net == net),
            "told before it was there: {event:?}"
        );
        if let Some(gateway) = field("gateway") {
            let via: IpAddr = gateway.parse().expect("an address");
            let mut routes = self.seen.routes.iter();
            assert!(routes.any(|seen| seen.link == index && seen.route.via == Some(via)));
        }
        let text = self.resolv_conf.as_deref().unwrap_or_default();
        for dns in field("dns").into_iter().flat_map(|dns| dns.split(',')) {
            let listed = text.contains(&format!("nameserver {dns}\n"));
            let crowded = text.matches("nameserver").count() == 3;
            assert!(listed || crowded || self.write_failed, "{event:?}: {text}");
        }
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
        let carried = self.links.iter().any(|l| l.index == index && l.carrier);
        let lost = self.goes_wrong(self.faults.loss) || self.goes_wrong(self.faults.loss);
        if !carried || lost || !self.serving {
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
        self.wire.push((self.now + delay, index, bytes));
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
                    let (_, link, payload) = self.wire.swap_remove(at);
                    let listening = self.open.iter().any(|(open, _)| *open == link);
                    if listening {
                        self.input(Input::Dhcp4 {
                            link,
                            payload: &payload,
                        });
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

    /// Whether the link of a card has what its server gives, and only that.
    pub fn is_configured(&self, card: u32) -> bool {
        let link = self.link(card);
        let addresses = self.seen.addresses.iter();
        let nets: Vec<IpNet> = addresses
            .filter(|s| s.ours && Some(s.link) == link)
            .map(|s| s.address.net)
            .collect();
        let routes = self.seen.routes.iter();
        let routes = routes.filter(|s| s.ours && Some(s.link) == link);
        let default = |s: &SeenRoute| s.route.via == Some(IpAddr::V4(server(card)));
        let servers = self.resolv_conf.as_deref().unwrap_or_default();
        nets == [address(card)]
            && routes.clone().count() == 2
            && routes.clone().any(default)
            && servers.contains(&format!("nameserver {}\n", server(card)))
    }
}
