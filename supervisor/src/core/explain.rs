//! What there is to tell about a service: its whole status, and in words why it is as it is and what
//! comes next.

use super::death::Death;
use super::machine::Machine;
use super::probe::{ProbeKind, Track};
use super::table::State;
use super::{Core, Id, Missing, Program};
use crate::Time;
use crate::config::{Escalation, ServiceType};
use crate::millis;
use crate::status::{Explanation, Next, ServiceStatus};

impl Core {
    /// Everything there is to tell about every service, in the order in which they start. What the kernel
    /// knows is left for the driver to fill in.
    #[must_use]
    pub fn status(&self, now: Time) -> Vec<ServiceStatus> {
        let order = self.graph.order().iter();
        order.filter_map(|id| self.status_of(*id, now)).collect()
    }

    /// The same of one service.
    #[must_use]
    pub fn status_of(&self, id: Id, now: Time) -> Option<ServiceStatus> {
        let machine = self.machines.get(id.0)?;
        let names = |ids: &[Id]| {
            let machines = ids.iter().filter_map(|id| self.machines.get(id.0));
            machines.map(|m| m.spec.name.clone()).collect()
        };
        let spec = &machine.spec;
        let probes = ProbeKind::ALL
            .iter()
            .filter_map(|kind| Some(machine.track(*kind)?.status(*kind)));
        Some(ServiceStatus {
            name: spec.name.clone(),
            state: machine.state.name().to_owned(),
            since_at_ms: millis(machine.since),
            wanted: machine.wanted,
            required: spec.required,
            kind: spec.kind.name().to_owned(),
            pid: machine.pid,
            started_at_ms: machine.is_running().then(|| millis(machine.started)),
            status_text: machine.status.clone(),
            reloading: machine.reload.is_some(),
            after: spec.after.clone(),
            requires: spec.requires.clone(),
            required_by: names(self.graph.required_by(id)),
            restarts: machine.restarts.total(),
            starts: machine.entered(State::Starting),
            intensity: (machine.restarts.recent(spec, now), spec.intensity.restarts),
            probes: probes.collect(),
            watchdog: machine.watchdog.status(now),
            deaths: machine.deaths.iter().map(Death::status).collect(),
            sockets: spec.sockets.iter().map(ToString::to_string).collect(),
            explanation: self.explain(id, now),
            transitions: State::ALL
                .iter()
                .map(|state| (state.name().to_owned(), machine.entered(*state)))
                .collect(),
            resources: Default::default(),
            stored_fds: 0,
            log_lost: Default::default(),
        })
    }

    fn explain(&self, id: Id, now: Time) -> Explanation {
        let Some(machine) = self.machines.get(id.0) else {
            return Explanation::default();
        };
        let mut next = machine.next(now);
        if machine.leave.is_some() {
            let behind = self
                .graph
                .required_by(id)
                .iter()
                .chain(self.graph.followers(id));
            let behind = behind
                .filter_map(|b| self.machines.get(b.0))
                .find(|b| b.is_running());
            let what = behind.map_or_else(
                || "it is stopped".to_owned(),
                |b| format!("it is stopped when {} is gone", b.spec.name),
            );
            next.insert(0, Next { what, in_ms: None });
        }
        let because = match machine.state {
            State::Stopped => self.why_stopped(id, machine),
            _ => machine.because(),
        };
        Explanation { because, next }
    }

    fn why_stopped(&self, id: Id, machine: &Machine) -> String {
        if self.stopping {
            return "everything is being stopped".into();
        }
        let outlooks = self.outlooks();
        match (machine.wanted, self.missing(id, &outlooks)) {
            (true, Some(Missing::Milestone(name))) => format!("it waits for {name}"),
            (true, Some(Missing::Service(other))) => {
                let other = self.machines.get(other.0);
                let (name, state) =
                    other.map_or(("", ""), |m| (m.spec.name.as_str(), m.state.name()));
                format!("it waits for {name}, which is {state}")
            }
            (true, Some(Missing::EndOf(other))) => {
                let other = self.machines.get(other.0);
                let name = other.map_or("", |m| m.spec.name.as_str());
                format!("it waits for the end of {name}")
            }
            (true, None) => "it is about to start".into(),
            (false, _) if machine.done => "it ended with success, and is not restarted then".into(),
            (false, _) => match machine.deaths.back() {
                Some(death) => format!("it was asked to stop; it ended: {}", death.cause),
                None => "it was asked not to run".into(),
            },
        }
    }
}

impl Machine {
    fn because(&self) -> String {
        let last_death = || {
            let death = self.deaths.back();
            death.map_or_else(String::new, |d| {
                format!("{} after {} ms", d.cause, d.uptime.as_millis())
            })
        };
        match self.state {
            State::Stopped => String::new(),
            State::Starting => match (self.program, self.spec.kind) {
                (Program::PreStart(number), _) => {
                    format!("its pre-start check {} is running", number + 1)
                }
                (Program::Main, ServiceType::Notify) => "it has not said READY=1 yet".into(),
                (Program::Main, ServiceType::Oneshot) => "it has not ended yet".into(),
                (Program::Main, ServiceType::Probe | ServiceType::Exec) => {
                    format!("{} has not succeeded yet", self.probe_in_charge())
                }
            },
            State::Ready => format!(
                "it is ready; {} has not succeeded yet",
                self.probe_in_charge()
            ),
            State::Healthy if self.pid.is_none() => "it has done its work and ended with 0".into(),
            State::Healthy if self.spec.liveness.is_some() => "its liveness probe succeeded".into(),
            State::Healthy => {
                "it is ready, and no probe is configured that would have to succeed".into()
            }
            State::Unhealthy => format!(
                "its readiness probe fails: {}",
                self.last_fault(ProbeKind::Readiness)
            ),
            State::Stopping => {
                let cause = self.cause.as_ref().map(ToString::to_string);
                let what = match (self.pid, self.killed) {
                    (Some(_), false) => "the stop signal was sent",
                    (None, false) => "its main process is gone, others are not yet",
                    (Some(_), true) => "its tree was killed, the main process is not reaped yet",
                    (None, true) => "its tree was killed and is not empty yet",
                };
                format!("{}; {what}", cause.unwrap_or_default())
            }
            State::Backoff => match &self.deferral {
                Some(deferral) => format!("no process could be made: {}", deferral.why),
                None => last_death(),
            },
            State::Failed => format!("{}; {}", last_death(), self.why_not_restarted()),
        }
    }

    fn why_not_restarted(&self) -> String {
        let success = self.deaths.back().is_some_and(|d| d.cause.is_success());
        if self.is_restarted(success) {
            let intensity = &self.spec.intensity;
            return format!(
                "{} restarts within {:?} are allowed",
                intensity.restarts, intensity.within
            );
        }
        let policy = self.spec.restart.name();
        format!("restart = {policy:?} does not bring it back")
    }

    fn probe_in_charge(&self) -> &'static str {
        let on = |kind| self.track(kind).is_some_and(Track::is_on);
        if on(ProbeKind::Startup) {
            "its startup probe"
        } else if self.state == State::Ready {
            "its liveness probe"
        } else {
            "its readiness probe"
        }
    }

    /// What comes next by itself, the soonest first.
    fn next(&self, now: Time) -> Vec<Next> {
        let at = |what: String, at: Time| Next {
            what,
            in_ms: Some(millis(at.saturating_sub(now))),
        };
        let mut next = Vec::new();
        if let Some(bound) = self.bound {
            let what = match self.state {
                State::Starting => "the start is given up if it is not ready by then",
                State::Stopping if self.killed => "it is given up and told as stuck",
                State::Stopping => "the whole tree is killed",
                State::Backoff => "it is started",
                State::Failed => "it is tried anew",
                State::Stopped => match self.spec.intensity.then {
                    Escalation::Degraded => "the machine is told to be degraded",
                    Escalation::Reboot | Escalation::RestartGroup => "the machine reboots",
                },
                State::Unhealthy => "the machine is told to be degraded",
                State::Ready | State::Healthy => "",
            };
            next.push(at(what.into(), bound.ends));
        }
        if let Some(ends) = self.await_ends {
            next.push(at("those that come after it wait no more".into(), ends));
        }
        if let Some(bound) = self.reload {
            next.push(at("the reload has taken too long".into(), bound.ends));
        }
        if let Some(ends) = self.watchdog.deadline() {
            next.push(at("it is ended if it stays silent (watchdog)".into(), ends));
        }
        for kind in ProbeKind::ALL {
            if let Some((track, due)) = self.track(kind).and_then(|t| Some((t, t.deadline()?))) {
                let bad = track.bad_in_a_row();
                let of = track.probe().failures;
                // Until it is ready, its readiness probe only waits: no number of failures ends that.
                let what = match (self.state, kind) {
                    (State::Starting, ProbeKind::Readiness) => format!("{} probe", kind.name()),
                    _ => format!("{} probe ({bad} of {of} failures)", kind.name()),
                };
                next.push(at(what, due));
            }
        }
        next.sort_by_key(|n| n.in_ms);
        match self.state {
            State::Failed if next.is_empty() => next.push(Next {
                what: "nothing, until somebody asks for a start".into(),
                in_ms: None,
            }),
            State::Starting | State::Ready | State::Healthy | State::Unhealthy | State::Backoff => {
                let left = self.spec.intensity.restarts;
                let left = left.saturating_sub(self.restarts.recent(&self.spec, now));
                next.push(Next {
                    what: format!(
                        "{} after {left} more restart{} within {:?}",
                        self.spec.intensity.then.name(),
                        if left == 1 { "" } else { "s" },
                        self.spec.intensity.within
                    ),
                    in_ms: None,
                });
            }
            State::Stopped | State::Stopping | State::Failed => {}
        }
        next
    }
}
