//! The child's way from `clone3` to its program: raw system calls only, no allocation, no lock.

use super::{ChildPlan, close};
use crate::environment::{EnvironmentFile, Unread, buffer, same_name};
use rustix::fd::{AsRawFd, RawFd};
use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::ptr;

/// The step at which a child failed, as told through the error pipe.
pub const STEPS: [&str; 11] = [
    "",
    "fds",
    "oom_score_adj",
    "rlimit",
    "groups",
    "user",
    "capabilities",
    "chdir",
    "exec",
    "nice",
    ENVIRONMENT_FILES,
];

/// The step at which files are read.
pub const ENVIRONMENT_FILES: &str = "environment-files";

/// What a child tells through the error pipe: the step, which one of `environment_files` it was, and errno,
/// 0 for a file that is not a regular one.
pub const REPORT: usize = 6;

/// Variables from files that a service may have.
const FROM_FILES_MAX: usize = 4096;

/// `SECBIT_NOROOT` and its lock, and `SECBIT_KEEP_CAPS`, which lasts until the exec (kernel:
/// `include/uapi/linux/securebits.h`).
const SECURE_BITS: libc::c_ulong = 1 << 0 | 1 << 1 | 1 << 4;

/// What stands before the pid in the environment, and room for the digits of any pid and a NUL.
const LISTEN_PID: &[u8] = b"LISTEN_PID=";
const LISTEN_PID_ROOM: usize = 32;

/// What the child writes to, made before it exists.
pub struct Room {
    /// A place for each of the descriptors.
    moved: Vec<RawFd>,
    /// The bytes of an environment file.
    file: Vec<u8>,
    /// Only the child knows its pid.
    listen_pid: [u8; LISTEN_PID_ROOM],
    /// What `execve` is given. Never longer than its capacity.
    environment: Vec<*const c_char>,
}

impl Room {
    pub fn new(plan: &ChildPlan<'_>) -> Self {
        let from_files = match plan.environment_files.as_slice() {
            [] => 0,
            _ => FROM_FILES_MAX,
        };
        let own = plan.environment.len() + plan.environment_defaults.len();
        Self {
            moved: vec![-1; plan.descriptors.len()],
            file: match from_files {
                0 => Vec::new(),
                _ => buffer(),
            },
            listen_pid: [0; LISTEN_PID_ROOM],
            // With `LISTEN_PID`, and a null pointer at the end.
            environment: Vec::with_capacity(own + from_files + 2),
        }
    }
}

/// Where and why a child failed.
struct Failure {
    step: u8,
    /// Which of the environment files.
    file: u8,
    errno: i32,
}

impl Failure {
    /// By what the last call left in errno.
    fn at(step: u8) -> Self {
        // SAFETY: `__errno_location` is this thread's errno; a plain read.
        let errno = unsafe { *libc::__errno_location() };
        Self {
            step,
            file: 0,
            errno,
        }
    }

    fn of_file(file: usize, unread: Unread) -> Self {
        Self {
            step: 10,
            file: u8::try_from(file).unwrap_or(u8::MAX),
            errno: match unread {
                Unread::Error(errno) => errno.raw_os_error(),
                Unread::NotRegular => 0,
            },
        }
    }
}

/// Puts `LISTEN_PID=` and the digits of this process's pid there. Allocates nothing.
fn write_pid(text: &mut [u8; LISTEN_PID_ROOM]) {
    for (to, from) in text.iter_mut().zip(LISTEN_PID) {
        *to = *from;
    }
    // SAFETY: a plain system call without arguments; the C library's `getpid` would do as well.
    let mut pid = unsafe { libc::syscall(libc::SYS_getpid) };
    let mut digits = [0u8; 20];
    let mut count = 0;
    for digit in &mut digits {
        *digit = b'0' + u8::try_from(pid % 10).unwrap_or(0);
        pid /= 10;
        count += 1;
        if pid == 0 {
            break;
        }
    }
    let digits = digits.iter().take(count).rev();
    for (to, from) in text.iter_mut().skip(LISTEN_PID.len()).zip(digits) {
        *to = *from;
    }
}

/// The child's way to its program. Never returns; allocates nothing, takes no lock.
pub fn run(plan: &mut ChildPlan<'_>, arguments: &[*const c_char], room: &mut Room) -> ! {
    let mut error_fd = plan.error_pipe.as_raw_fd();
    let prepared = prepare(plan, room, &mut error_fd);
    let prepared = prepared.and_then(|()| assemble_environment(plan, room));
    let Failure { step, file, errno } = prepared.err().unwrap_or_else(|| {
        // SAFETY: all three are NUL-terminated arrays and strings that `plan` and `room` keep alive.
        unsafe {
            libc::execve(
                plan.program.as_ptr(),
                arguments.as_ptr(),
                room.environment.as_ptr(),
            )
        };
        Failure::at(8)
    });
    let [a, b, c, d] = errno.to_ne_bytes();
    let report: [u8; REPORT] = [step, file, a, b, c, d];
    // SAFETY: `report` outlives the write; `_exit` runs no handlers of the parent's copy.
    unsafe {
        libc::write(error_fd, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Lays the variables of all sources over one another. Allocates nothing.
fn assemble_environment(plan: &ChildPlan<'_>, room: &mut Room) -> Result<(), Failure> {
    if plan.listen_pid {
        write_pid(&mut room.listen_pid);
    }
    let listen_pid = CStr::from_bytes_until_nul(&room.listen_pid).ok();
    let from_files = plan.environment_files.iter().rev();
    // What wins comes first.
    let all = listen_pid
        .filter(|_| plan.listen_pid)
        .into_iter()
        .chain(plan.environment.iter().map(CString::as_c_str))
        .chain(from_files.flat_map(EnvironmentFile::variables))
        .chain(plan.environment_defaults.iter().map(CString::as_c_str));
    for variable in all {
        // SAFETY: each is a string that `plan` or `room` keeps alive and unchanged.
        let set = |pointer: &*const c_char| unsafe { CStr::from_ptr(*pointer) };
        if room.environment.iter().any(|p| same_name(set(p), variable)) {
            continue;
        }
        // A place is left for the null pointer.
        if room.environment.capacity() - room.environment.len() < 2 {
            let too_many = Unread::Error(rustix::io::Errno::TOOBIG);
            return Err(Failure::of_file(plan.environment_files.len(), too_many));
        }
        room.environment.push(variable.as_ptr());
    }
    room.environment.push(ptr::null());
    Ok(())
}

/// Everything before `execve`; the error is a step of [`STEPS`].
fn prepare(plan: &mut ChildPlan<'_>, room: &mut Room, error_fd: &mut RawFd) -> Result<(), Failure> {
    let check = |result: c_long, step: u8| match result {
        ..0 => Err(Failure::at(step)),
        result => Ok(result),
    };
    let mut holder = plan.strangers.then(close::Holder::start).flatten();
    let closed = move_descriptors(plan, &mut room.moved, error_fd, holder.as_mut());
    let closed = closed.map_err(|()| Failure::at(1));
    if let Some(holder) = holder {
        holder.end();
    }
    closed?;
    // SAFETY: plain system calls on values; the structures live on this stack.
    unsafe {
        // The kernel's `struct sigaction` of zeros is SIG_DFL, no flags, an empty mask. The C
        // library would not let us at the signals that it keeps for itself.
        let default = [0u64; 4];
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                8usize,
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::setsid();
    }
    // SAFETY: the path and the text are NUL-terminated; the descriptor is closed again.
    unsafe {
        let fd = check(
            libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            )
            .into(),
            2,
        )?;
        let fd = c_int::try_from(fd).unwrap_or(-1);
        let text = plan.oom_score_adjust.as_bytes();
        let written = libc::write(fd, text.as_ptr().cast(), text.len());
        if plan.oom_score_wanted {
            check(written as c_long, 2)?;
        }
        libc::close(fd);
        libc::umask(plan.umask);
        for (resource, value) in &plan.rlimits {
            let limit = libc::rlimit {
                rlim_cur: *value,
                rlim_max: *value,
            };
            check(libc::setrlimit(*resource, &raw const limit).into(), 3)?;
        }
        if plan.nice != 0 {
            // The priority of a process group leader and of nobody else: 0 is this process.
            check(
                libc::setpriority(libc::PRIO_PROCESS as _, 0, plan.nice).into(),
                9,
            )?;
        }
        check(
            libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr()),
            4,
        )?;
        check(
            libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid),
            4,
        )?;
    }
    for (number, file) in plan.environment_files.iter_mut().enumerate() {
        let read = file.read_as_root(&mut room.file);
        read.map_err(|unread| Failure::of_file(number, unread))?;
    }
    // SAFETY: this child has one thread and is about to exec.
    unsafe {
        bound_capabilities(plan.capabilities)?;
        if plan.uid != 0 {
            become_user(plan.uid, plan.capabilities)?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(), 6)?;
    }
    for (number, file) in plan.environment_files.iter_mut().enumerate() {
        let read = file.read_as_the_service(&mut room.file);
        read.map_err(|unread| Failure::of_file(number, unread))?;
    }
    // SAFETY: the path is NUL-terminated.
    check(unsafe { libc::chdir(plan.directory.as_ptr()) }.into(), 7)?;
    Ok(())
}

/// Takes every other capability out of the bounding set (capabilities(7)), so that nothing that is executed
/// from here on can have it, whoever executes it.
///
/// # Safety
/// Only in a child that has one thread and is about to exec.
unsafe fn bound_capabilities(capabilities: u64) -> Result<(), Failure> {
    for capability in (0..64u64).filter(|c| capabilities >> c & 1 == 0) {
        // SAFETY: plain system calls on values. EINVAL for a number that this kernel has no capability for.
        let dropped = unsafe {
            libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) <= 0
                || libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
        };
        if !dropped {
            return Err(Failure::at(6));
        }
    }
    Ok(())
}

/// Gives up root for `uid`, keeping `capabilities` over the exec as ambient ones (capabilities(7)). From then
/// on the user id 0 is one like any other to this process and its children, outside of a user namespace of
/// their own.
///
/// # Safety
/// Only in a child that has one thread and is about to exec.
unsafe fn become_user(uid: u32, capabilities: u64) -> Result<(), Failure> {
    let check = |result: c_long, step: u8| match result {
        ..0 => Err(Failure::at(step)),
        _ => Ok(()),
    };
    // `_LINUX_CAPABILITY_VERSION_3` (kernel: `include/uapi/linux/capability.h`).
    let header: [u32; 2] = [0x2008_0522, 0];
    let low = u32::try_from(capabilities & 0xffff_ffff).unwrap_or(0);
    let high = u32::try_from(capabilities >> 32).unwrap_or(0);
    // Two of effective, permitted, inheritable.
    let data: [u32; 6] = [low, low, low, high, high, high];
    // SAFETY: plain system calls on values and on arrays that outlive them.
    unsafe {
        check(
            libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0, 0, 0).into(),
            6,
        )?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 5)?;
        check(
            libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()),
            6,
        )?;
        for capability in (0..64u64).filter(|c| capabilities >> c & 1 == 1) {
            check(
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE,
                    capability,
                    0,
                    0,
                )
                .into(),
                6,
            )?;
        }
    }
    Ok(())
}

/// Puts every descriptor of the plan at its number, the error pipe and a holder behind them, and closes all others
/// for good: until its exec this child would keep open what PID 1 closes meanwhile.
///
/// All are first moved above every target, so that no target overwrites a source. `moved` has a place
/// for each.
fn move_descriptors(
    plan: &ChildPlan<'_>,
    moved: &mut [RawFd],
    error_fd: &mut RawFd,
    mut holder: Option<&mut close::Holder>,
) -> Result<(), ()> {
    let check = |result: c_int| if result < 0 { Err(()) } else { Ok(result) };
    let targets = plan.descriptors.iter().map(|(_, target)| *target);
    let behind = targets.max().unwrap_or(2).max(2) + 1;
    // SAFETY: plain system calls on descriptor numbers that the plan keeps open.
    unsafe {
        *error_fd = check(libc::fcntl(*error_fd, libc::F_DUPFD_CLOEXEC, behind + 2))?;
        if let Some(holder) = &mut holder {
            holder.pidfd = check(libc::fcntl(holder.pidfd, libc::F_DUPFD_CLOEXEC, behind + 2))?;
        }
        for (slot, (source, _)) in moved.iter_mut().zip(&plan.descriptors) {
            *slot = check(libc::fcntl(
                source.as_raw_fd(),
                libc::F_DUPFD_CLOEXEC,
                behind + 2,
            ))?;
        }
        for (slot, (_, target)) in moved.iter().zip(&plan.descriptors) {
            check(libc::dup2(*slot, *target))?;
        }
        *error_fd = check(libc::dup3(*error_fd, behind, libc::O_CLOEXEC))?;
        let mut first = behind + 1;
        if let Some(holder) = &mut holder {
            holder.pidfd = check(libc::dup3(holder.pidfd, first, libc::O_CLOEXEC))?;
            first += 1;
        }
        let closed = libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            0 as libc::c_uint,
        );
        if closed < 0 { Err(()) } else { Ok(()) }
    }
}
