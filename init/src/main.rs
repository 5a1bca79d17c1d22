//! The program: every role of the userland.

use std::process::ExitCode;

fn main() -> ExitCode {
    astromesh_init::roles::run()
}
