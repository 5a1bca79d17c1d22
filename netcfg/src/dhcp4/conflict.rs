//! Whether somebody else has our address (RFC 5227): when to probe, to announce, to defend it
//! and to give it up. A [`Guard`] watches one address; it decides and the client acts.
//!
//! ```text
//!   strict:      0-1 s, three probes 1-2 s apart, 2 s ──▶ free: apply, announce twice ──▶ holding
//!   background:  apply, one probe, 200 ms ──▶ announce twice ──▶ holding
//! ```
//!
//! The letter of the RFC costs every boot four to seven seconds for a case that a sane server has
//! excluded. So by default the address is used at once and the probe runs beside it: a machine
//! that has the address answers a probe within milliseconds, long before a person could notice.
//! After a conflict the next address is probed first, whatever the setting: then the network is
//! known not to be sane.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::arp::{Arp, Op};
use serde::Deserialize;

use crate::mac::Mac;
use crate::rng::Rng;

/// RFC 5227, section 1.1.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// RFC 5227, section 1.1.
const PROBE_NUM: u32 = 3;
/// RFC 5227, section 1.1: `PROBE_MIN`, and what `PROBE_MAX` adds to it.
const PROBE_GAP: Duration = Duration::from_secs(1);
/// RFC 5227, section 1.1.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);
/// RFC 5227, section 1.1.
const ANNOUNCE_NUM: u32 = 2;
/// RFC 5227, section 1.1.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// RFC 5227, section 1.1.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to the one probe in the background may take.
pub const WINDOW: Duration = Duration::from_millis(200);

/// How much care is taken that nobody else has the address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// None: for clouds whose network knows no broadcast and hands out no address twice.
    Off,
    /// The address is used at once, and given up when somebody else turns out to have it.
    #[default]
    Background,
    /// The address is used when the probes of RFC 5227 had no answer, after 4 to 7 s.
    Strict,
}

/// What is to be said on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Has anybody this address?
    Probe,
    /// It is ours.
    Announce,
}

/// What an ARP frame means for our address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing.
    Nothing,
    /// Somebody claims it: announce it once more.
    Defend,
    /// Somebody has it: give it up.
    Lost,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// `left` probes to go, the next or the verdict at `again`.
    Probing {
        left: u32,
        again: Duration,
    },
    Announcing {
        left: u32,
        again: Duration,
    },
    Holding,
}

/// The watch over one address.
#[derive(Debug, Clone)]
pub struct Guard {
    address: Ipv4Addr,
    /// Whether the address is on the link while it is probed.
    in_use: bool,
    stage: Stage,
    defended: Option<Duration>,
}

impl Guard {
    /// Probes as the RFC has it, before the address is used.
    pub fn before_use(address: Ipv4Addr, now: Duration, rng: &mut Rng) -> Guard {
        Guard {
            address,
            in_use: false,
            stage: Stage::Probing {
                left: PROBE_NUM,
                again: now + rng.up_to(PROBE_WAIT),
            },
            defended: None,
        }
    }

    /// Probes once, at once, while the address is used.
    pub fn beside_use(address: Ipv4Addr, now: Duration) -> Guard {
        Guard {
            address,
            in_use: true,
            stage: Stage::Probing {
                left: 1,
                again: now,
            },
            defended: None,
        }
    }

    /// The address that is guarded.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Whether the probes are over without an answer and the address may be used.
    pub fn is_free(&self, now: Duration) -> bool {
        matches!(self.stage, Stage::Probing { left: 0, again } if now >= again)
    }

    /// Whether it has been probed and announced; what comes now is defence.
    pub fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Holding)
    }

    /// The address was free and is used from now on.
    pub fn used(&mut self, now: Duration) {
        self.in_use = true;
        self.stage = Stage::Announcing {
            left: ANNOUNCE_NUM,
            again: now,
        };
    }

    /// When [`Guard::due`], or [`Guard::is_free`], has something to say.
    pub fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Probing { again, .. } | Stage::Announcing { again, .. } => Some(again),
            Stage::Holding => None,
        }
    }

    /// What is to be said now, if anything.
    pub fn due(&mut self, now: Duration) -> Option<Say> {
        if self.in_use && self.is_free(now) {
            self.used(now);
        }
        match self.stage {
            Stage::Probing { left, again } if left > 0 && now >= again => Some(Say::Probe),
            Stage::Announcing { again, .. } if now >= again => Some(Say::Announce),
            _ => None,
        }
    }

    /// What was due has been said.
    pub fn said(&mut self, now: Duration, rng: &mut Rng) {
        self.stage = match self.stage {
            Stage::Probing { left: 0 | 1, .. } => Stage::Probing {
                left: 0,
                again: now + if self.in_use { WINDOW } else { ANNOUNCE_WAIT },
            },
            Stage::Probing { left, .. } => Stage::Probing {
                left: left - 1,
                again: now + PROBE_GAP + rng.up_to(PROBE_GAP),
            },
            Stage::Announcing { left: 0 | 1, .. } | Stage::Holding => Stage::Holding,
            Stage::Announcing { left, .. } => Stage::Announcing {
                left: left - 1,
                again: now + ANNOUNCE_INTERVAL,
            },
        };
    }

    /// What was due could not be said, and is due again at `at`.
    pub fn postpone(&mut self, at: Duration) {
        match &mut self.stage {
            Stage::Probing { again, .. } | Stage::Announcing { again, .. } => *again = at,
            Stage::Holding => {}
        }
    }

    /// What `arp` means. Frames of our own, which some switches and bridges send back, mean
    /// nothing.
    pub fn hear(&mut self, now: Duration, arp: &Arp, mac: Mac) -> Heard {
        if arp.sender_mac == mac {
            return Heard::Nothing;
        }
        match self.stage {
            // RFC 5227, section 2.1.1: a claim, or a probe of another for the same address.
            Stage::Probing { .. } if claims(arp, self.address) || wants(arp, self.address) => {
                Heard::Lost
            }
            // Section 2.4 (b): defended once, given up when that did not help.
            Stage::Announcing { .. } | Stage::Holding if claims(arp, self.address) => {
                let lately = self
                    .defended
                    .is_some_and(|at| now.saturating_sub(at) < DEFEND_INTERVAL);
                if lately {
                    return Heard::Lost;
                }
                self.defended = Some(now);
                Heard::Defend
            }
            _ => Heard::Nothing,
        }
    }
}

/// Whether the sender of `arp` uses `address`.
pub fn claims(arp: &Arp, address: Ipv4Addr) -> bool {
    arp.sender == address
}

/// Whether the sender of `arp` would like to use `address`.
pub fn wants(arp: &Arp, address: Ipv4Addr) -> bool {
    arp.op == Op::Request && arp.sender.is_unspecified() && arp.target == address
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    /// Lets `guard` say all it has to say until it rests, and tells when.
    fn said(guard: &mut Guard, now: &mut Duration) -> Vec<(Say, u128)> {
        let mut rng = Rng::new(4);
        let mut all = Vec::new();
        loop {
            while let Some(say) = guard.due(*now) {
                all.push((say, now.as_millis()));
                guard.said(*now, &mut rng);
            }
            match guard.deadline() {
                Some(at) if at > *now => *now = at,
                _ => return all,
            }
        }
    }

    #[test]
    fn in_the_background_one_probe_goes_before_the_announcements() {
        let mut now = Duration::ZERO;
        let mut guard = Guard::beside_use(HERE, now);
        let all = said(&mut guard, &mut now);
        assert_eq!(
            all,
            [(Say::Probe, 0), (Say::Announce, 200), (Say::Announce, 2200)]
        );
        assert!(guard.is_settled());
    }

    #[test]
    fn strict_probing_takes_the_time_of_the_rfc() {
        let mut now = Duration::ZERO;
        let mut guard = Guard::before_use(HERE, now, &mut Rng::new(7));
        let probes = said(&mut guard, &mut now);
        assert_eq!(probes.len(), 3);
        assert!(guard.is_free(now) && !guard.is_settled());
        assert!((4000..=7000).contains(&now.as_millis()), "{now:?}");
        guard.used(now);
        assert_eq!(said(&mut guard, &mut now).len(), 2);
        assert!(guard.is_settled());
    }

    #[test]
    fn a_claim_is_defended_once_in_ten_seconds() {
        let mut now = Duration::ZERO;
        let mut guard = Guard::beside_use(HERE, now);
        said(&mut guard, &mut now);
        let claim = Arp::announcement(OTHER, HERE);
        let mut hear = |seconds, arp: &Arp| guard.hear(now + Duration::from_secs(seconds), arp, ME);
        assert_eq!(hear(0, &Arp::announcement(ME, HERE)), Heard::Nothing);
        assert_eq!(hear(0, &Arp::probe(OTHER, HERE)), Heard::Nothing);
        assert_eq!(hear(0, &claim), Heard::Defend);
        assert_eq!(hear(10, &claim), Heard::Defend);
        assert_eq!(hear(19, &claim), Heard::Lost);
    }

    #[test]
    fn while_probing_a_probe_of_another_is_a_conflict_too() {
        for arp in [Arp::probe(OTHER, HERE), Arp::announcement(OTHER, HERE)] {
            let mut guard = Guard::beside_use(HERE, Duration::ZERO);
            assert_eq!(guard.hear(Duration::ZERO, &arp, ME), Heard::Lost);
        }
        let mut guard = Guard::beside_use(HERE, Duration::ZERO);
        let ordinary = Arp::question(OTHER, Ipv4Addr::new(10, 0, 0, 8), HERE);
        assert_eq!(guard.hear(Duration::ZERO, &ordinary, ME), Heard::Nothing);
    }
}
