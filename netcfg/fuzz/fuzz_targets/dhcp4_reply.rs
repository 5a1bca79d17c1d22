//! See `judge::dhcp4_reply`.
#![no_main]

#[path = "../judge.rs"]
mod judge;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| judge::dhcp4_reply(bytes));
