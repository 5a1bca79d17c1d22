//! What a service does in each state about each thing that can happen to it.
//!
//! The whole law at one look; [`super::machine`] tells what the states are and carries the reactions
//! out. A `-` is on purpose: the trigger does not fit the state (an answer to a probe that was given
//! up, a second `READY=1`) and changes nothing.

use Reaction::{
    Ail, Follow, Go, Heal, Launch, Leave, Nothing as No, Overdue as Late, Ready as Rdy, Rest,
    Settle, Strike, Sweep, Take, Tighten,
};

/// The states of a service, told in [`super::machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the prose of the machine tells them all")]
pub enum State {
    Stopped,
    Starting,
    Ready,
    Healthy,
    Unhealthy,
    Stopping,
    Backoff,
    Failed,
}

/// How many states there are.
pub const STATES: usize = 8;

impl State {
    /// All of them, in the order of the table.
    pub const ALL: [Self; STATES] = [
        Self::Stopped,
        Self::Starting,
        Self::Ready,
        Self::Healthy,
        Self::Unhealthy,
        Self::Stopping,
        Self::Backoff,
        Self::Failed,
    ];

    /// Its name in events and on the control socket.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
        }
    }

    /// Whether an instance is there and has not been told to go.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Ready | Self::Healthy | Self::Unhealthy
        )
    }
}

/// What can happen to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It is to run, and everything it waits for is there; or it was asked for by name.
    Start,
    /// It is to go, by no fault of its own.
    Stop,
    /// Its process was made.
    Spawned,
    /// Its process could not be made.
    NotSpawned,
    /// The condition of readiness is met.
    Ready,
    /// It is proven to be alive: its liveness probe, or nothing is left to prove it.
    Alive,
    /// Its readiness probe succeeds.
    Fit,
    /// Its readiness probe fails.
    Unfit,
    /// It is to go by its own fault: liveness, watchdog, startup probe.
    Fault,
    /// It says that it is going.
    Leaving,
    /// Its main process ended.
    Exited,
    /// Its tree is empty, and its main process reaped.
    Gone,
    /// The bound of its state was reached.
    Due,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// Begin an instance: the first check, or the main process.
    Launch,
    /// Be `stopped`, without an instance.
    Rest,
    /// The instance is on its way: wait for readiness by its type's law.
    Follow,
    /// Be ready, or healthy at once where nothing has to prove it.
    Ready,
    /// Be healthy, or ready where health is not proven yet.
    Heal,
    /// Be unhealthy.
    Ail,
    /// Signal the main process, and bound its end.
    Take,
    /// Only bound its end.
    Leave,
    /// Signal the process that came too late to be told.
    Strike,
    /// Kill what the main process left.
    Sweep,
    /// Kill the tree; if that was done, give it up.
    Tighten,
    /// The instance is gone: the restart law decides.
    Settle,
    /// Tell the machine: it has been blocked or unhealthy for too long.
    Overdue,
    /// The wait is over: be `stopped` and wanted, so that it starts when it may.
    Go,
}

/// How many triggers there are.
pub const TRIGGERS: usize = 13;

/// State by trigger.
#[rustfmt::skip]
const TABLE: [[Reaction; TRIGGERS]; STATES] = [
    //              Start   Stop  Spawned NotSpawned Ready Alive Fit   Unfit Fault Leaving Exited Gone    Due
    /* Stopped   */ [Launch, Rest, No,     No,        No,   No,   No,   No,   No,   No,     No,    No,     Late],
    /* Starting  */ [No,     Take, Follow, Sweep,     Rdy,  No,   No,   No,   Take, Leave,  Sweep, No,     Take],
    /* Ready     */ [No,     Take, No,     No,        No,   Heal, No,   Ail,  Take, Leave,  Sweep, No,     No],
    /* Healthy   */ [No,     Take, No,     No,        No,   No,   No,   Ail,  Take, Leave,  Sweep, No,     No],
    /* Unhealthy */ [No,     Take, No,     No,        No,   No,   Heal, No,   Take, Leave,  Sweep, No,     Late],
    /* Stopping  */ [No,     No,   Strike, Sweep,     No,   No,   No,   No,   No,   No,     Sweep, Settle, Tighten],
    /* Backoff   */ [Go,     Rest, No,     No,        No,   No,   No,   No,   No,   No,     No,    No,     Go],
    /* Failed    */ [Go,     Rest, No,     No,        No,   No,   No,   No,   No,   No,     No,    No,     Go],
];

/// Looks it up.
#[must_use]
pub fn reaction(state: State, trigger: Trigger) -> Reaction {
    TABLE
        .get(state as usize)
        .and_then(|row| row.get(trigger as usize))
        .copied()
        .unwrap_or(Reaction::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_where_their_names_say() {
        assert_eq!(
            State::ALL.map(|s| s as usize),
            std::array::from_fn(|place| place)
        );
        assert_eq!(Trigger::Due as usize, TRIGGERS - 1);
        assert_eq!(
            reaction(State::Stopped, Trigger::Start),
            Reaction::Launch,
            "the first corner"
        );
        assert_eq!(
            reaction(State::Failed, Trigger::Due),
            Reaction::Go,
            "the last corner"
        );
        assert_eq!(
            reaction(State::Stopping, Trigger::Gone),
            Reaction::Settle,
            "one in between"
        );
    }

    #[test]
    fn only_a_stopped_service_is_launched() {
        for state in State::ALL {
            let launches = reaction(state, Trigger::Start) == Reaction::Launch;
            assert_eq!(launches, state == State::Stopped, "{state:?}");
        }
    }
}
