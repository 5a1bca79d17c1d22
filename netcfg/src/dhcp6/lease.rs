//! A lease: what a REPLY grants or tells, with its times made sane.
//!
//! A lease may have more than one address, each with its own two lifetimes: a server that moves us to
//! another prefix leaves the old address for a while beside the new one. A lease without any
//! address is what the answer to an INFORMATION-REQUEST is.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::hosts;
use super::reply::{Association, Code, Granted, Reply};
use crate::dhcp4::lease::SHORTEST_LEASE;

/// RFC 8415, section 7.7: this time means for ever.
const INFINITE: u32 = u32::MAX;
/// T1 is not sooner than this: a server that asked us to come back every second would have us
/// spend our [budget](crate::dhcp4::pace::Budget) on renewals. The shortest lease halved.
const SOONEST_RENEWAL: Duration = Duration::from_secs(5);
/// Addresses that a lease has at most.
const MAX_ADDRESSES: usize = 4;
/// `IRT_DEFAULT` and `IRT_MINIMUM` (RFC 8415, section 7.6), in seconds. Longer than the former is not waited, though a
/// server may say that it need never be asked again: whoever answered once, and is gone, would be believed for ever.
const REFRESH: u32 = 86_400;
/// An address without end is asked for again as one of so many seconds, for the same reason. It does not end by that.
const ENDLESS: u32 = 2 * REFRESH;
const SOONEST_REFRESH: u32 = 600;

/// An address of a lease. It is for this host alone: its prefix length is 128, and what is on the
/// link is said by Router Advertisements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address6 {
    /// The address.
    pub address: Ipv6Addr,
    /// From this time since boot on it is not used for new connections. `None`: never.
    pub preferred: Option<Duration>,
    /// From this time since boot on it is not ours. `None`: never.
    pub valid: Option<Duration>,
}

impl Address6 {
    /// Whether it is still ours.
    pub fn is_valid_at(&self, now: Duration) -> bool {
        self.valid.is_none_or(|valid| now < valid)
    }
}

/// When a lease was granted, and when to ask again. All instants are time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The lease runs from here: when the message was sent that the server answered, so that
    /// we never believe in it longer than the server does.
    pub granted: Duration,
    /// T1: ask the server for more time; or, of a lease without addresses, ask for it anew.
    pub renew: Option<Duration>,
    /// T2: ask any server.
    pub rebind: Option<Duration>,
}

/// A lease as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease6 {
    /// Our addresses; none if only information was asked for.
    pub addresses: Vec<Address6>,
    /// The DUID of who granted it.
    pub server: Vec<u8>,
    /// DNS servers, best first. One that is link-local is of this link.
    pub dns: Vec<Ipv6Addr>,
    /// Search domains, best first.
    pub search: Vec<String>,
    /// NTP servers, best first.
    pub ntp: Vec<Ipv6Addr>,
    /// Its times.
    pub times: Times,
}

/// Why an ADVERTISE or REPLY gives no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Option 2 is missing.
    #[error("no server identifier")]
    NoServer,
    /// The server says why it gives none.
    #[error("the server says {0:?}")]
    Status(Code),
    /// There is no association of ours in it, or one whose T1 is after its T2, which is
    /// as good as none (RFC 8415, section 21.4).
    #[error("no association")]
    NoAssociation,
    /// There is no address in it that a host could use.
    #[error("no usable address")]
    NoAddress,
    /// See [`SHORTEST_LEASE`].
    #[error("valid lifetime of {0} s is too short")]
    TooShort(u32),
    /// It ended before its REPLY arrived.
    #[error("lease was over on arrival")]
    Over,
}

impl Lease6 {
    /// The lease that `reply` grants or offers to association `iaid`, running from `granted`.
    pub fn from_reply(
        reply: &Reply,
        iaid: u32,
        granted: Duration,
        now: Duration,
    ) -> Result<Lease6, Refused> {
        let server = reply.server.clone().ok_or(Refused::NoServer)?;
        if reply.status.code != Code::Success {
            return Err(Refused::Status(reply.status.code));
        }
        let association = reply.association(iaid).ok_or(Refused::NoAssociation)?;
        if association.status.code != Code::Success {
            return Err(Refused::Status(association.status.code));
        }
        if association.t2 > 0 && association.t1 > association.t2 {
            return Err(Refused::NoAssociation);
        }
        let mut usable: Vec<&Granted> = Vec::new();
        for granted in &association.addresses {
            if is_usable(granted) && usable.iter().all(|used| used.address != granted.address) {
                usable.push(granted);
            }
        }
        usable.truncate(MAX_ADDRESSES);
        let longest = usable.iter().map(|granted| granted.valid).max();
        let longest = longest.ok_or(Refused::NoAddress)?;
        usable.retain(|granted| Duration::from_secs(granted.valid.into()) >= SHORTEST_LEASE);
        if usable.is_empty() {
            return Err(Refused::TooShort(longest));
        }
        let times = times(association, &usable, granted);
        let mut addresses: Vec<Address6> = usable
            .into_iter()
            .map(|usable| Address6 {
                address: usable.address,
                preferred: after(granted, usable.preferred),
                valid: after(granted, usable.valid),
            })
            .collect();
        addresses.retain(|address| address.is_valid_at(now));
        if addresses.is_empty() {
            return Err(Refused::Over);
        }
        Ok(Lease6 {
            addresses,
            times,
            ..Lease6::told(reply, server, granted)
        })
    }

    /// What `reply` tells without granting anything. It is asked for again after option 32, and after
    /// a day at the latest, and kept until somebody answers that.
    pub fn information(reply: &Reply, granted: Duration) -> Result<Lease6, Refused> {
        let server = reply.server.clone().ok_or(Refused::NoServer)?;
        if reply.status.code != Code::Success {
            return Err(Refused::Status(reply.status.code));
        }
        let refresh = reply
            .refresh
            .unwrap_or(REFRESH)
            .clamp(SOONEST_REFRESH, REFRESH);
        let mut lease = Lease6::told(reply, server, granted);
        lease.times.renew = after(granted, refresh);
        Ok(lease)
    }

    fn told(reply: &Reply, server: Vec<u8>, granted: Duration) -> Lease6 {
        Lease6 {
            addresses: Vec::new(),
            server,
            dns: reply.dns.clone(),
            search: reply.search.clone(),
            ntp: reply.ntp.clone(),
            times: Times {
                granted,
                renew: None,
                rebind: None,
            },
        }
    }

    /// Takes over from the lease before this one the addresses that the server did not speak of: they
    /// stay as they are (RFC 8415, section 18.2.10.1). `spoken` is the association of its REPLY.
    pub fn inherit(&mut self, before: &Lease6, spoken: &Association) {
        for address in &before.addresses {
            let mentioned = |granted: &Granted| granted.address == address.address;
            if self.addresses.len() < MAX_ADDRESSES && !spoken.addresses.iter().any(mentioned) {
                self.addresses.push(*address);
            }
        }
    }

    /// Gives up an address; false if it is none of the lease. T1 and T2 may have been those of
    /// an address that stood longer than what is left, so that is asked for at once.
    pub fn give_up(&mut self, address: Ipv6Addr, now: Duration) -> bool {
        let before = self.addresses.len();
        self.addresses.retain(|ours| ours.address != address);
        if self.addresses.len() == before {
            return false;
        }
        let expire = self.expire();
        self.times.rebind = [self.times.rebind, expire].into_iter().flatten().min();
        self.times.renew = [self.times.rebind, Some(now)].into_iter().flatten().min();
        true
    }

    /// Its addresses alone.
    pub fn hosts(&self) -> Vec<Ipv6Addr> {
        self.addresses
            .iter()
            .map(|address| address.address)
            .collect()
    }

    /// When its next address goes, if one does.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.addresses
            .iter()
            .filter_map(|address| address.valid)
            .min()
    }

    /// When its last address goes; `None` if one stays for ever, or there is none.
    pub fn expire(&self) -> Option<Duration> {
        let valid: Option<Vec<Duration>> =
            self.addresses.iter().map(|address| address.valid).collect();
        valid?.into_iter().max()
    }
}

/// RFC 8415, section 21.6: an address preferred for longer than it is valid is discarded; one with a
/// valid lifetime of zero is taken away.
fn is_usable(granted: &Granted) -> bool {
    granted.status.code == Code::Success
        && granted.valid > 0
        && granted.preferred <= granted.valid
        && hosts::may_be_ours(&granted.address)
}

fn after(granted: Duration, seconds: u32) -> Option<Duration> {
    (seconds != INFINITE).then(|| granted + Duration::from_secs(seconds.into()))
}

/// T1 and T2. What the server leaves to us, or what would come after an address is gone, is a half and four
/// fifths of the shortest preferred lifetime (RFC 8415, section 21.4), or of the valid one
/// where that is zero. A T1 or T2 that is infinite is left to us, too.
fn times(association: &Association, usable: &[&Granted], granted: Duration) -> Times {
    let shortest = |of: fn(&Granted) -> u32| {
        let seconds = usable.iter().map(|granted| of(granted)).min();
        seconds.filter(|seconds| *seconds != INFINITE)
    };
    let preferred = shortest(|granted| match granted.preferred {
        0 => granted.valid,
        preferred => preferred,
    });
    let valid = shortest(|granted| granted.valid);
    let given = |seconds: u32| {
        let good = seconds != 0 && seconds != INFINITE && valid.is_none_or(|valid| seconds < valid);
        good.then(|| Duration::from_secs(seconds.into()))
    };
    let whole = Duration::from_secs(preferred.unwrap_or(ENDLESS).into());
    let usual = (whole / 2, whole * 4 / 5);
    let given = (
        given(association.t1).unwrap_or(usual.0),
        given(association.t2).unwrap_or(usual.1),
    );
    let (renew, rebind) = if given.0 > given.1 { usual } else { given };
    let renew = renew.max(SOONEST_RENEWAL);
    Times {
        granted,
        renew: Some(granted + renew),
        rebind: Some(granted + rebind.max(renew)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp6::reply::{Kind, Status};

    const START: Duration = Duration::from_secs(100);

    fn granted(last: u16, preferred: u32, valid: u32) -> Granted {
        Granted {
            address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last),
            preferred,
            valid,
            status: Status::default(),
        }
    }

    fn reply(t1: u32, t2: u32, addresses: Vec<Granted>) -> Reply {
        let mut reply = Reply::decode(&[7, 0, 0, 1]).expect("readable");
        assert_eq!(reply.kind, Kind::Reply);
        reply.server = Some(vec![0, 3, 0, 1]);
        reply.associations.push(Association {
            id: 9,
            t1,
            t2,
            addresses,
            status: Status::default(),
        });
        reply
    }

    fn lease(t1: u32, t2: u32, addresses: Vec<Granted>) -> Result<Lease6, Refused> {
        Lease6::from_reply(&reply(t1, t2, addresses), 9, START, START)
    }

    /// T1 and T2 in seconds from the grant.
    fn seconds(t1: u32, t2: u32, preferred: u32, valid: u32) -> (Option<f64>, Option<f64>) {
        let times = lease(t1, t2, vec![granted(1, preferred, valid)])
            .expect("good")
            .times;
        let from = |at: Option<Duration>| at.map(|at| (at - START).as_secs_f64());
        (from(times.renew), from(times.rebind))
    }

    #[test]
    fn good_times_are_kept_and_bad_ones_derived_again() {
        let derived = (Some(500.0), Some(800.0));
        assert_eq!(seconds(300, 600, 1000, 2000), (Some(300.0), Some(600.0)));
        assert_eq!(seconds(0, 0, 1000, 2000), derived);
        assert_eq!(seconds(2000, 2000, 1000, 2000), derived);
        assert_eq!(seconds(u32::MAX, u32::MAX, 1000, 2000), derived);
        assert_eq!(seconds(900, 0, 1000, 2000), derived);
        assert_eq!(seconds(0, 300, 1000, 2000), derived);
        assert_eq!(seconds(0, 0, 0, 2000), (Some(1000.0), Some(1600.0)));
        // Soonest.
        assert_eq!(seconds(1, 2, 1000, 2000), (Some(5.0), Some(5.0)));
        assert_eq!(seconds(0, 0, 1, 10), (Some(5.0), Some(5.0)));
    }

    #[test]
    fn a_lease_for_ever_is_asked_for_again_whoever_says_that_it_need_not_be() {
        let all = u32::MAX;
        let derived = (Some(86_400.0), Some(138_240.0));
        assert_eq!(seconds(0, 0, all, all), derived);
        assert_eq!(seconds(all, all, all, all), derived);
        assert_eq!(seconds(60, 90, all, all), (Some(60.0), Some(90.0)));
        let lease = lease(0, 0, vec![granted(1, all, all)]).expect("good");
        assert_eq!((lease.expire(), lease.next_expiry()), (None, None));
        let almost = self::lease(0, 0, vec![granted(1, all - 1, all - 1)]).expect("good");
        assert_eq!(
            almost.expire(),
            Some(START + Duration::from_secs(u64::from(all) - 1))
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        assert_eq!(
            lease(2, 1, vec![granted(1, 60, 60)]),
            Err(Refused::NoAssociation)
        );
        assert_eq!(lease(0, 0, vec![]), Err(Refused::NoAddress));
        assert_eq!(
            lease(0, 0, vec![granted(1, 61, 60)]),
            Err(Refused::NoAddress)
        );
        assert_eq!(lease(0, 0, vec![granted(1, 0, 0)]), Err(Refused::NoAddress));
        assert_eq!(
            lease(0, 0, vec![granted(1, 9, 9)]),
            Err(Refused::TooShort(9))
        );
        let mut bad = granted(1, 60, 60);
        bad.address = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        assert_eq!(lease(0, 0, vec![bad]), Err(Refused::NoAddress));
        let mut said = granted(1, 60, 60);
        said.status.code = Code::NotOnLink;
        assert_eq!(lease(0, 0, vec![said]), Err(Refused::NoAddress));
        let good = reply(0, 0, vec![granted(1, 60, 60)]);
        let late = START + Duration::from_secs(60);
        assert_eq!(
            Lease6::from_reply(&good, 9, START, late),
            Err(Refused::Over)
        );
        assert_eq!(
            Lease6::from_reply(&good, 8, START, START),
            Err(Refused::NoAssociation)
        );
        let mut nobody = good.clone();
        nobody.server = None;
        assert_eq!(
            Lease6::from_reply(&nobody, 9, START, START),
            Err(Refused::NoServer)
        );
    }

    #[test]
    fn addresses_that_the_server_did_not_speak_of_stay() {
        let before = lease(0, 0, vec![granted(1, 60, 60), granted(2, 60, 60)]).expect("good");
        let reply = reply(0, 0, vec![granted(1, 0, 0), granted(3, 90, 90)]);
        let mut after = Lease6::from_reply(&reply, 9, START, START).expect("good");
        after.inherit(&before, &reply.associations[0]);
        assert_eq!(
            after.hosts(),
            [granted(3, 0, 0).address, granted(2, 0, 0).address]
        );
        assert_eq!(after.next_expiry(), Some(START + Duration::from_secs(60)));
        assert_eq!(after.expire(), Some(START + Duration::from_secs(90)));
    }

    #[test]
    fn information_is_refreshed_within_a_day_and_not_all_the_time() {
        let refresh = |seconds| {
            let mut reply = reply(0, 0, vec![]);
            reply.refresh = seconds;
            let times = Lease6::information(&reply, START).expect("good").times;
            times.renew.map(|at| (at - START).as_secs())
        };
        assert_eq!(refresh(None), Some(86_400));
        assert_eq!(refresh(Some(0)), Some(600));
        assert_eq!(refresh(Some(7200)), Some(7200));
        assert_eq!(refresh(Some(u32::MAX)), Some(86_400));
    }
}
