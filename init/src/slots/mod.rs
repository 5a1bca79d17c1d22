//! Slots: which version runs, which one is tried, and which one is left if the trial comes to nothing.
//!
//! A machine has two slots, each a root partition and its hash tree. A UKI on the ESP starts one of
//! them: the `roothash=` on its command line is the GUIDs of both partitions. So three places say
//! together what there is, and no fourth one is kept in step with them:
//!
//! - the partition table: which roots are on the disk ([`layout`]),
//! - the ESP: which of them can be started, and how often that was tried ([`esp`], [`name`], [`uki`]),
//! - the loader's variables: what the firmware did in this boot ([`efivar`]).
//!
//! Only what these cannot say is in a file: verdicts with their reasons, and the highest version that
//! was ever good ([`record`]). [`judgement`] is the one place that decides, and it is pure.
//!
//! PID 1 decides how a trial ends, and the slot daemon ([`crate::keeper`]) carries it out; what the two tell
//! each other is [`orders`].
//!
//! # The life of a version
//!
//! ```text
//! (none) --install--> NAME+0-0 --armed, the loader counts--> NAME+0-1 --blessed--> NAME
//!                        ^                                      |
//!                        +---- armed again, while DONE < tries -+--> bad: NAME+0-N and a verdict
//! ```
//!
//! `+0-N` sorts last in the loader's menu ("bad"), so a trial never starts by itself: only the variable
//! `LoaderEntryOneShot` starts it, and the loader deletes that first. Whatever becomes of a trial, the
//! next reset is the old version's.

pub mod efivar;
pub mod esp;
pub mod judgement;
pub mod layout;
pub mod marks;
pub mod name;
pub mod orders;
pub mod record;
pub mod uki;
pub mod version;

pub use efivar::BootVariables;
pub use esp::{Esp, Found};
pub use layout::{Layout, Slot};
pub use name::{EntryName, Tries};
pub use record::Record;
pub use uki::Uki;
