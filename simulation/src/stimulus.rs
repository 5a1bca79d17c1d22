//! What the world does to the services: the stimuli, a list of which is a history.
//!
//! All that is out of the ordinary is a stimulus, so a history without any is a dull one, and what is left
//! of a history after minimising is what it takes. Some happen at once; others change for a while
//! how a service behaves.

use super::random::Random;
use std::time::Duration;

macro_rules! kinds {
    ($($kind:ident $weight:literal $what:literal,)*) => {
        /// The kinds, each with how often it comes and what it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($kind,)* }

        impl Kind {
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];
            const WEIGHTS: &'static [u64] = &[$($weight,)*];

            pub fn what(self) -> &'static str {
                match self { $(Self::$kind => $what,)* }
            }
        }
    };
}

kinds! {
    Exit 6 "the main process exits",
    Killed 6 "a signal ends the main process",
    OutOfMemory 3 "the kernel kills the main process for want of memory",
    OutOfMemoryChild 2 "the kernel kills a child for want of memory",
    CrashOnStart 7 "instances end soon after their start",
    Hang 4 "no answer, no ping, no READY, TERM ignored",
    Unresponsive 6 "all probes fail or find no answer",
    Unfit 4 "the readiness probe fails",
    SlowAnswers 4 "answers come just in time or just too late",
    ReadyEarly 2 "READY=1 out of a pre-start check",
    ReadyLate 3 "READY=1 about when start-timeout ends",
    ReadyTwice 2 "READY=1 twice",
    ReadyNever 3 "no READY=1",
    ReadyStray 3 "READY=1 out of nowhere",
    Leaving 4 "STOPPING=1, and an end or none",
    Reloading 3 "RELOADING=1, and READY=1 or not",
    PingsStop 4 "no WATCHDOG=1 for a while",
    Trigger 2 "WATCHDOG=trigger",
    Interval 3 "WATCHDOG_USEC= with another interval, or none",
    ExtendHonest 4 "EXTEND_TIMEOUT_USEC=, and done in that time",
    ExtendAbusive 3 "EXTEND_TIMEOUT_USEC= again and again, and never done",
    MainMoved 2 "MAINPID= of another process",
    IgnoresTerm 4 "the stop signal is ignored",
    Lingers 4 "what the main process leaves ignores the stop signal, for a while or for ever",
    StuckTree 4 "a killed tree is gone late, never, or before the exit is seen",
    SpawnFails 4 "no process can be made",
    CheckFails 3 "pre-start checks fail or hang",
    Border 32 "something happens in the nanosecond in which a threshold is reached",
    StaleAnswer 3 "an answer to a probe that nobody waits for",
    Gap 4 "the machine stands still",
    LateTimers 2 "timers are noticed late, but not by a leap",
    SpuriousTimer 2 "a timer when nothing is due",
    Start 4 "operator: start",
    Stop 3 "operator: stop",
    Restart 4 "operator: restart",
    Reload 3 "operator: reload",
    MilestoneLate 2 "a milestone comes late",
    RebootGranted 1 "a reboot that is asked for is done: everything stops",
    RebootRefused 2 "a reboot that is asked for is refused late",
}

pub const KINDS: usize = Kind::ALL.len();

/// One thing that the world does.
#[derive(Clone, Copy, Debug)]
pub struct Stimulus {
    pub at: Duration,
    pub service: usize,
    pub kind: Kind,
    /// How long, for the kinds that last.
    pub lasts: Duration,
    /// Decides what the kind leaves open.
    pub salt: u64,
}

/// A history: some stimuli by themselves, some soon after the one before, where the races are.
pub fn history(
    random: &mut Random,
    services: usize,
    length: Duration,
    count: u64,
    longest: u64,
) -> Vec<Stimulus> {
    let whole = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let mut before = Duration::ZERO;
    let mut history: Vec<Stimulus> = (0..count)
        .map(|_| {
            let at = if random.percent(45) {
                before + random.spread(1, 120_000)
            } else {
                Duration::from_millis(random.below(whole))
            };
            before = at;
            Stimulus {
                at,
                service: usize::try_from(random.below(services as u64)).unwrap_or(0),
                kind: kind(random),
                lasts: random.spread(1_000, longest),
                salt: random.next(),
            }
        })
        .filter(|stimulus| stimulus.at < length)
        .collect();
    history.sort_by_key(|stimulus| stimulus.at);
    history
}

fn kind(random: &mut Random) -> Kind {
    let mut left = random.below(Kind::WEIGHTS.iter().sum());
    for (kind, weight) in Kind::ALL.iter().zip(Kind::WEIGHTS) {
        if left < *weight {
            return *kind;
        }
        left -= weight;
    }
    Kind::Exit
}
