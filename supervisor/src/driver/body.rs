//! What belongs to one service for as long as the driver lives, and what is done with it.

use super::cgroup::{Cgroup, kill_leaf};
use super::held::Held;
use super::launch::{self, Kind, Launch, Progress};
use super::notify::NotifySocket;
use super::probe::Attempt;
use super::{Setup, Token};
use crate::core::spawn::{Fault, SpawnFailure};
use crate::core::{ExitStatus, Id, Input, ProbeKind, Program};
use crate::event::{Event, EventSink};
use crate::spec::{ProbeTarget, Spec};
use crate::sys;
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) cgroup: Cgroup,
    pub(super) launch: Launch,
    pub(super) notify: NotifySocket,
    pub(super) held: Held,
    /// Says whether the child became its program, and if not, why.
    pub(super) error_pipe: Option<OwnedFd>,
    /// Why it did not, until its end is told.
    pub(super) not_executed: Option<String>,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) probes: [Option<Probing>; 3],
    /// Whether it was told of this instance that a stranger speaks for it.
    pub(super) stranger_told: bool,
}

/// A probe that is being asked.
#[derive(Debug)]
pub(super) enum Probing {
    /// Over a socket.
    Net(Attempt),
    /// By a command.
    Command {
        attempt: u64,
        pid: i32,
        leaf: PathBuf,
        error_pipe: OwnedFd,
    },
}

impl Body {
    pub(super) fn new(
        spec: &Spec,
        setup: &Setup,
        sockets: &Path,
        sink: &mut dyn EventSink,
    ) -> io::Result<Self> {
        let identity = setup.users.identity(spec).map_err(io::Error::other)?;
        let cgroup = setup.cgroups.service(&spec.name)?;
        let mut held = Held::new(
            &spec.sockets,
            spec.fd_store_max,
            (identity.uid, identity.gid),
        );
        let limits = cgroup.limit(&spec.limits, setup.memory).into_iter();
        let limits = limits.map(|problem| ("limit", problem));
        let missing = held.open().err();
        let problems = limits.chain(missing.map(|failure| ("sockets", failure.why)));
        for (what, problem) in problems {
            let event = Event::new("service.warning").with("service", &spec.name);
            sink.emit(event.with("what", what).with("error", problem));
        }
        Ok(Self {
            notify: NotifySocket::bind(&sockets.join(&spec.name), identity.uid)?,
            launch: Launch::new(identity)?,
            cgroup,
            held,
            error_pipe: None,
            not_executed: None,
            pidfd: None,
            probes: [const { None }; 3],
            stranger_told: false,
        })
    }

    /// Puts what lasts into the loop.
    pub(super) fn watch(&self, id: Id, epoll: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let add = |fd, kind, flags| epoll::add(epoll, fd, Token::of(kind, id).data(), flags);
        add(self.notify.fd(), Token::NOTIFY, EventFlags::IN)?;
        add(self.cgroup.events(), Token::CGROUP, EventFlags::PRI)?;
        match self.cgroup.memory_events() {
            Some(fd) => add(fd, Token::MEMORY, EventFlags::PRI),
            None => Ok(()),
        }
    }

    /// Makes a process of the service: the answer to `Spawn`.
    pub(super) fn spawn(
        &mut self,
        id: Id,
        spec: &Spec,
        program: Program,
        epoll: BorrowedFd<'_>,
    ) -> Input {
        match self.try_spawn(spec, program) {
            Ok((sys::Child { pid, pidfd }, error_pipe)) => {
                if program == Program::Main {
                    // If this fails, its end still tells; only its readiness is seen no earlier.
                    let token = Token::of(Token::EXECUTED, id).data();
                    let _ = epoll::add(epoll, &error_pipe, token, EventFlags::IN);
                }
                self.not_executed = None;
                self.pidfd = Some(pidfd);
                self.error_pipe = Some(error_pipe);
                Input::Spawned(id, pid)
            }
            Err(failure) => Input::SpawnFailed(id, failure),
        }
    }

    fn try_spawn(
        &mut self,
        spec: &Spec,
        program: Program,
    ) -> Result<(sys::Child, OwnedFd), SpawnFailure> {
        let leaf = self.cgroup.fresh_leaf()?;
        let made = match program {
            Program::PreStart(number) => {
                let command = spec.pre_start.get(number).map_or(&[][..], Vec::as_slice);
                self.launch.start(spec, command, Kind::Check, leaf.as_fd())
            }
            Program::Main => {
                self.stranger_told = false;
                self.held.open()?;
                self.held.sift();
                let held: Vec<_> = self.held.all().collect();
                let kind = Kind::Main {
                    notify: self.notify.path(),
                    held: &held,
                    watchdog: spec.watchdog,
                };
                self.launch.start(spec, &spec.exec, kind, leaf.as_fd())
            }
        };
        made.map_err(|failure| match failure.fault {
            // clone3(2): `EAGAIN` may be the service's own limit, too (`pids.max`).
            Fault::Machine if self.cgroup.is_full() => SpawnFailure::of_the_service(failure.why),
            _ => failure,
        })
    }

    /// Whether the main process became its program, told once.
    pub(super) fn executed(&mut self) -> bool {
        let Some(pipe) = &self.error_pipe else {
            return false;
        };
        let progress = launch::progress(pipe.as_fd());
        if progress != Progress::OnItsWay {
            self.error_pipe = None;
        }
        if let Progress::Failed(why) = &progress {
            self.not_executed = Some(why.clone());
        }
        progress == Progress::Executed
    }

    /// Begins to ask. What goes on is found in the loop, or among the reaped.
    ///
    /// # Errors
    /// If not even that was possible.
    pub(super) fn ask(
        &mut self,
        id: Id,
        kind: ProbeKind,
        attempt: u64,
        spec: &Spec,
        epoll: BorrowedFd<'_>,
    ) -> Result<(), String> {
        let target = spec.probe(kind).map(|probe| &probe.target);
        let probing = match target.ok_or("no such probe")? {
            ProbeTarget::Exec(command) => {
                let leaf = self.cgroup.fresh_probe_leaf();
                let (path, leaf) = leaf.map_err(|failure| failure.why)?;
                let started = self.launch.start(spec, command, Kind::Probe, leaf.as_fd());
                let (child, error_pipe) = started.map_err(|failure| failure.why)?;
                Probing::Command {
                    attempt,
                    pid: child.pid,
                    leaf: path,
                    error_pipe,
                }
            }
            ProbeTarget::Tcp(address) => Probing::Net(Attempt::start(attempt, address, None)?),
            ProbeTarget::Http { address, path } => {
                Probing::Net(Attempt::start(attempt, address, Some(path))?)
            }
        };
        if let Probing::Net(attempt) = &probing {
            let token = Token::of_probe(Token::PROBE, id, kind).data();
            epoll::add(epoll, attempt.fd(), token, EventFlags::OUT)
                .map_err(|e| format!("epoll: {}", io::Error::from(e)))?;
        }
        if let Some(slot) = self.probes.get_mut(kind as usize) {
            *slot = Some(probing);
        }
        Ok(())
    }

    /// Gives a probe up. Closing a socket takes it out of the loop; a command is killed with all it
    /// started, and reaped as an orphan.
    pub(super) fn cancel(&mut self, kind: ProbeKind) -> io::Result<()> {
        let slot = self.probes.get_mut(kind as usize);
        match slot.and_then(Option::take) {
            Some(Probing::Command { leaf, .. }) => kill_leaf(&leaf),
            Some(Probing::Net(_)) | None => Ok(()),
        }
    }

    /// If the process is a probe of this service: which one, its attempt and its answer.
    pub(super) fn probe_ended(
        &mut self,
        ended: i32,
        status: &ExitStatus,
    ) -> Option<(ProbeKind, u64, Result<(), String>)> {
        for kind in ProbeKind::ALL {
            let slot = self.probes.get_mut(kind as usize)?;
            match slot.take() {
                Some(Probing::Command {
                    attempt,
                    pid,
                    leaf,
                    error_pipe,
                }) if pid == ended => {
                    // What it left running would be in the way of the next one.
                    let _ = kill_leaf(&leaf);
                    let result = match launch::progress(error_pipe.as_fd()) {
                        Progress::Failed(why) => Err(why),
                        _ if *status == ExitStatus::Code(0) => Ok(()),
                        _ => Err(status.to_string()),
                    };
                    return Some((kind, attempt, result));
                }
                other => *slot = other,
            }
        }
        None
    }
}
