//! Builds the appliance image, boots it in QEMU, reads its events, measures it.
//!
//! Library and command. It sees the image, the serial line, QMP and the API of the runtime, and
//! knows nothing of init's internals.

#![forbid(unsafe_code)]

pub mod accel;
pub mod api;
pub mod bundle;
pub mod classify;
pub mod clock;
pub mod event;
pub mod fetch;
pub mod host;
pub mod image_cli;
pub mod journal;
pub mod lock;
pub mod paths;
pub mod qemu;
pub mod qmp;
pub mod serial;
pub mod tools;
pub mod vm;
