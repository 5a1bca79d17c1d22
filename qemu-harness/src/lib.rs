//! Builds the appliance image, boots it in QEMU, reads its events, measures it.
//!
//! Library and command. It sees the image, the serial line, QMP and the API of the runtime, and
//! knows nothing of init's internals.

#![forbid(unsafe_code)]

pub mod accel;
pub mod api;
pub mod assemble;
pub mod audit;
pub mod bench;
pub mod boot;
pub mod broken;
pub mod bundle;
pub mod cache;
mod certificate;
pub mod chart;
pub mod classify;
pub mod cli;
pub mod clock;
pub mod compile;
pub mod control;
pub mod damage;
pub mod disk;
pub mod elf;
pub mod esp;
pub mod event;
pub mod fetch;
pub mod file_server;
pub mod gpt;
pub mod health_watch;
pub mod host;
mod http_request;
pub mod image;
pub mod image_cli;
mod image_folders;
pub mod image_options;
mod image_root;
pub mod initramfs;
pub mod journal;
pub mod judge;
pub mod lock;
pub mod modules;
pub mod node;
pub mod paths;
pub mod pe;
pub mod powercut;
pub mod python;
pub mod qemu;
pub mod qmp;
pub mod random;
pub mod recipe;
pub mod replay;
pub mod report;
pub mod reproduce;
pub mod rootfs;
mod scratch;
pub mod segment;
pub mod serial;
pub mod setup;
pub mod signing;
pub mod stages;
pub mod tools;
pub mod trace;
pub mod tree;
pub mod update_bundle;
pub mod usernet;
pub mod vm;
pub mod wheels;
