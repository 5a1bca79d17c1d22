//! The `vm` command; see the crate's library.

use std::env;

use anyhow::{Result, bail};
use qemu_harness::image_cli;

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let rest = arguments.collect();
    match verb.to_str() {
        Some("lock") => image_cli::lock(rest),
        Some("tools") => image_cli::tools(rest),
        _ => bail!("usage: cargo vm lock|tools"),
    }
}
