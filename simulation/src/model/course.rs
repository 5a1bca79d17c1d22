//! One service as the prose of the core tells it, in other words than the core's.
//!
//! What happens outside is told by [`Course`]'s methods; each says what has to follow and what it
//! makes of the service. What the set decides (who starts, who has to go) is not here.

use super::token::Token;
use crate::coverage::Coverage;
use crate::invariants::Law;
use std::collections::VecDeque;
use std::time::Duration;
use supervisor::config::ServiceType;
use supervisor::core::spawn::Fault as SpawnFault;
use supervisor::core::table::Trigger;
use supervisor::core::{ProbeKind, Program, State};
use supervisor::spec::Spec;

type Time = Duration;

/// The prose: "If the kernel does not give a killed tree up within KILL_WAIT".
pub const KILL_WAIT: Time = Duration::from_secs(10);

/// The prose: "all extensions together reach at most" so many times the bound.
pub const STRETCH: u32 = 10;

/// Why an instance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Asked,
    Done,
    Fault,
    /// No process could be made, by a fault that is not the service's.
    Deferred(SpawnFault),
    /// It said `STOPPING=1`: how it ends will tell.
    Leaving,
}

#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub ends: Time,
    pub furthest: Time,
}

impl Limit {
    pub fn new(now: Time, length: Time) -> Self {
        Self {
            ends: now + length,
            furthest: now + length * STRETCH,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Off,
    Due(Time),
    Asked(Time),
}

#[derive(Clone, Copy, Debug)]
pub struct Asking {
    pub phase: Phase,
    pub attempt: u64,
    pub good: u32,
    pub bad: u32,
}

/// What has to follow, and the law that says so.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub place: usize,
    pub token: Token,
    pub law: Law,
}

/// What a step adds to.
pub struct Turn<'a> {
    pub now: Time,
    /// What has to follow, and for whom.
    pub due: &'a mut Vec<Due>,
    pub coverage: &'a mut Coverage,
}

/// What a service waits for in vain: by its place, its state, and whether an operator stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub by: usize,
    pub state: State,
    pub operator: bool,
}

/// Starts in a row that were deferred: since when, how many, and whether the machine knows.
#[derive(Clone, Copy, Debug)]
pub struct Deferral {
    pub since: Time,
    pub tries: u32,
    pub told: bool,
}

pub struct Course {
    pub spec: Spec,
    pub place: usize,
    pub state: State,
    pub wanted: bool,
    /// It ended with success, and its policy leaves it at that.
    pub done: bool,
    /// What it requires and waits for in vain.
    pub blocked: Option<Blocked>,
    /// The machine was told that it is lost, in its present state.
    pub told: bool,
    /// Nobody waits for its first success any more.
    pub tried: bool,
    /// Until when they do, after a first start in vain.
    pub tried_by: Option<Time>,
    pub shut: bool,
    pub leaving: Option<Why>,
    pub clean: bool,
    pub process: bool,
    pub tree: bool,
    pub program: Program,
    pub why: Why,
    pub killed: bool,
    /// Whether the whole tree had the stop signal.
    pub signalled: bool,
    pub oom: bool,
    pub limit: Option<Limit>,
    pub limit_law: Law,
    /// When the present instance was started.
    pub begun: Time,
    /// The latest end of the present stop.
    pub stop_ends: Time,
    pub reload: Option<Limit>,
    pub interval: Option<Time>,
    pub armed: bool,
    pub silence_ends: Option<Time>,
    pub probes: [Asking; 3],
    pub healthy_since: Option<Time>,
    pub alive: bool,
    pub window: VecDeque<Time>,
    pub row: u32,
    pub restarts: u64,
    pub group_used: bool,
    pub deferral: Option<Deferral>,
    /// The bounds of the delay that was just begun.
    pub delay: Option<(Time, Time)>,
    /// What was consulted last in this step.
    pub law: Law,
    pub escalations: u64,
}

impl Course {
    pub fn new(place: usize, spec: Spec) -> Self {
        let off = Asking {
            phase: Phase::Off,
            attempt: 0,
            good: 0,
            bad: 0,
        };
        Self {
            spec,
            place,
            state: State::Stopped,
            wanted: true,
            done: false,
            blocked: None,
            told: false,
            tried: false,
            tried_by: None,
            shut: false,
            leaving: None,
            clean: false,
            process: false,
            tree: false,
            program: Program::Main,
            why: Why::Asked,
            killed: false,
            signalled: false,
            oom: false,
            limit: None,
            limit_law: Law::Transitions,
            begun: Time::ZERO,
            stop_ends: Time::ZERO,
            reload: None,
            interval: None,
            armed: false,
            silence_ends: None,
            probes: [off; 3],
            healthy_since: None,
            alive: false,
            window: VecDeque::new(),
            row: 0,
            restarts: 0,
            group_used: false,
            deferral: None,
            delay: None,
            law: Law::Transitions,
            escalations: 0,
        }
    }

    pub fn is_live(&self) -> bool {
        use State::{Healthy, Ready, Starting, Unhealthy};
        matches!(self.state, Starting | Ready | Healthy | Unhealthy)
    }

    pub fn is_running(&self) -> bool {
        self.is_live() || self.state == State::Stopping
    }

    /// A oneshot that has done its work.
    pub fn is_finished(&self) -> bool {
        self.state == State::Healthy && !self.process
    }

    /// Others may start that wait for it.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready | State::Healthy) && self.leaving.is_none()
    }

    /// Others may go on that require it.
    pub fn is_provided(&self) -> bool {
        self.is_live() && self.state != State::Starting
    }

    pub fn probe(&self, kind: ProbeKind) -> Option<&supervisor::spec::Probe> {
        self.spec.probe(kind)
    }

    /// When something is due by itself.
    pub fn deadline(&self) -> Option<Time> {
        self.next().map(|(at, _)| at)
    }

    /// What is due next by itself, and by which law.
    pub fn next(&self) -> Option<(Time, Law)> {
        let mut next: Option<(Time, Law)> = None;
        let mut add = |at: Time, law: Law| {
            if next.is_none_or(|(least, _)| at < least) {
                next = Some((at, law));
            }
        };
        if let Some(at) = self.silence_ends {
            add(at, Law::Watchdog);
        }
        if let Some(limit) = self.limit {
            add(limit.ends, self.limit_law);
        }
        if let Some(at) = self.tried_by {
            add(at, Law::Order);
        }
        if let Some(limit) = self.reload {
            add(limit.ends, Law::Reload);
        }
        for kind in ProbeKind::ALL {
            match self.probes[kind as usize].phase {
                Phase::Off => {}
                Phase::Due(at) => add(at, Law::Probes),
                Phase::Asked(at) => {
                    let timeout = self.probe(kind).map_or(Time::ZERO, |p| p.timeout);
                    add(at + timeout, Law::Probes);
                }
            }
        }
        next
    }

    /// Bounds the present state by a law.
    pub fn bound(&mut self, law: Law, now: Time, length: Time) {
        self.limit = Some(Limit::new(now, length));
        self.limit_law = law;
    }

    /// The machine stood still: whoever is waited for has that much more time.
    pub fn stood_still(&mut self, gap: Time) {
        let judged = !matches!(self.state, State::Backoff | State::Failed);
        let bound = self.limit.as_mut().filter(|_| judged);
        for limit in bound.into_iter().chain(self.reload.as_mut()) {
            limit.ends += gap;
            limit.furthest += gap;
        }
        self.stop_ends += gap;
        if let Some(deferral) = &mut self.deferral {
            deferral.since += gap;
        }
        for at in [
            &mut self.silence_ends,
            &mut self.healthy_since,
            &mut self.tried_by,
        ]
        .into_iter()
        .flatten()
        {
            *at += gap;
        }
        for asking in &mut self.probes {
            if let Phase::Asked(at) = &mut asking.phase {
                *at += gap;
            }
        }
    }

    pub fn must(&self, turn: &mut Turn<'_>, token: Token) {
        self.must_by(self.law, turn, token);
    }

    pub fn must_by(&self, law: Law, turn: &mut Turn<'_>, token: Token) {
        let place = self.place;
        turn.due.push(Due { place, token, law });
    }

    pub fn saw(&self, turn: &mut Turn<'_>, trigger: Trigger) {
        turn.coverage.cell(self.state, trigger);
    }

    pub fn enter(&mut self, state: State) {
        self.state = state;
        self.limit = None;
        self.blocked = None;
        self.told = false;
    }

    pub fn launch(&mut self, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Start);
        self.enter(State::Starting);
        self.begun = turn.now;
        self.bound(Law::StartTimeout, turn.now, self.spec.start_timeout);
        self.clean = false;
        self.alive = self.spec.liveness.is_none();
        self.interval = self.spec.watchdog;
        self.program = match self.spec.pre_start.len() {
            0 => Program::Main,
            _ => Program::PreStart(0),
        };
    }

    pub fn spawned(&mut self, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Spawned);
        self.process = true;
        self.tree = true;
        if self.state == State::Stopping {
            self.must(turn, Token::Signal(self.spec.stop_signal));
        } else if self.state == State::Starting && self.program == Program::Main {
            self.law = Law::Readiness;
            self.must(turn, Token::Told("start"));
            self.switch_on(ProbeKind::Startup, turn.now);
            if self.spec.kind == ServiceType::Probe && self.spec.startup.is_none() {
                self.switch_on(ProbeKind::Readiness, turn.now);
            }
        }
    }

    pub fn executed(&mut self, turn: &mut Turn<'_>) {
        self.law = Law::Readiness;
        if self.spec.kind == ServiceType::Exec && self.program == Program::Main {
            self.ready(turn);
        }
    }

    pub fn not_spawned(&mut self, fault: SpawnFault, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::NotSpawned);
        self.law = Law::NoLostExit;
        let why = match fault {
            SpawnFault::Service => {
                self.must(turn, Token::Told("exit"));
                Why::Fault
            }
            fault => Why::Deferred(fault),
        };
        if self.state == State::Starting {
            self.begin_stopping(why, turn);
        }
        self.signal_the_rest(turn);
    }

    pub fn ready(&mut self, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Ready);
        if self.state != State::Starting {
            return;
        }
        self.law = Law::Readiness;
        self.enter(State::Ready);
        (self.tried, self.tried_by) = (true, None);
        self.armed = true;
        self.silence_ends = self.interval.map(|interval| turn.now + interval);
        self.must(turn, Token::Told("ready"));
        if self.probes[ProbeKind::Startup as usize].phase == Phase::Off {
            self.let_go(turn);
        }
    }

    /// Nothing holds the other probes back any more.
    pub fn let_go(&mut self, turn: &mut Turn<'_>) {
        self.switch_on(ProbeKind::Readiness, turn.now);
        self.switch_on(ProbeKind::Liveness, turn.now);
        if self.alive {
            self.saw(turn, Trigger::Alive);
            if self.state == State::Ready {
                self.healthy(turn);
            }
        }
    }

    pub fn healthy(&mut self, turn: &mut Turn<'_>) {
        self.enter(State::Healthy);
        self.healthy_since = Some(turn.now);
        self.must(turn, Token::Told("healthy"));
    }

    pub fn switch_on(&mut self, kind: ProbeKind, now: Time) {
        let there = self.probe(kind).is_some();
        let asking = &mut self.probes[kind as usize];
        if there && asking.phase == Phase::Off {
            (asking.phase, asking.good, asking.bad) = (Phase::Due(now), 0, 0);
        }
    }
}
