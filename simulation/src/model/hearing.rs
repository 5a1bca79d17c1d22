//! What a service says, answers and leaves unsaid, as the prose has it.

use super::course::{Course, KILL_WAIT, Limit, Phase, Turn, Why};
use super::token::Token;
use super::told::Fields;
use crate::invariants::Law;
use supervisor::config::{Escalation, ServiceType};
use supervisor::core::table::Trigger;
use supervisor::core::{Notification, ProbeKind, Program, State};

impl Course {
    pub fn timer(&mut self, turn: &mut Turn<'_>) {
        for kind in ProbeKind::ALL {
            self.probe_timer(kind, turn);
        }
        if self.silence_ends.is_some_and(|at| at <= turn.now) {
            self.law = Law::Watchdog;
            self.fault("watchdog".to_owned(), turn);
        }
        if self.reload.is_some_and(|limit| limit.ends <= turn.now) {
            self.law = Law::Reload;
            self.reload = None;
            let millis = self.spec.start_timeout.as_millis();
            let error = format!("no READY=1 within {millis} ms; it is left running");
            let fields = Fields::default().with("what", "reload");
            self.must_tell(turn, "warning", fields.with("error", error));
        }
        if self.tried_by.is_some_and(|at| at <= turn.now) {
            (self.tried, self.tried_by) = (true, None);
        }
        if self.limit.is_some_and(|limit| limit.ends <= turn.now) {
            self.limit_reached(turn);
        }
    }

    pub fn limit_reached(&mut self, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Due);
        match self.state {
            State::Starting => {
                self.law = Law::StartTimeout;
                self.take(Why::Fault, "start-timeout".to_owned(), turn);
            }
            State::Stopping if !self.killed => {
                self.law = Law::Stop;
                self.kill(turn);
            }
            State::Stopping => {
                self.law = Law::Stop;
                self.pid = None;
                let fields = Fields::default().with_ms("waited_ms", KILL_WAIT);
                self.must_tell(turn, "stuck", fields.with("then", "going on without it"));
                self.must(turn, Token::Abandon);
                self.settle(turn);
            }
            State::Backoff => {
                self.law = Law::Backoff;
                self.enter(State::Stopped, turn.now);
            }
            State::Failed => {
                self.must_tell(turn, "retry", Fields::default());
                self.anew(Law::RetryAfter, turn.now);
            }
            State::Stopped => {
                self.law = Law::Lost;
                self.limit = None;
                self.escalations += 1;
                // Nothing of its group runs that could be restarted.
                let then = match self.spec.intensity.then {
                    Escalation::RestartGroup => Escalation::Reboot,
                    then => then,
                };
                let Some(blocked) = self.blocked.clone() else {
                    return;
                };
                let fields = blocked
                    .fields()
                    .with_ms("waited_ms", self.spec.start_timeout);
                self.must_tell(turn, "blocked", fields.with("then", then.name()));
                let why = format!(
                    "requires {}, which is {}",
                    blocked.name,
                    blocked.state.name()
                );
                self.tell_the_machine(then, why, turn);
            }
            State::Unhealthy => {
                self.law = Law::Lost;
                self.limit = None;
                let millis = self.spec.start_timeout.as_millis();
                let fault = &self.probes[ProbeKind::Readiness as usize].fault;
                let why = format!("has been unhealthy for {millis} ms: {fault}");
                self.tell_the_machine(Escalation::Degraded, why, turn);
            }
            State::Ready | State::Healthy => {}
        }
    }

    pub fn probe_timer(&mut self, kind: ProbeKind, turn: &mut Turn<'_>) {
        let Some(timeout) = self.probe(kind).map(|probe| probe.timeout) else {
            return;
        };
        let asking = &mut self.probes[kind as usize];
        match asking.phase {
            Phase::Due(at) if at <= turn.now => {
                asking.attempt += 1;
                asking.phase = Phase::Asked(turn.now);
                let attempt = asking.attempt;
                self.law = Law::Probes;
                self.must(turn, Token::Ask(kind, attempt));
            }
            Phase::Asked(at) if at + timeout <= turn.now => {
                self.must(turn, Token::Cancel(kind));
                let fault = format!("no answer within {} ms", timeout.as_millis());
                self.answered(kind, &Err(fault), turn);
            }
            Phase::Off | Phase::Due(_) | Phase::Asked(_) => {}
        }
    }

    /// An answer, or the lack of one, to the attempt in flight.
    pub fn answered(&mut self, kind: ProbeKind, answer: &Result<(), String>, turn: &mut Turn<'_>) {
        let Some(probe) = self.spec.probe(kind) else {
            return;
        };
        let (failures, successes, interval) = (probe.failures, probe.successes, probe.interval);
        let asking = &mut self.probes[kind as usize];
        let Phase::Asked(at) = asking.phase else {
            return;
        };
        asking.phase = Phase::Due(turn.now.max(at + interval));
        match answer {
            Ok(()) => (asking.good, asking.bad) = (asking.good + 1, 0),
            Err(fault) => {
                (asking.good, asking.bad) = (0, asking.bad + 1);
                asking.fault.clone_from(fault);
            }
        }
        let (proven, refuted) = (asking.good >= successes, asking.bad >= failures);
        self.law = match kind {
            ProbeKind::Startup => Law::Startup,
            ProbeKind::Readiness => Law::Fitness,
            ProbeKind::Liveness => Law::Liveness,
        };
        match kind {
            ProbeKind::Startup if proven => {
                self.probes[kind as usize].phase = Phase::Off;
                if self.is_provided() {
                    self.let_go(turn);
                } else if self.spec.kind == ServiceType::Probe {
                    match self.spec.readiness {
                        None => self.ready(turn),
                        Some(_) => self.switch_on(ProbeKind::Readiness, turn.now),
                    }
                }
            }
            ProbeKind::Readiness if proven => self.fit(turn),
            ProbeKind::Readiness if refuted => {
                self.saw(turn, Trigger::Unfit);
                if matches!(self.state, State::Ready | State::Healthy) {
                    self.end_health(turn.now);
                    self.enter(State::Unhealthy, turn.now);
                    if self.spec.required {
                        self.bound(Law::Lost, turn.now, self.spec.start_timeout);
                    }
                    let fields = Fields::default().with("reason", "readiness probe");
                    let fault = &self.probes[kind as usize].fault;
                    self.must_tell(turn, "unhealthy", fields.with("last", fault));
                }
            }
            ProbeKind::Liveness if proven => {
                self.alive = true;
                self.saw(turn, Trigger::Alive);
                if self.state == State::Ready {
                    self.healthy(turn);
                }
            }
            ProbeKind::Startup | ProbeKind::Liveness if refuted => {
                let fault = &self.probes[kind as usize].fault;
                self.fault(format!("{} probe: {fault}", kind.name()), turn);
            }
            _ => {}
        }
    }

    pub fn fit(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::Starting {
            self.ready(turn);
            return;
        }
        self.saw(turn, Trigger::Fit);
        if self.state == State::Unhealthy && self.alive {
            self.healthy(turn);
        } else if self.state == State::Unhealthy {
            self.enter(State::Ready, turn.now);
            self.must_tell(turn, "ready", self.with_pid());
        }
    }

    pub fn fault(&mut self, cause: String, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Fault);
        let fields = Fields::default().with("reason", &cause);
        self.must_tell(turn, "unhealthy", fields);
        self.take(Why::Fault, cause, turn);
    }

    pub fn notified(&mut self, what: &Notification, turn: &mut Turn<'_>) {
        if !self.is_running() || self.program != Program::Main {
            return;
        }
        match what {
            Notification::Ready if self.reload.is_some() => {
                self.law = Law::Reload;
                self.reload = None;
                self.must_tell(turn, "reloaded", self.with_pid());
            }
            Notification::Ready if self.spec.kind == ServiceType::Notify => self.ready(turn),
            Notification::Reloading if self.is_provided() => self.begin_reload(turn),
            Notification::Stopping => {
                self.saw(turn, Trigger::Leaving);
                if self.is_live() {
                    self.law = Law::Stop;
                    let cause = "STOPPING=1".to_owned();
                    self.must_tell(turn, "stop", self.with_pid().with("cause", &cause));
                    self.begin_stopping(Why::Leaving, cause, turn);
                }
            }
            Notification::Watchdog => {
                self.law = Law::Watchdog;
                if let (Some(ends), Some(interval)) = (&mut self.silence_ends, self.interval) {
                    *ends = turn.now + interval;
                }
            }
            Notification::WatchdogTrigger if self.silence_ends.is_some() => {
                self.law = Law::Watchdog;
                self.fault("watchdog".to_owned(), turn);
            }
            Notification::WatchdogInterval(interval) => {
                self.law = Law::Watchdog;
                self.interval = Some(*interval).filter(|i| !i.is_zero());
                let armed = self.interval.filter(|_| self.armed);
                self.silence_ends = armed.map(|interval| turn.now + interval);
            }
            Notification::ExtendTimeout(more) => {
                self.law = Law::Extension;
                let waited = match self.state {
                    State::Starting => true,
                    State::Stopping => !self.killed,
                    _ => false,
                };
                if waited {
                    self.limit_law = Law::Extension;
                }
                let limit = self.limit.as_mut().filter(|_| waited);
                for limit in limit.into_iter().chain(self.reload.as_mut()) {
                    let wish = (turn.now + *more).min(limit.furthest);
                    limit.ends = limit.ends.max(wish);
                }
            }
            Notification::Ready
            | Notification::Reloading
            | Notification::WatchdogTrigger
            | Notification::Status(_) => {}
        }
    }

    pub fn begin_reload(&mut self, turn: &mut Turn<'_>) {
        self.law = Law::Reload;
        if self.reload.is_none() {
            self.must_tell(turn, "reload", self.with_pid());
        }
        self.reload = Some(Limit::new(turn.now, self.spec.start_timeout));
    }

    /// An operator asks for it; a service that speaks has to say when it is done.
    pub fn reload(&mut self, turn: &mut Turn<'_>) {
        if !self.is_provided() || self.pid.is_none() {
            return;
        }
        let Some(signal) = self.spec.reload_signal else {
            let fields = Fields::default().with("what", "reload");
            let error = "no reload-signal is configured; nothing was sent";
            return self.must_tell_by(Law::Reload, turn, "warning", fields.with("error", error));
        };
        if self.spec.kind == ServiceType::Notify {
            self.begin_reload(turn);
        } else {
            self.must_tell(turn, "reload", self.with_pid());
        }
        self.must(turn, Token::Signal(signal));
    }

    pub fn main_moved(&mut self, pid: i32, turn: &mut Turn<'_>) {
        if let (Some(before), true, Program::Main) = (self.pid, self.is_running(), self.program) {
            (self.pid, self.last_pid) = (Some(pid), Some(pid));
            self.must_tell(turn, "main", self.with_pid().with("before", before));
        }
    }
}
