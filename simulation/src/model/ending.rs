//! How an instance ends and what follows, as the prose has it: the second half of a [`Course`].

use super::course::{Course, Deferral, KILL_WAIT, Phase, STRETCH, Turn, Why};
use super::token::Token;
use crate::invariants::Law;
use std::time::Duration;
use supervisor::config::{Escalation, RestartPolicy, ServiceType, StopMode};
use supervisor::core::spawn::Fault as SpawnFault;
use supervisor::core::table::Trigger;
use supervisor::core::{ExitStatus, ProbeKind, Program, State};

type Time = Duration;

impl Course {
    /// What the law held against it is forgotten.
    pub fn anew(&mut self, law: Law) {
        self.law = law;
        self.row = 0;
        self.window.clear();
        (self.wanted, self.done) = (true, false);
        self.enter(State::Stopped);
    }

    /// Told to go: the signal first.
    pub fn take(&mut self, why: Why, turn: &mut Turn<'_>) {
        self.must(turn, Token::Told("stop"));
        self.begin_stopping(why, turn);
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

    pub fn begin_stopping(&mut self, why: Why, turn: &mut Turn<'_>) {
        self.end_health(turn.now);
        self.enter(State::Stopping);
        self.leaving = None;
        self.why = why;
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

    pub fn exited(&mut self, status: &ExitStatus, turn: &mut Turn<'_>) {
        if !std::mem::take(&mut self.process) {
            return;
        }
        self.saw(turn, Trigger::Exited);
        self.law = Law::NoLostExit;
        let by_kill = matches!(status, ExitStatus::Signal(9, _));
        let done = *status == ExitStatus::Code(0) && !(self.oom && by_kill);
        if let (State::Starting, Program::PreStart(number), true) = (self.state, self.program, done)
        {
            self.program = match number + 1 {
                next if next < self.spec.pre_start.len() => Program::PreStart(next),
                _ => Program::Main,
            };
            // What ran out of memory in a check says nothing about what comes after it.
            self.oom = false;
            self.must(turn, Token::Spawn(self.program));
            return;
        }
        let deferred = match status {
            ExitStatus::NotExecuted(failure) if !self.oom => {
                Some(failure.fault).filter(|fault| *fault != SpawnFault::Service)
            }
            _ => None,
        };
        // One that is deferred is told as such; one that is taken away has ended.
        if deferred.is_none() || self.state != State::Starting {
            self.must(turn, Token::Told("exit"));
        }
        let why = match deferred {
            Some(fault) => Why::Deferred(fault),
            // A check that is done has not done the service's work.
            None if done && self.program == Program::Main => Why::Done,
            None => Why::Fault,
        };
        if self.state != State::Stopping {
            self.begin_stopping(why, turn);
        } else if self.why == Why::Leaving {
            self.why = why;
        }
        if self.killed {
            self.kill(turn);
        } else {
            self.signal_the_rest(turn);
        }
    }

    pub fn tree_gone(&mut self, turn: &mut Turn<'_>) {
        if self.process {
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
    pub fn rest(&mut self, turn: &mut Turn<'_>) {
        self.enter(State::Stopped);
        self.leaving = None;
        if self.shut || !self.wanted {
            (self.tried, self.tried_by) = (true, None);
            self.must(turn, Token::Drop);
        }
        self.must(turn, Token::Told("stopped"));
    }

    /// The instance is over.
    pub fn settle(&mut self, turn: &mut Turn<'_>) {
        self.tree = false;
        self.oom = false;
        if !matches!(self.why, Why::Deferred(_)) {
            self.deferral = None;
        }
        let done = self.why == Why::Done;
        let by = self
            .tried_by
            .unwrap_or(self.begun + self.spec.start_timeout);
        self.tried |= done || by <= turn.now;
        self.tried_by = Some(by).filter(|_| !self.tried);
        if self.shut || !self.wanted || self.why == Why::Asked {
            self.law = Law::Policy;
            return self.rest(turn);
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
                self.enter(State::Failed);
                self.must(turn, Token::Told("failed"));
                self.next_level(turn);
            }
            RestartPolicy::OnFailure | RestartPolicy::Never if done => {
                (self.wanted, self.done) = (false, true);
                self.rest(turn);
            }
            RestartPolicy::OnFailure | RestartPolicy::Never => {
                self.enter(State::Failed);
                self.must(turn, Token::Told("failed"));
            }
        }
    }

    pub fn restart(&mut self, turn: &mut Turn<'_>) {
        let (now, intensity) = (turn.now, self.spec.intensity.clone());
        self.law = Law::Intensity;
        self.window.retain(|at| now - *at < intensity.within);
        if self.window.len() as u64 >= u64::from(intensity.restarts) {
            self.enter(State::Failed);
            self.must(turn, Token::Told("failed"));
            return self.next_level(turn);
        }
        self.window.push_back(now);
        self.restarts += 1;
        let delay = self.nth_delay(self.row);
        self.row += 1;
        self.must(turn, Token::Told("restart"));
        self.law = Law::Backoff;
        if delay.is_zero() {
            self.enter(State::Stopped);
        } else {
            self.enter(State::Backoff);
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
        self.must(turn, Token::Told("deferred"));
        self.enter(State::Backoff);
        // Never sooner than a tenth of a second.
        let least = Duration::from_millis(100);
        let (low, high) = self.around(self.nth_delay(deferral.tries));
        self.delay = Some((low.max(least), high.max(least)));
        let for_long = turn.now - deferral.since >= self.spec.start_timeout;
        if self.spec.required && for_long && !deferral.told {
            deferral.told = true;
            self.escalations += 1;
            let then = match fault {
                SpawnFault::Address => Escalation::Degraded,
                SpawnFault::Service | SpawnFault::Machine => self.spec.intensity.then,
            };
            self.tell_the_machine(then, turn);
        }
        self.deferral = Some(deferral);
    }

    /// Failed, and its own law has nothing more for it.
    fn next_level(&mut self, turn: &mut Turn<'_>) {
        self.escalations += 1;
        if self.spec.intensity.then == Escalation::RestartGroup && !self.group_used {
            self.group_used = true;
            self.clean = true;
            return self.anew(Law::GroupRestart);
        }
        self.tell_the_machine(self.spec.intensity.then, turn);
        self.try_later(turn.now);
    }

    pub fn tell_the_machine(&mut self, then: Escalation, turn: &mut Turn<'_>) {
        self.told = true;
        match then {
            Escalation::Degraded if !self.spec.required => {}
            Escalation::Degraded => self.must(turn, Token::Degraded),
            Escalation::RestartGroup | Escalation::Reboot => self.must(turn, Token::Reboot),
        }
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
            self.rest(turn);
        }
    }

    pub fn out_of_memory(&mut self, turn: &mut Turn<'_>) {
        if self.is_running() {
            self.oom = true;
            self.must(turn, Token::Told("oom"));
        }
    }
}
