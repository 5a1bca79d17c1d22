//! One managed link: its client, its sockets, and carrying out what the client wants.

use std::fs;
use std::io;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use super::clock;
use super::files;
use super::netlink::Link;
use super::report::{self, Reporter};
use super::socket::{Raw, Udp};
use crate::config::{Ipv6, LinkConfig};
use crate::desired::Desired;
use crate::dhcp4::client::{Action, Client, Event, Saved, To};
use crate::dhcp4::lease::Lease;
use crate::dhcp4::request::Identity;
use crate::rng::Rng;
use crate::store;

/// What is to be told once the kernel's state is as desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// An address, new or confirmed after a loss of carrier.
    Address,
    /// More time for the same.
    Renewed,
}

/// A link that the configuration covers.
pub struct Port {
    /// As the kernel last described it.
    pub link: Link,
    /// Its entry.
    pub config: LinkConfig,
    /// Whether it has been switched on and set up.
    pub prepared: bool,
    client: Option<Client>,
    raw: Option<Raw>,
    udp: Option<Udp>,
    decided: bool,
    news: Option<News>,
    unsaved: Option<Box<Lease>>,
    unsynced: bool,
}

impl Port {
    /// A port without carrier, as far as its client knows.
    pub fn new(link: Link, config: LinkConfig, seed: u64, saved: Option<Saved>) -> Port {
        let client = config.dhcp4.then(|| {
            let identity = Identity {
                mac: link.mac,
                // Less the IPv4 and UDP headers; one buffer size for jumbo frames, too.
                max_message: u16::try_from(link.mtu.clamp(576, 1500) - 28).unwrap_or(548),
            };
            Client::new(identity, Rng::new(seed), clock::now(), saved)
        });
        Port {
            decided: client.is_none(),
            news: (!config.address.is_empty()).then_some(News::Address),
            link: Link {
                carrier: false,
                ..link
            },
            config,
            prepared: false,
            client,
            raw: None,
            udp: None,
            unsaved: None,
            unsynced: false,
        }
    }

    /// The state this link should have.
    pub fn desired(&self) -> Desired {
        Desired::new(&self.config, self.lease(), self.link.index, self.link.mtu)
    }

    /// Whether this run knows nothing yet of what the link should have.
    pub fn undecided(&self) -> bool {
        !self.decided
    }

    /// When [`Port::step`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        self.client.as_ref().and_then(Client::deadline)
    }

    fn lease(&self) -> Option<&Lease> {
        self.client.as_ref().and_then(Client::applied)
    }

    /// Settings beside addresses: once, when the link is found.
    pub fn prepare(&self, now: Duration, report: &mut Reporter<'_>) {
        let name = &self.link.name;
        // Without this, removing the first of two addresses of a subnet removes both.
        let mut settings = vec![("ipv4", "promote_secondaries", "1")];
        if self.config.ipv6 == Ipv6::Off {
            settings.push(("ipv6", "disable_ipv6", "1"));
        }
        for (family, key, value) in settings {
            if let Err(error) = files::set_link_sysctl(family, name, key, value) {
                let detail = format!("net.{family}.conf.{name}.{key}={value}: {error}");
                report.warning(now, name, "sysctl", &[("detail", detail)]);
            }
        }
    }

    /// Takes over what the kernel says of the link. True when there is something to settle.
    pub fn update(&mut self, link: &Link, report: &mut Reporter<'_>) -> bool {
        let before = std::mem::replace(&mut self.link, link.clone());
        if before.name != link.name {
            // Bound to the name.
            self.udp = None;
        }
        if before.carrier == link.carrier {
            return before != *link;
        }
        report.event("net.link", &self.link_fields());
        let event = if link.carrier {
            Event::CarrierUp
        } else {
            Event::CarrierDown
        };
        self.step(event, report);
        true
    }

    /// The link is gone, and all that was on it.
    pub fn gone(mut self, report: &mut Reporter<'_>) {
        self.link.up = false;
        if std::mem::take(&mut self.link.carrier) {
            report.event("net.link", &self.link_fields());
        }
        if let Some(lease) = self.lease() {
            let fields = [
                ("link", self.link.name.clone()),
                ("address", lease.address.to_string()),
                ("reason", "gone".to_owned()),
            ];
            report.event("net.lost", &fields);
        }
    }

    /// The fields of `net.link`.
    pub fn link_fields(&self) -> [(&'static str, String); 4] {
        let state = if self.link.carrier { "up" } else { "down" };
        [
            ("link", self.link.name.clone()),
            ("state", state.to_owned()),
            ("mac", self.link.mac.to_string()),
            ("mtu", self.link.mtu.to_string()),
        ]
    }

    /// Gives the client an event and does what it says. True when there is something to settle.
    pub fn step(&mut self, event: Event<'_>, report: &mut Reporter<'_>) -> bool {
        let now = clock::now();
        let Some(client) = &mut self.client else {
            return false;
        };
        let extending = matches!(client.phase_name(), "renewing" | "rebinding");
        let before = client.applied().cloned();
        let actions = client.step(now, event);
        self.open_sockets(now, report);
        let mut unsettled = false;
        for action in actions {
            match action {
                Action::Send { to, payload } => self.send(now, to, &payload, report),
                Action::Apply(lease) => {
                    let same = before
                        .as_ref()
                        .is_some_and(|before| same_terms(before, &lease));
                    self.news = Some(match self.news {
                        Some(News::Address) => News::Address,
                        _ if extending && same => News::Renewed,
                        _ => News::Address,
                    });
                    self.unsaved = Some(lease);
                    self.decided = true;
                    unsettled = true;
                }
                Action::Withdraw(why) => {
                    let address = before.as_ref().map(|lease| lease.address.to_string());
                    report.event(
                        "net.lost",
                        &[
                            ("link", self.link.name.clone()),
                            ("address", address.unwrap_or_default()),
                            ("reason", report::why(why).to_owned()),
                        ],
                    );
                    self.news = None;
                    self.decided = true;
                    unsettled = true;
                }
                Action::Forget => {
                    self.unsaved = None;
                    unsettled = true;
                }
                Action::Note(note) => report.note(now, &self.link.name, note),
            }
        }
        unsettled
    }

    /// Has the sockets open that the client wants. Those it wants no more stay until
    /// [`Port::close_sockets`].
    fn open_sockets(&mut self, now: Duration, report: &mut Reporter<'_>) {
        let Some(wanted) = self.client.as_ref().map(Client::sockets) else {
            return;
        };
        let mut failed = None;
        if wanted.raw && self.raw.is_none() {
            match Raw::open(self.link.index) {
                Ok(raw) => self.raw = Some(raw),
                Err(error) => failed = Some(("packet socket", error)),
            }
        }
        if wanted.udp && self.udp.is_none() {
            match Udp::open(&self.link.name) {
                Ok(udp) => self.udp = Some(udp),
                Err(error) => failed = Some(("UDP port 68", error)),
            }
        }
        if let Some((what, error)) = failed {
            let detail = format!("{what}: {error}");
            report.warning(now, &self.link.name, "socket", &[("detail", detail)]);
        }
    }

    /// Closes what the client wants no more. Not before everything else is done: closing a
    /// packet socket waits for an RCU grace period, measured at 5 to 23 ms.
    pub fn close_sockets(&mut self) {
        let wanted = self.client.as_ref().map(Client::sockets);
        if !wanted.is_some_and(|wanted| wanted.raw) {
            self.raw = None;
        }
        if !wanted.is_some_and(|wanted| wanted.udp) {
            self.udp = None;
        }
    }

    /// A message that cannot be sent is a lost message: the client sends again in its time.
    fn send(&self, now: Duration, to: To, payload: &[u8], report: &mut Reporter<'_>) {
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        let sent = match to {
            To::Broadcast => self
                .raw
                .as_ref()
                .ok_or_else(closed)
                .and_then(|raw| raw.send(payload)),
            To::Unicast(_) | To::BroadcastFromLease => {
                let udp = self.udp.as_ref().ok_or_else(closed);
                udp.and_then(|udp| udp.send(to, payload))
            }
        };
        if let Err(error) = sent {
            let detail = format!("{to:?}: {error}");
            report.warning(now, &self.link.name, "send", &[("detail", detail)]);
        }
    }

    /// The next DHCP message from either socket.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        if let Some(raw) = &self.raw
            && let Poll::Ready(received) = raw.poll_receive(cx)
        {
            return Poll::Ready(received);
        }
        match &self.udp {
            Some(udp) => udp.poll_receive(cx),
            None => Poll::Pending,
        }
    }

    /// Tells what there is to tell, now that the kernel's state is as desired.
    pub fn announce(&mut self, desired: &Desired, report: &mut Reporter<'_>) {
        let now = clock::now();
        let name = self.link.name.clone();
        let lease = self.lease().cloned();
        match self.news {
            // A fixed address says nothing before its link works.
            Some(News::Address) if lease.is_some() || self.link.carrier => {
                let fields = report::address_fields(&name, desired, lease.as_ref());
                report.event("net.address", &fields);
                if let Some(lease) = lease.filter(|_| !desired.has_default_route()) {
                    // RFC 3442: routes without a default one are obeyed, router option or not.
                    let classless = if lease.routes.is_empty() {
                        "absent"
                    } else {
                        "present"
                    };
                    let details = [("option_121", classless.to_owned())];
                    report.warning(now, &name, "no-default-route", &details);
                }
                self.news = None;
            }
            Some(News::Renewed) => {
                if let Some(lease) = lease {
                    let fields = [
                        ("link", name),
                        ("address", lease.address.to_string()),
                        ("lease_s", report::lease_seconds(&lease)),
                        ("server", lease.server.to_string()),
                    ];
                    report.event("net.renewed", &fields);
                }
                self.news = None;
            }
            Some(News::Address) | None => {}
        }
    }

    /// Keeps the lease for the next start, or makes sure that none is kept.
    pub fn save(&mut self, state_dir: &Path, report: &mut Reporter<'_>) {
        let path = files::lease_path(state_dir, self.link.mac);
        let result = match self.unsaved.take() {
            Some(lease) => {
                self.unsynced = true;
                files::replace(&path, &store::write(&lease, &clock::clocks()))
            }
            None if self.decided && !self.remembers() => match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
            None => Ok(()),
        };
        self.check_store(&path, result, report);
    }

    /// Makes the kept lease last over a power cut, which may take the disk a while.
    pub fn sync(&mut self, state_dir: &Path, report: &mut Reporter<'_>) {
        if std::mem::take(&mut self.unsynced) {
            let path = files::lease_path(state_dir, self.link.mac);
            let result = files::sync(&path);
            self.check_store(&path, result, report);
        }
    }

    fn check_store(&mut self, path: &Path, result: io::Result<()>, report: &mut Reporter<'_>) {
        if let Err(error) = result {
            self.unsynced = false;
            let detail = format!("{}: {error}", path.display());
            let details = [("detail", detail)];
            report.warning(clock::now(), &self.link.name, "lease-store", &details);
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
        ..lease.clone()
    };
    plain(a) == plain(b)
}
