//! Servers that broke their own offer, passed over for a while when there is another.
//!
//! A minute at first, and twice as long each time it happens again: with a fixed time, two bad
//! servers that each take longer than that to be found out would hide a good one for ever.

use std::time::Duration;

/// The first time.
const FIRST: Duration = Duration::from_secs(60);
/// The longest time: six servers that each take two and a half minutes to be found out, as those
/// of DHCPv6 do, hide no seventh. No longer, for a good server behind a bad cable is shunned, too.
const LONGEST: Duration = Duration::from_secs(960);
/// At most so many servers are remembered; the wire may have liars by the thousand.
const MOST: usize = 8;

#[derive(Debug, Clone)]
struct Entry<T> {
    server: T,
    until: Duration,
    wait: Duration,
}

/// The servers of one link, known by `T`.
#[derive(Debug, Clone)]
pub struct Shunned<T> {
    entries: Vec<Entry<T>>,
}

impl<T> Default for Shunned<T> {
    /// Nobody.
    fn default() -> Shunned<T> {
        Shunned {
            entries: Vec::new(),
        }
    }
}

impl<T: PartialEq> Shunned<T> {
    /// Whether `server` is passed over now.
    pub fn has(&self, server: &T, now: Duration) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.server == *server && now < entry.until)
    }

    /// Passes `server` over, from `since` on.
    pub fn add(&mut self, server: T, since: Duration) {
        let known = self.entries.iter().position(|e| e.server == server);
        let before = known.map(|at| self.entries.remove(at).wait);
        let wait = before.map_or(FIRST, |wait| (wait * 2).min(LONGEST));
        if self.entries.len() >= MOST {
            self.entries.remove(0);
        }
        self.entries.push(Entry {
            server,
            until: since.saturating_add(wait),
            wait,
        });
    }

    /// Somebody kept a promise: everybody gets another chance.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_time_is_longer_up_to_sixteen_minutes() {
        let mut shunned = Shunned::default();
        for (since, until) in [(0, 60), (100, 220), (300, 540)] {
            shunned.add('a', s(since));
            assert!(shunned.has(&'a', s(until - 1)) && !shunned.has(&'a', s(until)));
        }
        for _ in 0..70 {
            shunned.add('a', s(1000));
        }
        assert!(shunned.has(&'a', s(1959)) && !shunned.has(&'a', s(1960)));
        assert!(!shunned.has(&'b', s(1001)));
        shunned.clear();
        shunned.add('a', s(0));
        assert!(!shunned.has(&'a', s(60)));
    }

    #[test]
    fn liars_by_the_thousand_take_no_memory() {
        let mut shunned = Shunned::default();
        for server in 0..1000 {
            shunned.add(server, s(0));
        }
        assert_eq!(shunned.entries.len(), MOST);
        assert!(shunned.has(&999, s(1)));
    }
}
