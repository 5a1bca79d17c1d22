//! Children that share this process's memory: what becomes of it, and who gets at it. Needs root.

#[path = "sharing/sys.rs"]
mod sys;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use supervisor::core::ExitStatus;
use supervisor::sys::{Child, ChildPlan, REPORT, reap_one, sharing, spawn};

/// What starts this with nobody's rights, and writes what it does to `output`.
fn plan<'a>(program: &Path, output: BorrowedFd<'a>) -> ChildPlan<'a> {
    let text = |text: &str| CString::new(text).unwrap();
    ChildPlan {
        program: text(program.to_str().unwrap()),
        arguments: ["sh", "-c", "echo $0 $NAME", "argument"].map(text).to_vec(),
        environment: vec![text("NAME=value")],
        environment_files: Vec::new(),
        environment_defaults: Vec::new(),
        directory: text("/"),
        cgroup: None,
        descriptors: vec![(output, 0), (output, 1), (output, 2)],
        strangers: false,
        uid: 65534,
        gid: 65534,
        groups: vec![65534],
        capabilities: 0,
        umask: 0o022,
        // As much as may be, so that there would be a core if there could.
        rlimits: vec![(libc::RLIMIT_CORE, core_max())],
        nice: 0,
        listen_pid: false,
        oom_score_adjust: text("0"),
        oom_score_wanted: false,
        shares_memory: true,
    }
}

fn core_max() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
    limit.maximum.unwrap_or(u64::MAX)
}

fn start(program: &Path) -> (Child, File) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let child = spawn(plan(program, write.as_fd())).unwrap();
    (child, read.into())
}

/// Waits for the end of the error pipe, or for a report, and gives its length.
fn told(child: &Child) -> usize {
    poll(&mut [PollFd::new(&child.error_pipe, PollFlags::IN)], None).unwrap();
    child.error_pipe.read(&mut [0; REPORT]).unwrap()
}

fn ended(child: &Child) -> ExitStatus {
    poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], None).unwrap();
    reap_one(child.pidfd.as_fd()).unwrap().unwrap()
}

fn said(mut output: File) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    text
}

/// A copy of the shell that nobody can execute before the lease is given up: opening it waits for that (fcntl(2),
/// `F_SETLEASE`).
struct Leased {
    path: PathBuf,
    lease: Option<File>,
}

impl Leased {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/init-test-{name}-{}", std::process::id()));
        std::fs::copy("/bin/sh", &path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let file = File::open(&path).unwrap();
        sys::lease(file.as_fd());
        let lease = Some(file);
        Self { path, lease }
    }

    /// Waits until somebody waits for the end of the lease.
    fn until_wanted(&self) {
        let file = self.lease.as_ref().unwrap();
        while !sys::is_wanted(file.as_fd()) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What this says that nobody executes.
fn as_nobody(script: &str) -> String {
    let mut shell = Command::new("/bin/sh");
    let output = shell.args(["-c", script]).uid(65534).output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_was_lent_comes_back_at_the_exec_or_at_the_end() {
    let (child, output) = start(Path::new("/bin/sh"));
    assert_eq!((sharing(), told(&child), sharing()), (1, 0, 0));
    assert_eq!(said(output), "argument value\n");
    assert_eq!(ended(&child), ExitStatus::Code(0));

    let (child, _) = start(Path::new("/no/such/program"));
    // After its report it still has some steps to go.
    assert_eq!((told(&child), sharing()), (REPORT, 1));
    assert_eq!((ended(&child), sharing()), (ExitStatus::Code(127), 0));
    // Its number may be another's by now.
    assert_eq!(child.error_pipe.read(&mut [0; REPORT]), Ok(0));
}

#[test]
fn who_is_stuck_before_its_program_hinders_nobody_and_keeps_what_it_was_lent() {
    let mut leased = Leased::new("stuck");
    let (stuck, output) = start(&leased.path);
    leased.until_wanted();
    for _ in 0..20 {
        let (child, output) = start(Path::new("/bin/sh"));
        assert_eq!(told(&child), 0);
        assert_eq!(said(output), "argument value\n");
        assert_eq!((ended(&child), sharing()), (ExitStatus::Code(0), 1));
    }
    let mut report = [0; REPORT];
    let on_its_way = stuck.error_pipe.read(&mut report);
    assert_eq!(on_its_way, Err(rustix::io::Errno::AGAIN));
    leased.lease = None;
    assert_eq!((told(&stuck), sharing()), (0, 0));
    assert_eq!(said(output), "argument value\n");
    assert_eq!(ended(&stuck), ExitStatus::Code(0));
}

/// Before its exec the child has the service's user id already.
#[test]
fn whoever_has_the_user_id_of_a_child_gets_at_nothing_that_it_shares() {
    // Nobody shares where this is not 0, see `driver::sharing`.
    let suid_dumpable = std::fs::read_to_string("/proc/sys/fs/suid_dumpable").unwrap();
    let leased = Leased::new("traced");
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let child = spawn(ChildPlan {
        shares_memory: suid_dumpable == "0\n",
        ..plan(&leased.path, write.as_fd())
    });
    let child = child.unwrap();
    drop((read, write));
    leased.until_wanted();
    let pid = child.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = status.lines().find(|line| line.starts_with("Uid:"));
    assert_eq!(ids, Some("Uid:\t65534\t65534\t65534\t65534"));
    for script in [
        format!("exec 3< /proc/{pid}/mem"),
        format!("exec 3> /proc/{pid}/mem"),
        format!("exec 3< /proc/{pid}/environ"),
        format!("exec 3> /proc/{pid}/oom_score_adj"),
        format!("exec 3> /proc/{pid}/clear_refs"),
    ] {
        let error = as_nobody(&script);
        assert!(error.contains("Permission denied"), "{script}: {error}");
    }
    // Stopping and killing it is his right, and touches nobody else.
    assert_eq!(
        as_nobody(&format!(
            "kill -STOP {pid}; kill -SEGV {pid}; kill -CONT {pid}"
        )),
        ""
    );
    assert_eq!(ended(&child), ExitStatus::Signal(libc::SIGSEGV, false));
    assert_eq!(sharing(), 0);
}
