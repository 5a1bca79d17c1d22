//! The kernel's log as a back end of the [`log`] facade, and for events.
//!
//! Records go to `/dev/kmsg` (kernel: `Documentation/ABI/testing/dev-kmsg`), each in one `write`:
//! the kernel makes one record of each, so formatting straight into the file would tear a line
//! into pieces. A record longer than the kernel takes is cut, since it would be refused whole. What
//! the kernel does not take is counted, never waited for and never retried.
//!
//! The kernel throttles writers of `/dev/kmsg` and says nothing when it drops a record; the image
//! switches that off with `printk.devkmsg=on`.

use log::{Level, Log, Metadata, Record};
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use supervisor::event::LINE_MAX;

/// Syslog facility `daemon` (RFC 5424 table 1), shifted into a priority.
const FACILITY: u8 = 3 << 3;

/// The open kernel log.
#[derive(Debug)]
pub struct Kmsg {
    file: Option<File>,
    lost: AtomicU64,
}

impl Kmsg {
    /// Opens `/dev/kmsg`; without it everything is lost, and counted.
    #[must_use]
    pub fn open() -> Self {
        Self {
            file: File::options().write(true).open("/dev/kmsg").ok(),
            lost: AtomicU64::new(0),
        }
    }

    /// Writes one record of the given syslog severity (RFC 5424 table 2).
    pub fn write(&self, severity: u8, text: &str) {
        let mut record = format!("<{}>", FACILITY | severity);
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        record.extend(text.chars().map(printable));
        let mut end = record.len().min(LINE_MAX + 8);
        while !record.is_char_boundary(end) {
            end -= 1;
        }
        record.truncate(end);
        let written = self
            .file
            .as_ref()
            .is_some_and(|mut f| f.write(record.as_bytes()).is_ok());
        if !written {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records the kernel did not take.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let severity = match record.level() {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        self.write(severity, &format!("{}: {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

static LOGGER: OnceLock<Kmsg> = OnceLock::new();

/// Makes the kernel's log the back end of `log` for this process, and returns it.
pub fn install() -> &'static Kmsg {
    let kmsg = LOGGER.get_or_init(Kmsg::open);
    if log::set_logger(kmsg).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    kmsg
}
