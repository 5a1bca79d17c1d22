//! Answers from which no lease may come: each breaks a rule, and is perfect otherwise.

use std::net::Ipv4Addr;

use crate::bed::frame::{ACK, NAK, OFFER};
use crate::bed::reply::Draft;
use crate::{ADDRESS, Case, EVIL, Phase, SERVER};

const EVERY: &[Phase] = &[Phase::Offer, Phase::Ack, Phase::Renew];
const AFTER_OFFER: &[Phase] = &[Phase::Ack, Phase::Renew];
const OFFER_ONLY: &[Phase] = &[Phase::Offer];
/// While netcfg reads whole packets, and not the kernel's UDP.
const RAW: &[Phase] = &[Phase::Offer, Phase::Ack];

/// Where the Ethernet header ends, and the IPv4 header without options after it.
const IP: usize = 14;
const UDP: usize = 34;

struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: String, edit: impl Fn(&mut Draft) + 'static) {
        self.during(EVERY, name, edit);
    }

    fn during(
        &mut self,
        phases: &'static [Phase],
        name: String,
        edit: impl Fn(&mut Draft) + 'static,
    ) {
        self.0.push(Case {
            name,
            phases,
            edit: Box::new(edit),
        });
    }

    /// A frame that is spoilt after its sums were made.
    fn damaged(&mut self, name: &str, damage: impl Fn(&mut Vec<u8>) + Clone + 'static) {
        self.add(name.to_owned(), move |draft| {
            draft.damage = Some(Box::new(damage.clone()));
        });
    }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut table = Table(vec![]);
    header(&mut table);
    addresses(&mut table);
    essentials(&mut table);
    kinds(&mut table);
    cuts(&mut table);
    hidden(&mut table);
    large(&mut table);
    packets(&mut table);
    table.0
}

/// It is not an answer to us (RFC 2131, section 4.1; RFC 951, section 3).
fn header(table: &mut Table) {
    for (at, field, values) in [
        (0, "op", &[0, 1, 3, 255][..]),
        (1, "htype", &[0, 2, 6, 32, 255]),
        // 17 and more are longer than the field: CVE class of readers that trust it.
        (2, "hlen", &[0, 1, 5, 7, 16, 17, 255]),
    ] {
        for value in values.iter().copied() {
            table.add(format!("{field} {value}"), move |draft| {
                draft.head[at] = value;
            });
        }
    }
    for at in 0..4 {
        table.add(format!("cookie byte {at}"), move |draft| {
            draft.cookie[at] ^= 1;
        });
        table.add(format!("xid byte {at}"), move |draft| draft.xid[at] ^= 0x80);
    }
    table.add("cookie 0".into(), |draft| draft.cookie = [0; 4]);
    table.add("xid 0".into(), |draft| draft.xid = [0; 4]);
    table.add("xid all ones".into(), |draft| draft.xid = [255; 4]);
    table.add("xid in the other order".into(), |draft| draft.xid.reverse());
    for at in 0..6 {
        table.add(format!("chaddr byte {at}"), move |draft| {
            draft.chaddr[at] ^= 4;
        });
    }
    table.add("chaddr 0".into(), |draft| draft.chaddr = [0; 16]);
    table.add("chaddr broadcast".into(), |draft| draft.chaddr = [255; 16]);
    // RFC 6842.
    table.add("client id of another".into(), |draft| {
        draft.set(61, [1, 2, 3, 4, 5, 6, 7]);
    });
    table.add("client id of ours and more".into(), |draft| {
        let id = [&[1], &draft.chaddr[..6], &[0]].concat();
        draft.set(61, id);
    });
}

/// The address cannot be a host's, or is not the one that was asked for.
fn addresses(table: &mut Table) {
    for address in [
        [0, 0, 0, 0],
        [255, 255, 255, 255],
        [224, 0, 0, 1],
        [239, 255, 255, 250],
        [127, 0, 0, 1],
        [240, 0, 0, 1],
        [0, 0, 0, 1],
        // First and last of their network.
        [10, 7, 0, 0],
        [10, 7, 0, 255],
    ] {
        let address = Ipv4Addr::from(address);
        table.add(format!("yiaddr {address}"), move |draft| {
            draft.yiaddr = address;
        });
    }
    for address in [[10, 7, 0, 51], [10, 7, 0, 1], [192, 168, 1, 1]] {
        let address = Ipv4Addr::from(address);
        let name = format!("confirms {address}, for which nobody asked");
        table.during(AFTER_OFFER, name, move |draft| draft.yiaddr = address);
    }
}

/// Without one of these there is no lease: message type, server, lease time.
fn essentials(table: &mut Table) {
    for code in [51, 53, 54] {
        table.add(format!("no option {code}"), move |draft| draft.remove(code));
        let right = if code == 53 { 1 } else { 4 };
        for length in (0..=8).filter(|length| *length != right) {
            table.add(format!("option {code} of {length} bytes"), move |draft| {
                draft.set(code, vec![1; length]);
            });
        }
        // CVE-2018-15688 and its like: the length leads out of the message.
        table.add(format!("option {code} past the end"), move |draft| {
            let value = draft.options.iter().find(|(found, _)| *found == code);
            let value = value.map(|(_, value)| value.clone()).unwrap_or_default();
            draft.remove(code);
            draft.tail = [&[code, 255][..], &value].concat();
        });
    }
    for seconds in [0_u32, 1, 2, 9] {
        table.add(format!("lease of {seconds} s"), move |draft| {
            draft.set(51, seconds.to_be_bytes());
        });
    }
    for server in [
        EVIL,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
    ] {
        let name = format!("confirmed by {server}, who was not chosen");
        table.during(&[Phase::Ack], name, move |draft| {
            draft.set(54, server.octets());
        });
    }
}

/// Messages that are no answer to what was asked.
fn kinds(table: &mut Table) {
    // 9 is FORCERENEW, unauthenticated (CVE-2020-13529); 10 to 18 are of lease queries and the
    // like; 1, 3, 4, 7 and 8 are a client's own.
    for kind in [
        0, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 128, 255,
    ] {
        table.add(format!("message type {kind}"), move |draft| {
            draft.set(53, [kind]);
        });
    }
    table.add("FORCERENEW with xid 0".into(), |draft| {
        draft.set(53, [9]);
        draft.xid = [0; 4];
    });
    table.during(OFFER_ONLY, "ACK to a DISCOVER".into(), |draft| {
        draft.set(53, [ACK]);
    });
    table.during(AFTER_OFFER, "OFFER to a REQUEST".into(), |draft| {
        draft.set(53, [OFFER]);
    });
    // Whose word does not count.
    table.add("NAK of another server".into(), |draft| {
        draft.set(53, [NAK]);
        draft.set(54, EVIL.octets());
    });
    table.add("NAK of nobody".into(), |draft| {
        draft.set(53, [NAK]);
        draft.remove(54);
    });
    table.add("NAK for another question".into(), |draft| {
        draft.set(53, [NAK]);
        draft.set(54, SERVER.octets());
        draft.xid[0] ^= 1;
    });
    table.add("NAK for another client".into(), |draft| {
        draft.set(53, [NAK]);
        draft.set(54, SERVER.octets());
        draft.chaddr[5] ^= 1;
    });
    for number in 0..30 {
        table.add(format!("storm of NAKs, {number}"), move |draft| {
            draft.set(53, [NAK]);
            draft.set(54, [10, 7, 2, number]);
            draft.set(56, format!("$(reboot)\n{number}"));
        });
    }
}

/// The message ends too early, at every byte at which something could be read past it. The lease
/// time comes last: no part of the options is a lease.
fn cuts(table: &mut Table) {
    let fields = [
        0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 19, 20, 24, 28, 29, 33, 34, 43, 44,
    ];
    for at in fields.into_iter().chain([107, 108, 235, 236, 237, 239]) {
        table.add(format!("cut at {at}"), move |draft| draft.cut = Some(at));
    }
    for at in 240..=281 {
        table.add(format!("cut at {at}"), move |draft| {
            let time = draft.options.iter().position(|(code, _)| *code == 51);
            let time = draft.options.remove(time.expect("it has one"));
            draft.options.push(time);
            // A byte before the lease time is whole, at the latest.
            let whole = draft.message().len() - draft.tail.len();
            draft.cut = Some(at.min(whole - 1));
        });
    }
}

/// A lease time where none is to be read.
fn hidden(table: &mut Table) {
    let time = [51, 4, 0, 0, 14, 16, 255];
    table.add("lease time after the end".into(), move |draft| {
        draft.remove(51);
        draft.tail = [&[255][..], &time].concat();
    });
    table.add("nothing but an end".into(), |draft| {
        draft.options.clear();
    });
    table.add("end before everything".into(), |draft| {
        draft.options.insert(0, (255, vec![]));
    });
    table.add("nothing but pads".into(), |draft| {
        draft.options.clear();
        draft.tail = vec![0; 1000];
    });
    // Option 52 says which field holds options (RFC 2132, section 9.3); 0 and 4 say nothing.
    for (how, in_file) in [
        (0, true),
        (0, false),
        (1, false),
        (2, true),
        (4, true),
        (4, false),
    ] {
        let place = if in_file { "file" } else { "sname" };
        table.add(
            format!("lease time in {place}, overload {how}"),
            move |draft| {
                draft.remove(51);
                draft.set(52, [how]);
                let field = if in_file {
                    &mut draft.file
                } else {
                    &mut draft.sname
                };
                field[..time.len()].copy_from_slice(&time);
            },
        );
    }
    table.add("lease time in an option of another".into(), move |draft| {
        draft.remove(51);
        draft.set(43, time);
    });
    table.add("each field leads to the other".into(), |draft| {
        draft.remove(51);
        draft.set(52, [3]);
        for field in [&mut draft.file, &mut draft.sname] {
            field[..4].copy_from_slice(&[52, 1, 3, 255]);
        }
    });
    table.add("an overloaded field runs over".into(), |draft| {
        draft.remove(51);
        draft.set(52, [3]);
        draft.file[126..].copy_from_slice(&[51, 4]);
        draft.sname[62..].copy_from_slice(&[51, 200]);
    });
}

/// More than fits anywhere.
fn large(table: &mut Table) {
    // Around netcfg's buffer, the usual frame, jumbo frames, and all that UDP can carry.
    for size in [1501, 2019, 2020, 2021, 2048, 4096, 9000, 65_507] {
        table.add(format!("{size} bytes of pads"), move |draft| {
            draft.remove(51);
            let left = size - draft.message().len();
            draft.tail = vec![0; left];
        });
        table.add(format!("{size} bytes of one option"), move |draft| {
            // RFC 3396: all instances are one value.
            draft.remove(51);
            let code = [3, 6, 12, 15, 56, 61, 119, 121][size % 8];
            let left = size - draft.message().len();
            let instance = [&[code, 255][..], &[1; 255]].concat();
            draft.tail = instance.into_iter().cycle().take(left).collect();
        });
        table.add(format!("{size} bytes of empty options"), move |draft| {
            draft.remove(51);
            let left = size - draft.message().len();
            draft.tail = (1..255)
                .flat_map(|code| [code, 0])
                .cycle()
                .take(left)
                .collect();
        });
    }
}

/// No whole datagram to the client's port (RFC 791, RFC 768).
fn packets(table: &mut Table) {
    for (name, fragment) in [
        ("the first of more fragments", 0x2000),
        ("a last fragment", 0x0001),
        ("a fragment from the middle", 0x3fff),
        ("a fragment of a packet not to be fragmented", 0x6000),
    ] {
        table.during(RAW, name.into(), move |draft| draft.fragment = fragment);
    }
    for port in [0, 67, 69, 546, 0xffff] {
        table.add(format!("to port {port}"), move |draft| {
            draft.ports[1] = port;
        });
    }
    for protocol in [0, 1, 6, 41, 136, 255] {
        table.add(format!("protocol {protocol}"), move |draft| {
            draft.protocol = protocol;
        });
    }
    table.damaged("bad sum of the IP header", |frame| frame[IP + 10] ^= 1);
    table.damaged("bad sum of UDP", |frame| frame[UDP + 6] ^= 0x55);
    table.damaged("bit flip in the message", |frame| frame[UDP + 8 + 16] ^= 2);
    for first in [0x05, 0x35, 0x40, 0x44, 0x4f, 0x55, 0x65, 0xff] {
        table.damaged(
            &format!("IP version and length {first:02x}"),
            move |frame| {
                frame[IP] = first;
            },
        );
    }
    for total in [0_u16, 19, 20, 27, 28, 0xffff] {
        table.damaged(&format!("IP length {total}"), move |frame| {
            frame[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
            resum(frame);
        });
    }
    for length in [0_u16, 7, 8, 0xffff] {
        table.damaged(&format!("UDP length {length}"), move |frame| {
            frame[UDP + 4..UDP + 6].copy_from_slice(&length.to_be_bytes());
        });
    }
    for cut in [15, 33, 34, 35, 41, 42, 43] {
        table.damaged(&format!("frame cut at {cut}"), move |frame| {
            frame.truncate(cut);
        });
    }
}

/// The sum of an IPv4 header again, so that only what was changed is wrong.
fn resum(frame: &mut [u8]) {
    frame[IP + 10..IP + 12].fill(0);
    let sum: u32 = frame[IP..IP + 20]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default();
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}

/// The honest answer in every field that a case leaves alone, but marked: what comes from it can
/// be told from what comes from the honest server.
pub fn mark(draft: &mut Draft, phase: Phase, number: usize) {
    let (high, low) = (number / 200, number % 200 + 1);
    let marker = [10, 66, high, low].map(|octet| u8::try_from(octet).expect("few cases"));
    draft.set(6, marker);
    if phase == Phase::Offer {
        // Any server may offer, and the REQUEST would name it.
        draft.set(54, marker);
    }
    debug_assert_eq!(draft.yiaddr, ADDRESS);
}
