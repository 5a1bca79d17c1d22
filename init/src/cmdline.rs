//! The kernel command line: what of it is ours.
//!
//! The line comes from the UKI, but the host of a virtual machine can append to it (systemd-stub,
//! `io.systemd.stub.kernel-cmdline-extra`). So of each word the first counts, and nothing that is
//! appended can weaken what the image said: a different later `roothash=` is an error, a later one of
//! `astromesh.` a warning. Unknown words that start with `astromesh.` are told as a warning, too, since they
//! are most likely a typo; words of others are not ours to judge.

use std::time::Duration;

/// What follows when the machine cannot boot on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Reboot: the loader's boot counting then falls back to the other slot.
    #[default]
    Reboot,
    /// Stay, so that the console can be read.
    Halt,
}

impl OnFailure {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Halt => "halt",
        }
    }
}

/// Our part of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// `roothash=`: the root hash of the verity tree, 32 bytes.
    pub roothash: Option<[u8; 32]>,
    /// `astromesh.on-failure=reboot|halt`.
    pub on_failure: OnFailure,
    /// `astromesh.root-timeout=SECONDS`: how long to wait for the root's partitions.
    pub root_timeout: Duration,
    /// `astromesh.watchdog=SECONDS`: after which silence the hardware watchdog is to reset the machine.
    pub watchdog: Duration,
    /// `astromesh.update=SOURCE`: look there for a new version once, when the machine is healthy.
    pub update: Option<String>,
    /// `astromesh.markers`: the console has the lines of the appliance's earlier userland, too.
    pub markers: bool,
    /// What is wrong with it, one sentence each.
    pub problems: Vec<String>,
    /// What may be wrong with it.
    pub warnings: Vec<String>,
}

/// Disks of slow machines and of software emulation show up within seconds; a minute is past any
/// doubt.
const ROOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than PID 1 is ever silent on a slow machine (a `sync` of much memory to a slow disk is the
/// longest), and as short as that allows: it is what a hang costs.
pub const WATCHDOG: Duration = Duration::from_secs(60);

impl Cmdline {
    /// Reads the text of `/proc/cmdline`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut line = Self {
            roothash: None,
            on_failure: OnFailure::default(),
            root_timeout: ROOT_TIMEOUT,
            watchdog: WATCHDOG,
            update: None,
            markers: false,
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        let mut seen: Vec<&str> = Vec::new();
        for word in text.split_ascii_whitespace() {
            // Words after `--` are arguments of init (kernel: `Documentation/admin-guide/kernel-parameters.rst`).
            if word == "--" {
                break;
            }
            let (name, _) = word.split_once('=').unwrap_or((word, ""));
            if name.starts_with("astromesh.") {
                if seen.contains(&name) {
                    line.warnings.push(format!(
                        "{word}: {name} was given before, and the first counts"
                    ));
                    continue;
                }
                seen.push(name);
            }
            match word.split_once('=').unwrap_or((word, "")) {
                ("roothash", value) => line.take_roothash(value),
                ("astromesh.on-failure", "reboot") => line.on_failure = OnFailure::Reboot,
                ("astromesh.on-failure", "halt") => line.on_failure = OnFailure::Halt,
                ("astromesh.root-timeout", value) => {
                    line.root_timeout = line.seconds(word, value, 1).unwrap_or(ROOT_TIMEOUT);
                }
                ("astromesh.watchdog", value) => {
                    line.watchdog = line.seconds(word, value, 5).unwrap_or(WATCHDOG);
                }
                ("astromesh.update", source) if !source.is_empty() => {
                    line.update = Some(source.to_owned());
                }
                ("astromesh.markers", "") => line.markers = true,
                (name, _) if name.starts_with("astromesh.") => {
                    line.warnings.push(format!("{word}: unknown"));
                }
                _ => {}
            }
        }
        line
    }

    /// A number of seconds from `least` to an hour, or a warning.
    fn seconds(&mut self, word: &str, value: &str, least: u64) -> Option<Duration> {
        let seconds = value.parse().ok();
        let seconds = seconds.filter(|s| (least..=3600).contains(s));
        if seconds.is_none() {
            self.warnings.push(format!(
                "{word}: not a number of seconds from {least} to 3600"
            ));
        }
        seconds.map(Duration::from_secs)
    }

    fn take_roothash(&mut self, value: &str) {
        match (self.roothash, parse_hash(value)) {
            (_, None) => self
                .problems
                .push(format!("roothash={value}: not 64 hexadecimal digits")),
            (None, hash) => self.roothash = hash,
            (Some(first), Some(later)) if first == later => {}
            (Some(_), Some(_)) => self.problems.push(format!(
                "roothash={value}: a second, different one is refused"
            )),
        }
    }
}

/// A root hash of 64 hexadecimal digits.
#[must_use]
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16))
        .map(|d| d.and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let mut hash = [0u8; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |sum, digit| sum << 4 | digit);
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_roothash_counts_and_another_is_refused() {
        let a = "ab".repeat(32);
        let b = "cd".repeat(32);
        let line = Cmdline::parse(&format!("quiet roothash={a} console=ttyS0 roothash={a}"));
        assert_eq!((line.roothash, line.problems.len()), (Some([0xab; 32]), 0));
        let line = Cmdline::parse(&format!("roothash={a} roothash={b}"));
        assert_eq!((line.roothash, line.problems.len()), (Some([0xab; 32]), 1));
        assert_eq!(Cmdline::parse("roothash=xyz").problems.len(), 1);
        assert_eq!(Cmdline::parse("-- roothash=xyz").problems.len(), 0);
    }

    /// The host of a virtual machine can append words, and must not change what the image says with them.
    #[test]
    fn the_first_of_our_words_counts() {
        let line = Cmdline::parse(
            "astromesh.on-failure=reboot astromesh.watchdog=30 astromesh.root-timeout=9 astromesh.update=/a \
             astromesh.on-failure=halt astromesh.watchdog=3600 astromesh.root-timeout=3600 astromesh.update=/b",
        );
        assert_eq!(line.on_failure, OnFailure::Reboot);
        assert_eq!(line.watchdog, Duration::from_secs(30));
        assert_eq!(line.root_timeout, Duration::from_secs(9));
        assert_eq!(line.update.as_deref(), Some("/a"));
        assert_eq!(line.warnings.len(), 4);
        assert_eq!(
            line.warnings[0],
            "astromesh.on-failure=halt: astromesh.on-failure was given before, and the first counts"
        );
    }

    proptest! {
        /// Whatever is on the line, the root hash is one that is written there, and nothing panics.
        #[test]
        fn any_line_is_survived(words in prop::collection::vec(
            "(roothash|astromesh\\.(watchdog|root-timeout|on-failure|update|markers|x)|--|a)(=([0-9a-f]{64}|[0-9]{0,22}|.{0,9}))?",
            0..8,
        )) {
            let text = words.join(" ");
            let line = Cmdline::parse(&text);
            if let Some(hash) = line.roothash {
                let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                prop_assert!(text.to_lowercase().contains(&digits));
            }
            let range = Duration::from_secs(1)..=Duration::from_secs(3600);
            prop_assert!(range.contains(&line.watchdog) && range.contains(&line.root_timeout));
        }
    }

    #[test]
    fn options_and_typos() {
        let line = Cmdline::parse(
            "astromesh.on-failure=halt astromesh.root-timeout=5 astromesh.rot=1 root=/dev/x",
        );
        assert_eq!(line.on_failure, OnFailure::Halt);
        assert_eq!(line.root_timeout, Duration::from_secs(5));
        assert_eq!(line.watchdog, WATCHDOG);
        assert_eq!(line.warnings, ["astromesh.rot=1: unknown"]);
        let line = Cmdline::parse("astromesh.watchdog=9");
        assert_eq!(
            (line.watchdog, line.warnings.len()),
            (Duration::from_secs(9), 0)
        );
        let line = Cmdline::parse("astromesh.watchdog=4");
        assert_eq!(line.watchdog, WATCHDOG);
        assert_eq!(
            line.warnings,
            ["astromesh.watchdog=4: not a number of seconds from 5 to 3600"]
        );
        let line =
            Cmdline::parse("astromesh.update=http://10.0.2.2:80/update.json astromesh.markers");
        assert_eq!(
            line.update.as_deref(),
            Some("http://10.0.2.2:80/update.json")
        );
        assert!(line.markers && line.warnings.is_empty());
    }
}
