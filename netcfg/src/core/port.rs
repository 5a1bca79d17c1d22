//! One managed link: its client, and what the client wants.

use std::time::Duration;

use super::inet6::Inet6;
use super::interface::{Command, Setting, Socket};
use super::report::{self, Out};
use crate::config::{Ipv6, LinkConfig, Role};
use crate::desired::{self, Desired, Learnt};
use crate::dhcp4::client::{Action, Client, Event, Saved};
use crate::dhcp4::lease::Lease;
use crate::dhcp4::request::Identity;
use crate::dhcp6;
use crate::link::Link;
use crate::ra::UserOption;
use crate::reconcile::{Seen, Undecided};
use crate::rng::Rng;

/// What is to be told once the kernel's state is as desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// An address, new or confirmed after a loss of carrier.
    Address,
    /// More time for the same.
    Renewed,
}

/// A link that the configuration covers.
#[derive(Debug)]
pub struct Port {
    /// As the kernel last described it.
    pub link: Link,
    /// Its entry, and which one that is.
    pub config: LinkConfig,
    /// Counted from 0.
    pub entry: usize,
    /// Whether it has been switched on and set up.
    pub prepared: bool,
    /// The DHCPv4 client, as soon as the saved lease is known.
    client: Option<Client>,
    /// Nothing when IPv6 is off.
    inet6: Option<Inet6>,
    open: Vec<Socket>,
    /// What its client knows of the carrier.
    carrier: bool,
    decided: bool,
    /// Whether a server confirmed the lease in this run.
    verified: bool,
    news: Option<News>,
    unsaved: Option<Box<Lease>>,
    unsynced: bool,
    /// Whether there may be a kept lease.
    kept: bool,
}

impl Port {
    /// A port whose client is not there yet, and knows of no carrier.
    pub fn new(link: Link, entry: (usize, LinkConfig), seed: u64, now: Duration) -> Port {
        let (entry, config) = entry;
        let inet6 = (config.ipv6 == Ipv6::Auto).then(|| Inet6::new(&link, seed, now));
        Port {
            inet6,
            decided: !config.dhcp4,
            news: (!config.address.is_empty()).then_some(News::Address),
            carrier: false,
            verified: false,
            link,
            entry,
            config,
            prepared: false,
            client: None,
            open: Vec::new(),
            unsaved: None,
            unsynced: false,
            kept: true,
        }
    }

    /// The state this link should have.
    pub fn desired(&self) -> Desired {
        let learnt = Learnt {
            lease: self.lease(),
            lease6: self.inet6.as_ref().and_then(Inet6::lease),
            facts: self.inet6.as_ref().map(Inet6::facts),
        };
        Desired::new(&self.config, learnt, &self.link)
    }

    /// Whether this run knows nothing yet of what the link should have.
    pub fn undecided(&self) -> Undecided {
        Undecided {
            v4: !self.decided,
            v6: self.inet6.as_ref().is_some_and(Inet6::undecided),
        }
    }

    /// Whether what this link has for `resolv.conf` may be not all yet, a restart ago being known.
    pub fn awaits_servers(&self) -> bool {
        let inet6 = self.inet6.as_ref();
        self.undecided().any() || inet6.is_some_and(Inet6::awaits_router)
    }

    /// When [`Port::tick`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        let v4 = self.client.as_ref().and_then(Client::deadline);
        let v6 = self.inet6.as_ref().and_then(Inet6::deadline);
        v4.into_iter().chain(v6).min()
    }

    /// What is due. True when there is something to settle.
    pub fn tick(&mut self, out: &mut Out) -> bool {
        let due = self.client.as_ref().and_then(Client::deadline);
        let mut unsettled = false;
        if due.is_some_and(|due| out.now >= due) {
            unsettled |= self.step(Event::Timer, out);
        }
        unsettled | self.inet6(out, Inet6::tick)
    }

    /// The lease of DHCPv4 that is in force.
    pub fn lease(&self) -> Option<&Lease> {
        self.client.as_ref().and_then(Client::applied)
    }

    /// The DHCPv4 client.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Whether a server confirmed the lease in this run.
    pub fn verified(&self) -> bool {
        self.verified
    }

    /// The IPv6 of this link.
    pub fn inet6_state(&self) -> Option<&Inet6> {
        self.inet6.as_ref()
    }

    /// Whether any client of this link asks for addresses.
    pub fn leases(&self) -> bool {
        self.client.is_some() || self.inet6.as_ref().is_some_and(Inet6::wants_socket)
    }

    /// Whether the port waits for the saved lease before it can do anything.
    pub fn wants_lease(&self) -> bool {
        self.config.dhcp4 && self.client.is_none()
    }

    /// Makes the client, now that the saved lease is known.
    pub fn start(&mut self, seed: u64, saved: Option<Saved>, out: &Out) {
        if self.wants_lease() {
            let dhcp = &self.config.dhcp;
            let identity = Identity {
                mac: self.link.mac,
                client_id: dhcp.client_id,
                hostname: dhcp.hostname.clone(),
                vendor_class: dhcp.vendor_class.clone(),
                broadcast: dhcp.broadcast,
                rapid_commit: dhcp.rapid_commit,
                ipv6_only: dhcp.ipv6_only_preferred && self.config.ipv6 == Ipv6::Auto,
                conflict: dhcp.conflict_detection,
                // Less the IPv4 and UDP headers; one buffer size for jumbo frames, too.
                max_message: u16::try_from(self.link.mtu.clamp(576, 1500) - 28).unwrap_or(548),
            };
            self.client = Some(Client::new(identity, Rng::new(seed), out.now, saved));
        }
    }

    /// Has the link set up, once: who switches it off afterwards has a reason.
    pub fn prepare(&mut self, out: &mut Out) {
        if std::mem::replace(&mut self.prepared, true) {
            return;
        }
        let setting = |family, key, value: u32| Setting {
            family,
            key,
            value: value.to_string(),
        };
        // Without this, removing the first of two addresses of a subnet removes both.
        let mut settings = vec![setting("ipv4", "promote_secondaries", 1)];
        match self.config.ipv6 {
            Ipv6::Off => settings.push(setting("ipv6", "disable_ipv6", 1)),
            Ipv6::Auto => {
                let metric = desired::metric(&self.config, self.link.index);
                let uplink = u32::from(self.config.role == Role::Uplink);
                // Documentation/networking/ip-sysctl: the routers of advertisements become
                // default routes, with the priority of the others of this link.
                settings.push(setting("ipv6", "accept_ra_defrtr", uplink));
                settings.push(setting("ipv6", "ra_defrtr_metric", metric));
            }
        }
        out.push(Command::Prepare {
            link: self.link.index,
            name: self.link.name.clone(),
            up: !self.link.up,
            mtu: self.config.mtu.filter(|mtu| *mtu != self.link.mtu),
            settings,
        });
    }

    /// Takes over what the kernel says of the link. True when there is something to settle.
    pub fn update(&mut self, link: &Link, out: &mut Out) -> bool {
        let before = std::mem::replace(&mut self.link, link.clone());
        if before.name != link.name {
            // Bound to the name.
            self.close(Socket::Udp, out);
            self.close(Socket::Udp6, out);
        }
        let unsettled = self.inet6(out, Inet6::update);
        if self.wants_lease() {
            return unsettled;
        }
        if self.carrier == link.carrier {
            return unsettled || before != *link;
        }
        self.carrier = link.carrier;
        out.event("net.link", self.link_fields());
        let event = if link.carrier {
            Event::CarrierUp
        } else {
            Event::CarrierDown
        };
        self.step(event, out);
        true
    }

    /// What the kernel has changed.
    pub fn see(&mut self, seen: &Seen, out: &mut Out) {
        // It is settled what comes of it: this is the middle of a settling.
        self.inet6(out, |inet6, link, out| inet6.see(link, seen, out));
    }

    /// A router said something. True when there is something to settle.
    pub fn router_option(&mut self, option: UserOption, now: Duration) -> bool {
        let inet6 = self.inet6.as_mut();
        inet6.is_some_and(|inet6| inet6.option(option, now))
    }

    /// Gives the DHCPv6 client an event. True when there is something to settle.
    pub fn step6(&mut self, event: dhcp6::client::Event<'_>, out: &mut Out) -> bool {
        self.inet6(out, |inet6, link, out| inet6.step(event, link, out))
    }

    fn inet6(
        &mut self,
        out: &mut Out,
        step: impl FnOnce(&mut Inet6, &Link, &mut Out) -> bool,
    ) -> bool {
        let Some(mut inet6) = self.inet6.take() else {
            return false;
        };
        let mark = out.mark();
        let unsettled = step(&mut inet6, &self.link, out);
        self.inet6 = Some(inet6);
        self.open_sockets(mark, out);
        unsettled
    }

    /// The link is gone, and all that was on it.
    pub fn gone(mut self, out: &mut Out) {
        for socket in std::mem::take(&mut self.open) {
            let link = self.link.index;
            out.push(Command::Close { link, socket });
        }
        self.link.up = false;
        self.link.carrier = false;
        if self.carrier {
            out.event("net.link", self.link_fields());
        }
        if let Some(lease) = self.lease() {
            let fields = vec![
                ("link", self.link.name.clone()),
                ("address", lease.address.to_string()),
                ("reason", "gone".to_owned()),
            ];
            out.event("net.lost", fields);
        }
    }

    /// The fields of `net.link`.
    pub fn link_fields(&self) -> Vec<(&'static str, String)> {
        let state = if self.link.carrier { "up" } else { "down" };
        vec![
            ("link", self.link.name.clone()),
            ("state", state.to_owned()),
            ("mac", self.link.mac.to_string()),
            ("mtu", self.link.mtu.to_string()),
        ]
    }

    /// Gives the client an event and does what it says. True when there is something to settle.
    pub fn step(&mut self, event: Event<'_>, out: &mut Out) -> bool {
        let Some(client) = &mut self.client else {
            return false;
        };
        let extending = matches!(client.phase_name(), "renewing" | "rebinding");
        let before = client.applied().cloned();
        let actions = client.step(out.now, event);
        let mark = out.mark();
        self.open_sockets(mark, out);
        let mut unsettled = false;
        for action in actions {
            match action {
                Action::Send { to, payload } => out.push(Command::Send {
                    link: self.link.index,
                    to,
                    payload,
                }),
                Action::Arp(payload) => out.push(Command::SendArp {
                    link: self.link.index,
                    payload,
                }),
                Action::Apply { lease, verified } => {
                    let same = before
                        .as_ref()
                        .is_some_and(|before| same_terms(before, &lease));
                    self.news = Some(match self.news {
                        Some(News::Address) => News::Address,
                        _ if extending && same => News::Renewed,
                        _ => News::Address,
                    });
                    // What nobody confirmed is kept already.
                    self.unsaved = Some(lease).filter(|_| verified);
                    self.verified = verified;
                    self.decided = true;
                    unsettled = true;
                }
                Action::Remember(lease) => {
                    self.unsaved = Some(lease);
                    unsettled = true;
                }
                Action::Withdraw(why) => {
                    let address = before.as_ref().map(|lease| lease.address.to_string());
                    let fields = vec![
                        ("link", self.link.name.clone()),
                        ("address", address.unwrap_or_default()),
                        ("reason", report::why(why).to_owned()),
                    ];
                    out.event("net.lost", fields);
                    self.news = None;
                    self.decided = true;
                    unsettled = true;
                }
                Action::Forget => {
                    self.unsaved = None;
                    unsettled = true;
                }
                Action::Note(note) => out.note(&self.link.name, note),
            }
        }
        unsettled
    }

    /// The sockets that the link should have.
    fn wanted(&self) -> Vec<Socket> {
        let v4 = self.client.as_ref().map(Client::sockets);
        let v6 = self.inet6.as_ref();
        let wanted = [
            (v4.is_some_and(|v4| v4.raw), Socket::Packet),
            (v4.is_some_and(|v4| v4.udp), Socket::Udp),
            (v4.is_some_and(|v4| v4.arp), Socket::Arp),
            (v6.is_some_and(Inet6::wants_socket), Socket::Udp6),
        ];
        wanted
            .into_iter()
            .filter_map(|(wanted, socket)| wanted.then_some(socket))
            .collect()
    }

    /// Has the sockets open that are wanted, before what was pushed since `mark`. Those wanted no
    /// more stay until [`Port::close_sockets`].
    fn open_sockets(&mut self, mark: usize, out: &mut Out) {
        for socket in self.wanted() {
            if !self.open.contains(&socket) {
                self.open.push(socket);
                let open = Command::Open {
                    link: self.link.index,
                    name: self.link.name.clone(),
                    socket,
                };
                out.insert(mark, open);
            }
        }
    }

    /// Closes what is wanted no more. Not before everything else is done: closing a packet socket
    /// waits for an RCU grace period, measured at 5 to 23 ms.
    pub fn close_sockets(&mut self, out: &mut Out) {
        let wanted = self.wanted();
        for socket in self.open.clone() {
            if !wanted.contains(&socket) {
                self.close(socket, out);
            }
        }
    }

    fn close(&mut self, socket: Socket, out: &mut Out) {
        if self.open.contains(&socket) {
            self.open.retain(|other| *other != socket);
            let link = self.link.index;
            out.push(Command::Close { link, socket });
        }
    }

    /// A socket could not be opened; that is tried again when the client next does something.
    pub fn lost_socket(&mut self, socket: Socket) {
        self.open.retain(|other| *other != socket);
    }

    /// Tells what there is to tell, now that the kernel's state is as desired.
    pub fn announce(&mut self, desired: &Desired, seen: &Seen, out: &mut Out) {
        if let Some(inet6) = &mut self.inet6 {
            let dns = report::servers(desired);
            inet6.announce(&self.link, &self.config.address, seen, &dns, out);
        }
        let name = self.link.name.clone();
        let lease = self.lease().cloned();
        match self.news {
            // A fixed address says nothing before its link works.
            Some(News::Address) if lease.is_some() || self.link.carrier => {
                let mut fields = report::address_fields(&name, desired, lease.as_ref());
                if lease.is_some() && !self.verified {
                    // Nobody answers; it is the lease from before, in a network known again.
                    fields.push(("verified", "false".to_owned()));
                }
                out.event("net.address", fields);
                let local = self.config.role == Role::Local;
                if let Some(lease) = lease.filter(|_| !local && !desired.has_default_route()) {
                    // RFC 3442: routes without a default one are obeyed, router option or not.
                    let classless = if lease.routes.is_empty() {
                        "absent"
                    } else {
                        "present"
                    };
                    let details = vec![("option_121", classless.to_owned())];
                    out.warning(&name, "no-default-route", details);
                }
                self.news = None;
            }
            Some(News::Renewed) => {
                if let Some(lease) = lease {
                    let fields = vec![
                        ("link", name),
                        ("address", lease.address.to_string()),
                        ("lease_s", report::lease_seconds(&lease)),
                        ("server", lease.server.to_string()),
                    ];
                    out.event("net.renewed", fields);
                }
                self.news = None;
            }
            Some(News::Address) | None => {}
        }
    }

    /// Keeps the lease for the next start, or makes sure that none is kept.
    pub fn save(&mut self, out: &mut Out) {
        let (link, mac) = (self.link.index, self.link.mac);
        if let Some(lease) = self.unsaved.take() {
            self.unsynced = true;
            self.kept = true;
            out.push(Command::SaveLease { link, mac, lease });
        } else if self.kept && self.decided && self.client.is_some() && !self.remembers() {
            self.kept = false;
            out.push(Command::RemoveLease { link, mac });
        }
    }

    /// Makes the kept lease last over a power cut, which may take the disk a while.
    pub fn sync(&mut self, out: &mut Out) {
        if std::mem::take(&mut self.unsynced) {
            let (link, mac) = (self.link.index, self.link.mac);
            out.push(Command::SyncLease { link, mac });
        }
    }

    /// Whether the client still wants to ask for its lease again some day.
    fn remembers(&self) -> bool {
        self.client.as_ref().is_some_and(Client::remembers)
    }
}

/// Whether two leases differ in nothing but their times.
fn same_terms(a: &Lease, b: &Lease) -> bool {
    let plain = |lease: &Lease| Lease {
        times: b.times,
        ack: Vec::new(),
        gateway_mac: None,
        ..lease.clone()
    };
    plain(a) == plain(b)
}
