//! How an instance ends, and what follows: the second half of the machine's reactions.
//!
//! An instance is taken away by a request or a fault of its own, or ends by itself. Either way its
//! whole tree has to be gone before anything else is decided; then its death is recorded, and the
//! restart law, or the level above it, says what comes next.

use super::death::{Cause, Death, ExitStatus};
use super::machine::{Ending, KILL_WAIT, Machine, Turn};
use super::probe::{ProbeKind, Track};
use super::restart;
use super::table::{State, Trigger};
use super::{Action, Exit, Program, SpawnFailure};
use crate::Time;
use crate::config::{ServiceType, StopMode};
use crate::event::Event;

/// Ends of instances that are kept.
const DEATHS: usize = 8;

impl Machine {
    /// Nothing runs and nothing is to run.
    pub(super) fn rest(&mut self, cause: &str, turn: &mut Turn<'_>) {
        self.enter(State::Stopped, turn.now);
        self.leave = None;
        if self.shut || !self.wanted {
            self.await_no_more();
            turn.actions.push(Action::DropStored(self.id));
        }
        self.tell(turn, self.event("service.stopped").with("cause", cause));
    }

    /// Takes the instance away; what follows depends on the cause.
    pub(super) fn take(&mut self, cause: Cause, turn: &mut Turn<'_>) {
        if self.is_finished() {
            // A oneshot that has done its work: there is nothing to wait for.
            self.end_health(turn.now);
            return self.rest(&cause.to_string(), turn);
        }
        self.go_away(cause, turn);
        match self.spec.stop_mode {
            StopMode::Process => self.signal(self.spec.stop_signal, turn),
            StopMode::Tree => self.signal_tree(turn),
        }
    }

    /// The instance is on its way out, and has so much time for that.
    pub(super) fn go_away(&mut self, cause: Cause, turn: &mut Turn<'_>) {
        self.tell(
            turn,
            self.event_with_pid("service.stop").with("cause", &cause),
        );
        self.begin_end(cause, turn);
    }

    pub(super) fn signal(&self, signal: i32, turn: &mut Turn<'_>) {
        turn.actions.push(Action::Signal(self.id, signal));
    }

    fn signal_tree(&mut self, turn: &mut Turn<'_>) {
        self.tree_signalled = true;
        let signal = self.spec.stop_signal;
        turn.actions.push(Action::SignalTree(self.id, signal));
    }

    /// The process ended: the next one's turn, or the end of the instance.
    pub(super) fn sweep(&mut self, cause: Option<Cause>, turn: &mut Turn<'_>) {
        if let (State::Starting, Program::PreStart(done)) = (self.state, self.program)
            && cause.as_ref().is_some_and(Cause::is_success)
        {
            self.program = if done + 1 < self.spec.pre_start.len() {
                Program::PreStart(done + 1)
            } else {
                Program::Main
            };
            self.end = Ending::default();
            turn.actions.push(Action::Spawn(self.id, self.program));
            return;
        }
        if self.state != State::Stopping {
            let cause = match (cause, self.program) {
                (Some(Cause::Ended(status)), Program::PreStart(number)) => {
                    Cause::PreStart(number + 1, status)
                }
                (cause, _) => cause.unwrap_or(Cause::Ended(ExitStatus::Unknown)),
            };
            self.begin_end(cause, turn);
        } else if let (Some(Cause::Leaving(how)), Some(Cause::Ended(status))) =
            (&mut self.cause, cause)
        {
            *how = Some(status);
        }
        if self.killed {
            // Whoever was made since the first kill is found by a second one.
            self.kill_tree(turn);
        } else if !self.tree_signalled {
            self.signal_tree(turn);
        }
    }

    pub(super) fn tighten(&mut self, turn: &mut Turn<'_>) {
        if !self.killed {
            return self.kill_tree(turn);
        }
        self.tell(
            turn,
            self.event("service.stuck")
                .with("waited_ms", KILL_WAIT.as_millis())
                .with("then", "going on without it"),
        );
        self.pid = None;
        turn.actions.push(Action::Abandon(self.id));
        self.settle(turn);
    }

    pub(super) fn kill_tree(&mut self, turn: &mut Turn<'_>) {
        self.killed = true;
        self.bound_by(KILL_WAIT, turn.now);
        turn.actions.push(Action::KillTree(self.id));
    }

    pub(super) fn begin_end(&mut self, cause: Cause, turn: &mut Turn<'_>) {
        self.end_health(turn.now);
        self.enter(State::Stopping, turn.now);
        self.leave = None;
        self.watchdog.disarm();
        self.reload = None;
        (self.killed, self.tree_signalled) = (false, false);
        self.cause = Some(cause);
        self.bound_by(self.spec.stop_timeout, turn.now);
        for kind in ProbeKind::ALL {
            if self.probes[kind as usize].as_mut().is_some_and(Track::off) {
                turn.actions.push(Action::CancelProbe(self.id, kind));
            }
        }
    }

    /// The instance is gone; decides what follows.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) {
        let cause = self.cause.take().unwrap_or(Cause::Requested);
        if Self::is_deferred(&cause).is_none() {
            self.bury(cause.clone(), turn.now);
            self.deferral = None;
        } else {
            self.end = Ending::default();
        }
        if cause.is_success() {
            self.await_no_more();
        }
        self.await_restart(turn.now);
        if self.spec.kind == ServiceType::Oneshot && cause.is_success() && self.wanted && !self.shut
        {
            return self.heal(turn);
        }
        if self.shut || !self.wanted || cause.is_asked() {
            return self.rest(&cause.to_string(), turn);
        }
        if let Some(failure) = Self::is_deferred(&cause) {
            return self.defer(failure, turn);
        }
        let success = cause.is_success();
        let policy = self.spec.restart.name();
        let failed = |machine: &Self| {
            let event = machine.event("service.failed").with("cause", &cause);
            event.with("restart", policy)
        };
        if self.is_restarted(success) {
            self.restart(&cause, turn);
        } else if self.spec.required {
            let why = format!("ended ({cause}), and restart = {policy:?} does not bring it back");
            self.escalate(failed(self), why, turn);
        } else if success {
            (self.wanted, self.done) = (false, true);
            self.rest("done", turn);
        } else {
            self.enter(State::Failed, turn.now);
            self.tell(turn, failed(self));
        }
    }

    /// If its first start came to nothing, those that come after it wait on, as long as another start is
    /// coming; but not for longer than its `start-timeout`, counted from the first.
    fn await_restart(&mut self, now: Time) {
        if self.tried {
            return;
        }
        let first = self.started.saturating_add(self.spec.start_timeout);
        let ends = *self.await_ends.get_or_insert(first);
        if ends <= now {
            self.await_no_more();
        }
    }

    fn restart(&mut self, cause: &Cause, turn: &mut Turn<'_>) {
        match self.restarts.decide(&self.spec, turn.now, turn.random) {
            restart::Verdict::After(delay) => {
                let event = self
                    .event("service.restart")
                    .with_ms("delay_ms", delay)
                    .with("restarts", self.restarts.total())
                    .with("cause", cause);
                self.tell(turn, event);
                if delay.is_zero() {
                    self.enter(State::Stopped, turn.now);
                } else {
                    self.enter(State::Backoff, turn.now);
                    self.bound_by(delay, turn.now);
                }
            }
            restart::Verdict::Exhausted => {
                let event = self
                    .event("service.failed")
                    .with("cause", cause)
                    .with("restarts", self.spec.intensity.restarts)
                    .with_ms("within_ms", self.spec.intensity.within);
                self.escalate(event, "used up its restarts".into(), turn);
            }
        }
    }

    fn bury(&mut self, cause: Cause, now: Time) {
        let Ending {
            pid,
            status,
            oom,
            memory_peak,
        } = std::mem::take(&mut self.end);
        if self.deaths.len() >= DEATHS {
            self.deaths.pop_front();
        }
        self.deaths.push_back(Death {
            at: now,
            pid,
            uptime: now.saturating_sub(self.started),
            cause,
            status,
            oom,
            memory_peak,
        });
    }

    pub(super) fn end_health(&mut self, now: Time) {
        if let Some(since) = self.healthy_since.take()
            && now.saturating_sub(since) >= self.spec.backoff.reset_after
        {
            self.restarts.sustained();
            self.group_restarted = false;
        }
    }

    pub(super) fn spawn_failed(&mut self, failure: SpawnFailure, turn: &mut Turn<'_>) {
        // What is known so far is of a check before it that passed.
        self.end = Ending::default();
        let error = self.event("service.exit").with("error", &failure);
        let cause = Cause::NotSpawned(failure);
        if Self::is_deferred(&cause).is_none() {
            self.tell(turn, error);
        }
        // A check before it may have left something behind.
        self.react(Trigger::NotSpawned, Some(cause), turn);
    }

    pub(super) fn exited(&mut self, exit: Exit, turn: &mut Turn<'_>) {
        let Some(pid) = self.pid.take() else { return };
        let Exit {
            status,
            memory_peak,
        } = exit;
        self.end.memory_peak = memory_peak;
        let ended = match &status {
            ExitStatus::Signal(libc::SIGKILL, _) if self.end.oom => Cause::OutOfMemory,
            // If the service has reached its own limit, the memory that was missing is its own, too.
            ExitStatus::NotExecuted(failure) if failure.is_foreign() && !self.end.oom => {
                Cause::NotSpawned(failure.clone())
            }
            status => Cause::Ended(status.clone()),
        };
        let check_passed = self.program != Program::Main && ended.is_success();
        // A start that is deferred is told as such, once it is.
        let goes_on = check_passed || Self::is_deferred(&ended).is_some();
        if !goes_on || self.state != State::Starting {
            let event = self.exit_event(pid, &status, turn.now);
            // A oneshot that has done its work has not ended for a reason that anybody asks for.
            if self.spec.kind == ServiceType::Oneshot && ended.is_success() {
                self.tell_start(turn, event);
            } else {
                self.tell(turn, event);
            }
        }
        self.end.status = Some(status);
        self.react(Trigger::Exited, Some(ended), turn);
    }

    fn exit_event(&self, pid: i32, status: &ExitStatus, now: Time) -> Event {
        let mut event = self.event("service.exit").with("pid", pid);
        if let Program::PreStart(number) = self.program {
            event = event.with("pre_start", number + 1);
        }
        event = match status {
            ExitStatus::Code(code) => event.with("status", code),
            ExitStatus::Signal(signal, core) => event.with("signal", signal).with("core", core),
            ExitStatus::NotExecuted(failure) => event.with("error", failure),
            ExitStatus::Unknown => event.with("status", "unknown"),
        };
        event = event.with_ms("uptime_ms", now.saturating_sub(self.started));
        if self.end.oom {
            event = event.with("oom", true);
        }
        if let Some(peak) = self.end.memory_peak {
            event = event.with("memory_peak", peak);
        }
        match &self.cause {
            Some(cause) => event.with("cause", cause),
            None => event,
        }
    }

    /// The kernel killed in the tree for want of memory.
    pub(super) fn out_of_memory(&mut self, turn: &mut Turn<'_>) {
        if self.is_running() {
            self.end.oom = true;
            self.tell(turn, self.event("service.oom"));
        }
    }

    pub(super) fn tree_gone(&mut self, turn: &mut Turn<'_>) {
        if self.pid.is_none() {
            self.react(Trigger::Gone, None, turn);
        }
    }

    /// From now on nothing is started or restarted.
    pub(super) fn shut(&mut self, turn: &mut Turn<'_>) {
        self.shut = true;
        if matches!(self.state, State::Backoff | State::Failed) {
            self.react(Trigger::Stop, None, turn);
        }
    }
}
