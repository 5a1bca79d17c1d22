//! What the kernel leaves to user space of Router Advertisements.
//!
//! The kernel takes addresses, routes, the MTU and hop limit from them by itself (`accept_ra`), and
//! checks them first: ICMPv6 checksum, hop limit 255, a link-local source (RFC 4861, section
//! 6.1.2). No raw socket is needed for the rest, for it passes that on by rtnetlink:
//!
//! | what | how | here |
//! | --- | --- | --- |
//! | DNS servers and search domains (RFC 8106) | `RTM_NEWNDUSEROPT` to the group `RTNLGRP_ND_USEROPT`, one option to a message; not kept by the kernel, so who does not listen does not hear | [`parse`], [`Facts`] |
//! | M and O: ask DHCPv6 for an address, or for information | kept by the kernel in `IFLA_INET6_FLAGS` | [`Flags`] |
//!
//! `netlink-packet-route` 0.34 has no type for the former, whose messages it refuses. The latter it
//! has in two places. In the answer to `RTM_GETLINK` of `AF_UNSPEC` it is
//! `LinkAttribute::AfSpecUnspec` → `AfSpecUnspec::Inet6` → `AfSpecInet6::Flags`. A change
//! of the flags is told to the group `RTNLGRP_IPV6_IFINFO` (12, and not to `RTNLGRP_LINK`) as an
//! `RTM_NEWLINK` of family `AF_INET6`: `ndisc_router_discovery` in net/ipv6/ndisc.c calls
//! `inet6_ifinfo_notify` whenever M or O of an RA differ from before. In that message they are
//! in `IFLA_PROTINFO` instead, which the crate gives as `LinkAttribute::ProtoInfoInet6` of
//! `LinkProtoInfoInet6::Other` with kind 1. It is enough to look at the links again then.
//!
//! Measured on Linux 6: both groups can be joined, and are heard, by uid 801 without any
//! capability. The kernel passes on prefix information (3) too.
//!
//! Options that an appliance has no use for are ignored: the captive portal (RFC 8910) is for a browser, and
//! PREF64 (RFC 8781) for a translator.

mod facts;
mod options;

pub use self::facts::{Facts, LONGEST, MAX_DOMAINS, MAX_SERVERS};
pub use self::options::{Parsed, UserOption, What, parse};
use crate::dhcp6::client::Mode;

/// The flags of a link that Router Advertisements set (net/if_inet6.h of the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// `IF_READY`: IPv6 can be used on the link.
    pub ready: bool,
    /// `IF_RS_SENT`: a router was asked for.
    pub solicited: bool,
    /// `IF_RA_RCVD`: one answered.
    pub advertised: bool,
    /// `IF_RA_MANAGED`: M, DHCPv6 has an address. It stays when the carrier goes.
    pub managed: bool,
    /// `IF_RA_OTHERCONF`: O, DHCPv6 has information. It stays when the carrier goes.
    pub other: bool,
}

impl Flags {
    /// From the value of `IFLA_INET6_FLAGS`.
    pub fn from_bits(bits: u32) -> Flags {
        Flags {
            ready: bits & 0x8000_0000 != 0,
            solicited: bits & 0x10 != 0,
            advertised: bits & 0x20 != 0,
            managed: bits & 0x40 != 0,
            other: bits & 0x80 != 0,
        }
    }

    /// What DHCPv6 is to be asked for. With M there is no need of O (RFC 4861, section 4.2).
    pub fn mode(self) -> Mode {
        match (self.managed, self.other) {
            (true, _) => Mode::Stateful,
            (false, true) => Mode::Stateless,
            (false, false) => Mode::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_lead_to_a_mode() {
        assert_eq!(Flags::from_bits(0), Flags::default());
        assert_eq!(Flags::from_bits(0x8000_0030).mode(), Mode::Off);
        assert_eq!(Flags::from_bits(0x8000_00b0).mode(), Mode::Stateless);
        assert_eq!(Flags::from_bits(0x8000_0070).mode(), Mode::Stateful);
        assert_eq!(Flags::from_bits(0x8000_00f0).mode(), Mode::Stateful);
        let all = Flags::from_bits(u32::MAX);
        assert!(all.ready && all.solicited && all.advertised && all.managed && all.other);
    }
}
