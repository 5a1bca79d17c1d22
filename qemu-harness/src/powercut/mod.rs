//! The power cut: a disk that remembers in which order it was written, and what the power could
//! have left of it.
//!
//! Killing QEMU is no power cut: what the guest wrote is in the host's page cache and survives. A
//! disk loses what was not flushed, and keeps any part of it in any order. So the harness serves
//! the disk itself: QEMU's `nbd` driver is the client of a [server](nbd) on a Unix socket. The image is
//! never written. Each request goes into a [journal] with the bytes beside it, and
//! reads are answered from the image and the journal together ([`device`]).
//!
//! When the machine is off, every moment of its life is still there. A [state](states::State) is
//! one disk that a cut at one moment may have left: all that was guaranteed by then, and a part of
//! the rest. A [`View`] reads it, or writes it out to be booted. One boot gives any number of
//! power cuts that way, and each can be had again from the recording and the text of its state.
//!
//! What is guaranteed is what a guest may rely on: a write with FUA when it has been answered, and
//! whatever had been answered before a flush was asked for, once that flush has been answered
//! (NBD protocol, "Ordering of messages and writes"; VIRTIO 1.2, 5.2.6.2). The unit is the sector of 512
//! bytes: a virtio disk without larger physical blocks promises no more to be whole.

pub mod device;
pub mod entry;
pub mod extents;
pub mod files;
pub mod journal;
mod judged;
pub mod nbd;
mod protocol;
pub mod recorder;
pub mod sample;
pub mod server;
pub mod states;
pub mod view;
mod wire;

#[cfg(test)]
mod client;
#[cfg(test)]
mod testing;

pub use entry::Entry;
pub use journal::{Journal, Recording};
pub use recorder::Recorder;
pub use states::{Kind, State};
pub use view::{Replayer, View};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
