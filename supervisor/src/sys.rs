//! The only unsafe code of the crate: making a child that is clean from its first instruction. Below it
//! are `child`, that child's way to its program, `lent`, the memory that it uses on it, `raw`, system calls past the C
//! library, [`receive`], which hears from the kernel who sent a datagram, and [`close`], which makes the child that
//! closes what strangers sent.
//!
//! `clone3` puts the child into its cgroup and returns a pidfd in one step (kernel:
//! `CLONE_INTO_CGROUP`, `CLONE_PIDFD`), so there is no moment in which a process of a service
//! is outside of its tree, and no race with the reuse of a pid. Between `clone3` and `execve` the
//! child does raw system calls only: everything that needs memory was prepared by the parent,
//! because a lock that another part of the program held at the clone would stay held for ever.
//!
//! Copying PID 1's memory is a third of what a start costs it, so a child may share it instead
//! ([`ChildPlan::shares_memory`]). It is the same way to the program, on a stack of its own in both cases. PID 1 does not
//! wait for the child; `lent` says what is kept for it, and for how long. No handler of PID 1 ever runs in the child,
//! as it starts without any (`CLONE_CLEAR_SIGHAND`), nor does anything there write an errno, which would be PID 1's.

mod child;
pub mod close;
mod lent;
mod raw;
mod reap;
mod receive;

pub use child::{ENVIRONMENT_FILES, REPORT, STEPS};
pub use raw::RawFile;
pub use reap::{reap, reap_one};
pub use receive::{Received, Sender, receive, set_passrights};

use crate::environment::EnvironmentFile;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::{CString, c_int, c_long};
use std::io;
use std::ptr;

/// The number of a resource limit, as the C library has it: glibc and musl differ in its type.
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
/// The number of a resource limit, as the C library has it: glibc and musl differ in its type.
#[cfg(not(target_env = "gnu"))]
pub type Resource = c_int;

/// Everything the child needs, made before it exists.
#[derive(Debug)]
pub struct ChildPlan<'a> {
    /// Program by absolute path.
    pub program: CString,
    /// Its arguments, the first being its name.
    pub arguments: Vec<CString>,
    /// Its environment, without what the files set. Of two of a name the first one counts.
    pub environment: Vec<CString>,
    /// Files with variables, of which later ones win. The child reads them.
    pub environment_files: Vec<EnvironmentFile>,
    /// What is set unless a file or `environment` does.
    pub environment_defaults: Vec<CString>,
    /// Its working directory.
    pub directory: CString,
    /// Its cgroup.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Which descriptors it gets, and as which number. All others are closed.
    pub descriptors: Vec<(BorrowedFd<'a>, RawFd)>,
    /// Whether any of those others may be a stranger's: closing it could wait for him, see [`close`].
    pub strangers: bool,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities that it may have, as a bit mask by number. It has them if it is not root; root gets what it
    /// may have from the kernel at the exec.
    pub capabilities: u64,
    /// File mode creation mask.
    pub umask: u32,
    /// Resource limits, soft and hard alike, by number (setrlimit(2)).
    pub rlimits: Vec<(Resource, u64)>,
    /// Nice value.
    pub nice: i32,
    /// Whether it is told its own pid as `LISTEN_PID` (sd_listen_fds(3)).
    pub listen_pid: bool,
    /// Text for `/proc/self/oom_score_adj`.
    pub oom_score_adjust: CString,
    /// Whether it must be so: lowering it takes a privilege that not every container has.
    pub oom_score_wanted: bool,
    /// Whether it shares the memory of this process until its exec, and does not get a copy. Whoever wants that has
    /// seen to everything that the two have in common then, see [`crate::driver`]'s `sharing`; its
    /// `oom_score_adj` stays that of this process.
    pub shares_memory: bool,
}

/// A child that was made.
#[derive(Debug)]
pub struct Child {
    /// Its pid, valid until it is reaped.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// Says what becomes of it.
    pub error_pipe: ErrorPipe,
}

/// The pipe on which a child tells why it could not become its program, and which its exec closes. Does not block.
#[derive(Debug)]
pub struct ErrorPipe {
    pipe: OwnedFd,
    /// What the child was lent, if it shares the memory.
    loan: Option<u64>,
}

impl ErrorPipe {
    /// Reads the report. 0 bytes: the child executes its program, or ended without a word.
    ///
    /// # Errors
    /// `EAGAIN` as long as it is on its way.
    pub fn read(&self, report: &mut [u8; REPORT]) -> rustix::io::Result<usize> {
        let count = rustix::io::read(&self.pipe, report)?;
        if let Some(loan) = self.loan.filter(|_| count == 0) {
            // SAFETY: the write end was the child's alone, which closes it by its exec or its end. Children that were
            // made meanwhile may have had copies, so this may be later, but not sooner.
            unsafe { lent::take_back_loan(loan) };
        }
        Ok(count)
    }
}

/// Of a child that has a copy of the memory.
impl From<OwnedFd> for ErrorPipe {
    fn from(pipe: OwnedFd) -> Self {
        Self { pipe, loan: None }
    }
}

impl AsFd for ErrorPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// The argument of `clone3` (kernel: `include/uapi/linux/sched.h`, `CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// kernel: `include/uapi/linux/sched.h`.
const CLONE_VM: u64 = 0x100;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes the child. It is in its cgroup when this returns, and on its way to its program; what
/// stops it there is told through the error pipe, see [`STEPS`].
///
/// # Errors
/// What was tried, and what the kernel says. Of `clone3`: `EAGAIN` above `pids.max`, `ENOMEM`, `ENODEV` for a cgroup
/// that is gone.
pub fn spawn(plan: ChildPlan<'_>) -> Result<Child, (&'static str, io::Error)> {
    let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
    let (pipe, theirs) = pipe.map_err(|e| ("error pipe", io::Error::from(e)))?;
    let shares_memory = plan.shares_memory;
    let mut flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    if shares_memory {
        flags |= CLONE_VM;
    }
    if plan.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let cgroup = plan.cgroup.map_or(0, |fd| fd.as_raw_fd().unsigned_abs());
    // SAFETY: nothing but the lifetime of the descriptors changes, which are used as numbers, by the child only: it
    // has a copy of the table with all of them open, also when they are closed here.
    let plan = unsafe { std::mem::transmute::<ChildPlan<'_>, ChildPlan<'static>>(plan) };
    let lent = lent::lend(plan, theirs.as_raw_fd()).map_err(|e| ("stack", e))?;
    // SAFETY: it was just made, and nobody else has it yet.
    let (stack, stack_size) = unsafe { &*lent }.stack();
    let mut pidfd: c_int = -1;
    let args = CloneArgs {
        flags,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack,
        stack_size,
        cgroup: u64::from(cgroup),
        ..CloneArgs::default()
    };
    // SAFETY: `args`, and the place it points to, outlive the call. The child alone uses the stack and `lent` from here
    // on: either in its own copy of the memory, as after fork, or in ours, where `lent` keeps both for it.
    let made = unsafe { raw::clone3(&args, child::run, lent) };
    let mut error_pipe = ErrorPipe::from(pipe);
    match made {
        Ok(pid) if shares_memory => {
            // SAFETY: it came from `lend`, and only the child uses it.
            error_pipe.loan = Some(unsafe { lent::enter(pid, lent) });
        }
        _ => {
            // SAFETY: there is no child, or it has a copy.
            unsafe { lent::take_back(lent) };
        }
    }
    let pid = made.map_err(|errno| ("clone3", io::Error::from_raw_os_error(errno)))?;
    // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid,
        pidfd,
        error_pipe,
    })
}

/// How many children share the memory of this thread's process that are not known to have come to their program, or
/// to have ended.
#[must_use]
pub fn sharing() -> usize {
    lent::count()
}

/// A handle (`O_PATH`) of the file that a unix socket is bound to, wherever that is by now.
///
/// # Errors
/// `ENOENT` if it is bound to none, `EPERM` without `CAP_NET_ADMIN`.
pub fn bound_file(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// kernel: `include/uapi/linux/un.h`.
    const SIOCUNIXFILE: c_long = 0x89e0;
    // SAFETY: the request takes no argument and touches no memory of ours.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, close-on-exec, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel holds the wall clock to be synchronised (adjtimex(2), `STA_UNSYNC`).
#[must_use]
pub fn clock_is_synchronised() -> bool {
    // SAFETY: a `timex` is made of integers, for which zeros are valid; without modes the kernel only fills it in.
    let (state, status) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock.status)
    };
    state >= 0 && status & libc::STA_UNSYNC == 0
}

/// The descriptor that the parent passed under this number.
///
/// # Errors
/// If there is none.
pub fn passed(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a plain query, which fails with EBADF for a number that is not open.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::other(format!(
            "descriptor {number} was not passed"
        )));
    }
    // SAFETY: it is open, and by the protocol with the parent nobody else in this program owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests;
