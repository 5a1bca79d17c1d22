//! The deciding half: pure state machines, no clock, no I/O.
//!
//! [`Core::step`] takes the time and one [`Input`] and returns the [`Action`]s that follow.
//! The driver carries them out in order and feeds back what happens. Called with
//! [`Input::Timer`] it does what is due; [`Core::deadline`] says when that is next.
//!
//! [`machine`] holds the states of one service. This module holds what concerns the set:
//! who waits for whom at start, the reverse order at stop, and whether all required services
//! are healthy.

pub mod machine;
pub mod probe;
pub mod restart;
#[cfg(test)]
mod tests;

use crate::Time;
use crate::event::Event;
use crate::spec::{ProbeTarget, Spec};
pub use machine::{Cause, ExitStatus, Machine, State};
pub use probe::ProbeKind;
use std::collections::BTreeSet;

/// A service, by its place in the list the core was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub usize);

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed; do what is due.
    Timer,
    /// Begin: start whatever waits for nothing.
    Start,
    /// A milestone without a service was reached.
    Milestone(&'static str),
    /// The service's process was made; it may not have executed its program yet.
    Spawned(Id, i32),
    /// No process could be made, and why.
    SpawnFailed(Id, String),
    /// The main process ended.
    Exited(Id, ExitStatus),
    /// No process is left in the service's cgroup.
    TreeGone(Id),
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
    /// Stop everything, in reverse order, and start nothing any more.
    StopAll,
}

/// One assignment of an `sd_notify` datagram (systemd: `sd_notify(3)`).
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
    /// `STATUS=...`.
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=...`.
    ExtendTimeout(Time),
}

/// Something the driver has to do.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Action {
    /// Make the service's process. Answered by `Spawned` or `SpawnFailed`, before any other input.
    Spawn(Id),
    /// Send a signal to the main process.
    Signal(Id, i32),
    /// Kill every process in the service's cgroup. Answered by `TreeGone`.
    KillTree(Id),
    /// Ask. Answered by `Probe` with the same attempt, unless cancelled.
    Probe {
        /// The service.
        id: Id,
        /// Which of its probes.
        kind: ProbeKind,
        /// To be given back with the answer.
        attempt: u64,
        /// What to ask.
        target: ProbeTarget,
    },
    /// Give a probe up; no answer is wanted.
    CancelProbe(Id, ProbeKind),
    /// Tell.
    Emit(Event),
    /// The service used up its restarts and its law says reboot.
    Reboot(Id),
    /// After `StopAll`: nothing runs any more.
    AllStopped,
}

/// All services of the machine.
#[derive(Debug)]
pub struct Core {
    machines: Vec<Machine>,
    milestones: BTreeSet<&'static str>,
    started: bool,
    stopping: bool,
    all_stopped: bool,
    random: restart::Random,
}

impl Core {
    /// A core for these services, none of them started. `seed` feeds the jitter of restarts.
    ///
    /// The names in `after` and `requires` must have passed [`crate::spec::check_order`]: a
    /// service that waits for a name nobody has never starts.
    #[must_use]
    pub fn new(specs: Vec<Spec>, seed: u64) -> Self {
        Self {
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
        }
    }

    /// The services in the order of their ids.
    #[must_use]
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Whether every service that boot health depends on is healthy, and there is one.
    #[must_use]
    pub fn required_healthy(&self) -> bool {
        let mut required = self
            .machines
            .iter()
            .filter(|m| m.spec().required)
            .peekable();
        required.peek().is_some() && required.all(|m| m.state() == State::Healthy)
    }

    /// When the next [`Input::Timer`] is due, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.machines.iter().filter_map(Machine::deadline).min()
    }

    /// Takes one input and says what follows from it, in the order to do it.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Timer => {
                for machine in &mut self.machines {
                    machine.timer(now, &mut self.random, &mut actions);
                }
            }
            Input::Start => self.started = true,
            Input::Milestone(name) => {
                self.milestones.insert(name);
            }
            Input::StopAll => {
                self.stopping = true;
                for machine in &mut self.machines {
                    machine.forbid_start();
                }
            }
            Input::Spawned(id, pid) => self.on(id, |m, _| m.spawned(now, pid, &mut actions)),
            Input::SpawnFailed(id, why) => {
                self.on(id, |m, r| m.spawn_failed(now, why, r, &mut actions));
            }
            Input::Exited(id, status) => self.on(id, |m, _| m.exited(now, status, &mut actions)),
            Input::TreeGone(id) => self.on(id, |m, r| m.tree_gone(now, r, &mut actions)),
            Input::Notify(id, notification) => {
                self.on(id, |m, _| m.notified(now, notification, &mut actions));
            }
            Input::Probe {
                id,
                kind,
                attempt,
                result,
            } => {
                self.on(id, |m, _| {
                    m.probed(now, kind, attempt, result, &mut actions);
                });
            }
        }
        if self.stopping {
            self.stop_free(now, &mut actions);
        } else if self.started {
            self.start_free(now, &mut actions);
        }
        actions
    }

    fn on(&mut self, id: Id, act: impl FnOnce(&mut Machine, &mut restart::Random)) {
        if let Some(machine) = self.machines.get_mut(id.0) {
            act(machine, &mut self.random);
        }
    }

    /// Starts every service that was never started and whose predecessors are all there.
    fn start_free(&mut self, now: Time, actions: &mut Vec<Action>) {
        let ready: BTreeSet<String> = self
            .machines
            .iter()
            .filter(|m| m.is_ready())
            .map(|m| m.spec().name.clone())
            .collect();
        for machine in self
            .machines
            .iter_mut()
            .filter(|m| m.waits_for_first_start())
        {
            let spec = machine.spec();
            let there =
                |name: &String| self.milestones.contains(name.as_str()) || ready.contains(name);
            if spec.after.iter().chain(&spec.requires).all(there) {
                machine.start(now, actions);
            }
        }
    }

    /// Stops every running service that no running service comes after.
    fn stop_free(&mut self, now: Time, actions: &mut Vec<Action>) {
        let needed: BTreeSet<String> = self
            .machines
            .iter()
            .filter(|m| m.is_running())
            .flat_map(|m| m.spec().after.iter().chain(&m.spec().requires).cloned())
            .collect();
        for machine in self.machines.iter_mut().filter(|m| m.is_running()) {
            if !needed.contains(&machine.spec().name) {
                machine.stop(now, Cause::Requested, actions);
            }
        }
        if !self.all_stopped && !self.machines.iter().any(Machine::is_running) {
            self.all_stopped = true;
            actions.push(Action::AllStopped);
        }
    }
}
