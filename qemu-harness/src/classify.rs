//! What belongs on the serial line, and the taking apart of what arrives there.
//!
//! From power-on to the kernel the line belongs to the firmware and the loader, with cursor
//! movements and colours. From the first kernel or event line on only three kinds of lines may
//! appear: kernel lines, event lines and service lines. A reset gives the line back to the firmware.
//!
//! One thing can go wrong between honest writers: the kernel prints a record with the port locked,
//! but a user-space line leaves the port in pieces, so a record may land in the middle of it.
//! [`Untangler`] puts such lines together again.

use crate::event::{Event, kernel_stamp};
use std::collections::BTreeSet;

/// What a line of the serial log is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Firmware, boot loader or the kernel's EFI stub.
    Firmware,
    /// `[    1.234567] text`
    Kernel,
    /// `init: 1.234 name ...`
    Event(Event),
    /// `<service>: text`, with the name of the service.
    Service(String),
    /// Nothing visible.
    Blank,
    /// Something that has no business there.
    Other,
}

/// Removes what a terminal would not show: escape sequences, carriage returns, control bytes.
#[must_use]
pub fn clean(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // CSI: parameters and intermediates, then one final byte (ECMA-48, 5.4).
                Some('[') => {
                    chars.by_ref().find(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
                // OSC: up to BEL or ST.
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' => out.push('\t'),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Reads a serial log line by line and says what each line is.
#[derive(Debug)]
pub struct Classifier {
    services: BTreeSet<String>,
    firmware: bool,
}

impl Default for Classifier {
    fn default() -> Self {
        // Init's own roles start without a line of their own.
        let roles = ["logger", "devices", "netcfg", "grow", "slots"];
        Self::new(["astromeshd"].into_iter().chain(roles))
    }
}

impl Classifier {
    /// Starts at power-on. `services` may write lines; so may every service an event
    /// `service.start` names.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            services: services.into_iter().map(str::to_owned).collect(),
            firmware: true,
        }
    }

    /// Classifies the next line, already cleaned.
    pub fn line(&mut self, line: &str) -> Kind {
        if line.trim().is_empty() {
            return Kind::Blank;
        }
        if let Ok(event) = Event::parse(line) {
            self.firmware = false;
            if let (true, Some(service)) = (event.name == "service.start", event.get("service")) {
                self.services.insert(service.to_owned());
            }
            return Kind::Event(event);
        }
        if let Some((_, text)) = kernel_stamp(line) {
            self.firmware = restarts(text);
            return Kind::Kernel;
        }
        // The boot device selection of EDK II speaks first after every reset.
        if line.starts_with("BdsDxe: ") {
            self.firmware = true;
        }
        if self.firmware {
            return Kind::Firmware;
        }
        self.service(line)
            .map_or(Kind::Other, |name| Kind::Service(name.to_owned()))
    }

    fn service<'a>(&self, line: &'a str) -> Option<&'a str> {
        let name = line.split_once(':')?.0;
        self.services.contains(name).then_some(name)
    }
}

/// The kernel's last words before the firmware speaks again.
fn restarts(text: &str) -> bool {
    ["reboot: Restarting system", "Rebooting in "]
        .iter()
        .any(|last| text.starts_with(last))
}

/// The lines of a cleaned log that have no business there, each with its number from 1.
#[must_use]
pub fn intruders<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<(usize, String)> {
    let mut classifier = Classifier::default();
    lines
        .into_iter()
        .enumerate()
        .filter(|(_, line)| classifier.line(line) == Kind::Other)
        .map(|(number, line)| (number + 1, line.to_owned()))
        .collect()
}

/// Puts user-space lines together again that a kernel record has cut.
#[derive(Debug, Default)]
pub struct Untangler {
    head: Option<String>,
}

impl Untangler {
    /// Takes the next cleaned line and gives the lines that are complete now, in order.
    pub fn line(&mut self, line: String) -> Vec<String> {
        if kernel_stamp(&line).is_some() {
            return vec![line];
        }
        let mut out = Vec::new();
        let line = match self.head.take() {
            Some(head) if begins_anew(&line) => {
                out.push(head);
                line
            }
            Some(head) => head + &line,
            None => line,
        };
        match cut(&line) {
            Some(at) => {
                let (head, record) = line.split_at(at);
                out.push(record.to_owned());
                self.head = Some(head.to_owned());
            }
            None => out.push(line),
        }
        out
    }

    /// What is left when the log ends.
    pub fn finish(&mut self) -> Option<String> {
        self.head.take()
    }
}

/// Whether the line stands by itself, so that it is not the tail of a cut one.
fn begins_anew(line: &str) -> bool {
    line.starts_with("init: ") || line.starts_with("BdsDxe: ") || prefix_len(line).is_some()
}

/// The length of a `service: ` prefix.
fn prefix_len(line: &str) -> Option<usize> {
    let (name, _) = line.split_once(": ")?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name.len() + 2)
}

/// Where a kernel record begins inside a user-space line.
fn cut(line: &str) -> Option<usize> {
    prefix_len(line)?;
    line.match_indices('[')
        .map(|(at, _)| at)
        .find(|at| kernel_stamp(&line[*at..]).is_some_and(|(_, rest)| !rest.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_leave_no_trace() {
        let raw = b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading Boot0001\x1b]0;title\x07 now\r";
        assert_eq!(clean(raw), "BdsDxe: loading Boot0001 now");
        assert_eq!(clean(b"\x1b"), "");
        assert_eq!(clean(b"\x1b[1;2"), "");
    }

    #[test]
    fn a_boot_and_a_reboot() {
        let log = [
            ("BdsDxe: loading Boot0001", "firmware"),
            ("EFI stub: Loaded initrd", "firmware"),
            ("[    0.000000] Linux version 6.12", "kernel"),
            ("init: 0.500 boot.start stage=initramfs", "event"),
            (
                "init: 0.900 service.start service=astromeshd pid=9",
                "event",
            ),
            ("init: 0.950 service.start service=helper pid=10", "event"),
            ("astromeshd: INFO started", "service"),
            ("helper: hello", "service"),
            ("", "blank"),
            ("systemd[1]: hello", "other"),
            ("init: hello", "other"),
            ("[    9.000000] reboot: Restarting system", "kernel"),
            ("UEFI Interactive Shell", "firmware"),
            ("[    0.000000] Linux version 6.12", "kernel"),
            ("what is this", "other"),
        ];
        let mut classifier = Classifier::default();
        for (line, expected) in log {
            let kind = match classifier.line(line) {
                Kind::Firmware => "firmware",
                Kind::Kernel => "kernel",
                Kind::Event(_) => "event",
                Kind::Service(_) => "service",
                Kind::Blank => "blank",
                Kind::Other => "other",
            };
            assert_eq!(kind, expected, "{line}");
        }
        let found = intruders(log.iter().map(|(line, _)| *line));
        let numbers: Vec<_> = found.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [10, 11, 15]);
    }

    fn untangle(lines: &[&str]) -> Vec<String> {
        let mut untangler = Untangler::default();
        let mut out: Vec<String> = lines
            .iter()
            .flat_map(|line| untangler.line((*line).to_owned()))
            .collect();
        out.extend(untangler.finish());
        out
    }

    #[test]
    fn a_cut_line_is_put_together() {
        assert_eq!(
            untangle(&[
                "init: 1.000 net.li[    1.000123] random: crng init done",
                "[    1.000130] another",
                "nk link=eth0 state=up",
                "astromeshd: fine",
            ]),
            [
                "[    1.000123] random: crng init done",
                "[    1.000130] another",
                "init: 1.000 net.link link=eth0 state=up",
                "astromeshd: fine",
            ]
        );
    }

    #[test]
    fn a_quoted_record_swallows_no_neighbour() {
        assert_eq!(
            untangle(&[
                "astromeshd: saw [    1.000123] once",
                "init: 1.000 boot.healthy"
            ]),
            [
                "[    1.000123] once",
                "astromeshd: saw ",
                "init: 1.000 boot.healthy"
            ]
        );
    }

    proptest! {
        #[test]
        fn a_record_may_land_anywhere(at in 0_usize..40) {
            let line = "init: 12.345 service.start service=a pid=9";
            let record = "[   12.345678] virtio_net virtio0 eth0: up";
            let (head, tail) = line.split_at(at.min(line.len()));
            let torn = format!("{head}{record}");
            let lines = untangle(&[&torn, tail]);
            // A cut inside the prefix itself leaves too little to know the line by.
            if at == 0 || at >= "init: ".len() {
                prop_assert!(lines.contains(&line.to_owned()), "{lines:?}");
            }
        }

        #[test]
        fn nothing_panics(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = clean(&raw);
            let escape = char::from(0x1b);
            prop_assert!(!text.contains(escape));
            let _ = Classifier::default().line(&text);
            let _ = untangle(&[&text]);
        }
    }
}
