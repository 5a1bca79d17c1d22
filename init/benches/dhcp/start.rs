//! One start of one client, timed.
//!
//! ```text
//!   thread in the client's namespaces          client
//!   ──────────────────────────────────         ──────
//!   listen on rtnetlink
//!   take the time ── fork, exec ─────────────> main() ...
//!   take the time <── RTM_NEWADDR ──────────── the kernel has the address
//! ```
//!
//! Every client is forked by a thread that is already where the client is to be, so no `ip netns
//! exec` and no `setpriv` is in anybody's time. Namespaces and privileges of Linux belong to
//! threads: this one enters the network namespace, makes a mount namespace, becomes netcfg's
//! user where netcfg is to be started, and ends with the measurement.
//!
//! What a client writes is gone with the mount namespace, but for what it keeps on disk: /run is
//! a fresh tmpfs, /etc has one laid over it. /sys is of the network namespace, and read-only, or
//! systemd-networkd would wait for udev.

use super::bed::{Bed, UID, sys};
use super::clients::{Client, Programs};
use rustix::fs::{Gid, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What was seen of one start, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From just before fork to the address.
    pub exec: f64,
    /// From the first word of a carrier to the address.
    pub carrier: Option<f64>,
}

/// Starts the client, waits for its address, and ends it. `None` when there was none in time.
pub fn timed(bed: &Bed, client: Client, programs: &Programs, patience: Duration) -> Option<Times> {
    let log = File::create(bed.folder.join(format!("log-{}", client as u8))).unwrap();
    let mut command = client.command(bed, programs);
    command
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap())
        .stdout(log);
    let (netns, state) = (bed.client.clone(), client.state(bed));
    let thread = std::thread::spawn(move || {
        enter(&netns, client, &state);
        let socket = listen();
        if client == Client::Netcfg {
            become_netcfg();
        }
        let begin = Instant::now();
        let child = command.spawn().unwrap();
        (address(&socket, begin, patience), child)
    });
    let (times, mut child) = thread.join().unwrap();
    if times.is_some() && client != Client::Networkd && client != Client::Udhcpc {
        // Some keep the lease only after they have used it.
        let deadline = Instant::now() + patience;
        while !client.has_lease(bed) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    end(bed, &mut child);
    times
}

/// Kills the client and all that it started, by the network namespace they are in.
fn end(bed: &Bed, child: &mut Child) {
    let _ = child.kill();
    child.wait().unwrap();
    loop {
        let pids = super::bed::tools::ip(&["netns", "pids", &bed.client]);
        let pids: Vec<&str> = pids.split_whitespace().collect();
        if pids.is_empty() {
            return;
        }
        let _ = Command::new("kill").arg("-KILL").args(&pids).output();
    }
}

fn enter(netns: &str, client: Client, state: &Path) {
    sys::own_mounts().unwrap();
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .unwrap();
    sys::enter(netns).unwrap();
    let none = MountFlags::empty();
    mount("run", "/run", "tmpfs", none, c"mode=755").unwrap();
    mount("sys", "/sys", "sysfs", MountFlags::RDONLY, None).unwrap();
    for folder in ["netcfg", "etc", "work", "systemd/network"] {
        fs::create_dir_all(format!("/run/{folder}")).unwrap();
    }
    chown("/run/netcfg", Some(UID), Some(UID)).unwrap();
    let layers = c"lowerdir=/etc,upperdir=/run/etc,workdir=/run/work";
    mount("etc", "/etc", "overlay", none, layers).unwrap();
    fs::write("/etc/resolv.conf", "").unwrap();
    if matches!(client, Client::Dhcpcd | Client::DhcpcdQuick) {
        mount_bind(state, "/var/lib/dhcpcd").unwrap();
    }
    if client == Client::Networkd {
        let network = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n";
        fs::write("/run/systemd/network/10-eth0.network", network).unwrap();
        let users = fs::read_to_string("/etc/passwd").unwrap();
        if !users.contains("systemd-network:") {
            let user = "systemd-network:x:998:998::/:/usr/sbin/nologin\n";
            fs::write("/etc/passwd", users + user).unwrap();
        }
    }
}

/// What init gives netcfg, and no more: a user, three capabilities, and no way to get others.
fn become_netcfg() {
    let wanted =
        CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE;
    for other in CapabilitySet::all().difference(wanted).iter() {
        // The kernel may be older than the newest of them.
        let _ = thread::remove_capability_from_bounding_set(other);
    }
    thread::set_keep_capabilities(true).unwrap();
    thread::set_thread_groups(&[]).unwrap();
    let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
    thread::set_thread_res_gid(gid, gid, gid).unwrap();
    thread::set_thread_res_uid(uid, uid, uid).unwrap();
    let sets = CapabilitySets {
        effective: wanted,
        permitted: wanted,
        inheritable: wanted,
    };
    thread::set_capabilities(None, sets).unwrap();
    for capability in wanted.iter() {
        thread::configure_capability_in_ambient_set(capability, true).unwrap();
    }
    thread::set_no_new_privs(true).unwrap();
}

/// linux/rtnetlink.h: `RTMGRP_LINK` and `RTMGRP_IPV4_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10;
/// linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
/// linux/if.h.
const IFF_LOWER_UP: u32 = 0x1_0000;

fn listen() -> OwnedFd {
    let socket = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // linux/netlink.h: NETLINK_ROUTE is 0.
        None,
    )
    .unwrap();
    net::bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUPS)).unwrap();
    socket
}

/// Waits for an address on a link that is not the loopback, which is no address that a client
/// gave itself for want of a lease (RFC 3927).
fn address(socket: &OwnedFd, begin: Instant, patience: Duration) -> Option<Times> {
    let mut carrier = None;
    let mut buffer = vec![0; 65536];
    loop {
        let left = patience.checked_sub(begin.elapsed())?;
        net::sockopt::set_socket_timeout(socket, net::sockopt::Timeout::Recv, Some(left)).unwrap();
        let length = match net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN) => return None,
            Err(error) => panic!("rtnetlink: {error}"),
        };
        let now = Instant::now();
        let mut rest = &buffer[..length];
        // netlink(7): length, type, ten bytes more of header; the next message is aligned to 4.
        while rest.len() >= 16 {
            let length = word(rest, 0) as usize;
            let message = &rest[..length];
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                // rtnetlink(7): `ifi_flags` of an ifinfomsg is 8 bytes in.
                RTM_NEWLINK if word(message, 24) & IFF_LOWER_UP != 0 => {
                    carrier.get_or_insert(now);
                }
                RTM_NEWADDR if leased(message) => {
                    return Some(Times {
                        exec: millis(now - begin),
                        carrier: carrier.map(|at| millis(now - at)),
                    });
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Whether an address is of IPv4, and routable: the attribute `IFA_LOCAL` (2) after the ifaddrmsg
/// of 8 bytes.
fn leased(message: &[u8]) -> bool {
    const AF_INET: u8 = 2;
    let mut attributes = &message[24..];
    while message[16] == AF_INET && attributes.len() >= 8 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        if u16::from_ne_bytes([attributes[2], attributes[3]]) == 2 {
            return attributes[4] == 10;
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    false
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
