//! A time server for the machines of a segment: chronyd, the program of Debian's `chrony`.

use crate::background::Background;
use anyhow::{Context, Result};
use qemu_harness::segment::Segment;
use qemu_harness::setup;
use std::fs;
use std::path::Path;

/// It tells everybody the time of the host, which it believes and leaves alone, and listens for
/// no commands (chrony.conf(5)).
const CONFIGURATION: &str = "local stratum 8\nallow\ncmdport 0\nbindcmdaddress /\n";

/// Starts the server on the segment. Its configuration is written into `folder`, which is there.
///
/// # Errors
/// When it is not there and cannot be installed, or does not start; the message has its words.
pub fn chronyd(segment: &Segment, folder: &Path) -> Result<Background> {
    setup::install(&[("chronyd", "chrony")])?;
    let config = folder.join("chrony.conf");
    let pid = folder.join("chronyd.pid");
    let text = format!("{CONFIGURATION}pidfile {}\n", pid.display());
    fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let config = config.display().to_string();
    // -d: stays with us, and speaks to us. -x: does not touch the clock (chronyd(8)).
    let arguments = ["-d", "-x", "-u", "root", "-f", &config];
    let ready = "Disabled control of system clock";
    Background::start(segment, "chronyd", &arguments, &[], ready)
}
