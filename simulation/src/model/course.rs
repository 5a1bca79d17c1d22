//! One service as the prose of the core tells it, in other words than the core's.
//!
//! What happens outside is told by [`Course`]'s methods; each says what has to follow and what it
//! makes of the service. What the set decides (who starts, who has to go) is not here.

use super::Border;
use super::token::Token;
use super::told::Fields;
use crate::coverage::Coverage;
use crate::invariants::Law;
use std::collections::VecDeque;
use std::time::Duration;
use supervisor::config::ServiceType;
use supervisor::core::spawn::{Fault as SpawnFault, SpawnFailure};
use supervisor::core::table::{STATES, Trigger};
use supervisor::core::{ExitStatus, ProbeKind, Program, State};
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

#[derive(Clone, Debug)]
pub struct Asking {
    pub phase: Phase,
    pub attempt: u64,
    pub good: u32,
    pub bad: u32,
    /// What the last bad answer was.
    pub fault: String,
}

/// What has to follow, what it says, and the law that says so.
#[derive(Clone, Debug)]
pub struct Due {
    pub place: usize,
    pub token: Token,
    pub fields: Fields,
    pub law: Law,
}

/// What a step adds to.
pub struct Turn<'a> {
    pub now: Time,
    /// What has to follow, and for whom.
    pub due: &'a mut Vec<Due>,
    pub coverage: &'a mut Coverage,
}

/// What a service waits for in vain: by its name, its state, and whether an operator stopped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub name: String,
    pub state: State,
    pub operator: bool,
}

impl Blocked {
    pub fn fields(&self) -> Fields {
        let fields = Fields::default().with("dependency", &self.name);
        fields.with("state", self.state.name())
    }
}

/// How an instance ended, as it is told afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grave {
    pub at: Time,
    pub pid: Option<i32>,
    pub uptime: Time,
    pub cause: String,
    pub status: Option<ExitStatus>,
    pub oom: bool,
    pub memory_peak: Option<u64>,
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
    /// Why it has to go, while somebody is in its way.
    pub leaving: Option<String>,
    pub clean: bool,
    /// The process that is there.
    pub pid: Option<i32>,
    pub tree: bool,
    pub program: Program,
    pub why: Why,
    /// The same in words.
    pub cause: String,
    pub killed: bool,
    /// Whether the whole tree had the stop signal.
    pub signalled: bool,
    pub oom: bool,
    /// The last process of the instance, how it ended, and the most memory it used.
    pub last_pid: Option<i32>,
    pub ended: Option<ExitStatus>,
    pub memory_peak: Option<u64>,
    /// How the last instances ended.
    pub graves: VecDeque<Grave>,
    /// How often it came into each state, and when into the present one.
    pub entered: [u64; STATES],
    pub since: Time,
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
    /// The bounds of the delay that was just begun, and how long it is by the event about it.
    pub delay: Option<(Time, Time)>,
    pub delay_told: Option<u128>,
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
            fault: String::new(),
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
            pid: None,
            tree: false,
            program: Program::Main,
            why: Why::Asked,
            cause: String::new(),
            killed: false,
            signalled: false,
            oom: false,
            last_pid: None,
            ended: None,
            memory_peak: None,
            graves: VecDeque::new(),
            entered: [0; STATES],
            since: Time::ZERO,
            limit: None,
            limit_law: Law::Transitions,
            begun: Time::ZERO,
            stop_ends: Time::ZERO,
            reload: None,
            interval: None,
            armed: false,
            silence_ends: None,
            probes: [off.clone(), off.clone(), off],
            healthy_since: None,
            alive: false,
            window: VecDeque::new(),
            row: 0,
            restarts: 0,
            group_used: false,
            deferral: None,
            delay: None,
            delay_told: None,
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
        self.state == State::Healthy && self.pid.is_none()
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

    /// The thresholds that it is going to reach, as things are, and what could happen there.
    pub fn borders(&self) -> Vec<(Time, Border)> {
        let law = &self.spec;
        // The restarts that have to leave the window before there is room for another one.
        let window = self.window.iter().map(|at| *at + law.intensity.within);
        let lasting = self.healthy_since.map(|at| at + law.backoff.reset_after);
        let in_vain = self.tried_by.into_iter();
        let borders = window
            .chain(lasting)
            .chain(in_vain)
            .map(|at| (at, Border::Law));
        let bound = self.limit.map(|limit| {
            let border = match self.state {
                State::Starting => Border::Start,
                State::Stopping => Border::Stop,
                _ => Border::Wait,
            };
            (limit.ends, border)
        });
        let deferral = self
            .deferral
            .map(|d| (d.since + law.start_timeout, Border::Deferral));
        let reload = self.reload.map(|limit| (limit.ends, Border::Reload));
        let silence = self.silence_ends.map(|at| (at, Border::Silence));
        let answers = ProbeKind::ALL.into_iter().filter_map(|kind| {
            let Phase::Asked(at) = self.probes[kind as usize].phase else {
                return None;
            };
            Some((at + self.probe(kind)?.timeout, Border::Answer(kind)))
        });
        borders
            .chain(bound)
            .chain(deferral)
            .chain(reload)
            .chain(silence)
            .chain(answers)
            .collect()
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
        let fields = Fields::default();
        turn.due.push(Due {
            place,
            token,
            fields,
            law,
        });
    }

    /// An event about it, with these fields besides its name.
    pub fn must_tell(&self, turn: &mut Turn<'_>, name: &'static str, fields: Fields) {
        self.must_tell_by(self.law, turn, name, fields);
    }

    pub fn must_tell_by(&self, law: Law, turn: &mut Turn<'_>, name: &'static str, fields: Fields) {
        let (place, token) = (self.place, Token::Told(name));
        let fields = fields.with("service", &self.spec.name);
        turn.due.push(Due {
            place,
            token,
            fields,
            law,
        });
    }

    /// The process that an event is about, if there is one.
    pub fn with_pid(&self) -> Fields {
        Fields::default().with_some("pid", self.pid)
    }

    pub fn saw(&self, turn: &mut Turn<'_>, trigger: Trigger) {
        turn.coverage.cell(self.state, trigger);
    }

    pub fn enter(&mut self, state: State, now: Time) {
        self.state = state;
        self.since = now;
        self.entered[state as usize] += 1;
        self.limit = None;
        self.blocked = None;
        self.told = false;
    }

    pub fn launch(&mut self, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Start);
        self.enter(State::Starting, turn.now);
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

    pub fn spawned(&mut self, pid: i32, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Spawned);
        (self.pid, self.last_pid) = (Some(pid), Some(pid));
        self.tree = true;
        if self.state == State::Stopping {
            self.must(turn, Token::Signal(self.spec.stop_signal));
        } else if self.state == State::Starting && self.program == Program::Main {
            self.law = Law::Readiness;
            self.must_tell(turn, "start", self.with_pid());
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

    pub fn not_spawned(&mut self, failure: &SpawnFailure, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::NotSpawned);
        self.law = Law::NoLostExit;
        // What is known of a check that passed says nothing about what comes after it.
        self.forget_the_check();
        let why = match failure.fault {
            SpawnFault::Service => {
                let fields = Fields::default().with("error", &failure.why);
                self.must_tell(turn, "exit", fields);
                Why::Fault
            }
            fault => Why::Deferred(fault),
        };
        if self.state == State::Starting {
            self.begin_stopping(why, failure.why.clone(), turn);
        }
        self.signal_the_rest(turn);
    }

    pub fn ready(&mut self, turn: &mut Turn<'_>) {
        self.saw(turn, Trigger::Ready);
        if self.state != State::Starting {
            return;
        }
        self.law = Law::Readiness;
        self.enter(State::Ready, turn.now);
        (self.tried, self.tried_by) = (true, None);
        self.armed = true;
        self.silence_ends = self.interval.map(|interval| turn.now + interval);
        self.must_tell(turn, "ready", self.with_pid_and_age(turn.now));
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

    /// The same, and how long after its start.
    fn with_pid_and_age(&self, now: Time) -> Fields {
        self.with_pid().with_ms("after_ms", now - self.begun)
    }

    pub fn forget_the_check(&mut self) {
        (self.oom, self.last_pid) = (false, None);
        (self.ended, self.memory_peak) = (None, None);
    }

    pub fn healthy(&mut self, turn: &mut Turn<'_>) {
        self.enter(State::Healthy, turn.now);
        self.healthy_since = Some(turn.now);
        self.must_tell(turn, "healthy", self.with_pid_and_age(turn.now));
    }

    pub fn switch_on(&mut self, kind: ProbeKind, now: Time) {
        let there = self.probe(kind).is_some();
        let asking = &mut self.probes[kind as usize];
        if there && asking.phase == Phase::Off {
            (asking.phase, asking.good, asking.bad) = (Phase::Due(now), 0, 0);
        }
    }
}
