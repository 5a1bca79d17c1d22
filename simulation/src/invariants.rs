//! The laws that are checked after every step, by name.

use std::fmt;

macro_rules! laws {
    ($($law:ident $name:literal $what:literal,)*) => {
        /// One law. When the core and the model part, the one that was last consulted is named.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Law { $($law,)* }

        impl Law {
            pub fn name(self) -> &'static str {
                match self { $(Self::$law => $name,)* }
            }

            pub fn what(self) -> &'static str {
                match self { $(Self::$law => $what,)* }
            }
        }
    };
}

laws! {
    Transitions "transitions" "one state at a time, and only the transitions that the prose draws, each with a cause",
    OneInstance "one-instance" "nothing is started while a process or a tree of the service is there that was not given up",
    NoLostExit "no-lost-exit" "an end leads to the next check or to the end of the tree, and the empty tree to a decision in the same step",
    Policy "restart-policy" "no restart without a cause, and none that policy, operator or shutdown forbid",
    Backoff "backoff" "the delay doubles up to its maximum, within its jitter, and starts anew only after sustained health",
    Deferral "deferral" "a start that fails by no fault of the service is tried again after its delay, counts for nothing, and is told to the machine once",
    Intensity "intensity" "never more restarts by the law within the window; the next one escalates; an operator's starts do not count",
    GroupRestart "group-restart" "the group starts clean, once until sustained health",
    Lost "nobody-is-lost" "a required service that its policy does not bring back, or that is blocked or unhealthy for its start-timeout, escalates",
    RetryAfter "retry-after" "a failed service is tried anew when its time has come, not before and not otherwise",
    Readiness "readiness" "ready exactly when its type's condition is met, never in a check before the start",
    Order "order" "a service starts in the step in which everything it waits for is there, and not before",
    Requirements "requirements" "nobody runs on while something it requires is gone: its takedown is under way in the same step",
    StopOrder "stop-order" "whoever goes goes after those that require it; at shutdown after those that come after it",
    Liveness "liveness" "exactly `failures` bad answers in a row end the instance, good ones prove it alive",
    Fitness "readiness-probe" "the readiness probe decides about readiness and never ends an instance",
    Startup "startup" "the startup probe holds the others back, and ends the instance when it fails",
    Watchdog "watchdog" "silence for exactly the interval ends the instance, from ready until it is taken away",
    StartTimeout "start-timeout" "bounds everything from the start to ready, exactly",
    Stop "stop" "the signal first, once to everybody, the kill after stop.timeout, given up after KILL_WAIT",
    StopEnds "stop-ends" "no stop takes longer than its furthest extension and the waits for the kill",
    Extension "extension" "an extension moves its bound forward, at most to ten times its length",
    Reload "reload" "a reload that is not told to be over in time is told, and does no harm",
    Gap "gap" "time in which the machine stood still is given back; it fails nobody",
    Shutdown "shutdown" "after StopAll nothing starts, and AllStopped comes once, in bounded time",
    Probes "probes" "one attempt in flight at most, none when off, each answered, cancelled or timed out",
    Deadline "deadline" "the next timer is due exactly when something is, never in the past, and never in a busy loop",
    Health "health" "the machine is healthy exactly when all required services are",
    Panic "no-panic" "nothing panics, whatever happens",
    Status "status" "what is told of a service agrees with its state",
}

/// A law that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    pub law: Law,
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (law, what) = (self.law.name(), self.law.what());
        write!(f, "{law} ({what}): {}", self.what)
    }
}

/// Boxed, so that what does not happen costs nothing.
pub type Checked = Result<(), Box<Broken>>;

/// The law is broken unless this holds.
pub fn check(holds: bool, law: Law, what: impl FnOnce() -> String) -> Checked {
    if holds {
        return Ok(());
    }
    Err(Box::new(Broken { law, what: what() }))
}
