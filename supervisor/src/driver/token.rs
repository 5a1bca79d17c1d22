//! What an event of the loop belongs to.

use crate::core::{Id, ProbeKind};
use rustix::event::epoll::EventData;

/// A kind and a number, as epoll carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Below [`Token::FOREIGN`] the driver's, from there on the loop owner's.
    pub kind: u8,
    /// What the kind makes of it.
    pub number: u32,
}

impl Token {
    /// The first kind that is not the driver's.
    pub const FOREIGN: u8 = 16;
    pub(super) const NOTIFY: u8 = 1;
    pub(super) const CGROUP: u8 = 2;
    pub(super) const PROBE: u8 = 3;
    pub(super) const MEMORY: u8 = 4;
    pub(super) const MAIN: u8 = 5;
    pub(super) const EXECUTED: u8 = 6;

    /// As epoll carries it.
    #[must_use]
    pub fn data(self) -> EventData {
        EventData::new_u64(u64::from(self.kind) << 32 | u64::from(self.number))
    }

    /// From what epoll carried.
    #[must_use]
    pub fn from_data(data: EventData) -> Self {
        let raw = data.u64();
        let byte = u8::try_from(raw >> 32 & 0xff).unwrap_or(0);
        Self {
            kind: byte,
            number: u32::try_from(raw & 0xffff_ffff).unwrap_or(0),
        }
    }

    pub(super) fn of(kind: u8, id: Id) -> Self {
        Self::of_probe(kind, id, ProbeKind::Startup)
    }

    pub(super) fn of_probe(kind: u8, id: Id, probe: ProbeKind) -> Self {
        // Services are counted in dozens; the number of one fits many times over.
        Self {
            kind,
            number: u32::try_from(id.0 * 4 + probe as usize).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn parts(self) -> (Id, ProbeKind) {
        let kind = match self.number % 4 {
            0 => ProbeKind::Startup,
            1 => ProbeKind::Readiness,
            _ => ProbeKind::Liveness,
        };
        (Id(self.number as usize / 4), kind)
    }
}
