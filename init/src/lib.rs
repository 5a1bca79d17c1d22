//! The userland of an immutable appliance, as one program with several roles.
//!
//! [`roles`] says which role a process has and starts it. As PID 1 the program runs two stages:
//! [`initramfs`] finds and verifies the root, [`system`] runs the machine on it. The other roles
//! are children that PID 1 supervises like any service, because what can hang or is fed by a
//! stranger must not be in PID 1.
//!
//! Versions of the system lie in two slots: [`slots`] knows what they are, [`keeper`] is the role that
//! keeps them, `update` the one that installs.
//!
//! [`control`] is the socket at which PID 1 is asked and told, [`ctl`] its client.
//!
//! Everything that happens is told as an event through one [`emit::Emitter`].

#![deny(unsafe_code)]

pub mod cmdline;
pub mod config;
pub mod container;
pub mod control;
pub mod ctl;
pub mod devices;
pub mod emit;
pub mod failure;
pub mod initramfs;
pub mod keeper;
pub mod kmsg_logger;
mod leftovers;
pub mod manager;
pub mod mounts;
pub mod record;
pub mod report;
pub mod roles;
pub mod slots;
pub mod state;
#[allow(unsafe_code, reason = "the only module that may; see its prose")]
pub mod sys;
pub mod system;
pub mod update;
