//! How many descriptors PID 1 may have, and how they are shared out.
//!
//! What services store and send must not leave PID 1 without the descriptors that a start takes, or
//! one service could keep another from being restarted.

use crate::spec::Spec;

/// Descriptors of the loop, the control socket's clients, the channels of roles and devices.
const OWN: usize = 256;

/// Those of one service at most, its listening sockets apart: notify socket, cgroup files, output pipe
/// and its copies, pidfd, error pipe, probes, and what one start takes for a moment.
const EACH_SERVICE: usize = 24;

/// How many descriptors that were received may be open at the same time.
pub(super) fn received_max(specs: &[Spec]) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = limit.current.and_then(|n| usize::try_from(n).ok());
    let sockets: usize = specs.iter().map(|spec| spec.sockets.len()).sum();
    let own = OWN + EACH_SERVICE * specs.len() + sockets;
    limit.unwrap_or(usize::MAX).saturating_sub(own)
}
