//! A lease: what an ACK grants, with its times made sane.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::reply::Reply;
use crate::cidr::{Cidr, is_host_address};
use crate::mac::Mac;

/// Leases shorter than this are refused: the traffic to keep one would be a flood, and the
/// address would be gone at the first lost frame.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(10);

/// RFC 2131, section 3.3: this lease time means for ever.
const INFINITE: u32 = u32::MAX;

/// A lease without end is asked for again as one of so many days: it may be the word of a server that is long gone,
/// and nobody else would be heard until the carrier goes. It does not end by that.
const ENDLESS: Duration = Duration::from_secs(2 * 86_400);

/// RFC 791: every host must take datagrams of 576 bytes; a smaller "MTU" is a mistake or an
/// attack. The upper bound is the link's, which the driver knows.
const SMALLEST_MTU: u16 = 576;

/// When a lease was granted, and when what must happen. All instants are time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The lease runs from here: when the request was sent that the server confirmed
    /// (RFC 2131, section 4.4.1), so that we never believe in it longer than the server does.
    pub granted: Duration,
    /// `None` for a lease without end.
    pub end: Option<End>,
}

/// The three instants of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// T1: ask the server for more time.
    pub renew: Duration,
    /// T2: ask any server.
    pub rebind: Duration,
    /// The address is no longer ours.
    pub expire: Duration,
}

impl End {
    /// By the defaults of RFC 2131, section 4.4.5: one half and seven eighths.
    fn of(granted: Duration, whole: Duration) -> End {
        End {
            renew: granted + whole / 2,
            rebind: granted + whole * 7 / 8,
            expire: granted + whole,
        }
    }
}

impl Times {
    /// From the seconds in an ACK. T1 and T2 that are missing or out of order are replaced by the defaults.
    fn new(granted: Duration, lease: u32, t1: Option<u32>, t2: Option<u32>) -> Times {
        if lease == INFINITE {
            return Times { granted, end: None };
        }
        let whole = Duration::from_secs(lease.into());
        let usable = |seconds: Option<u32>| {
            let instant = Duration::from_secs(seconds?.into());
            (!instant.is_zero() && instant < whole).then_some(instant)
        };
        let usual = End::of(granted, whole);
        let renew = usable(t1).map_or(usual.renew, |t1| granted + t1);
        let rebind = usable(t2).map_or(usual.rebind, |t2| granted + t2);
        let end = if renew < rebind {
            End {
                renew,
                rebind,
                ..usual
            }
        } else {
            usual
        };
        Times {
            granted,
            end: Some(end),
        }
    }

    /// When servers are asked again. For a lease without end the last instant is the one from which it is asked for as
    /// after a reboot, beside the search for a server, and kept.
    pub fn questions(&self) -> End {
        self.end.unwrap_or_else(|| End::of(self.granted, ENDLESS))
    }

    /// The same times `by` earlier, for a lease from before this boot: what would lie before the
    /// boot is at the boot.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Times {
        let earlier = |instant: Duration| instant.saturating_sub(by);
        Times {
            granted: earlier(self.granted),
            end: self.end.map(|end| End {
                renew: earlier(end.renew),
                rebind: earlier(end.rebind),
                expire: earlier(end.expire),
            }),
        }
    }

    /// When the address stops being ours, if ever.
    pub fn expire(&self) -> Option<Duration> {
        self.end.map(|end| end.expire)
    }

    /// Whether the lease still runs.
    pub fn is_valid_at(&self, now: Duration) -> bool {
        self.expire().is_none_or(|expire| now < expire)
    }
}

/// A lease as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address and its subnet.
    pub address: Cidr,
    /// Who granted it.
    pub server: Ipv4Addr,
    /// Routers of option 3, best first. None when there are `routes`, which replace them.
    pub routers: Vec<Ipv4Addr>,
    /// Routes of option 121, or else 249 (RFC 3442): destination and router.
    pub routes: Vec<(Cidr, Ipv4Addr)>,
    /// Routes of option 33, their destinations as the classes of old have them. None when there
    /// are `routes`.
    pub static_routes: Vec<(Cidr, Ipv4Addr)>,
    /// DNS servers, best first.
    pub dns: Vec<Ipv4Addr>,
    /// The domain of this network.
    pub domain: Option<String>,
    /// Domains to search names in, best first (option 119).
    pub search: Vec<String>,
    /// The name the server has for us; `None` when it only repeats ours.
    pub hostname: Option<String>,
    /// Time servers, best first.
    pub ntp: Vec<Ipv4Addr>,
    /// Where people must go before this network lets them through (RFC 8910).
    pub captive_portal: Option<String>,
    /// The broadcast address, when the server names one that can be.
    pub broadcast: Option<Ipv4Addr>,
    /// The MTU of this network.
    pub mtu: Option<u16>,
    /// Who answered for the [gateway](Lease::gateway) when this lease was last confirmed; by it
    /// the network is known again. Not of the ACK, but found out on the link.
    pub gateway_mac: Option<Mac>,
    /// Its times.
    pub times: Times,
    /// The ACK itself, to be kept over a restart.
    pub ack: Vec<u8>,
}

/// Why an OFFER or ACK gives no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address cannot belong to a host, or not to one of that subnet.
    #[error("address {0} cannot belong to a host")]
    Address(Cidr),
    /// Option 54 is missing, or cannot belong to a host: there is nobody to renew from.
    #[error("no usable server identifier")]
    NoServer,
    /// Option 51 is missing.
    #[error("no lease time")]
    NoTime,
    /// See [`SHORTEST_LEASE`].
    #[error("lease time of {0} s is too short")]
    TooShort(u32),
    /// It ended before its ACK arrived.
    #[error("lease was over on arrival")]
    Over,
}

impl Lease {
    /// The lease that `reply` grants or offers, running from `granted`.
    pub fn from_reply(reply: &Reply, granted: Duration, ack: &[u8]) -> Result<Lease, Refused> {
        // Exhaustive on purpose: a new field of a reply must find its place here.
        let Reply {
            kind: _,
            xid: _,
            chaddr: _,
            yiaddr,
            server,
            client_id: _,
            mask,
            routers,
            static_routes,
            routes,
            dns,
            domain,
            search,
            hostname,
            mtu,
            broadcast,
            ntp,
            rapid_commit: _,
            ipv6_only_wait: _,
            captive_portal,
            lease_time,
            t1,
            t2,
            message: _,
            malformed: _,
        } = reply;
        let address = mask
            .and_then(|mask| Cidr::from_mask(*yiaddr, mask))
            .filter(|address| address.prefix() > 0)
            .unwrap_or_else(|| classful(*yiaddr));
        if !address.is_usable_by_a_host() {
            return Err(Refused::Address(address));
        }
        let lease_time = lease_time.ok_or(Refused::NoTime)?;
        if Duration::from_secs(lease_time.into()) < SHORTEST_LEASE {
            return Err(Refused::TooShort(lease_time));
        }
        // RFC 3442: with classless routes neither routers nor the routes of old count.
        let (routers, static_routes) = if routes.is_empty() {
            (routers.clone(), classful_routes(static_routes))
        } else {
            (Vec::new(), Vec::new())
        };
        let is_broadcast =
            |b: &Ipv4Addr| b.is_broadcast() || (address.contains(*b) && *b != address.address());
        Ok(Lease {
            address,
            server: server
                .filter(|server| is_host_address(*server))
                .ok_or(Refused::NoServer)?,
            routers,
            routes: routes.clone(),
            static_routes,
            dns: dns.clone(),
            domain: domain.clone(),
            search: search.clone(),
            hostname: hostname.clone(),
            ntp: ntp.clone(),
            captive_portal: captive_portal.clone(),
            broadcast: broadcast.filter(is_broadcast),
            gateway_mac: None,
            mtu: mtu.filter(|mtu| *mtu >= SMALLEST_MTU),
            times: Times::new(granted, lease_time, *t1, *t2),
            ack: ack.to_vec(),
        })
    }

    /// The router to everywhere: the one of the classless default route, or the first router.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let default = self.routes.iter().filter(|(to, _)| to.prefix() == 0);
        let routers = self.routers.iter().copied();
        default
            .map(|(_, via)| *via)
            .chain(routers)
            .find(|via| is_host_address(*via) && *via != self.address.address())
    }

    /// The lease time as granted, in seconds; `None` for ever.
    pub fn seconds(&self) -> Option<u64> {
        let end = self.times.end?;
        Some((end.expire - self.times.granted).as_secs())
    }
}

/// RFC 2132, section 5.8: pairs of destination and router. Their destinations have no mask: an
/// address with a host part is a host, one without is the network of its class. 0.0.0.0 is not
/// allowed.
fn classful_routes(pairs: &[(Ipv4Addr, Ipv4Addr)]) -> Vec<(Cidr, Ipv4Addr)> {
    let network = |to: Ipv4Addr| match classful(to) {
        net if net.network() == net => net,
        _ => Cidr::host(to),
    };
    pairs
        .iter()
        .filter(|(to, _)| !to.is_unspecified())
        .map(|(to, via)| (network(*to), *via))
        .collect()
}

/// The prefix of an address whose mask is missing or broken: the class of RFC 791, which is what
/// servers that leave option 1 out assume.
fn classful(address: Ipv4Addr) -> Cidr {
    let prefix = match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        224..=255 => 32,
    };
    Cidr::new(address, prefix).unwrap_or_else(|| Cidr::host(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn good_times_are_kept_and_bad_ones_derived_again() {
        let end = |lease, t1, t2| {
            let end = Times::new(s(100), lease, t1, t2).end.expect("ends");
            (
                (end.renew - s(100)).as_secs_f64(),
                (end.rebind - s(100)).as_secs_f64(),
                (end.expire - s(100)).as_secs_f64(),
            )
        };
        assert_eq!(end(3600, Some(600), Some(1200)), (600.0, 1200.0, 3600.0));
        assert_eq!(end(3600, None, None), (1800.0, 3150.0, 3600.0));
        assert_eq!(end(3600, Some(600), None), (600.0, 3150.0, 3600.0));
        for t2 in [0, 3600, u32::MAX] {
            assert_eq!(
                end(3600, Some(600), Some(t2)),
                (600.0, 3150.0, 3600.0),
                "{t2}"
            );
        }
        for (t1, t2) in [
            (0, 0),
            (1200, 600),
            (3600, 3600),
            (2400, 1800),
            (7200, 7300),
            (3500, 0),
        ] {
            assert_eq!(
                end(3600, Some(t1), Some(t2)),
                (1800.0, 3150.0, 3600.0),
                "{t1} {t2}"
            );
        }
        assert_eq!(end(3600, None, Some(60)), (1800.0, 3150.0, 3600.0));
        assert_eq!(end(3600, Some(3500), None), (1800.0, 3150.0, 3600.0));
    }

    #[test]
    fn routes_without_a_mask_go_by_class() {
        let via = Ipv4Addr::new(10, 0, 0, 1);
        let routes = |to: [u8; 4]| classful_routes(&[(to.into(), via)]);
        let one = |text: &str| vec![(text.parse().expect(text), via)];
        assert_eq!(routes([10, 0, 0, 0]), one("10.0.0.0/8"));
        assert_eq!(routes([172, 16, 0, 0]), one("172.16.0.0/16"));
        assert_eq!(routes([192, 0, 2, 0]), one("192.0.2.0/24"));
        assert_eq!(routes([192, 0, 2, 9]), one("192.0.2.9/32"));
        assert_eq!(routes([0, 0, 0, 0]), []);
    }

    #[test]
    fn only_the_largest_lease_time_is_for_ever() {
        let endless = Times::new(s(1), u32::MAX, Some(1), Some(2));
        assert_eq!(endless.end, None);
        assert_eq!(endless.questions().renew, s(86_401));
        let almost = Times::new(s(1), u32::MAX - 1, None, None);
        assert_eq!(almost.expire(), Some(s(u64::from(u32::MAX))));
        assert!(almost.is_valid_at(s(u64::from(u32::MAX) - 1)));
        assert!(!almost.is_valid_at(s(u64::from(u32::MAX))));
    }
}
