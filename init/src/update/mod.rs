//! Updates: from a signed manifest to a slot that the next boot tries.
//!
//! Whoever publishes a version puts four files and a signature into a folder: the manifest
//! `update.json` with the names, sizes and hashes of the others, `update.json.sig`, the root, its hash
//! tree and the UKI. A machine is told where the manifest is, and does the rest:
//!
//! 1. The manifest is taken only with a signature by a key of the verified root ([`keys`]): before
//!    that, not one byte of it is interpreted ([`manifest`]).
//! 2. Everything that can be known before is checked before ([`plan`]): a refusal changes nothing.
//! 3. The way there is a list of steps with one order ([`plan::Step`]): what cannot boot any more is first
//!    taken off the ESP, what is to boot is put there last, and arming it is the very last of all.
//! 4. The steps are carried out ([`install`]). What was written is read back from the device, past the
//!    page cache ([`direct`]): the hash tree proves the root against the roothash ([`verity`]), the
//!    UKI's hash is that of the signed manifest.
//!
//! A power cut or a kill anywhere leaves the running version bootable and no entry for a slot that
//! is not whole. Nothing is kept to continue from: an interrupted update starts over.
//!
//! Where the files come from is behind one trait ([`source::Source`]); how to be patient with a bad line is
//! on this side of it ([`fetch`]), so that every source has it.
//!
//! This runs as a process of its own (`init update`), since it is fed by strangers.

pub mod direct;
pub mod fetch;
pub mod hash;
pub mod install;
pub mod keys;
pub mod machine;
pub mod manifest;
pub mod patience;
pub mod plan;
mod progress;
pub mod run;
pub mod source;
pub mod verity;

/// How an update ended that did not install anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is not for this machine or not now, which the manifest alone showed; nothing was changed. Trying the same
    /// again is of no use.
    Refused(String),
    /// It was refused as well, and nothing was changed, but only after files of the version had been fetched. Whoever
    /// looks at the same source again fetches them again.
    Rejected(String),
    /// The version runs already.
    Nothing(String),
    /// It went wrong.
    Failed {
        /// What, where and why.
        reason: String,
        /// Whether the same may go well at another time, as after a broken connection.
        transient: bool,
    },
}

impl End {
    /// A failure that another try would not mend.
    #[must_use]
    pub fn failed(reason: impl std::fmt::Display) -> Self {
        Self::Failed {
            reason: reason.to_string(),
            transient: false,
        }
    }

    /// The same end, of an update that had begun to fetch the files of the version.
    #[must_use]
    pub fn after_fetching(self) -> Self {
        match self {
            Self::Refused(reason) => Self::Rejected(reason),
            other => other,
        }
    }

    /// The exit status of the role `update`, from which the slot daemon learns how it ended. 0 is an update that was
    /// installed, 2 a wrong call.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Refused(_) => 3,
            Self::Nothing(_) => 4,
            Self::Rejected(_) => 5,
        }
    }
}

impl From<source::SourceError> for End {
    fn from(e: source::SourceError) -> Self {
        Self::Failed {
            reason: e.message,
            transient: e.transient,
        }
    }
}

/// Where events go.
pub trait Outlet {
    /// Something happened.
    fn event(&mut self, name: &str, fields: &[(&str, String)]);
}
