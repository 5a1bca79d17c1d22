//! The start of a child with a real kernel. Needs root and a cgroup2 mount, as in `driver.rs`.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use supervisor::driver::CgroupParent;
use supervisor::sys::{self, ChildPlan};

/// A child that did not come to its program in so long hangs. The socket lingers for a minute.
const HUNG: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A TCP socket whose last close waits for a peer that never reads.
fn lingering(peer: &TcpListener) -> OwnedFd {
    let mut socket = TcpStream::connect(peer.local_addr().unwrap()).unwrap();
    sockopt::set_socket_linger(&socket, Some(Duration::from_secs(60))).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[b'x'; 65_536]).is_ok() {}
    socket.into()
}

/// PID 1 may close what a stranger sent while a child has copies that it has not closed yet.
#[test]
fn a_child_does_not_wait_for_a_stranger_whose_descriptor_it_is_the_last_to_close() {
    let name = format!("init-test-spawn-{}", std::process::id());
    let folder = CgroupParent::mount_point().unwrap().join(name);
    std::fs::create_dir(&folder).unwrap();
    let freeze = |text| std::fs::write(folder.join("cgroup.freeze"), text).unwrap();
    let cgroup = std::fs::File::open(&folder).unwrap();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = lingering(&peer);
    // The child is born frozen: it has its copies, and closes them when it is let go.
    freeze("1");
    let plan = ChildPlan {
        program: c"/bin/true".into(),
        arguments: vec![c"true".into()],
        environment: Vec::new(),
        environment_files: Vec::new(),
        environment_defaults: Vec::new(),
        directory: c"/".into(),
        cgroup: Some(cgroup.as_fd()),
        descriptors: Vec::new(),
        strangers: true,
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        capabilities: 0,
        umask: 0o022,
        rlimits: Vec::new(),
        nice: 0,
        listen_pid: false,
        oom_score_adjust: c"0".into(),
        oom_score_wanted: false,
        shares_memory: false,
    };
    let child = sys::spawn(plan).unwrap();
    drop(stranger);
    freeze("0");
    let mut ready = [PollFd::new(&child.error_pipe, PollFlags::IN)];
    let executes = poll(&mut ready, Some(&HUNG)).unwrap();
    let kill = rustix::process::Signal::KILL;
    let _ = rustix::process::pidfd_send_signal(&child.pidfd, kill);
    // The child, and who held the copies for it, are children of this process.
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
    std::fs::remove_dir(&folder).unwrap();
    assert_eq!(executes, 1, "the child hangs before its program");
}
