//! Which parts of its disk a machine has read.
//!
//! QEMU's virtio-blk device tells of each request in a trace event with sector and length. That
//! is how a test knows which bytes a boot depends on, instead of guessing from file names.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// The event to switch on.
pub const EVENT: &str = "virtio_blk_handle_read";
/// virtio-blk counts in these whatever the disk's own sectors are (VIRTIO 1.2, 5.2.4).
const SECTOR: u64 = 512;

/// One read request, in bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Read {
    /// Whether this byte of the disk was part of the request.
    #[must_use]
    pub fn covers(&self, byte: u64) -> bool {
        byte >= self.start && byte - self.start < self.len
    }
}

/// Reads the trace of a machine.
///
/// # Errors
/// When there is none, or it holds other lines than expected.
pub fn reads(log: &Path) -> Result<Vec<Read>> {
    let text = fs::read_to_string(log)
        .with_context(|| format!("cannot read the trace {}", log.display()))?;
    let reads = parse(&text);
    ensure!(
        !reads.is_empty(),
        "the trace {} holds no reads",
        log.display()
    );
    Ok(reads)
}

/// `virtio_blk_handle_read vdev 0x1 req 0x2 sector 8 nsectors 1`, perhaps with a stamp in front.
/// A line that is being written while we read is not complete yet and left out.
fn parse(text: &str) -> Vec<Read> {
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n') && line.contains(EVENT))
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let mut after = |key: &str| -> Option<u64> {
                words.find(|word| *word == key)?;
                words.next()?.parse().ok()
            };
            Some(Read {
                start: after("sector")?.checked_mul(SECTOR)?,
                len: after("nsectors")?.checked_mul(SECTOR)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let text = "virtio_blk_handle_read vdev 0x5 req 0x6 sector 8 nsectors 2\nother\n\
                    12@3.4:virtio_blk_handle_read vdev 0x5 req 0x6 sector 100 nsectors 1\n\
                    virtio_blk_handle_read vdev 0x5 req 0x6 sector 7 nse";
        let reads = parse(text);
        let at = |start, len| Read { start, len };
        assert_eq!(reads, [at(4096, 1024), at(51200, 512)]);
        assert!(reads[0].covers(4096) && reads[0].covers(5119));
        assert!(!reads[0].covers(5120) && !reads[0].covers(4095));
    }
}
