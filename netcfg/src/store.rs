//! A lease as a file, so that the next start can ask for the same address at once.
//!
//! The file keeps the ACK as the server sent it, and it is read again by the same guarded code
//! that reads the network: a file that somebody edited is no more trusted than a packet. A sum
//! over all of it makes a torn write visible. Beside the ACK there is the card of the gateway, by
//! which the network is known again.
//!
//! Two clocks are kept: the time since boot with the id of that boot, which is exact for a
//! restart of this program, and the wall clock, which is only a hint: appliances without a
//! battery start in the past. Where it says that less than no time has passed since the file was
//! written, or that it is a time before this program was, the age of the lease is unknown: the
//! lease is good for a question to the server, and for nothing else.

use std::fmt::Write as _;
use std::time::Duration;

use crate::dhcp4::client::Saved;
use crate::dhcp4::lease::Lease;
use crate::dhcp4::reply::{Kind, Reply};
use crate::mac::Mac;

const FIRST_LINE: &str = "netcfg-lease 2";
/// 2025-01-01: a clock that says less has not been set.
const CLOCK_SET: u64 = 1_735_689_600;
/// The lease, its age and the two readings of the wall clock are cut to seconds: so much older
/// may the lease be at most.
const ROUNDING: u64 = 2;

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

/// The file for `lease`, which a server confirmed in this boot.
pub fn write(lease: &Lease, clocks: &Clocks) -> String {
    let age = clocks.since_boot.saturating_sub(lease.times.granted);
    let gateway_mac = lease.gateway_mac.map(|mac| mac.to_string());
    let mut text = format!(
        "{FIRST_LINE}\nboot {}\ngranted-ms {}\nage-s {}\nwall {}\ngateway-mac {}\nack ",
        clocks.boot_id,
        lease.times.granted.as_millis(),
        age.as_secs(),
        clocks.wall,
        gateway_mac.as_deref().unwrap_or("unknown"),
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
    let age: u64 = lines.next()?.strip_prefix("age-s ")?.parse().ok()?;
    let wall: u64 = lines.next()?.strip_prefix("wall ")?.parse().ok()?;
    let gateway_mac = lines.next()?.strip_prefix("gateway-mac ")?;
    let ack = unhex(lines.next()?.strip_prefix("ack ")?)?;

    let reply = Reply::decode(&ack).ok()?;
    if reply.chaddr != mac || reply.kind != Kind::Ack {
        return None;
    }
    let same_boot = boot_id == clocks.boot_id;
    let (granted, age) = if same_boot {
        // A grant in the future is not one of this boot, whatever the file says.
        let granted = Duration::from_millis(granted);
        (
            Some(granted).filter(|g| *g <= clocks.since_boot)?,
            Some(Duration::ZERO),
        )
    } else {
        let since_written = clocks.wall.checked_sub(wall).filter(|_| wall >= CLOCK_SET);
        let age = since_written.map(|s| s.saturating_add(age).saturating_add(ROUNDING));
        (clocks.since_boot, age.map(Duration::from_secs))
    };
    let mut lease = Lease::from_reply(&reply, granted, &ack).ok()?;
    lease.times = lease.times.earlier(age.unwrap_or_default());
    lease.gateway_mac = gateway_mac.parse().ok();
    Some(Saved {
        lease,
        applied: same_boot,
        age_known: age.is_some(),
    })
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
    const NOON: u64 = 1_800_000_000;

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
        for gateway_mac in [None, Some(Mac([2, 0, 0, 0, 0, 1]))] {
            let lease = Lease {
                gateway_mac,
                ..lease(100)
            };
            let text = write(&lease, &clocks("a", 130, NOON + 30));
            let saved = read(&text, ME, &clocks("a", 500, 9)).expect("whole");
            assert_eq!(
                saved,
                Saved {
                    lease,
                    applied: true,
                    age_known: true
                }
            );
        }
    }

    #[test]
    fn another_boot_goes_by_the_wall_clock_and_applies_nothing() {
        // Granted at noon, written half a minute later.
        let text = write(&lease(100), &clocks("a", 130, NOON + 30));
        let at = |since_boot, wall| {
            let clocks = clocks("b", since_boot, wall);
            let saved = read(&text, ME, &clocks).expect("whole");
            assert!(!saved.applied);
            let expire = saved.lease.times.expire().expect("ends");
            let left = expire.saturating_sub(clocks.since_boot).as_secs();
            (left, saved.age_known)
        };
        assert_eq!(at(5, NOON + 30), (3568, true));
        assert_eq!(at(5000, NOON + 3000), (598, true));
        assert_eq!(at(5, NOON + 3600), (0, true));
        assert_eq!(at(5, NOON + 1_000_000), (0, true));
        // A clock that is behind the file says nothing about the age.
        assert_eq!(at(5, NOON + 29), (3600, false));
        assert_eq!(at(5, 12), (3600, false));
        // Neither does one that was never set, then and now.
        let text = write(&lease(100), &clocks("a", 130, 130));
        let saved = read(&text, ME, &clocks("b", 200, 200)).expect("whole");
        assert!(!saved.age_known && saved.lease.times.is_valid_at(Duration::from_secs(200)));
    }

    #[test]
    fn a_damaged_file_is_no_file() {
        let text = write(&lease(100), &clocks("a", 130, NOON + 30));
        let now = clocks("a", 500, NOON + 400);
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
