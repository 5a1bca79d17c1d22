//! The driver: kernel events in, system calls out. Every decision is the core's.
//!
//! One loop on one thread. It looks at the links when they changed, gives each client what
//! happened, and *settles*: compares what the links should have with what they have, applies
//! the difference, and looks again until there is none. Only then are `resolv.conf` written and
//! the event told, in this order, so that whoever reads the event finds everything in place (or
//! has read a warning before). What is slow and nobody waits for comes last.

mod clock;
mod files;
mod netlink;
mod port;
mod report;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use self::clock::Timer;
use self::netlink::{Change, Link, Netlink};
use self::port::Port;
use self::report::Reporter;
use crate::desired::Desired;
use crate::dhcp4::client::{Event, Saved};
use crate::dhcp4::pace::{self, Budget};
use crate::reconcile::{self, Intent, Op};
use crate::rng::Rng;
use crate::{Error, Options, Outlet, dns, store};

/// Rounds of compare and apply at a time. One does it; a second may follow when the kernel took
/// more away than was asked for.
const ROUNDS: u32 = 4;
/// DHCP messages taken from one link before the others have their turn.
const FAIR: usize = 16;

/// Runs until something that cannot be helped from here happens.
pub fn run(options: Options, outlet: &mut dyn Outlet) -> Result<Infallible, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let mut driver = Driver {
            netlink: Netlink::open().map_err(Error::Netlink)?,
            timer: Timer::new().map_err(Error::Timer)?,
            ports: BTreeMap::new(),
            rng: Rng::new(rand_seed()),
            report: Reporter::new(outlet),
            look: true,
            unsettled: true,
            blocked: false,
            failures: 0,
            retry: None,
            budget: Budget::new(clock::now()),
            resolv_conf: None,
            options,
        };
        driver.run().await
    })
}

/// Differs from machine to machine and from start to start; see [`Rng`] for why that is enough.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library seeds its hash maps from the kernel.
    RandomState::new().hash_one(clock::now())
}

struct Driver<'a> {
    options: Options,
    netlink: Netlink,
    timer: Timer,
    ports: BTreeMap<u32, Port>,
    rng: Rng,
    report: Reporter<'a>,
    /// Links or addresses may have changed.
    look: bool,
    /// What is and what should be may differ.
    unsettled: bool,
    /// A route of ours waits for its place.
    blocked: bool,
    /// Failures in a row, and when to try again.
    failures: u32,
    retry: Option<Duration>,
    /// Against somebody who undoes what we do as fast as we do it.
    budget: Budget,
    /// What `resolv.conf` holds, once known.
    resolv_conf: Option<String>,
}

/// What woke the driver.
enum Input {
    Timer,
    Change(Change),
    Payload(u32, Vec<u8>),
    Broken(u32, io::Error),
}

impl Driver<'_> {
    async fn run(&mut self) -> Result<Infallible, Error> {
        loop {
            let now = clock::now();
            if self.retry.is_some_and(|retry| now >= retry) {
                self.retry = None;
                self.look = true;
                self.unsettled = true;
            }
            if std::mem::take(&mut self.look) {
                self.look().await;
            }
            for port in self.ports.values_mut() {
                if port
                    .deadline()
                    .is_some_and(|deadline| clock::now() >= deadline)
                {
                    self.unsettled |= port.step(Event::Timer, &mut self.report);
                }
            }
            if self.unsettled && self.retry.is_none() {
                self.settle().await;
            }
            for input in self.wait().await? {
                self.take(input)?;
            }
        }
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        match input {
            Input::Timer | Input::Change(Change::Nothing) => {}
            Input::Change(Change::Look) => {
                self.look = true;
                self.unsettled = true;
            }
            Input::Change(Change::RouteGone { ours }) => self.unsettled |= ours || self.blocked,
            Input::Change(Change::Closed) => return Err(Error::NetlinkClosed),
            Input::Payload(link, payload) => {
                if let Some(port) = self.ports.get_mut(&link) {
                    self.unsettled |= port.step(Event::Payload(&payload), &mut self.report);
                }
            }
            // A socket says this once when its link is switched off, and works again after.
            Input::Broken(_, error) if error.kind() == io::ErrorKind::NetworkDown => {}
            Input::Broken(link, error) => {
                if let Some(port) = self.ports.get(&link) {
                    let details = [("detail", error.to_string())];
                    let name = port.link.name.clone();
                    self.report
                        .warning(clock::now(), &name, "receive", &details);
                }
            }
        }
        Ok(())
    }

    /// Sleeps until something happens, and gives all of it.
    async fn wait(&mut self) -> Result<Vec<Input>, Error> {
        let clients = self.ports.values().filter_map(Port::deadline);
        let mut deadline = clients.chain(self.retry).min();
        if self.look || (self.unsettled && self.retry.is_none()) {
            deadline = Some(Duration::ZERO);
        }
        self.timer.set(deadline).map_err(Error::Timer)?;
        poll_fn(|cx| self.poll_inputs(cx))
            .await
            .map_err(Error::Timer)
    }

    fn poll_inputs(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<Input>>> {
        let mut inputs = Vec::new();
        while let Poll::Ready(change) = self.netlink.poll_change(cx) {
            inputs.push(Input::Change(change));
            if change == Change::Closed {
                break;
            }
        }
        for (index, port) in &self.ports {
            for _ in 0..FAIR {
                match port.poll_receive(cx) {
                    Poll::Ready(Ok(Some(payload))) => inputs.push(Input::Payload(*index, payload)),
                    Poll::Ready(Ok(None)) => {}
                    Poll::Ready(Err(error)) => {
                        inputs.push(Input::Broken(*index, error));
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        if let Poll::Ready(fired) = self.timer.poll(cx) {
            fired?;
            inputs.push(Input::Timer);
        }
        if inputs.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(inputs))
    }

    /// Compares the links with the ports: new ones, gone ones, carriers.
    async fn look(&mut self) {
        let links = match self.netlink.links().await {
            Ok(links) => links,
            Err(error) => return self.failed("", "netlink", &error.to_string()),
        };
        let gone = |index: &u32, port: &Port| {
            // A number with another address is another card.
            let same = |link: &&Link| link.index == *index && link.mac == port.link.mac;
            !links.iter().any(|link| same(&link))
        };
        let lost: Vec<u32> = self
            .ports
            .iter()
            .filter(|(index, port)| gone(index, port))
            .map(|(index, _)| *index)
            .collect();
        for index in lost {
            if let Some(port) = self.ports.remove(&index) {
                port.gone(&mut self.report);
                self.unsettled = true;
            }
        }
        for link in links {
            if !self.ports.contains_key(&link.index) {
                let Some(config) = self
                    .options
                    .config
                    .entry(&link.name, link.mac, link.is_virtual)
                else {
                    continue;
                };
                let config = config.clone();
                let saved = self.saved(&link).await;
                let port = Port::new(link.clone(), config, self.rng.next_u64(), saved);
                if !link.carrier {
                    self.report.event("net.link", &port.link_fields());
                }
                self.ports.insert(link.index, port);
            }
            if let Some(port) = self.ports.get_mut(&link.index) {
                self.unsettled |= port.update(&link, &mut self.report);
            }
            self.prepare(&link).await;
        }
    }

    /// Switches a link on, once; who switches it off afterwards has a reason.
    async fn prepare(&mut self, link: &Link) {
        let Some(port) = self
            .ports
            .get_mut(&link.index)
            .filter(|port| !port.prepared)
        else {
            return;
        };
        let mtu = port.config.mtu.filter(|mtu| *mtu != link.mtu);
        if (!link.up || mtu.is_some())
            && let Err(error) = self.netlink.bring_up(link.index, mtu).await
        {
            return self.failed(&link.name, "link-up", &error.to_string());
        }
        port.prepare(clock::now(), &mut self.report);
        port.prepared = true;
    }

    /// The lease kept for this card, if there is a good one.
    async fn saved(&self, link: &Link) -> Option<Saved> {
        let path = files::lease_path(&self.options.state_dir, link.mac);
        let text = files::read_small(&path)?;
        let clocks = clock::clocks();
        let mut saved = store::read(&text, link.mac, &clocks)?;
        if saved.applied {
            // Of this boot; but is it still there?
            let seen = self.netlink.seen(clocks.since_boot).await.ok();
            saved.applied = seen.is_some_and(|seen| {
                seen.addresses
                    .iter()
                    .any(|seen| seen.link == link.index && seen.address.cidr == saved.lease.address)
            });
        }
        Some(saved)
    }

    /// Makes the kernel's state what it should be, then tells.
    async fn settle(&mut self) {
        let wanted: Vec<(u32, Desired, bool)> = self
            .ports
            .values()
            .filter(|port| port.link.up)
            .map(|port| (port.link.index, port.desired(), port.undecided()))
            .collect();
        let intents: Vec<Intent<'_>> = wanted
            .iter()
            .map(|(link, desired, undecided)| Intent {
                link: *link,
                desired,
                undecided: *undecided,
            })
            .collect();
        let mut broken = BTreeSet::new();
        let settled = self.apply(&intents, &mut broken).await;
        let written = self.write_resolv_conf(&wanted);
        for port in self.ports.values_mut() {
            port.save(&self.options.state_dir, &mut self.report);
        }
        for (link, desired, _) in &wanted {
            if let Some(port) = self
                .ports
                .get_mut(link)
                .filter(|_| settled && !broken.contains(link))
            {
                port.announce(desired, &mut self.report);
            }
        }
        // Nobody waits for these any more.
        for port in self.ports.values_mut() {
            port.close_sockets();
            port.sync(&self.options.state_dir, &mut self.report);
        }
        if settled && written && broken.is_empty() {
            self.unsettled = false;
            self.failures = 0;
        } else if self.retry.is_none() {
            self.failed_again();
        }
    }

    /// Compares and applies until nothing differs. `broken` gets the links on which something
    /// could not be done. False when what is there is not known.
    async fn apply(&mut self, intents: &[Intent<'_>], broken: &mut BTreeSet<u32>) -> bool {
        for _ in 0..ROUNDS {
            let seen = match self.netlink.seen(clock::now()).await {
                Ok(seen) => seen,
                Err(error) => {
                    self.failed("", "netlink", &error.to_string());
                    return false;
                }
            };
            let plan = reconcile::plan(intents, &seen);
            self.blocked = !plan.conflicts.is_empty();
            for (link, route) in &plan.conflicts {
                let details = [
                    ("route", route.to.to_string()),
                    ("metric", route.metric.to_string()),
                ];
                let name = self.name(*link);
                self.report
                    .warning(clock::now(), &name, "route-taken", &details);
            }
            if plan.ops.is_empty() {
                return true;
            }
            if !self.budget.take(clock::now()) {
                self.failed(
                    "",
                    "contested",
                    "addresses or routes change as fast as they are set",
                );
                return false;
            }
            for op in plan.ops {
                let (Op::SetAddress(link, _)
                | Op::SetRoute(link, _)
                | Op::RemoveRoute(link, _)
                | Op::RemoveAddress(link, _)) = op;
                if let Err(error) = self.netlink.apply(op, clock::now()).await {
                    broken.insert(link);
                    let name = self.name(link);
                    self.failed(&name, "netlink", &format!("{op:?}: {error}"));
                }
            }
            if !broken.is_empty() {
                // The rest may be fine; what is not is tried again later.
                return true;
            }
        }
        false
    }

    /// Writes the servers of all links, those of the best metric first. False when that failed.
    fn write_resolv_conf(&mut self, wanted: &[(u32, Desired, bool)]) -> bool {
        let path = self.options.runtime_dir.join("resolv.conf");
        let mut ranked: Vec<&Desired> = wanted.iter().map(|(_, desired, _)| desired).collect();
        ranked.sort_by_key(|desired| desired.routes.iter().map(|route| route.metric).min());
        let servers = ranked.iter().flat_map(|desired| &desired.dns);
        let domains = ranked.iter().flat_map(|desired| &desired.domains);
        let text = dns::resolv_conf(servers, domains);
        let present = self.resolv_conf.take().or_else(|| files::read_small(&path));
        // What an earlier run wrote stands until this one knows better.
        let knows_nothing = wanted.iter().all(|(_, desired, _)| desired.dns.is_empty())
            && self.ports.values().any(Port::undecided);
        let keep = present
            .as_ref()
            .is_some_and(|present| *present == text || knows_nothing);
        if keep {
            self.resolv_conf = present;
            return true;
        }
        match files::replace(&path, &text) {
            Ok(()) => {
                self.resolv_conf = Some(text);
                true
            }
            Err(error) => {
                let detail = format!("{}: {error}", path.display());
                self.failed("", "resolv-conf", &detail);
                false
            }
        }
    }

    fn name(&self, link: u32) -> String {
        let port = self.ports.get(&link);
        port.map_or_else(|| link.to_string(), |port| port.link.name.clone())
    }

    /// Tells of a failure and plans another try.
    fn failed(&mut self, link: &str, reason: &'static str, detail: &str) {
        let details = [("detail", detail.to_owned())];
        self.report.warning(clock::now(), link, reason, &details);
        self.failed_again();
    }

    fn failed_again(&mut self) {
        if self.retry.is_none() {
            let wait = pace::retry(self.failures, &mut self.rng);
            self.retry = Some(clock::now() + wait);
            self.failures = self.failures.saturating_add(1);
        }
    }
}
