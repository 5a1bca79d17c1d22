//! The power button.
//!
//! A hypervisor presses the ACPI power button; the kernel shows it as an input device whose key
//! `KEY_POWER` goes down.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// The input devices that are open, for whichever has the button.
#[derive(Debug, Default)]
pub struct Buttons(Vec<OwnedFd>);

impl Buttons {
    /// Opens an input device; returns its number here, and the descriptor for the loop.
    pub fn open(&mut self, devname: &str) -> Option<(u32, BorrowedFd<'_>)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(format!("/dev/{devname}"), flags, Mode::empty()).ok()?;
        self.0.push(fd);
        let number = u32::try_from(self.0.len() - 1).ok()?;
        Some((number, self.0.last()?.as_fd()))
    }

    /// Reads what a device has; true if the power key went down.
    #[must_use]
    pub fn pressed(&self, number: u32) -> Pressed {
        let Some(fd) = self.0.get(number as usize) else {
            return Pressed::Gone;
        };
        let mut events = [0u8; INPUT_EVENT_LEN * 16];
        match rustix::io::read(fd, &mut events) {
            Ok(count)
                if events
                    .get(..count)
                    .unwrap_or_default()
                    .chunks_exact(INPUT_EVENT_LEN)
                    .any(is_power_key) =>
            {
                Pressed::Yes
            }
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Pressed::No,
            // ENODEV: unplugged.
            Err(_) => Pressed::Gone,
        }
    }

    /// The descriptor of a device, to take it out of the loop.
    #[must_use]
    pub fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.0.get(number as usize).map(AsFd::as_fd)
    }
}

/// What a look at a device gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// The power key went down.
    Yes,
    /// Something else, or nothing.
    No,
    /// The device is gone.
    Gone,
}

/// `struct input_event` on 64-bit machines (kernel: `include/uapi/linux/input.h`): two longs of
/// time, then type, code and value.
const INPUT_EVENT_LEN: usize = 24;

/// kernel: `include/uapi/linux/input-event-codes.h`.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

fn is_power_key(event: &[u8]) -> bool {
    let Some(&[t0, t1, c0, c1, v0, v1, v2, v3]) =
        event.get(16..24).and_then(|b| b.first_chunk::<8>())
    else {
        return false;
    };
    u16::from_ne_bytes([t0, t1]) == EV_KEY
        && u16::from_ne_bytes([c0, c1]) == KEY_POWER
        && i32::from_ne_bytes([v0, v1, v2, v3]) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_power_key_going_down_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = [0u8; 24];
            bytes[16..18].copy_from_slice(&kind.to_ne_bytes());
            bytes[18..20].copy_from_slice(&code.to_ne_bytes());
            bytes[20..24].copy_from_slice(&value.to_ne_bytes());
            bytes
        };
        assert!(is_power_key(&event(1, 116, 1)));
        assert!(!is_power_key(&event(1, 116, 0)));
        assert!(!is_power_key(&event(1, 30, 1)));
        assert!(!is_power_key(&event(0, 0, 0)));
    }
}
