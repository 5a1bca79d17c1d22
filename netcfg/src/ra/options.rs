//! `RTM_NEWNDUSEROPT`: options of a Router Advertisement as the kernel passes them on.
//!
//! ```text
//!   nlmsghdr      length, type, flags, sequence, port                  16 bytes, native order
//!   nduseroptmsg  family, -, length of the options, link, ICMPv6 type and code, -    16 bytes
//!   the options   type, length in units of 8 bytes, value              as on the wire
//!   attributes    NDUSEROPT_SRCADDR: the router
//! ```
//!
//! What the kernel wrote is what it says; the options are a stranger's bytes, whose lengths only
//! it has looked at. Those are walked like any: one that is malformed is left out alone.

use std::net::Ipv6Addr;

use crate::dhcp6::hosts;

/// linux/rtnetlink.h.
const RTM_NEWNDUSEROPT: u16 = 68;
const NDUSEROPT_SRCADDR: u16 = 1;
/// linux/netlink.h: `NLMSG_ALIGNTO` and `NLA_ALIGNTO`.
const ALIGNMENT: usize = 4;
/// The two headers.
const HEADER: usize = 16;
/// linux/icmpv6.h, RFC 4861, section 4.2.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// RFC 8106, sections 5.1 and 5.2.
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// Something a router said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserOption {
    /// On this link.
    pub link: u32,
    /// Its address.
    pub router: Ipv6Addr,
    /// Seconds for which it stands: 0 takes it back, `u32::MAX` is for ever.
    pub lifetime: u32,
    /// What it said.
    pub what: What,
}

/// The options we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// RDNSS: DNS servers, best first.
    Servers(Vec<Ipv6Addr>),
    /// DNSSL: search domains, best first.
    Domains(Vec<String>),
}

/// What a datagram held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// The options we know.
    pub options: Vec<UserOption>,
    /// Messages and known options left out because they are malformed.
    pub malformed: u32,
}

/// Reads a netlink datagram. Messages of other types and options that we do not know are nothing.
pub fn parse(mut datagram: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    while !datagram.is_empty() {
        let Some((kind, body, rest)) = message(datagram) else {
            parsed.malformed += 1;
            break;
        };
        if kind == RTM_NEWNDUSEROPT && parsed.read(body).is_none() {
            parsed.malformed += 1;
        }
        datagram = rest;
    }
    parsed
}

fn message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (length, rest) = datagram.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let kind = u16::from_ne_bytes(*rest.first_chunk()?);
    let body = datagram.get(HEADER..length)?;
    let next = length.next_multiple_of(ALIGNMENT).min(datagram.len());
    Some((kind, body, datagram.get(next..)?))
}

impl Parsed {
    fn read(&mut self, body: &[u8]) -> Option<()> {
        let (header, rest) = body.split_first_chunk::<HEADER>()?;
        let [family, _, l0, l1, i0, i1, i2, i3, icmp, ..] = *header;
        let (options, attributes) = rest.split_at_checked(u16::from_ne_bytes([l0, l1]).into())?;
        if i32::from(family) != libc::AF_INET6 || icmp != ROUTER_ADVERTISEMENT {
            return Some(());
        }
        let link = u32::from_ne_bytes([i0, i1, i2, i3]);
        let router = router(attributes)?;
        let mut area = options;
        while !area.is_empty() {
            let (kind, value, rest) = option(area)?;
            area = rest;
            let read = match kind {
                RDNSS => servers(value),
                DNSSL => domains(value),
                _ => continue,
            };
            match read {
                Some((lifetime, what)) => self.options.push(UserOption {
                    link,
                    router,
                    lifetime,
                    what,
                }),
                None => self.malformed += 1,
            }
        }
        Some(())
    }
}

/// The address in the attributes, which the kernel always adds.
fn router(mut attributes: &[u8]) -> Option<Ipv6Addr> {
    loop {
        let (length, rest) = attributes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let kind = u16::from_ne_bytes(*rest.first_chunk()?);
        let value = attributes.get(ALIGNMENT..length)?;
        if kind == NDUSEROPT_SRCADDR {
            return <[u8; 16]>::try_from(value).ok().map(Ipv6Addr::from);
        }
        attributes = attributes.get(length.next_multiple_of(ALIGNMENT)..)?;
    }
}

/// RFC 4861, section 4.6: a length of zero makes the whole worthless.
fn option(area: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let &[kind, units, ..] = area else {
        return None;
    };
    let (whole, rest) = area.split_at_checked(usize::from(units) * 8)?;
    Some((kind, whole.get(2..)?, rest))
}

/// RFC 8106, section 5.1: reserved, lifetime, and at least one address, so that the length is odd
/// and at least 3.
fn servers(value: &[u8]) -> Option<(u32, What)> {
    let (lifetime, rest) = lifetime(value)?;
    let mut servers = hosts::addresses(rest)?;
    servers.retain(hosts::may_be_a_server);
    (!servers.is_empty()).then_some((lifetime, What::Servers(servers)))
}

/// RFC 8106, section 5.2: reserved, lifetime, and at least one name; zeros fill it up.
fn domains(value: &[u8]) -> Option<(u32, What)> {
    let (lifetime, rest) = lifetime(value)?;
    // A name ends with a zero of its own. Whatever zeros are left over are padding.
    let last = rest.iter().rposition(|byte| *byte != 0)?;
    let names = hosts::names(rest.get(..=last + 1)?)?;
    Some((lifetime, What::Domains(names)))
}

fn lifetime(value: &[u8]) -> Option<(u32, &[u8])> {
    let (_reserved, rest) = value.split_first_chunk::<2>()?;
    let (lifetime, rest) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*lifetime), rest))
}
