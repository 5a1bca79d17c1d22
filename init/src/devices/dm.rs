//! Device-mapper by its ioctls (kernel: `include/uapi/linux/dm-ioctl.h`, interface version 4).
//!
//! One mapping with one target is all that is needed: create the device, load its table, resume.
//! If a step fails the half-made device is removed, so that another try finds the name free.

use rustix::fs::{Mode, OFlags};
use std::io;

/// `sizeof(struct dm_ioctl)`.
pub const HEADER_LEN: usize = 312;
/// `sizeof(struct dm_target_spec)`.
const TARGET_LEN: usize = 40;

const DM_DEV_CREATE: u8 = 3;
const DM_DEV_REMOVE: u8 = 4;
const DM_DEV_SUSPEND: u8 = 6;
const DM_TABLE_LOAD: u8 = 9;
const DM_READONLY_FLAG: u32 = 1;

/// The one target of a mapping.
#[derive(Debug)]
pub struct Target<'a> {
    /// The kind, such as `verity`.
    pub kind: &'a str,
    /// Its length in sectors of 512 bytes.
    pub sectors: u64,
    /// Its parameters.
    pub parameters: &'a str,
}

/// Makes a read-only mapping; returns its device as `dm-N`.
///
/// # Errors
/// Names the step.
pub fn create_read_only(name: &str, uuid: &str, target: &Target<'_>) -> io::Result<String> {
    let control = rustix::fs::open(
        "/dev/mapper/control",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| step("open /dev/mapper/control", &e.into()))?;
    let mut create = header(name, uuid, 0);
    crate::sys::dm_ioctl(&control, DM_DEV_CREATE, &mut create)
        .map_err(|e| step("DM_DEV_CREATE", &e))?;
    let result = load(name, target)
        .and_then(|mut load| {
            crate::sys::dm_ioctl(&control, DM_TABLE_LOAD, &mut load)
                .map_err(|e| step("DM_TABLE_LOAD", &e))
        })
        .and_then(|()| {
            let mut resume = header(name, "", 0);
            crate::sys::dm_ioctl(&control, DM_DEV_SUSPEND, &mut resume)
                .map_err(|e| step("resume", &e))
        });
    if let Err(e) = result {
        let _ = crate::sys::dm_ioctl(&control, DM_DEV_REMOVE, &mut header(name, "", 0));
        return Err(e);
    }
    // `dev` in the kernel's encoding: the minor's low byte, then 12 bits of major, then the rest.
    let dev = create
        .get(40..48)
        .and_then(|b| b.first_chunk::<8>())
        .map_or(0, |b| u64::from_ne_bytes(*b));
    Ok(format!("dm-{}", dev & 0xff | dev >> 12 & 0xf_ff00))
}

fn step(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// A `struct dm_ioctl`. The kernel wants a name or a uuid to find a device, and both to make one.
fn header(name: &str, uuid: &str, flags: u32) -> Vec<u8> {
    let mut buffer = vec![0u8; HEADER_LEN];
    for (place, value) in [4u32, 0, 0].into_iter().enumerate() {
        put(&mut buffer, place * 4, &value.to_ne_bytes());
    }
    put(&mut buffer, 12, &312u32.to_ne_bytes());
    put(&mut buffer, 16, &312u32.to_ne_bytes());
    put(&mut buffer, 28, &flags.to_ne_bytes());
    put(
        &mut buffer,
        48,
        name.as_bytes().get(..127).unwrap_or(name.as_bytes()),
    );
    put(
        &mut buffer,
        176,
        uuid.as_bytes().get(..128).unwrap_or(uuid.as_bytes()),
    );
    buffer
}

/// The command that loads a table of one target.
fn load(name: &str, target: &Target<'_>) -> io::Result<Vec<u8>> {
    let mut buffer = header(name, "", DM_READONLY_FLAG);
    let start = buffer.len();
    // Parameters end with NUL and the next target starts aligned to 8.
    let length = (TARGET_LEN + target.parameters.len() + 1).next_multiple_of(8);
    buffer.resize(start + length, 0);
    let total =
        u32::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    put(&mut buffer, 12, &total.to_ne_bytes());
    put(&mut buffer, 20, &1u32.to_ne_bytes());
    put(&mut buffer, start + 8, &target.sectors.to_ne_bytes());
    put(&mut buffer, start + 20, &(total - 312).to_ne_bytes());
    put(
        &mut buffer,
        start + 24,
        target
            .kind
            .as_bytes()
            .get(..15)
            .unwrap_or(target.kind.as_bytes()),
    );
    put(
        &mut buffer,
        start + TARGET_LEN,
        target.parameters.as_bytes(),
    );
    Ok(buffer)
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in buffer.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_laid_out_as_the_kernel_reads_it() {
        let buffer = load(
            "root",
            &Target {
                kind: "verity",
                sectors: 80,
                parameters: "1 2 3",
            },
        )
        .unwrap();
        assert_eq!(buffer.len(), 312 + 48);
        let u32_at = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap());
        assert_eq!(
            (u32_at(0), u32_at(12), u32_at(16), u32_at(20), u32_at(28)),
            (4, 360, 312, 1, 1)
        );
        assert_eq!(&buffer[48..53], b"root\0");
        assert_eq!(buffer[320..328], 80u64.to_ne_bytes());
        assert_eq!(&buffer[336..343], b"verity\0");
        assert_eq!(&buffer[352..358], b"1 2 3\0");
    }
}
