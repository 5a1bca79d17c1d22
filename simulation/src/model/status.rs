//! What is told of the services when somebody asks agrees with what is.

use super::Model;
use super::course::{Course, Grave};
use crate::invariants::{Checked, Law, check};
use std::collections::BTreeMap;
use std::time::Duration;
use supervisor::core::{Core, ExitStatus, State};
use supervisor::millis;
use supervisor::status::{Death, ServiceStatus};

impl Model {
    /// All of it.
    pub fn told(&self, now: Duration, core: &Core) -> Checked {
        let statuses = core.status(now);
        let all = statuses.len() == self.courses.len();
        check(all, Law::Status, || format!("{} statuses", statuses.len()))?;
        for status in statuses {
            let Some(course) = self.courses.iter().find(|c| c.spec.name == status.name) else {
                return check(false, Law::Status, || format!("{} is nobody", status.name));
            };
            let differs = differs(now, course, &status);
            check(differs.is_none(), Law::Status, || {
                let what = differs.unwrap_or_default();
                format!(
                    "{what} of {} in {:?}: {status:?}",
                    status.name, course.state
                )
            })?;
        }
        Ok(())
    }
}

/// The first thing that is told otherwise than it is.
fn differs(now: Duration, course: &Course, status: &ServiceStatus) -> Option<&'static str> {
    let recent = course
        .window
        .iter()
        .filter(|at| now - **at < course.spec.intensity.within);
    let ends = course.deadline().map(|at| millis(at.saturating_sub(now)));
    let next = status.explanation.next.iter().filter_map(|n| n.in_ms).min();
    let entered: BTreeMap<String, u64> = State::ALL
        .iter()
        .map(|state| (state.name().to_owned(), course.entered[*state as usize]))
        .collect();
    let deaths: Vec<Death> = course.graves.iter().map(death).collect();
    let begun = course.is_running().then(|| millis(course.begun));
    [
        ("the state", status.state == course.state.name()),
        ("the time since", status.since_at_ms == millis(course.since)),
        ("the wish", status.wanted == course.wanted),
        ("the process", status.pid == course.pid),
        ("the start", status.started_at_ms == begun),
        ("the restarts", status.restarts == course.restarts),
        (
            "the starts",
            status.starts == course.entered[State::Starting as usize],
        ),
        (
            "the intensity",
            status.intensity == (count(recent.count()), course.spec.intensity.restarts),
        ),
        ("the reload", status.reloading == course.reload.is_some()),
        ("the transitions", status.transitions == entered),
        ("the deaths", status.deaths == deaths),
        ("the reason", !status.explanation.because.is_empty()),
        ("what comes next", next == ends),
    ]
    .into_iter()
    .find_map(|(what, agrees)| (!agrees).then_some(what))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn death(grave: &Grave) -> Death {
    let (code, signal, core) = match grave.status {
        Some(ExitStatus::Code(code)) => (Some(code), None, false),
        Some(ExitStatus::Signal(signal, core)) => (None, Some(signal), core),
        Some(ExitStatus::NotExecuted(_) | ExitStatus::Unknown) | None => (None, None, false),
    };
    Death {
        at_ms: millis(grave.at),
        pid: grave.pid,
        uptime_ms: millis(grave.uptime),
        cause: grave.cause.clone(),
        status: code,
        signal,
        core,
        oom: grave.oom,
        memory_peak: grave.memory_peak,
    }
}
