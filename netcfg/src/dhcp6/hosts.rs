//! Which names and addresses of strangers may be used, in DHCPv6 and in Router Advertisements.

use std::net::Ipv6Addr;

use crate::dhcp4::walk::is_name;

/// Names longer than this do not exist (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// The names in `bytes`, each in the wire form of RFC 1035, section 3.1 and uncompressed
/// (RFC 8415, section 10; RFC 8106, section 5.2), without their final dot. `None` as soon as
/// anything in it is no name of letters, digits, hyphens and underscores.
pub fn names(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    while !bytes.is_empty() {
        let (name, rest) = name(bytes)?;
        names.push(name);
        bytes = rest;
    }
    (!names.is_empty()).then_some(names)
}

fn name(mut bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut name = String::new();
    loop {
        let (&length, rest) = bytes.split_first()?;
        if length == 0 {
            return is_name(name.as_bytes()).then_some((name, rest));
        }
        let (label, rest) = rest.split_at_checked(length.into())?;
        // A dot within a label would make two labels of it; a length of 64 and more is a
        // pointer or nothing at all.
        if label.contains(&b'.') || name.len() + label.len() > MAX_NAME {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(label).ok()?);
        bytes = rest;
    }
}

/// Whether a server could be at this address: link-local ones are told apart by their link.
pub fn may_be_a_server(address: &Ipv6Addr) -> bool {
    !address.is_multicast()
        && !address.is_unspecified()
        && !address.is_loopback()
        && address.to_ipv4_mapped().is_none()
}

/// Whether this address could be leased to us.
pub fn may_be_ours(address: &Ipv6Addr) -> bool {
    may_be_a_server(address) && !address.is_unicast_link_local()
}

/// The addresses in a value that is nothing but addresses.
pub fn addresses(value: &[u8]) -> Option<Vec<Ipv6Addr>> {
    let (addresses, rest) = value.as_chunks::<16>();
    (!addresses.is_empty() && rest.is_empty())
        .then(|| addresses.iter().copied().map(Ipv6Addr::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_whole_or_not_at_all() {
        assert_eq!(
            names(b"\x03lab\x07example\0\x04site\0"),
            Some(vec!["lab.example".to_owned(), "site".to_owned()])
        );
        for bad in [
            &b""[..],
            b"\0",
            b"\x03lab",
            b"\x03lab\0\0",
            b"\x04lab\0",
            b"\x03l.b\0",
            b"\x03l b\0",
            b"\x03-ab\0",
            b"\x0fa\nnameserver ::1\0",
            b"\x03lab\xc0\x00",
            b"\x02\xc3\xa4\0",
        ] {
            assert_eq!(names(bad), None, "{bad:?}");
        }
        let label = [&[63][..], &[b'a'; 63]].concat();
        assert!(names(&[label.repeat(3), vec![0]].concat()).is_some());
        assert_eq!(names(&[label.repeat(4), vec![0]].concat()), None);
        // 64 is not a length.
        assert_eq!(names(&[&[64][..], &[b'a'; 64], &[0]].concat()), None);
    }

    #[test]
    fn addresses_are_judged() {
        let at = |text: &str| text.parse::<Ipv6Addr>().expect("address");
        for bad in ["::", "::1", "ff02::1", "::ffff:10.0.0.1"] {
            assert!(
                !may_be_a_server(&at(bad)) && !may_be_ours(&at(bad)),
                "{bad}"
            );
        }
        assert!(may_be_a_server(&at("fe80::1")) && !may_be_ours(&at("fe80::1")));
        assert!(may_be_a_server(&at("fd00::1")) && may_be_ours(&at("fd00::1")));
        assert_eq!(addresses(&[]), None);
        assert_eq!(addresses(&[0; 17]), None);
        assert_eq!(addresses(&[0; 32]), Some(vec![at("::"); 2]));
    }
}
