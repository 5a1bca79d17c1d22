//! A layer-2 segment that several machines and the host stand on.
//!
//! It is a network namespace of its own with a bridge in it. Each machine's card is a tap device on
//! that bridge, its QEMU runs inside the namespace, and the host's place on the segment is one end
//! of a veth pair, [`SERVER`], whose other end is on the bridge: servers listen there, and what
//! the machines serve is asked from there. Nothing of it touches the network of the host, and all
//! of it goes with the namespace. QEMU's own ways of joining machines (socket, dgram) would need
//! no root, but leave the host outside: no server, no client, no capture would be real.
//!
//! The machines of a segment are meant to run at the same time, so the segment waits for one place
//! among the VMs of this host (see [`crate::host::Place`]) and its machines share it.

use crate::host::{Host, Place};
use crate::setup;
use crate::tools::run;
use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The link of the host in the namespace of a segment.
pub const SERVER: &str = "srv";
/// Where ip-netns(8) keeps the namespaces it made.
const NAMESPACES: &str = "/run/netns";

/// A segment. Dropping it takes it away; machines that still run on it keep it until they end.
#[derive(Debug)]
pub struct Segment {
    namespace: String,
    _place: Place,
}

/// One machine's connection to a segment: what [`crate::vm::Network::Segment`] is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cable {
    namespace: String,
    tap: String,
    mac: String,
}

impl Segment {
    /// Makes a segment on which the host has `address`, such as `10.11.0.1/24`.
    ///
    /// # Errors
    /// When this user is not root, or the kernel has no bridges, veth pairs or tap devices.
    pub fn new(host: &Host, address: &str) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a segment is made of a network namespace, a bridge and tap devices: run this as root"
        );
        let tun = Path::new("/dev/net/tun");
        ensure!(
            tun.exists(),
            "{} is missing: `modprobe tun`; in a container, start it with --device {0}",
            tun.display()
        );
        setup::install(&[("ip", "iproute2")])?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = host.place()?;
        let namespace = format!("segment-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &namespace])).context(
            "cannot make a network namespace; in a container, start it with --privileged",
        )?;
        let segment = Self {
            namespace,
            _place: place,
        };
        segment.ip("link set lo up")?;
        segment
            .ip("link add bridge type bridge mcast_snooping 0")
            .context("the host's kernel makes no bridge: `modprobe bridge`")?;
        segment
            .ip(&format!(
                "link add {SERVER} type veth peer name {SERVER}-port"
            ))
            .context("the host's kernel makes no veth pair: `modprobe veth`")?;
        segment.ip(&format!("link set {SERVER}-port master bridge up"))?;
        segment.ip("link set bridge up")?;
        segment.ip(&format!("addr add {address} dev {SERVER}"))?;
        segment.ip(&format!("link set {SERVER} up"))?;
        Ok(segment)
    }

    /// A cable for machine `number`, whose card gets the MAC address `52:54:00:00:00:NUMBER`.
    ///
    /// # Errors
    /// When that number is taken.
    pub fn cable(&self, number: u8) -> Result<Cable> {
        let tap = format!("vm{number}");
        self.ip(&format!("tuntap add dev {tap} mode tap"))
            .with_context(|| format!("cannot make the tap device {tap}"))?;
        self.ip(&format!("link set {tap} master bridge up"))?;
        Ok(Cable {
            namespace: self.namespace.clone(),
            tap,
            mac: format!("52:54:00:00:00:{number:02x}"),
        })
    }

    /// A command that runs `program` of the host on the segment. It dies with the thread that
    /// spawns it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        within(&self.namespace, &command)
    }

    /// Does `work` on a thread that is on the segment: sockets made by it reach the machines.
    ///
    /// # Errors
    /// What `work` failed with, or that the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = Path::new(NAMESPACES).join(&self.namespace);
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(&path)
                    .with_context(|| format!("cannot open the namespace {}", path.display()))?;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter the namespace {}", path.display()))?;
                work()
            });
            thread
                .join()
                .map_err(|_| anyhow!("what was done on the segment panicked"))?
        })
    }

    fn ip(&self, words: &str) -> Result<String> {
        run(Command::new("ip")
            .args(["-n", &self.namespace])
            .args(words.split(' ')))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // What stays behind is an empty namespace.
        let _ = run(Command::new("ip").args(["netns", "del", &self.namespace]));
    }
}

impl Cable {
    /// The MAC address of the card at the machine's end.
    #[must_use]
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// QEMU's end of the cable, as an option of `-netdev` called `id`. The tap device is there and on
    /// the bridge already, so QEMU has no script to run.
    pub(crate) fn netdev(&self, id: &str) -> String {
        format!(
            "tap,id={id},ifname={},script=no,downscript=no,vhost=off",
            self.tap
        )
    }

    /// The same command, on the segment.
    pub(crate) fn attach(&self, command: &Command) -> Command {
        within(&self.namespace, command)
    }
}

/// ip-netns(8) executes the program in its own place, so the child is still the program.
fn within(namespace: &str, command: &Command) -> Command {
    let mut inside = Command::new("ip");
    inside
        .args(["netns", "exec", namespace])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_words_and_its_environment() {
        let mut command = Command::new("qemu");
        command.args(["-m", "1 024"]).env("A", "b");
        command.env_remove("LD_PRELOAD");
        let inside = within("s", &command);
        let words: Vec<_> = inside.get_args().collect();
        assert_eq!(inside.get_program(), "ip");
        assert_eq!(words, ["netns", "exec", "s", "qemu", "-m", "1 024"]);
        let kept: Vec<_> = inside.get_envs().collect();
        assert_eq!(
            kept,
            [
                ("A".as_ref(), Some("b".as_ref())),
                ("LD_PRELOAD".as_ref(), None)
            ]
        );
    }
}
