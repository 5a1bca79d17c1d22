//! Leases on files (fcntl(2), `F_SETLEASE`), for which no package has a safe call.

use rustix::fd::{AsRawFd, BorrowedFd};
use std::ffi::c_int;
use std::io;

/// kernel: `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: c_int = 10;

/// From now on whoever opens the file waits until this descriptor is closed. He is announced by a signal that does
/// nothing.
pub fn lease(file: BorrowedFd<'_>) {
    // SAFETY: plain system calls on values.
    unsafe {
        let fd = file.as_raw_fd();
        assert_eq!(libc::fcntl(fd, F_SETSIG, libc::SIGURG), 0);
        let leased = libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK);
        assert_eq!(leased, 0, "{}", io::Error::last_os_error());
    }
}

/// Whether somebody waits for the end of the lease.
pub fn is_wanted(file: BorrowedFd<'_>) -> bool {
    // SAFETY: a plain system call on values.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) != libc::F_WRLCK }
}
