//! What a server said: ADVERTISE or REPLY as plain data.
//!
//! Only the options we know are read, each with exactly the length its RFC gives it. An option
//! of a wrong length or with unusable content is left out alone and counted; so is one inside
//! an identity association. Of an option that may come once, the first good instance counts.
//! Every list is bounded. Options for other clients or for later (server unicast, reconfigure,
//! prefixes) are not read.

use std::net::Ipv6Addr;

use super::hosts;
use super::walk::options;

/// RFC 8415, section 7.3.
const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;

/// RFC 8415, section 11.1: a type of two octets, and at most 128 of identifier.
const DUID: std::ops::RangeInclusive<usize> = 3..=130;

/// RFC 5908, section 4.1.
const NTP_SERVER_ADDRESS: u16 = 1;

/// Associations kept of a message; we ask for one.
const MAX_ASSOCIATIONS: usize = 4;
/// Addresses kept of an association or of a list of servers, and names of a search list.
const MAX_LISTED: usize = 8;

/// Which of the two answers a client can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ADVERTISE
    Advertise,
    /// REPLY
    Reply,
}

/// Status codes of RFC 8415, section 21.13 that a client acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Code {
    /// 0, and what a missing option means.
    #[default]
    Success,
    /// 1
    UnspecFail,
    /// 2
    NoAddrsAvail,
    /// 3
    NoBinding,
    /// 4
    NotOnLink,
    /// 5
    UseMulticast,
    /// Any other.
    Other(u16),
}

/// Option 13.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// What.
    pub code: Code,
    /// In words, printable.
    pub message: String,
}

/// Option 5, with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The address.
    pub address: Ipv6Addr,
    /// Seconds until it should not be used for something new.
    pub preferred: u32,
    /// Seconds until it must not be used at all.
    pub valid: u32,
    /// What the server says of it.
    pub status: Status,
}

/// Option 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// IAID.
    pub id: u32,
    /// T1, in seconds; 0 leaves it to us.
    pub t1: u32,
    /// T2, in seconds; 0 leaves it to us.
    pub t2: u32,
    /// Its addresses, as they came.
    pub addresses: Vec<Granted>,
    /// What the server says of it.
    pub status: Status,
}

/// One answer, not yet compared with what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// ADVERTISE or REPLY.
    pub kind: Kind,
    /// Transaction id, 24 bits.
    pub xid: u32,
    /// Option 1: whom it is for.
    pub client: Option<Vec<u8>>,
    /// Option 2: who says it.
    pub server: Option<Vec<u8>>,
    /// Options 3.
    pub associations: Vec<Association>,
    /// Option 7.
    pub preference: u8,
    /// Option 13 of the message as a whole.
    pub status: Status,
    /// Option 14.
    pub rapid_commit: bool,
    /// Option 23.
    pub dns: Vec<Ipv6Addr>,
    /// Option 24.
    pub search: Vec<String>,
    /// Option 32, in seconds.
    pub refresh: Option<u32>,
    /// Server addresses of options 56.
    pub ntp: Vec<Ipv6Addr>,
    /// Option 82, in seconds.
    pub sol_max_rt: Option<u32>,
    /// Option 83, in seconds.
    pub inf_max_rt: Option<u32>,
    /// How many options were left out because they were malformed.
    pub malformed: u32,
}

/// Why bytes are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAReply {
    /// Shorter than type and transaction id.
    #[error("shorter than a DHCPv6 header")]
    Short,
    /// Any other message, those of servers and relays among themselves too.
    #[error("no ADVERTISE or REPLY")]
    Kind,
}

impl Reply {
    /// Reads an answer from the payload of a datagram.
    pub fn decode(payload: &[u8]) -> Result<Reply, NotAReply> {
        let ([kind, a, b, c], area) = payload.split_first_chunk().ok_or(NotAReply::Short)?;
        let mut reply = Reply {
            kind: match *kind {
                ADVERTISE => Kind::Advertise,
                REPLY => Kind::Reply,
                _ => return Err(NotAReply::Kind),
            },
            xid: u32::from_be_bytes([0, *a, *b, *c]),
            client: None,
            server: None,
            associations: Vec::new(),
            preference: 0,
            status: Status::default(),
            rapid_commit: false,
            dns: Vec::new(),
            search: Vec::new(),
            refresh: None,
            ntp: Vec::new(),
            sol_max_rt: None,
            inf_max_rt: None,
            malformed: 0,
        };
        let mut seen = Seen::default();
        for (code, value) in options(area, &mut reply.malformed) {
            if reply.read(code, value, &mut seen).is_none() {
                reply.malformed += 1;
            }
        }
        reply.dns.retain(hosts::may_be_a_server);
        reply.dns.truncate(MAX_LISTED);
        reply.search.truncate(MAX_LISTED);
        reply.ntp.retain(hosts::may_be_a_server);
        reply.ntp.truncate(MAX_LISTED);
        Ok(reply)
    }

    /// The association with this id, if it is there.
    pub fn association(&self, id: u32) -> Option<&Association> {
        self.associations
            .iter()
            .find(|association| association.id == id)
    }

    /// One option. `None` when it is malformed.
    fn read(&mut self, code: u16, value: &[u8], seen: &mut Seen) -> Option<()> {
        match code {
            1 => once(&mut self.client, duid(value)?),
            2 => once(&mut self.server, duid(value)?),
            3 => {
                let association = association(value, &mut self.malformed)?;
                if self.associations.len() < MAX_ASSOCIATIONS {
                    self.associations.push(association);
                }
            }
            7 => {
                let [preference] = value.try_into().ok()?;
                if !std::mem::replace(&mut seen.preference, true) {
                    self.preference = preference;
                }
            }
            13 => {
                let status = status(value)?;
                if !std::mem::replace(&mut seen.status, true) {
                    self.status = status;
                }
            }
            14 => {
                if !value.is_empty() {
                    return None;
                }
                self.rapid_commit = true;
            }
            23 => {
                let servers = hosts::addresses(value)?;
                if self.dns.is_empty() {
                    self.dns = servers;
                }
            }
            24 => {
                let names = hosts::names(value)?;
                if self.search.is_empty() {
                    self.search = names;
                }
            }
            32 => once(&mut self.refresh, seconds(value)?),
            56 => {
                // RFC 5908, section 4: one server to an option, and any number of options.
                for (code, value) in options(value, &mut self.malformed) {
                    match (code, <[u8; 16]>::try_from(value)) {
                        (NTP_SERVER_ADDRESS, Ok(server)) => self.ntp.push(server.into()),
                        (NTP_SERVER_ADDRESS, Err(_)) => self.malformed += 1,
                        _ => {}
                    }
                }
            }
            82 => once(&mut self.sol_max_rt, seconds(value)?),
            83 => once(&mut self.inf_max_rt, seconds(value)?),
            _ => {}
        }
        Some(())
    }
}

/// Which options were there whose absence has a value.
#[derive(Debug, Default)]
struct Seen {
    preference: bool,
    status: bool,
}

fn once<T>(field: &mut Option<T>, value: T) {
    field.get_or_insert(value);
}

fn duid(value: &[u8]) -> Option<Vec<u8>> {
    DUID.contains(&value.len()).then(|| value.to_vec())
}

fn seconds(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn status(value: &[u8]) -> Option<Status> {
    let (code, message) = value.split_first_chunk()?;
    Some(Status {
        code: match u16::from_be_bytes(*code) {
            0 => Code::Success,
            1 => Code::UnspecFail,
            2 => Code::NoAddrsAvail,
            3 => Code::NoBinding,
            4 => Code::NotOnLink,
            5 => Code::UseMulticast,
            other => Code::Other(other),
        },
        // For people: short, and nothing but printable ASCII.
        message: message
            .iter()
            .take(128)
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '?',
            })
            .collect(),
    })
}

fn association(value: &[u8], malformed: &mut u32) -> Option<Association> {
    let (id, rest) = value.split_first_chunk()?;
    let (t1, rest) = rest.split_first_chunk()?;
    let (t2, area) = rest.split_first_chunk()?;
    let mut addresses = Vec::new();
    let mut said = None;
    for (code, value) in options(area, malformed) {
        match code {
            5 => match granted(value, malformed) {
                Some(granted) if addresses.len() < MAX_LISTED => addresses.push(granted),
                Some(_) => {}
                None => *malformed += 1,
            },
            13 => match status(value) {
                Some(status) => once(&mut said, status),
                None => *malformed += 1,
            },
            _ => {}
        }
    }
    Some(Association {
        id: u32::from_be_bytes(*id),
        t1: u32::from_be_bytes(*t1),
        t2: u32::from_be_bytes(*t2),
        addresses,
        status: said.unwrap_or_default(),
    })
}

fn granted(value: &[u8], malformed: &mut u32) -> Option<Granted> {
    let (address, rest) = value.split_first_chunk::<16>()?;
    let (preferred, rest) = rest.split_first_chunk()?;
    let (valid, area) = rest.split_first_chunk()?;
    let mut said = None;
    for (code, value) in options(area, malformed) {
        if code == 13 {
            match status(value) {
                Some(status) => once(&mut said, status),
                None => *malformed += 1,
            }
        }
    }
    Some(Granted {
        address: (*address).into(),
        preferred: u32::from_be_bytes(*preferred),
        valid: u32::from_be_bytes(*valid),
        status: said.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(options: &[(u16, &[u8])]) -> Reply {
        let mut bytes = vec![7, 1, 2, 3];
        for (code, value) in options {
            bytes.extend(code.to_be_bytes());
            bytes.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
            bytes.extend(*value);
        }
        Reply::decode(&bytes).expect("readable")
    }

    #[test]
    fn only_answers_are_read() {
        assert_eq!(Reply::decode(&[7, 0, 0]), Err(NotAReply::Short));
        for kind in [0, 1, 3, 6, 10, 12, 13, 255] {
            assert_eq!(Reply::decode(&[kind, 0, 0, 0]), Err(NotAReply::Kind));
        }
        let reply = reply(&[]);
        assert_eq!((reply.kind, reply.xid), (Kind::Reply, 0x01_0203));
        assert_eq!(reply.status.code, Code::Success);
    }

    #[test]
    fn a_malformed_option_is_dropped_alone() {
        let read = reply(&[
            (1, &[0, 3]),
            (2, &[0; 131]),
            (3, &[0; 11]),
            (7, &[]),
            (13, &[0]),
            (14, &[0]),
            (23, &[0; 15]),
            (24, b"\x03lab"),
            (32, &[0; 5]),
            (56, &[0, 1, 0, 2, 9, 9]),
            (82, &[0; 3]),
            (83, &[]),
            (7, &[9]),
            (1, &[0, 3, 7]),
        ]);
        assert_eq!(read.malformed, 12);
        assert_eq!((read.preference, read.client), (9, Some(vec![0, 3, 7])));
        assert!(read.associations.is_empty() && read.dns.is_empty() && !read.rapid_commit);
    }

    #[test]
    fn the_first_good_instance_counts() {
        let read = reply(&[(7, &[]), (7, &[0]), (7, &[255]), (2, &[1; 4]), (2, &[2; 4])]);
        assert_eq!((read.preference, read.server), (0, Some(vec![1; 4])));
    }

    #[test]
    fn options_inside_options_are_judged_alone_too() {
        let mut ia = vec![0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2];
        ia.extend([0, 5, 0, 3, 1, 2, 3]);
        ia.extend([&[0, 5, 0, 30][..], &[0xfd; 16], &[0, 0, 0, 7, 0, 0, 0, 8]].concat());
        ia.extend([0, 13, 0, 2, 0, 4]);
        ia.extend([0, 13, 0, 1, 0]);
        let read = reply(&[(3, &ia)]);
        let association = read.association(9).expect("there");
        assert_eq!((association.t1, association.t2), (1, 2));
        let [granted] = &association.addresses[..] else {
            panic!("one address: {association:?}");
        };
        assert_eq!((granted.preferred, granted.valid), (7, 8));
        assert_eq!(granted.status.code, Code::NotOnLink);
        assert_eq!(association.status.code, Code::Success);
        assert_eq!(read.malformed, 2);
    }

    #[test]
    fn words_are_printable_and_servers_possible() {
        let read = reply(&[
            (13, b"\0\x01no\x1b[2J"),
            (23, &[&[0xff; 16][..], &[0xfd; 16]].concat()),
            (56, &[&[0, 1, 0, 16][..], &[0xfd; 16]].concat()),
            (56, &[&[0, 2, 0, 16][..], &[0xff; 16]].concat()),
        ]);
        assert_eq!(read.status.message, "no?[2J");
        assert_eq!(read.dns, [Ipv6Addr::from([0xfd; 16])]);
        assert_eq!(read.ntp, [Ipv6Addr::from([0xfd; 16])]);
    }
}
