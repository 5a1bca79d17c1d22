//! The reboot budget: so that no fault becomes an endless loop of reboots.
//!
//! A service that used up its restarts may ask for a reboot, which mends what a fresh start can mend. It
//! does not mend a broken image or a full disk, and a machine that reboots for ever helps nobody and cannot
//! be looked at. So starts of the machine that did not last are counted in a file that outlives them; after
//! [`STARTS_MAX`] of them the machine stays up `degraded` and tells.
//!
//! **A start is counted when it begins**, not when it ends. The disk may be what fails, and then nothing can
//! be counted any more; a power cut or a panic does not ask before. So the file has, while the machine runs,
//! what is to be true if it ends now:
//!
//! ```text
//!                      the file has
//!   start              N, starts in a row before this one that did not last
//!   from then on       N + 1                    a reboot that a service asks for leaves it so
//!   health lasted      1, as N is 0 from now on (see [`super::sustained`])
//!   end on request     N                        a reboot or power-off by a person, an update, a button
//! ```
//!
//! **A reboot that a service asks for is granted if N is below [`STARTS_MAX`] and the file has N + 1**: it
//! needs no disk at that moment, and none is granted that the next start would not know of. If the file
//! could not be written before, writing is tried once more, for [`WRITE_MAX`]; when that fails the reboot is
//! refused. Where nothing outlives a reboot, because `/var` is in memory, none is granted. A count
//! that cannot be read is taken for used up: it is a fault of its own.
//!
//! Pure: PID 1 reads the file before its services start; a child writes it ([`store`]), since a disk that
//! hangs must not hang PID 1.

use crate::state::{REBOOTS, StateDir, StateError};
use std::time::Duration;
use supervisor::Time;

/// Starts in a row that need not last.
pub const STARTS_MAX: u32 = 3;

/// How long the machine must be healthy for the count to start anew, if no service's law looks back
/// further.
pub const SUSTAINED: Duration = Duration::from_secs(600);

/// How long a write may take. A disk that works takes milliseconds; one that is lost is given up by the
/// kernel after 30 s (kernel: `drivers/scsi/sd.h`, `SD_TIMEOUT`), and then for good.
pub const WRITE_MAX: Time = Time::from_secs(10);

/// What is known of the starts before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many in a row did not last.
    Known(u32),
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
    /// What the file has, as far as this is known.
    written: Option<u32>,
    writing: Option<Writing>,
    /// Whether what is to be written now was tried already.
    tried: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Writing {
    count: u32,
    due: Time,
}

impl Budget {
    /// The budget of a machine that found this.
    #[must_use]
    pub fn new(count: Count) -> Self {
        Self {
            written: match count {
                Count::Known(count) => Some(count),
                Count::Unreadable(_) | Count::Nowhere => None,
            },
            count,
            on_request: false,
            writing: None,
            tried: None,
        }
    }

    /// Decides about a reboot that a service asks for.
    #[must_use]
    pub fn ask(&self) -> Verdict {
        match &self.count {
            Count::Nowhere => {
                Verdict::Refused("nothing outlives a reboot, so none can be counted".into())
            }
            Count::Unreadable(why) => {
                Verdict::Refused(format!("the count of reboots cannot be read: {why}"))
            }
            Count::Known(count) if *count >= STARTS_MAX => Verdict::Refused(format!(
                "{count} starts in a row ended before the machine was healthy for long"
            )),
            Count::Known(count) if self.written == Some(count + 1) => Verdict::Granted(count + 1),
            Count::Known(_) => Verdict::NotWritten,
        }
    }

    /// The machine was healthy for long enough: whatever was, counts no more.
    pub fn lasted(&mut self) {
        if self.count != Count::Nowhere {
            self.count = Count::Known(0);
        }
    }

    /// The machine is being stopped because somebody wants it so, and not for a fault.
    pub fn ends_on_request(&mut self) {
        self.on_request = true;
    }

    /// What is to be written now, once for each count, or `again`. It has to be
    /// [answered](Self::answered) by [`Self::due`].
    pub fn write(&mut self, now: Time, again: bool) -> Option<u32> {
        let Count::Known(before) = self.count else {
            return None;
        };
        let count = if self.on_request {
            before
        } else {
            before.saturating_add(1).min(STARTS_MAX)
        };
        let wanted = self.written != Some(count) && (again || self.tried != Some(count));
        if self.writing.is_some() || !wanted {
            return None;
        }
        let due = now.saturating_add(WRITE_MAX);
        self.writing = Some(Writing { count, due });
        self.tried = Some(count);
        Some(count)
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

    /// What was being written is on the disk, or may not be.
    pub fn answered(&mut self, success: bool) {
        if let Some(Writing { count, .. }) = self.writing.take() {
            self.written = success.then_some(count);
        }
    }
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
        Ok(None) => return Count::Known(0),
        Err(e) => return Count::Unreadable(e.to_string()),
    };
    let text = String::from_utf8_lossy(&bytes);
    text.trim().parse().map_or_else(
        |_| Count::Unreadable(format!("{}: no number", REBOOTS.path().display())),
        Count::Known,
    )
}

/// Writes the count. May take for ever: for a child of PID 1.
///
/// # Errors
/// Names the file.
pub fn store(count: u32) -> Result<(), StateError> {
    StateDir::open()?.write(REBOOTS, count.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(5);

    /// Runs a start of the machine until it has written what is to be true if it ends.
    fn begin(count: Count) -> Budget {
        let mut budget = Budget::new(count);
        while budget.write(NOW, false).is_some() {
            budget.answered(true);
        }
        budget
    }

    #[test]
    fn so_many_reboots_are_granted_and_no_more() {
        for count in 0..STARTS_MAX {
            let budget = begin(Count::Known(count));
            assert_eq!(budget.ask(), Verdict::Granted(count + 1));
            assert_eq!(budget.written, Some(count + 1));
        }
        for count in [STARTS_MAX, STARTS_MAX + 1, u32::MAX] {
            let budget = begin(Count::Known(count));
            assert!(matches!(budget.ask(), Verdict::Refused(why) if why.contains("in a row")));
            assert_eq!(budget.written, Some(STARTS_MAX));
        }
    }

    #[test]
    fn lasting_health_and_an_end_on_request_are_not_counted() {
        let mut budget = begin(Count::Known(2));
        budget.ends_on_request();
        assert_eq!(budget.write(NOW, false), Some(2));
        budget.answered(true);
        let mut budget = begin(Count::Known(2));
        budget.lasted();
        assert_eq!(budget.write(NOW, false), Some(1));
        budget.answered(true);
        assert_eq!(budget.ask(), Verdict::Granted(1));
        budget.ends_on_request();
        assert_eq!(budget.write(NOW, false), Some(0));
        let mut budget = begin(Count::Known(0));
        budget.lasted();
        assert_eq!(budget.write(NOW, false), None, "the file has 1 already");
    }

    #[test]
    fn nothing_is_granted_that_is_not_on_the_disk() {
        let mut budget = Budget::new(Count::Known(0));
        assert_eq!(budget.ask(), Verdict::NotWritten);
        assert_eq!(budget.write(NOW, false), Some(1));
        assert_eq!(budget.due(), Some(NOW + WRITE_MAX));
        assert_eq!(budget.write(NOW, true), None, "one at a time");
        assert_eq!(budget.ask(), Verdict::NotWritten);
        budget.answered(false);
        assert_eq!(budget.ask(), Verdict::NotWritten);
        assert_eq!(budget.write(NOW, false), None, "it was tried");
        assert_eq!(budget.write(NOW, true), Some(1));
        budget.answered(true);
        assert_eq!(budget.ask(), Verdict::Granted(1));
    }

    #[test]
    fn what_cannot_be_read_is_taken_for_used_up_until_health_lasts() {
        let mut budget = begin(Count::Unreadable("a directory".into()));
        assert!(matches!(budget.ask(), Verdict::Refused(why) if why.contains("a directory")));
        budget.lasted();
        assert_eq!(budget.write(NOW, false), Some(1));
        let mut budget = begin(Count::Nowhere);
        budget.lasted();
        assert!(matches!(budget.ask(), Verdict::Refused(why) if why.contains("outlives")));
        assert_eq!(budget.write(NOW, true), None);
    }

    #[test]
    fn the_file_holds_one_number() {
        let folder = std::env::temp_dir().join(format!("init-budget-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("state")).unwrap();
        let owner = rustix::process::geteuid().as_raw();
        let open = || StateDir::open_below(&folder, "state", owner);
        assert_eq!(read(open()), Count::Known(0));
        for (text, count) in [("2", 2), ("3\n", 3), (" 1 \n", 1)] {
            open().unwrap().write(REBOOTS, text.as_bytes()).unwrap();
            assert_eq!(read(open()), Count::Known(count));
        }
        for text in ["nonsense", "-1", "1 2"] {
            open().unwrap().write(REBOOTS, text.as_bytes()).unwrap();
            assert!(matches!(read(open()), Count::Unreadable(why) if why.contains("reboots")));
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(read(open()), Count::Unreadable(_)));
        assert_eq!(load(false), Count::Nowhere);
    }
}
