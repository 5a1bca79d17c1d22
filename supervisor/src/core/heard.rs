//! What a service lets be known: its notifications, its answers to probes, its silence.

use super::death::Cause;
use super::machine::{Machine, Turn, bound};
use super::probe::{Due, ProbeKind, Verdict};
use super::table::{State, Trigger};
use super::{Action, Notification, Program};
use crate::Time;
use crate::config::ServiceType;

impl Machine {
    /// The main process is another one now.
    pub(super) fn main_moved(&mut self, pid: i32, turn: &mut Turn<'_>) {
        if self.is_running() && self.program == Program::Main && self.pid.is_some() {
            let before = self.pid.replace(pid);
            self.end.pid = Some(pid);
            let event = self.event("service.main").with("pid", pid);
            self.tell(turn, event.with("before", before.unwrap_or_default()));
        }
    }

    pub(super) fn notified(&mut self, notification: Notification, turn: &mut Turn<'_>) {
        if !self.is_running() || self.program != Program::Main {
            return;
        }
        match notification {
            Notification::Ready if self.reload.is_some() => {
                self.reload = None;
                self.tell(turn, self.event_with_pid("service.reloaded"));
            }
            Notification::Ready if self.spec.kind == ServiceType::Notify => {
                self.react(Trigger::Ready, None, turn);
            }
            Notification::Ready => {}
            Notification::Reloading if self.state.is_live() && self.state != State::Starting => {
                self.begin_reload(turn);
            }
            Notification::Reloading => {}
            Notification::Stopping => self.react(Trigger::Leaving, None, turn),
            Notification::Watchdog => self.watchdog.ping(turn.now),
            Notification::WatchdogTrigger => self.bark(turn),
            Notification::WatchdogInterval(interval) => self.watchdog.set(turn.now, interval),
            Notification::ExtendTimeout(more) => self.extend(more, turn.now),
            Notification::Status(text) => self.status = text,
        }
    }

    fn extend(&mut self, more: Time, now: Time) {
        let moves = matches!(self.state, State::Starting | State::Stopping) && !self.killed;
        let bound = self.bound.as_mut().filter(|_| moves);
        for bound in bound.into_iter().chain(self.reload.as_mut()) {
            let wanted = now.saturating_add(more).min(bound.furthest);
            bound.ends = bound.ends.max(wanted);
        }
    }

    fn begin_reload(&mut self, turn: &mut Turn<'_>) {
        if self.reload.is_none() {
            self.tell(turn, self.event_with_pid("service.reload"));
        }
        self.reload = Some(bound(self.spec.start_timeout, turn.now));
    }

    /// Somebody wants it to reload. A service that speaks has to say when it is done.
    pub(super) fn reload(&mut self, turn: &mut Turn<'_>) {
        if !self.is_provided() || self.pid.is_none() {
            return;
        }
        let Some(signal) = self.spec.reload_signal else {
            let event = self.event("service.warning").with("what", "reload");
            let event = event.with("error", "no reload-signal is configured; nothing was sent");
            return self.tell(turn, event);
        };
        if self.spec.kind == ServiceType::Notify {
            self.begin_reload(turn);
        } else {
            self.tell(turn, self.event_with_pid("service.reload"));
        }
        self.signal(signal, turn);
    }

    pub(super) fn probed(
        &mut self,
        kind: ProbeKind,
        attempt: u64,
        result: Result<(), String>,
        turn: &mut Turn<'_>,
    ) {
        let Some(track) = self.probes[kind as usize].as_mut() else {
            return;
        };
        let verdict = track.answered(turn.now, attempt, result);
        self.judged(kind, verdict, turn);
    }

    /// Does what is due.
    pub(super) fn timer(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if !due(self.deadline()) {
            return;
        }
        for kind in ProbeKind::ALL {
            let Some(track) = self.probes[kind as usize].as_mut() else {
                continue;
            };
            match track.due(turn.now) {
                Some(Due::Ask(attempt)) => turn.actions.push(Action::Probe {
                    id: self.id,
                    kind,
                    attempt,
                }),
                Some(Due::TimedOut(verdict)) => {
                    turn.actions.push(Action::CancelProbe(self.id, kind));
                    self.judged(kind, verdict, turn);
                }
                None => {}
            }
        }
        if due(self.watchdog.deadline()) {
            self.bark(turn);
        }
        if due(self.reload.map(|b| b.ends)) {
            self.reload = None;
            let seen = format!(
                "no READY=1 within {} ms; it is left running",
                self.spec.start_timeout.as_millis()
            );
            let event = self.event("service.warning").with("what", "reload");
            self.tell(turn, event.with("error", seen));
        }
        if due(self.await_ends) {
            self.await_no_more();
        }
        if due(self.bound.map(|b| b.ends)) {
            self.react(Trigger::Due, None, turn);
        }
    }

    fn bark(&mut self, turn: &mut Turn<'_>) {
        if self.watchdog.deadline().is_some() {
            self.fault(Cause::Watchdog, turn);
        }
    }

    /// It breaks the rules of its channel to init: what it would do with a grace, or with a signal that it can
    /// catch, is known.
    pub(super) fn misbehaved(&mut self, how: String, turn: &mut Turn<'_>) {
        // A oneshot that is done may have left messages behind, but there is nothing to kill.
        if self.state.is_live() && self.pid.is_some() {
            let cause = Cause::Misbehaved(how);
            let event = self.event("service.unhealthy").with("reason", &cause);
            self.tell(turn, event);
            self.go_away(cause, turn);
        }
        if self.state == State::Stopping && !self.killed {
            self.kill_tree(turn);
        }
    }

    fn fault(&mut self, cause: Cause, turn: &mut Turn<'_>) {
        let event = self.event("service.unhealthy").with("reason", &cause);
        self.tell(turn, event);
        self.react(Trigger::Fault, Some(cause), turn);
    }

    fn judged(&mut self, kind: ProbeKind, verdict: Option<Verdict>, turn: &mut Turn<'_>) {
        match (kind, verdict) {
            (_, None) => {}
            (ProbeKind::Startup, Some(Verdict::Good)) => self.started_up(turn),
            (ProbeKind::Readiness, Some(Verdict::Good)) => {
                self.react(Trigger::Ready, None, turn);
                self.react(Trigger::Fit, None, turn);
            }
            (ProbeKind::Readiness, Some(Verdict::Bad)) => self.react(Trigger::Unfit, None, turn),
            (ProbeKind::Liveness, Some(Verdict::Good)) => {
                self.alive = true;
                self.react(Trigger::Alive, None, turn);
            }
            (ProbeKind::Startup | ProbeKind::Liveness, Some(Verdict::Bad)) => {
                let last = self.last_fault(kind);
                self.fault(Cause::Probe(kind.name(), last), turn);
            }
        }
    }

    /// The startup probe succeeded: the others are let go.
    fn started_up(&mut self, turn: &mut Turn<'_>) {
        if let Some(track) = self.probes[ProbeKind::Startup as usize].as_mut() {
            track.off();
        }
        if self.state == State::Starting {
            if self.spec.kind != ServiceType::Probe {
                return;
            }
            if self.spec.readiness.is_none() {
                self.react(Trigger::Ready, None, turn);
            } else {
                self.switch_on(ProbeKind::Readiness, turn.now);
            }
            return;
        }
        self.switch_on(ProbeKind::Readiness, turn.now);
        self.switch_on(ProbeKind::Liveness, turn.now);
        if self.alive {
            self.react(Trigger::Alive, None, turn);
        }
    }
}
