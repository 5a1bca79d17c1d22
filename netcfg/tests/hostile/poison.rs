//! Leases that are good, with something in them that is meant to hurt.

use std::net::Ipv4Addr;

use crate::bed::reply::Draft;
use crate::{ADDRESS, Case, EVIL, SERVER};

/// Texts that mean something to a shell, a configuration file, a terminal or a careless reader
/// (CVE-2011-0997, CVE-2011-2716 and their like).
const TEXTS: [&[u8]; 22] = [
    b"a\nnameserver 6.6.6.6",
    b"a\r\nnameserver 6.6.6.6\r\n",
    b"a nameserver 6.6.6.6",
    b"a\0nameserver 6.6.6.6",
    b"a\tb",
    b"$(reboot)",
    b"`reboot`",
    b"x;reboot",
    b"x|reboot",
    b"x&reboot&",
    b"x>/etc/passwd",
    b"'\"\\",
    b"../../../etc/passwd",
    b"%s%n%n%n%n",
    b"\x1b[2J\x1b]0;x\x07",
    b"\xff\xfe\x80",
    b"\xc3\xa9.example",
    b"-rf",
    b"a..b",
    b".",
    b"",
    b"#",
];

/// Addresses that belong to no other host.
const NOBODY: [[u8; 4]; 6] = [
    [0, 0, 0, 0],
    [127, 0, 0, 1],
    [224, 0, 0, 1],
    [239, 255, 255, 250],
    [240, 0, 0, 1],
    [255, 255, 255, 255],
];

struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: String, edit: impl Fn(&mut Draft) + 'static) {
        self.0.push(Case {
            name,
            phases: &[],
            edit: Box::new(edit),
        });
    }

    fn option(&mut self, name: &str, code: u8, value: impl Into<Vec<u8>>) {
        let value = value.into();
        self.add(format!("option {code}: {name}"), move |draft| {
            draft.set(code, value.clone());
        });
    }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut table = Table(vec![]);
    texts(&mut table);
    search_list(&mut table);
    routes(&mut table);
    hosts(&mut table);
    numbers(&mut table);
    header(&mut table);
    layout(&mut table);
    table.0
}

fn texts(table: &mut Table) {
    for text in TEXTS {
        let shown = text.escape_ascii().to_string();
        for code in [12, 15] {
            table.option(&shown, code, text);
        }
    }
    // Boot file, WPAD, time zones, captive portal and others that end up in scripts.
    for code in [14, 17, 40, 43, 60, 64, 66, 67, 77, 100, 101, 114, 252] {
        table.option(
            "command and line break",
            code,
            &b"$(reboot)\nnameserver 6.6.6.6"[..],
        );
    }
    for code in [12, 15] {
        table.option("one label of 64", code, [b'a'; 64]);
        table.option("255 letters", code, [b'a'; 255]);
        table.option("255 NULs", code, [0; 255]);
        table.option("labels to 255", code, b"a.".repeat(127));
        table.option("padded to 255", code, [&b"host"[..], &[0; 251]].concat());
        table.add(format!("option {code}: text in two parts"), move |draft| {
            draft.options.push((code, b"a\nnameser".to_vec()));
            draft.options.push((code, b"ver 6.6.6.6".to_vec()));
        });
    }
}

/// Option 119 (RFC 3397): labels and pointers as in DNS.
fn search_list(table: &mut Table) {
    for (name, value) in [
        ("a pointer to itself", &[0xc0, 0][..]),
        ("a name that points to its start", &[1, b'a', 0xc0, 0]),
        ("two pointers to each other", &[0xc0, 2, 0xc0, 0]),
        ("a pointer forward", &[0xc0, 4, 1, b'a', 1, b'b', 0]),
        ("a pointer out of it", &[1, b'a', 0xff, 0xff]),
        ("half a pointer", &[1, b'a', 0xc0]),
        ("a label longer than the rest", &[63, b'a']),
        ("a label of a reserved kind", &[0x41, b'a', 0]),
        ("a name without end", &[1, b'a', 1, b'b']),
        ("nothing", &[]),
        ("the root", &[0]),
        ("a line break in a label", b"\x16a\nnameserver 6.6.6.6 \0"),
        ("a dot in a label", b"\x03a.b\0"),
    ] {
        table.option(name, 119, value);
    }
    table.option("127 roots", 119, [0; 127]);
    table.option(
        "a name of 254",
        119,
        [&b"\x01a".repeat(126)[..], &[0]].concat(),
    );
    table.add("option 119: in many parts".into(), |draft| {
        for _ in 0..100 {
            draft.options.push((119, vec![1, b'a', 0]));
        }
    });
}

/// Options 121, 249 and 33.
fn routes(table: &mut Table) {
    let good = SERVER.octets();
    let own = ADDRESS.octets();
    let route = |prefix: u8, to: &[u8], via: [u8; 4]| [&[prefix][..], to, &via].concat();
    let default = route(0, &[], good);
    for (name, value) in [
        ("loopback", route(8, &[127], good)),
        ("part of loopback", route(32, &[127, 0, 0, 1], good)),
        ("multicast", route(4, &[224], good)),
        ("reserved", route(4, &[240], good)),
        ("broadcast", route(32, &[255; 4], good)),
        ("own address", route(32, &own, good)),
        ("own address elsewhere", route(32, &own, EVIL.octets())),
        // CVE-2024-3661: more specific than any default route of a tunnel.
        (
            "all in two halves",
            [
                route(1, &[0], EVIL.octets()),
                route(1, &[128], EVIL.octets()),
            ]
            .concat(),
        ),
        ("router ourselves", route(0, &[], own)),
        ("width 33", route(33, &[1, 2, 3, 4, 5], good)),
        ("width 255", route(255, &[1, 2, 3, 4], good)),
        ("without router", vec![24, 198, 51, 100]),
        ("half a router", vec![24, 198, 51, 100, 10, 7]),
        ("nothing", vec![]),
        ("width alone", vec![32]),
        ("bits below the width", route(8, &[198], good)),
    ] {
        for code in [121, 249] {
            table.option(name, code, [&value[..], &default].concat());
            table.option(&format!("{name}, alone"), code, value.clone());
        }
    }
    for via in NOBODY {
        let name = format!("router {}", Ipv4Addr::from(via));
        table.option(
            &name,
            121,
            [route(24, &[198, 51, 100], via), default.clone()].concat(),
        );
    }
    table.option("one destination, two routers", 121, {
        [default.clone(), route(0, &[], EVIL.octets())].concat()
    });
    table.add("option 121: 90 routes in many parts".into(), |draft| {
        for third in 0..90 {
            draft.options.push((121, vec![24, 198, 51]));
            draft.options.push((121, vec![third, 10, 7, 0, 1]));
        }
    });
    for value in [
        vec![],
        vec![1, 2, 3, 4],
        vec![0, 0, 0, 0, 10, 7, 0, 66],
        vec![127, 0, 0, 1, 10, 7, 0, 66],
        vec![198, 51, 100, 1, 127, 0, 0, 1],
        vec![224, 0, 0, 1, 10, 7, 0, 66, 1],
    ] {
        table.option(&format!("{value:?}"), 33, value);
    }
}

/// Options that are lists of hosts.
fn hosts(table: &mut Table) {
    for code in [3, 6, 42] {
        for address in NOBODY {
            let name = Ipv4Addr::from(address).to_string();
            table.option(&name, code, address);
        }
        table.option("ourselves", code, ADDRESS.octets());
        for length in [0, 1, 3, 5, 7, 255] {
            table.option(&format!("{length} bytes"), code, vec![9; length]);
        }
        table.option("63 hosts", code, [10, 7, 0, 9].repeat(63));
        table.option("all nobody", code, NOBODY.concat());
        table.add(format!("option {code}: a byte at a time"), move |draft| {
            draft.remove(code);
            for octet in [127, 0, 0, 1, 10, 7, 0, 9] {
                draft.options.push((code, vec![octet]));
            }
        });
    }
}

/// Mask, MTU, times, and options of a wrong length.
fn numbers(table: &mut Table) {
    for mask in [
        [0, 0, 0, 0],
        [255, 0, 255, 0],
        [0, 255, 255, 255],
        [0, 0, 0, 255],
        [255, 255, 255, 254],
        [255, 255, 255, 255],
        [128, 0, 0, 0],
    ] {
        table.option(&Ipv4Addr::from(mask).to_string(), 1, mask);
    }
    for mtu in [0_u16, 1, 67, 68, 575, 576, 1279, 65_534, 65_535] {
        table.option(&mtu.to_string(), 26, mtu.to_be_bytes());
    }
    for (name, lease, t1, t2) in [
        ("infinite", u32::MAX, 1, 2),
        ("almost infinite", u32::MAX - 1, u32::MAX - 3, u32::MAX - 2),
        ("signed", i32::MAX.unsigned_abs(), 1 << 31, 1 << 31),
        ("in the wrong order", 3600, 3000, 2000),
        ("after the end", 3600, 7200, 7300),
        ("zero", 3600, 0, 0),
        ("at the end", 3600, 3600, 3600),
        ("for ever", 3600, u32::MAX, u32::MAX),
        ("the shortest", 10, 9, 10),
    ] {
        table.add(format!("times: {name}"), move |draft| {
            for (code, seconds) in [(51, lease), (58, t1), (59, t2)] {
                draft.set(code, seconds.to_be_bytes());
            }
        });
    }
    for code in [1, 26, 28, 58, 59, 108, 116] {
        for length in [0, 1, 3, 5, 8, 255] {
            table.option(&format!("{length} bytes"), code, vec![0xa5; length]);
        }
    }
    for code in [50, 55, 57, 60, 80, 81, 82, 90, 118, 125] {
        table.option("empty", code, []);
        table.option("255 bytes", code, [0xff; 255]);
    }
    for (code, values) in [(51, [3600, 0_u32]), (58, [u32::MAX, 0]), (26, [1400, 0])] {
        table.add(
            format!("option {code}: twice, and not the same"),
            move |draft| {
                let length = if code == 26 { 2 } else { 4 };
                draft.remove(code);
                for value in values {
                    let bytes = value.to_be_bytes();
                    draft.options.push((code, bytes[4 - length..].to_vec()));
                }
            },
        );
    }
}

/// Fields that a client has no use for.
fn header(table: &mut Table) {
    // All zero is what an honest one has.
    for address in NOBODY
        .into_iter()
        .skip(1)
        .chain([EVIL.octets(), ADDRESS.octets()])
    {
        let address = Ipv4Addr::from(address);
        table.add(format!("siaddr {address}"), move |draft| {
            draft.siaddr = address;
        });
        table.add(format!("giaddr {address}"), move |draft| {
            draft.giaddr = address;
        });
        table.add(format!("ciaddr {address}"), move |draft| {
            draft.ciaddr = address;
        });
    }
    table.add("hops, secs and flags all ones".into(), |draft| {
        (draft.head[3], draft.secs, draft.flags) = (255, 0xffff, 0xffff);
    });
    table.add("chaddr with more behind".into(), |draft| {
        draft.chaddr[6..].fill(255);
    });
    for byte in [0xff, b'a', 52] {
        table.add(format!("sname and file of {byte:02x}"), move |draft| {
            draft.sname.fill(byte);
            draft.file.fill(byte);
        });
    }
    table.add("commands in sname and file".into(), |draft| {
        draft.sname[..9].copy_from_slice(b"$(reboot)");
        draft.file[..22].copy_from_slice(b"\nnameserver 6.6.6.6\n#\n");
    });
    table.add("IP header with options".into(), |draft| {
        draft.ip_options = vec![1; 40];
    });
    table.add("source port 4011".into(), |draft| draft.ports[0] = 4011);
}

/// Where options are, and what is between them.
fn layout(table: &mut Table) {
    for how in [0, 1, 2, 3, 4, 255] {
        table.add(
            format!("overload {how} with poison in both fields"),
            move |draft| {
                draft.set(52, [how]);
                let poison = b"\x0f\x15a\nnameserver 6.6.6.6 \x06\x047\x00\x00\x01";
                draft.file[..poison.len()].copy_from_slice(poison);
                draft.sname[..poison.len()].copy_from_slice(poison);
            },
        );
    }
    table.add("each field leads to the other".into(), |draft| {
        draft.set(52, [1]);
        draft.file[..4].copy_from_slice(&[52, 1, 2, 255]);
        draft.sname[..4].copy_from_slice(&[52, 1, 1, 255]);
    });
    table.add("overloaded fields run over".into(), |draft| {
        draft.set(52, [3]);
        draft.file[126..].copy_from_slice(&[6, 4]);
        draft.sname[63..].copy_from_slice(&[6]);
    });
    table.add("overload of two bytes".into(), |draft| {
        draft.set(52, [1, 1]);
    });
    table.add("no end".into(), |draft| draft.tail.clear());
    table.add("a code and no length at the end".into(), |draft| {
        draft.tail = vec![6];
    });
    table.add("an option past the end".into(), |draft| {
        draft.tail = vec![15, 200, b'a', b'\n'];
    });
    table.add("poison after the end".into(), |draft| {
        draft.tail = b"\xff\x0f\x15a\nnameserver 6.6.6.6 \x06\x04\x06\x06\x06\x06\xff".to_vec();
    });
    table.add("a pad between all".into(), |draft| {
        let message: Vec<(u8, Vec<u8>)> = std::mem::take(&mut draft.options);
        draft.tail = message
            .into_iter()
            .flat_map(|(code, value)| {
                let length = u8::try_from(value.len()).expect("short");
                [&[0, 0, code, length][..], &value].concat()
            })
            .chain([255])
            .collect();
    });
    table.add("as many empty options as fit".into(), |draft| {
        let left = 1472 - draft.message().len() - 1;
        draft.tail = (128..248)
            .flat_map(|code| [code, 0])
            .cycle()
            .take(left / 2 * 2)
            .collect();
        draft.tail.push(255);
    });
    // 1472 is what netcfg says it takes (option 57).
    table.add("all the room there is, in one option".into(), |draft| {
        let mut left = 1472 - draft.message().len();
        while left > 2 {
            let length = (left - 2).min(255);
            draft.options.push((224, vec![0xee; length]));
            left -= 2 + length;
        }
    });
}
