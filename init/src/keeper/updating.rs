//! An update that is being installed: a child process of the role `update`.
//!
//! It sends its events over a channel of its own and ends with a status that says how it went. It lives
//! in the slot daemon's cgroup, so it is gone when the daemon is stopped.
//!
//! It reads what the network sends, so it may be in a stranger's hands. What it tells is passed on as the daemon's
//! word, and PID 1 kills whoever tells too much. So the daemon holds the update to the same rules ([`Conduct`]):
//! what goes beyond its rate is not passed on, and one that floods is killed, before PID 1 has a reason to
//! blame the daemon.

use super::core::Ended;
use crate::manager::conduct::{Conduct, Judgement};
use crate::system::relay::{self, Received};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use supervisor::Time;
use supervisor::event::Event;

/// See the module.
#[derive(Debug)]
pub struct Update {
    child: Child,
    channel: OwnedFd,
    /// Whether it can say nothing more. It need not have ended then: a process that is ending closes its files one
    /// after the other, and closing a disk that hangs takes as long as the disk hangs.
    silent: bool,
    killed: bool,
    conduct: Conduct,
}

/// What was heard of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An event.
    Told(Event),
    /// Something that is not passed on.
    Dropped,
    /// It is to be killed, and why.
    Condemned(String),
    /// Nothing more for now.
    Nothing,
}

/// The end of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub ended: Ended,
    /// Why, if it had no chance to tell so itself.
    pub untold: Option<String>,
}

impl Update {
    /// Starts the update from `source`.
    ///
    /// # Errors
    /// If the kernel gives no socket or no process.
    pub fn start(source: &str, ca: Option<&str>) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("update");
        if let Some(ca) = ca {
            command.args(["--ca", ca]);
        }
        Self::spawn(command, &["--", source])
    }

    /// Starts this command, with `--events FD` and these last arguments.
    fn spawn(mut command: Command, last: &[&str]) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (channel, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
        command.args(["--events", &theirs.as_raw_fd().to_string()]);
        let child = command.args(last).spawn()?;
        Ok(Self {
            child,
            channel,
            silent: false,
            killed: false,
            conduct: Conduct::of_child(),
        })
    }

    /// What to wait for besides its end, which is a signal.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.silent).then(|| self.channel.as_fd())
    }

    /// The next that it tells.
    pub fn hear(&mut self, now: Time) -> Heard {
        match relay::receive(&self.channel, &["update."]) {
            Received::Message { bytes, event } => {
                judge(&mut self.conduct, &self.child, now, bytes, event)
            }
            Received::Nothing => Heard::Nothing,
            Received::End => {
                self.silent = true;
                Heard::Nothing
            }
        }
    }

    /// Whether it was [killed](Self::kill).
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.killed
    }

    /// Ends it, whatever it does: what it has written stays, and no entry is for half of it.
    pub fn kill(&mut self) {
        self.killed = true;
        // It can only be gone already.
        let _ = self.child.kill();
    }

    /// How it ended, if it has. What it said before its end can be heard afterwards.
    pub fn ended(&mut self) -> Option<End> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(end(status, self.killed)),
            Err(e) => Some(End {
                ended: Ended::Failed,
                untold: Some(format!("the update cannot be waited for: {e}")),
            }),
        }
    }
}

/// Judges a message of the update, which is the only sender on its channel.
fn judge(
    conduct: &mut Conduct,
    sender: &Child,
    now: Time,
    bytes: usize,
    event: Option<Event>,
) -> Heard {
    let pid = i32::try_from(sender.id()).unwrap_or(0);
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    match conduct.judge(now, pid, event.is_some(), bytes) {
        Judgement::Take => event.map_or(Heard::Dropped, Heard::Told),
        Judgement::Drop => Heard::Dropped,
        Judgement::Condemn(how) => Heard::Condemned(how),
    }
}

/// What the status of the role `update` says; see [`update::End::status`](crate::update::End::status).
fn end(status: ExitStatus, killed: bool) -> End {
    let (ended, untold) = match (status.code(), status.signal()) {
        (Some(0), _) => (Ended::Installed, None),
        (Some(3 | 4), _) => (Ended::Unchanged, None),
        (Some(5), _) => (Ended::Failed, None),
        // What it was called with is ours, and it tells nothing of that to the channel.
        (Some(2), _) => (
            Ended::Failed,
            Some("the update was called wrongly; `initctl logs slots` says how".to_owned()),
        ),
        (_, Some(libc::SIGALRM)) if !killed => (
            Ended::Failed,
            Some("its manifest and signature did not come within two minutes".to_owned()),
        ),
        (_, Some(signal)) if !killed => (
            Ended::Failed,
            Some(format!("the update was ended by signal {signal}")),
        ),
        _ => (Ended::Failed, None),
    };
    End { ended, untold }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn every_status_has_an_end_and_none_is_silent() {
        let told = |raw: i32, killed: bool| {
            let end = end(ExitStatus::from_raw(raw), killed);
            (end.ended, end.untold.is_some())
        };
        assert_eq!(told(0, false), (Ended::Installed, false));
        assert_eq!(told(2 << 8, false), (Ended::Failed, true));
        let why = || "why".to_owned();
        for (how, ended) in [
            (update::End::failed("why"), Ended::Failed),
            (update::End::Rejected(why()), Ended::Failed),
            (update::End::Refused(why()), Ended::Unchanged),
            (update::End::Nothing(why()), Ended::Unchanged),
        ] {
            let status = i32::from(how.status()) << 8;
            assert_eq!(told(status, false), (ended, false), "{how:?}");
        }
        assert_eq!(told(14, false), (Ended::Failed, true));
        // Whoever killed it has told so.
        assert_eq!(told(9, true), (Ended::Failed, false));
    }

    #[test]
    fn one_that_floods_is_condemned_once_and_little_of_it_is_passed_on() {
        for (event, most) in [(Some(Event::new("update.progress")), 300), (None, 0)] {
            let mut child = Command::new("/bin/true").spawn().unwrap();
            let mut conduct = Conduct::of_child();
            let (mut told, mut condemned) = (0, 0);
            for _ in 0..20_000 {
                match judge(
                    &mut conduct,
                    &child,
                    Time::from_secs(100),
                    100,
                    event.clone(),
                ) {
                    Heard::Told(_) => told += 1,
                    Heard::Dropped => {}
                    Heard::Condemned(_) => condemned += 1,
                    Heard::Nothing => panic!("a message was sent"),
                }
            }
            assert!(told <= most, "{told}");
            assert_eq!(condemned, 1);
            child.wait().unwrap();
        }
    }

    #[test]
    fn one_that_hangs_is_killed() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "while :; do read line <&3 || :; done"]);
        let mut update = Update::spawn(command, &[]).unwrap();
        assert_eq!(update.ended(), None);
        update.kill();
        update.child.wait().unwrap();
        let ended = Ended::Failed;
        let untold = None;
        assert_eq!(update.ended(), Some(End { ended, untold }));
    }
    #[test]
    fn one_that_says_no_more_and_does_not_end_is_not_listened_to() {
        let mut command = Command::new("bash");
        command.args(["-c", "eval \"exec $1<&-\"; kill -STOP $$"]);
        let mut update = Update::spawn(command, &[]).unwrap();
        // Were it for ever, the slot daemon would go round and round.
        while let Some(fd) = update.fd() {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            assert_eq!(update.hear(Time::ZERO), Heard::Nothing);
        }
        assert_eq!(update.ended(), None);
        update.kill();
        update.child.wait().unwrap();
        assert!(update.ended().is_some());
    }
}
