//! A second opinion: what the prose of the core says has to happen, worked out independently.
//!
//! [`Model::follow`] is told each input and the actions that the core answered it with. In three parts it
//! judges them:
//!
//! 1. What happened to a service by itself: [`course`] works out what has to follow. All of that
//!    must be among the actions.
//! 2. What is left must be the set at work: services that are taken away because they have to go and
//!    nobody is in their way, and services that start because all they wait for is there. Each is judged
//!    at its place in the list of actions ([`set`]).
//! 3. Nobody was forgotten: no one is left who had to go or to start. State, deadline and wish of each
//!    service are the core's, and nothing is in the past.
//!
//! The model never asks the core what to expect; it takes from it one thing, the delay of a restart,
//! which is drawn at random, and judges whether it may be so long.

mod course;
mod ending;
mod hearing;
mod set;
mod token;

use crate::coverage::Coverage;
use crate::invariants::{Checked, Law, check};
use course::{Course, Due, Turn, Why};
use std::time::Duration;
use supervisor::core::table::Trigger;
use supervisor::core::{Action, Command, Core, Input, Machine, State};
use supervisor::spec::Spec;
use token::{NOBODY, Token, token};

type Time = Duration;

/// What is noticed so late was missed by the machine.
const LEAP: Time = Duration::from_secs(2);

/// What counts from one gap to the end of the next, if the missed deadline is so far away.
const BETWEEN_GAPS: Time = Time::from_secs(5);

/// See the module.
pub struct Model {
    courses: Vec<Course>,
    edges: Vec<set::Edges>,
    begun: bool,
    stopping: bool,
    all_stopped: bool,
    milestones: Vec<&'static str>,
    last: Time,
    /// Whether time was given back in this step.
    gap: bool,
    /// Since time was last given back, if it ever was.
    since_gap: Option<Time>,
    deadline: Option<Time>,
    /// Timers in a row without time passing.
    idle_timers: usize,
    due: Vec<Due>,
    rest: Vec<(usize, Token)>,
    pub coverage: Coverage,
    pub gaps: u64,
}

impl Model {
    pub fn new(specs: &[Spec]) -> Self {
        let courses = specs.iter().cloned().enumerate();
        Self {
            courses: courses
                .map(|(place, spec)| Course::new(place, spec))
                .collect(),
            edges: set::edges(specs),
            begun: false,
            stopping: false,
            all_stopped: false,
            milestones: Vec::new(),
            last: Time::ZERO,
            gap: false,
            since_gap: None,
            deadline: None,
            idle_timers: 0,
            due: Vec::new(),
            rest: Vec::new(),
            coverage: Coverage::default(),
            gaps: 0,
        }
    }

    pub fn restarts(&self) -> u64 {
        self.courses.iter().map(|c| c.restarts).sum()
    }

    pub fn escalations(&self) -> u64 {
        self.courses.iter().map(|c| c.escalations).sum()
    }

    pub fn is_over(&self) -> bool {
        self.all_stopped
    }

    /// How long a shutdown can take at most from now on: one after the other.
    pub fn longest_shutdown(&self) -> Time {
        let longest = |c: &Course| c.spec.stop_timeout * course::STRETCH + course::KILL_WAIT * 2;
        self.courses.iter().map(longest).sum()
    }

    /// Judges one step of the core.
    pub fn follow(&mut self, now: Time, input: &Input, actions: &[Action], core: &Core) -> Checked {
        self.due.clear();
        for course in &mut self.courses {
            course.law = Law::Transitions;
        }
        self.mind_the_gap(now);
        self.happens(now, input);
        self.match_due(actions)?;
        self.set_moves(now)?;
        self.nobody_is_forgotten()?;
        for (course, machine) in self.courses.iter_mut().zip(core.machines()) {
            agree(now, self.gap, course, machine)?;
        }
        self.nobody_is_lost()?;
        self.deadline = self.courses.iter().filter_map(Course::deadline).min();
        self.deadlines(now, input, core)?;
        self.health(core)
    }

    fn mind_the_gap(&mut self, now: Time) {
        let passed = now - self.last;
        let missed = self.deadline.filter(|due| now > *due + LEAP);
        self.gap = missed.is_some();
        let expected = missed.map_or(Time::ZERO, |due| due.saturating_sub(self.last));
        let counted = match self.since_gap {
            Some(since) if since < BETWEEN_GAPS => expected.min(BETWEEN_GAPS - since),
            _ => Time::ZERO,
        };
        let gap = passed - counted;
        self.since_gap = match self.since_gap {
            _ if self.gap => Some(Time::ZERO),
            since => since.map(|since| since + passed),
        };
        if self.gap {
            self.gaps += 1;
            let (place, token, law) = (NOBODY, Token::Told("time.gap"), Law::Gap);
            self.due.push(Due { place, token, law });
            for course in &mut self.courses {
                course.stood_still(gap);
            }
        }
        if now > self.last {
            self.idle_timers = 0;
        }
        self.last = now;
    }

    /// What an input means for the services by themselves.
    fn happens(&mut self, now: Time, input: &Input) {
        let Self {
            courses,
            edges,
            due,
            coverage,
            ..
        } = self;
        let turn = &mut Turn { now, due, coverage };
        match input {
            Input::Timer => {
                self.idle_timers += 1;
                courses.iter_mut().for_each(|course| course.timer(turn));
            }
            Input::Start => self.begun = true,
            Input::Milestone(name) => self.milestones.push(name),
            Input::Command(id, command) => commanded(courses, edges, id.0, *command, turn),
            Input::Spawned(id, _) => courses[id.0].spawned(turn),
            Input::Executed(id) => courses[id.0].executed(turn),
            Input::SpawnFailed(id, failure) => courses[id.0].not_spawned(failure.fault, turn),
            Input::Exited(id, exit) => courses[id.0].exited(&exit.status, turn),
            Input::TreeGone(id) => courses[id.0].tree_gone(turn),
            Input::OutOfMemory(id) => courses[id.0].out_of_memory(turn),
            Input::MainMoved(id, _) => courses[id.0].main_moved(turn),
            Input::Notify(id, what) => courses[id.0].notified(what, turn),
            Input::Probe {
                id,
                kind,
                attempt,
                result,
            } => {
                if courses[id.0].probes[*kind as usize].attempt == *attempt {
                    courses[id.0].answered(*kind, result.is_ok(), turn);
                }
            }
            // No service of this world has a channel to init, as its own roles do.
            Input::Misbehaved(..) => unreachable!("nobody here is a role of init"),
            Input::RebootRefused(id) => courses[id.0].try_later(now),
            Input::StopAll => {
                self.stopping = true;
                for course in courses {
                    course.shut = true;
                    course.waits_no_more(false, turn);
                }
            }
        }
    }

    /// Takes what had to follow out of what followed; the rest is left for the set.
    fn match_due(&mut self, actions: &[Action]) -> Checked {
        let mut rest = std::mem::take(&mut self.rest);
        rest.clear();
        for action in actions {
            let find = |name: &str| {
                let place = self.courses.iter().position(|c| c.spec.name == name);
                place.unwrap_or(NOBODY)
            };
            let seen = token(action, find);
            match self.due_at(seen.0, seen.1) {
                Some(found) => {
                    self.due.remove(found);
                }
                None => rest.push(seen),
            }
        }
        self.rest = rest;
        self.nothing_is_missing()
    }

    fn due_at(&self, place: usize, token: Token) -> Option<usize> {
        let same = |due: &Due| (due.place, due.token) == (place, token);
        self.due.iter().position(same)
    }

    fn nothing_is_missing(&self) -> Checked {
        let Some(Due { place, token, law }) = self.due.first() else {
            return Ok(());
        };
        let law = if self.gap { Law::Gap } else { *law };
        check(false, law, || {
            let (name, rest) = (self.name(*place), &self.rest);
            format!("{name}: {token:?} had to follow; left: {rest:?}")
        })
    }

    fn name(&self, place: usize) -> &str {
        self.courses.get(place).map_or("all", |c| &c.spec.name)
    }

    fn law(&self, place: usize) -> Law {
        match self.courses.get(place) {
            Some(course) if !self.gap => course.law,
            _ => Law::Gap,
        }
    }

    fn deadlines(&mut self, now: Time, input: &Input, core: &Core) -> Checked {
        let (ours, theirs) = (self.deadline, core.deadline());
        check(ours == theirs, Law::Deadline, || {
            format!("the next timer is due at {theirs:?} and should be at {ours:?}")
        })?;
        let past = ours.is_some_and(|due| due < now) && *input == Input::Timer;
        check(!past, Law::Deadline, || {
            format!("{ours:?} is past after a timer at {now:?}")
        })?;
        let bound = 4 * (self.courses.len() + 1);
        check(self.idle_timers <= bound, Law::Deadline, || {
            format!("{} timers at {now:?}", self.idle_timers)
        })
    }

    fn health(&self, core: &Core) -> Checked {
        let mut required = self.courses.iter().filter(|c| c.spec.required);
        let healthy = self.begun && required.all(|c| c.state == State::Healthy);
        check(healthy == core.required_healthy(), Law::Health, || {
            format!("required_healthy() is {}", core.required_healthy())
        })
    }

    /// What is told agrees with what is.
    pub fn told(&self, now: Time, core: &Core) -> Checked {
        let statuses = core.status(now);
        let all = statuses.len() == self.courses.len();
        check(all, Law::Status, || format!("{} statuses", statuses.len()))?;
        for status in statuses {
            let Some(course) = self.courses.iter().find(|c| c.spec.name == status.name) else {
                return check(false, Law::Status, || format!("{} is nobody", status.name));
            };
            let recent = course
                .window
                .iter()
                .filter(|at| now - **at < course.spec.intensity.within);
            let ends = course
                .deadline()
                .map(|at| supervisor::millis(at.saturating_sub(now)));
            let next = status.explanation.next.iter().filter_map(|n| n.in_ms).min();
            let agrees = status.state == course.state.name()
                && status.wanted == course.wanted
                && status.pid.is_some() == course.process
                && status.restarts == course.restarts
                && status.intensity.0 as usize == recent.count()
                && status.reloading == course.reload.is_some()
                && !status.explanation.because.is_empty()
                && next == ends;
            check(agrees, Law::Status, || {
                format!("{status:?} of {:?}", course.state)
            })?;
        }
        Ok(())
    }
}

/// Core and model are of one mind about a service.
fn agree(now: Time, gap: bool, course: &mut Course, machine: &Machine) -> Checked {
    let name = course.spec.name.clone();
    let law = if gap { Law::Gap } else { course.law };
    let (ours, theirs) = (course.state, machine.state());
    check(ours == theirs, law, || {
        format!("{name} is {theirs:?}, not {ours:?}")
    })?;
    let (ours, theirs) = (course.wanted, machine.is_wanted());
    check(ours == theirs, law, || {
        format!("{name} is wanted: {theirs}, not {ours}")
    })?;
    if let Some((low, high)) = course.delay.take() {
        let delay = machine
            .bound()
            .map_or(Time::MAX, |at| at.saturating_sub(now));
        let law = if course.state == State::Failed {
            Law::RetryAfter
        } else {
            Law::Backoff
        };
        check((low..=high).contains(&delay), law, || {
            format!("{name} waits for {delay:?}, not between {low:?} and {high:?}")
        })?;
        course.bound(law, now, delay);
    }
    let theirs = machine.deadline();
    let ours = course.next();
    // Whatever the core forgot, it forgot by the law of what is due.
    let law = match ours {
        _ if gap => Law::Gap,
        Some((at, law)) if theirs.is_none_or(|theirs| theirs > at) => law,
        _ => law,
    };
    let ours = ours.map(|(at, _)| at);
    check(ours == theirs, law, || {
        format!(
            "{name}, {:?}, is due at {theirs:?}, not {ours:?}",
            course.state
        )
    })?;
    let overdue = course.state == State::Stopping && now > course.stop_ends + LEAP;
    check(!overdue, Law::StopEnds, || {
        format!("{name} should have ended at {:?}", course.stop_ends)
    })
}

/// What an operator's word means before the set acts on it.
fn commanded(
    courses: &mut [Course],
    edges: &[set::Edges],
    place: usize,
    command: Command,
    turn: &mut Turn<'_>,
) {
    if matches!(command, Command::Start | Command::Restart) {
        for place in set::with_requirements(edges, place) {
            let course = &mut courses[place];
            (course.wanted, course.done) = (true, false);
            if matches!(course.state, State::Backoff | State::Failed) {
                course.saw(turn, Trigger::Start);
                if course.state == State::Failed {
                    course.must_by(Law::RetryAfter, turn, Token::Told("retry"));
                }
                course.anew(Law::Policy);
            }
        }
    }
    let course = &mut courses[place];
    match command {
        Command::Start => {}
        Command::Stop | Command::Restart => {
            if course.is_live() {
                course.leaving = Some(Why::Asked);
            }
            let waited = course.wanted;
            (course.wanted, course.done) = (command == Command::Restart, false);
            if command == Command::Stop {
                course.waits_no_more(waited, turn);
            }
        }
        Command::Reload => course.reload(turn),
    }
}
