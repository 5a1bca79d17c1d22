//! What the child's way to its program rests on.

use super::*;

#[test]
fn a_call_that_fails_leaves_errno_alone() {
    // SAFETY: `__errno_location` is this thread's; the descriptor is none.
    unsafe {
        *libc::__errno_location() = libc::EXDEV;
        let closed = raw::call(libc::SYS_close, [usize::MAX]);
        assert_eq!(closed, Err(libc::EBADF));
    }
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EXDEV));
}
