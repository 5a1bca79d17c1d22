//! The only unsafe code of the crate: making a child that is clean from its first instruction. Below it
//! are `child`, that child's way to its program, [`receive`], which hears from the kernel who sent a datagram,
//! and [`close`], which makes the child that closes what strangers sent.
//!
//! `clone3` puts the child into its cgroup and returns a pidfd in one step (kernel:
//! `CLONE_INTO_CGROUP`, `CLONE_PIDFD`), so there is no moment in which a process of a service
//! is outside of its tree, and no race with the reuse of a pid. Between `clone3` and `execve` the
//! child does raw system calls only: everything that needs memory was prepared by the parent,
//! because a lock that another part of the program held at the clone would stay held for ever.
//!
//! The calls go past the C library where it would look at its own idea of the thread (musl's
//! `setresuid` synchronises threads that the child does not have).

mod child;
pub mod close;
mod receive;

pub use child::{ENVIRONMENT_FILES, REPORT, STEPS};
pub use receive::{Received, Sender, receive, set_passrights};

use crate::environment::EnvironmentFile;
use child::Room;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ffi::{CString, c_char, c_int, c_long};
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
    /// Its environment, without what the files set.
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
    /// The write end of the pipe that tells why it could not become its program. Close-on-exec.
    pub error_pipe: BorrowedFd<'a>,
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
}

/// A child that was made.
#[derive(Debug)]
pub struct Child {
    /// Its pid, valid until it is reaped.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
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
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes the child. It is in its cgroup when this returns, and on its way to its program; what
/// stops it there is told through the error pipe, see [`STEPS`].
///
/// # Errors
/// What `clone3` says: `EAGAIN` above `pids.max`, `ENOMEM`, `ENODEV` for a cgroup that is gone.
pub fn spawn(mut plan: ChildPlan<'_>) -> io::Result<Child> {
    let arguments: Vec<*const c_char> = plan
        .arguments
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect();
    let mut room = Room::new(&plan);
    let mut pidfd: c_int = -1;
    let args = CloneArgs {
        flags: CLONE_PIDFD | plan.cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: plan
            .cgroup
            .map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the child has its own copy of the address space, as after fork;
    // `args` and the place it points to outlive the call. The child runs `child::run` only.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_ref(&args),
            size_of::<CloneArgs>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => child::run(&mut plan, &arguments, &mut room),
        pid => {
            // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid =
                i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok(Child { pid, pidfd })
        }
    }
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
