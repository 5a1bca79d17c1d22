//! A lease as a file, so that the next start can ask for the same address at once.
//!
//! The file keeps the ACK as the server sent it, and it is read again by the same guarded code
//! that reads the network: a file that somebody edited is no more trusted than a packet. A sum
//! over all of it makes a torn write visible. Two clocks are kept: the time since boot with the
//! id of that boot, which is exact for a restart of this program, and the wall clock, which is
//! only a hint: appliances without a battery start in the past.

use std::fmt::Write as _;
use std::time::Duration;

use crate::dhcp4::client::Saved;
use crate::dhcp4::lease::{Lease, Times};
use crate::dhcp4::reply::{Kind, Reply};
use crate::mac::Mac;

const FIRST_LINE: &str = "netcfg-lease 1";

/// Where the clocks stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Time since boot.
    pub since_boot: Duration,
    /// Seconds since 1970, right or wrong.
    pub wall: u64,
}

/// The file for `lease`.
pub fn write(lease: &Lease, clocks: &Clocks) -> String {
    let age = clocks.since_boot.saturating_sub(lease.times.granted);
    let mut text = format!(
        "{FIRST_LINE}\nboot {}\ngranted-ms {}\nwall {}\nack ",
        clocks.boot_id,
        lease.times.granted.as_millis(),
        clocks.wall.saturating_sub(age.as_secs()),
    );
    for byte in &lease.ack {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    let sum = sum(text.as_bytes());
    let _ = writeln!(text, "sum {sum:016x}");
    text
}

/// The lease in `text`, if it is whole and for `mac`. Its times are on our clock as well as that
/// can be known; a lease of another boot is never called applied.
pub fn read(text: &str, mac: Mac, clocks: &Clocks) -> Option<Saved> {
    let body = text.get(..text.rfind("sum ")?)?;
    let stated = text
        .get(body.len()..)?
        .strip_prefix("sum ")?
        .strip_suffix('\n')?;
    if stated != format!("{:016x}", sum(body.as_bytes())) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != FIRST_LINE {
        return None;
    }
    let boot_id = lines.next()?.strip_prefix("boot ")?;
    let granted: u64 = lines.next()?.strip_prefix("granted-ms ")?.parse().ok()?;
    let wall: u64 = lines.next()?.strip_prefix("wall ")?.parse().ok()?;
    let ack = unhex(lines.next()?.strip_prefix("ack ")?)?;

    let reply = Reply::decode(&ack).ok()?;
    if reply.chaddr != mac || reply.kind != Kind::Ack {
        return None;
    }
    let same_boot = boot_id == clocks.boot_id;
    let granted = if same_boot {
        // A grant in the future is not one of this boot, whatever the file says.
        Some(Duration::from_millis(granted)).filter(|granted| *granted <= clocks.since_boot)?
    } else {
        // Unknown age counts as none: the server decides, before anything is applied.
        let age = Duration::from_secs(clocks.wall.saturating_sub(wall));
        clocks.since_boot.saturating_sub(age)
    };
    let mut lease = Lease::from_reply(&reply, granted, &ack).ok()?;
    if !same_boot {
        let age = Duration::from_secs(clocks.wall.saturating_sub(wall));
        if lease
            .seconds()
            .is_some_and(|seconds| age.as_secs() >= seconds)
        {
            // Over, if the wall clock is right: good for a wish, not for a request.
            lease.times = over(lease.times, clocks.since_boot);
        }
    }
    Some(Saved {
        lease,
        applied: same_boot,
    })
}

fn over(mut times: Times, now: Duration) -> Times {
    if let Some(end) = &mut times.end {
        end.expire = end.expire.min(now);
    }
    times
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks(2)
        .map(|pair| {
            let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
            u8::try_from(digit(pair.first())? << 4 | digit(pair.get(1))?).ok()
        })
        .collect()
}

/// FNV-1a, 64 bits: enough against a torn write; against an attacker nothing here would be.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp4::walk::tests::header;

    const ME: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn clocks(boot: &str, since_boot: u64, wall: u64) -> Clocks {
        Clocks {
            boot_id: boot.to_owned(),
            since_boot: Duration::from_secs(since_boot),
            wall,
        }
    }

    fn lease(granted: u64) -> Lease {
        let mut ack = header();
        ack[16..20].copy_from_slice(&[10, 0, 0, 9]);
        ack[28..34].copy_from_slice(&ME.0);
        ack.extend([
            53, 1, 5, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0,
        ]);
        let reply = Reply::decode(&ack).expect("an ACK");
        Lease::from_reply(&reply, Duration::from_secs(granted), &ack).expect("a lease")
    }

    #[test]
    fn a_restart_finds_the_same_lease() {
        let lease = lease(100);
        let text = write(&lease, &clocks("a", 130, 1_000_030));
        let saved = read(&text, ME, &clocks("a", 500, 9)).expect("whole");
        assert_eq!(
            saved,
            Saved {
                lease,
                applied: true
            }
        );
    }

    #[test]
    fn another_boot_goes_by_the_wall_clock_and_applies_nothing() {
        let text = write(&lease(100), &clocks("a", 130, 1_000_030));
        let at = |since_boot, wall| {
            let clocks = clocks("b", since_boot, wall);
            let saved = read(&text, ME, &clocks).expect("whole");
            assert!(!saved.applied);
            saved.lease.times.is_valid_at(clocks.since_boot)
        };
        assert!(at(5, 1_000_000 + 3599));
        assert!(!at(5, 1_000_000 + 3600));
        // A clock that starts in the past says nothing about the age.
        assert!(at(5, 12));
    }

    #[test]
    fn a_damaged_file_is_no_file() {
        let text = write(&lease(100), &clocks("a", 130, 1_000_030));
        let now = clocks("a", 500, 1_000_400);
        for cut in 0..text.len() {
            assert_eq!(read(&text[..cut], ME, &now), None, "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            if let Ok(damaged) = String::from_utf8(damaged) {
                assert_eq!(read(&damaged, ME, &now), None, "byte {at}");
            }
        }
        assert_eq!(
            read(&text, Mac([2, 0, 0, 0, 0, 8]), &now),
            None,
            "another card"
        );
        assert_eq!(
            read(&text, ME, &clocks("a", 50, 0)),
            None,
            "from the future"
        );
    }
}
