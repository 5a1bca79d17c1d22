//! What a service that waits can expect of those that it waits for.
//!
//! Two questions about each service are answered for the whole set in one pass, from those that are
//! required to those that require, so that the cost is the number of edges and not of paths:
//!
//! * Is it **awaited**: do those that come `after` it wait for its first success? They do until it
//!   was ready, or until its first start came to nothing, or something that it requires did.
//! * Is it **down**: not ready, and not going to be by itself for now? It failed, or ended and is not
//!   restarted, or an operator stopped it, or its readiness probe fails, or it waits itself for something
//!   that is down. Whoever requires it is *blocked* ([`Blocked`]).

use super::machine::Machine;
use super::table::State;
use super::{Core, Id};

/// Why a service that waits for what it requires does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    /// The first of what it requires that is down.
    pub(super) dependency: String,
    /// The state of that.
    pub(super) state: State,
    /// Whether an operator's stop is at the bottom of it. That is nobody's failure.
    pub(super) by_operator: bool,
}

/// The answers about one service; see the module.
#[derive(Clone, Copy, Debug, Default)]
struct Outlook {
    awaited: bool,
    down: Option<Down>,
    /// What of its requirements blocks it.
    dependency: Option<Id>,
}

/// It is down, and whether an operator wants it so.
#[derive(Clone, Copy, Debug)]
struct Down {
    by_operator: bool,
}

/// The answers about all services.
#[derive(Debug)]
pub(super) struct Outlooks(Vec<Outlook>);

impl Outlooks {
    fn of(&self, id: Id) -> Outlook {
        self.0.get(id.0).copied().unwrap_or_default()
    }

    /// Whether those that come after it wait for its first success.
    pub(super) fn is_awaited(&self, id: Id) -> bool {
        self.of(id).awaited
    }
}

impl Core {
    /// Answers both questions about everybody.
    pub(super) fn outlooks(&self) -> Outlooks {
        let mut all = Outlooks(vec![Outlook::default(); self.machines.len()]);
        for id in self.graph.order() {
            let Some(machine) = self.machines.get(id.0) else {
                continue;
            };
            let requires = self.graph.requires(*id);
            #[cfg(test)]
            steps::count(1 + requires.len());
            let hope = |r: &Id| {
                self.machines.get(r.0).is_some_and(Machine::is_ready) || all.is_awaited(*r)
            };
            let awaited = machine.is_awaited() && requires.iter().all(hope);
            let below = requires.iter().find_map(|r| Some((*r, all.of(*r).down?)));
            let waits = machine.state == State::Stopped && machine.wanted;
            let below = below.filter(|_| waits);
            let down = match machine.state {
                State::Failed | State::Unhealthy => Some(Down { by_operator: false }),
                State::Stopped if !machine.wanted => Some(Down {
                    by_operator: !machine.done,
                }),
                _ => below.map(|(_, down)| down),
            };
            if let Some(outlook) = all.0.get_mut(id.0) {
                *outlook = Outlook {
                    awaited,
                    down,
                    dependency: below.map(|(id, _)| id),
                };
            }
        }
        all
    }

    /// What blocks a service, if something does.
    pub(super) fn blocked(&self, id: Id, outlooks: &Outlooks) -> Option<Blocked> {
        let Outlook {
            dependency, down, ..
        } = outlooks.of(id);
        let dependency = self.machines.get(dependency?.0)?;
        Some(Blocked {
            dependency: dependency.spec.name.clone(),
            state: dependency.state,
            by_operator: down?.by_operator,
        })
    }
}

/// What the pass costs, counted by the test of that.
#[cfg(test)]
pub(super) mod steps {
    use std::cell::Cell;

    thread_local!(static STEPS: Cell<usize> = const { Cell::new(0) });

    pub fn count(more: usize) {
        STEPS.set(STEPS.get() + more);
    }

    pub fn take() -> usize {
        STEPS.replace(0)
    }
}
