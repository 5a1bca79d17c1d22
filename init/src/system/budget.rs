//! The reboot budget: so that no fault becomes an endless loop of reboots.
//!
//! A service that used up its restarts may ask for a reboot, which mends what a fresh start can
//! mend. It does not mend a broken image or a full disk; a machine that reboots for ever helps
//! nobody and cannot be looked at. So the reboots that services asked for are counted in a file that
//! outlives them, and after [`REBOOTS_MAX`] the machine stays up `degraded` and tells. The count is
//! forgotten after [`SUSTAINED`] of health. Where nothing outlives a reboot, because `/var` is in
//! memory, no service's reboot is granted at all.

use crate::durable;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Reboots that services may cause before the machine was healthy for a while.
pub const REBOOTS_MAX: u32 = 3;

/// How long the machine must be healthy for the count to be forgotten.
pub const SUSTAINED: Duration = Duration::from_secs(600);

/// The count is kept here.
const PATH: &str = "/var/lib/astromesh-init/reboots";

/// See the module.
#[derive(Debug)]
pub struct Budget {
    path: Option<PathBuf>,
}

/// What was decided about a reboot that a service asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be; so many have been granted now.
    Granted(u32),
    /// It may not, and why.
    Refused(String),
}

impl Budget {
    /// The budget of a machine; `durable` says whether `/var` outlives a reboot.
    #[must_use]
    pub fn new(durable: bool) -> Self {
        Self {
            path: durable.then(|| PathBuf::from(PATH)),
        }
    }

    /// Asks for one reboot, and counts it if it is granted.
    #[must_use]
    pub fn spend(&self) -> Verdict {
        let Some(path) = &self.path else {
            return Verdict::Refused("nothing outlives a reboot, so none can be counted".into());
        };
        let spent = self.spent();
        if spent >= REBOOTS_MAX {
            return Verdict::Refused(format!("{spent} reboots did not help"));
        }
        match durable::write(path, format!("{}\n", spent + 1).as_bytes()) {
            Ok(()) => Verdict::Granted(spent + 1),
            Err(e) => Verdict::Refused(format!("{}: {e}", path.display())),
        }
    }

    /// The machine was healthy for long enough.
    ///
    /// # Errors
    /// Names the file.
    pub fn forget(&self) -> io::Result<()> {
        match &self.path {
            Some(path) if self.spent() > 0 => durable::write(path, b"0\n")
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
            _ => Ok(()),
        }
    }

    /// A file that cannot be read, or says nonsense, counts as full: it is a fault of its own.
    fn spent(&self) -> u32 {
        let Some(path) = &self.path else {
            return REBOOTS_MAX;
        };
        match std::fs::read_to_string(path) {
            Ok(text) => text.trim().parse().unwrap_or(REBOOTS_MAX),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(_) => REBOOTS_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_spent_once_and_given_back_by_health() {
        let folder = std::env::temp_dir().join(format!("init-budget-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("reboots");
        let budget = Budget {
            path: Some(path.clone()),
        };
        for count in 1..=REBOOTS_MAX {
            assert_eq!(budget.spend(), Verdict::Granted(count));
        }
        assert!(matches!(budget.spend(), Verdict::Refused(why) if why.contains("did not help")));
        budget.forget().unwrap();
        assert_eq!(budget.spend(), Verdict::Granted(1));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(matches!(budget.spend(), Verdict::Refused(_)));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(budget.spend(), Verdict::Refused(why) if why.contains("No such file")));
        assert!(matches!(Budget::new(false).spend(), Verdict::Refused(_)));
    }
}
