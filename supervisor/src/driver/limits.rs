//! How many descriptors PID 1 may have, and how they are shared out.
//!
//! The kernel starts PID 1 with a soft limit of 1,024 and a hard one of 4,096 (kernel:
//! `include/linux/fs.h`, `INR_OPEN_CUR`), which is too few for what it holds, and children can be given no more
//! than its hard limit. So both are raised first, where that is allowed.
//!
//! What services store and send must not leave PID 1 without the descriptors that a start takes, or
//! one service could keep another from being restarted.

use crate::spec::Spec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the loop, the control socket's clients, the channels of roles and devices.
const OWN: usize = 128;

/// Those of one service at most, its listening sockets apart: notify socket, cgroup files, output pipe
/// and its copies, pidfd, error pipe, probes, and what one start takes for a moment.
const EACH_SERVICE: usize = 24;

/// How many descriptors that were received may be open at the same time.
pub(super) fn received_max(specs: &[Spec]) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let limit = limit.current.and_then(|n| usize::try_from(n).ok());
    let sockets: usize = specs.iter().map(|spec| spec.sockets.len()).sum();
    let own = OWN + EACH_SERVICE * specs.len() + sockets;
    limit.unwrap_or(usize::MAX).saturating_sub(own)
}

/// Raises `RLIMIT_NOFILE` of this process as far as it may: the hard limit to what the kernel allows at all
/// (`fs.nr_open`), which takes `CAP_SYS_RESOURCE`, and the soft one to the hard one.
pub fn raise_descriptor_limit() {
    let all = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let all: Option<u64> = all.and_then(|text| text.trim().parse().ok());
    let hard = getrlimit(Resource::Nofile).maximum;
    for limit in [all.max(hard), hard] {
        let limit = Rlimit {
            current: limit,
            maximum: limit,
        };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return;
        }
    }
}
