//! The only unsafe code of the crate: some `ioctl`s, a socket option, the priority at disks and the correction of the
//! clock, which no library offers, or not in a way that can be used here.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::io;
use std::time::Duration;

/// One device-mapper command (kernel: `include/uapi/linux/dm-ioctl.h`). `buffer` starts with a
/// `struct dm_ioctl` whose `data_size` is the buffer's length.
///
/// # Errors
/// What the kernel says; `InvalidInput` if the buffer does not hold what its header promises.
pub fn dm_ioctl(control: &impl AsFd, command: u8, buffer: &mut [u8]) -> io::Result<()> {
    let promised = buffer
        .get(12..16)
        .and_then(|b| b.first_chunk::<4>())
        .map(|b| u32::from_ne_bytes(*b));
    if promised.map(|p| p as usize) != Some(buffer.len())
        || buffer.len() < super::devices::dm::HEADER_LEN
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // `_IOWR(0xfd, command, struct dm_ioctl)` with its 312 bytes.
    let request = 3 << 30 | 312 << 16 | 0xfd << 8 | u64::from(command);
    // SAFETY: the kernel reads and writes `data_size` bytes at the pointer, which is checked
    // above to be exactly the length of the buffer.
    let result = unsafe {
        libc::ioctl(
            control.as_fd().as_raw_fd(),
            request as _,
            buffer.as_mut_ptr(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 0)` (kernel: `include/uapi/linux/ioprio.h`).
const IO_REAL_TIME: libc::c_int = 1 << 13;

/// Has what the calling thread asks of disks done first, as far as their schedulers know priorities (ioprio_set(2)).
///
/// # Errors
/// Without the privilege.
pub fn io_first() -> io::Result<()> {
    // `IOPRIO_WHO_PROCESS` of 0: the calling thread.
    let (which, who): (libc::c_int, libc::c_int) = (1, 0);
    // SAFETY: the call takes three numbers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, which, who, IO_REAL_TIME) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Bytes that a terminal was given and has not sent yet (ioctl_tty(2), `TIOCOUTQ`); 0 if it is none.
#[must_use]
pub fn unsent(terminal: &OwnedFd) -> i32 {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int to the pointer, which is valid for it.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCOUTQ as _, &raw mut count) };
    if result < 0 { 0 } else { count }
}

/// Who is at the other end of a unix socket, as it was when he connected (unix(7), `SO_PEERCRED`): user
/// and process.
///
/// The process is 0 if it is none of our PID namespace, which is why rustix, whose process numbers are
/// never 0, does not serve here.
///
/// # Errors
/// If the socket is not connected, or not a unix socket.
pub fn peer(socket: &impl AsFd) -> io::Result<(u32, i32)> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the `ucred` at the
    // pointer; any bytes are a valid `ucred`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok((peer.uid, peer.pid))
    }
}

/// Brings the loopback interface up (netdevice(7), `SIOCSIFFLAGS`). The kernel gives it its
/// addresses then.
///
/// # Errors
/// If there is no loopback interface, or it may not be changed.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: `ifreq` is plain data for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    // 0x41: `IFF_UP | IFF_RUNNING`.
    request.ifr_ifru.ifru_flags = 0x41;
    // SAFETY: the kernel reads one `ifreq` at the pointer, which is valid for it.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What a watchdog can be asked or told (kernel: `include/uapi/linux/watchdog.h`); each takes an `int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogCall {
    /// `WDIOC_GETBOOTSTATUS`: why the machine was reset, as bits.
    BootStatus,
    /// `WDIOC_KEEPALIVE`: that we live. The number says nothing.
    KeepAlive,
    /// `WDIOC_SETTIMEOUT`: the seconds of silence that end the machine; gives what was made of it.
    SetTimeout,
    /// `WDIOC_GETTIMEOUT`: what that is.
    Timeout,
}

/// The ioctl type of watchdogs (`WATCHDOG_IOCTL_BASE`).
const WATCHDOG_BASE: u64 = 0x57;

/// Calls a watchdog with this number and gives the one that it left.
///
/// # Errors
/// What the driver says: `EOPNOTSUPP` if it cannot, `EINVAL` for a timeout that it cannot keep.
pub fn watchdog(device: &impl AsFd, call: WatchdogCall, number: i32) -> io::Result<i32> {
    // `_IOR` is 2 << 30 and `_IOWR` 3 << 30, with the 4 bytes of an `int`.
    let (direction, command) = match call {
        WatchdogCall::BootStatus => (2, 2),
        WatchdogCall::KeepAlive => (2, 5),
        WatchdogCall::SetTimeout => (3, 6),
        WatchdogCall::Timeout => (2, 7),
    };
    let request: u64 = direction << 30 | 4 << 16 | WATCHDOG_BASE << 8 | command;
    let mut number: libc::c_int = number;
    // SAFETY: the kernel reads and writes at most one `int` at the pointer, which is valid for it.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request as _, &raw mut number) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(number)
    }
}

/// What a watchdog calls itself (`WDIOC_GETSUPPORT`).
///
/// # Errors
/// If it is no watchdog.
pub fn watchdog_identity(device: &impl AsFd) -> io::Result<String> {
    // `struct watchdog_info`: options, the firmware's version, and 32 bytes of name.
    let mut info = [0u8; 40];
    let request: u64 = 2 << 30 | 40 << 16 | WATCHDOG_BASE << 8;
    // SAFETY: the kernel writes the 40 bytes of a `watchdog_info` at the pointer, which is valid for them.
    let result =
        unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request as _, info.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = info.get(8..).unwrap_or_default().split(|b| *b == 0).next();
    Ok(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
}

/// `struct blkpg_partition` (kernel: `include/uapi/linux/blkpg.h`).
#[repr(C)]
struct BlkpgPartition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    /// Ignored by the kernel, as the other name is.
    device: [u8; 64],
    volume: [u8; 64],
}

/// `struct blkpg_ioctl_arg` (same file).
#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Tells the kernel the length of a partition, which may be mounted. It stays where it starts. All in
/// bytes.
///
/// # Errors
/// What the kernel says: no such partition there, another one in the way, no privilege.
pub fn resize_partition(disk: &impl AsFd, number: u32, start: u64, length: u64) -> io::Result<()> {
    /// `BLKPG` is `_IO(0x12, 105)`.
    const BLKPG: u64 = 0x1269;
    const BLKPG_RESIZE_PARTITION: libc::c_int = 3;
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: start.try_into().map_err(too_large)?,
        length: length.try_into().map_err(too_large)?,
        number: number.try_into().map_err(too_large)?,
        device: [0; 64],
        volume: [0; 64],
    };
    let mut argument = BlkpgArgument {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: size_of::<BlkpgPartition>().try_into().map_err(too_large)?,
        data: &raw mut partition,
    };
    // SAFETY: the kernel reads one `blkpg_ioctl_arg` at the pointer and one `blkpg_partition` at the
    // pointer in it; both have its layout and are valid for the call.
    let result = unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKPG as _, &raw mut argument) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Lets a mounted ext4 grow to so many of its blocks (kernel: `Documentation/admin-guide/ext4.rst`,
/// `EXT4_IOC_RESIZE_FS`); `file` is any of its files or directories.
///
/// # Errors
/// What the kernel says: its device is smaller, it has errors, no privilege.
pub fn resize_ext4(file: &impl AsFd, blocks: u64) -> io::Result<()> {
    // `_IOW('f', 16, __u64)`.
    const RESIZE_FS: u64 = 1 << 30 | 8 << 16 | 0x66 << 8 | 16;
    // SAFETY: the kernel reads one u64 at the pointer, which is valid for it.
    let result =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), RESIZE_FS as _, &raw const blocks) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Which keys an input device has (kernel: `include/uapi/linux/input.h`, `EVIOCGBIT(EV_KEY)`): a bit for each
/// code, up to `KEY_MAX` (0x2ff).
///
/// # Errors
/// If it is no input device.
pub fn input_keys(device: &impl AsFd) -> io::Result<[u8; 96]> {
    let mut keys = [0u8; 96];
    // `_IOC(_IOC_READ, 'E', 0x20 + EV_KEY, 96)`.
    let request: u64 = 2 << 30 | 96 << 16 | 0x45 << 8 | 0x21;
    // SAFETY: the kernel writes at most the 96 bytes that the request names, for which the pointer is valid.
    let result =
        unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request as _, keys.as_mut_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(keys)
    }
}

/// Makes Ctrl-Alt-Del a `SIGINT` to PID 1 in place of an instant reset (reboot(2)).
///
/// # Errors
/// Without the privilege.
pub fn disable_instant_reset() -> io::Result<()> {
    // SAFETY: a plain system call on a value.
    let result = unsafe { libc::reboot(libc::RB_DISABLE_CAD) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A correction of the wall clock (adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// It is set forward by this, at once.
    Forward(Duration),
    /// It is set back by this, at once.
    Back(Duration),
    /// It runs at most 500 ppm faster or slower until so many microseconds are made up, in place of what
    /// is left of the last such correction.
    Glide(i64),
    /// The kernel's phase-locked loop is told how many nanoseconds it is behind and learns from it,
    /// and how well it is synchronised.
    Discipline(i64, Synchronised),
    /// How well it is synchronised.
    Synchronised(Synchronised),
}

/// How well the clock is synchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronised {
    /// As well as an answer with this delay allows: the kernel keeps the battery clock in step (kernel:
    /// `kernel/time/ntp.c`, `sync_hw_clock`).
    Within(Duration),
    /// Nobody knows how well (`STA_UNSYNC`): the kernel leaves the battery clock alone.
    Unproven,
}

/// Time constant of the loop: 2^6 s, the shortest wait between two measurements. The loop takes in
/// 2^-(2 + 6) of an offset each second (kernel: `kernel/time/ntp.c`, `SHIFT_PLL`), so 128 ms at
/// 500 ppm at first.
const TIME_CONSTANT: libc::c_long = 6;

/// Corrects the wall clock.
///
/// # Errors
/// Without the privilege.
pub fn correct_clock(correction: Correction) -> io::Result<()> {
    // SAFETY: `timex` is plain data for which zeros are valid.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let synchronised = |request: &mut libc::timex, how: Synchronised| {
        request.modes |= libc::ADJ_STATUS;
        match how {
            Synchronised::Within(delay) => {
                let error = libc::c_long::try_from(delay.as_micros() / 2).map_err(too_large)?;
                request.modes |= libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
                request.status = libc::STA_PLL;
                request.maxerror = error;
                request.esterror = error;
            }
            Synchronised::Unproven => request.status = libc::STA_PLL | libc::STA_UNSYNC,
        }
        Ok::<(), io::Error>(())
    };
    match correction {
        Correction::Forward(by) => {
            // With ADJ_NANO, `tv_usec` has nanoseconds.
            request.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
            request.time.tv_sec = by.as_secs().try_into().map_err(too_large)?;
            request.time.tv_usec = by.subsec_nanos().into();
        }
        Correction::Back(by) => {
            // The nanoseconds are never negative (adjtimex(2)): whole seconds too many, and some forward.
            request.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
            let up = u64::from(by.subsec_nanos() > 0);
            let seconds = by.as_secs().saturating_add(up);
            let seconds: i64 = seconds.try_into().map_err(too_large)?;
            request.time.tv_sec = seconds.saturating_neg();
            let rest = (1_000_000_000 - by.subsec_nanos()) % 1_000_000_000;
            request.time.tv_usec = rest.into();
        }
        Correction::Glide(micros) => {
            request.modes = libc::ADJ_OFFSET_SINGLESHOT;
            request.offset = micros;
        }
        Correction::Discipline(nanos, how) => {
            request.modes = libc::ADJ_OFFSET | libc::ADJ_TIMECONST | libc::ADJ_NANO;
            request.offset = nanos;
            request.constant = TIME_CONSTANT;
            synchronised(&mut request, how)?;
        }
        Correction::Synchronised(how) => synchronised(&mut request, how)?,
    }
    // SAFETY: the kernel reads and writes one `timex` at the pointer, which is valid for it.
    let result = unsafe { libc::adjtimex(&raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_priority_at_disks_is_the_first_of_all() {
        io_first().unwrap();
        let (which, who): (libc::c_int, libc::c_int) = (1, 0);
        // SAFETY: the call takes two numbers and touches no memory of ours.
        let seen = unsafe { libc::syscall(libc::SYS_ioprio_get, which, who) };
        assert_eq!(seen, libc::c_long::from(IO_REAL_TIME));
    }
}
