//! How an instance ends and what follows, as the prose has it: the second half of a [`Course`].

use super::course::{Course, Deferral, Due, Grave, KILL_WAIT, Phase, STRETCH, Turn, Why};
use super::token::Token;
use super::told::{Fields, ended};
use crate::invariants::Law;
use std::time::Duration;
use supervisor::config::{Escalation, RestartPolicy, ServiceType, StopMode};
use supervisor::core::spawn::Fault as SpawnFault;
use supervisor::core::table::Trigger;
use supervisor::core::{Exit, ExitStatus, ProbeKind, Program, State};

type Time = Duration;

/// The prose: "The last eight" ends of instances are kept.
const GRAVES: usize = 8;

impl Course {
    /// What the law held against it is forgotten.
    pub fn anew(&mut self, law: Law, now: Time) {
        self.law = law;
        self.row = 0;
        self.window.clear();
        (self.wanted, self.done) = (true, false);
        self.enter(State::Stopped, now);
    }

    /// Told to go: the signal first.
    pub fn take(&mut self, why: Why, cause: String, turn: &mut Turn<'_>) {
        self.must_tell(turn, "stop", self.with_pid().with("cause", &cause));
        self.begin_stopping(why, cause, turn);
        match self.spec.stop_mode {
            StopMode::Process => self.must(turn, Token::Signal(self.spec.stop_signal)),
            StopMode::Tree => self.signal_the_rest(turn),
        }
    }

    /// Whoever is left in the tree gets the stop signal, once.
    pub fn signal_the_rest(&mut self, turn: &mut Turn<'_>) {
        if !std::mem::replace(&mut self.signalled, true) {
            self.must(turn, Token::SignalTree(self.spec.stop_signal));
        }
    }

    pub fn begin_stopping(&mut self, why: Why, cause: String, turn: &mut Turn<'_>) {
        self.end_health(turn.now);
        self.enter(State::Stopping, turn.now);
        self.leaving = None;
        (self.why, self.cause) = (why, cause);
        (self.killed, self.signalled) = (false, false);
        self.bound(Law::Stop, turn.now, self.spec.stop_timeout);
        (self.armed, self.silence_ends) = (false, None);
        self.reload = None;
        // The wait for the kill begins anew when the main process is gone.
        self.stop_ends = turn.now + self.spec.stop_timeout * STRETCH + KILL_WAIT * 2;
        for kind in ProbeKind::ALL {
            let phase = std::mem::replace(&mut self.probes[kind as usize].phase, Phase::Off);
            if matches!(phase, Phase::Asked(_)) {
                self.must_by(Law::Probes, turn, Token::Cancel(kind));
            }
        }
    }

    pub fn kill(&mut self, turn: &mut Turn<'_>) {
        self.killed = true;
        self.bound(Law::Stop, turn.now, KILL_WAIT);
        self.must(turn, Token::Kill);
    }

    pub fn end_health(&mut self, now: Time) {
        if self
            .healthy_since
            .take()
            .is_some_and(|at| now - at >= self.spec.backoff.reset_after)
        {
            self.row = 0;
            self.group_used = false;
        }
    }

    pub fn exited(&mut self, exit: &Exit, turn: &mut Turn<'_>) {
        let Some(pid) = self.pid.take() else {
            return;
        };
        self.saw(turn, Trigger::Exited);
        self.law = Law::NoLostExit;
        let status = &exit.status;
        self.memory_peak = exit.memory_peak;
        let for_memory = self.oom && matches!(status, ExitStatus::Signal(9, _));
        let done = *status == ExitStatus::Code(0);
        let check = match self.program {
            Program::PreStart(number) => Some(number + 1),
            Program::Main => None,
        };
        let deferred = match status {
            ExitStatus::NotExecuted(failure) if !self.oom => {
                Some(failure.fault).filter(|fault| *fault != SpawnFault::Service)
            }
            _ => None,
        };
        // A check that is passed, or a start that is deferred, is not the end of an instance; whatever ends while it is
        // taken away is.
        let goes_on = done && check.is_some() || deferred.is_some();
        if !goes_on || self.state != State::Starting {
            let fields = self.exit_fields(pid, check, status, turn.now);
            self.must_tell(turn, "exit", fields);
        }
        if let (State::Starting, Some(number), true) = (self.state, check, done) {
            self.program = match number < self.spec.pre_start.len() {
                true => Program::PreStart(number),
                false => Program::Main,
            };
            // What ran out of memory in a check says nothing about what comes after it.
            self.forget_the_check();
            self.must(turn, Token::Spawn(self.program));
            return;
        }
        self.ended = Some(status.clone());
        let why = match deferred {
            Some(fault) => Why::Deferred(fault),
            // A check that is done has not done the service's work.
            None if done && check.is_none() => Why::Done,
            None => Why::Fault,
        };
        let cause = match check {
            _ if for_memory => "out of memory".to_owned(),
            Some(number) if deferred.is_none() => {
                format!("pre-start check {number}: {}", ended(status))
            }
            _ => ended(status),
        };
        if self.state != State::Stopping {
            self.begin_stopping(why, cause, turn);
        } else if self.why == Why::Leaving && !for_memory && deferred.is_none() {
            self.why = why;
            self.cause = format!("STOPPING=1, then {}", ended(status));
        }
        if self.killed {
            self.kill(turn);
        } else {
            self.signal_the_rest(turn);
        }
    }

    fn exit_fields(
        &self,
        pid: i32,
        check: Option<usize>,
        status: &ExitStatus,
        now: Time,
    ) -> Fields {
        let fields = Fields::default()
            .with("pid", pid)
            .with_some("pre_start", check);
        let fields = match status {
            ExitStatus::Code(code) => fields.with("status", code),
            ExitStatus::Signal(signal, core) => fields.with("signal", signal).with("core", core),
            ExitStatus::NotExecuted(failure) => fields.with("error", &failure.why),
            ExitStatus::Unknown => fields.with("status", "unknown"),
        };
        let stopped = (self.state == State::Stopping).then_some(&self.cause);
        fields
            .with_ms("uptime_ms", now - self.begun)
            .with_some("oom", self.oom.then_some(true))
            .with_some("memory_peak", self.memory_peak)
            .with_some("cause", stopped)
    }

    pub fn tree_gone(&mut self, turn: &mut Turn<'_>) {
        if self.pid.is_some() {
            return;
        }
        self.tree = false;
        self.saw(turn, Trigger::Gone);
        if self.state == State::Stopping {
            self.law = Law::NoLostExit;
            self.settle(turn);
        }
    }

    /// Nothing runs, nothing is to run.
    pub fn rest(&mut self, cause: &str, turn: &mut Turn<'_>) {
        self.enter(State::Stopped, turn.now);
        self.leaving = None;
        if self.shut || !self.wanted {
            (self.tried, self.tried_by) = (true, None);
            self.must(turn, Token::Drop);
        }
        self.must_tell(turn, "stopped", Fields::default().with("cause", cause));
    }

    /// An instance is over, and how it ended is kept.
    fn bury(&mut self, now: Time) {
        if self.graves.len() == GRAVES {
            self.graves.pop_front();
        }
        self.graves.push_back(Grave {
            at: now,
            pid: self.last_pid,
            uptime: now - self.begun,
            cause: self.cause.clone(),
            status: self.ended.clone(),
            oom: self.oom,
            memory_peak: self.memory_peak,
        });
    }

    /// The instance is over.
    pub fn settle(&mut self, turn: &mut Turn<'_>) {
        self.tree = false;
        if !matches!(self.why, Why::Deferred(_)) {
            self.bury(turn.now);
            self.deferral = None;
        }
        self.forget_the_check();
        let cause = self.cause.clone();
        let done = self.why == Why::Done;
        let by = self
            .tried_by
            .unwrap_or(self.begun + self.spec.start_timeout);
        self.tried |= done || by <= turn.now;
        self.tried_by = Some(by).filter(|_| !self.tried);
        if self.shut || !self.wanted || self.why == Why::Asked {
            self.law = Law::Policy;
            return self.rest(&cause, turn);
        }
        if done && self.spec.kind == ServiceType::Oneshot {
            self.law = Law::Readiness;
            return self.healthy(turn);
        }
        if let Why::Deferred(fault) = self.why {
            return self.defer(fault, turn);
        }
        self.law = Law::Policy;
        match self.spec.restart {
            RestartPolicy::Always => self.restart(turn),
            RestartPolicy::OnFailure if !done => self.restart(turn),
            _ if self.spec.required => {
                self.law = Law::Lost;
                self.enter(State::Failed, turn.now);
                let policy = self.spec.restart.name();
                let fields = Fields::default()
                    .with("cause", &cause)
                    .with("restart", policy);
                let fields = fields.with("then", self.then().name());
                self.must_tell(turn, "failed", fields);
                let why =
                    format!("ended ({cause}), and restart = {policy:?} does not bring it back");
                self.next_level(why, turn);
            }
            RestartPolicy::OnFailure | RestartPolicy::Never if done => {
                (self.wanted, self.done) = (false, true);
                self.rest("done", turn);
            }
            RestartPolicy::OnFailure | RestartPolicy::Never => {
                self.enter(State::Failed, turn.now);
                let fields = Fields::default().with("cause", &cause);
                self.must_tell(
                    turn,
                    "failed",
                    fields.with("restart", self.spec.restart.name()),
                );
            }
        }
    }

    /// What the level above does, if its own law has nothing more for it: the group is restarted once.
    fn then(&self) -> Escalation {
        match self.spec.intensity.then {
            Escalation::RestartGroup if self.group_used => Escalation::Reboot,
            then => then,
        }
    }

    pub fn restart(&mut self, turn: &mut Turn<'_>) {
        let (now, intensity) = (turn.now, self.spec.intensity.clone());
        self.law = Law::Intensity;
        self.window.retain(|at| now - *at < intensity.within);
        if self.window.len() as u64 >= u64::from(intensity.restarts) {
            self.enter(State::Failed, turn.now);
            let fields = Fields::default().with("cause", &self.cause);
            let fields = fields.with("restarts", intensity.restarts);
            let fields = fields.with_ms("within_ms", intensity.within);
            self.must_tell(turn, "failed", fields.with("then", self.then().name()));
            return self.next_level("used up its restarts".to_owned(), turn);
        }
        self.window.push_back(now);
        self.restarts += 1;
        let delay = self.nth_delay(self.row);
        self.row += 1;
        let fields = Fields::default().between("delay_ms", self.around(delay));
        let fields = fields.with("restarts", self.restarts);
        self.must_tell(turn, "restart", fields.with("cause", &self.cause));
        self.law = Law::Backoff;
        if delay.is_zero() {
            self.enter(State::Stopped, turn.now);
        } else {
            self.enter(State::Backoff, turn.now);
            self.delay = Some(self.around(delay));
        }
    }

    /// The first delay is `initial`; then `base` and twice the one before, up to `max`.
    fn nth_delay(&self, place: u32) -> Time {
        let law = &self.spec.backoff;
        match place {
            0 => law.initial.min(law.max),
            row => (1..row).fold(law.base.min(law.max), |d, _| (d * 2).min(law.max)),
        }
    }

    /// What the jitter may make of a delay.
    pub fn around(&self, delay: Time) -> (Time, Time) {
        // The last nanosecond may be lost on the way through floating point.
        let last = Duration::from_nanos(1);
        let jitter = self.spec.backoff.jitter;
        let low = delay.mul_f64(1.0 - jitter).saturating_sub(last);
        (low, delay.mul_f64(1.0 + jitter) + last)
    }

    /// No process could be made, and the service is not to blame: again later.
    fn defer(&mut self, fault: SpawnFault, turn: &mut Turn<'_>) {
        self.law = Law::Deferral;
        let mut deferral = self.deferral.unwrap_or(Deferral {
            since: turn.now,
            tries: 0,
            told: false,
        });
        deferral.tries += 1;
        self.enter(State::Backoff, turn.now);
        // Never sooner than a tenth of a second.
        let least = Duration::from_millis(100);
        let (low, high) = self.around(self.nth_delay(deferral.tries));
        let bounds = (low.max(least), high.max(least));
        self.delay = Some(bounds);
        let fields = Fields::default().with("error", &self.cause);
        let fields = fields.between("delay_ms", bounds);
        self.must_tell(turn, "deferred", fields.with("tries", deferral.tries));
        let for_long = turn.now - deferral.since >= self.spec.start_timeout;
        if self.spec.required && for_long && !deferral.told {
            deferral.told = true;
            self.escalations += 1;
            let then = match fault {
                SpawnFault::Address => Escalation::Degraded,
                SpawnFault::Service | SpawnFault::Machine => self.spec.intensity.then,
            };
            let millis = (turn.now - deferral.since).as_millis();
            let why = format!("could not be started for {millis} ms: {}", self.cause);
            self.tell_the_machine(then, why, turn);
        }
        self.deferral = Some(deferral);
    }

    /// Failed, and its own law has nothing more for it.
    fn next_level(&mut self, why: String, turn: &mut Turn<'_>) {
        self.escalations += 1;
        if self.spec.intensity.then == Escalation::RestartGroup && !self.group_used {
            self.group_used = true;
            self.clean = true;
            return self.anew(Law::GroupRestart, turn.now);
        }
        self.tell_the_machine(self.spec.intensity.then, why, turn);
        self.try_later(turn.now);
    }

    pub fn tell_the_machine(&mut self, then: Escalation, why: String, turn: &mut Turn<'_>) {
        self.told = true;
        let token = match then {
            // An optional service concerns the machine only if its law says reboot.
            Escalation::Degraded if !self.spec.required => return,
            Escalation::Degraded => Token::Degraded,
            Escalation::RestartGroup | Escalation::Reboot => Token::Reboot,
        };
        turn.due.push(Due {
            place: self.place,
            token,
            fields: Fields::default().with("why", why),
            law: self.law,
        });
    }

    pub fn try_later(&mut self, now: Time) {
        self.law = Law::RetryAfter;
        if let (State::Failed, Some(delay)) = (self.state, self.spec.intensity.retry_after) {
            self.bound(Law::RetryAfter, now, delay);
            self.delay = Some(self.around(delay));
        }
    }

    /// It is not to run: no use to wait for a restart.
    pub fn waits_no_more(&mut self, waited: bool, turn: &mut Turn<'_>) {
        let waits = self.state == State::Stopped && waited;
        if waits || matches!(self.state, State::Backoff | State::Failed) {
            self.saw(turn, Trigger::Stop);
            self.rest("requested", turn);
        }
    }

    pub fn out_of_memory(&mut self, turn: &mut Turn<'_>) {
        if self.is_running() {
            self.oom = true;
            self.must_tell(turn, "oom", Fields::default());
        }
    }
}
