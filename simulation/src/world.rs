//! The simulated machine: a clock, a queue of what is to happen, and the driver's part.
//!
//! It answers the core's actions as the driver does: a `Spawn` is answered before any other input, a killed
//! tree ends its main process first and is told empty then, a cancelled probe is never answered. What
//! the processes do is in [`super::life`], what disturbs them in [`super::trouble`].

use super::coverage::Coverage;
use super::invariants::{Broken, Checked, Law, check};
use super::jitter::Jitter;
use super::life::{Life, Saying};
use super::model::{Border, Model};
use super::program::{MILESTONE, Program};
use super::random::{between, mix};
use super::stimulus::Kind;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use supervisor::core::spawn::{Fault, SpawnFailure};
use supervisor::core::{
    Action, Command, Core, Exit, ExitStatus, Id, Input, ProbeKind, Program as Part,
};

/// Something that is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A stimulus by its place in the history.
    Stimulus(usize),
    Milestone(&'static str),
    /// The main process of this incarnation ends, with a status or by a signal.
    End(usize, u64, i32, bool),
    /// The tree of this incarnation is empty.
    Gone(usize, u64),
    Executed(usize, u64),
    Say(usize, u64, Saying),
    Answer(usize, ProbeKind, u64, bool),
    /// A threshold of this incarnation is reached, and something happens in the same nanosecond.
    Border(usize, u64, Border, u64),
    /// The reboot is refused.
    Refusal(usize),
    /// An operator starts again what was stopped.
    Back(usize),
    StopAll,
}

/// What is kept of a run to be shown.
#[derive(Default)]
pub struct Trace {
    pub steps: VecDeque<String>,
    pub stimuli: Vec<String>,
}

/// When PID 1 begins.
const START: Duration = Duration::from_millis(500);

/// Timers that are noticed late add up to no more than this in one shutdown.
const LATE: Duration = Duration::from_secs(120);

/// So many steps before the broken one are shown.
const TRACE: usize = 16;

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    pub steps: u64,
    /// Services times nanoseconds.
    pub service_time: u128,
    pub deaths: u64,
    pub restarts: u64,
    pub escalations: u64,
    pub gaps: u64,
    pub coverage: Coverage,
    pub jitter: Jitter,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.service_time += other.service_time;
        self.deaths += other.deaths;
        self.restarts += other.restarts;
        self.escalations += other.escalations;
        self.gaps += other.gaps;
        self.coverage.add(&other.coverage);
        self.jitter.merge(&other.jitter);
    }

    pub fn service_hours(&self) -> u128 {
        self.service_time / Duration::from_secs(3600).as_nanos()
    }
}

/// See the module.
pub struct World<'a> {
    pub(super) program: &'a Program,
    core: Core,
    pub(super) model: Model,
    pub(super) now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, What)>>,
    queued: u64,
    inputs: VecDeque<Input>,
    pub(super) lives: Vec<Life>,
    pub(super) late_until: Duration,
    /// In this nanosecond a threshold is reached: what goes goes at once, and what is told is looked at.
    pub(super) border: Option<Duration>,
    /// When a shutdown that has begun must have ended.
    pub(super) over_by: Duration,
    next_pid: i32,
    steps: u64,
    pub(super) deaths: u64,
    trace: Option<&'a mut Trace>,
}

/// Runs a program to its end.
///
/// # Errors
/// The law that was broken.
pub fn run(program: &Program, trace: Option<&mut Trace>) -> Result<Tally, Box<Broken>> {
    let run = AssertUnwindSafe(|| run_until_it_breaks(program, trace));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let what = text.unwrap_or("a panic without a text").to_owned();
        Err(Box::new(Broken {
            law: Law::Panic,
            what,
        }))
    })
}

fn run_until_it_breaks(program: &Program, trace: Option<&mut Trace>) -> Result<Tally, Box<Broken>> {
    let mut world = World {
        program,
        core: Core::new(program.specs.clone(), program.seed),
        model: Model::new(&program.specs),
        now: START,
        queue: BinaryHeap::new(),
        queued: 0,
        inputs: VecDeque::new(),
        lives: program.specs.iter().map(Life::new).collect(),
        late_until: Duration::ZERO,
        border: None,
        over_by: Duration::MAX,
        next_pid: 100,
        steps: 0,
        deaths: 0,
        trace,
    };
    world.live()?;
    Ok(Tally {
        seeds: 1,
        steps: world.steps,
        service_time: world.now.as_nanos() * program.specs.len() as u128,
        deaths: world.deaths,
        restarts: world.model.restarts(),
        escalations: world.model.escalations(),
        gaps: world.model.gaps,
        coverage: world.model.coverage,
        jitter: world.model.jitter,
    })
}

impl World<'_> {
    fn live(&mut self) -> Checked {
        for (place, stimulus) in self.program.history.iter().enumerate() {
            self.at(stimulus.at, What::Stimulus(place));
        }
        for (what, name) in ["net", "var"].into_iter().enumerate() {
            self.at(self.program.milestone(what as u64), What::Milestone(name));
        }
        self.at(self.program.length, What::StopAll);
        self.feed(Input::Start)?;
        while !self.model.is_over() {
            self.next()?;
            let bounded = self.now <= self.over_by;
            check(bounded, Law::Shutdown, || {
                "the shutdown does not end".into()
            })?;
        }
        self.model.told(self.now, &self.core)?;
        self.afterwards()
    }

    /// Nothing that is asked for after the end has any effect.
    fn afterwards(&mut self) -> Checked {
        for place in 0..self.lives.len() {
            for command in [Command::Start, Command::Restart, Command::Stop] {
                self.feed(Input::Command(Id(place), command))?;
            }
        }
        self.feed(Input::Start)?;
        self.feed(Input::StopAll)?;
        self.now += Duration::from_secs(86_400);
        self.feed(Input::Timer)
    }

    /// Whatever is next happens: a timer, or something in the queue.
    fn next(&mut self) -> Checked {
        let queued = self.queue.peek().map(|Reverse((at, ..))| *at);
        let timer = self.core.deadline().map(|at| self.noticed(at));
        match (queued, timer) {
            (Some(queued), Some(timer)) if self.comes_first(timer, queued) => self.timer(timer),
            (None, Some(timer)) => self.timer(timer),
            (None, None) => check(false, Law::Deadline, || "nothing will ever happen".into()),
            (Some(_), _) => match self.queue.pop() {
                Some(Reverse((at, _, what))) => {
                    self.now = self.now.max(at);
                    self.happens(what)
                }
                None => Ok(()),
            },
        }
    }

    /// Whether a timer is noticed before something else. In the same nanosecond, either may be.
    fn comes_first(&self, timer: Duration, queued: Duration) -> bool {
        let nanos = u64::try_from(timer.as_nanos()).unwrap_or(0);
        timer < queued
            || timer == queued && mix(&[self.program.seed, nanos, self.steps]).is_multiple_of(2)
    }

    /// When a timer for this time is noticed.
    fn noticed(&mut self, at: Duration) -> Duration {
        if self.now >= self.late_until {
            return at;
        }
        let hash = mix(&[self.program.seed, u64::try_from(at.as_nanos()).unwrap_or(0)]);
        self.model.coverage.effect(Kind::LateTimers);
        // At most as late as nobody takes for a gap.
        at + match hash % 4 {
            0 => Duration::from_secs(2),
            _ => between(hash, 0, 1_900),
        }
    }

    fn timer(&mut self, at: Duration) -> Checked {
        self.now = self.now.max(at);
        self.feed(Input::Timer)
    }

    pub(super) fn at(&mut self, at: Duration, what: What) {
        self.queued += 1;
        self.queue.push(Reverse((at, self.queued, what)));
    }

    pub(super) fn after(&mut self, delay: Duration, what: What) {
        self.at(self.now + delay, what);
    }

    fn happens(&mut self, what: What) -> Checked {
        match what {
            What::Stimulus(place) => {
                let stimulus = self.program.history[place];
                if let Some(trace) = &mut self.trace {
                    let at = stimulus.at.as_secs_f64();
                    let name = self
                        .program
                        .specs
                        .get(stimulus.service)
                        .map_or("", |s| &s.name);
                    let (kind, lasts) = (stimulus.kind, stimulus.lasts.as_secs_f64());
                    let what = kind.what();
                    let line =
                        format!("{at:12.3} {name} {kind:?} ({what}; if it lasts, {lasts:.3} s)");
                    trace.stimuli.push(line);
                }
                self.disturb(stimulus)
            }
            What::Milestone(name) => {
                let made = |lives: &[Life]| lives.iter().map(|l| l.incarnation).sum::<u64>();
                let before = made(&self.lives);
                self.feed(Input::Milestone(name))?;
                if self.now > MILESTONE + START && made(&self.lives) > before {
                    self.model.coverage.effect(Kind::MilestoneLate);
                }
                Ok(())
            }
            What::End(place, incarnation, number, signal) => {
                let life = &mut self.lives[place];
                if life.incarnation != incarnation || life.part.take().is_none() {
                    return Ok(());
                }
                self.deaths += 1;
                let status = match (signal, number) {
                    (true, number) => ExitStatus::Signal(number, matches!(number, 6 | 11)),
                    (false, 255) => ExitStatus::Unknown,
                    (false, 127) => {
                        ExitStatus::NotExecuted(SpawnFailure::of_the_service("no program"))
                    }
                    (false, 126) => ExitStatus::NotExecuted(SpawnFailure {
                        why: "no memory".to_owned(),
                        fault: Fault::Machine,
                    }),
                    (false, number) => ExitStatus::Code(number),
                };
                // Not every kernel tells.
                let peak = self.program.hash(place, incarnation, 7);
                let exit = Exit {
                    status,
                    memory_peak: (!peak.is_multiple_of(4)).then_some(peak),
                };
                self.feed(Input::Exited(Id(place), exit))?;
                let life = &self.lives[place];
                if life.incarnation == incarnation && life.signalled && !life.going {
                    self.rest_goes(place);
                }
                Ok(())
            }
            What::Executed(place, incarnation) => {
                let life = &self.lives[place];
                if life.incarnation != incarnation || life.part.is_none() {
                    return Ok(());
                }
                self.feed(Input::Executed(Id(place)))
            }
            What::Gone(place, incarnation) => {
                let life = &mut self.lives[place];
                if life.incarnation != incarnation || !std::mem::take(&mut life.going) {
                    return Ok(());
                }
                life.tree = life.part.is_some();
                self.feed(Input::TreeGone(Id(place)))
            }
            What::Say(place, incarnation, saying) => {
                if self.lives[place].incarnation != incarnation || self.lives[place].part.is_none()
                {
                    return Ok(());
                }
                self.says(place, saying)
            }
            What::Answer(place, kind, attempt, good) => {
                let asked = &mut self.lives[place].asked[kind as usize];
                if *asked != Some(attempt) {
                    return Ok(());
                }
                *asked = None;
                self.answer(place, kind, attempt, good)
            }
            What::Border(place, incarnation, border, salt) => {
                if self.lives[place].incarnation != incarnation {
                    return Ok(());
                }
                self.border = Some(self.now);
                self.model.coverage.effect(Kind::Border);
                self.at_border(place, border, salt)
            }
            What::Refusal(place) => self.feed(Input::RebootRefused(Id(place))),
            What::Back(place) => self.command(place, Command::Start),
            What::StopAll => {
                let longest = self.model.longest_shutdown() + LATE;
                self.over_by = self.over_by.min(self.now + longest);
                self.feed(Input::StopAll)
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        place: usize,
        kind: ProbeKind,
        attempt: u64,
        good: bool,
    ) -> Checked {
        let result = if good {
            Ok(())
        } else {
            Err(format!("attempt {attempt} was refused"))
        };
        self.feed(Input::Probe {
            id: Id(place),
            kind,
            attempt,
            result,
        })
    }

    /// One input, and whatever has to be answered at once.
    pub(super) fn feed(&mut self, input: Input) -> Checked {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            self.steps += 1;
            // Only what is kept to be shown is formatted.
            let shown = self.trace.is_some().then(|| format!("{input:?}"));
            let copy = input.clone();
            let actions = self.core.step(self.now, input);
            if let (Some(trace), Some(shown)) = (&mut self.trace, shown) {
                if trace.steps.len() >= TRACE {
                    trace.steps.pop_front();
                }
                let at = self.now.as_secs_f64();
                let states: Vec<_> = self
                    .core
                    .machines()
                    .iter()
                    .map(|m| m.state().name())
                    .collect();
                let states = states.join(" ");
                let mut line = format!("{at:12.6} {shown}");
                for action in &actions {
                    let action = match action {
                        Action::Emit(event) => event.line(self.now),
                        action => format!("{action:?}"),
                    };
                    line.push_str("\n                 -> ");
                    line.push_str(&action);
                }
                trace
                    .steps
                    .push_back(format!("{line}\n                 = {states}"));
            }
            self.model.follow(self.now, &copy, &actions, &self.core)?;
            if self.steps.is_multiple_of(64) || self.border == Some(self.now) {
                self.model.told(self.now, &self.core)?;
            }
            for action in &actions {
                self.carry_out(action)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, action: &Action) -> Checked {
        match *action {
            Action::Spawn(Id(place), part) => self.spawn(place, part),
            Action::Signal(Id(place), signal) => self.signalled(place, signal),
            Action::SignalTree(Id(place), signal) => self.tree_signalled(place, signal),
            Action::KillTree(Id(place)) => self.kill(place),
            Action::Abandon(Id(place)) => {
                let life = &mut self.lives[place];
                life.incarnation += 1;
                (life.part, life.tree, life.going) = (None, false, false);
            }
            Action::Probe {
                id: Id(place),
                kind,
                attempt,
            } => {
                let free = self.lives[place].asked[kind as usize]
                    .replace(attempt)
                    .is_none();
                check(free, Law::Probes, || {
                    format!("{kind:?} is asked twice at once")
                })?;
                self.asked(place, kind, attempt);
            }
            Action::CancelProbe(Id(place), kind) => {
                let asked = self.lives[place].asked[kind as usize].take().is_some();
                check(asked, Law::Probes, || format!("{kind:?} was not in flight"))?;
            }
            Action::Reboot { id: Id(place), .. } => self.reboot(place),
            Action::Degraded { .. }
            | Action::DropStored(_)
            | Action::Emit(_)
            | Action::AllStopped => {}
        }
        Ok(())
    }

    fn spawn(&mut self, place: usize, part: Part) {
        let life = &mut self.lives[place];
        if life.until[Kind::SpawnFails as usize] > self.now {
            self.model.coverage.effect(Kind::SpawnFails);
            // Whose fault it is holds for as long as the trouble does.
            let faults = [Fault::Service, Fault::Machine, Fault::Address];
            let which = usize::try_from(life.salts[Kind::SpawnFails as usize] % 3).unwrap_or(0);
            let failure = SpawnFailure {
                why: "no process could be made".to_owned(),
                fault: faults[which],
            };
            self.inputs
                .push_back(Input::SpawnFailed(Id(place), failure));
            return;
        }
        life.incarnation += 1;
        (life.part, life.tree, life.going) = (Some(part), true, false);
        life.signalled = false;
        self.next_pid = self.next_pid % 4_000_000 + 1;
        self.inputs
            .push_back(Input::Spawned(Id(place), self.next_pid));
        self.begins(place, part);
    }
}
