use super::*;
use netcfg::status::{ClockStatus, RaStatus, ResolverStatus, Warning};

fn eth0() -> LinkStatus {
    let address = |address: &str, source, valid_s| AddressStatus {
        address: address.into(),
        source,
        valid_s,
    };
    LinkStatus {
        name: "eth0".into(),
        index: 2,
        mac: "52:54:00:12:34:56".into(),
        driver: Some("virtio_net".into()),
        path: Some("pci0000:00/0000:00:02.0/virtio0".into()),
        up: true,
        carrier: true,
        mtu: 1500,
        managed_by: Some("network.link[0]".into()),
        role: Some("uplink".into()),
        metric: Some(1002),
        addresses: vec![
            address("fe80::5054:ff:fe12:3456/64", Source::Kernel, None),
            address("10.0.2.15/24", Source::Dhcp4, Some(86_280)),
        ],
        routes: vec![
            RouteStatus {
                to: "default".into(),
                via: Some("10.0.2.2".into()),
                metric: 1002,
                mtu: Some(1400),
            },
            RouteStatus {
                to: "10.0.2.0/24".into(),
                metric: 1002,
                ..RouteStatus::default()
            },
        ],
        dhcp4: Some(Dhcp4Status {
            phase: "bound".into(),
            address: Some("10.0.2.15/24".into()),
            server: Some("10.0.2.2".into()),
            lease_s: Some(86_400),
            renew_in_s: Some(43_080),
            rebind_in_s: Some(75_480),
            expires_in_s: Some(86_280),
            verified: true,
            counters: Counters {
                sent: 2,
                received: 3,
                refused: 1,
                ..Counters::default()
            },
        }),
        dhcp6: Some(Dhcp6Status {
            mode: "stateless".into(),
            phase: "informed".into(),
            ..Dhcp6Status::default()
        }),
        ra: Some(RaStatus {
            other: true,
            dns: vec!["2001:db8::53".into()],
            ..RaStatus::default()
        }),
        dns: vec!["10.0.2.3".into(), "2001:db8::53".into()],
        search: vec!["example.net\x1b[2J".into()],
        ntp: vec!["10.0.2.2".into()],
    }
}

const ETH0: &str = "\
eth0: 10.0.2.15/24
  link        2, 52:54:00:12:34:56, mtu 1500, virtio_net, pci0000:00/0000:00:02.0/virtio0
  managed     by network.link[0], role uplink, metric 1002
  address     fe80::5054:ff:fe12:3456/64 kernel
              10.0.2.15/24 dhcp4, 23 h 58 min left
  route       default via 10.0.2.2 metric 1002 mtu 1400
              10.0.2.0/24 metric 1002
  dhcp4       bound, 10.0.2.15/24 of 10.0.2.2 for 1 d 0 h, confirmed
              renew in 11 h 58 min, rebind in 20 h 58 min, expires in 23 h 58 min
              2 sent, 3 heard, 1 refused
  dhcp6       stateless, informed
              0 sent, 0 heard
  router      other things by DHCPv6; dns 2001:db8::53
  dns         10.0.2.3, 2001:db8::53
  search      example.net\\x1b[2J
  ntp         10.0.2.2
";

fn call(link: Option<&str>, json: bool) -> NetCall {
    NetCall {
        runtime_dir: RUNTIME_DIR.into(),
        json,
        verb: Verb::Net {},
        link: link.map(str::to_owned),
    }
}

#[test]
fn a_machine_at_a_glance() {
    let status = Status {
        links: vec![eth0()],
        default_link: Some("eth0".into()),
        resolver: ResolverStatus {
            path: "/run/netcfg/resolv.conf".into(),
            servers: vec!["10.0.2.3".into()],
            search: vec!["example.net".into()],
        },
        hostname: Some("box".into()),
        clock: Some(ClockStatus {
            offset_ms: -12,
            server: "10.0.2.2".into(),
            ago_s: 61,
        }),
        warnings: vec![Warning {
            at_s: 12,
            link: Some("eth0".into()),
            reason: "dhcp-nak".into(),
            detail: "server=10.0.2.2 message=no\x07".into(),
        }],
        ..Status::default()
    };
    let expected = format!(
        "network
  default     by eth0
  dns         10.0.2.3; search example.net (/run/netcfg/resolv.conf)
  hostname    box
  clock       -12 ms off against 10.0.2.2, 1 min 1 s ago
{ETH0}last warnings
  12.000      eth0 dhcp-nak server=10.0.2.2 message=no\\x07
"
    );
    assert_eq!(render(&status), expected);
    assert_eq!(show(&call(None, false), status).unwrap(), expected);
}

#[test]
fn a_machine_without_anything() {
    let status = Status {
        resolver: ResolverStatus {
            path: "/run/resolv.conf".into(),
            ..ResolverStatus::default()
        },
        sandbox_gap: Some("landlock: not in force".into()),
        ..Status::default()
    };
    let expected = "\
network
  default     nowhere: no link has a default route
  dns         no server (/run/resolv.conf)
  sandbox     landlock: not in force
no Ethernet link; is there a driver for it?
";
    assert_eq!(render(&status), expected);
}

#[test]
fn the_headline_says_what_stands_in_the_way() {
    let bare = LinkStatus {
        addresses: Vec::new(),
        ..eth0()
    };
    let mut selecting = bare.clone();
    let client = selecting.dhcp4.as_mut().unwrap();
    client.phase = "selecting".into();
    client.counters = Counters {
        sent: 5,
        ..Counters::default()
    };
    for (link, expected) in [
        (
            LinkStatus {
                up: false,
                ..eth0()
            },
            "switched off",
        ),
        (
            LinkStatus {
                carrier: false,
                ..eth0()
            },
            "no carrier; is the cable in, and the other side on?",
        ),
        (selecting, "no address; dhcp4 is selecting, 5 sent, 0 heard"),
        (
            LinkStatus {
                dhcp4: None,
                ..bare.clone()
            },
            "no address; dhcp4 is off",
        ),
        (
            LinkStatus {
                managed_by: None,
                dhcp4: None,
                ..bare
            },
            "left alone; no [[network.link]] of the configuration matches it",
        ),
        (eth0(), "10.0.2.15/24"),
    ] {
        assert_eq!(headline(&link), expected);
    }
}

#[test]
fn one_link_of_several() {
    let status = || Status {
        links: vec![
            eth0(),
            LinkStatus {
                name: "eth1".into(),
                ..LinkStatus::default()
            },
        ],
        ..Status::default()
    };
    assert_eq!(show(&call(Some("eth0"), false), status()).unwrap(), ETH0);
    let json = show(&call(Some("eth1"), true), status()).unwrap();
    let reply: Reply = serde_json::from_str(&json).unwrap();
    let names: Vec<String> = reply
        .net
        .unwrap()
        .links
        .into_iter()
        .map(|l| l.name)
        .collect();
    assert_eq!((names, json.ends_with("}\n")), (vec!["eth1".into()], true));
    match show(&call(Some("eth7"), false), status()) {
        Err(Failure::Refused(why)) => {
            assert_eq!(why, "no link is called eth7; there are eth0, eth1");
        }
        other => panic!("{other:?}"),
    }
}

/// A netcfg that answers one request with this, and what it was asked.
fn told(answer: &str, call: &str) -> (std::process::ExitCode, String, String, String) {
    use std::io::{BufRead, Write};
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("initctl-net-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.join("control")).unwrap();
    let answer = answer.to_owned();
    let netcfg = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
        reader.read_line(&mut asked).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        asked
    });
    let words = call.split(' ').map(std::ffi::OsString::from);
    let dir_option = ["--runtime-dir".into(), dir.clone().into()];
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let status = crate::ctl::run_on(dir_option.into_iter().chain(words), &mut out, &mut errors);
    let asked = netcfg.join().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status, text(out), text(errors), asked)
}

#[test]
fn netcfg_itself_is_asked() {
    use std::process::ExitCode;
    let status = Status {
        links: vec![eth0()],
        ..Status::default()
    };
    let answer = serde_json::to_string(&Reply::net(status)).unwrap() + "\n";
    let (code, out, errors, asked) = told(&answer, "net eth0");
    assert_eq!(
        (code, out.as_str(), errors.as_str()),
        (ExitCode::SUCCESS, ETH0, "")
    );
    assert_eq!(asked, "{\"verb\":\"net\"}\n");
    assert_eq!(told(&answer, "net --json").1, answer);
    let done = "{\"ok\":true}\n";
    let (_, out, _, asked) = told(done, "net renew eth0");
    assert_eq!(out, "netcfg renews the lease of eth0\n");
    assert_eq!(asked, "{\"verb\":\"renew\",\"link\":\"eth0\"}\n");
    assert_eq!(told(done, "net release eth0 --json").1, done);
    let no = "{\"ok\":false,\"error\":\"eth0 has no lease\\u001b\"}\n";
    let (code, _, errors, _) = told(no, "net release eth0");
    assert_eq!(code, ExitCode::from(1));
    assert_eq!(errors, "initctl: eth0 has no lease\\x1b\n");
    let (code, _, errors, _) = told("{\"ok\":true}\n", "net");
    assert_eq!(code, ExitCode::from(3));
    assert!(
        errors.contains("netcfg answered without a status"),
        "{errors}"
    );
    let (code, _, errors, _) = told("nonsense\n", "net");
    assert_eq!(code, ExitCode::from(3));
    assert!(
        errors.contains("netcfg's answer is not understood"),
        "{errors}"
    );
}

#[test]
fn without_netcfg_it_says_where_to_look() {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let words = ["--runtime-dir", "/nowhere", "net"].map(std::ffi::OsString::from);
    let code = crate::ctl::run_on(words, &mut out, &mut errors);
    let errors = String::from_utf8(errors).unwrap();
    assert_eq!(code, std::process::ExitCode::from(3));
    assert!(
        errors.contains("/nowhere/control") && errors.contains("`initctl explain netcfg`"),
        "{errors}"
    );
}
