//! What concerns the set: who may start, who has to go, and in which order.

use super::course::{Blocked, Course, Due, Turn, Why};
use super::token::{NOBODY, Token};
use super::{Model, Seen, shown};
use crate::invariants::{Checked, Law, check};
use std::collections::BTreeSet;
use std::time::Duration;
use supervisor::core::table::Trigger;
use supervisor::core::{Action, Program, State};
use supervisor::spec::{MILESTONES, Spec};

/// The cause of what somebody wanted.
pub const REQUESTED: &str = "requested";

/// Whom a service knows, by place.
pub struct Edges {
    pub requires: Vec<usize>,
    pub wants: Vec<usize>,
    pub after: Vec<usize>,
    required_by: Vec<usize>,
    followers: Vec<usize>,
    milestones: Vec<&'static str>,
}

pub fn edges(specs: &[Spec]) -> Vec<Edges> {
    let places = |has: &dyn Fn(&Spec) -> bool| -> Vec<usize> {
        (0..specs.len())
            .filter(|place| has(&specs[*place]))
            .collect()
    };
    let edges = specs.iter().map(|spec| {
        let name = &spec.name;
        let follows = |s: &Spec| {
            [&s.after, &s.requires, &s.wants]
                .iter()
                .any(|l| l.contains(name))
        };
        let milestones = MILESTONES
            .iter()
            .filter(|m| spec.after.iter().any(|a| a == *m));
        Edges {
            requires: places(&|s| spec.requires.contains(&s.name)),
            wants: places(&|s| spec.wants.contains(&s.name)),
            after: places(&|s| spec.after.contains(&s.name)),
            required_by: places(&|s| s.requires.contains(name)),
            followers: places(&follows),
            milestones: milestones.copied().collect(),
        }
    });
    edges.collect()
}

/// A service and everything it requires or wants, however far.
pub fn with_requirements(edges: &[Edges], place: usize) -> BTreeSet<usize> {
    let mut all = BTreeSet::from([place]);
    for required in edges[place].requires.iter().chain(&edges[place].wants) {
        all.extend(with_requirements(edges, *required));
    }
    all
}

impl Model {
    /// What the set does, action by action; each must be lawful where it stands.
    pub(super) fn set_moves(&mut self, now: Duration, actions: &[Action]) -> Checked {
        let rest = std::mem::take(&mut self.rest);
        let mut others = Vec::new();
        self.see_who_leaves();
        for Seen {
            place,
            token,
            action,
        } in &rest
        {
            match token {
                Token::Told("stop" | "stopped") => self.goes(now, *place, &actions[*action])?,
                Token::Spawn(program) if *place != NOBODY => {
                    self.starts(now, *place, *program)?;
                }
                Token::AllStopped => self.all_stop()?,
                _ => others.push((*place, *token, *action)),
            }
            self.see_who_leaves();
        }
        self.see_who_is_blocked(now);
        for (place, token, action) in others {
            let action = &actions[action];
            match self.due_at(place, token, action) {
                Some(found) => {
                    self.due.remove(found);
                }
                None => {
                    return check(false, self.unasked(place, token), || {
                        format!("{}: {} has no reason", self.name(place), shown(now, action))
                    });
                }
            }
        }
        self.rest = rest;
        self.nothing_is_missing(now, actions)
    }

    /// The law against doing this without a reason.
    fn unasked(&self, place: usize, token: Token) -> Law {
        match (self.law(place), token) {
            (Law::Transitions, Token::Ask(..) | Token::Cancel(_)) => Law::Probes,
            (Law::Transitions, Token::Told("restart")) => Law::Policy,
            (Law::Transitions, Token::Told("ready")) => Law::Readiness,
            (Law::Transitions, Token::Kill | Token::Signal(_)) => Law::Stop,
            (law, _) => law,
        }
    }

    /// Marks whoever cannot stay, and keeps the mark until they went.
    fn see_who_leaves(&mut self) {
        let mut marked = BTreeSet::new();
        loop {
            let before = marked.len();
            for (place, course) in self.courses.iter().enumerate() {
                if course.leaving.is_none()
                    && course.is_live()
                    && (self.stopping || self.lost(place, &marked).is_some())
                {
                    marked.insert(place);
                }
            }
            if marked.len() == before {
                break;
            }
        }
        for place in &marked {
            let lost = self.lost(*place, &marked).filter(|_| !self.stopping);
            let cause = match lost {
                Some(lost) => format!("{} went, which it requires", self.name(lost)),
                None => REQUESTED.to_owned(),
            };
            self.courses[*place].leaving = Some(cause);
        }
    }

    /// The first of what a service requires that is gone or has to go; of one that has done its work nothing is lost.
    fn lost(&self, place: usize, marked: &BTreeSet<usize>) -> Option<usize> {
        let mut requires = self.edges[place].requires.iter().copied();
        requires
            .find(|r| {
                let required = &self.courses[*r];
                !required.is_provided() || required.leaving.is_some() || marked.contains(r)
            })
            .filter(|_| !self.courses[place].is_finished())
    }

    /// Whoever has to be gone before this one may go.
    fn in_the_way(&self, place: usize) -> Option<&Course> {
        let edges = &self.edges[place];
        let before = if self.stopping {
            &edges.followers
        } else {
            &edges.required_by
        };
        before
            .iter()
            .map(|p| &self.courses[*p])
            .find(|c| c.is_running() && (self.stopping || !c.is_finished()))
    }

    fn goes(&mut self, now: Duration, place: usize, action: &Action) -> Checked {
        let course = &self.courses[place];
        let leaves = course.is_live() && course.leaving.is_some();
        let law = if course.law == Law::Transitions {
            Law::Requirements
        } else {
            course.law
        };
        check(leaves, law, || {
            format!("{} was taken away without a cause", course.spec.name)
        })?;
        let in_the_way = self.in_the_way(place);
        check(in_the_way.is_none(), Law::StopOrder, || {
            let other = in_the_way.map_or("", |c| &c.spec.name);
            format!("{} went while {other} was running", course.spec.name)
        })?;
        let mut due = std::mem::take(&mut self.due);
        let turn = &mut Turn {
            now,
            due: &mut due,
            coverage: &mut self.coverage,
        };
        let course = &mut self.courses[place];
        course.saw(turn, Trigger::Stop);
        course.law = Law::StopOrder;
        let cause = course.leaving.clone().unwrap_or_default();
        let told = if course.is_finished() {
            course.end_health(now);
            course.rest(&cause, turn);
            "stopped"
        } else {
            course.take(Why::Asked, cause.clone(), turn);
            "stop"
        };
        self.due = due;
        let own = self.due_at(place, Token::Told(told), action);
        check(own.is_some(), Law::Requirements, || {
            format!(
                "{}: {}, and the cause is {cause:?}",
                self.name(place),
                shown(now, action)
            )
        })?;
        own.map(|own| self.due.remove(own));
        Ok(())
    }

    /// What a stopped service waits for, and the law that says so.
    fn missing(&self, place: usize) -> Option<(Law, String)> {
        let (course, edges) = (&self.courses[place], &self.edges[place]);
        let milestone = edges
            .milestones
            .iter()
            .find(|m| !self.milestones.contains(m));
        let required = edges
            .requires
            .iter()
            .find(|r| !self.courses[**r].is_ready());
        let before = edges.after.iter().chain(&edges.requires);
        let before = before.chain(&edges.wants);
        let awaited = before.copied().find(|a| self.is_awaited(*a));
        let group = edges
            .required_by
            .iter()
            .find(|b| self.courses[**b].is_running() && !self.courses[**b].is_finished());
        let state = course.state;
        if self.stopping {
            Some((Law::Shutdown, "everything is stopped".into()))
        } else if !self.begun {
            Some((Law::Order, "nothing has begun".into()))
        } else if state != State::Stopped {
            let law = match state {
                State::Backoff => Law::Backoff,
                State::Failed => Law::RetryAfter,
                _ => Law::OneInstance,
            };
            Some((law, format!("it is {state:?}")))
        } else if !course.wanted {
            Some((Law::Policy, "it is not wanted".into()))
        } else if let Some(milestone) = milestone {
            Some((Law::Order, format!("it waits for {milestone}")))
        } else if let Some(place) = required {
            Some((
                Law::Requirements,
                format!("it requires {}", self.name(*place)),
            ))
        } else if let Some(place) = awaited {
            Some((Law::Order, format!("it comes after {}", self.name(place))))
        } else if let (true, Some(place)) = (course.clean, group) {
            Some((
                Law::GroupRestart,
                format!("{} runs still", self.name(*place)),
            ))
        } else {
            None
        }
    }

    /// Whether it may become ready for the first time without anybody's help.
    fn is_awaited(&self, place: usize) -> bool {
        let course = &self.courses[place];
        let hope = |r: &usize| self.courses[*r].is_ready() || self.is_awaited(*r);
        course.wanted
            && !course.tried
            && course.state != State::Failed
            && self.edges[place].requires.iter().all(hope)
    }

    /// Whether it is not ready and nothing that happens by itself will make it so, and whether that is
    /// an operator's wish.
    fn is_down(&self, place: usize) -> Option<bool> {
        let course = &self.courses[place];
        match course.state {
            State::Failed | State::Unhealthy => Some(false),
            State::Stopped if !course.wanted => Some(!course.done),
            State::Stopped => self.blocker(place).map(|blocked| blocked.operator),
            _ => None,
        }
    }

    fn blocker(&self, place: usize) -> Option<Blocked> {
        let course = &self.courses[place];
        if course.state != State::Stopped || !course.wanted {
            return None;
        }
        // In the order of the list of services.
        self.edges[place].requires.iter().find_map(|by| {
            let operator = self.is_down(*by)?;
            Some(Blocked {
                name: self.name(*by).to_owned(),
                state: self.courses[*by].state,
                operator,
            })
        })
    }

    fn see_who_is_blocked(&mut self, now: Duration) {
        if !self.begun || self.stopping {
            for course in &mut self.courses {
                let waited = course.blocked.take().is_some();
                course.limit = course.limit.filter(|_| !waited);
            }
            return;
        }
        for place in 0..self.courses.len() {
            let blocked = self.blocker(place);
            let course = &mut self.courses[place];
            if course.blocked == blocked {
                continue;
            }
            let counts = |b: &Option<Blocked>| b.as_ref().is_some_and(|b| !b.operator);
            let (before, after) = (counts(&course.blocked), counts(&blocked));
            course.blocked.clone_from(&blocked);
            if course.spec.required && after && !before {
                course.bound(Law::Lost, now, course.spec.start_timeout);
            }
            if !after && course.state == State::Stopped {
                course.limit = None;
            }
            if let Some(blocked) = blocked {
                let name = course.spec.name.as_str();
                self.due.push(Due {
                    place,
                    token: Token::Told("blocked"),
                    fields: blocked.fields().with("service", name),
                    law: Law::Lost,
                });
            }
        }
    }

    fn starts(&mut self, now: Duration, place: usize, program: Program) -> Checked {
        let course = &self.courses[place];
        let name = &course.spec.name;
        check(
            !course.tree && course.pid.is_none(),
            Law::OneInstance,
            || format!("{name} starts over what is left of it"),
        )?;
        if let Some((law, why)) = self.missing(place) {
            return check(false, law, || format!("{name} starts, and {why}"));
        }
        let mut due = std::mem::take(&mut self.due);
        let turn = &mut Turn {
            now,
            due: &mut due,
            coverage: &mut self.coverage,
        };
        let course = &mut self.courses[place];
        course.launch(turn);
        self.due = due;
        check(course.program == program, Law::Readiness, || {
            format!("{} starts with {program:?}", course.spec.name)
        })
    }

    fn all_stop(&mut self) -> Checked {
        let runs = self
            .courses
            .iter()
            .find(|c| c.is_running() || c.tree || c.pid.is_some());
        let early = !self.stopping || runs.is_some();
        check(!early, Law::Shutdown, || {
            format!(
                "AllStopped, and {} runs",
                runs.map_or("all", |c| &c.spec.name)
            )
        })?;
        check(!self.all_stopped, Law::Shutdown, || {
            "AllStopped again".into()
        })?;
        self.all_stopped = true;
        Ok(())
    }

    /// After the step nobody is left who had to move in it.
    pub(super) fn nobody_is_forgotten(&self) -> Checked {
        for (place, course) in self.courses.iter().enumerate() {
            let name = &course.spec.name;
            if course.is_live() && course.leaving.is_some() {
                check(self.in_the_way(place).is_some(), Law::Requirements, || {
                    format!("{name} has to go, nobody is in its way, and it stays")
                })?;
            }
            if course.state == State::Stopped && course.wanted {
                check(self.missing(place).is_some(), Law::Order, || {
                    format!("{name} is stopped and waits for nothing")
                })?;
            }
        }
        self.all_is_over()
    }

    /// Boot health depends on the required ones: each is healthy, or something is due by itself, or the
    /// machine was told, or somebody wants it as it is.
    pub(super) fn nobody_is_lost(&self) -> Checked {
        let required = self.courses.iter().enumerate();
        let required = required.filter(|(_, c)| c.spec.required && c.wanted && !c.shut);
        for (place, course) in required {
            let waits_for_a_milestone = self
                .missing(place)
                .is_some_and(|(law, _)| law == Law::Order);
            let excused = course.told || course.deadline().is_some();
            let lost = match course.state {
                State::Healthy | State::Ready => false,
                State::Stopped => {
                    let coming = |p: &usize| self.is_down(*p).is_none();
                    let operator = course.blocked.as_ref().is_some_and(|b| b.operator);
                    let all_coming = self.edges[place].requires.iter().all(coming);
                    !(excused || operator || all_coming || waits_for_a_milestone)
                }
                _ => !excused,
            };
            check(!lost, Law::Lost, || {
                format!(
                    "{} is {:?} and nothing follows",
                    course.spec.name, course.state
                )
            })?;
        }
        Ok(())
    }

    fn all_is_over(&self) -> Checked {
        let over = self.stopping && !self.courses.iter().any(Course::is_running);
        check(!over || self.all_stopped, Law::Shutdown, || {
            "AllStopped did not come".into()
        })
    }
}
