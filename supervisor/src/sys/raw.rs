//! System calls that go past the C library.
//!
//! A child that shares PID 1's memory has PID 1's thread-local storage, too: there the C library would put the
//! errno of a call of the child into PID 1's. These calls return it and write nothing.

use super::CloneArgs;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::arch::asm;
use std::ffi::c_long;
use std::mem::ManuallyDrop;
use std::ptr;

/// The least result that is an error (kernel: `include/linux/err.h`, `MAX_ERRNO`).
const ERROR_MIN: c_long = -4095;

/// An argument of a system call, as a register has it.
pub trait Word {
    /// The same, as wide as a register.
    fn word(self) -> usize;
}

impl Word for i32 {
    fn word(self) -> usize {
        (self as isize).cast_unsigned()
    }
}

impl Word for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for *const T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

/// Makes a system call; the error is its errno.
///
/// # Safety
/// As the call itself has it.
pub unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, i32> {
    let mut all = [0; 6];
    for (to, from) in all.iter_mut().zip(arguments) {
        *to = from;
    }
    let [a, b, c, d, e, f] = all;
    let result: c_long;
    // SAFETY: the kernel changes no register but these (syscall(2)); the rest is the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    answer(result)
}

fn answer(result: c_long) -> Result<usize, i32> {
    match result {
        ERROR_MIN..=-1 => Err(i32::try_from(-result).unwrap_or(0)),
        result => Ok(usize::try_from(result).unwrap_or(usize::MAX)),
    }
}

/// Makes a child that begins with `entry(argument)` on the stack of `args`; the error is the errno.
///
/// # Safety
/// `args` names a stack that nobody else uses for as long as the child does, and `argument` is what `entry` wants,
/// for as long. With `CLONE_VM` all that is so until the child has executed a program or is gone.
pub unsafe fn clone3<T>(
    args: &CloneArgs,
    entry: unsafe extern "C" fn(*mut T) -> !,
    argument: *mut T,
) -> Result<i32, i32> {
    let result: c_long;
    // SAFETY: in the parent it is a system call like any other, which touches neither the stack nor a register but
    // these. The child comes out of it with the same registers and the end of its own stack, which is aligned as a
    // call wants it, so there is nothing above the first frame; `entry` never returns. Every register is named: of its
    // own choice the compiler takes the frame pointer, too, which is cleared for the child.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            in("r8") entry,
            in("r9") argument,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            out("rcx") _, out("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x10",
            "blr x9",
            "brk 1",
            "2:",
            in("x9") entry,
            in("x10") argument,
            in("x8") libc::SYS_clone3,
            inlateout("x0") ptr::from_ref(args).word() => result,
            in("x1") size_of::<CloneArgs>(),
        );
    }
    answer(result).map(|pid| i32::try_from(pid).unwrap_or(i32::MAX))
}

/// A descriptor that is closed without the C library.
#[derive(Debug)]
pub struct RawFile(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for RawFile {
    fn from(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl AsFd for RawFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours, and nobody can use it after this.
        let _ = unsafe { call(libc::SYS_close, [self.0.as_raw_fd().word()]) };
    }
}
