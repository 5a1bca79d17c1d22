//! What the level above a service is told when its own law does not bring it back.
//!
//! A service is *lost* when it used up its restarts, or, if boot health depends on it (`required`), when it
//!
//! * ended and its restart policy has no restart for that end, with success or without;
//! * could not be started for its `start-timeout`, by no fault of its own ([`super::spawn`]);
//! * cannot start because something that it requires is down ([`super::outlook`]), for longer than its
//!   `start-timeout`; unless an operator stopped that;
//! * has been unhealthy, which no restart follows, for longer than its `start-timeout`.
//!
//! What follows is `intensity.then`, and only `degraded` for one that is unhealthy: it runs, and whoever
//! wants a restart for that gives it a liveness probe. Nobody is lost for ever, either: one that failed is
//! tried anew after `retry-after`, whatever became of the reboot.

use super::Action;
use super::machine::{Machine, Turn};
use super::outlook::Blocked;
use super::probe::ProbeKind;
use super::table::State;
use crate::Time;
use crate::config::{Escalation, RestartPolicy};
use crate::event::Event;

impl Machine {
    /// Whether its restart policy has a restart for such an end.
    pub(super) fn is_restarted(&self, success: bool) -> bool {
        match self.spec.restart {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Always => true,
        }
    }

    /// It failed, as this event tells, and the level above decides: `why` is what that is told.
    pub(super) fn escalate(&mut self, event: Event, why: String, turn: &mut Turn<'_>) {
        let then = match self.spec.intensity.then {
            Escalation::RestartGroup if self.group_restarted => Escalation::Reboot,
            then => then,
        };
        self.enter(State::Failed, turn.now);
        self.tell(turn, event.with("then", then.name()));
        match then {
            Escalation::RestartGroup => {
                self.group_restarted = true;
                self.restarts.forget();
                self.clean = true;
                self.enter(State::Stopped, turn.now);
            }
            Escalation::Reboot | Escalation::Degraded => {
                self.call_the_machine(then, why, turn);
                self.schedule_retry(turn);
            }
        }
    }

    pub(super) fn call_the_machine(&self, then: Escalation, why: String, turn: &mut Turn<'_>) {
        let id = self.id;
        match then {
            Escalation::RestartGroup | Escalation::Reboot => {
                turn.actions.push(Action::Reboot { id, why });
            }
            // An optional service concerns the machine only if its law says reboot.
            Escalation::Degraded if self.spec.required => {
                turn.actions.push(Action::Degraded { id, why });
            }
            Escalation::Degraded => {}
        }
    }

    /// Failed it stays, but not for ever.
    pub(super) fn schedule_retry(&mut self, turn: &mut Turn<'_>) {
        if let (State::Failed, Some(delay)) = (self.state, self.spec.intensity.retry_after) {
            // A fleet that failed together does not return in lockstep.
            let delay = turn.random.vary(delay, self.spec.backoff.jitter);
            self.bound_by(delay, turn.now);
        }
    }

    /// What it requires is down, or is not any more.
    pub(super) fn set_blocked(&mut self, blocked: Option<Blocked>, turn: &mut Turn<'_>) {
        if self.blocked == blocked {
            return;
        }
        let counted = |b: &Option<Blocked>| b.as_ref().is_some_and(|b| !b.by_operator);
        let bounded = self.spec.required && counted(&blocked);
        if !bounded {
            self.bound = self.bound.filter(|_| self.state != State::Stopped);
        } else if !counted(&self.blocked) {
            self.bound_by(self.spec.start_timeout, turn.now);
        }
        if let Some(blocked) = &blocked {
            self.tell(turn, self.blocked_event(blocked));
        }
        self.blocked = blocked;
    }

    fn blocked_event(&self, blocked: &Blocked) -> Event {
        self.event("service.blocked")
            .with("dependency", &blocked.dependency)
            .with("state", blocked.state.name())
    }

    /// It waited, or was unhealthy, for as long as the machine puts up with that.
    pub(super) fn overdue(&mut self, turn: &mut Turn<'_>) {
        self.bound = None;
        let waited = self.spec.start_timeout;
        match (self.state, self.blocked.clone()) {
            (State::Stopped, Some(blocked)) => {
                // Nothing of its group runs, so there is no group to restart.
                let then = match self.spec.intensity.then {
                    Escalation::RestartGroup => Escalation::Reboot,
                    then => then,
                };
                let event = self.blocked_event(&blocked).with_ms("waited_ms", waited);
                self.tell(turn, event.with("then", then.name()));
                let why = format!(
                    "requires {}, which is {}",
                    blocked.dependency,
                    blocked.state.name()
                );
                self.call_the_machine(then, why, turn);
            }
            (State::Unhealthy, _) => {
                let why = format!(
                    "has been unhealthy for {} ms: {}",
                    waited.as_millis(),
                    self.last_fault(ProbeKind::Readiness)
                );
                self.call_the_machine(Escalation::Degraded, why, turn);
            }
            _ => {}
        }
    }

    /// How long a required service may be unhealthy, or wait for what is down.
    pub(super) fn patience(&self) -> Option<Time> {
        self.spec.required.then_some(self.spec.start_timeout)
    }
}
