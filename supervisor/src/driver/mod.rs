//! The doing half: carries the core's actions out and feeds back what happens.
//!
//! The driver has no loop of its own. PID 1 has one epoll for everything ([`Poller`]); the driver registers
//! its descriptors there under [`Token`]s of its own range, and is called with those that are
//! ready ([`Driver::ready`]), with every reaped child ([`Driver::reaped`]) and when its deadline has
//! come ([`Driver::timer`]). None of the calls blocks.
//!
//! What it cannot settle itself (a reboot, everything stopped) is left in [`Driver::outcome`].

mod body;
mod cgroup;
mod held;
pub mod helper;
mod launch;
mod limits;
mod notify;
mod probe;
mod sharing;
mod token;
mod unix_socket;
mod users;

pub use crate::sys::reap;
pub use cgroup::{Cgroup, CgroupParent};
pub use helper::Helper;
pub use launch::Launch;
pub use limits::raise_descriptor_limit;
pub use token::Token;
pub use users::{Identity, Users};

use crate::Time;
use crate::config::NotifySender;
use crate::core::{Action, Core, Exit, ExitStatus, Id, Input, Machine, ProbeKind, State};
use crate::event::{Event, EventSink};
use crate::event_limit;
use crate::poller::Poller;
use crate::received::{Closer, Source};
use crate::spec::Spec;
use crate::status::ServiceStatus;
use crate::sys;
use body::{Body, NOTIFY_FOLDER, Probing};
use notify::{Message, Said, Store};
use probe::Progress;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::Signal;
use sharing::Sharing;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

/// What the owner of the loop has to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A service does not come back by its own law, and what follows is a reboot.
    Reboot {
        /// The culprit.
        service: String,
        /// What became of it, as what follows its name in a sentence.
        why: String,
    },
    /// The same, and what follows is that the machine stays up and tells.
    Degraded {
        /// The culprit.
        service: String,
        /// What became of it, as what follows its name in a sentence.
        why: String,
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

/// See the module.
#[derive(Debug)]
pub struct Driver {
    core: Core,
    poller: Poller,
    bodies: Vec<Body>,
    closer: Closer,
    inputs: VecDeque<Input>,
    outcomes: VecDeque<Outcome>,
    orphans: u64,
}

impl Driver {
    /// Makes everything that lasts: cgroups, notify sockets, output pipes, listening sockets. Starts
    /// nothing.
    ///
    /// # Errors
    /// Names the service and what could not be made.
    pub fn new(
        specs: Vec<Spec>,
        setup: &Setup,
        poller: &Poller,
        sink: &mut dyn EventSink,
    ) -> io::Result<Self> {
        let sockets = setup.runtime_dir.join(NOTIFY_FOLDER);
        std::fs::create_dir_all(&sockets)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", sockets.display())))?;
        let closer = Closer::new(limits::received_max(&specs))?;
        let sharing = Rc::new(Sharing::new(&setup.cgroups));
        let mut bodies = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            let (source, sharing) = (closer.source(), Rc::clone(&sharing));
            let body = Body::new(Id(index), spec, setup, source, sharing, poller, sink)
                .map_err(|e| io::Error::new(e.kind(), format!("service {}: {e}", spec.name)))?;
            bodies.push(body);
        }
        Ok(Self {
            core: Core::new(specs, setup.seed),
            poller: poller.clone(),
            bodies,
            closer,
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

    /// Everything there is to tell about the services, or about one.
    #[must_use]
    pub fn status(&self, only: Option<Id>, now: Time) -> Vec<ServiceStatus> {
        let mut all = match only {
            Some(id) => self.core.status_of(id, now).into_iter().collect(),
            None => self.core.status(now),
        };
        for status in &mut all {
            let body = self.core.find(&status.name);
            if let Some(body) = body.and_then(|id| self.bodies.get(id.0)) {
                status.resources = body.cgroup.resources();
                status.stored_fds = body.held.stored();
            }
        }
        all
    }

    /// The read end of what a service writes to its standard output and error.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let id = self.core.find(name)?;
        self.bodies.get(id.0).map(|b| b.launch.output())
    }

    /// Gives a service a further descriptor, from its next start on; returns its number there.
    pub fn pass(&mut self, name: &str, fd: OwnedFd) -> Option<i32> {
        let id = self.core.find(name)?;
        self.bodies.get_mut(id.0).map(|b| b.launch.pass(fd))
    }

    /// Removes the services' cgroups, as far as they are empty, after everything was stopped.
    pub fn remove_cgroups(&mut self) {
        for body in &mut self.bodies {
            body.cgroup.remove();
        }
    }

    /// Something for the owner of the loop, if there is.
    pub fn outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// When [`Driver::timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let limits = self.bodies.iter().map(|body| body.event_limit.deadline());
        let dues = [self.core.deadline(), self.closer.deadline()];
        dues.into_iter().chain(limits).flatten().min()
    }

    /// Somebody else who may send descriptors to this process.
    #[must_use]
    pub fn source(&self) -> Source {
        self.closer.source()
    }

    /// Has closed what was received and dropped, and reads on of those who had sent too much. To be called
    /// before each wait.
    pub fn close_received(&mut self, now: Time) {
        self.closer.run(now);
        for body in &mut self.bodies {
            body.listen_if_room();
        }
    }

    /// Does what is due.
    pub fn timer(&mut self, now: Time, sink: &mut dyn EventSink) {
        self.settle_suppressed(now, sink);
        self.feed(now, Input::Timer, sink);
    }

    /// Feeds one input and everything that follows from it.
    pub fn feed(&mut self, now: Time, input: Input, sink: &mut dyn EventSink) {
        self.inputs.push_back(input);
        self.drain(now, sink);
    }

    /// A descriptor of the driver is ready.
    pub fn ready(&mut self, token: Token, now: Time, sink: &mut dyn EventSink) {
        let (id, kind) = token.parts();
        match token.kind {
            Token::NOTIFY => self.listen(id, now, sink),
            Token::CGROUP => self.look_at_tree(id, sink),
            Token::MEMORY => self.look_at_memory(id),
            Token::PROBE => self.go_on(id, kind),
            Token::MAIN => self.look_at_main(id),
            Token::EXECUTED => self.look_at_start(id),
            _ => {}
        }
        self.drain(now, sink);
    }

    /// Takes what the services said. To be called before children are reaped: a child that says
    /// something and ends can be told from a stranger as long as it is not.
    pub fn hear(&mut self, now: Time, sink: &mut dyn EventSink) {
        for place in 0..self.bodies.len() {
            self.listen(Id(place), now, sink);
        }
        self.drain(now, sink);
    }

    /// A child was reaped. Its standing in the services is looked up here, as pids are reused
    /// only after this.
    pub fn reaped(&mut self, pid: i32, status: ExitStatus, now: Time, sink: &mut dyn EventSink) {
        if self.closer.reaped(pid, now) {
            return;
        }
        let mut machines = self.core.machines().iter();
        if let Some(index) = machines.position(|m| m.pid() == Some(pid)) {
            self.main_ended(Id(index), status);
            // The tree may have been found empty before, when that counted for nothing.
            self.look_at_tree(Id(index), sink);
        } else if let Some((id, (kind, attempt, result))) = self
            .bodies
            .iter_mut()
            .zip(self.core.machines())
            .enumerate()
            .find_map(|(place, (body, machine))| {
                let answer = body.probe_ended(pid, &status, machine.spec())?;
                Some((Id(place), answer))
            })
        {
            self.inputs.push_back(Input::Probe {
                id,
                kind,
                attempt,
                result,
            });
        } else {
            self.orphans += 1;
        }
        self.drain(now, sink);
    }

    fn main_ended(&mut self, id: Id, status: ExitStatus) {
        // First, so that the end is told with its reason, and after the start.
        self.look_at_memory(id);
        self.look_at_start(id);
        let Some(body) = self.bodies.get_mut(id.0) else {
            return;
        };
        body.pidfd = None;
        body.error_pipe = None;
        let not_executed = body.not_executed.take();
        let exit = Exit {
            status: not_executed.map_or(status, ExitStatus::NotExecuted),
            memory_peak: body.cgroup.memory_peak(),
        };
        self.inputs.push_back(Input::Exited(id, exit));
    }

    fn drain(&mut self, now: Time, sink: &mut dyn EventSink) {
        while let Some(input) = self.inputs.pop_front() {
            let speaker = match &input {
                Input::Notify(id, _) | Input::MainMoved(id, _) | Input::OutOfMemory(id) => {
                    Some(*id)
                }
                _ => None,
            };
            for action in self.core.step(now, input) {
                if let Action::Spawn(id, _) = &action
                    && let Some(body) = self.bodies.get_mut(id.0)
                {
                    body.event_limit.renew(now);
                }
                match (action, speaker) {
                    (Action::Emit(event), Some(id)) => self.emit_heard(id, event, now, sink),
                    (action, _) => self.act(action, sink),
                }
            }
        }
    }

    fn act(&mut self, action: Action, sink: &mut dyn EventSink) {
        match action {
            Action::Emit(event) => sink.emit(event),
            Action::Spawn(id, program) => {
                let machine = self.core.machines().get(id.0);
                if let (Some(body), Some(machine)) = (self.bodies.get_mut(id.0), machine) {
                    let input = body.spawn(id, machine.spec(), program, &self.poller);
                    // Before anything else that waits: no input may concern a process that the
                    // core has not heard of.
                    self.inputs.push_front(input);
                }
            }
            Action::Signal(id, number) => {
                let body = self.bodies.get(id.0);
                if let (Some(pidfd), Some(signal)) = (
                    body.and_then(|b| b.pidfd.as_ref()),
                    Signal::from_named_raw(number),
                ) {
                    // ESRCH: it ended meanwhile, and its end is on the way to us.
                    let _ = rustix::process::pidfd_send_signal(pidfd.as_fd(), signal);
                }
            }
            Action::SignalTree(id, number) => {
                let body = self.bodies.get(id.0);
                if let (Some(body), Some(signal)) = (body, Signal::from_named_raw(number)) {
                    body.cgroup.signal(signal);
                }
                self.look_at_tree(id, sink);
            }
            Action::KillTree(id) => {
                if let Some(Err(e)) = self.bodies.get(id.0).map(|b| b.cgroup.kill()) {
                    self.warn(id, "kill", &e, sink);
                }
                self.look_at_tree(id, sink);
            }
            Action::Abandon(id) => {
                if let Some(body) = self.bodies.get_mut(id.0) {
                    body.cgroup.abandon();
                    body.pidfd = None;
                    body.error_pipe = None;
                }
            }
            Action::DropStored(id) => {
                if let Some(body) = self.bodies.get_mut(id.0) {
                    body.held.drop_stored();
                }
            }
            Action::Probe { id, kind, attempt } => self.ask(id, kind, attempt),
            Action::CancelProbe(id, kind) => {
                if let Some(Err(e)) = self.bodies.get_mut(id.0).map(|b| b.cancel(kind)) {
                    self.warn(id, "probe", &e, sink);
                }
            }
            Action::Reboot { id, why } => {
                let service = self.name(id).to_owned();
                self.outcomes.push_back(Outcome::Reboot { service, why });
            }
            Action::Degraded { id, why } => {
                let service = self.name(id).to_owned();
                self.outcomes.push_back(Outcome::Degraded { service, why });
            }
            Action::AllStopped => self.outcomes.push_back(Outcome::AllStopped),
        }
    }

    fn name(&self, id: Id) -> &str {
        let machine = self.core.machines().get(id.0);
        machine.map_or("", |m| &m.spec().name)
    }

    /// Tells that something about a service did not work.
    fn warn(&self, id: Id, what: &str, error: &dyn std::fmt::Display, sink: &mut dyn EventSink) {
        sink.emit(self.warning(id, what, error));
    }

    fn warning(&self, id: Id, what: &str, error: &dyn std::fmt::Display) -> Event {
        let event = Event::new("service.warning").with("service", self.name(id));
        event.with("what", what).with("error", error)
    }

    /// Tells what follows from the word of a service, as far as that may go on. What becomes of others by it, who
    /// have to stop for example, is always told.
    fn emit_heard(&mut self, id: Id, event: Event, now: Time, sink: &mut dyn EventSink) {
        let own = event.field("service") == Some(self.name(id));
        let body = self.bodies.get_mut(id.0);
        if !own || body.is_some_and(|body| body.event_limit.passes(now)) {
            sink.emit(event);
        }
    }

    /// Tells how many events were not told.
    fn settle_suppressed(&mut self, now: Time, sink: &mut dyn EventSink) {
        for place in 0..self.bodies.len() {
            let body = self.bodies.get_mut(place);
            let Some(count) = body.and_then(|body| body.event_limit.settle(now)) else {
                continue;
            };
            let event = Event::new("service.warning").with("service", self.name(Id(place)));
            let error = format!(
                "it is the cause of more events than are told: {} at once, then one in {} s",
                event_limit::BURST,
                event_limit::REFILL.as_secs()
            );
            let event = event.with("what", "notify").with("suppressed", count);
            sink.emit(event.with("error", error));
        }
    }

    /// Takes what one service said.
    fn listen(&mut self, id: Id, now: Time, sink: &mut dyn EventSink) {
        let Some(body) = self.bodies.get_mut(id.0) else {
            return;
        };
        let main = self.core.machines().get(id.0).and_then(Machine::main_pid);
        let own_main = |pid| main.is_some_and(|main| body.is_own_main(main, pid));
        let holds = |pid| match own_main(pid) {
            true => Some(true),
            false => body.cgroup.holds(pid),
        };
        let messages = body.notify.receive(holds);
        if !messages.is_empty() {
            self.look_at_start(id);
        }
        for message in messages {
            match message {
                Message::Said(said) => match self.refusal(id, said.sender) {
                    None => self.heard(id, said, now, sink),
                    Some(why) => self.refuse(id, &why, sink),
                },
                Message::Stranger(who) => self.refuse(id, &who, sink),
            }
        }
    }

    /// Tells, once an instance, that somebody is not heard.
    fn refuse(&mut self, id: Id, why: &str, sink: &mut dyn EventSink) {
        let told = self
            .bodies
            .get_mut(id.0)
            .is_none_or(|b| std::mem::replace(&mut b.stranger_told, true));
        if !told {
            self.warn(id, "notify", &why, sink);
        }
    }

    /// Why a process of the service may not speak for it, if it may not.
    fn refusal(&self, id: Id, pid: i32) -> Option<String> {
        let machine = self.core.machines().get(id.0)?;
        let probes = self.bodies.get(id.0)?.probes.iter().flatten();
        let mut probes = probes.filter_map(Probing::pid);
        let sender = if machine.main_pid() == Some(pid) {
            NotifySender::Main
        } else if machine.pid() == Some(pid) || probes.any(|probe| probe == pid) {
            NotifySender::Exec
        } else {
            NotifySender::Other
        };
        let access = machine.spec().notify_access;
        (!access.allows(sender)).then(|| {
            format!(
                "pid {pid} is of this service, but not heard with notify-access = {:?}",
                access.name()
            )
        })
    }

    fn heard(&mut self, id: Id, said: Said, now: Time, sink: &mut dyn EventSink) {
        let Said {
            notifications,
            main_pid,
            store,
            descriptors,
            sender: _,
        } = said;
        let notifications = notifications.into_iter();
        self.inputs
            .extend(notifications.map(|n| Input::Notify(id, n)));
        if let Some(Err(why)) = main_pid.map(|pid| self.move_main(id, pid)) {
            let warning = self.warning(id, "MAINPID", &why);
            self.emit_heard(id, warning, now, sink);
        }
        let Some(body) = self.bodies.get_mut(id.0) else {
            return;
        };
        match store {
            Some(Store::Add(name)) => {
                if let Err(why) = body.held.store(&name, descriptors) {
                    let warning = self.warning(id, "FDSTORE", &why);
                    self.emit_heard(id, warning, now, sink);
                }
            }
            Some(Store::Remove(name)) => body.held.remove(&name),
            None => {}
        }
    }

    /// The service says that another of its processes is the main one. It may have a parent that
    /// lives, and is then reaped by that and not by us; so its pidfd goes into the loop.
    fn move_main(&mut self, id: Id, pid: i32) -> Result<(), String> {
        match self.core.machines().get(id.0).and_then(Machine::main_pid) {
            Some(main) if main == pid => return Ok(()),
            Some(_) => {}
            // The pidfd is that of a check before the start, or of nobody.
            None => return Err("there is no main process".to_owned()),
        }
        let body = self.bodies.get_mut(id.0).ok_or("no such service")?;
        let process = rustix::process::Pid::from_raw(pid).ok_or("no pid")?;
        let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())
            .map_err(|e| format!("pid {pid}: {}", io::Error::from(e)))?;
        // After the pidfd is open, the pid can only be that process or nobody.
        if body.cgroup.holds(pid) != Some(true) {
            return Err(format!("pid {pid} is not of this service"));
        }
        let token = Token::of(Token::MAIN, id);
        let pidfd = self.poller.watch(pidfd, token, EventFlags::IN);
        body.pidfd = Some(pidfd.map_err(|e| e.to_string())?);
        self.inputs.push_back(Input::MainMoved(id, pid));
        Ok(())
    }

    /// A main process that may not be our child has ended.
    fn look_at_main(&mut self, id: Id) {
        let pidfd = self.bodies.get(id.0).and_then(|b| b.pidfd.as_ref());
        let Some(pidfd) = pidfd else { return };
        match sys::reap_one(pidfd.as_fd()) {
            Ok(None) => {}
            Ok(Some(status)) => self.main_ended(id, status),
            Err(_) => self.main_ended(id, ExitStatus::Unknown),
        }
    }

    /// Tells the core if the process executes its program.
    fn look_at_start(&mut self, id: Id) {
        let machine = self.core.machines().get(id.0);
        if let (Some(body), Some(machine)) = (self.bodies.get_mut(id.0), machine)
            && body.executed(machine.spec())
        {
            self.inputs.push_back(Input::Executed(id));
        }
    }

    fn look_at_memory(&mut self, id: Id) {
        let kills = self.bodies.get_mut(id.0).map(|b| b.cgroup.oom_kills());
        if kills.is_some_and(|kills| kills > 0) {
            self.inputs.push_back(Input::OutOfMemory(id));
        }
    }

    /// Tells the core if nothing is left of a service that is being taken away.
    fn look_at_tree(&mut self, id: Id, sink: &mut dyn EventSink) {
        let machine = self.core.machines().get(id.0);
        let stopping = machine.is_some_and(|m| m.state() == State::Stopping);
        let Some(body) = self.bodies.get_mut(id.0) else {
            return;
        };
        // Read before it is watched: what happens in between is reported then.
        let populated = body.cgroup.populated();
        let waits = stopping && !matches!(populated, Ok(false));
        let watched = body.watch_tree(id, &self.poller, waits);
        if !stopping {
            return;
        }
        match populated.and_then(|populated| watched.map(|()| populated)) {
            Ok(true) => {}
            Ok(false) => self.inputs.push_back(Input::TreeGone(id)),
            Err(e) => self.warn(id, "cgroup.events", &e, sink),
        }
    }

    fn ask(&mut self, id: Id, kind: ProbeKind, attempt: u64) {
        let machine = self.core.machines().get(id.0);
        let (Some(body), Some(machine)) = (self.bodies.get_mut(id.0), machine) else {
            return;
        };
        if let Err(why) = body.ask(id, kind, attempt, machine.spec(), &self.poller) {
            self.answer(id, kind, attempt, Err(why));
        }
    }

    fn answer(&mut self, id: Id, kind: ProbeKind, attempt: u64, result: Result<(), String>) {
        self.inputs.push_back(Input::Probe {
            id,
            kind,
            attempt,
            result,
        });
    }

    /// A probe's socket is ready.
    fn go_on(&mut self, id: Id, kind: ProbeKind) {
        let body = self.bodies.get_mut(id.0);
        let Some(slot) = body.and_then(|b| b.probes.get_mut(kind as usize)) else {
            return;
        };
        let Some(Probing::Net(attempt)) = slot.as_mut() else {
            return;
        };
        let flags = match attempt.step() {
            Progress::WaitWrite => EventFlags::OUT,
            Progress::WaitRead => EventFlags::IN,
            Progress::Done(result) => {
                let attempt = attempt.number;
                *slot = None;
                return self.answer(id, kind, attempt, result);
            }
        };
        let _ = attempt.set_interest(flags);
    }
}
