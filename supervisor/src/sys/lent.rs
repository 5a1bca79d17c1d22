//! What a child uses of PID 1's memory between its clone and its program, and when that is PID 1's again.
//!
//! A child that shares the memory runs on a stack of its own there and reads what was prepared for it. PID 1 does
//! not wait for it (no `CLONE_VFORK`): a child may be stuck before its exec, at an environment file on a disk
//! that hangs, or stopped by whoever has its user id. So what it was lent is kept until one of two things is known:
//!
//! * It executes its program: its error pipe is at its end, which closes at the exec. By then it has a
//!   memory of its own (kernel: `fs/exec.c`, `begin_new_exec`: `exec_mmap` comes before `do_close_on_exec`). The
//!   pipe's end may also be its death, in which the memory is left before the descriptors are closed, too
//!   (kernel: `kernel/exit.c`, `do_exit`: `exit_mm` comes before `exit_files`).
//! * It is reaped.
//!
//! Both are seen in `sys` itself, so nobody else can be wrong about it. If neither happens, because nobody looks at
//! the pipe any more and the child hangs, the memory stays as it is, for as long as the child does: there is one
//! entry for each child at most.
//!
//! The book is one for each thread, as PID 1 has one; what a child was lent outlives the thread.

use super::ChildPlan;
use super::child::Room;
use rustix::fd::RawFd;
use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::io;
use std::ptr::{self, NonNull};

/// Enough for walking to an environment file, which takes a dozen paths of 4 KiB. What is not touched costs no
/// memory.
const STACK: usize = 128 * 1024;

/// Below the stack: whoever runs over it ends by SIGSEGV. As large as the largest page of any processor.
const GUARD: usize = 64 * 1024;

/// So many stacks are kept for the next starts.
const SPARE_MAX: usize = 4;

thread_local! {
    static BOOK: Cell<Vec<Entry>> = const { Cell::new(Vec::new()) };
    static SPARE: Cell<Vec<Stack>> = const { Cell::new(Vec::new()) };
    static LOANS: Cell<u64> = const { Cell::new(0) };
}

/// Everything that a child uses.
pub struct Lent {
    pub plan: ChildPlan<'static>,
    /// Pointers to those of the plan, and a null pointer.
    pub arguments: Vec<*const c_char>,
    pub room: Room,
    /// The end of the error pipe that it writes to.
    pub error_pipe: RawFd,
    stack: Stack,
}

/// A child that has not given back what it was lent.
struct Entry {
    loan: u64,
    pid: i32,
    lent: *mut Lent,
}

/// Prepares what a child uses. It is [taken back](take_back) if no child is made.
///
/// # Errors
/// Without memory for a stack.
pub fn lend(plan: ChildPlan<'static>, error_pipe: RawFd) -> io::Result<*mut Lent> {
    let mut spare = SPARE.take();
    let stack = spare.pop();
    SPARE.set(spare);
    let arguments = plan.arguments.iter().map(|s| s.as_ptr());
    Ok(Box::into_raw(Box::new(Lent {
        arguments: arguments.chain([ptr::null()]).collect(),
        room: Room::new(&plan),
        error_pipe,
        stack: stack.map_or_else(Stack::new, Ok)?,
        plan,
    })))
}

/// Enters it as lent to this child, which shares the memory. Gives the number of the loan.
///
/// # Safety
/// It came from [`lend`], and nobody but the child touches it any more.
pub unsafe fn enter(pid: i32, lent: *mut Lent) -> u64 {
    // SAFETY: an earlier child of this pid was reaped, by somebody else in this program, or it would still have it.
    unsafe { take_back_from(pid) };
    let loan = LOANS.get().wrapping_add(1);
    LOANS.set(loan);
    let mut book = BOOK.take();
    book.push(Entry { loan, pid, lent });
    BOOK.set(book);
    loan
}

/// The child of this pid is done with what it was lent, if it was.
///
/// # Safety
/// It has executed a program or was reaped.
pub unsafe fn take_back_from(pid: i32) {
    // SAFETY: passed on to the caller.
    unsafe { take_back_where(|entry| entry.pid == pid) };
}

/// The child that has this loan is done with it, if it still has it.
///
/// # Safety
/// As of [`take_back_from`].
pub unsafe fn take_back_loan(loan: u64) {
    // SAFETY: passed on to the caller.
    unsafe { take_back_where(|entry| entry.loan == loan) };
}

/// # Safety
/// As of [`take_back_from`], for each of the children.
unsafe fn take_back_where(done: impl Fn(&Entry) -> bool) {
    let mut book = BOOK.take();
    for entry in book.extract_if(.., |entry| done(entry)) {
        // SAFETY: the entry is gone from the book, so this happens once, and the child is done with it.
        unsafe { take_back(entry.lent) };
    }
    BOOK.set(book);
}

/// # Safety
/// It came from [`lend`], and no child uses it.
pub unsafe fn take_back(lent: *mut Lent) {
    // SAFETY: `lend` made it by `into_raw`; the rest is the caller's promise.
    let lent = unsafe { Box::from_raw(lent) };
    let mut spare = SPARE.take();
    if spare.len() < SPARE_MAX {
        spare.push(lent.stack);
    }
    SPARE.set(spare);
}

/// How many children have not given back what they were lent.
pub fn count() -> usize {
    let book = BOOK.take();
    let count = book.len();
    BOOK.set(book);
    count
}

impl Lent {
    /// Where its stack starts, and how long that is.
    pub fn stack(&self) -> (u64, u64) {
        let bottom = self.stack.0.as_ptr().expose_provenance() + GUARD;
        (bottom as u64, STACK as u64)
    }
}

/// A mapping for a stack, with its guard at the lower end.
struct Stack(NonNull<c_void>);

impl Stack {
    fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice, of which nobody has a reference yet.
        unsafe {
            let base = libc::mmap(
                ptr::null_mut(),
                GUARD + STACK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = NonNull::new(base).map(Self);
            let stack = stack.ok_or(io::ErrorKind::OutOfMemory)?;
            match libc::mprotect(base, GUARD, libc::PROT_NONE) {
                0 => Ok(stack),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which no child uses any more.
        unsafe { libc::munmap(self.0.as_ptr(), GUARD + STACK) };
    }
}
