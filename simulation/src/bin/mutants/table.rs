//! The planted bugs.

/// One bug: what it is, in which file of the core, and what it makes of what.
pub struct Mutant {
    pub name: &'static str,
    pub file: &'static str,
    /// Occurs exactly once in the file.
    pub find: &'static str,
    pub replace: &'static str,
}

macro_rules! mutants {
    ($($name:literal in $file:literal: $find:literal => $replace:literal;)*) => {
        &[$(Mutant { name: $name, file: $file, find: $find, replace: $replace },)*]
    };
}

/// All of them.
pub const MUTANTS: &[Mutant] = mutants! {
    "one failure too many" in "probe.rs":
        "(self.bad >= self.probe.failures)" => "(self.bad > self.probe.failures)";
    "one success is enough" in "probe.rs":
        "(self.good >= self.probe.successes)" => "(self.good >= 1)";
    "asked again at once" in "probe.rs":
        "due: (asked + self.probe.interval).max(now)," => "due: now,";
    "a stale answer counts" in "probe.rs":
        "Phase::InFlight { asked } if attempt == self.attempt =>" => "Phase::InFlight { asked } if attempt > 0 =>";
    "the window is not pruned" in "restart.rs":
        ".is_some_and(|at| !is_recent(*at, within, now))" => ".is_some_and(|at| !is_recent(*at, within, now) && false)";
    "one restart too many" in "restart.rs":
        "self.window.len() >= spec.intensity.restarts as usize" => "self.window.len() > spec.intensity.restarts as usize";
    "the delay does not double" in "restart.rs":
        "self.in_a_row = self.in_a_row.saturating_add(1);" => "self.in_a_row = 1;";
    "a delay beyond its jitter" in "restart.rs":
        "(2.0 * self.unit() - 1.0)" => "(2.0 * self.unit() - 0.9)";
    "any health resets the delay" in "ending.rs":
        "now.saturating_sub(since) >= self.spec.backoff.reset_after" => "now >= since";
    "a successor before the tree is gone" in "ending.rs":
        "self.react(Trigger::Exited, Some(ended), turn);" => "self.react(Trigger::Exited, Some(ended), turn);\n        self.react(Trigger::Gone, None, turn);";
    "an exit while stopping is lost" in "table.rs":
        "/* Stopping  */ [No,     No,   Strike, Sweep,     No,   No,   No,   No,   No,   No,     Sweep," => "/* Stopping  */ [No,     No,   Strike, Sweep,     No,   No,   No,   No,   No,   No,     No,";
    "READY=1 in a check before the start" in "heard.rs":
        "if !self.is_running() || self.program != Program::Main {" => "if !self.is_running() {";
    "ready before its program is executed" in "machine.rs":
        "ServiceType::Exec | ServiceType::Notify | ServiceType::Oneshot => {}" => "ServiceType::Exec => self.react(Trigger::Ready, None, turn),\n            ServiceType::Notify | ServiceType::Oneshot => {}";
    "the watchdog outlives the stop" in "ending.rs":
        "self.watchdog.disarm();" => "";
    "a watchdog set later is not armed" in "watchdog.rs":
        "if self.armed {" => "if self.armed && self.ends.is_some() {";
    "extensions without end" in "heard.rs":
        "now.saturating_add(more).min(bound.furthest)" => "now.saturating_add(more)";
    "only the first instance may extend its start" in "machine.rs":
        "self.killed = false;" => "";
    "a gap is not given back" in "mod.rs":
        "machine.forgive(gap);" => "let _ = machine;";
    "dependents run on" in "mod.rs":
        "Some(name) => Some(Cause::Dependency(name))," => "Some(_) => None,";
    "the order of the shutdown" in "mod.rs":
        "self.graph.followers(id)" => "self.graph.required_by(id)";
    "a start does not wait for `after`" in "mod.rs":
        "before.filter(|a| outlooks.is_awaited(**a))" => "before.filter(|a| outlooks.is_awaited(**a) && false)";
    "the group restarts again and again" in "lost.rs":
        "self.group_restarted = true;" => "";
    "the group does not start clean" in "lost.rs":
        "self.clean = true;" => "";
    "no start-timeout" in "machine.rs":
        "self.bound_by(self.spec.start_timeout, turn.now);" => "";
    "stop.timeout does not kill" in "ending.rs":
        "if !self.killed {" => "if false {";
    "a stuck tree is waited for for ever" in "ending.rs":
        "self.bound_by(KILL_WAIT, turn.now);" => "";
    "a probe is not cancelled" in "ending.rs":
        "turn.actions.push(Action::CancelProbe(self.id, kind));" => "";
    "an operator's restart counts" in "ending.rs":
        "if self.shut || !self.wanted || cause.is_asked() {" => "if self.shut || !self.wanted {";
    "a oneshot remembers that it had to go" in "ending.rs":
        "        self.leave = None;\n        if self.shut" => "        if self.shut";
    "the health of who leaves is not ended" in "ending.rs":
        "self.end_health(turn.now);\n        self.enter(State::Stopping" => "self.enter(State::Stopping";
    "failed is for ever" in "lost.rs":
        "self.bound_by(delay, turn.now);" => "let _ = delay;";
    "the readiness probe restarts" in "heard.rs":
        "(ProbeKind::Readiness, Some(Verdict::Bad)) => self.react(Trigger::Unfit, None, turn)," => "(ProbeKind::Readiness, Some(Verdict::Bad)) => self.fault(Cause::Watchdog, turn),";
    "the startup probe holds nobody back" in "machine.rs":
        "if !self.starting_up() {" => "if !self.starting_up() || self.alive {";
    "a start after StopAll" in "mod.rs":
        "&& !self.stopping\n            && machine.state" => "&& machine.state";
    "AllStopped comes early" in "mod.rs":
        "!self.machines.iter().any(Machine::is_running)" => "!self.machines.iter().any(|m| m.state.is_live())";
    "one healthy service is enough" in "mod.rs":
        "required.all(" => "required.any(";
    "a clean end is restarted by on-failure" in "lost.rs":
        "RestartPolicy::OnFailure => !success," => "RestartPolicy::OnFailure => true,";
    "a check before the start is left out" in "ending.rs":
        "if done + 1 < self.spec.pre_start.len()" => "if done + 2 < self.spec.pre_start.len()";
    "killed without the stop signal" in "ending.rs":
        "StopMode::Process => self.signal(self.spec.stop_signal, turn)," => "StopMode::Process => {}";
    "a successor is alive unproven" in "machine.rs":
        "self.alive = self.spec.liveness.is_none();" => "self.alive |= self.spec.liveness.is_none();";
    "eleven times the bound" in "machine.rs":
        "EXTEND_MAX: u32 = 10" => "EXTEND_MAX: u32 = 11";
    "a pause of a minute is nobody's" in "observed.rs":
        "LEAP: Duration = Duration::from_secs(2)" => "LEAP: Duration = Duration::from_secs(60)";
    "the timer is set for the last of all" in "mod.rs":
        "filter_map(Machine::deadline).min()" => "filter_map(Machine::deadline).max()";
    "a reload does not end" in "heard.rs":
        "self.reload = None;\n                self.tell(turn, self.event_with_pid" => "self.tell(turn, self.event_with_pid";
    "a required service that is done is forgotten" in "ending.rs":
        "} else if self.spec.required {" => "} else if self.spec.required && !success {";
    "who is blocked is not told" in "lost.rs":
        "self.tell(turn, self.blocked_event(blocked));" => "let _ = blocked;";
    "who is blocked waits for ever" in "lost.rs":
        "} else if !counted(&self.blocked) {" => "} else if false {";
    "an operator's stop escalates" in "lost.rs":
        "b.as_ref().is_some_and(|b| !b.by_operator)" => "b.is_some()";
    "what is done was stopped by an operator" in "outlook.rs":
        "by_operator: !machine.done," => "by_operator: true,";
    "unhealthy for ever" in "machine.rs":
        "if let Some(patience) = self.patience() {" => "if let Some(patience) = self.patience().filter(|_| false) {";
    "the machine is not told of who is degraded" in "lost.rs":
        "turn.actions.push(Action::Degraded { id, why });" => "let _ = (id, why);";
    "a chain of requirements is not blocked" in "outlook.rs":
        "_ => below.map(|(_, down)| down)," => "_ => None,";
    "a start that is deferred counts" in "ending.rs":
        "return self.defer(failure, turn);" => "let _ = failure;";
    "the delay of deferred starts does not double" in "spawn.rs":
        "deferral.tries = deferral.tries.saturating_add(1);" => "deferral.tries = 1;";
    "deferred for ever, and nobody is told" in "spawn.rs":
        "deferral.told = true;" => "deferral.told = true;\n            return;";
    "the machine is told of each deferred start" in "spawn.rs":
        "&& !deferral.told {" => "{";
    "a missing address reboots" in "spawn.rs":
        "Fault::Address => Escalation::Degraded," => "Fault::Address => self.spec.intensity.then,";
    "deferred starts are remembered" in "ending.rs":
        "            self.deferral = None;\n" => "";
    "what the main process leaves is not signalled" in "ending.rs":
        "} else if !self.tree_signalled {" => "} else if false {";
    "the tree is signalled twice" in "ending.rs":
        "self.tree_signalled = true;" => "";
    "stop.mode is ignored" in "ending.rs":
        "StopMode::Tree => self.signal_tree(turn)," => "StopMode::Tree => self.signal(self.spec.stop_signal, turn),";
    "what the main process leaves has no grace" in "ending.rs":
        "self.bound_by(self.spec.stop_timeout, turn.now);" => "self.bound_by(self.spec.stop_timeout / 2, turn.now);";
    "a clean end after STOPPING=1 is a failure" in "ending.rs":
        "*how = Some(status);" => "let _ = (how, status);";
    "a restart that is coming is not waited for" in "ending.rs":
        "if ends <= now {" => "if ends <= now || true {";
    "a start in vain is waited for for ever" in "heard.rs":
        "self.await_no_more();" => "self.await_ends = None;";
    "a oneshot is done anew when what it requires bounces" in "mod.rs":
        "requires.filter(|_| !machine.is_finished())" => "requires.filter(|_| true)";
    "a finished oneshot is in the way of a stop" in "mod.rs":
        "!m.is_running() || m.is_finished()" => "!m.is_running()";
    "what is wanted is not waited for" in "graph.rs":
        "after.chain(requires.clone()).chain(wants.clone())" => "after.chain(requires.clone())";
    "what is wanted is not started with it" in "graph.rs":
        "n.requires.iter().chain(&n.wants)" => "n.requires.iter().chain(&n.wants[..0])";
    "stored descriptors outlive the stop of who waits" in "mod.rs":
        "} else if !rested {" => "} else if machine.state != State::Stopped {";
    "a machine without required services is never healthy" in "mod.rs":
        "self.started && required.all(|m| m.state == State::Healthy)" => "let mut some = self.machines.iter().map(|m| m.spec.required);\n        some.any(|r| r) && required.all(|m| m.state == State::Healthy)";
    "a retry beyond its jitter" in "lost.rs":
        "turn.random.vary(delay, self.spec.backoff.jitter);" => "turn.random.vary(delay, self.spec.backoff.jitter) * 2;";
    "a reload without a signal" in "heard.rs":
        "return self.tell(turn, event);" => "return self.signal(1, turn);";
    "the status tells one restart more" in "explain.rs":
        "restarts: machine.restarts.total()," => "restarts: machine.restarts.total() + 1,";
    "a panic in the eighth death" in "ending.rs":
        "if self.deaths.len() >= DEATHS {" => "assert!(self.deaths.len() < DEATHS);\n        if self.deaths.len() >= DEATHS {";
    "a restart counts for a moment longer" in "restart.rs":
        "now.saturating_sub(at) < within" => "now.saturating_sub(at) <= within";
    "health lasts a moment longer before it counts" in "ending.rs":
        "now.saturating_sub(since) >= self.spec.backoff.reset_after" => "now.saturating_sub(since) > self.spec.backoff.reset_after";
    "no jitter" in "restart.rs":
        "1.0 + jitter * (2.0 * self.unit() - 1.0)" => "1.0 + 0.0 * jitter";
    "the same jitter on every machine" in "restart.rs":
        "Self(seed)" => "Self(seed - seed)";
    "a restart without its cause" in "ending.rs":
        "                    .with(\"cause\", cause);\n                self.tell(turn, event);\n                if delay" => "                    ;let _ = cause;\n                self.tell(turn, event);\n                if delay";
    "every exit status is 0" in "ending.rs":
        "ExitStatus::Code(code) => event.with(\"status\", code)," => "ExitStatus::Code(_) => event.with(\"status\", 0),";
    "what the level above does is not told" in "lost.rs":
        "self.tell(turn, event.with(\"then\", then.name()));\n        match then" => "self.tell(turn, event);\n        match then";
    "the main process is not replaced" in "heard.rs":
        "self.pid.replace(pid)" => "self.pid";
    "an instance is buried with another cause" in "ending.rs":
        "self.bury(cause.clone(), turn.now);" => "self.bury(Cause::Requested, turn.now);";
    "an end for want of memory is a signal" in "ending.rs":
        "ExitStatus::Signal(libc::SIGKILL, _) if self.end.oom =>" => "ExitStatus::Signal(libc::SIGKILL, _) if self.end.oom && false =>";
    "every stop was requested" in "ending.rs":
        "self.event_with_pid(\"service.stop\").with(\"cause\", &cause)" => "self.event_with_pid(\"service.stop\").with(\"cause\", Cause::Requested)";
    "a delay is told as another" in "ending.rs":
        ".with_ms(\"delay_ms\", delay)" => ".with_ms(\"delay_ms\", delay * 2)";
    "an event names another process" in "machine.rs":
        "Some(pid) => self.event(name).with(\"pid\", pid)," => "Some(pid) => self.event(name).with(\"pid\", pid + 1),";
};
