//! Taking the ends of children from the kernel.

use crate::core::ExitStatus;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid};

/// Reaps one ended child, if there is one.
#[must_use]
pub fn reap() -> Option<(i32, ExitStatus)> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get();
                if let Some(code) = status.exit_status() {
                    return Some((pid, ExitStatus::Code(code)));
                }
                if let Some(signal) = status.terminating_signal() {
                    // wait(2): bit 7 of the status tells of a core dump.
                    return Some((pid, ExitStatus::Signal(signal, status.as_raw() & 0x80 != 0)));
                }
                // Stopped or continued: not an end.
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Reaps one child by its pidfd; nothing if it has not ended.
///
/// # Errors
/// `ECHILD` if it is not a child of ours, or was reaped before.
pub(super) fn reap_one(pidfd: BorrowedFd<'_>) -> rustix::io::Result<Option<ExitStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd), options)?;
    Ok(status.map(|status| match status.exit_status() {
        Some(code) => ExitStatus::Code(code),
        None => ExitStatus::Signal(status.terminating_signal().unwrap_or(0), status.dumped()),
    }))
}
