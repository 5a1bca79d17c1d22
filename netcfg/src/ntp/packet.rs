//! Questions and answers as bytes (RFC 5905, section 7.3).
//!
//! An answer is 48 bytes; extension fields and authenticators were not asked for, so who sends
//! some is no server of ours. The checks are those of RFC 5905, section 8 (packet sanity) and RFC
//! 4330, section 5.
//!
//! A timestamp counts seconds modulo 2^32 from 1900, and 2036 sees its first rollover. No time
//! before the program was built is possible, so a timestamp stands for its one meaning in
//! the 136 years that begin there; neither the era nor a wrong wall clock comes into it.

use std::time::Duration;

/// Bytes of a message.
pub const LENGTH: usize = 48;

/// Where servers listen.
pub const PORT: u16 = 123;

/// From the epoch of NTP (1900) to that of Unix (1970), in seconds (RFC 5905, figure 4).
const TO_UNIX: u64 = 2_208_988_800;

/// No leap indicator, version 4, mode 3 (client).
const QUESTION: u8 = 4 << 3 | 3;

/// Mode of a server's answer.
const SERVER: u8 = 4;

/// Leap indicator of a server that does not know the time.
const UNKNOWN: u8 = 3;

/// From this one on a server is not synchronised (`MAXSTRAT`).
const MAX_STRATUM: u8 = 16;

/// How far from the truth an answer may be: half the delay to the reference clock and the root
/// dispersion together. `MAXDIST` of RFC 5905 is 1 s; ntpd, whose servers there are, has 1.5 s.
pub const MAX_DISTANCE: Duration = Duration::from_millis(1500);

/// Seconds since 1900 and a fraction of 2^-32 s, both modulo 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time since 1970 that this means when nothing before `floor` is possible.
    pub fn since_1970(self, floor: Duration) -> Duration {
        let floor = floor.as_secs();
        let seconds = (self.0 >> 32).wrapping_sub(TO_UNIX);
        let ahead = seconds.wrapping_sub(floor) & u64::from(u32::MAX);
        let nanos = ((self.0 & u64::from(u32::MAX)) * 1_000_000_000) >> 32;
        Duration::from_secs(floor.saturating_add(ahead)).saturating_add(Duration::from_nanos(nanos))
    }
}

/// What a server says about itself and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// 0: nothing, 1: the last minute of the day has 61 seconds, 2: it has 59.
    pub leap: u8,
    /// Steps from a reference clock, 1 to 15.
    pub stratum: u8,
    /// Half the root delay and the root dispersion: how wrong the server may be.
    pub distance: Duration,
    /// When it got the question.
    pub received: Timestamp,
    /// When it sent the answer.
    pub sent: Timestamp,
}

/// A server that says no (RFC 5905, section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kiss {
    /// `DENY` and `RSTR`: it does not serve us.
    Refused,
    /// `RATE`: to be asked less often.
    TooOften,
    /// Another code, which says only that there is no time in this answer.
    Other,
}

/// A well-formed answer to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The time.
    Time(Answer),
    /// None, and what to do.
    Kiss(Kiss),
}

/// Why bytes are no answer, or none to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not 48 bytes.
    #[error("not 48 bytes long")]
    Length,
    /// Another mode than that of a server.
    #[error("not an answer")]
    Mode,
    /// Neither version 3 nor 4.
    #[error("an unknown version")]
    Version,
    /// It does not carry the number that was sent.
    #[error("an answer to another question")]
    Origin,
    /// The server says that it does not know the time.
    #[error("the server is not synchronised")]
    Unsynchronised,
    /// A timestamp is missing, or the answer was sent before the question came.
    #[error("impossible timestamps")]
    Timestamps,
    /// Too far from a reference clock to be believed.
    #[error("the server's root distance is above 1.5 s")]
    Distance,
}

/// The question that carries this number.
pub fn question(nonce: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = QUESTION;
    if let Some(transmit) = bytes.last_chunk_mut() {
        *transmit = nonce.to_be_bytes();
    }
    bytes
}

/// Reads the answer to the question that carried `nonce`.
///
/// The origin is looked at before anything else that the answer says: what anybody can send must
/// have no consequence, not even the one of a kiss.
pub fn decode(bytes: &[u8], nonce: u64) -> Result<Reply, Wrong> {
    let bytes: &[u8; LENGTH] = bytes.try_into().map_err(|_| Wrong::Length)?;
    let (leap, version, mode) = (bytes[0] >> 6, bytes[0] >> 3 & 7, bytes[0] & 7);
    if mode != SERVER {
        return Err(Wrong::Mode);
    }
    if !matches!(version, 3 | 4) {
        return Err(Wrong::Version);
    }
    if long(bytes, 24) != nonce {
        return Err(Wrong::Origin);
    }
    let stratum = bytes[1];
    if stratum == 0 {
        return Ok(Reply::Kiss(match &bytes[12..16] {
            b"DENY" | b"RSTR" => Kiss::Refused,
            b"RATE" => Kiss::TooOften,
            _ => Kiss::Other,
        }));
    }
    if leap == UNKNOWN || stratum >= MAX_STRATUM {
        return Err(Wrong::Unsynchronised);
    }
    let (received, sent) = (long(bytes, 32), long(bytes, 40));
    // Less than half the range ahead, as the rollover may lie between the two.
    if received == 0 || sent == 0 || sent.wrapping_sub(received) > u64::MAX / 2 {
        return Err(Wrong::Timestamps);
    }
    let distance = short(bytes, 4) / 2 + short(bytes, 8);
    if distance > MAX_DISTANCE {
        return Err(Wrong::Distance);
    }
    Ok(Reply::Time(Answer {
        leap,
        stratum,
        distance,
        received: Timestamp(received),
        sent: Timestamp(sent),
    }))
}

/// The eight bytes at a place of the message.
fn long(bytes: &[u8; LENGTH], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |found| u64::from_be_bytes(*found))
}

/// The NTP short format at a place of the message: seconds and a fraction of 2^-16 s. Below zero,
/// which some servers say of their delay, it is far too much.
fn short(bytes: &[u8; LENGTH], at: usize) -> Duration {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let value = found.map_or(0, |found| u64::from(u32::from_be_bytes(*found)));
    Duration::from_nanos((value * 1_000_000_000) >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 0x0123_4567_89ab_cdef;
    /// 2025-01-01.
    const FLOOR: Duration = Duration::from_secs(1_735_689_600);

    fn answer() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = 4 << 3 | 4;
        bytes[1] = 2;
        bytes[6] = 0x80;
        bytes[24..32].copy_from_slice(&NONCE.to_be_bytes());
        bytes[32..40].copy_from_slice(&0xeb00_0000_0000_0000_u64.to_be_bytes());
        bytes[40..48].copy_from_slice(&0xeb00_0000_0000_1000_u64.to_be_bytes());
        bytes
    }

    fn with(changes: &[(usize, u8)]) -> Result<Reply, Wrong> {
        let mut bytes = answer();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        decode(&bytes, NONCE)
    }

    #[test]
    fn a_question_says_nothing_but_its_number() {
        let bytes = question(NONCE);
        assert_eq!(bytes[0], 0x23);
        assert!(bytes[1..40].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[40..], NONCE.to_be_bytes());
    }

    #[test]
    fn a_good_answer_is_read() {
        let Ok(Reply::Time(read)) = with(&[]) else {
            panic!("refused");
        };
        assert_eq!((read.leap, read.stratum), (0, 2));
        assert_eq!(read.distance, Duration::from_millis(250));
        assert_eq!(read.sent, Timestamp(0xeb00_0000_0000_1000));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (changes, wrong) in [
            (&[(0, 4 << 3 | 3)][..], Wrong::Mode),
            (&[(0, 4 << 3 | 5)], Wrong::Mode),
            (&[(0, 2 << 3 | 4)], Wrong::Version),
            (&[(0, 5 << 3 | 4)], Wrong::Version),
            (&[(31, 0)], Wrong::Origin),
            // The number comes first: a stranger can neither refuse nor slow us down.
            (&[(31, 0), (1, 0)], Wrong::Origin),
            (&[(0, 3 << 6 | 4 << 3 | 4)], Wrong::Unsynchronised),
            (&[(1, 16)], Wrong::Unsynchronised),
            (&[(1, 255)], Wrong::Unsynchronised),
            (&[(32, 0)], Wrong::Timestamps),
            (&[(40, 0), (46, 0)], Wrong::Timestamps),
            // Sent before it was received.
            (&[(40, 0xea)], Wrong::Timestamps),
            (&[(5, 3)], Wrong::Distance),
            (&[(4, 0xff)], Wrong::Distance),
            (&[(9, 2)], Wrong::Distance),
        ] {
            assert_eq!(with(changes), Err(wrong), "{changes:?}");
        }
        assert_eq!(decode(&answer()[..47], NONCE), Err(Wrong::Length));
        let long = [&answer()[..], &[0; 20]].concat();
        assert_eq!(decode(&long, NONCE), Err(Wrong::Length));
        assert!(with(&[(0, 3 << 3 | 4)]).is_ok(), "version 3");
    }

    #[test]
    fn kisses() {
        for (code, kiss) in [
            (b"DENY", Kiss::Refused),
            (b"RSTR", Kiss::Refused),
            (b"RATE", Kiss::TooOften),
            (b"INIT", Kiss::Other),
        ] {
            let mut bytes = answer();
            // As servers send it: not synchronised, stratum 0.
            bytes[0] |= 3 << 6;
            bytes[1] = 0;
            bytes[12..16].copy_from_slice(code);
            assert_eq!(decode(&bytes, NONCE), Ok(Reply::Kiss(kiss)));
        }
    }

    #[test]
    fn the_rollover_of_2036_is_no_event() {
        let at = |seconds: u64| Timestamp(((seconds + TO_UNIX) << 32) | 0x8000_0000);
        // 2025-01-01, two seconds around 2036-02-07 06:28:16, 2100-01-01, a day before 136 years.
        for seconds in [
            1_735_689_600,
            2_085_978_495,
            2_085_978_496,
            4_102_444_800,
            1_735_689_600 + (1 << 32) - 86_400,
        ] {
            let expected = Duration::from_millis(seconds * 1000 + 500);
            assert_eq!(at(seconds).since_1970(FLOOR), expected);
        }
    }
}
