//! A machine for the core to run in, whose every happening is a few bytes of the input.
//!
//! What the core asks is answered as the driver does it, from links, addresses and routes that are
//! kept here. Whoever is on the wire says whatever the input says; only what an attacker can read
//! off a question (transaction ids, addresses, the number of an NTP question) is filled in.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use netcfg::Config;
use netcfg::core::{Command, Core, Doing, Failure, Input, Socket, Start};
use netcfg::desired::{Address, Route};
use netcfg::link::Link;
use netcfg::mac::Mac;
use netcfg::reconcile::{Detection, Op, Seen, SeenAddress, SeenRoute};
use netcfg::store::{self, Clocks};

/// Commands that one input may lead to, the answers to them included.
const MOST_COMMANDS: usize = 1000;

/// Takes what it needs from the front of the input; zeros when there is no more.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *byte
    }

    /// A length in one byte, and so many bytes.
    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }
}

struct Machine {
    now: Duration,
    core: Core,
    seed: u64,
    links: Vec<Link>,
    seen: Seen,
    resolv_conf: Option<String>,
    leases: BTreeMap<Mac, String>,
    /// The last question of each kind and link.
    asked4: BTreeMap<u32, Vec<u8>>,
    asked6: BTreeMap<u32, Vec<u8>>,
    asked_ntp: Option<(IpAddr, Vec<u8>)>,
    /// Which of the next operations and commands fail, bit by bit.
    faults: u8,
}

/// The bytes are what happens to a machine with up to three cards.
pub fn run(bytes: &[u8]) {
    let mut source = Source(bytes);
    let now = Duration::from_secs(2);
    let (core, first) = begin(0, now);
    let mut machine = Machine {
        now,
        core,
        seed: 0,
        links: vec![],
        seen: Seen::default(),
        resolv_conf: None,
        leases: BTreeMap::new(),
        asked4: BTreeMap::new(),
        asked6: BTreeMap::new(),
        asked_ntp: None,
        faults: 0,
    };
    machine.carry_out(first);
    while !source.0.is_empty() {
        machine.happen(&mut source);
    }
}

fn begin(seed: u64, now: Duration) -> (Core, Vec<Command>) {
    let config = Config {
        ntp: vec![Ipv4Addr::new(192, 0, 2, 123).into()],
        ..Config::default()
    };
    let start = Start {
        now,
        built: Duration::from_secs(1_700_000_000),
        seed,
        time_seed: !seed,
        resolv_conf: "resolv.conf".to_owned(),
    };
    Core::new(config, start)
}

impl Machine {
    fn happen(&mut self, source: &mut Source<'_>) {
        let (kind, card) = (source.byte(), source.byte());
        let index = u32::from(card % 3) + 2;
        let at = self.links.iter().position(|link| link.index == index);
        match kind % 16 {
            0 => {
                let due = self.core.deadline();
                self.now = due.unwrap_or(self.now).max(self.now);
                self.input(Input::Timer);
            }
            1 => {
                self.now += Duration::from_millis(u64::from(card) * u64::from(source.byte()) * 16);
                self.expire();
                self.input(Input::Timer);
            }
            2 => {
                match at {
                    Some(at) => drop(self.links.remove(at)),
                    None => self.links.push(Link {
                        index,
                        name: format!("eth{index}"),
                        // Two of them may be the same card.
                        mac: Mac([2, 0, 0, 0, 0, card % 4]),
                        mtu: u32::from(source.byte()) * 8,
                        ..Link::default()
                    }),
                }
                self.input(Input::Changed);
            }
            3 => {
                if let Some(link) = at.and_then(|at| self.links.get_mut(at)) {
                    link.carrier = link.up && !link.carrier;
                }
                self.input(Input::Changed);
            }
            4 => {
                let kind = source.byte() % 8;
                let yiaddr = [10, card, 0, source.byte()];
                let mut payload = vec![0; 240];
                payload[..3].copy_from_slice(&[2, 1, 6]);
                if let Some(asked) = self.asked4.get(&index).filter(|asked| asked.len() > 240) {
                    payload[4..8].copy_from_slice(&asked[4..8]);
                    payload[28..34].copy_from_slice(&asked[28..34]);
                }
                payload[16..20].copy_from_slice(&yiaddr);
                payload[236..].copy_from_slice(&[99, 130, 83, 99]);
                payload.extend([53, 1, kind]);
                payload.extend_from_slice(source.bytes());
                self.input(Input::Dhcp4 {
                    link: index,
                    payload: &payload,
                });
            }
            5 => {
                let payload = source.bytes();
                self.input(Input::Dhcp4 {
                    link: index,
                    payload,
                });
            }
            6 => {
                let kind = source.byte() % 8;
                let asked = self.asked6.get(&index).cloned().unwrap_or_default();
                let mut payload = vec![kind];
                payload.extend(asked.get(1..4).unwrap_or(&[0; 3]));
                if let Some(client) = option6(&asked, 1) {
                    payload.extend(option6_of(1, client));
                }
                // T1, T2 and the addresses of the association that was asked for.
                let granted = source.bytes();
                if let Some(id) = option6(&asked, 3).and_then(|value| value.get(..4)) {
                    payload.extend(option6_of(3, &[id, granted].concat()));
                }
                payload.extend_from_slice(source.bytes());
                self.input(Input::Dhcp6 {
                    link: index,
                    payload: &payload,
                });
            }
            7 => {
                let datagram = super::user_options(index, source.bytes());
                self.input(Input::RouterOptions(&datagram));
            }
            8 => {
                let mut bytes = source.bytes().to_vec();
                let asked = self.asked_ntp.clone();
                let (from, question) =
                    asked.unwrap_or_else(|| (Ipv4Addr::LOCALHOST.into(), vec![]));
                if let (Some(origin), Some(nonce)) = (bytes.get_mut(24..32), question.get(40..48)) {
                    origin.copy_from_slice(nonce);
                }
                self.input(Input::Ntp {
                    from: (from, 123).into(),
                    bytes: &bytes,
                    at: self.now,
                    wall: Duration::from_secs(1_700_000_000) + self.now,
                });
            }
            9 => {
                if let Some(link) = at.and_then(|at| self.links.get_mut(at)) {
                    link.inet6_flags = 0x8000_0000 | u32::from(source.byte());
                }
                self.input(Input::Changed);
            }
            10 => self.somebody(index, source),
            11 => {
                let stays = |ours: bool, link: u32| !ours || link != index;
                self.seen.addresses.retain(|s| stays(s.ours, s.link));
                self.seen.routes.retain(|s| stays(s.ours, s.link));
                self.input(Input::RouteGone { ours: true });
            }
            12 => self.faults = source.byte(),
            13 => {
                let sockets = [Socket::Packet, Socket::Udp, Socket::Udp6];
                let doing = match source.byte() % 9 {
                    0 => Doing::Asking,
                    1 => Doing::Preparing,
                    2 => Doing::Setting,
                    3 => Doing::Making,
                    4 => Doing::Sending,
                    5 => Doing::Receiving,
                    6 => Doing::Storing,
                    7 => Doing::Loopback,
                    _ => Doing::Opening(sockets[usize::from(card % 3)]),
                };
                self.input(failed(doing, Some(index)));
            }
            14 => self.input(Input::RouteGone {
                ours: card.is_multiple_of(2),
            }),
            _ => {
                self.seed = self.seed.wrapping_add(card.into());
                let (core, first) = begin(self.seed, self.now);
                self.core = core;
                self.carry_out(first);
            }
        }
    }

    /// Somebody else, or a former life of this program, puts an address or a route there.
    fn somebody(&mut self, link: u32, source: &mut Source<'_>) {
        let (how, last, prefix) = (source.byte(), source.byte(), source.byte());
        let ours = how & 1 != 0;
        let addr: IpAddr = match how & 2 {
            0 => [10, last % 4, 0, last].into(),
            _ if how & 16 != 0 => [0xfe80, 0, 0, 0, 0, 0, 0, last.into()].into(),
            _ => [0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()].into(),
        };
        let most = if addr.is_ipv4() { 33 } else { 129 };
        let Ok(net) = ipnet::IpNet::new(addr, prefix % most) else {
            return;
        };
        if how & 4 == 0 {
            let until = (how & 8 != 0).then(|| self.now + Duration::from_secs(last.into()));
            let address = Address {
                net,
                preferred: until,
                until,
                broadcast: None,
            };
            let there = |s: &SeenAddress| s.link == link && s.address.net == net;
            if !self.seen.addresses.iter().any(there) {
                let detection = match how >> 6 {
                    0 | 1 => Detection::Passed,
                    2 => Detection::Running,
                    _ => Detection::Failed,
                };
                self.seen.addresses.push(SeenAddress {
                    link,
                    address,
                    ours,
                    detection,
                });
            }
        } else {
            let route = Route {
                to: net.trunc(),
                via: (how & 8 != 0).then_some(addr),
                onlink: how & 32 != 0,
                source: None,
                metric: source.byte().into(),
                mtu: None,
            };
            let key = |s: &SeenRoute| (s.route.to, s.route.metric);
            let new = SeenRoute { link, route, ours };
            if !self.seen.routes.iter().any(|s| key(s) == key(&new)) {
                self.seen.routes.push(new);
            }
        }
        self.input(Input::Changed);
    }

    /// The kernel takes away what is over.
    fn expire(&mut self) {
        let now = self.now;
        let stays = |s: &SeenAddress| s.address.until.is_none_or(|until| until > now);
        self.seen.addresses.retain(stays);
    }

    fn input(&mut self, input: Input<'_>) {
        let commands = self.core.step(self.now, input);
        self.carry_out(commands);
        if let Some(deadline) = self.core.deadline() {
            assert!(
                deadline > self.now,
                "due at {deadline:?}, which is not after {:?}",
                self.now
            );
        }
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        let mut commands: VecDeque<Command> = commands.into();
        for _ in 0..MOST_COMMANDS {
            let Some(command) = commands.pop_front() else {
                return;
            };
            if let Some(answer) = self.execute(command) {
                for command in self.core.step(self.now, answer).into_iter().rev() {
                    commands.push_front(command);
                }
            }
        }
        panic!("no end: {commands:?}");
    }

    fn fails(&mut self) -> bool {
        let fails = self.faults & 1 != 0;
        self.faults >>= 1;
        fails
    }

    fn execute(&mut self, command: Command) -> Option<Input<'static>> {
        match command {
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
                    if self.fails() {
                        failures.push((op, "a fault".to_owned()));
                    } else {
                        self.apply(op);
                    }
                }
                Some(Input::Applied(failures))
            }
            Command::WriteResolvConf(text) => {
                if self.fails() {
                    return Some(Input::Written(Some("a fault".to_owned())));
                }
                // Whatever strangers said, a line of it is one of ours.
                for line in text.lines() {
                    let known = ["#", "nameserver ", "search ", "options "];
                    assert!(
                        line.is_empty() || known.iter().any(|k| line.starts_with(k)),
                        "{line:?}"
                    );
                }
                self.resolv_conf = Some(text);
                Some(Input::Written(None))
            }
            Command::Prepare { link, up, .. } => {
                let known = self.links.iter_mut().find(|known| known.index == link)?;
                known.up |= up;
                known.carrier |= up;
                None
            }
            Command::Open { link, socket, .. } if self.fails() => {
                Some(failed(Doing::Opening(socket), Some(link)))
            }
            Command::Send { link, payload, .. } => {
                self.asked4.insert(link, payload);
                None
            }
            Command::Send6 { link, payload } => {
                self.asked6.insert(link, payload);
                None
            }
            Command::SendNtp { to, bytes } => {
                self.asked_ntp = Some((to, bytes));
                None
            }
            Command::SaveLease { mac, lease, .. } => {
                super::sane(&lease);
                self.leases
                    .insert(mac, store::write(&lease, &self.clocks()));
                None
            }
            Command::RemoveLease { mac, .. } => {
                self.leases.remove(&mac);
                None
            }
            _ => None,
        }
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            boot_id: "this".to_owned(),
            since_boot: self.now,
            wall: 1_700_000_000 + self.now.as_secs(),
        }
    }

    /// What the kernel does with an operation, and what must never be asked of it.
    fn apply(&mut self, op: Op) {
        let seen = &mut self.seen;
        match op {
            Op::SetAddress(link, address) => {
                let detection = Detection::Passed;
                seen.addresses
                    .retain(|s| s.link != link || s.address.net != address.net);
                seen.addresses.push(SeenAddress {
                    link,
                    address,
                    ours: true,
                    detection,
                });
            }
            Op::SetRoute(link, route) => {
                let key = (route.to, route.metric);
                seen.routes.retain(|s| {
                    let same = (s.route.to, s.route.metric) == key;
                    assert!(!same || s.ours, "a foreign route was replaced: {s:?}");
                    !same
                });
                seen.routes.push(SeenRoute {
                    link,
                    route,
                    ours: true,
                });
            }
            Op::RemoveRoute(link, route) => seen.routes.retain(|s| {
                let same = s.link == link && s.route == route;
                assert!(!same || s.ours, "a foreign route was removed: {s:?}");
                !same
            }),
            Op::RemoveAddress(link, net) => seen.addresses.retain(|s| {
                let same = s.link == link && s.address.net == net;
                assert!(!same || s.ours, "a foreign address was removed: {s:?}");
                !same
            }),
        }
    }
}

/// The value of the first DHCPv6 option of this code in a message.
fn option6(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut area = message.get(4..)?;
    while let [0, code, high, low, rest @ ..] = area {
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
        if *code == wanted {
            return Some(value);
        }
        area = rest;
    }
    None
}

fn option6_of(code: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short");
    [&[0, code][..], &length.to_be_bytes(), value].concat()
}

fn failed(doing: Doing, link: Option<u32>) -> Input<'static> {
    let why = "a fault".to_owned();
    Input::Failed(Failure { doing, link, why })
}
