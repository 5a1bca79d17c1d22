//! What the routers of one link said, for as long as it stands (RFC 8106, section 6).
//!
//! Entries keep the place they first had, so that a router which repeats itself changes nothing.
//! Their number is bounded: of more, those that stand longest are kept. So is their time, whatever a router says: a
//! stranger who spoke once as a router, and is gone, must not choose the machine's DNS servers for ever.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::options::{UserOption, What};

/// Servers kept of one link. resolv.conf has room for three.
pub const MAX_SERVERS: usize = 8;
/// Search domains kept of one link.
pub const MAX_DOMAINS: usize = 8;

/// The longest that anything stands without being said again. Routers repeat themselves after 65535 s at most (RFC 8319),
/// and what they say stands for three times as long (RFC 8106, section 5.1); so this is as good as for ever for one that
/// is there.
pub const LONGEST: Duration = Duration::from_secs(3 * 65_535);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<T> {
    value: T,
    until: Duration,
}

/// The facts of one link. The same option of the same link, told again, only gives them more time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    servers: Vec<Entry<Ipv6Addr>>,
    domains: Vec<Entry<String>>,
    ignored: u64,
}

impl Facts {
    /// Nothing is known.
    pub fn new() -> Facts {
        Facts::default()
    }

    /// Takes in what a router of this link said; true if [`Facts::dns`] or [`Facts::search`]
    /// differ from before. Who speaks from an address that is not of the link is not listened to.
    #[must_use]
    pub fn step(&mut self, now: Duration, option: UserOption) -> bool {
        let changed = self.expire(now);
        if !option.router.is_unicast_link_local() {
            self.ignored += 1;
            return changed;
        }
        let until = now + Duration::from_secs(option.lifetime.into()).min(LONGEST);
        let taken = match option.what {
            What::Servers(all) => take(&mut self.servers, MAX_SERVERS, now, until, all),
            What::Domains(all) => take(&mut self.domains, MAX_DOMAINS, now, until, all),
        };
        changed || taken
    }

    /// Forgets what is over; true if anything was.
    #[must_use]
    pub fn expire(&mut self, now: Duration) -> bool {
        let servers = retain(&mut self.servers, now);
        let domains = retain(&mut self.domains, now);
        servers || domains
    }

    /// Forgets everything, as after a change of networks; true if there was anything.
    #[must_use]
    pub fn clear(&mut self) -> bool {
        let any = !self.servers.is_empty() || !self.domains.is_empty();
        self.servers.clear();
        self.domains.clear();
        any
    }

    /// When [`Facts::expire`] must be called again.
    pub fn deadline(&self) -> Option<Duration> {
        let servers = self.servers.iter().map(|entry| entry.until);
        let domains = self.domains.iter().map(|entry| entry.until);
        servers.chain(domains).min()
    }

    /// DNS servers, best first. A link-local one is of this link, and useless without its name.
    pub fn dns(&self) -> Vec<Ipv6Addr> {
        self.servers.iter().map(|entry| entry.value).collect()
    }

    /// Search domains, best first.
    pub fn search(&self) -> Vec<String> {
        self.domains
            .iter()
            .map(|entry| entry.value.clone())
            .collect()
    }

    /// How often somebody was not listened to.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}

fn retain<T>(entries: &mut Vec<Entry<T>>, now: Duration) -> bool {
    let before = entries.len();
    entries.retain(|entry| now < entry.until);
    entries.len() < before
}

fn take<T: PartialEq>(
    entries: &mut Vec<Entry<T>>,
    most: usize,
    now: Duration,
    until: Duration,
    values: Vec<T>,
) -> bool {
    let mut changed = false;
    for value in values {
        if let Some(known) = entries.iter_mut().find(|entry| entry.value == value) {
            known.until = until;
            continue;
        }
        if until <= now {
            continue;
        }
        if entries.len() >= most {
            // The first of those that go first makes room, if the new one stands longer.
            let shortest = entries.iter().enumerate().min_by_key(|(_, e)| e.until);
            match shortest.map(|(at, entry)| (at, entry.until)) {
                Some((at, least)) if until > least => {
                    entries.remove(at);
                }
                _ => continue,
            }
        }
        entries.push(Entry { value, until });
        changed = true;
    }
    // A lifetime of zero has just taken some back.
    retain(entries, now) || changed
}
