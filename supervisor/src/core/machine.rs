//! One service: its states, and what moves it from one to the next.
//!
//! ```text
//!             start               ready                 alive
//! Stopped ----------> Starting ---------> Ready ----------------> Healthy <--> Unhealthy
//!    ^  ^                |                  |                        |             |
//!    |  | delay over     |     end, timeout, probe, watchdog, stop request         |
//!    |  |                v                  v                        v             |
//!    |  +- Backoff <-- Stopping <-----------+------------------------+-------------+
//!    |                  |    |
//!    +------------------+    +--> Failed --> Stopped, after retry-after
//!      asked to, or done
//! ```
//!
//! * **Stopped**: nothing runs. A service that is *wanted* waits here for what it comes `after` and
//!   what it `requires`, and leaves as soon as that is there; there is no other way into Starting. If boot
//!   health depends on it, `start-timeout` bounds how long it waits for what is down.
//! * **Starting**: an instance is there, not ready yet: its `pre-start` checks run one after the other,
//!   then its main process. `start-timeout` bounds all of it.
//! * **Ready**: it said so (`notify`), its probe did (`probe`), or executing was enough (`exec`).
//!   It is not known to be healthy: its liveness probe has not succeeded yet.
//! * **Healthy**: the liveness probe succeeded. Without one, ready is healthy. A oneshot that
//!   ended with 0 stays here, without a process.
//! * **Unhealthy**: the readiness probe fails; the service is left alone and may come back. If boot health
//!   depends on it, the machine is told to be degraded after `start-timeout`.
//! * **Stopping**: the instance is being taken away. First the stop signal, to the main process or to
//!   the whole tree (`stop.mode`). When the main process is gone, by itself or not, the rest of the tree gets
//!   the signal unless it had it. After `stop.timeout`, counted from the beginning of the state, the tree
//!   is killed. The state ends when the main process is reaped *and* the cgroup is proven empty; only
//!   then may a successor start. If the kernel does not give a killed tree up within [`KILL_WAIT`], that
//!   is told and the course goes on.
//! * **Backoff**: the delay before a restart.
//! * **Failed**: it ended and the law has no restart for it. If its restarts were used up, or boot health
//!   depends on it, the level above decides ([`super::lost`]), and it is tried anew after `retry-after`,
//!   whatever that came to: on a machine that nobody can reach, no fault that time cures may be for ever.
//!
//! Which trigger does what in which state is the table in [`super::table`]; the reactions are here
//! and, as far as they end an instance, in [`super::ending`]; what a service says and answers is heard in
//! [`super::heard`]. Entering a state is one event, or none for a restart without delay, whose
//! `service.restart` says it, and it is counted.
//!
//! A service may ask for more time (`EXTEND_TIMEOUT_USEC=`) while it starts, stops or reloads, but not for
//! ever: all extensions together reach at most [`EXTEND_MAX`] times the configured bound.

use super::death::{Cause, Death, ExitStatus};
use super::outlook::Blocked;
use super::probe::{ProbeKind, Track};
use super::restart::{Random, Restarts};
use super::spawn::Deferral;
use super::table::{self, Reaction, STATES, State, Trigger};
use super::watchdog::Watchdog;
use super::{Action, Id, Program};
use crate::Time;
use crate::config::ServiceType;
use crate::event::Event;
use crate::spec::Spec;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a killed tree may take to be gone. A process in uninterruptible sleep can take
/// for ever; the machine must not wait with it.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// So many times its bound a service may stretch a start or a stop.
pub const EXTEND_MAX: u32 = 10;

/// What every reaction gets: the time, the generator, and where actions go.
pub(super) struct Turn<'a> {
    pub now: Time,
    pub random: &'a mut Random,
    pub actions: &'a mut Vec<Action>,
}

/// A bound of the present state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// When it is reached.
    pub(super) ends: Time,
    /// How far it can be put off.
    pub(super) furthest: Time,
}

/// The course of one service.
#[derive(Debug)]
pub struct Machine {
    pub(super) id: Id,
    pub(super) spec: Spec,
    pub(super) state: State,
    /// When it came into the state.
    pub(super) since: Time,
    pub(super) bound: Option<Bound>,
    /// Whether it is to run.
    pub(super) wanted: bool,
    /// Whether it is not to run because it ended with success, and is not restarted then.
    pub(super) done: bool,
    /// What keeps it from starting, while it waits.
    pub(super) blocked: Option<Blocked>,
    /// Why it has to go, while it waits for those that require it to go first.
    pub(super) leave: Option<Cause>,
    /// Waits, before it starts, until nothing that requires it runs: the group starts clean.
    pub(super) clean: bool,
    /// Whether nobody that comes after it waits for its first success any more.
    pub(super) tried: bool,
    /// When they stop waiting, after a first start that came to nothing.
    pub(super) await_ends: Option<Time>,
    /// What runs, from `Spawned` to `Exited`.
    pub(super) pid: Option<i32>,
    pub(super) program: Program,
    /// When the present instance was started.
    pub(super) started: Time,
    /// Since when the present instance has been healthy without a break.
    pub(super) healthy_since: Option<Time>,
    /// Whether the present instance has proven to be alive.
    pub(super) alive: bool,
    pub(super) watchdog: Watchdog,
    /// Until when a reload has to be over.
    pub(super) reload: Option<Bound>,
    /// Why the instance is being taken away, in `Stopping`.
    pub(super) cause: Option<Cause>,
    /// Whether the tree of the present instance was told to die.
    pub(super) killed: bool,
    /// Whether the whole of it was sent the stop signal.
    pub(super) tree_signalled: bool,
    /// What is known of the instance's end so far.
    pub(super) end: Ending,
    pub(super) probes: [Option<Track>; 3],
    pub(super) restarts: Restarts,
    /// Starts in a row that came to nothing by no fault of its own.
    pub(super) deferral: Option<Deferral>,
    /// Whether the group was restarted since this one was last healthy for long enough.
    pub(super) group_restarted: bool,
    pub(super) status: String,
    pub(super) deaths: VecDeque<Death>,
    /// How often it came into each state.
    pub(super) entered: [u64; STATES],
    pub(super) shut: bool,
}

/// What the death record of an instance is made of.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) pid: Option<i32>,
    pub(super) status: Option<ExitStatus>,
    pub(super) oom: bool,
    pub(super) memory_peak: Option<u64>,
}

impl Machine {
    pub(super) fn new(id: Id, spec: Spec) -> Self {
        let probes =
            [&spec.startup, &spec.readiness, &spec.liveness].map(|p| p.clone().map(Track::new));
        Self {
            id,
            watchdog: Watchdog::new(spec.watchdog),
            spec,
            state: State::Stopped,
            since: Time::ZERO,
            bound: None,
            wanted: true,
            done: false,
            blocked: None,
            leave: None,
            clean: false,
            tried: false,
            await_ends: None,
            pid: None,
            program: Program::Main,
            started: Time::ZERO,
            healthy_since: None,
            alive: false,
            reload: None,
            cause: None,
            killed: false,
            tree_signalled: false,
            end: Ending::default(),
            probes,
            restarts: Restarts::default(),
            deferral: None,
            group_restarted: false,
            status: String::new(),
            deaths: VecDeque::new(),
            entered: [0; STATES],
            shut: false,
        }
    }

    /// What it runs.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The process that it consists of at present: the main one, or a check before it.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Whether it is to run.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Its restarts since boot, by the law.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.total()
    }

    /// What it last said of itself by `STATUS=`.
    #[must_use]
    pub fn status_text(&self) -> &str {
        &self.status
    }

    /// How its last instances ended, the newest last.
    pub fn deaths(&self) -> impl Iterator<Item = &Death> {
        self.deaths.iter()
    }

    /// How often it came into a state.
    #[must_use]
    pub fn entered(&self, state: State) -> u64 {
        self.entered.get(state as usize).copied().unwrap_or(0)
    }

    /// Whether others that wait for it may start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready | State::Healthy) && self.leave.is_none()
    }

    /// Whether those that require it may go on running.
    #[must_use]
    pub fn is_provided(&self) -> bool {
        matches!(self.state, State::Ready | State::Healthy | State::Unhealthy)
    }

    /// Whether an instance is there, or still going away.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state.is_live() || self.state == State::Stopping
    }

    /// Whether a first start may still come to something by itself.
    pub(super) fn is_awaited(&self) -> bool {
        self.wanted && !self.tried && self.state != State::Failed
    }

    /// Whether it is a oneshot that has done its work: nothing of it is there that could be stopped, or
    /// harmed by the end of what it requires.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state == State::Healthy && self.pid.is_none()
    }

    /// The main process, once its checks are passed.
    #[must_use]
    pub fn main_pid(&self) -> Option<i32> {
        self.pid.filter(|_| self.program == Program::Main)
    }

    /// When its present state is over by itself, if that has a bound.
    #[must_use]
    pub fn bound(&self) -> Option<Time> {
        self.bound.map(|bound| bound.ends)
    }

    /// When [`Machine::timer`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let probes = self.probes.iter().flatten().filter_map(Track::deadline);
        let probes = probes.chain(self.await_ends);
        let bounds = [self.bound, self.reload].into_iter().flatten();
        probes
            .chain(bounds.map(|b| b.ends))
            .chain(self.watchdog.deadline())
            .min()
    }

    /// The machine stood still for so long, and that is not to be laid at the service's door.
    pub(super) fn forgive(&mut self, gap: Time) {
        // The delay before a restart and the time until a retry may as well pass in a pause.
        let moves = !matches!(self.state, State::Backoff | State::Failed);
        let bound = self.bound.as_mut().filter(|_| moves);
        for bound in bound.into_iter().chain(self.reload.as_mut()) {
            bound.ends += gap;
            bound.furthest += gap;
        }
        self.await_ends = self.await_ends.map(|ends| ends + gap);
        self.watchdog.forgive(gap);
        if let Some(deferral) = &mut self.deferral {
            deferral.since += gap;
        }
        self.healthy_since = self.healthy_since.map(|since| since + gap);
        for track in self.probes.iter_mut().flatten() {
            track.forgive(gap);
        }
    }

    /// Does what the table says.
    pub(super) fn react(&mut self, trigger: Trigger, cause: Option<Cause>, turn: &mut Turn<'_>) {
        match table::reaction(self.state, trigger) {
            Reaction::Nothing => {}
            Reaction::Launch => self.launch(turn),
            Reaction::Rest => self.rest("requested", turn),
            Reaction::Follow => self.follow(turn),
            Reaction::Ready => self.become_ready(turn),
            Reaction::Heal => self.heal(turn),
            Reaction::Ail => self.ail(turn),
            Reaction::Take => self.take(cause.unwrap_or(Cause::StartTimeout), turn),
            Reaction::Leave => self.go_away(Cause::Leaving(None), turn),
            Reaction::Strike => self.signal(self.spec.stop_signal, turn),
            Reaction::Sweep => self.sweep(cause, turn),
            Reaction::Tighten => self.tighten(turn),
            Reaction::Settle => self.settle(turn),
            Reaction::Overdue => self.overdue(turn),
            Reaction::Go => {
                if self.state == State::Failed {
                    self.restarts.forget();
                    self.tell(turn, self.event("service.retry"));
                }
                self.enter(State::Stopped, turn.now);
                (self.wanted, self.done) = (true, false);
            }
        }
    }

    fn launch(&mut self, turn: &mut Turn<'_>) {
        self.enter(State::Starting, turn.now);
        self.bound_by(self.spec.start_timeout, turn.now);
        self.started = turn.now;
        self.clean = false;
        self.killed = false;
        self.alive = self.spec.liveness.is_none();
        self.status.clear();
        self.watchdog.reset(self.spec.watchdog);
        self.program = if self.spec.pre_start.is_empty() {
            Program::Main
        } else {
            Program::PreStart(0)
        };
        turn.actions.push(Action::Spawn(self.id, self.program));
    }

    fn follow(&mut self, turn: &mut Turn<'_>) {
        if self.program != Program::Main {
            return;
        }
        self.tell_start(turn, self.event_with_pid("service.start"));
        self.switch_on(ProbeKind::Startup, turn.now);
        match self.spec.kind {
            ServiceType::Exec | ServiceType::Notify | ServiceType::Oneshot => {}
            ServiceType::Probe if self.track(ProbeKind::Startup).is_none() => {
                self.switch_on(ProbeKind::Readiness, turn.now);
            }
            ServiceType::Probe => {}
        }
    }

    fn become_ready(&mut self, turn: &mut Turn<'_>) {
        self.enter(State::Ready, turn.now);
        self.await_no_more();
        self.watchdog.arm(turn.now);
        let after = turn.now.saturating_sub(self.started);
        self.tell_start(
            turn,
            self.event_with_pid("service.ready")
                .with_ms("after_ms", after),
        );
        if !self.starting_up() {
            self.switch_on(ProbeKind::Readiness, turn.now);
            self.switch_on(ProbeKind::Liveness, turn.now);
            if self.alive {
                self.react(Trigger::Alive, None, turn);
            }
        }
    }

    /// Whether the startup probe still holds the others back.
    fn starting_up(&self) -> bool {
        self.track(ProbeKind::Startup).is_some_and(Track::is_on)
    }

    pub(super) fn heal(&mut self, turn: &mut Turn<'_>) {
        if !self.alive {
            self.enter(State::Ready, turn.now);
            self.tell(turn, self.event_with_pid("service.ready"));
            return;
        }
        self.enter(State::Healthy, turn.now);
        self.healthy_since = Some(turn.now);
        let after = turn.now.saturating_sub(self.started);
        self.tell_start(
            turn,
            self.event_with_pid("service.healthy")
                .with_ms("after_ms", after),
        );
    }

    fn ail(&mut self, turn: &mut Turn<'_>) {
        self.end_health(turn.now);
        self.enter(State::Unhealthy, turn.now);
        if let Some(patience) = self.patience() {
            self.bound_by(patience, turn.now);
        }
        let last = self.last_fault(ProbeKind::Readiness);
        let event = self
            .event("service.unhealthy")
            .with("reason", "readiness probe")
            .with("last", last);
        self.tell(turn, event);
    }

    /// Those that come after it wait no more for its first success.
    pub(super) fn await_no_more(&mut self) {
        (self.tried, self.await_ends) = (true, None);
    }

    pub(super) fn spawned(&mut self, pid: i32, turn: &mut Turn<'_>) {
        self.pid = Some(pid);
        self.end.pid = Some(pid);
        self.react(Trigger::Spawned, None, turn);
    }

    pub(super) fn executed(&mut self, turn: &mut Turn<'_>) {
        if self.spec.kind == ServiceType::Exec && self.program == Program::Main {
            self.react(Trigger::Ready, None, turn);
        }
    }

    pub(super) fn enter(&mut self, state: State, now: Time) {
        self.state = state;
        self.since = now;
        self.bound = None;
        self.blocked = None;
        if let Some(count) = self.entered.get_mut(state as usize) {
            *count += 1;
        }
    }

    pub(super) fn bound_by(&mut self, duration: Duration, now: Time) {
        self.bound = Some(bound(duration, now));
    }

    pub(super) fn track(&self, kind: ProbeKind) -> Option<&Track> {
        self.probes[kind as usize].as_ref()
    }

    pub(super) fn last_fault(&self, kind: ProbeKind) -> String {
        self.track(kind)
            .map(Track::last_fault)
            .unwrap_or_default()
            .to_owned()
    }

    pub(super) fn switch_on(&mut self, kind: ProbeKind, now: Time) {
        if let Some(track) = self.probes[kind as usize].as_mut() {
            track.on(now);
        }
    }

    pub(super) fn event(&self, name: &'static str) -> Event {
        Event::new(name).with("service", &self.spec.name)
    }

    pub(super) fn event_with_pid(&self, name: &'static str) -> Event {
        match self.pid {
            Some(pid) => self.event(name).with("pid", pid),
            None => self.event(name),
        }
    }

    /// Tells a step of a good start, which is routine for some as long as they have not failed.
    pub(super) fn tell_start(&self, turn: &mut Turn<'_>, event: Event) {
        let routine = self.spec.routine_start && self.deaths.iter().all(|d| d.cause.is_success());
        self.tell(turn, if routine { event.routine() } else { event });
    }

    pub(super) fn tell(&self, turn: &mut Turn<'_>, event: Event) {
        turn.actions.push(Action::Emit(event));
    }
}

pub(super) fn bound(duration: Duration, now: Time) -> Bound {
    Bound {
        ends: now.saturating_add(duration),
        furthest: now.saturating_add(duration.saturating_mul(EXTEND_MAX)),
    }
}
