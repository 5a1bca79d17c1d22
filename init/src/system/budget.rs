//! The reboot budget: so that no fault becomes an endless loop of reboots.
//!
//! A service that used up its restarts may ask for a reboot, which mends what a fresh start can mend. It
//! does not mend a broken image or a full disk, and a machine that reboots for ever helps nobody and cannot
//! be looked at. So starts of the machine that ended unasked are counted, in a file that outlives them, and there are
//! two bounds, at each of which the machine stays up `degraded` and tells:
//!
//! * **In a row**: [`STARTS_MAX`] starts that did not last, which is that health lasted for [`SUSTAINED`].
//! * **Recent**: [`RECENT_MAX`] starts that lasted or not. A fault that comes a little later than health needs to last
//!   is never in a row. One is forgotten after each [`FORGOTTEN_AFTER`] of lasting health, so a day of the machine's
//!   time has at most six reboots that services ask for: four at once, and one more after 8 and after 16 hours. No clock is
//!   trusted for that: only the time counts in which one start was seen to be healthy.
//!
//! **A start is counted when it begins**, not when it ends. The disk may be what fails, and then nothing can
//! be counted any more; a power cut or a panic does not ask before. So the file has, while the machine runs,
//! what is to be true if it ends now:
//!
//! ```text
//!                        the file has
//!   start                N R      before this one: N in a row did not last, R are recent
//!   from then on         N+1 R+1  a reboot that a service asks for leaves it so
//!   health lasted        1 R+1    as N is 0 from now on (see [`super::sustained`])
//!   each 8 h of health   1 R      as R is one less from now on, but never below 0
//!   end on request       N R      a reboot or power-off by a person, an update, a button
//! ```
//!
//! **A reboot that a service asks for is granted if N and R are below their bounds and the file has no less than N + 1 and
//! R + 1**: it needs no disk at that moment, and none is granted that the next start would not know of. A write
//! that was not answered within [`WRITE_MAX`] leaves the file as it was, or as it was to be, so the lesser of both counts. If
//! the file has too little, writing is tried once more at once, and then again and again with [a backoff](retry_delay);
//! until it succeeds no reboot is granted. Where nothing outlives a reboot, because `/var` is in memory, none is
//! granted. A file that cannot be read is taken for used up: it is a fault of its own.
//!
//! Pure: PID 1 reads the file before its services start; a child writes it ([`store`]), since a disk that
//! hangs must not hang PID 1.

use crate::state::{REBOOTS, StateDir, StateError};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use supervisor::Time;

/// Starts in a row that need not last.
pub const STARTS_MAX: u32 = 3;

/// How long the machine must be healthy for the starts in a row to be none, if no service's law looks back
/// further.
pub const SUSTAINED: Duration = Duration::from_secs(600);

/// Recent starts that may have ended unasked.
pub const RECENT_MAX: u32 = 4;

/// How long the machine must be healthy for one of the recent starts to be forgotten, if no service's law looks
/// back further.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(8 * 3600);

/// How long a write may take. A disk that works takes milliseconds; one that is lost is given up by the
/// kernel after 30 s (kernel: `drivers/scsi/sd.h`, `SD_TIMEOUT`), and then for good.
pub const WRITE_MAX: Time = Time::from_secs(10);

/// How long to wait after the first write that failed, and after any.
const RETRY: (Time, Time) = (Time::from_secs(30), Time::from_secs(600));

/// Starts of the machine that nobody asked to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// So many in a row, up to the last one, did not last.
    pub in_a_row: u32,
    /// So many are not forgotten yet.
    pub recent: u32,
}

impl Starts {
    /// With the present start, if it ends now.
    fn with_this_one(self) -> Self {
        Self {
            in_a_row: self.in_a_row.saturating_add(1).min(STARTS_MAX),
            recent: self.recent.saturating_add(1).min(RECENT_MAX),
        }
    }

    /// What is there at least, if it is one or the other.
    fn at_least(self, other: Self) -> Self {
        Self {
            in_a_row: self.in_a_row.min(other.in_a_row),
            recent: self.recent.min(other.recent),
        }
    }
}

/// As in the file.
impl fmt::Display for Starts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.in_a_row, self.recent)
    }
}

/// As in the file. One number is what earlier versions wrote: starts in a row, all of them recent.
impl FromStr for Starts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut number = || words.next().map(str::parse::<u32>);
        match (number(), number(), number()) {
            (Some(Ok(in_a_row)), None, _) => Ok(Self {
                in_a_row,
                recent: in_a_row,
            }),
            (Some(Ok(in_a_row)), Some(Ok(recent)), None) => Ok(Self { in_a_row, recent }),
            _ => Err("not the two numbers of starts in a row and recent starts".into()),
        }
    }
}

/// What is known of the starts before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many ended unasked.
    Known(Starts),
    /// It cannot be read, and why.
    Unreadable(String),
    /// Nothing outlives a reboot.
    Nowhere,
}

/// What is decided about a reboot that a service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be, the file is prepared; it is the reboot with this number in a row.
    Granted(u32),
    /// It may not, and why.
    Refused(String),
    /// The file is not as it has to be, see [`Budget::write`].
    NotWritten,
}

/// See the module.
#[derive(Debug)]
pub struct Budget {
    count: Count,
    on_request: bool,
    /// What the file has at least.
    on_disk: Starts,
    /// Whether it has just that.
    is_exact: bool,
    writing: Option<Writing>,
    /// What was to be written last, and how often that failed in a row.
    tried: Option<Starts>,
    failures: u32,
    /// When it is to be tried again.
    retry: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Writing {
    starts: Starts,
    due: Time,
}

impl Budget {
    /// The budget of a machine that found this.
    #[must_use]
    pub fn new(mut count: Count) -> Self {
        if let Count::Known(starts) = &mut count {
            starts.recent = starts.recent.min(RECENT_MAX);
        }
        let known = match count {
            Count::Known(starts) => Some(starts),
            Count::Unreadable(_) | Count::Nowhere => None,
        };
        Self {
            count,
            on_request: false,
            on_disk: known.unwrap_or_default(),
            is_exact: known.is_some(),
            writing: None,
            tried: None,
            failures: 0,
            retry: None,
        }
    }

    /// Decides about a reboot that a service asks for.
    #[must_use]
    pub fn ask(&self) -> Verdict {
        let starts = match &self.count {
            Count::Known(starts) => *starts,
            Count::Nowhere => {
                return Verdict::Refused(
                    "nothing outlives a reboot, so none can be counted".into(),
                );
            }
            Count::Unreadable(why) => {
                return Verdict::Refused(format!("the count of reboots cannot be read: {why}"));
            }
        };
        let Starts { in_a_row, recent } = starts;
        let needed = starts.with_this_one();
        if in_a_row >= STARTS_MAX {
            Verdict::Refused(format!(
                "{in_a_row} starts in a row ended before the machine was healthy for long"
            ))
        } else if recent >= RECENT_MAX {
            let hours = FORGOTTEN_AFTER.as_secs() / 3600;
            Verdict::Refused(format!(
                "{recent} recent starts ended unasked; one is forgotten after each {hours} h of health"
            ))
        } else if self.on_disk.at_least(needed) == needed {
            Verdict::Granted(needed.in_a_row)
        } else {
            Verdict::NotWritten
        }
    }

    /// The machine was healthy for long enough: no starts in a row did not last.
    pub fn lasted(&mut self) {
        let recent = match &self.count {
            Count::Known(starts) => starts.recent,
            Count::Unreadable(_) => RECENT_MAX,
            Count::Nowhere => return,
        };
        self.count = Count::Known(Starts {
            in_a_row: 0,
            recent,
        });
    }

    /// The machine was healthy for so long that one of the recent starts is forgotten.
    pub fn forget_one(&mut self) {
        if let Count::Known(starts) = &mut self.count {
            starts.recent = starts.recent.saturating_sub(1);
        }
    }

    /// Whether there is one to be forgotten.
    #[must_use]
    pub fn has_recent(&self) -> bool {
        matches!(&self.count, Count::Known(starts) if starts.recent > 0)
    }

    /// The machine is being stopped because somebody wants it so, and not for a fault.
    pub fn ends_on_request(&mut self) {
        self.on_request = true;
    }

    /// What is to be written now, once for each count, or `again`. It has to be
    /// [answered](Self::answered) by [`Self::due`].
    pub fn write(&mut self, now: Time, again: bool) -> Option<Starts> {
        let starts = self.missing().filter(|_| self.writing.is_none())?;
        if !again && self.tried == Some(starts) {
            return None;
        }
        let due = now.saturating_add(WRITE_MAX);
        self.writing = Some(Writing { starts, due });
        self.tried = Some(starts);
        self.retry = None;
        self.on_disk = self.on_disk.at_least(starts);
        self.is_exact = false;
        Some(starts)
    }

    /// What the file is to have, unless it has just that.
    fn missing(&self) -> Option<Starts> {
        let Count::Known(before) = self.count else {
            return None;
        };
        let starts = if self.on_request {
            before
        } else {
            before.with_this_one()
        };
        (!self.is_exact || self.on_disk != starts).then_some(starts)
    }

    /// Whether something is being written.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Until when what is being written has to be answered.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.writing.map(|writing| writing.due)
    }

    /// When to [write](Self::write) `again`, because the last write failed.
    #[must_use]
    pub fn retry(&self) -> Option<Time> {
        self.retry
    }

    /// What was being written is on the disk, or may not be. Gives how often in a row that failed.
    pub fn answered(&mut self, now: Time, success: bool) -> u32 {
        let Some(Writing { starts, .. }) = self.writing.take() else {
            return self.failures;
        };
        if success {
            self.on_disk = starts;
            self.is_exact = true;
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.retry = Some(now.saturating_add(retry_delay(self.failures)));
        }
        self.failures
    }
}

/// How long to wait after so many writes in a row that failed: 30 s, then twice as long each time, up to 10 min.
fn retry_delay(failures: u32) -> Time {
    let (first, most) = RETRY;
    let times = 2u32.saturating_pow(failures.saturating_sub(1));
    first.saturating_mul(times).min(most)
}

/// Reads the count; `durable` says whether `/var` outlives a reboot.
#[must_use]
pub fn load(durable: bool) -> Count {
    match durable {
        true => read(StateDir::open()),
        false => Count::Nowhere,
    }
}

fn read(folder: Result<StateDir, StateError>) -> Count {
    let bytes = match folder.and_then(|folder| folder.read(REBOOTS)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Count::Known(Starts::default()),
        Err(e) => return Count::Unreadable(e.to_string()),
    };
    let starts = String::from_utf8_lossy(&bytes).parse::<Starts>();
    starts.map_or_else(
        |e| Count::Unreadable(format!("{}: {e}", REBOOTS.path().display())),
        Count::Known,
    )
}

/// Writes the count. May take for ever: for a child of PID 1.
///
/// # Errors
/// Names the file.
pub fn store(starts: Starts) -> Result<(), StateError> {
    StateDir::open()?.write(REBOOTS, starts.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
