//! Whether a child may share PID 1's memory until its exec, instead of getting a copy of it.
//!
//! A copy is a third of what a start costs PID 1. What two processes with one memory have in common besides, and why
//! it does no harm here:
//!
//! * **Want of memory.** When the kernel kills a process for it, everybody dies who shares its memory, in whatever
//!   cgroup, except the machine's init (kernel: `mm/oom_kill.c`, `__oom_kill_process`). That would be the children of
//!   other services on their way, too, and it marks PID 1's memory for good. A child may meet the limit of its
//!   service's cgroup on its way, so that of a service with a limit of memory does not share. Nor do children of a
//!   container's init, unless cgroup2 has no memory controller there: then the child is in the memory cgroup of its
//!   PID 1, with as much memory and the same score, so that it is chosen where PID 1 might be as well.
//! * **The score for that** is set for everybody who shares the memory (`fs/proc/base.c`, `__set_oom_adj`), except the
//!   machine's init: for other children on their way, too. So a child shares only if it does not have to set it.
//! * **Who may trace or dump it.** When a process takes another user id, its memory becomes as dumpable as
//!   `fs.suid_dumpable` says (`kernel/cred.c`, `commit_creds`). With 0 nobody without `CAP_SYS_PTRACE` may trace the
//!   child or read its memory (ptrace(2), `PTRACE_MODE_*`), its files in `/proc` are root's, and no signal makes it dump
//!   core, though it has the service's user id before its exec. With any other value it does not share.
//!   PID 1's memory is made so at the start, so that it holds for children that stay root's, too.
//! * **Locks of the kernel on the memory.** A child that holds copies of strangers' descriptors makes a process of its
//!   own ([`crate::sys::close`]), and copying the memory for that locks it, for as long as the limit of the
//!   service's cgroup may keep the child. So such a child does not share. On the rest of its way it takes no such
//!   lock for longer than a moment: its service has no limit of memory that could keep it while it holds one.
//! * **Signals.** Whoever has the service's user id may stop or kill the child before its exec. It is a process of its
//!   own with handlers of its own, so nobody else notices.

use super::cgroup::CgroupParent;
use crate::config::LimitsConfig;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// The pid namespace of the machine (kernel: `include/uapi/linux/nsfs.h`, `PID_NS_INIT_INO`).
const MACHINES_PIDS: &str = "pid:[4026531836]";

/// What decides, but for the child itself; see the module.
#[derive(Debug)]
pub struct Sharing {
    /// Whether want of memory in the service's cgroup is no danger to this process.
    safe: bool,
    /// Kept open, as both are asked at each start.
    suid_dumpable: Option<OwnedFd>,
    own_score: Option<OwnedFd>,
}

impl Sharing {
    /// For services with their cgroups there.
    #[must_use]
    pub fn new(cgroups: &CgroupParent) -> Self {
        let open = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).ok()
        };
        let safe = is_machines_init() || !cgroups.has_memory_controller();
        let undumpable = || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
        Self {
            safe: safe && undumpable(),
            suid_dumpable: open("/proc/sys/fs/suid_dumpable"),
            own_score: open("/proc/self/oom_score_adj"),
        }
    }

    /// Whether a child may, that is to have this `oom_score_adj`, is in a cgroup with these `limits`, and may hold
    /// descriptors of `strangers`.
    #[must_use]
    pub fn allows(&self, oom_score: i32, limits: &LimitsConfig, strangers: bool) -> bool {
        let unlimited = limits.memory_max.is_none() && limits.memory_high.is_none();
        self.safe
            && unlimited
            && !strangers
            && number(self.suid_dumpable.as_ref()) == Some(0)
            && number(self.own_score.as_ref()) == Some(oom_score)
    }
}

/// Whether this process is the init of the machine and not of a container.
fn is_machines_init() -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    std::process::id() == 1 && namespace.is_ok_and(|name| name.as_os_str() == MACHINES_PIDS)
}

/// What a file of one number says now.
fn number(file: Option<&OwnedFd>) -> Option<i32> {
    let mut text = [0; 16];
    let length = rustix::io::pread(file?, &mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory with this text in it.
    fn file(text: &str) -> Option<OwnedFd> {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        Some(file)
    }

    #[test]
    fn who_shares_has_nothing_to_set_for_others_and_cannot_be_dumped() {
        let sharing = |safe: bool, suid_dumpable: &str, own_score: &str| Sharing {
            safe,
            suid_dumpable: file(suid_dumpable),
            own_score: file(own_score),
        };
        let none = LimitsConfig::default();
        let good = sharing(true, "0\n", "0\n");
        assert!(good.allows(0, &none, false));
        assert!(
            !good.allows(-900, &none, false),
            "it would have to set its score"
        );
        assert!(!good.allows(0, &none, true), "a stranger's descriptors");
        for limit in ["memory-max = '64M'", "memory-high = '80%'"] {
            let limits = toml::from_str(limit).unwrap();
            assert!(!good.allows(0, &limits, false), "{limit}");
        }
        assert!(sharing(true, "0\n", "-500\n").allows(-500, &none, false));
        assert!(!sharing(true, "0\n", "-500\n").allows(0, &none, false));
        assert!(
            !sharing(true, "1\n", "0\n").allows(0, &none, false),
            "dumpable"
        );
        assert!(
            !sharing(true, "2\n", "0\n").allows(0, &none, false),
            "for root"
        );
        assert!(
            !sharing(false, "0\n", "0\n").allows(0, &none, false),
            "a container"
        );
        let unknown = Sharing {
            suid_dumpable: None,
            ..good
        };
        assert!(!unknown.allows(0, &none, false));
    }

    #[test]
    fn a_test_is_not_the_init_of_the_machine() {
        assert!(!is_machines_init());
    }
}
