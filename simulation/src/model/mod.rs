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
mod status;
mod token;
mod told;

use crate::coverage::Coverage;
use crate::invariants::{Checked, Law, check};
use crate::jitter::Jitter;
use course::{Course, Due, Turn};
use std::time::Duration;
use supervisor::core::table::Trigger;
use supervisor::core::{Action, Command, Core, Input, Machine, ProbeKind, State};
use supervisor::spec::Spec;
use token::{NOBODY, Token, token};
use told::{Fields, delay_told};

type Time = Duration;

/// What is noticed so late was missed by the machine.
const LEAP: Time = Duration::from_secs(2);

/// What counts from one gap to the end of the next, if the missed deadline is so far away.
const BETWEEN_GAPS: Time = Time::from_secs(5);

/// A threshold that is going to be reached, by what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Border {
    /// A restart leaves the window of the intensity, or lasting health is reached, or a first start in vain has
    /// been waited for: an end of the instance is judged by it.
    Law,
    /// The bound of a start, of a stop, of a reload.
    Start,
    Stop,
    Reload,
    /// A delay, or the patience with who is blocked or unhealthy.
    Wait,
    /// The patience with who cannot be started.
    Deferral,
    /// The silence that the watchdog allows.
    Silence,
    /// The time for an answer.
    Answer(ProbeKind),
}

/// An action that nothing of a service by itself asked for: whom it concerns, and its place among the actions.
#[derive(Clone, Copy, Debug)]
struct Seen {
    place: usize,
    token: Token,
    action: usize,
}

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
    rest: Vec<Seen>,
    pub coverage: Coverage,
    pub gaps: u64,
    pub jitter: Jitter,
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
            jitter: Jitter::default(),
        }
    }

    pub fn restarts(&self) -> u64 {
        self.courses.iter().map(|c| c.restarts).sum()
    }

    pub fn escalations(&self) -> u64 {
        self.courses.iter().map(|c| c.escalations).sum()
    }

    /// The thresholds that a service is going to reach, as things are.
    pub fn borders(&self, place: usize) -> Vec<(Time, Border)> {
        self.courses[place].borders()
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
        self.match_due(now, actions)?;
        self.set_moves(now, actions)?;
        self.nobody_is_forgotten()?;
        for (course, machine) in self.courses.iter_mut().zip(core.machines()) {
            agree(now, self.gap, course, machine, &mut self.jitter)?;
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
            let fields = Fields::default().with_ms("gap_ms", gap);
            self.due.push(Due {
                place: NOBODY,
                token: Token::Told("time.gap"),
                fields: fields.with("then", "given back to whoever was being waited for"),
                law: Law::Gap,
            });
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
            Input::Spawned(id, pid) => courses[id.0].spawned(*pid, turn),
            Input::Executed(id) => courses[id.0].executed(turn),
            Input::SpawnFailed(id, failure) => courses[id.0].not_spawned(failure, turn),
            Input::Exited(id, exit) => courses[id.0].exited(exit, turn),
            Input::TreeGone(id) => courses[id.0].tree_gone(turn),
            Input::OutOfMemory(id) => courses[id.0].out_of_memory(turn),
            Input::MainMoved(id, pid) => courses[id.0].main_moved(*pid, turn),
            Input::Notify(id, what) => courses[id.0].notified(what, turn),
            Input::Probe {
                id,
                kind,
                attempt,
                result,
            } => {
                if courses[id.0].probes[*kind as usize].attempt == *attempt {
                    courses[id.0].answered(*kind, result, turn);
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
    fn match_due(&mut self, now: Time, actions: &[Action]) -> Checked {
        let mut rest = std::mem::take(&mut self.rest);
        rest.clear();
        for (number, action) in actions.iter().enumerate() {
            let find = |name: &str| {
                let place = self.courses.iter().position(|c| c.spec.name == name);
                place.unwrap_or(NOBODY)
            };
            let (place, token) = token(action, find);
            match self.due_at(place, token, action) {
                Some(found) => {
                    self.due.remove(found);
                    if let (Some(course), Some(ms)) =
                        (self.courses.get_mut(place), delay_told(action))
                    {
                        course.delay_told = Some(ms);
                    }
                }
                None => rest.push(Seen {
                    place,
                    token,
                    action: number,
                }),
            }
        }
        self.rest = rest;
        self.nothing_is_missing(now, actions)
    }

    fn due_at(&self, place: usize, token: Token, action: &Action) -> Option<usize> {
        let same = |due: &Due| (due.place, due.token) == (place, token) && due.fields.fit(action);
        self.due.iter().position(same)
    }

    fn nothing_is_missing(&self, now: Time, actions: &[Action]) -> Checked {
        let Some(due) = self.due.first() else {
            return Ok(());
        };
        let law = if self.gap { Law::Gap } else { due.law };
        check(false, law, || {
            let (name, token, fields) = (self.name(due.place), due.token, &due.fields);
            let rest = self.rest.iter();
            let rest: Vec<String> = rest.map(|seen| shown(now, &actions[seen.action])).collect();
            format!("{name}: {token:?} with{fields} had to follow; left: {rest:?}")
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
}

/// An action as it is shown to a person.
fn shown(now: Time, action: &Action) -> String {
    match action {
        Action::Emit(event) => event.line(now),
        action => format!("{action:?}"),
    }
}

/// Core and model are of one mind about a service.
fn agree(
    now: Time,
    gap: bool,
    course: &mut Course,
    machine: &Machine,
    jitter: &mut Jitter,
) -> Checked {
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
        } else if course.deferral.is_some() {
            Law::Deferral
        } else {
            Law::Backoff
        };
        check((low..=high).contains(&delay), law, || {
            format!("{name} waits for {delay:?}, not between {low:?} and {high:?}")
        })?;
        course.bound(law, now, delay);
        let told = course.delay_told.filter(|_| course.state == State::Backoff);
        check(told.is_none_or(|ms| ms == delay.as_millis()), law, || {
            format!("{name} waits for {delay:?}, and told {told:?} ms")
        })?;
        jitter.add(law, (low, high), delay);
    }
    course.delay_told = None;
    let (ours, theirs) = (course.restarts, machine.restarts());
    check(ours == theirs, Law::Status, || {
        format!("{name} has {theirs} restarts, not {ours}")
    })?;
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
                    course.must_tell_by(Law::RetryAfter, turn, "retry", Fields::default());
                }
                course.anew(Law::Policy, turn.now);
            }
        }
    }
    let course = &mut courses[place];
    match command {
        Command::Start => {}
        Command::Stop | Command::Restart => {
            if course.is_live() {
                course.leaving = Some(set::REQUESTED.to_owned());
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
