//! Taking the ends of children from the kernel, and back what they were lent ([`super::lent`]).

use super::lent;
use crate::core::ExitStatus;
use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;

/// Reaps one ended child, if there is one.
#[must_use]
pub fn reap() -> Option<(i32, ExitStatus)> {
    wait(libc::P_ALL, 0).ok().flatten()
}

/// Reaps one child by its pidfd; nothing if it has not ended.
///
/// # Errors
/// `ECHILD` if it is not a child of ours, or was reaped before.
pub fn reap_one(pidfd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    let reaped = wait(libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs())?;
    Ok(reaped.map(|(_, status)| status))
}

fn wait(kind: libc::idtype_t, id: libc::id_t) -> io::Result<Option<(i32, ExitStatus)>> {
    // SAFETY: `siginfo_t` is plain data for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` outlives the call.
    let waited = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG) };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid(2) fills these in, or leaves all zero if no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: it was just reaped.
    unsafe { lent::take_back_from(pid) };
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Code(status),
        code => ExitStatus::Signal(status, code == libc::CLD_DUMPED),
    };
    Ok(Some((pid, status)))
}
