//! What belongs to one service for as long as the driver lives, and what is done with it.

use super::cgroup::{Cgroup, kill_leaf};
use super::held::Held;
use super::launch::{self, Kind, Launch, Progress};
use super::notify::NotifySocket;
use super::probe::Attempt;
use super::sharing::Sharing;
use super::unix_socket::Access;
use super::{Setup, Token};
use crate::config::ServiceType;
use crate::core::spawn::{Fault, SpawnFailure};
use crate::core::{ExitStatus, Id, Input, ProbeKind, Program};
use crate::event::{Event, EventSink};
use crate::event_limit::EventLimit;
use crate::poller::{Poller, Watched};
use crate::received::Source;
use crate::spec::{ProbeTarget, Spec};
use crate::sys::{Child, ErrorPipe};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

/// Where the notify sockets are, in the runtime folder.
pub(super) const NOTIFY_FOLDER: &str = "notify";

/// See the module.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) cgroup: Cgroup,
    /// Whether it is told when the cgroup becomes empty.
    tree_watched: bool,
    pub(super) launch: Launch,
    pub(super) notify: Watched<NotifySocket>,
    pub(super) held: Held,
    /// Says whether the child became its program, and if not, why.
    pub(super) error_pipe: Option<Watched<ErrorPipe>>,
    /// Why it did not, until its end is told.
    pub(super) not_executed: Option<SpawnFailure>,
    /// Of the main process. In the loop only if that may not be our child.
    pub(super) pidfd: Option<Watched<OwnedFd>>,
    pub(super) probes: [Option<Probing>; 3],
    /// Whether it was told of this instance that a stranger speaks for it.
    pub(super) stranger_told: bool,
    /// Of the events that follow from what it says.
    pub(super) event_limit: EventLimit,
}

/// A probe that is being asked.
#[derive(Debug)]
pub(super) enum Probing {
    /// Over a socket.
    Net(Watched<Attempt>),
    /// By a command.
    Command {
        attempt: u64,
        pid: i32,
        leaf: PathBuf,
        error_pipe: ErrorPipe,
    },
}

impl Probing {
    /// The process, if it is one.
    pub(super) fn pid(&self) -> Option<i32> {
        match self {
            Self::Command { pid, .. } => Some(*pid),
            Self::Net(_) => None,
        }
    }
}

impl Body {
    /// Makes what lasts, and has it watched.
    pub(super) fn new(
        id: Id,
        spec: &Spec,
        setup: &Setup,
        source: Source,
        sharing: Rc<Sharing>,
        poller: &Poller,
        sink: &mut dyn EventSink,
    ) -> io::Result<Self> {
        let identity = setup.users.identity(spec).map_err(io::Error::other)?;
        let cgroup = setup.cgroups.service(&spec.name)?;
        if let Some(fd) = cgroup.memory_events() {
            poller.add(fd, Token::of(Token::MEMORY, id), EventFlags::PRI)?;
        }
        let path = setup.runtime_dir.join(NOTIFY_FOLDER).join(&spec.name);
        let notify = NotifySocket::bind(&path, identity.uid, source.clone())?;
        let mut held = Held::new(
            &spec.sockets,
            spec.fd_store_max,
            Access {
                uid: identity.uid,
                gid: identity.gid,
                mode: spec.socket_mode,
            },
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
            notify: poller.watch(notify, Token::of(Token::NOTIFY, id), EventFlags::IN)?,
            launch: Launch::new(identity, source, sharing)?,
            cgroup,
            tree_watched: false,
            held,
            error_pipe: None,
            not_executed: None,
            pidfd: None,
            probes: [const { None }; 3],
            stranger_told: false,
            event_limit: EventLimit::default(),
        })
    }

    /// Reads the notify socket only while that has room for what comes.
    pub(super) fn listen_if_room(&mut self) {
        let interest = if self.notify.may_receive() {
            EventFlags::IN
        } else {
            EventFlags::empty()
        };
        let _ = self.notify.set_interest(interest);
    }

    /// Has it told, or not any more, when the cgroup becomes empty. Nobody wants to know that it is not empty any more,
    /// which it is told as well, so this is on only while its end is waited for.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub(super) fn watch_tree(&mut self, id: Id, poller: &Poller, watch: bool) -> io::Result<()> {
        let events = self.cgroup.events();
        match (self.tree_watched, watch) {
            (false, true) => poller.add(events, Token::of(Token::CGROUP, id), EventFlags::PRI)?,
            (true, false) => poller.forget(events),
            _ => {}
        }
        self.tree_watched = watch;
        Ok(())
    }

    /// Whether this pid, which the core has as that of the main process, is that of the child which was made for it
    /// and is not reaped: it needs no further proof of being the service's.
    pub(super) fn is_own_main(&self, main: i32, pid: i32) -> bool {
        main == pid && self.pidfd.as_ref().is_some_and(|pidfd| !pidfd.is_watched())
    }

    /// Makes a process of the service: the answer to `Spawn`.
    pub(super) fn spawn(
        &mut self,
        id: Id,
        spec: &Spec,
        program: Program,
        poller: &Poller,
    ) -> Input {
        match self.try_spawn(spec, program) {
            Ok(child) => {
                let mut error_pipe = poller.own(child.error_pipe, Token::of(Token::EXECUTED, id));
                // Of a service that speaks it is looked at when it does.
                if program == Program::Main && spec.kind != ServiceType::Notify {
                    // If this fails, its end still tells; only its readiness is seen no earlier.
                    let _ = error_pipe.set_interest(EventFlags::IN);
                }
                self.not_executed = None;
                self.pidfd = Some(poller.own(child.pidfd, Token::of(Token::MAIN, id)));
                self.error_pipe = Some(error_pipe);
                Input::Spawned(id, child.pid)
            }
            Err(failure) => Input::SpawnFailed(id, failure),
        }
    }

    fn try_spawn(&mut self, spec: &Spec, program: Program) -> Result<Child, SpawnFailure> {
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
    pub(super) fn executed(&mut self, spec: &Spec) -> bool {
        let Some(pipe) = &self.error_pipe else {
            return false;
        };
        let progress = launch::progress(pipe, &spec.environment_files);
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
        poller: &Poller,
    ) -> Result<(), String> {
        let net = |attempt| {
            let token = Token::of_probe(Token::PROBE, id, kind);
            poller
                .watch(attempt, token, EventFlags::OUT)
                .map(Probing::Net)
                .map_err(|e| format!("epoll: {}", io::Error::from(e)))
        };
        let target = spec.probe(kind).map(|probe| &probe.target);
        let probing = match target.ok_or("no such probe")? {
            ProbeTarget::Exec(command) => {
                let leaf = self.cgroup.fresh_probe_leaf();
                let (path, leaf) = leaf.map_err(|failure| failure.why)?;
                let started = self.launch.start(spec, command, Kind::Probe, leaf.as_fd());
                let child = started.map_err(|failure| failure.why)?;
                Probing::Command {
                    attempt,
                    pid: child.pid,
                    leaf: path,
                    error_pipe: child.error_pipe,
                }
            }
            ProbeTarget::Tcp(address) => net(Attempt::start(attempt, address, None)?)?,
            ProbeTarget::Http { address, path } => {
                net(Attempt::start(attempt, address, Some(path))?)?
            }
        };
        if let Some(slot) = self.probes.get_mut(kind as usize) {
            *slot = Some(probing);
        }
        Ok(())
    }

    /// Gives a probe up. A command is killed with all it started, and reaped as an orphan.
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
        spec: &Spec,
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
                    let result = match launch::progress(&error_pipe, &spec.environment_files) {
                        Progress::Failed(failure) => Err(failure.why),
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
