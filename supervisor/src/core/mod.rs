//! The deciding half: pure state machines, no clock, no I/O.
//!
//! [`Core::step`] takes the time and one [`Input`] and returns the [`Action`]s that follow.
//! The driver carries them out in order and feeds back what happens. Called with
//! [`Input::Timer`] it does what is due; [`Core::deadline`] says when that is next.
//!
//! [`machine`] tells the states of one service, [`table`] shows what it does in each about each thing
//! that can happen. This module holds what concerns the set, and it is one rule, applied after
//! every step that moved something ([`Core::reconcile`]):
//!
//! * A service that is wanted and `stopped` starts when everything it `requires` is ready and everything
//!   it comes `after`, or `wants`, is ready or not awaited: it was ready once, it failed or is not wanted, or
//!   its first start came to nothing and its `start-timeout` has passed since. So a oneshot that succeeds
//!   at its restart is waited for, and an optional service that fails never holds up the boot for long.
//! * A service runs only while what it `requires` does. When one of those ends, for whatever reason, it
//!   is stopped, and, being wanted still, starts again when it can. A oneshot that has done its work stays
//!   as it is. What it `wants` may end.
//! * A service that waits for a required one that is *down* (failed, ended, stopped, unhealthy) is blocked, which
//!   is told at once as `service.blocked`; see [`outlook`] for who is down, and [`lost`] for what follows
//!   if boot health depends on it.
//! * Whoever is to go goes after those that require it; when everything is to go, after those that come
//!   after it, too. That is the reverse of the order of starting.
//!
//! A machine that stood still (a paused VM, a suspended host, a starved PID 1) comes back long after
//! deadlines have passed. That is nobody's failure: the time since the last step is given back to whatever
//! was being waited for, see [`observed`].

mod death;
mod ending;
mod explain;
mod graph;
mod heard;
mod lost;
pub mod machine;
pub mod observed;
mod outlook;
pub mod probe;
pub mod restart;
pub mod spawn;
pub mod table;
#[cfg(test)]
mod tests;
mod watchdog;

use crate::Time;
use crate::event::Event;
use crate::spec::Spec;
pub use death::{Cause, Death, ExitStatus};
use graph::Graph;
pub use machine::Machine;
use machine::Turn;
pub use observed::ObservedTime;
use outlook::Outlooks;
pub use probe::ProbeKind;
pub use spawn::SpawnFailure;
use std::collections::BTreeSet;
pub use table::State;
use table::Trigger;

/// A service, by its place in the list the core was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub usize);

/// What an instance consists of at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The check before the start with this place in the list.
    PreStart(usize),
    /// The service itself.
    Main,
}

/// The end of a process of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// The most memory that the instance used, if the kernel tells.
    pub memory_peak: Option<u64>,
}

/// What an operator asks of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// To run, with everything it requires or wants; one that failed is tried anew.
    Start,
    /// Not to run.
    Stop,
    /// To end and start again.
    Restart,
    /// To reload.
    Reload,
}

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed; do what is due.
    Timer,
    /// Begin: start whatever waits for nothing.
    Start,
    /// A milestone without a service was reached.
    Milestone(&'static str),
    /// An operator wants something of a service.
    Command(Id, Command),
    /// The process of `Spawn` was made; it may not have executed its program yet.
    Spawned(Id, i32),
    /// No process could be made, why, and whose fault that is.
    SpawnFailed(Id, SpawnFailure),
    /// The process of `Spawn` executes its program. For the main process, before its `Exited`, unless it
    /// never came that far.
    Executed(Id),
    /// The process ended.
    Exited(Id, Exit),
    /// No process is left in the cgroup of a service that is being stopped. Before its `Exited` this counts for
    /// nothing, and is told again after it.
    TreeGone(Id),
    /// The kernel killed a process of the service for want of memory. Before the `Exited` of a main
    /// process that was the victim.
    OutOfMemory(Id),
    /// Another process of the service is its main process now.
    MainMoved(Id, i32),
    /// A datagram of the service said this.
    Notify(Id, Notification),
    /// A probe was answered, or failed and why.
    Probe {
        /// The service.
        id: Id,
        /// Which of its probes.
        kind: ProbeKind,
        /// The attempt the answer belongs to; an answer to an older one counts for nothing.
        attempt: u64,
        /// The answer.
        result: Result<(), String>,
    },
    /// The service, which is a role of init, breaks the rules of its channel to init, and how: it is
    /// killed without grace, as it may be in a stranger's hands.
    Misbehaved(Id, String),
    /// The reboot that was asked for is not going to be.
    RebootRefused(Id),
    /// Stop everything, in reverse order, and start nothing any more.
    StopAll,
}

/// One assignment of an `sd_notify` datagram (systemd: `sd_notify(3)`) that concerns the states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// `READY=1`.
    Ready,
    /// `RELOADING=1`.
    Reloading,
    /// `STOPPING=1`.
    Stopping,
    /// `WATCHDOG=1`.
    Watchdog,
    /// `WATCHDOG=trigger`.
    WatchdogTrigger,
    /// `WATCHDOG_USEC=...`.
    WatchdogInterval(Time),
    /// `STATUS=...`.
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=...`.
    ExtendTimeout(Time),
}

/// Something the driver has to do.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Action {
    /// Make a process of the service. Answered by `Spawned` or `SpawnFailed`, before any other input.
    Spawn(Id, Program),
    /// Send a signal to the main process.
    Signal(Id, i32),
    /// Send a signal to every process in the service's cgroup. Answered by `TreeGone` if there is none,
    /// or when the last is gone.
    SignalTree(Id, i32),
    /// Kill every process in the service's cgroup. Answered by `TreeGone`.
    KillTree(Id),
    /// What is left in the cgroup could not be killed and is not waited for any more.
    Abandon(Id),
    /// The service is to be down: what it left with init is of no use any more.
    DropStored(Id),
    /// Ask. Answered by `Probe` with the same attempt, unless cancelled.
    Probe {
        /// The service.
        id: Id,
        /// Which of its probes.
        kind: ProbeKind,
        /// To be given back with the answer.
        attempt: u64,
    },
    /// Give a probe up; no answer is wanted.
    CancelProbe(Id, ProbeKind),
    /// Tell.
    Emit(Event),
    /// The service is lost (see `lost.rs`) and its law says reboot. Answered by `RebootRefused` or by
    /// `StopAll`.
    Reboot {
        /// The service.
        id: Id,
        /// What became of it, as what follows its name in a sentence.
        why: String,
    },
    /// The same of one whose law says that the machine stays up, degraded. Only of a required service.
    Degraded {
        /// The service.
        id: Id,
        /// What became of it, as what follows its name in a sentence.
        why: String,
    },
    /// After `StopAll`: nothing runs any more.
    AllStopped,
}

/// What a stopped service waits for.
#[derive(Clone, Copy, Debug)]
enum Missing {
    /// A milestone of this name.
    Milestone(&'static str),
    /// Another service.
    Service(Id),
    /// The end of another service.
    EndOf(Id),
}

/// All services of the machine.
#[derive(Debug)]
pub struct Core {
    machines: Vec<Machine>,
    graph: Graph,
    milestones: BTreeSet<&'static str>,
    started: bool,
    stopping: bool,
    all_stopped: bool,
    random: restart::Random,
    time: ObservedTime,
    deadline: Option<Time>,
}

impl Core {
    /// A core for these services, none of them started. `seed` feeds the jitter of restarts.
    ///
    /// The names in `after` and `requires` must have passed [`crate::spec::check_order`]: a name
    /// that nobody has is waited for in vain.
    #[must_use]
    pub fn new(specs: Vec<Spec>, seed: u64) -> Self {
        Self {
            graph: Graph::new(&specs),
            machines: specs
                .into_iter()
                .enumerate()
                .map(|(i, spec)| Machine::new(Id(i), spec))
                .collect(),
            milestones: BTreeSet::new(),
            started: false,
            stopping: false,
            all_stopped: false,
            random: restart::Random::new(seed),
            time: ObservedTime::default(),
            deadline: None,
        }
    }

    /// The services in the order of their ids.
    #[must_use]
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// A service by its name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Id> {
        let place = self.machines.iter().position(|m| m.spec.name == name);
        place.map(Id)
    }

    /// Whether the machine is healthy: its services were started, and every one that boot health depends
    /// on is healthy. Where it depends on none, the start is enough. There is no other rule of health.
    #[must_use]
    pub fn required_healthy(&self) -> bool {
        let mut required = self.machines.iter().filter(|m| m.spec.required);
        self.started && required.all(|m| m.state == State::Healthy)
    }

    /// All the time in which nobody could be judged, so far.
    #[must_use]
    pub fn unobserved(&self) -> Time {
        self.time.unobserved()
    }

    /// When the next [`Input::Timer`] is due, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// Takes one input and says what follows from it, in the order to do it.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.mind_the_gap(now, &mut actions);
        let before = self.moves();
        let whole = matches!(
            input,
            Input::Start | Input::Milestone(_) | Input::Command(..) | Input::StopAll
        );
        self.take(now, input, &mut actions);
        if whole || self.moves() != before {
            self.reconcile(now, &mut actions);
        }
        self.deadline = self.machines.iter().filter_map(Machine::deadline).min();
        self.time.wait_until(self.deadline);
        actions
    }

    fn take(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Timer => self.each(now, actions, Machine::timer),
            Input::Start => self.started = true,
            Input::Milestone(name) => {
                self.milestones.insert(name);
            }
            Input::StopAll => {
                self.stopping = true;
                self.each(now, actions, Machine::shut);
            }
            Input::Command(id, command) => self.command(now, id, command, actions),
            Input::Spawned(id, pid) => self.on(now, id, actions, |m, t| m.spawned(pid, t)),
            Input::SpawnFailed(id, why) => {
                self.on(now, id, actions, |m, t| m.spawn_failed(why, t));
            }
            Input::Executed(id) => self.on(now, id, actions, Machine::executed),
            Input::Exited(id, exit) => self.on(now, id, actions, |m, t| m.exited(exit, t)),
            Input::TreeGone(id) => self.on(now, id, actions, Machine::tree_gone),
            Input::OutOfMemory(id) => self.on(now, id, actions, Machine::out_of_memory),
            Input::MainMoved(id, pid) => self.on(now, id, actions, |m, t| m.main_moved(pid, t)),
            Input::Notify(id, what) => self.on(now, id, actions, |m, t| m.notified(what, t)),
            Input::Probe {
                id,
                kind,
                attempt,
                result,
            } => self.on(now, id, actions, |m, t| m.probed(kind, attempt, result, t)),
            Input::Misbehaved(id, how) => self.on(now, id, actions, |m, t| m.misbehaved(how, t)),
            Input::RebootRefused(id) => self.on(now, id, actions, Machine::schedule_retry),
        }
    }

    fn on(
        &mut self,
        now: Time,
        id: Id,
        actions: &mut Vec<Action>,
        act: impl FnOnce(&mut Machine, &mut Turn<'_>),
    ) {
        let random = &mut self.random;
        if let Some(machine) = self.machines.get_mut(id.0) {
            act(
                machine,
                &mut Turn {
                    now,
                    random,
                    actions,
                },
            );
        }
    }

    fn each(
        &mut self,
        now: Time,
        actions: &mut Vec<Action>,
        act: impl Fn(&mut Machine, &mut Turn<'_>),
    ) {
        for place in 0..self.machines.len() {
            self.on(now, Id(place), actions, &act);
        }
    }

    /// Gives back the time in which nobody could be judged.
    fn mind_the_gap(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(gap) = self.time.look(now) else {
            return;
        };
        actions.push(Action::Emit(observed::gap_event(gap)));
        for machine in &mut self.machines {
            machine.forgive(gap);
        }
    }

    fn command(&mut self, now: Time, id: Id, command: Command, actions: &mut Vec<Action>) {
        match command {
            Command::Start => {
                for id in self.graph.with_requirements(id) {
                    self.want(now, id, actions);
                }
            }
            Command::Stop => {
                if let Some(machine) = self.machines.get_mut(id.0) {
                    let rested = machine.state == State::Stopped && !machine.wanted;
                    (machine.wanted, machine.done) = (false, false);
                    if machine.state.is_live() {
                        machine.leave = Some(Cause::Requested);
                    } else if !rested {
                        self.on(now, id, actions, |m, t| m.react(Trigger::Stop, None, t));
                    }
                }
            }
            Command::Restart => {
                for id in self.graph.with_requirements(id) {
                    self.want(now, id, actions);
                }
                if let Some(machine) = self.machines.get_mut(id.0)
                    && machine.state.is_live()
                {
                    machine.leave = Some(Cause::Requested);
                }
            }
            Command::Reload => self.on(now, id, actions, Machine::reload),
        }
    }

    /// An operator wants it to run: that clears what the law holds against it.
    fn want(&mut self, now: Time, id: Id, actions: &mut Vec<Action>) {
        self.on(now, id, actions, |machine, turn| {
            (machine.wanted, machine.done) = (true, false);
            if matches!(machine.state, State::Backoff | State::Failed) {
                machine.restarts.forget();
                machine.react(Trigger::Start, None, turn);
            }
        });
    }

    /// How often anything happened that the others look at: a service came into a state, or is not awaited
    /// any more.
    fn moves(&self) -> u64 {
        let moves = |m: &Machine| m.entered.iter().sum::<u64>() + u64::from(m.tried);
        self.machines.iter().map(moves).sum()
    }

    /// Brings the set into order; see the module. Every round moves at least one service along a
    /// graph without cycles, so the rounds end.
    fn reconcile(&mut self, now: Time, actions: &mut Vec<Action>) {
        loop {
            let mut moved = false;
            self.see_who_must_go();
            let mut outlooks = self.outlooks();
            for place in 0..self.machines.len() {
                if let Some(cause) = self.may_go(Id(place)) {
                    self.on(now, Id(place), actions, |m, t| {
                        m.react(Trigger::Stop, Some(cause), t);
                    });
                    moved = true;
                    outlooks = self.outlooks();
                }
                if self.may_start(Id(place), &outlooks) {
                    self.on(now, Id(place), actions, |m, t| {
                        m.react(Trigger::Start, None, t);
                    });
                    moved = true;
                    outlooks = self.outlooks();
                }
            }
            if !moved {
                break;
            }
        }
        self.see_who_is_blocked(now, actions);
        if self.stopping && !self.all_stopped && !self.machines.iter().any(Machine::is_running) {
            self.all_stopped = true;
            actions.push(Action::AllStopped);
        }
    }

    /// Tells of every service that came to be blocked by what it requires, and bounds how long.
    fn see_who_is_blocked(&mut self, now: Time, actions: &mut Vec<Action>) {
        let outlooks = self.outlooks();
        for place in 0..self.machines.len() {
            let blocked = self.blocked(Id(place), &outlooks);
            let blocked = blocked.filter(|_| self.started && !self.stopping);
            self.on(now, Id(place), actions, |m, t| m.set_blocked(blocked, t));
        }
    }

    /// Marks every service that cannot stay: everything is to stop, something it requires is not
    /// there, or something it requires is waiting for it to go.
    fn see_who_must_go(&mut self) {
        // From those that are required to those that require: one pass sees a whole chain.
        for id in self.graph.order().iter().copied() {
            let Some(machine) = self.machines.get(id.0) else {
                continue;
            };
            if machine.leave.is_some() || !machine.state.is_live() {
                continue;
            }
            // What a finished oneshot has done stays done when what it required goes.
            let requires = self.graph.requires(id).iter();
            let mut requires = requires.filter(|_| !machine.is_finished());
            let gone = requires.find_map(|required| {
                let required = self.machines.get(required.0)?;
                let stays = required.is_provided() && required.leave.is_none();
                (!stays).then(|| required.spec.name.clone())
            });
            let cause = match gone {
                _ if self.stopping => Some(Cause::Requested),
                Some(name) => Some(Cause::Dependency(name)),
                None => None,
            };
            if let (Some(cause), Some(machine)) = (cause, self.machines.get_mut(id.0)) {
                machine.leave = Some(cause);
            }
        }
    }

    /// Why a service goes now, if it has to and nobody is in the way.
    fn may_go(&self, id: Id) -> Option<Cause> {
        let machine = self.machines.get(id.0)?;
        let cause = machine.leave.clone().filter(|_| machine.state.is_live())?;
        let may = if self.stopping {
            let followers = self.graph.followers(id).iter();
            let mut followers = followers.filter_map(|f| self.machines.get(f.0));
            !followers.any(Machine::is_running)
        } else {
            let mut behind = self.graph.required_by(id).iter();
            behind.all(|other| self.is_still(*other))
        };
        may.then_some(cause)
    }

    fn may_start(&self, id: Id, outlooks: &Outlooks) -> bool {
        let Some(machine) = self.machines.get(id.0) else {
            return false;
        };
        self.started
            && !self.stopping
            && machine.state == State::Stopped
            && machine.wanted
            && self.missing(id, outlooks).is_none()
    }

    /// The first thing that a stopped service waits for before it starts.
    fn missing(&self, id: Id, outlooks: &Outlooks) -> Option<Missing> {
        let machine = self.machines.get(id.0)?;
        let milestones = self.graph.milestones(id).iter();
        let mut milestones = milestones.filter(|m| !self.milestones.contains(**m));
        let required = self.graph.requires(id).iter();
        let required = required.filter(|r| !self.machines.get(r.0).is_some_and(Machine::is_ready));
        let before = self.graph.after(id).iter();
        let before = before.filter(|a| outlooks.is_awaited(**a));
        let behind = self.graph.required_by(id).iter();
        let mut behind = behind.filter(|b| machine.clean && !self.is_still(**b));
        let milestone = milestones.next().map(|name| Missing::Milestone(name));
        let service = || {
            required
                .chain(before)
                .next()
                .map(|id| Missing::Service(*id))
        };
        let end = || behind.next().map(|id| Missing::EndOf(*id));
        milestone.or_else(service).or_else(end)
    }

    /// Whether nothing of a service runs that the end of what it requires could harm.
    fn is_still(&self, id: Id) -> bool {
        let machine = self.machines.get(id.0);
        machine.is_none_or(|m| !m.is_running() || m.is_finished())
    }
}
