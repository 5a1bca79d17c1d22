//! The real binary as PID 1 of a PID namespace (`init container`), with real and difficult services.
//!
//! Needs root and a cgroup2 mount, wherever it is. What the v2 controllers for memory and pids have to
//! show is shown by whole boots (`tests/tests/boot_limits.rs`), as a host may have them elsewhere.

mod control;
mod descriptors;
mod endurance;
mod notify;
mod probes;
mod rig;
mod roles;
mod start;
mod tree;
