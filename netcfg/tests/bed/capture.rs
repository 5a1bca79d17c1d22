//! What went over the client's link, and what tshark says of it.
//!
//! The capture is made on the client's side, whose link stays up when the cable goes. tshark
//! takes a second to start, so that it judges many captures in one go: the frames of ours are
//! written one behind the other, and their numbers tell which capture each came from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::frame::Dhcp;
use super::process::Process;
use super::tools::run;

/// pcap-savefile(5): the header of the file and that of each packet.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// The same, read from a file that a machine of this byte order wrote.
const MAGIC: u32 = 0xa1b2_c3d4;

/// A capture that runs.
pub struct Capture {
    process: Process,
    path: PathBuf,
    mac: [u8; 6],
}

/// The frames of a capture that is over, in order.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    frames: Vec<Vec<u8>>,
    mac: [u8; 6],
}

impl Capture {
    /// Captures on `link`, which has the address `mac`, in a namespace.
    pub fn start(netns: &str, link: &str, mac: [u8; 6], path: &Path) -> Capture {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", netns, "tcpdump", "-i", link])
            .args(["--immediate-mode", "-U", "-Z", "root", "-w"])
            .arg(path);
        let mut process = Process::start("tcpdump", &mut command);
        process.wait_line("that it listens", |line| {
            line.contains("listening on").then_some(())
        });
        Capture {
            process,
            path: path.to_owned(),
            mac,
        }
    }

    /// Ends it.
    pub fn stop(self) -> Captured {
        self.process.terminate();
        let bytes = fs::read(&self.path).expect("tcpdump made it");
        let word = |at: usize| {
            let word: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(word)
        };
        assert_eq!(word(0), MAGIC, "{}: no pcap file", self.path.display());
        let mut frames = vec![];
        let mut at = FILE_HEADER;
        while at < bytes.len() {
            let length = usize::try_from(word(at + 8)).expect("a packet");
            at += PACKET_HEADER;
            frames.push(bytes[at..at + length].to_vec());
            at += length;
        }
        Captured {
            frames,
            mac: self.mac,
        }
    }
}

impl Captured {
    /// The frames that the client sent.
    pub fn ours(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.frames.iter().filter(|frame| frame[6..12] == self.mac)
    }

    /// The DHCP messages that the client sent.
    pub fn requests(&self) -> Vec<Dhcp> {
        self.ours().filter_map(|frame| Dhcp::of(frame)).collect()
    }

    /// The DHCP messages of servers.
    pub fn replies(&self) -> Vec<Dhcp> {
        let all = self.frames.iter().filter_map(|frame| Dhcp::of(frame));
        all.filter(|message| !message.is_request()).collect()
    }
}

/// Lets tshark judge the frames of ours in all of `captures`. What it finds fault with, by the
/// number of the capture.
///
/// A fault is a malformed frame of any kind, and a warning about DHCP of either version. (That two hosts have one
/// address is a warning about ARP, which some tests bring about.)
pub fn judge(captures: &[Captured], folder: &Path) -> Vec<(usize, String)> {
    let path = folder.join("judged.pcap");
    let mut owner = vec![];
    let mut bytes = vec![];
    for word in [MAGIC, 4 << 16 | 2, 0, 0, 1 << 18, 1] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    // Versions 2.4 are two half words in the order of the file.
    bytes[4..8].copy_from_slice(&[2u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
    let mut messages = 0;
    for (number, capture) in captures.iter().enumerate() {
        messages += capture.requests().len();
        for frame in capture.ours() {
            let length = u32::try_from(frame.len()).expect("a frame").to_ne_bytes();
            bytes.extend([[0; 4], [0; 4], length, length].concat());
            bytes.extend(frame);
            owner.push(number);
        }
    }
    fs::write(&path, bytes).expect("own folder");
    let frames = |filter: &str, checksums: bool| {
        run(Command::new("tshark")
            .arg("-r")
            .arg(&path)
            .args(["-o", &format!("ip.check_checksum:{checksums}")])
            .args(["-o", &format!("udp.check_checksum:{checksums}")])
            .args(["-Y", filter, "-T", "fields"])
            .args(["-e", "frame.number", "-e", "_ws.expert.message"]))
    };
    // It reads every message as one, or it has no opinion on some.
    let seen = frames("dhcp.type == 1", false).lines().count();
    assert_eq!(seen, messages, "tshark saw {seen} of {messages} messages");
    // 0x600000 is "warning". On a veth pair the kernel leaves the sums of its own UDP to a card
    // that is not there; those of raw packets are ours.
    let fault = "(_ws.malformed || ((dhcp || dhcpv6) && _ws.expert.severity >= 0x600000))";
    let mut faults = frames(&format!("{fault} && ip.src == 0.0.0.0"), true);
    faults += &frames(fault, false);
    faults
        .lines()
        .map(|line| {
            let number = line
                .split('\t')
                .next()
                .and_then(|number| number.parse().ok());
            let number: usize = number.expect("a frame number");
            (owner[number - 1], line.to_owned())
        })
        .collect()
}
