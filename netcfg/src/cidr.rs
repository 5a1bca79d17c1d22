//! An IPv4 address together with the length of its network prefix.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// An IPv4 address and prefix length, as in `192.0.2.10/24`.
///
/// The host bits are kept: the same type serves for an interface address (`10.0.2.15/24`) and,
/// after [`Cidr::network`], for the destination of a route (`10.0.2.0/24`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// Everything: the destination of a default route.
    pub const DEFAULT: Cidr = Cidr {
        address: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
    };

    /// `None` when the prefix is longer than an IPv4 address.
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Option<Cidr> {
        if prefix > 32 {
            return None;
        }
        Some(Cidr { address, prefix })
    }

    /// One single address.
    pub const fn host(address: Ipv4Addr) -> Cidr {
        Cidr {
            address,
            prefix: 32,
        }
    }

    /// From an address and a dotted mask; `None` when the ones of the mask are not contiguous.
    pub fn from_mask(address: Ipv4Addr, mask: Ipv4Addr) -> Option<Cidr> {
        let bits = mask.to_bits();
        let ones = bits.leading_ones();
        if bits.count_ones() != ones {
            return None;
        }
        Cidr::new(address, u8::try_from(ones).ok()?)
    }

    /// The address, host bits included.
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The length of the prefix.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The mask as a number: the first `prefix` bits set.
    pub const fn mask_bits(self) -> u32 {
        match u32::MAX.checked_shl(32 - self.prefix as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }

    /// The same prefix with its host bits cleared.
    pub fn network(self) -> Cidr {
        Cidr {
            address: Ipv4Addr::from_bits(self.address.to_bits() & self.mask_bits()),
            prefix: self.prefix,
        }
    }

    /// The last address of the prefix: the directed broadcast address, where there is one.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask_bits())
    }

    /// Whether `address` is in the prefix.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()) & self.mask_bits() == 0
    }

    /// Whether a host can have this address: neither a special address nor the first or last of
    /// its own prefix. RFC 3021 lets a /31 use both of its addresses, and a /32 is only itself.
    pub fn is_usable_by_a_host(self) -> bool {
        is_host_address(self.address)
            && (self.prefix >= 31
                || (self.address != self.network().address && self.address != self.last()))
    }
}

/// Whether `address` can belong to a host at all: not "this network" (0/8), loopback, multicast,
/// reserved (240/4) or the limited broadcast address.
pub fn is_host_address(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..=255)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A text that is no `ADDRESS/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 address with a prefix length, such as \"192.0.2.10/24\"")]
pub struct ParseCidrError(String);

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Cidr, ParseCidrError> {
        text.split_once('/')
            .and_then(|(address, prefix)| Cidr::new(address.parse().ok()?, prefix.parse().ok()?))
            .ok_or_else(|| ParseCidrError(text.to_owned()))
    }
}

impl From<Cidr> for IpNet {
    fn from(cidr: Cidr) -> IpNet {
        // Its prefix is never longer than an address.
        Ipv4Net::new(cidr.address, cidr.prefix)
            .unwrap_or_else(|_| Ipv4Net::from(cidr.address))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn masks_must_be_contiguous() {
        let address = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(
            Cidr::from_mask(address, Ipv4Addr::new(255, 255, 254, 0)),
            Cidr::new(address, 23)
        );
        assert_eq!(
            Cidr::from_mask(address, Ipv4Addr::UNSPECIFIED),
            Cidr::new(address, 0)
        );
        assert_eq!(
            Cidr::from_mask(address, Ipv4Addr::new(255, 0, 255, 0)),
            None
        );
    }

    #[test]
    fn networks_and_membership() {
        assert_eq!(cidr("10.1.2.3/24").network(), cidr("10.1.2.0/24"));
        assert_eq!(cidr("10.1.2.3/0").network(), Cidr::DEFAULT);
        assert_eq!(cidr("10.1.2.3/32").network(), cidr("10.1.2.3/32"));
        assert!(cidr("10.1.2.3/24").contains(Ipv4Addr::new(10, 1, 2, 200)));
        assert!(!cidr("10.1.2.3/24").contains(Ipv4Addr::new(10, 1, 3, 200)));
        assert!(Cidr::DEFAULT.contains(Ipv4Addr::BROADCAST));
        assert_eq!(cidr("10.1.2.3/24").last(), Ipv4Addr::new(10, 1, 2, 255));
    }

    #[test]
    fn hosts_have_host_addresses() {
        for good in [
            "10.0.2.15/24",
            "192.0.2.1/32",
            "192.0.2.0/31",
            "100.64.0.1/10",
        ] {
            assert!(cidr(good).is_usable_by_a_host(), "{good}");
        }
        for bad in [
            "0.0.0.0/24",
            "10.0.2.0/24",
            "10.0.2.255/24",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "255.255.255.255/32",
            "240.1.1.1/24",
        ] {
            assert!(!cidr(bad).is_usable_by_a_host(), "{bad}");
        }
    }

    #[test]
    fn texts_that_are_no_prefix_are_named() {
        for bad in ["10.0.2.15", "10.0.2.15/33", "10.0.2/24", "", "/", "::1/64"] {
            let error = bad.parse::<Cidr>().expect_err(bad).to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }
}
