//! The child that closes descriptors in PID 1's stead.
//!
//! It shares PID 1's descriptor table (`CLONE_FILES`, clone(2)), so what it closes is closed in PID 1, while
//! whatever a close waits for is waited for here. Two kinds of waiting are known:
//!
//! * The *last* close of a socket with `SO_LINGER` waits for its peer, but not in a process that is
//!   ending (kernel: `net/ipv4/af_inet.c`, `inet_release`, `PF_EXITING`). So the child first makes a
//!   child of its own with a copy of the table, which holds all of the descriptors until the numbers are
//!   closed, and then ends: the last close is always one by an ending process. The same holds for
//!   descriptors that are on their way in the queue of a unix socket that is closed.
//! * Every close of a file of FUSE or NFS waits for its server (`flush`). A timer ends the child, as a fatal
//!   signal ends that wait. The number is taken out of the table before the wait begins, so the next
//!   child goes on behind it; how far this one came is in a page that it shares with PID 1.
//!
//! A child that is to become a service has copies, too, which it closes before its exec. If all others were
//! closed in the meantime, that is the last close, and the service waits for a stranger. So it has somebody hold
//! them as well ([`Holder`]).

use super::{CLONE_PIDFD, CloneArgs};
use crate::Time;
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ffi::c_long;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

/// kernel: `include/uapi/linux/sched.h`.
const CLONE_FILES: u64 = 0x400;
const CLONE_PARENT: u64 = 0x8000;

/// When a [`Holder`] ends whose maker was killed before it could end it.
const HOLD_LIMIT: Time = Time::from_secs(1);

/// An open descriptor that is not closed when this is dropped.
#[derive(Debug)]
pub struct Unclosed(RawFd);

impl Unclosed {
    /// Its number, for [`spawn`].
    #[must_use]
    pub fn number(&self) -> RawFd {
        self.0
    }

    /// Closes it here and now.
    pub fn close(&mut self) {
        // SAFETY: `self` came from an `OwnedFd`, and has no number afterwards, so it is closed once.
        drop(unsafe { OwnedFd::from_raw_fd(std::mem::replace(&mut self.0, libc::AT_FDCWD)) });
    }
}

impl From<OwnedFd> for Unclosed {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into_raw_fd())
    }
}

impl AsFd for Unclosed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it stays open until `close`, or until its number was given to `spawn`, both of which
        // are the last that is done with it.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// How many descriptors of its batch a child has begun to close; written by the child, read by PID 1.
#[derive(Debug)]
pub struct Begun(NonNull<AtomicUsize>);

impl Begun {
    /// Maps the page.
    ///
    /// # Errors
    /// Without memory.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<AtomicUsize>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast());
        page.map(Self)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }

    fn counter(&self) -> &AtomicUsize {
        // SAFETY: the page is mapped as long as `self` lives, is zeroed by the kernel, which is a valid
        // counter, aligned to a page, and only reached as an atomic.
        unsafe { self.0.as_ref() }
    }

    /// How many it has begun to close.
    #[must_use]
    pub fn count(&self) -> usize {
        self.counter().load(Ordering::Acquire)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, to which no reference is left.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicUsize>()) };
    }
}

/// Makes a child that closes these numbers of this process, in order, and ends after `limit` at the
/// latest if a signal can end what it waits for. The caller reaps it, and does not touch any of the
/// numbers again that it has begun to close.
///
/// # Errors
/// What `clone3` says: `EAGAIN`, `ENOMEM`.
pub fn spawn(numbers: &[RawFd], begun: &Begun, limit: Time) -> io::Result<i32> {
    begun.counter().store(0, Ordering::Release);
    // SAFETY: no `CLONE_VM`, so the child has its own copy of the memory, as after fork. It makes raw
    // calls only and never returns from `run`.
    match unsafe { clone(CLONE_FILES, None) } {
        -1 => Err(io::Error::last_os_error()),
        0 => run(numbers, begun, limit),
        pid => i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidData.into()),
    }
}

/// # Safety
/// The child makes raw system calls only, and ends by one.
unsafe fn clone(flags: u64, pidfd: Option<&mut RawFd>) -> c_long {
    let own = flags & CLONE_PARENT == 0;
    let args = CloneArgs {
        flags: flags | pidfd.as_ref().map_or(0, |_| CLONE_PIDFD),
        pidfd: pidfd.map_or(0, |place| ptr::from_mut(place) as u64),
        // With `CLONE_PARENT` it is that of the caller (clone(2)).
        exit_signal: if own { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    // SAFETY: `args`, and the place it may point to, outlive the call; without a stack the child goes on with its copy of this one.
    unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_ref(&args),
            size_of::<CloneArgs>(),
        )
    }
}

fn run(numbers: &[RawFd], begun: &Begun, limit: Time) -> ! {
    end_after(limit);
    // SAFETY: the grandchild makes raw system calls only and ends by a signal.
    let keeper = unsafe { clone(0, None) };
    if keeper == 0 {
        keep(limit);
    }
    for (count, number) in (1..).zip(numbers) {
        // First, so that nobody closes the number again, by which PID 1 may know another file by then.
        begun.counter().store(count, Ordering::Release);
        // SAFETY: PID 1 gave the number up, and nobody else closes it.
        unsafe { libc::syscall(libc::SYS_close, *number) };
    }
    // SAFETY: plain system calls on values. Without a keeper (no memory) the pid is -1 and there is
    // nobody to end; then the closes above may have waited.
    unsafe {
        if keeper > 0 {
            libc::syscall(libc::SYS_kill, keeper, libc::SIGKILL);
            let status = ptr::null_mut::<libc::c_int>();
            let usage = ptr::null_mut::<libc::rusage>();
            libc::syscall(libc::SYS_wait4, keeper, status, 0, usage);
        }
        libc::_exit(0)
    }
}

/// A process that holds copies of all descriptors of the one that made it, and closes them by its end, which
/// waits for nobody.
#[derive(Debug)]
pub(super) struct Holder {
    /// Close-on-exec. Its pid may be another's by the time that it is ended.
    pub(super) pidfd: RawFd,
}

impl Holder {
    /// For a child between clone and exec. PID 1 reaps the holder, which is its child as the caller is: the
    /// program must not find a child that it did not make. Without memory or above `pids.max` there is none, and
    /// the closes of the caller may wait.
    pub(super) fn start() -> Option<Self> {
        let mut pidfd = -1;
        // SAFETY: the new process makes raw system calls only and ends by a signal.
        let pid = unsafe { clone(CLONE_PARENT, Some(&mut pidfd)) };
        if pid == 0 {
            keep(HOLD_LIMIT);
        }
        (pid > 0).then_some(Self { pidfd })
    }

    /// The copies are not needed any more.
    pub(super) fn end(self) {
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: a plain system call on values; the null pointer means what kill(2) would send.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd,
                libc::SIGKILL,
                info,
                0,
            )
        };
    }
}

/// Holds the copies until it is killed, or its parent is gone.
fn keep(limit: Time) -> ! {
    // The parent may be gone before the next line; and a timer is not inherited (setitimer(2)).
    end_after(limit.saturating_mul(2));
    // SAFETY: plain system calls on values.
    unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_SET_PDEATHSIG,
            libc::SIGKILL,
            0,
            0,
            0,
        );
        loop {
            libc::syscall(
                libc::SYS_ppoll,
                ptr::null_mut::<libc::pollfd>(),
                0,
                ptr::null::<libc::timespec>(),
                ptr::null::<u64>(),
                8usize,
            );
        }
    }
}

/// Has `SIGALRM` end this process after `limit`.
fn end_after(limit: Time) {
    let zero = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let timer = libc::itimerval {
        it_interval: zero,
        it_value: libc::timeval {
            tv_sec: limit.as_secs().try_into().unwrap_or(0),
            tv_usec: limit.subsec_micros().into(),
        },
    };
    // The kernel's `struct sigaction` of zeros is SIG_DFL, no flags, an empty mask; a mask of zeros
    // blocks nothing (PID 1 blocks all signals).
    let (default, none) = ([0u64; 4], 0u64);
    // SAFETY: plain system calls on arrays and values that outlive them.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::SIGALRM,
            default.as_ptr(),
            ptr::null_mut::<u64>(),
            8usize,
        );
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            8usize,
        );
        libc::syscall(
            libc::SYS_setitimer,
            libc::ITIMER_REAL,
            &raw const timer,
            ptr::null_mut::<libc::itimerval>(),
        );
    }
}
