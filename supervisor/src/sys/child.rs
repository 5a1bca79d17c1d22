//! The child's way from `clone3` to its program: raw system calls only, no allocation, no lock, no errno.

use super::lent::Lent;
use super::raw::{self, Word};
use super::{ChildPlan, close};
use crate::environment::{EnvironmentFile, Unread, buffer, same_name};
use rustix::fd::{AsRawFd, RawFd};
use std::ffi::{CStr, CString, c_char, c_long};
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
const SECURE_BITS: usize = 1 << 0 | 1 << 1 | 1 << 4;

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
    /// By the errno of the call that failed at this step.
    fn at(step: u8) -> impl Fn(i32) -> Self {
        move |errno| Self {
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
    // SAFETY: a plain system call without arguments.
    let mut pid = unsafe { raw::call(libc::SYS_getpid, []) }.unwrap_or(0);
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
///
/// # Safety
/// Only as the first function of a child, with what nobody else uses.
pub unsafe extern "C" fn run(lent: *mut Lent) -> ! {
    // SAFETY: as the caller promises, this is the only reference.
    let Lent {
        plan,
        arguments,
        room,
        error_pipe,
        ..
    } = unsafe { &mut *lent };
    let prepared = prepare(plan, room, error_pipe);
    let prepared = prepared.and_then(|()| assemble_environment(plan, room));
    let executed = prepared.and_then(|()| {
        let (program, environment) = (plan.program.as_ptr(), room.environment.as_ptr());
        let arguments = [
            program.word(),
            arguments.as_ptr().word(),
            environment.word(),
        ];
        // SAFETY: all three are NUL-terminated arrays and strings that `plan` and `room` keep alive.
        unsafe { raw::call(libc::SYS_execve, arguments) }.map_err(Failure::at(8))
    });
    if let Err(Failure { step, file, errno }) = executed {
        let [a, b, c, d] = errno.to_ne_bytes();
        let report: [u8; REPORT] = [step, file, a, b, c, d];
        let arguments = [error_pipe.word(), report.as_ptr().word(), report.len()];
        // SAFETY: `report` outlives the write.
        let _ = unsafe { raw::call(libc::SYS_write, arguments) };
    }
    loop {
        // SAFETY: a plain system call on a value. It ends this process, without the handlers of the parent.
        let _ = unsafe { raw::call(libc::SYS_exit_group, [127]) };
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
    let mut holder = plan.strangers.then(close::Holder::start).flatten();
    let closed = move_descriptors(plan, &mut room.moved, error_fd, holder.as_mut());
    if let Some(holder) = holder {
        holder.end();
    }
    closed.map_err(Failure::at(1))?;
    // SAFETY: plain system calls on values; the structures live on this stack.
    unsafe {
        // The kernel's `struct sigaction` of zeros is SIG_DFL, no flags, an empty mask.
        let default = [0u64; 4];
        for signal in 1..=64 {
            let arguments = [signal, default.as_ptr().word(), 0, size_of::<u64>()];
            let _ = raw::call(libc::SYS_rt_sigaction, arguments);
        }
        let none = ptr::from_ref(&0u64);
        let arguments = [libc::SIG_SETMASK.word(), none.word(), 0, size_of::<u64>()];
        let _ = raw::call(libc::SYS_rt_sigprocmask, arguments);
        let _ = raw::call(libc::SYS_setsid, []);
        let _ = raw::call(libc::SYS_umask, [plan.umask.word()]);
        set_oom_score(plan)?;
        for (resource, value) in &plan.rlimits {
            let limit = libc::rlimit {
                rlim_cur: *value,
                rlim_max: *value,
            };
            let arguments = [0, resource.word(), ptr::from_ref(&limit).word(), 0];
            raw::call(libc::SYS_prlimit64, arguments).map_err(Failure::at(3))?;
        }
        if plan.nice != 0 {
            // The priority of a process group leader and of nobody else: 0 is this process.
            let arguments = [libc::PRIO_PROCESS.word(), 0, plan.nice.word()];
            raw::call(libc::SYS_setpriority, arguments).map_err(Failure::at(9))?;
        }
        let groups = [plan.groups.len(), plan.groups.as_ptr().word()];
        raw::call(libc::SYS_setgroups, groups).map_err(Failure::at(4))?;
        let gid = plan.gid.word();
        raw::call(libc::SYS_setresgid, [gid, gid, gid]).map_err(Failure::at(4))?;
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
        prctl([libc::PR_SET_NO_NEW_PRIVS.word(), 1, 0, 0, 0], 6)?;
    }
    for (number, file) in plan.environment_files.iter_mut().enumerate() {
        let read = file.read_as_the_service(&mut room.file);
        read.map_err(|unread| Failure::of_file(number, unread))?;
    }
    // SAFETY: the path is NUL-terminated.
    let changed = unsafe { raw::call(libc::SYS_chdir, [plan.directory.as_ptr().word()]) };
    changed.map(drop).map_err(Failure::at(7))
}

/// Sets the OOM score, unless the memory is shared: then it is the wanted one already, and the kernel would set
/// that of everybody who shares it (kernel: `fs/proc/base.c`, `__set_oom_adj`).
///
/// # Safety
/// Only in a child that is about to exec.
unsafe fn set_oom_score(plan: &ChildPlan<'_>) -> Result<(), Failure> {
    if plan.shares_memory {
        return Ok(());
    }
    let path = c"/proc/self/oom_score_adj".as_ptr().word();
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    let text = plan.oom_score_adjust.as_bytes();
    // SAFETY: the path is NUL-terminated, and the text as long as it says; the descriptor is closed again.
    unsafe {
        let arguments = [libc::AT_FDCWD.word(), path, flags.word(), 0];
        let fd = raw::call(libc::SYS_openat, arguments).map_err(Failure::at(2))?;
        let written = raw::call(libc::SYS_write, [fd, text.as_ptr().word(), text.len()]);
        let _ = raw::call(libc::SYS_close, [fd]);
        match written {
            Err(errno) if plan.oom_score_wanted => Err(Failure::at(2)(errno)),
            _ => Ok(()),
        }
    }
}

/// # Safety
/// As the call itself has it.
unsafe fn prctl(arguments: [usize; 5], step: u8) -> Result<(), Failure> {
    // SAFETY: passed on to the caller.
    let called = unsafe { raw::call(libc::SYS_prctl, arguments) };
    called.map(drop).map_err(Failure::at(step))
}

/// Takes every other capability out of the bounding set (capabilities(7)), so that nothing that is executed
/// from here on can have it, whoever executes it.
///
/// # Safety
/// Only in a child that has one thread and is about to exec.
unsafe fn bound_capabilities(capabilities: u64) -> Result<(), Failure> {
    for capability in (0..64).filter(|c| capabilities >> c & 1 == 0) {
        let read = [libc::PR_CAPBSET_READ.word(), capability, 0, 0, 0];
        // SAFETY: plain system calls on values. EINVAL for a number that this kernel has no capability for.
        unsafe {
            if raw::call(libc::SYS_prctl, read).unwrap_or(0) > 0 {
                prctl([libc::PR_CAPBSET_DROP.word(), capability, 0, 0, 0], 6)?;
            }
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
    // `_LINUX_CAPABILITY_VERSION_3` (kernel: `include/uapi/linux/capability.h`).
    let header: [u32; 2] = [0x2008_0522, 0];
    let low = u32::try_from(capabilities & 0xffff_ffff).unwrap_or(0);
    let high = u32::try_from(capabilities >> 32).unwrap_or(0);
    // Two of effective, permitted, inheritable.
    let data: [u32; 6] = [low, low, low, high, high, high];
    // SAFETY: plain system calls on values and on arrays that outlive them.
    unsafe {
        prctl([libc::PR_SET_SECUREBITS.word(), SECURE_BITS, 0, 0, 0], 6)?;
        let uid = uid.word();
        raw::call(libc::SYS_setresuid, [uid, uid, uid]).map_err(Failure::at(5))?;
        let sets = [header.as_ptr().word(), data.as_ptr().word()];
        raw::call(libc::SYS_capset, sets).map_err(Failure::at(6))?;
        for capability in (0..64).filter(|c| capabilities >> c & 1 == 1) {
            let raise = libc::PR_CAP_AMBIENT_RAISE.word();
            prctl([libc::PR_CAP_AMBIENT.word(), raise, capability, 0, 0], 6)?;
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
) -> Result<(), i32> {
    let targets = plan.descriptors.iter().map(|(_, target)| *target);
    let behind = targets.max().unwrap_or(2).max(2) + 1;
    // SAFETY: plain system calls on descriptor numbers that the plan keeps open.
    let call = |number: c_long, arguments: [usize; 3]| unsafe {
        raw::call(number, arguments).map(|fd| RawFd::try_from(fd).unwrap_or(-1))
    };
    let above = |fd: RawFd| {
        let command = libc::F_DUPFD_CLOEXEC.word();
        call(libc::SYS_fcntl, [fd.word(), command, (behind + 2).word()])
    };
    let onto = |fd: RawFd, target: RawFd, flags: i32| {
        call(libc::SYS_dup3, [fd.word(), target.word(), flags.word()])
    };
    *error_fd = above(*error_fd)?;
    if let Some(holder) = &mut holder {
        holder.pidfd = above(holder.pidfd)?;
    }
    for (slot, (source, _)) in moved.iter_mut().zip(&plan.descriptors) {
        *slot = above(source.as_raw_fd())?;
    }
    for (slot, (_, target)) in moved.iter().zip(&plan.descriptors) {
        onto(*slot, *target, 0)?;
    }
    *error_fd = onto(*error_fd, behind, libc::O_CLOEXEC)?;
    let mut first = behind + 1;
    if let Some(holder) = &mut holder {
        holder.pidfd = onto(holder.pidfd, first, libc::O_CLOEXEC)?;
        first += 1;
    }
    let last = libc::c_uint::MAX;
    call(libc::SYS_close_range, [first.word(), last.word(), 0]).map(drop)
}
