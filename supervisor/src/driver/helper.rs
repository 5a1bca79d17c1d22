//! A short-lived child of PID 1's own program, for what may hang: PID 1 must not.
//!
//! It executes the same program in another role, says how it went in one line on its standard output, and
//! ends. `ok` means that it did what it was asked; anything else is why not. PID 1 watches [`Helper::fd`] and
//! decides itself how long it waits. The child is reaped with all the others.

use super::launch::{self, Progress};
use crate::received::Source;
use crate::sys::{self, ChildPlan, ErrorPipe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use std::ffi::CString;
use std::io;

/// What a helper says when it did what it was asked.
pub const OK: &str = "ok";

/// More of an answer is not read.
const ANSWER_MAX: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Helper {
    pidfd: OwnedFd,
    answer: OwnedFd,
    error_pipe: ErrorPipe,
    text: Vec<u8>,
}

impl Helper {
    /// Starts this program with these arguments, as root. It is on its way when this returns. `source` knows of
    /// the descriptors of strangers.
    ///
    /// # Errors
    /// If the kernel makes no pipe or no process.
    pub fn start(source: &Source, arguments: &[&str]) -> io::Result<Self> {
        let (answer, their_answer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let words = ["init"].iter().chain(arguments);
        let plan = ChildPlan {
            program: c"/proc/self/exe".into(),
            arguments: words
                .map(|word| CString::new(*word))
                .collect::<Result<_, _>>()?,
            environment: Vec::new(),
            environment_files: Vec::new(),
            environment_defaults: Vec::new(),
            directory: c"/".into(),
            cgroup: None,
            descriptors: vec![
                (null.as_fd(), 0),
                (their_answer.as_fd(), 1),
                (null.as_fd(), 2),
            ],
            strangers: source.any_open(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            capabilities: u64::MAX,
            umask: 0o022,
            rlimits: vec![(libc::RLIMIT_CORE, 0)],
            nice: 0,
            listen_pid: false,
            oom_score_adjust: c"0".into(),
            oom_score_wanted: false,
            // There are a few in a boot.
            shares_memory: false,
        };
        let child = sys::spawn(plan).map_err(|(_, e)| e)?;
        Ok(Self {
            pidfd: child.pidfd,
            answer,
            error_pipe: child.error_pipe,
            text: Vec::new(),
        })
    }

    /// Readable when there is something to [read](Self::read). To be taken out of the loop before the
    /// helper is dropped: a child that is just being started may have a copy.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }

    /// Takes what it has said, without waiting. Gives the answer once it is whole.
    pub fn read(&mut self) -> Option<Result<(), String>> {
        let mut bytes = [0u8; ANSWER_MAX];
        let ended = match rustix::io::read(&self.answer, &mut bytes) {
            Ok(count) => {
                self.text
                    .extend_from_slice(bytes.get(..count).unwrap_or_default());
                count == 0
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
            Err(_) => true,
        };
        let line = self.text.split(|b| *b == b'\n').next().unwrap_or_default();
        let whole = line.len() < self.text.len();
        if !(whole || ended || self.text.len() >= ANSWER_MAX) {
            return None;
        }
        let said = String::from_utf8_lossy(line).into_owned();
        Some(match launch::progress(&self.error_pipe, &[]) {
            Progress::Failed(why) => Err(format!("the helper did not start: {why}")),
            _ if whole && said == OK => Ok(()),
            _ if said.is_empty() => Err("the helper ended without an answer".into()),
            _ => Err(said),
        })
    }

    /// Whether it has ended, also if nobody has reaped it yet.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Kills it. One that sleeps in the kernel ends when it wakes up.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
    use std::process::Command;

    #[test]
    fn one_has_ended_before_it_is_reaped_and_not_while_it_runs() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let (end, _) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let helper = Helper {
            pidfd,
            answer: end.try_clone().unwrap(),
            error_pipe: end.into(),
            text: Vec::new(),
        };
        assert!(!helper.has_ended());
        helper.kill();
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(helper.pidfd.as_fd()), ended).unwrap();
        assert!(helper.has_ended());
        child.wait().unwrap();
        assert!(helper.has_ended());
    }
}
