//! The system calls that netcfg makes, and no others: seccomp(2).
//!
//! The list is what strace shows of a whole life of the program, with musl and with glibc, and what
//! both do when memory is short or the program panics. Whoever adds a feature that needs one more
//! sees netcfg die of SIGSYS in the first test that reaches it, and adds the call here with a word for
//! why. To be killed is the right end for a call that is not here: the code that netcfg consists of
//! never makes one, so whoever did is not netcfg.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Allowed with any arguments.
const PLAIN: &[i64] = &[
    // Memory of the allocators of musl and glibc. `mmap` and `mprotect` are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Locks of the standard library, which here nobody ever waits for.
    libc::SYS_futex,
    // Signals: the handler that names a stack overflow, and stop and continue by a supervisor.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // The end. A panic that is to show where it was asks for its folder.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getcwd,
    // Seeds of hash maps and transaction ids.
    libc::SYS_getrandom,
    // The time, where the kernel cannot give it without a call.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    // The event loop.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Descriptors of every kind.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    // Files. Which ones is the matter of Landlock.
    libc::SYS_openat,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_fchmod,
    libc::SYS_fsync,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    // Sockets. Which ones is below. There is no `connect`: datagrams are sent with their address.
    libc::SYS_bind,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    // Clients of the control socket, which itself is there before.
    libc::SYS_accept4,
    libc::SYS_shutdown,
];

/// The same things by the names that only this architecture has; both C libraries use them here.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// The low bits of a socket's type; flags are above (kernel: `include/linux/net.h`,
/// `SOCK_TYPE_MASK`).
const TYPE_MASK: u64 = 0xf;

/// Installs the list on this thread, for good.
pub fn restrict() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&program()?)
}

fn program() -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(
        rules()?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        arch,
    )?;
    Ok(filter.try_into()?)
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN
        .iter()
        .chain(OLDER)
        .map(|call| (*call, Vec::new()))
        .collect();
    // One alternative a line; an alternative is a list of conditions that all hold.
    let mut only = |call: i64, alternatives: Vec<Vec<Condition>>| {
        let made: Result<Vec<_>, _> = alternatives.into_iter().map(rule).collect();
        made.map(|made| rules.insert(call, made))
    };

    // Never a page that can be executed: foreign bytes stay data.
    let no_code = || vec![vec![bits(2, libc::PROT_EXEC, 0)]];
    only(libc::SYS_mmap, no_code())?;
    only(libc::SYS_mprotect, no_code())?;

    // `abort` sends its signal to nobody else (glibc by process and thread, musl by thread).
    let own_process = i64::from(std::process::id());
    only(libc::SYS_tgkill, vec![vec![equal(0, own_process)]])?;
    // The first thread has the number of its process, and is the only one.
    only(libc::SYS_tkill, vec![vec![equal(0, own_process)]])?;

    only(
        libc::SYS_socket,
        vec![
            // Links, addresses and routes; no other part of the kernel.
            vec![
                domain(libc::AF_NETLINK),
                equal(2, i64::from(libc::NETLINK_ROUTE)),
            ],
            // DHCP before there is an address, and ARP.
            vec![domain(libc::AF_PACKET)],
            // DHCP and NTP once there is one.
            vec![domain(libc::AF_INET), kind(libc::SOCK_DGRAM)],
            vec![domain(libc::AF_INET6), kind(libc::SOCK_DGRAM)],
            // Router advertisements and solicitations are ICMPv6.
            vec![domain(libc::AF_INET6), kind(libc::SOCK_RAW)],
        ],
    )?;
    // Both netlink sockets are made non-blocking so.
    only(libc::SYS_ioctl, vec![vec![equal(1, i64::from(FIONBIO))]])?;
    // The standard library looks, in builds with assertions, whether what it closes was open.
    only(
        libc::SYS_fcntl,
        vec![
            vec![equal(1, i64::from(libc::F_GETFD))],
            // musl says once more that what it opens is not for other programs.
            vec![equal(1, i64::from(libc::F_SETFD))],
            // A second descriptor for the same thing.
            vec![equal(1, i64::from(libc::F_DUPFD_CLOEXEC))],
        ],
    )?;
    Ok(rules)
}

/// `asm-generic/ioctls.h`; the C libraries do not agree on the type of `libc::FIONBIO`.
const FIONBIO: i32 = 0x5421;

/// Position of an argument, how it is compared, and with what. All are of 32 bits.
type Condition = (u8, SeccompCmpOp, u64);

fn rule(conditions: Vec<Condition>) -> Result<SeccompRule, seccompiler::Error> {
    let made: Result<Vec<_>, _> = conditions
        .into_iter()
        .map(|(position, op, value)| {
            SeccompCondition::new(position, SeccompCmpArgLen::Dword, op, value)
        })
        .collect();
    Ok(SeccompRule::new(made?)?)
}

fn equal(position: u8, value: i64) -> Condition {
    (position, SeccompCmpOp::Eq, value.unsigned_abs())
}

fn bits(position: u8, mask: i32, value: i32) -> Condition {
    let op = SeccompCmpOp::MaskedEq(mask.unsigned_abs().into());
    (position, op, value.unsigned_abs().into())
}

fn domain(domain: i32) -> Condition {
    equal(0, domain.into())
}

fn kind(kind: i32) -> Condition {
    (
        1,
        SeccompCmpOp::MaskedEq(TYPE_MASK),
        kind.unsigned_abs().into(),
    )
}
