//! The `vm` command; see the crate's library.

use std::process::ExitCode;

fn main() -> ExitCode {
    qemu_harness::cli::run(std::env::args_os().skip(1))
}
