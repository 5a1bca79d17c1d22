//! The doing half: carries the core's actions out and feeds back what happens.
//!
//! The driver has no loop of its own. PID 1 has one epoll for everything; the driver registers
//! its descriptors there under [`Token`]s of its own range, and is called with those that are
//! ready ([`Driver::ready`]), with every reaped child ([`Driver::reaped`]) and when its deadline has
//! come ([`Driver::timer`]). None of the calls blocks.
//!
//! What it cannot settle itself (a reboot, everything stopped) is left in [`Driver::outcome`].

mod cgroup;
mod launch;
mod notify;
mod probe;
mod users;

pub use cgroup::{Cgroup, CgroupParent};
pub use launch::Launch;
pub use users::{Identity, Users};

use crate::Time;
use crate::core::{Action, Core, ExitStatus, Id, Input, ProbeKind, State};
use crate::event::{Event, EventSink};
use crate::spec::Spec;
use crate::sys;
use notify::NotifySocket;
use probe::{Attempt, Progress};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

/// What an epoll event of the loop belongs to: a kind and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Below [`Token::FOREIGN`] the driver's, from there on the loop owner's.
    pub kind: u8,
    /// What the kind makes of it.
    pub number: u32,
}

impl Token {
    /// The first kind that is not the driver's.
    pub const FOREIGN: u8 = 16;
    const NOTIFY: u8 = 1;
    const CGROUP: u8 = 2;
    const PROBE: u8 = 3;

    /// As epoll carries it.
    #[must_use]
    pub fn data(self) -> EventData {
        EventData::new_u64(u64::from(self.kind) << 32 | u64::from(self.number))
    }

    /// From what epoll carried.
    #[must_use]
    pub fn from_data(data: EventData) -> Self {
        let raw = data.u64();
        let byte = u8::try_from(raw >> 32 & 0xff).unwrap_or(0);
        Self {
            kind: byte,
            number: u32::try_from(raw & 0xffff_ffff).unwrap_or(0),
        }
    }

    fn of(kind: u8, id: Id, probe: ProbeKind) -> Self {
        // Services are counted in dozens; the number of one fits many times over.
        Self {
            kind,
            number: u32::try_from(id.0 * 4 + probe as usize).unwrap_or(u32::MAX),
        }
    }

    fn parts(self) -> (Id, ProbeKind) {
        let kind = match self.number % 4 {
            0 => ProbeKind::Startup,
            1 => ProbeKind::Readiness,
            _ => ProbeKind::Liveness,
        };
        (Id(self.number as usize / 4), kind)
    }
}

/// What the owner of the loop has to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A service used up its restarts and its law says reboot.
    Reboot {
        /// The culprit.
        service: String,
    },
    /// After a stop of everything: nothing runs any more.
    AllStopped,
}

/// Where things are, and what all services share.
#[derive(Debug)]
pub struct Setup {
    /// Below it each service has its cgroup.
    pub cgroups: CgroupParent,
    /// The notify sockets are in its folder `notify`.
    pub runtime_dir: PathBuf,
    /// The machine's memory, for limits given as a share.
    pub memory: u64,
    /// Users and groups by name.
    pub users: Users,
    /// Feeds the jitter of restarts.
    pub seed: u64,
}

/// What belongs to one service for as long as the driver lives.
#[derive(Debug)]
struct Body {
    cgroup: Cgroup,
    launch: Launch,
    notify: NotifySocket,
    /// Says why a child did not become its program; read when it ended.
    error_pipe: Option<OwnedFd>,
    pidfd: Option<OwnedFd>,
    probes: [Option<Attempt>; 3],
}

/// See the module.
#[derive(Debug)]
pub struct Driver {
    core: Core,
    bodies: Vec<Body>,
    inputs: VecDeque<Input>,
    outcomes: VecDeque<Outcome>,
    orphans: u64,
}

impl Driver {
    /// Makes everything that lasts: cgroups, notify sockets, output pipes. Starts nothing.
    ///
    /// # Errors
    /// Names the service and what could not be made.
    pub fn new(
        specs: Vec<Spec>,
        setup: &Setup,
        epoll: BorrowedFd<'_>,
        sink: &mut dyn EventSink,
    ) -> io::Result<Self> {
        let sockets = setup.runtime_dir.join("notify");
        std::fs::create_dir_all(&sockets)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", sockets.display())))?;
        let mut bodies = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            let body = Body::new(spec, setup, &sockets, sink)
                .map_err(|e| io::Error::new(e.kind(), format!("service {}: {e}", spec.name)))?;
            let token = |kind| Token::of(kind, Id(index), ProbeKind::Startup).data();
            epoll::add(
                epoll,
                body.notify.fd(),
                token(Token::NOTIFY),
                EventFlags::IN,
            )?;
            epoll::add(
                epoll,
                body.cgroup.events(),
                token(Token::CGROUP),
                EventFlags::PRI,
            )?;
            bodies.push(body);
        }
        Ok(Self {
            core: Core::new(specs, setup.seed),
            bodies,
            inputs: VecDeque::new(),
            outcomes: VecDeque::new(),
            orphans: 0,
        })
    }

    /// The deciding half, to look at.
    #[must_use]
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Children that were nobody's main process, reaped so far.
    #[must_use]
    pub fn orphans(&self) -> u64 {
        self.orphans
    }

    /// The read end of what a service writes to its standard output and error.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let index = self
            .core
            .machines()
            .iter()
            .position(|m| m.spec().name == name)?;
        self.bodies.get(index).map(|b| b.launch.output())
    }

    /// Gives a service a further descriptor, from its next start on; returns its number there.
    pub fn pass(&mut self, name: &str, fd: OwnedFd) -> Option<i32> {
        let index = self
            .core
            .machines()
            .iter()
            .position(|m| m.spec().name == name)?;
        self.bodies.get_mut(index).map(|b| b.launch.pass(fd))
    }

    /// Something for the owner of the loop, if there is.
    pub fn outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// When [`Driver::timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.core.deadline()
    }

    /// Does what is due.
    pub fn timer(&mut self, now: Time, epoll: BorrowedFd<'_>, sink: &mut dyn EventSink) {
        self.feed(now, Input::Timer, epoll, sink);
    }

    /// Feeds one input and everything that follows from it.
    pub fn feed(
        &mut self,
        now: Time,
        input: Input,
        epoll: BorrowedFd<'_>,
        sink: &mut dyn EventSink,
    ) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            for action in self.core.step(now, input) {
                self.act(action, epoll, sink);
            }
        }
    }

    /// A descriptor of the driver is ready.
    pub fn ready(
        &mut self,
        token: Token,
        now: Time,
        epoll: BorrowedFd<'_>,
        sink: &mut dyn EventSink,
    ) {
        let (id, kind) = token.parts();
        let Some(body) = self.bodies.get_mut(id.0) else {
            return;
        };
        match token.kind {
            Token::NOTIFY => {
                for notification in body.notify.receive() {
                    self.feed(now, Input::Notify(id, notification), epoll, sink);
                }
            }
            Token::CGROUP => self.look_at_tree(id, sink),
            Token::PROBE => self.go_on(id, kind, epoll),
            _ => {}
        }
        self.drain(now, epoll, sink);
    }

    /// A child was reaped. Its standing in the services is looked up here, as pids are reused
    /// only after this.
    pub fn reaped(
        &mut self,
        pid: i32,
        status: ExitStatus,
        now: Time,
        epoll: BorrowedFd<'_>,
        sink: &mut dyn EventSink,
    ) {
        let Some(index) = self
            .core
            .machines()
            .iter()
            .position(|m| m.pid() == Some(pid))
        else {
            self.orphans += 1;
            return;
        };
        let not_executed = self.bodies.get_mut(index).and_then(|b| {
            b.pidfd = None;
            b.error_pipe
                .take()
                .and_then(|pipe| launch::failure(pipe.as_fd()))
        });
        let status = not_executed.map_or(status, ExitStatus::NotExecuted);
        self.feed(now, Input::Exited(Id(index), status), epoll, sink);
    }

    fn drain(&mut self, now: Time, epoll: BorrowedFd<'_>, sink: &mut dyn EventSink) {
        while let Some(input) = self.inputs.pop_front() {
            self.feed(now, input, epoll, sink);
        }
    }

    fn act(&mut self, action: Action, epoll: BorrowedFd<'_>, sink: &mut dyn EventSink) {
        match action {
            Action::Emit(event) => sink.emit(event),
            Action::Spawn(id) => {
                let input = self.spawn(id);
                // Before anything else that waits: no input may concern a process that the core
                // has not heard of.
                self.inputs.push_front(input);
            }
            Action::Signal(id, number) => {
                let body = self.bodies.get(id.0);
                if let (Some(pidfd), Some(signal)) = (
                    body.and_then(|b| b.pidfd.as_ref()),
                    Signal::from_named_raw(number),
                ) {
                    // ESRCH: it ended meanwhile, and its end is on the way to us.
                    let _ = rustix::process::pidfd_send_signal(pidfd, signal);
                }
            }
            Action::KillTree(id) => {
                if let Some(Err(e)) = self.bodies.get(id.0).map(|b| b.cgroup.kill()) {
                    self.warn(id, "kill", &e, sink);
                }
                self.look_at_tree(id, sink);
            }
            Action::Probe {
                id,
                kind,
                attempt,
                target,
            } => self.ask(id, kind, attempt, &target, epoll),
            Action::CancelProbe(id, kind) => self.drop_probe(id, kind),
            Action::Reboot(id) => {
                let service = self
                    .core
                    .machines()
                    .get(id.0)
                    .map(|m| m.spec().name.clone())
                    .unwrap_or_default();
                self.outcomes.push_back(Outcome::Reboot { service });
            }
            Action::AllStopped => self.outcomes.push_back(Outcome::AllStopped),
        }
    }

    /// Tells that something about a service did not work.
    fn warn(&self, id: Id, what: &str, error: &io::Error, sink: &mut dyn EventSink) {
        let name = self
            .core
            .machines()
            .get(id.0)
            .map_or("", |m| &m.spec().name);
        let event = Event::new("service.warning").with("service", name);
        sink.emit(event.with("what", what).with("error", error));
    }

    fn spawn(&mut self, id: Id) -> Input {
        let (Some(body), Some(machine)) =
            (self.bodies.get_mut(id.0), self.core.machines().get(id.0))
        else {
            return Input::Timer;
        };
        let leaf = body.cgroup.fresh_leaf().map_err(|e| e.to_string());
        let started = leaf.and_then(|leaf| {
            let notify = body.notify.path();
            body.launch.start(machine.spec(), leaf.as_fd(), notify)
        });
        match started {
            Ok((sys::Child { pid, pidfd }, error_pipe)) => {
                body.pidfd = Some(pidfd);
                body.error_pipe = Some(error_pipe);
                Input::Spawned(id, pid)
            }
            Err(why) => Input::SpawnFailed(id, why),
        }
    }

    /// Tells the core if nothing is left of a service that is being taken away.
    fn look_at_tree(&mut self, id: Id, sink: &mut dyn EventSink) {
        let Some(body) = self.bodies.get(id.0) else {
            return;
        };
        if self
            .core
            .machines()
            .get(id.0)
            .is_none_or(|m| m.state() != State::Stopping)
        {
            // Read all the same: reading is what rearms the poll.
            let _ = body.cgroup.populated();
            return;
        }
        match body.cgroup.populated() {
            Ok(true) => {}
            Ok(false) => self.inputs.push_back(Input::TreeGone(id)),
            Err(e) => self.warn(id, "cgroup.events", &e, sink),
        }
    }

    fn ask(
        &mut self,
        id: Id,
        kind: ProbeKind,
        attempt: u64,
        target: &crate::spec::ProbeTarget,
        epoll: BorrowedFd<'_>,
    ) {
        let Some(slot) = self
            .bodies
            .get_mut(id.0)
            .and_then(|b| b.probes.get_mut(kind as usize))
        else {
            return;
        };
        let started = Attempt::start(attempt, target).and_then(|attempt| {
            let token = Token::of(Token::PROBE, id, kind).data();
            epoll::add(epoll, attempt.fd(), token, EventFlags::OUT)
                .map_err(|e| format!("epoll: {}", io::Error::from(e)))?;
            Ok(attempt)
        });
        match started {
            Ok(attempt) => *slot = Some(attempt),
            Err(why) => self.inputs.push_back(Input::Probe {
                id,
                kind,
                attempt,
                result: Err(why),
            }),
        }
    }

    fn go_on(&mut self, id: Id, kind: ProbeKind, epoll: BorrowedFd<'_>) {
        let Some(slot) = self
            .bodies
            .get_mut(id.0)
            .and_then(|b| b.probes.get_mut(kind as usize))
        else {
            return;
        };
        let Some(attempt) = slot.as_mut() else { return };
        let flags = match attempt.step() {
            Progress::WaitWrite => EventFlags::OUT,
            Progress::WaitRead => EventFlags::IN,
            Progress::Done(result) => {
                let attempt = attempt.number;
                // Closing the socket takes it out of epoll.
                *slot = None;
                self.inputs.push_back(Input::Probe {
                    id,
                    kind,
                    attempt,
                    result,
                });
                return;
            }
        };
        let _ = epoll::modify(
            epoll,
            attempt.fd(),
            Token::of(Token::PROBE, id, kind).data(),
            flags,
        );
    }

    fn drop_probe(&mut self, id: Id, kind: ProbeKind) {
        if let Some(slot) = self
            .bodies
            .get_mut(id.0)
            .and_then(|b| b.probes.get_mut(kind as usize))
        {
            *slot = None;
        }
    }
}

impl Body {
    fn new(
        spec: &Spec,
        setup: &Setup,
        sockets: &std::path::Path,
        sink: &mut dyn EventSink,
    ) -> io::Result<Self> {
        let identity = setup.users.identity(spec).map_err(io::Error::other)?;
        let cgroup = setup.cgroups.service(&spec.name)?;
        for problem in cgroup.limit(&spec.limits, setup.memory) {
            sink.emit(
                Event::new("service.warning")
                    .with("service", &spec.name)
                    .with("what", "limit")
                    .with("error", problem),
            );
        }
        Ok(Self {
            notify: NotifySocket::bind(&sockets.join(&spec.name), identity.uid)?,
            launch: Launch::new(identity)?,
            cgroup,
            error_pipe: None,
            pidfd: None,
            probes: [const { None }; 3],
        })
    }
}

/// Reaps one ended child, if there is one.
#[must_use]
pub fn reap() -> Option<(i32, ExitStatus)> {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get();
                if let Some(code) = status.exit_status() {
                    return Some((pid, ExitStatus::Code(code)));
                }
                if let Some(signal) = status.terminating_signal() {
                    // wait(2): bit 7 of the status tells of a core dump.
                    return Some((pid, ExitStatus::Signal(signal, status.as_raw() & 0x80 != 0)));
                }
                // Stopped or continued: not an end.
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}
