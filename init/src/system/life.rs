//! The life of the machine, decided: from the start of its services to its end.
//!
//! ```text
//!                well                  lasting health
//!   starting ----------> running   <------------------+
//!       |                  |  a reboot is refused     |
//!       |                  +-----------------> degraded
//!       |                  |                      |
//!       +------------------+----------------------+--> stopping: whoever asked first, and why
//! ```
//!
//! * **starting** until all required services are healthy, told once as `boot.healthy`;
//! * **running**;
//! * **degraded**: a service does not come back and the machine used up its reboots (see [`super::budget`]). It
//!   stays up with whatever still runs; the service is tried again after its `retry-after`. Where the reboot could only
//!   not be counted, that is tried again, and it is made up for if the service is still down by then.
//! * **stopping** from the first request on. When nothing runs any more, or [`STOP_MAX`] has passed, the
//!   machine ends. Further requests change nothing.
//!
//! Pure: [`Life::step`] takes the observed time (see [`supervisor::core::ObservedTime`]) and what happened
//! and says what follows; [`super::machine`] does it.

use super::budget::{self, Budget, Count, Starts, Verdict};
use super::sustained::{Look, SustainedHealth};
use crate::manager::{STOP_MAX, Verb, degraded_by, services_left};
use supervisor::Time;
use supervisor::core::Id;
use supervisor::event::Event;

/// When a machine without an address lets the services go on that come after `net`.
pub const NET_WAIT: Time = Time::from_secs(10);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A turn of the loop: how the services are.
    Look {
        /// Whether every required service is healthy.
        well: bool,
        /// Restarts since the boot of the services whose law may ask for a reboot.
        restarts: u64,
        /// Whether one of the services that [wait for a reboot](Life::asked_by) is still down.
        down: bool,
    },
    /// The machine has an address.
    Address,
    /// Somebody wants the end of the machine, for a reason that is no fault of it.
    Asked(Verb, String),
    /// A service does not come back by its own law, and what follows is a reboot. Its name, and why.
    Escalated(Id, String, String),
    /// The same, and what follows is that the machine stays up and tells.
    Lost(String, String),
    /// A failed trial wants a reboot, and nothing else is sure: the services that asked for one in the
    /// meantime, and why.
    TrialFailed(Vec<Id>, String),
    /// The count of starts is on the disk, or why it may not be.
    CountWritten(Result<(), String>),
    /// Nothing runs any more.
    AllStopped,
}

/// Something that is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Tell.
    Emit(Event),
    /// All required services are healthy for the first time.
    BootSucceeded,
    /// Services that come after `net` may start.
    ReachNet,
    /// Have the count of starts written to the disk by a child. Answered by `CountWritten`.
    WriteCount(Starts),
    /// That took too long; the child is of no use any more.
    GiveUpWriting,
    /// The machine is degraded from now on.
    SetDegraded,
    /// The reboot that this service asked for is not going to be.
    RefuseReboot(Id),
    /// Stop all services.
    StopAll,
    /// End the machine.
    Finish(Verb),
}

/// Why the services, or a trial, want a reboot that is not decided yet.
#[derive(Debug)]
struct Wish {
    service: Option<String>,
    why: String,
    /// All services that asked for it.
    services: Vec<Id>,
    /// Whether it was refused for now, because it could not be counted.
    is_postponed: bool,
}

/// The stop of everything.
#[derive(Debug)]
struct Stop {
    verb: Verb,
    ends: Time,
    all_stopped: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Life {
    budget: Budget,
    booted: bool,
    /// Until no starts in a row did not last.
    sustained: SustainedHealth,
    /// Until the next of the recent starts is forgotten.
    forgetting: SustainedHealth,
    /// When services that wait for the network are let go, until it is there.
    net_due: Option<Time>,
    wish: Option<Wish>,
    /// The services that have no answer yet to the reboot that they asked for.
    escalated: Vec<Id>,
    stop: Option<Stop>,
}

impl Life {
    /// Of a machine whose services are started `now`. `looks_back` is the longest time that the law of a
    /// service counts restarts over before it asks for a reboot.
    ///
    /// Lasting health is at least that long. So a fault that comes back regularly either comes often enough
    /// to interrupt it, or too seldom to use restarts up.
    #[must_use]
    pub fn new(now: Time, count: Count, looks_back: Time) -> Self {
        Self {
            budget: Budget::new(count),
            booted: false,
            sustained: SustainedHealth::new(budget::SUSTAINED.max(looks_back)),
            forgetting: SustainedHealth::new(budget::FORGOTTEN_AFTER.max(looks_back)),
            net_due: Some(now.saturating_add(NET_WAIT)),
            wish: None,
            escalated: Vec::new(),
            stop: None,
        }
    }

    /// Whether the machine is being stopped.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// The services whose reboot waits until it can be counted.
    #[must_use]
    pub fn asked_by(&self) -> &[Id] {
        self.wish.as_ref().map_or(&[], |wish| &wish.services)
    }

    /// When to [`step`](Self::step) again at the latest, in observed time.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let dues = [self.net_due, self.budget.due()];
        let more = match &self.stop {
            Some(stop) => [Some(stop.ends), None, None],
            None => [
                self.sustained.due(),
                self.forgetting.due().filter(|_| self.budget.has_recent()),
                self.budget.retry(),
            ],
        };
        dues.into_iter().chain(more).flatten().min()
    }

    /// Takes one input and says what follows from it, in the order to do it.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Look {
                well,
                restarts,
                down,
            } => self.look(now, well, restarts, down, &mut actions),
            Input::Address => {
                if self.net_due.take().is_some() {
                    actions.push(Action::ReachNet);
                }
            }
            Input::Asked(verb, reason) => {
                if self.stop.is_none() {
                    self.budget.ends_on_request();
                    self.begin_stop(now, verb, &reason, &mut actions);
                }
            }
            Input::Escalated(id, service, why) => {
                self.wish(now, vec![id], Some(service), why, &mut actions);
            }
            Input::Lost(service, why) => {
                if self.stop.is_none() {
                    let event = degraded_by(&service, &why);
                    actions.extend([Action::SetDegraded, Action::Emit(event)]);
                }
            }
            Input::TrialFailed(services, why) => {
                self.wish(now, services, None, why, &mut actions);
            }
            Input::CountWritten(result) => self.written(now, result, &mut actions),
            Input::AllStopped => {
                if let Some(stop) = &mut self.stop {
                    stop.all_stopped = true;
                }
            }
        }
        self.expire(now, &mut actions);
        if let Some(starts) = self.budget.write(now, false) {
            actions.push(Action::WriteCount(starts));
        }
        if let Some(stop) = &self.stop
            && stop.all_stopped
            && !self.budget.is_writing()
        {
            actions.push(Action::Finish(stop.verb));
        }
        actions
    }

    fn look(
        &mut self,
        now: Time,
        well: bool,
        restarts: u64,
        down: bool,
        actions: &mut Vec<Action>,
    ) {
        if well && !self.booted {
            self.booted = true;
            actions.push(Action::BootSucceeded);
        }
        // A trial may have asked for itself alone.
        let is_over = |wish: &mut Wish| match wish.services.is_empty() {
            true => wish.is_postponed && well,
            false => wish.is_postponed && !down,
        };
        self.wish.take_if(is_over);
        if self.stop.is_some() {
            return;
        }
        if self.sustained.look(now, well, restarts) == Look::Reached {
            self.budget.lasted();
        }
        if self.forgetting.look(now, well, restarts) == Look::Reached {
            self.budget.forget_one();
            self.forgetting.begin_next();
        }
    }

    /// Does what is due.
    fn expire(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.net_due.take_if(|due| *due <= now).is_some() {
            actions.push(Action::Emit(
                Event::new("boot.warning")
                    .with("what", "net")
                    .with("seen", "no address yet")
                    .with_ms("waited_ms", NET_WAIT)
                    .with("then", "going on without"),
            ));
            actions.push(Action::ReachNet);
        }
        if self.budget.due().is_some_and(|due| due <= now) {
            actions.push(Action::GiveUpWriting);
            let waited = budget::WRITE_MAX.as_secs();
            self.written(
                now,
                Err(format!("no answer of the disk within {waited} s")),
                actions,
            );
        }
        let retry = self.budget.retry().filter(|_| self.stop.is_none());
        if retry.is_some_and(|due| due <= now) {
            let again = self.budget.write(now, true);
            actions.extend(again.map(Action::WriteCount));
        }
        if let Some(stop) = self.stop.as_ref().filter(|stop| stop.ends <= now) {
            actions.push(Action::Emit(services_left()));
            actions.push(Action::Finish(stop.verb));
        }
    }

    fn wish(
        &mut self,
        now: Time,
        services: Vec<Id>,
        service: Option<String>,
        why: String,
        actions: &mut Vec<Action>,
    ) {
        if self.stop.is_some() {
            return;
        }
        let mut wish = match self.wish.take() {
            Some(first) if !first.is_postponed => first,
            postponed => Wish {
                service,
                why,
                services: postponed.map_or_else(Vec::new, |wish| wish.services),
                is_postponed: false,
            },
        };
        for id in services {
            self.escalated.push(id);
            if !wish.services.contains(&id) {
                wish.services.push(id);
            }
        }
        self.wish = Some(wish);
        self.decide(now, actions);
    }

    /// Decides about the reboot that is wished for, if there is one.
    fn decide(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(wish) = self.wish.take() else {
            return;
        };
        match self.budget.ask() {
            Verdict::Granted(count) => {
                let reason = format!("{}, reboot {count}", wish.why);
                self.begin_stop(now, Verb::Reboot, &reason, actions);
            }
            Verdict::Refused(seen) => self.refuse(&wish, &seen, actions),
            Verdict::NotWritten => {
                // What was tried may have failed for a reason that is gone.
                let again = self.budget.write(now, true);
                actions.extend(again.map(Action::WriteCount));
                self.wish = Some(wish);
            }
        }
    }

    fn refuse(&mut self, wish: &Wish, seen: &str, actions: &mut Vec<Action>) {
        let event = match &wish.service {
            Some(service) => degraded_by(service, seen),
            None => Event::new("boot.degraded")
                .with("reason", "trial")
                .with("what", &wish.why)
                .with("seen", seen)
                .with("then", "staying up as it is"),
        };
        actions.extend([Action::SetDegraded, Action::Emit(event)]);
        // Also those that a trial stood for: nobody else would ever try them again.
        actions.extend(self.escalated.drain(..).map(Action::RefuseReboot));
    }

    fn written(&mut self, now: Time, result: Result<(), String>, actions: &mut Vec<Action>) {
        let failures = self.budget.answered(now, result.is_ok());
        let Err(seen) = result else {
            self.decide(now, actions);
            return;
        };
        match self.wish.take_if(|wish| !wish.is_postponed) {
            Some(mut wish) => {
                let seen = format!("the reboot could not be counted, which is tried again: {seen}");
                self.refuse(&wish, &seen, actions);
                wish.is_postponed = true;
                self.wish = Some(wish);
            }
            // Told once, as it may fail for ever.
            None if failures == 1 => {
                let then = match self.stop {
                    Some(_) => "ending all the same",
                    None => "tried again; no reboot is granted that is not counted",
                };
                let event = Event::new("boot.warning").with("what", "reboot budget");
                actions.push(Action::Emit(event.with("seen", seen).with("then", then)));
            }
            None => {}
        }
    }

    fn begin_stop(&mut self, now: Time, verb: Verb, reason: &str, actions: &mut Vec<Action>) {
        self.wish = None;
        self.stop = Some(Stop {
            verb,
            ends: now.saturating_add(STOP_MAX),
            all_stopped: false,
        });
        let event = Event::new("shutdown.start").with("verb", verb.name());
        actions.push(Action::Emit(event.with("reason", reason)));
        actions.push(Action::StopAll);
    }
}

#[cfg(test)]
mod tests;
