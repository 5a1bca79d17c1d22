//! The power button.
//!
//! A hypervisor presses the ACPI power button; the kernel shows it as an input device whose key `KEY_POWER`
//! goes down. Other input devices are not kept open: each key of a keyboard would wake PID 1. Input devices
//! come and go (a remote console plugs keyboards in and out for each session), so the place of one that is
//! gone is used again.

use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// The devices that have a power button, by their number in the loop.
#[derive(Debug, Default)]
pub struct Buttons(Vec<Option<OwnedFd>>);

/// More devices with such a key are not watched: a machine has one or two.
const BUTTONS_MAX: usize = 16;

impl Buttons {
    /// Opens an input device; returns its number here, and the descriptor for the loop, if it has a power
    /// button.
    pub fn open(&mut self, devname: &str) -> Option<(u32, BorrowedFd<'_>)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(format!("/dev/{devname}"), flags, Mode::empty()).ok()?;
        let keys = sys::input_keys(&fd).ok()?;
        if !has_key(&keys, KEY_POWER) {
            return None;
        }
        self.keep(fd)
    }

    /// Puts a device into the first free place.
    fn keep(&mut self, fd: OwnedFd) -> Option<(u32, BorrowedFd<'_>)> {
        let free = self.0.iter().position(Option::is_none);
        let place = free.unwrap_or(self.0.len());
        if place >= BUTTONS_MAX {
            return None;
        }
        if free.is_none() {
            self.0.push(None);
        }
        let slot = self.0.get_mut(place)?;
        let kept: &OwnedFd = slot.insert(fd);
        Some((u32::try_from(place).ok()?, kept.as_fd()))
    }

    /// Reads what a device has; true if the power key went down.
    #[must_use]
    pub fn pressed(&self, number: u32) -> Pressed {
        let Some(fd) = self.0.get(number as usize).and_then(Option::as_ref) else {
            return Pressed::No;
        };
        let mut events = [0u8; INPUT_EVENT_LEN * 16];
        match rustix::io::read(fd, &mut events) {
            // An input device never ends; ENODEV says that it is unplugged.
            Ok(0) => Pressed::Gone,
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
            Err(_) => Pressed::Gone,
        }
    }

    /// Gives up a device that is gone. Its descriptor is to be taken out of the loop before it is dropped: a
    /// child that is just being started may have a copy, which keeps it in there.
    #[must_use]
    pub fn take(&mut self, number: u32) -> Option<OwnedFd> {
        self.0.get_mut(number as usize)?.take()
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

/// Whether a device has a key, by its bits as [`sys::input_keys`] gives them.
fn has_key(keys: &[u8], key: u16) -> bool {
    let byte = keys.get(usize::from(key / 8)).copied().unwrap_or(0);
    byte >> (key % 8) & 1 == 1
}

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
    use rustix::pipe::{PipeFlags, pipe_with};

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

    #[test]
    fn a_device_without_the_key_is_not_kept() {
        let mut keys = [0u8; 96];
        assert!(!has_key(&keys, KEY_POWER));
        keys[14] = 1 << 4;
        assert!(has_key(&keys, KEY_POWER) && !has_key(&keys, KEY_POWER + 1));
        assert!(!has_key(&keys[..14], KEY_POWER), "fewer keys than that");
        let mut buttons = Buttons::default();
        assert!(buttons.open("null").is_none() && buttons.0.is_empty());
    }

    #[test]
    fn a_thousand_replugs_take_one_place_and_one_descriptor() {
        let mut buttons = Buttons::default();
        let (first, _first_end) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        assert_eq!(buttons.keep(first).unwrap().0, 0);
        let mut highest = 0;
        for _ in 0..1000 {
            let (device, plug) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
            let (number, fd) = buttons.keep(device).unwrap();
            highest = highest.max(rustix::fd::AsRawFd::as_raw_fd(&fd));
            assert_eq!((number, buttons.pressed(1)), (1, Pressed::No));
            drop(plug);
            assert_eq!(buttons.pressed(1), Pressed::Gone);
            drop(buttons.take(1).unwrap());
            assert!(buttons.take(1).is_none() && buttons.pressed(1) == Pressed::No);
        }
        assert_eq!(buttons.0.len(), 2);
        assert!(highest < 900, "descriptors are left: {highest}");
    }
}
