//! One service: its states, and what moves it from one to the next.
//!
//! ```text
//!            start              ready                good
//! Stopped ----------> Starting -------> Ready ---------------> Healthy <--> Unhealthy
//!    ^                  |  ^              |                        |            |
//!    |                  |  | delay over   |   end, timeout, probe, watchdog,    |
//!    |                  |  |              |   stop request                      |
//!    |                  v  |              v                                     |
//!    +---------- Stopping <-+-------------+-------------------------------------+
//!    |  stopped     |   |
//!    |  on request  |   +--> Backoff ----> Starting
//!    |              v
//!    +           Failed      the restarts are used up, or the policy says no
//! ```
//!
//! * **Stopped**: nothing runs, by intent. A service that never ran waits here for what it
//!   comes `after`.
//! * **Starting**: the process is made; it is not ready yet. `start-timeout` bounds it.
//! * **Ready**: it said so (`notify`), its probe did (`probe`), or executing was enough (`exec`).
//!   It is not known to be healthy: its liveness probe has not succeeded yet.
//! * **Healthy**: the liveness probe succeeded. Without one, ready is healthy. A oneshot that
//!   ended with 0 stays here.
//! * **Unhealthy**: the readiness probe fails; the service is left alone and may come back.
//! * **Stopping**: the instance is being taken away. First the stop signal to the main process,
//!   after `stop.timeout` the kill of the whole tree. When the main process is gone, by itself or
//!   not, the rest of the tree is killed at once. The state ends when the main process is
//!   reaped *and* the cgroup is proven empty; only then may a successor start. If the kernel
//!   does not give a killed tree up within [`KILL_WAIT`], that is told and the course goes on.
//! * **Backoff**: the delay before a restart.
//! * **Failed**: ended, and not restarted.
//!
//! A start that cannot even make a process is an end like any other. Inputs that do not fit the
//! state, such as an answer to a cancelled probe, change nothing.

use super::probe::{self, Due, ProbeKind, Track};
use super::restart::{self, Random, Restarts};
use super::{Action, Id, Notification};
use crate::Time;
use crate::config::{Escalation, RestartPolicy, ServiceType};
use crate::event::Event;
use crate::spec::Spec;
use std::fmt;
use std::time::Duration;

/// How long a killed tree may take to be gone. A process in uninterruptible sleep can take
/// for ever; the machine must not wait with it.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the module tells them all")]
pub enum State {
    Stopped,
    Starting,
    Ready,
    Healthy,
    Unhealthy,
    Stopping,
    Backoff,
    Failed,
}

/// How a main process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it; whether it left a core.
    Signal(i32, bool),
    /// It never became the program: what failed, and how.
    NotExecuted(String),
}

/// Why an instance was taken away or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody wanted it.
    Requested,
    /// Not ready within `start-timeout`.
    StartTimeout,
    /// The liveness probe; its last failure.
    Liveness(String),
    /// No `WATCHDOG=1` in time.
    Watchdog,
    /// It ended by itself.
    Ended(ExitStatus),
    /// No process could be made.
    NotSpawned(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("requested"),
            Self::StartTimeout => f.write_str("start-timeout"),
            Self::Liveness(why) => write!(f, "liveness probe: {why}"),
            Self::Watchdog => f.write_str("watchdog"),
            Self::Ended(ExitStatus::Code(code)) => write!(f, "exit status {code}"),
            Self::Ended(ExitStatus::Signal(signal, _)) => write!(f, "signal {signal}"),
            Self::Ended(ExitStatus::NotExecuted(why)) | Self::NotSpawned(why) => f.write_str(why),
        }
    }
}

/// The course of one service.
#[derive(Debug)]
pub struct Machine {
    id: Id,
    spec: Spec,
    state: State,
    /// Bounds the present state, where it has a bound.
    state_ends: Option<Time>,
    /// The main process, from `Spawned` to `Exited`.
    pid: Option<i32>,
    /// When the present instance was started.
    started: Time,
    /// Since when the present instance has been healthy without a break.
    healthy_since: Option<Time>,
    /// When silence becomes a fault.
    watchdog_ends: Option<Time>,
    /// Why the instance is being taken away, in `Stopping`.
    cause: Option<Cause>,
    /// Whether the tree was told to die, in `Stopping`.
    killed: bool,
    ever_started: bool,
    may_start: bool,
    probes: [Option<Track>; 3],
    /// The last failure of the liveness probe.
    last_failure: String,
    restarts: Restarts,
    status: String,
}

const KINDS: [ProbeKind; 3] = [
    ProbeKind::Startup,
    ProbeKind::Readiness,
    ProbeKind::Liveness,
];

impl Machine {
    pub(super) fn new(id: Id, spec: Spec) -> Self {
        let probes =
            [&spec.startup, &spec.readiness, &spec.liveness].map(|p| p.clone().map(Track::new));
        Self {
            id,
            spec,
            state: State::Stopped,
            state_ends: None,
            pid: None,
            started: Time::ZERO,
            healthy_since: None,
            watchdog_ends: None,
            cause: None,
            killed: false,
            ever_started: false,
            may_start: true,
            probes,
            last_failure: String::new(),
            restarts: Restarts::default(),
            status: String::new(),
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

    /// Its main process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Its restarts since boot.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.total()
    }

    /// What it last said of itself by `STATUS=`.
    #[must_use]
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Whether others that come after it may start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready | State::Healthy)
    }

    /// Whether something is there to be stopped, or still going away.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match self.state {
            State::Stopped | State::Failed => false,
            State::Healthy => self.pid.is_some(),
            State::Starting
            | State::Ready
            | State::Unhealthy
            | State::Stopping
            | State::Backoff => true,
        }
    }

    pub(super) fn waits_for_first_start(&self) -> bool {
        !self.ever_started && self.may_start && self.state == State::Stopped
    }

    /// When [`Machine::timer`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let probes = self.probes.iter().flatten().filter_map(Track::deadline);
        probes
            .chain(self.state_ends)
            .chain(self.watchdog_ends)
            .min()
    }

    pub(super) fn start(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.ever_started = true;
        self.state = State::Starting;
        self.state_ends = Some(now + self.spec.start_timeout);
        self.started = now;
        self.status.clear();
        actions.push(Action::Spawn(self.id));
    }

    pub(super) fn spawned(&mut self, now: Time, pid: i32, actions: &mut Vec<Action>) {
        self.pid = Some(pid);
        self.tell(actions, self.event("service.start").with("pid", pid));
        if self.state != State::Starting {
            // The stop request overtook the news of the process; now there is one to be told.
            actions.push(Action::Signal(self.id, self.spec.stop_signal));
            return;
        }
        self.switch_on(ProbeKind::Startup, now);
        match self.spec.kind {
            ServiceType::Exec => self.become_ready(now, actions),
            ServiceType::Notify | ServiceType::Oneshot => {}
            ServiceType::Probe if self.track(ProbeKind::Startup).is_none() => {
                self.switch_on(ProbeKind::Readiness, now);
            }
            ServiceType::Probe => {}
        }
    }

    pub(super) fn spawn_failed(
        &mut self,
        now: Time,
        why: String,
        random: &mut Random,
        actions: &mut Vec<Action>,
    ) {
        self.tell(actions, self.event("service.exit").with("error", &why));
        self.enter_stopping(Cause::NotSpawned(why), actions);
        self.settle(now, random, actions);
    }

    pub(super) fn exited(&mut self, now: Time, status: ExitStatus, actions: &mut Vec<Action>) {
        let Some(pid) = self.pid.take() else { return };
        let event = self.event("service.exit").with("pid", pid);
        let event = match &status {
            ExitStatus::Code(code) => event.with("status", code),
            ExitStatus::Signal(signal, core) => event.with("signal", signal).with("core", core),
            ExitStatus::NotExecuted(why) => event.with("error", why),
        };
        let event = event.with_ms("uptime_ms", now.saturating_sub(self.started));
        self.tell(
            actions,
            match &self.cause {
                Some(cause) => event.with("cause", cause),
                None => event,
            },
        );
        if self.state != State::Stopping {
            self.end_health(now);
            self.enter_stopping(Cause::Ended(status), actions);
        }
        self.kill_tree(now, actions);
    }

    pub(super) fn tree_gone(&mut self, now: Time, random: &mut Random, actions: &mut Vec<Action>) {
        if self.state == State::Stopping && self.pid.is_none() {
            self.settle(now, random, actions);
        }
    }

    pub(super) fn notified(
        &mut self,
        now: Time,
        notification: Notification,
        actions: &mut Vec<Action>,
    ) {
        match notification {
            Notification::Ready
                if self.state == State::Starting && self.spec.kind == ServiceType::Notify =>
            {
                self.become_ready(now, actions);
            }
            Notification::Watchdog if self.watchdog_ends.is_some() => {
                self.watchdog_ends = self.spec.watchdog.map(|w| now + w);
            }
            Notification::ExtendTimeout(more)
                if matches!(self.state, State::Starting | State::Stopping) =>
            {
                self.state_ends = self
                    .state_ends
                    .map(|ends| ends.max(now.saturating_add(more)));
            }
            Notification::Status(text) => self.status = text,
            Notification::Ready
            | Notification::Watchdog
            | Notification::ExtendTimeout(_)
            | Notification::Reloading
            | Notification::Stopping => {}
        }
    }

    pub(super) fn probed(
        &mut self,
        now: Time,
        kind: ProbeKind,
        attempt: u64,
        result: Result<(), String>,
        actions: &mut Vec<Action>,
    ) {
        let good = result.is_ok();
        let Some(track) = self.probes[kind as usize].as_mut() else {
            return;
        };
        let verdict = track.answered(now, attempt, good);
        if let (Err(why), ProbeKind::Liveness) = (result, kind) {
            self.last_failure = why;
        }
        self.judged(now, kind, verdict, actions);
    }

    /// Does what is due.
    pub(super) fn timer(&mut self, now: Time, random: &mut Random, actions: &mut Vec<Action>) {
        for kind in KINDS {
            let Some(track) = self.probes[kind as usize].as_mut() else {
                continue;
            };
            match track.due(now) {
                Some(Due::Ask(attempt)) => {
                    let target = track.probe().target.clone();
                    actions.push(Action::Probe {
                        id: self.id,
                        kind,
                        attempt,
                        target,
                    });
                }
                Some(Due::TimedOut(verdict)) => {
                    if kind == ProbeKind::Liveness {
                        self.last_failure =
                            format!("no answer within {} ms", track.probe().timeout.as_millis());
                    }
                    actions.push(Action::CancelProbe(self.id, kind));
                    self.judged(now, kind, verdict, actions);
                }
                None => {}
            }
        }
        if self.watchdog_ends.is_some_and(|ends| ends <= now) {
            self.tell(
                actions,
                self.event("service.unhealthy").with("reason", "watchdog"),
            );
            self.stop(now, Cause::Watchdog, actions);
        }
        if self.state_ends.is_some_and(|ends| ends <= now) {
            self.state_ended(now, random, actions);
        }
    }

    /// The bound of the present state was reached.
    fn state_ended(&mut self, now: Time, random: &mut Random, actions: &mut Vec<Action>) {
        match self.state {
            State::Starting => self.stop(now, Cause::StartTimeout, actions),
            State::Stopping if !self.killed => self.kill_tree(now, actions),
            State::Stopping => {
                self.tell(
                    actions,
                    self.event("service.stuck")
                        .with("waited_ms", KILL_WAIT.as_millis())
                        .with("then", "going on without it"),
                );
                self.pid = None;
                self.settle(now, random, actions);
            }
            State::Backoff => self.start(now, actions),
            State::Stopped | State::Ready | State::Healthy | State::Unhealthy | State::Failed => {
                self.state_ends = None;
            }
        }
    }

    /// Takes the running instance away; what follows depends on the cause.
    pub(super) fn stop(&mut self, now: Time, cause: Cause, actions: &mut Vec<Action>) {
        match self.state {
            State::Starting | State::Ready | State::Healthy | State::Unhealthy => {
                self.end_health(now);
                self.enter_stopping(cause, actions);
                self.state_ends = Some(now + self.spec.stop_timeout);
                actions.push(Action::Signal(self.id, self.spec.stop_signal));
            }
            State::Backoff => {
                self.state = State::Stopped;
                self.state_ends = None;
            }
            State::Stopping | State::Stopped | State::Failed => {}
        }
    }

    /// From now on nothing is started or restarted.
    pub(super) fn forbid_start(&mut self) {
        self.may_start = false;
        // The delay must not run out while this waits for its turn to be stopped.
        if self.state == State::Backoff {
            self.state = State::Stopped;
            self.state_ends = None;
        }
    }

    fn become_ready(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.state = State::Ready;
        self.state_ends = None;
        self.watchdog_ends = self.spec.watchdog.map(|w| now + w);
        let after = now.saturating_sub(self.started);
        self.tell(
            actions,
            self.event_with_pid("service.ready")
                .with_ms("after_ms", after),
        );
        if self
            .track(ProbeKind::Startup)
            .is_none_or(|t| t.deadline().is_none())
        {
            self.switch_on(ProbeKind::Readiness, now);
            self.switch_on(ProbeKind::Liveness, now);
        }
        if self.track(ProbeKind::Liveness).is_none() {
            self.become_healthy(now, actions);
        }
    }

    fn become_healthy(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.state = State::Healthy;
        self.healthy_since = Some(now);
        let after = now.saturating_sub(self.started);
        self.tell(
            actions,
            self.event_with_pid("service.healthy")
                .with_ms("after_ms", after),
        );
    }

    fn judged(
        &mut self,
        now: Time,
        kind: ProbeKind,
        verdict: Option<probe::Verdict>,
        actions: &mut Vec<Action>,
    ) {
        use probe::Verdict::{Bad, Good};
        match (kind, verdict, self.state) {
            (_, None, _) => {}
            (ProbeKind::Startup, Some(Good), _) => {
                if let Some(track) = self.probes[kind as usize].as_mut() {
                    track.off();
                }
                match self.state {
                    State::Starting
                        if self.spec.kind == ServiceType::Probe
                            && self.track(ProbeKind::Readiness).is_none() =>
                    {
                        self.become_ready(now, actions);
                    }
                    State::Starting if self.spec.kind == ServiceType::Probe => {
                        self.switch_on(ProbeKind::Readiness, now);
                    }
                    State::Ready | State::Healthy => {
                        self.switch_on(ProbeKind::Readiness, now);
                        self.switch_on(ProbeKind::Liveness, now);
                    }
                    _ => {}
                }
            }
            // Until it succeeds, `start-timeout` judges, or its own threshold once it is ready.
            (ProbeKind::Startup, Some(Bad), State::Ready | State::Healthy) => {
                self.tell(
                    actions,
                    self.event("service.unhealthy")
                        .with("reason", "startup probe"),
                );
                self.stop(now, Cause::Liveness("startup probe failed".into()), actions);
            }
            (ProbeKind::Readiness, Some(Good), State::Starting) => self.become_ready(now, actions),
            (ProbeKind::Readiness, Some(Good), State::Unhealthy) => {
                self.become_healthy(now, actions);
            }
            (ProbeKind::Readiness, Some(Bad), State::Ready | State::Healthy) => {
                self.end_health(now);
                self.state = State::Unhealthy;
                self.tell(
                    actions,
                    self.event("service.unhealthy")
                        .with("reason", "readiness probe"),
                );
            }
            (ProbeKind::Liveness, Some(Good), State::Ready) => self.become_healthy(now, actions),
            (ProbeKind::Liveness, Some(Bad), State::Ready | State::Healthy | State::Unhealthy) => {
                let why = self.last_failure.clone();
                self.tell(
                    actions,
                    self.event("service.unhealthy")
                        .with("reason", "liveness probe")
                        .with("last", &why),
                );
                self.stop(now, Cause::Liveness(why), actions);
            }
            (_, Some(Good | Bad), _) => {}
        }
    }

    fn end_health(&mut self, now: Time) {
        if let Some(since) = self.healthy_since.take() {
            self.restarts
                .healthy_for(&self.spec, now.saturating_sub(since));
        }
    }

    fn enter_stopping(&mut self, cause: Cause, actions: &mut Vec<Action>) {
        self.state = State::Stopping;
        self.state_ends = None;
        self.watchdog_ends = None;
        self.killed = false;
        self.cause = Some(cause);
        for kind in KINDS {
            if self.probes[kind as usize].as_mut().is_some_and(Track::off) {
                actions.push(Action::CancelProbe(self.id, kind));
            }
        }
    }

    fn kill_tree(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.killed = true;
        self.state_ends = Some(now + KILL_WAIT);
        actions.push(Action::KillTree(self.id));
    }

    /// The instance is gone; decides what follows.
    fn settle(&mut self, now: Time, random: &mut Random, actions: &mut Vec<Action>) {
        self.state_ends = None;
        let cause = self.cause.take().unwrap_or(Cause::Requested);
        let success = cause == Cause::Ended(ExitStatus::Code(0));
        if success && self.spec.kind == ServiceType::Oneshot {
            return self.become_healthy(now, actions);
        }
        if cause == Cause::Requested || !self.may_start {
            self.state = State::Stopped;
            return;
        }
        let wanted = match self.spec.restart {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Always => true,
        };
        if !wanted {
            self.state = if success {
                State::Stopped
            } else {
                State::Failed
            };
            if self.state == State::Failed {
                self.tell(
                    actions,
                    self.event("service.failed")
                        .with("cause", &cause)
                        .with("restart", "never"),
                );
            }
            return;
        }
        match self.restarts.decide(&self.spec, now, random) {
            restart::Verdict::After(delay) => {
                self.tell(
                    actions,
                    self.event("service.restart")
                        .with_ms("delay_ms", delay)
                        .with("restarts", self.restarts.total())
                        .with("cause", &cause),
                );
                if delay.is_zero() {
                    self.start(now, actions);
                } else {
                    self.state = State::Backoff;
                    self.state_ends = Some(now + delay);
                }
            }
            restart::Verdict::Exhausted => {
                self.state = State::Failed;
                let then = match self.spec.intensity.then {
                    Escalation::Reboot => "reboot",
                    Escalation::Degraded => "degraded",
                };
                self.tell(
                    actions,
                    self.event("service.failed")
                        .with("cause", &cause)
                        .with("restarts", self.spec.intensity.restarts)
                        .with("within_ms", self.spec.intensity.within.as_millis())
                        .with("then", then),
                );
                if self.spec.intensity.then == Escalation::Reboot {
                    actions.push(Action::Reboot(self.id));
                }
            }
        }
    }

    fn track(&self, kind: ProbeKind) -> Option<&Track> {
        self.probes[kind as usize].as_ref()
    }

    fn switch_on(&mut self, kind: ProbeKind, now: Time) {
        if let Some(track) = self.probes[kind as usize].as_mut() {
            track.on(now);
        }
    }

    fn event(&self, name: &'static str) -> Event {
        Event::new(name).with("service", &self.spec.name)
    }

    fn event_with_pid(&self, name: &'static str) -> Event {
        match self.pid {
            Some(pid) => self.event(name).with("pid", pid),
            None => self.event(name),
        }
    }

    fn tell(&self, actions: &mut Vec<Action>, event: Event) {
        actions.push(Action::Emit(event));
    }
}
