//! Updates of a whole machine: versions that are kept, versions that must not be, and updates that
//! must not even be installed.
//!
//! [`course`] is the way of a machine over several versions, and of one with the real runtime; [`broken`] goes through all
//! versions that do not work, [`refused`] through all updates that are wrong, both with a small daemon
//! in place of the runtime; in [`full`] a service fills `/var` and holds locks; [`cuts`] cuts the power over all of it. The
//! [`gates`] of the appliance's earlier userland are part of [`course`] and [`broken`]. Versions share machines where they
//! can follow each other: a boot is what costs.

mod broken;
mod course;
mod cuts;
mod full;
mod gates;
mod refused;
