//! The strict walk over the options of a reply, before any other code sees them.
//!
//! A DHCP message comes from whoever is on the wire. This walk reads it once, front to back,
//! and writes down only the options we know, each with exactly the length its RFC gives it. An
//! option of a wrong length or with unusable content is left out alone and counted: it neither
//! shifts the options after it nor ends the message. What remains is written out again in a
//! canonical form, which the codec crate then decodes.
//!
//! Measured defects of that crate (0.15) that this keeps away from it: it ends parsing, with
//! `Ok`, at the first malformed option; it does not follow option overload; text that is not
//! UTF-8 ends parsing too, as does an odd name in option 81; options 80 and 81 of a wrong length
//! are a failed assertion where those are compiled in; and reading `chaddr` of a message with `hlen > 16` panics, which in
//! a program built with `panic = "abort"` is the end.

use std::collections::BTreeMap;

use super::search;

/// Bytes before the options: the BOOTP header and the magic cookie (RFC 2131, section 2).
pub const OPTIONS_AT: usize = 240;
const MAGIC_AT: usize = 236;
/// RFC 2131, section 3: the first four octets of the options field.
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

const PAD: u8 = 0;
const END: u8 = 255;
const OVERLOAD: u8 = 52;

/// RFC 3442 classless static routes, and the number that Microsoft used before the RFC.
const ROUTES: u8 = 121;
const OLD_ROUTES: u8 = 249;

/// No message is longer: nobody sends more than we say we take (option 57), and what arrives
/// bounds what is done and kept.
pub const LONGEST_MESSAGE: usize = 4096;

/// Names longer than this do not exist (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// What the value of an option must look like.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Exactly this many bytes. Of several instances the first good one counts.
    Exact(usize),
    /// One or more addresses. Instances are joined (RFC 3396).
    Addresses,
    /// One or more pairs of addresses.
    Pairs,
    /// A host or domain name of letters, digits, hyphens and dots.
    Name,
    /// Text for people. Anything but printable ASCII becomes a question mark.
    Text,
    /// At least this many bytes of anything.
    AtLeast(usize),
    /// Classless static routes (RFC 3442).
    Routes,
    /// A list of domain names, compressed as in DNS (RFC 3397).
    Search,
    /// A link for people to follow (RFC 8910).
    Uri,
    /// At least this many bytes, and of no further use.
    Unused(usize),
}

/// The options we read, by RFC 2132 unless said otherwise.
const fn shape(code: u8) -> Option<Shape> {
    Some(match code {
        1 | 28 => Shape::Exact(4),            // subnet mask, broadcast address
        3 | 6 | 42 => Shape::Addresses,       // routers, DNS servers, NTP servers
        12 | 15 => Shape::Name,               // host name, domain name
        26 => Shape::Exact(2),                // interface MTU
        33 => Shape::Pairs,                   // static routes
        51 | 54 | 58 | 59 => Shape::Exact(4), // lease time, server id, T1, T2
        53 => Shape::Exact(1),                // message type
        56 => Shape::Text,                    // why the server said no
        61 => Shape::AtLeast(2),              // client id, sent back (RFC 6842)
        80 => Shape::Exact(0),                // rapid commit (RFC 4039)
        81 => Shape::Unused(3),               // what became of our name in DNS (RFC 4702)
        108 => Shape::Exact(4),               // IPv6-only preferred (RFC 8925)
        114 => Shape::Uri,                    // captive portal (RFC 8910)
        119 => Shape::Search,                 // RFC 3397
        ROUTES | OLD_ROUTES => Shape::Routes, // RFC 3442
        _ => return None,
    })
}

/// Why a message cannot be walked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Shorter than a BOOTP header with its cookie.
    #[error("shorter than a DHCP header")]
    Short,
    /// See [`LONGEST_MESSAGE`].
    #[error("longer than any DHCP message")]
    Long,
    /// Not a reply.
    #[error("not a BOOTREPLY")]
    NotReply,
    /// Not about an Ethernet address of six bytes.
    #[error("hardware type or length is not Ethernet")]
    Hardware,
    /// BOOTP without DHCP, or something else on this port.
    #[error("no DHCP magic cookie")]
    Cookie,
}

/// A message with only known, well-formed options, and how many others were dropped as malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// The canonical message, safe for the codec.
    pub bytes: Vec<u8>,
    /// Known options left out because of their length or content, and runs past the end.
    pub malformed: u32,
}

/// Walks `message` and gives back its canonical form.
pub fn walk(message: &[u8]) -> Result<Walked, Unreadable> {
    let header = message.get(..OPTIONS_AT).ok_or(Unreadable::Short)?;
    if message.len() > LONGEST_MESSAGE {
        return Err(Unreadable::Long);
    }
    // op 2 is BOOTREPLY; htype 1 with hlen 6 is Ethernet (RFC 951, section 3).
    if header.first() != Some(&2) {
        return Err(Unreadable::NotReply);
    }
    if header.get(1..3) != Some(&[1, 6]) {
        return Err(Unreadable::Hardware);
    }
    if header.get(MAGIC_AT..) != Some(&MAGIC) {
        return Err(Unreadable::Cookie);
    }

    let mut found = Found::default();
    found.collect(message.get(OPTIONS_AT..).unwrap_or_default());
    // RFC 3396, section 5: the aggregate is options, then file, then sname.
    let overload = found.overload;
    if overload & 1 != 0 {
        found.collect(header.get(FILE).unwrap_or_default());
    }
    if overload & 2 != 0 {
        found.collect(header.get(SNAME).unwrap_or_default());
    }
    Ok(found.canonical(header))
}

/// Values by option code, in order of appearance.
#[derive(Debug, Default)]
struct Found<'a> {
    values: BTreeMap<u8, Vec<&'a [u8]>>,
    overload: u8,
    malformed: u32,
}

impl<'a> Found<'a> {
    fn collect(&mut self, mut area: &'a [u8]) {
        while let Some((&code, rest)) = area.split_first() {
            match code {
                PAD => area = rest,
                END => return,
                _ => {
                    let Some((value, next)) = rest
                        .split_first()
                        .and_then(|(&len, tail)| tail.split_at_checked(usize::from(len)))
                    else {
                        // Runs past the end: nothing behind it can be trusted to be an option.
                        self.malformed += 1;
                        return;
                    };
                    area = next;
                    match (code, value) {
                        (OVERLOAD, [how @ 1..=3]) => self.overload = *how,
                        (OVERLOAD, _) => self.malformed += 1,
                        _ if shape(code).is_some() => {
                            self.values.entry(code).or_default().push(value);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn canonical(mut self, header: &[u8]) -> Walked {
        let mut bytes = header.to_vec();
        // Their options, if any, have been read; as names of a boot server they are of no use.
        for field in [SNAME, FILE] {
            if let Some(field) = bytes.get_mut(field) {
                field.fill(0);
            }
        }
        let mut values = BTreeMap::new();
        for (code, instances) in std::mem::take(&mut self.values) {
            match shape(code).map(|shape| (shape, well_formed(shape, &instances))) {
                Some((Shape::Unused(_), Some(_))) => {}
                Some((_, Some(value))) => {
                    values.insert(code, value);
                }
                _ => self.malformed += 1,
            }
        }
        // The old number is the same option, and counts when the new one is absent or unusable.
        if let Some(routes) = values.remove(&OLD_ROUTES) {
            values.entry(ROUTES).or_insert(routes);
        }
        for (code, value) in values {
            if value.is_empty() {
                bytes.extend([code, 0]);
            }
            // RFC 3396, section 5: a long value is split, and joined again by the codec.
            for part in value.chunks(255) {
                bytes.push(code);
                bytes.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                bytes.extend_from_slice(part);
            }
        }
        bytes.push(END);
        Walked {
            bytes,
            malformed: self.malformed,
        }
    }
}

/// The value of an option from its instances, or `None` when it has none that can be used.
fn well_formed(shape: Shape, instances: &[&[u8]]) -> Option<Vec<u8>> {
    if let Shape::Exact(length) = shape {
        return instances
            .iter()
            .find(|value| value.len() == length)
            .map(|value| value.to_vec());
    }
    let value = instances.concat();
    match shape {
        Shape::Exact(_) => None,
        Shape::Addresses => (!value.is_empty() && value.len() % 4 == 0).then_some(value),
        Shape::Pairs => (!value.is_empty() && value.len() % 8 == 0).then_some(value),
        Shape::Search => search::expand(&value),
        Shape::Uri => is_uri(&value).then_some(value),
        Shape::AtLeast(least) | Shape::Unused(least) => (value.len() >= least).then_some(value),
        Shape::Routes => is_route_list(&value).then_some(value),
        Shape::Name => {
            // RFC 2132, section 2: a trailing NUL is tolerated, not part of the value.
            let end = value.iter().rposition(|byte| *byte != 0)? + 1;
            let name = value.get(..end)?;
            is_name(name).then(|| name.to_vec())
        }
        Shape::Text => {
            let printable = |byte: &u8| match byte {
                b' '..=b'~' => *byte,
                _ => b'?',
            };
            (!value.is_empty()).then(|| value.iter().take(128).map(printable).collect())
        }
    }
}

/// Letters, digits and hyphens in labels of 1 to 63 (RFC 1123, section 2.1), an underscore where
/// people use one, and perhaps a final dot. Nothing that could mean anything to a config file.
pub fn is_name(name: &[u8]) -> bool {
    let name = name.strip_suffix(b".").unwrap_or(name);
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.split(|byte| *byte == b'.').all(|label| {
            (1..=63).contains(&label.len())
                && label.first() != Some(&b'-')
                && label.last() != Some(&b'-')
                && label
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// Printable ASCII without anything that quotes, ends or nests a text (RFC 8910, section 2: a
/// URI, at most what one option holds).
fn is_uri(value: &[u8]) -> bool {
    (1..=255).contains(&value.len())
        && value.iter().all(|byte| {
            byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'`' | b'<' | b'>' | b'\\')
        })
}

/// RFC 3442: width of the prefix, its significant octets, a router of four; again and again.
fn is_route_list(mut value: &[u8]) -> bool {
    if value.is_empty() {
        return false;
    }
    while let Some((&width, rest)) = value.split_first() {
        let octets = usize::from(width).div_ceil(8);
        match rest.get(octets + 4..) {
            Some(next) if width <= 32 => value = next,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A reply without options: header and cookie.
    pub fn header() -> Vec<u8> {
        let mut message = vec![0; OPTIONS_AT];
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[MAGIC_AT..].copy_from_slice(&MAGIC);
        message
    }

    /// The options of the canonical form of a reply with these option bytes.
    fn options(area: &[u8]) -> (Vec<u8>, u32) {
        let walked = walk(&[header(), area.to_vec()].concat()).expect("readable");
        (walked.bytes[OPTIONS_AT..].to_vec(), walked.malformed)
    }

    #[test]
    fn what_is_no_dhcp_reply_is_refused() {
        assert_eq!(walk(&[]), Err(Unreadable::Short));
        assert_eq!(walk(&header()[..239]), Err(Unreadable::Short));
        let mut long = header();
        long.resize(LONGEST_MESSAGE, 0);
        assert!(walk(&long).is_ok());
        long.push(0);
        assert_eq!(walk(&long), Err(Unreadable::Long));
        for (at, value, why) in [
            (0, 1, Unreadable::NotReply),
            (1, 6, Unreadable::Hardware),
            (2, 17, Unreadable::Hardware),
            (2, 255, Unreadable::Hardware),
            (MAGIC_AT, 0, Unreadable::Cookie),
        ] {
            let mut message = header();
            message[at] = value;
            assert_eq!(walk(&message), Err(why));
        }
    }

    #[test]
    fn a_malformed_option_is_dropped_alone() {
        // A router list of five bytes, then a lease time: the lease time must survive.
        assert_eq!(
            options(&[3, 5, 1, 2, 3, 4, 5, 51, 4, 0, 0, 0, 60, 255]),
            (vec![51, 4, 0, 0, 0, 60, 255], 1)
        );
        assert_eq!(options(&[6, 0, 53, 1, 5, 255]), (vec![53, 1, 5, 255], 1));
    }

    #[test]
    fn an_option_past_the_end_ends_the_walk_and_keeps_the_rest() {
        assert_eq!(
            options(&[53, 1, 5, 51, 200, 0, 0]),
            (vec![53, 1, 5, 255], 1)
        );
        assert_eq!(options(&[53, 1, 5, 51]), (vec![53, 1, 5, 255], 1));
    }

    #[test]
    fn pads_unknown_options_and_a_missing_end_are_fine() {
        assert_eq!(
            options(&[0, 0, 77, 2, 9, 9, 53, 1, 2, 0]),
            (vec![53, 1, 2, 255], 0)
        );
        // What follows the end is not part of the message.
        assert_eq!(options(&[255, 53, 1, 2]), (vec![255], 0));
    }

    #[test]
    fn instances_join_in_lists_and_the_first_counts_elsewhere() {
        assert_eq!(
            options(&[
                6, 4, 1, 1, 1, 1, 51, 4, 0, 0, 0, 9, 6, 4, 2, 2, 2, 2, 51, 4, 0, 0, 0, 8
            ]),
            (
                vec![6, 8, 1, 1, 1, 1, 2, 2, 2, 2, 51, 4, 0, 0, 0, 9, 255],
                0
            )
        );
        // RFC 3396: a value may be cut anywhere.
        assert_eq!(
            options(&[6, 3, 1, 1, 1, 6, 1, 1]),
            (vec![6, 4, 1, 1, 1, 1, 255], 0)
        );
    }

    #[test]
    fn overloaded_fields_are_read_in_the_order_of_the_rfc() {
        let mut message = header();
        message[FILE][..6].copy_from_slice(&[6, 4, 1, 1, 1, 1]);
        message[SNAME][..6].copy_from_slice(&[6, 4, 2, 2, 2, 2]);
        message.extend([52, 1, 3, 6, 4, 3, 3, 3, 3, 255]);
        let walked = walk(&message).expect("readable");
        assert_eq!(
            &walked.bytes[OPTIONS_AT..],
            [6, 12, 3, 3, 3, 3, 1, 1, 1, 1, 2, 2, 2, 2, 255]
        );
        assert!(
            walked.bytes[SNAME.start..FILE.end]
                .iter()
                .all(|byte| *byte == 0)
        );
        // Without the option the fields are names, not options.
        let mut message = header();
        message[FILE][..6].copy_from_slice(&[6, 4, 1, 1, 1, 1]);
        assert_eq!(
            &walk(&message).expect("readable").bytes[OPTIONS_AT..],
            [255]
        );
    }

    #[test]
    fn long_values_are_split_again() {
        let routes = [24, 10, 1, 2, 10, 0, 0, 1].repeat(40);
        let (first, second) = routes.split_at(163);
        let area = [&[121, 163], first, &[121, 157], second].concat();
        let (bytes, malformed) = options(&area);
        assert_eq!(malformed, 0);
        assert_eq!(bytes[..2], [121, 255]);
        assert_eq!(bytes[2..257], routes[..255]);
        assert_eq!(bytes[257..259], [121, 65]);
        assert_eq!(bytes[259..324], routes[255..]);
    }

    #[test]
    fn routes_must_be_whole() {
        assert!(is_route_list(&[0, 10, 0, 0, 1]));
        assert!(is_route_list(&[
            24, 10, 1, 2, 10, 0, 0, 1, 32, 1, 2, 3, 4, 0, 0, 0, 0
        ]));
        for bad in [
            &[][..],
            &[33, 1, 2, 3, 4, 5, 10, 0, 0, 1],
            &[255, 0, 0, 0, 0],
            &[24, 10, 1, 2, 10, 0, 0],
            &[0, 10, 0, 0, 1, 8],
        ] {
            assert!(!is_route_list(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_old_number_of_the_routes_counts_when_the_new_one_cannot() {
        let new = [121, 5, 0, 10, 0, 0, 1];
        let old = [249, 5, 0, 10, 0, 0, 2];
        let renamed = vec![121, 5, 0, 10, 0, 0, 2, 255];
        assert_eq!(options(&old), (renamed.clone(), 0));
        assert_eq!(options(&[&old[..], &new].concat()).0[..7], new);
        let broken = [121, 5, 33, 10, 0, 0, 1];
        assert_eq!(options(&[&broken[..], &old].concat()), (renamed, 1));
    }

    #[test]
    fn flags_links_and_what_is_not_used() {
        assert_eq!(options(&[80, 0]), (vec![80, 0, 255], 0));
        assert_eq!(options(&[80, 1, 0]), (vec![255], 1));
        assert_eq!(options(&[81, 4, 1, 0, 0, 200]), (vec![255], 0));
        assert_eq!(options(&[81, 2, 1, 0]), (vec![255], 1));
        let uri = |text: &[u8]| is_uri(text);
        assert!(uri(b"https://portal.example/a?b=c"));
        for bad in [&b""[..], b"https://a b", b"a\"b", b"a\n", "ä".as_bytes()] {
            assert!(!uri(bad), "{bad:?}");
        }
        assert!(!uri(&[b'a'; 256]));
    }

    #[test]
    fn names_carry_nothing_but_names() {
        for good in ["a", "host-1", "example.com", "example.com.", "a_b.c"] {
            assert!(is_name(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a\nnameserver 6.6.6.6",
            "a;b",
            "$(reboot)",
            "ä",
            "a\0b",
        ] {
            assert!(!is_name(bad.as_bytes()), "{bad}");
        }
        assert!(!is_name(&[b'a'; 64]));
        assert_eq!(
            options(&[12, 4, b'h', b'i', 0, 0]),
            (vec![12, 2, b'h', b'i', 255], 0)
        );
        assert_eq!(options(&[15, 2, 0, 0]), (vec![255], 1));
        assert_eq!(
            options(&[56, 3, b'n', 7, b'o']),
            (vec![56, 3, b'n', b'?', b'o', 255], 0)
        );
    }
}
