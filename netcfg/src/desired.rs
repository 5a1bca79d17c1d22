//! From configuration and what was learnt to the state one link should have.
//!
//! Pure, and total: for every lease, however strange, there is exactly one state, and it holds
//! nothing that would send traffic to ourselves, to a multicast group or to nowhere.
//!
//! What the kernel does by itself from router advertisements (addresses, the default route of
//! IPv6) is not in here: it carries the kernel's mark, and is left alone as all that is foreign.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cidr::{Cidr, is_host_address};
use crate::config::{ClasslessRoutes, LinkConfig, Role};
use crate::dhcp4::lease::Lease;
use crate::dhcp6::lease::Lease6;
use crate::link::Link;
use crate::ra::Facts;

/// An address with the time it stays valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Address and prefix.
    pub net: IpNet,
    /// Until when it is used for new connections; `None` for ever.
    pub preferred: Option<Duration>,
    /// When the kernel removes it by itself, should we not be there; `None` for never.
    pub until: Option<Duration>,
    /// The broadcast address, if it is not the last one of the prefix.
    pub broadcast: Option<Ipv4Addr>,
}

/// A route of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// Over which router; `None` when the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// The router is on the link although no prefix says so (GCP, Hetzner, OVH).
    pub onlink: bool,
    /// The source address, and with it the life of the route: it goes when the address goes. None
    /// with IPv6, where the kernel refuses one whose duplicate detection still runs.
    pub source: Option<IpAddr>,
    /// Priority; less is better.
    pub metric: u32,
    /// Largest packet on this route, where it is less than what the link can do. On the route
    /// and not on the link: setting a link's MTU resets some cards, which loses the carrier,
    /// which loses the lease, which sets the MTU back...
    pub mtu: Option<u32>,
}

/// Everything that one link should have. Order is priority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes: on-link first, since gateways may depend on them; the default route last.
    pub routes: Vec<Route>,
    /// DNS servers.
    pub dns: Vec<NameServer>,
    /// Search domains.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
}

/// What was learnt about a link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Learnt<'a> {
    /// The lease of DHCPv4 that is in force.
    pub lease: Option<&'a Lease>,
    /// The lease of DHCPv6 that is in force.
    pub lease6: Option<&'a Lease6>,
    /// What routers said.
    pub facts: Option<&'a Facts>,
}

/// A DNS server. One of a link-local address is of no use without its link (RFC 4007, section 11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// Its link, where that matters.
    pub link: Option<String>,
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NameServer { address, link } = self;
        match link {
            Some(link) => write!(f, "{address}%{link}"),
            None => write!(f, "{address}"),
        }
    }
}

/// Everything, in IPv4.
const DEFAULT_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

/// Route metric of a link for which none is configured: all links differ.
const DEFAULT_METRIC: u32 = 1000;

/// What the kernel makes of a larger MTU of a route (`ip_metrics_convert` of net/ipv4/metrics.c).
const LARGEST_ROUTE_MTU: u32 = 65_535 - 15;

/// The priority of the routes of a link.
pub fn metric(config: &LinkConfig, index: u32) -> u32 {
    config
        .metric
        .unwrap_or_else(|| DEFAULT_METRIC.saturating_add(index))
}

/// Whether a host can have this address in this prefix.
pub fn is_host(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => {
            Cidr::new(net.addr(), net.prefix_len()).is_some_and(Cidr::is_usable_by_a_host)
        }
        IpNet::V6(net) => is_host_v6(net),
    }
}

/// RFC 4291: not the unspecified address, loopback, multicast, or one that holds an IPv4 address.
fn is_host_v6(net: &Ipv6Net) -> bool {
    let address = net.addr();
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.to_ipv4_mapped().is_some())
}

/// Whether traffic to this network can leave the machine: not loopback, multicast or reserved.
pub fn is_destination(to: &IpNet) -> bool {
    match to {
        IpNet::V4(net) => net.prefix_len() == 0 || is_host_address(net.network()),
        IpNet::V6(net) => {
            let address = net.network();
            net.prefix_len() == 0 || !(address.is_loopback() || address.is_multicast())
        }
    }
}

impl Desired {
    /// The state of `link`.
    pub fn new(config: &LinkConfig, learnt: Learnt<'_>, link: &Link) -> Desired {
        let metric = metric(config, link.index);
        let mut desired = Desired::default();
        let uplink = config.role == Role::Uplink;
        if uplink {
            let fixed = config.dns.iter().map(|dns| name_server(*dns, link));
            desired.dns.extend(fixed);
            desired.search.clone_from(&config.search);
        }
        for net in &config.address {
            desired.address(*net, [None, None], metric, None);
        }
        let lease = learnt.lease.filter(|_| config.dhcp4);
        desired.fixed_routes(config, lease, metric);
        if let Some(lease) = lease {
            desired.lease(lease, config, metric, link);
        }
        if let Some(lease) = learnt.lease6 {
            for address in &lease.addresses {
                let net = IpNet::from(IpAddr::V6(address.address));
                desired.address(net, [address.preferred, address.valid], metric, None);
            }
        }
        if uplink {
            desired.learnt_v6(learnt, link);
        }
        if !uplink {
            desired.routes.retain(|route| route.to.prefix_len() > 0);
        }
        // Links before gateways, long prefixes before short: each route finds its router.
        desired
            .routes
            .sort_by_key(|route| (route.via.is_some(), 128 - route.to.prefix_len(), *route));
        desired
    }

    /// The gateways and routes of the configuration. They win over those of a lease.
    fn fixed_routes(&mut self, config: &LinkConfig, lease: Option<&Lease>, metric: u32) {
        let gateways = config.gateway.iter().map(|via| {
            let all = match via {
                IpAddr::V4(_) => DEFAULT_V4,
                IpAddr::V6(_) => Ipv6Net::default().into(),
            };
            (all, Some(*via))
        });
        let routes = config.route.iter().map(|route| (route.to, route.via));
        let leased = lease.map(|lease| IpNet::from(lease.address));
        for (to, via) in gateways.chain(routes) {
            let own = config.address.iter().copied().chain(leased);
            let same: Vec<IpNet> = own
                .filter(|own| own.addr().is_ipv4() == to.addr().is_ipv4())
                .collect();
            let covering = via.and_then(|via| same.iter().find(|own| own.contains(&via)));
            let source = covering.or_else(|| same.first()).map(IpNet::addr);
            if to.addr().is_ipv4() && source.is_none() {
                // No address yet to send from.
                continue;
            }
            let link_local = matches!(via, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
            self.put(Route {
                to,
                via,
                onlink: via.is_some() && covering.is_none() && !link_local,
                source: source.filter(IpAddr::is_ipv4),
                metric,
                mtu: None,
            });
        }
    }

    /// The servers of DHCPv6 and of the routers.
    fn learnt_v6(&mut self, learnt: Learnt<'_>, link: &Link) {
        if let Some(lease) = learnt.lease6 {
            for dns in &lease.dns {
                self.server(IpAddr::V6(*dns), link);
            }
            self.search.extend(lease.search.iter().cloned());
            self.ntp
                .extend(lease.ntp.iter().map(|ntp| IpAddr::V6(*ntp)));
        }
        if let Some(facts) = learnt.facts {
            for dns in facts.dns() {
                self.server(IpAddr::V6(dns), link);
            }
            self.search.extend(facts.search());
        }
    }

    fn lease(&mut self, lease: &Lease, config: &LinkConfig, metric: u32, link: &Link) {
        let mtu = lease.mtu.map(|mtu| u32::from(mtu).min(LARGEST_ROUTE_MTU));
        let mtu = mtu.filter(|mtu| *mtu < link.mtu);
        let own = lease.address;
        let there = |a: &Address| a.net.addr() == IpAddr::V4(own.address());
        if !self.addresses.iter().any(there) {
            let until = lease.times.expire();
            self.address(own.into(), [until, until], metric, mtu);
            if let Some(address) = self.addresses.last_mut() {
                address.broadcast = lease.broadcast;
            }
        }
        if lease.routes.is_empty() {
            // RFC 2132, section 3.5: in order of preference; we use the first that makes sense.
            let usable =
                |router: &&Ipv4Addr| is_host_address(**router) && **router != own.address();
            if let Some(router) = lease.routers.iter().find(usable) {
                self.route(Cidr::DEFAULT, *router, own, metric, mtu);
            }
            let mut routes = lease.static_routes.clone();
            routes.sort();
            for (to, via) in &routes {
                self.route(*to, *via, own, metric, mtu);
            }
        } else {
            // RFC 3442: with this option the routers of option 3 do not count, default or not.
            let mut routes = lease.routes.clone();
            // Whatever order the server gives them in: the same routes.
            routes.sort();
            for (to, via) in &routes {
                let private = to.prefix() == 0 || is_private(*to);
                if config.dhcp.classless_routes == ClasslessRoutes::All || private {
                    self.route(*to, *via, own, metric, mtu);
                }
            }
        }
        if config.role == Role::Local {
            return;
        }
        for dns in &lease.dns {
            self.server(IpAddr::V4(*dns), link);
        }
        // RFC 3397, section 4: the list is what is searched; the domain is where we are.
        self.search.extend(lease.search.iter().cloned());
        if lease.search.is_empty() {
            self.search.extend(lease.domain.clone());
        }
        self.ntp
            .extend(lease.ntp.iter().map(|ntp| IpAddr::V4(*ntp)));
    }

    /// A DNS server that was learnt.
    fn server(&mut self, dns: IpAddr, link: &Link) {
        // A resolver on the machine itself is a setting for it, not for its network.
        let elsewhere = match dns {
            IpAddr::V4(v4) => is_host_address(v4),
            IpAddr::V6(v6) => is_host_v6(&v6.into()),
        };
        let dns = name_server(dns, link);
        if elsewhere && !self.dns.contains(&dns) {
            self.dns.push(dns);
        }
    }

    fn address(
        &mut self,
        net: IpNet,
        [preferred, until]: [Option<Duration>; 2],
        metric: u32,
        mtu: Option<u32>,
    ) {
        self.addresses.push(Address {
            net,
            preferred,
            until,
            broadcast: None,
        });
        // The route to the subnet is ours and not the kernel's, so that it has metric and MTU.
        if net.prefix_len() < net.max_prefix_len() {
            self.put(Route {
                to: net.trunc(),
                via: None,
                onlink: false,
                source: net.addr().is_ipv4().then(|| net.addr()),
                metric,
                mtu,
            });
        }
    }

    /// Adds a route unless its destination or router cannot be meant.
    fn route(&mut self, to: Cidr, via: Ipv4Addr, own: Cidr, metric: u32, mtu: Option<u32>) {
        let to = IpNet::from(to.network());
        // RFC 3442: router 0.0.0.0 means that the destination is on the link.
        let on_link = via.is_unspecified();
        if !is_destination(&to)
            || to == IpNet::from(Cidr::host(own.address()))
            || !(on_link || (is_host_address(via) && via != own.address()))
        {
            return;
        }
        let in_subnet = own.prefix() < 32 && own.contains(via);
        self.put(Route {
            to,
            via: (!on_link).then_some(IpAddr::V4(via)),
            onlink: !on_link && !in_subnet,
            source: Some(IpAddr::V4(own.address())),
            metric,
            mtu,
        });
    }

    /// The first route to a destination counts.
    fn put(&mut self, route: Route) {
        if self.routes.iter().all(|other| other.to != route.to) {
            self.routes.push(route);
        }
    }

    /// Its place among the links: less comes first.
    pub fn rank(&self) -> Option<u32> {
        self.routes.iter().map(|route| route.metric).min()
    }

    /// The router of the default route, if there is one; that of IPv4 first.
    pub fn gateway(&self) -> Option<IpAddr> {
        let defaults = || {
            self.routes
                .iter()
                .filter(|route| route.to.prefix_len() == 0)
        };
        let v4 = defaults().find(|route| route.to.addr().is_ipv4());
        v4.or_else(|| defaults().next()).and_then(|route| route.via)
    }

    /// Whether traffic to everywhere in IPv4 leaves by this link.
    pub fn has_default_route(&self) -> bool {
        self.routes.iter().any(|route| route.to == DEFAULT_V4)
    }
}

fn name_server(address: IpAddr, link: &Link) -> NameServer {
    let near = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    NameServer {
        address,
        link: near.then(|| link.name.clone()),
    }
}

/// RFC 1918.
fn is_private(to: Cidr) -> bool {
    let address = to.network().address();
    match address.octets() {
        [10, ..] => to.prefix() >= 8,
        [172, 16..=31, ..] => to.prefix() >= 12,
        [192, 168, ..] => to.prefix() >= 16,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
