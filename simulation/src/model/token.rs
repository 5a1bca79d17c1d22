//! What the core does, in the model's words.

use supervisor::core::{Action, ProbeKind, Program};

/// One action, without what the model does not judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Spawn(Program),
    Signal(i32),
    /// The stop signal to the whole tree.
    SignalTree(i32),
    Kill,
    Abandon,
    Drop,
    Ask(ProbeKind, u64),
    Cancel(ProbeKind),
    Reboot,
    Degraded,
    AllStopped,
    /// An event: its name without `service.`.
    Told(&'static str),
}

/// The names that the model knows; an event of another name is a broken law.
const TOLD: [&str; 19] = [
    "start",
    "ready",
    "healthy",
    "unhealthy",
    "stop",
    "exit",
    "restart",
    "stopped",
    "failed",
    "retry",
    "stuck",
    "reload",
    "reloaded",
    "warning",
    "main",
    "oom",
    "blocked",
    "deferred",
    "time.gap",
];

/// The service's place, if it is about one, and the token.
pub fn token(action: &Action, find: impl Fn(&str) -> usize) -> (usize, Token) {
    match action {
        Action::Spawn(id, program) => (id.0, Token::Spawn(*program)),
        Action::Signal(id, signal) => (id.0, Token::Signal(*signal)),
        Action::SignalTree(id, signal) => (id.0, Token::SignalTree(*signal)),
        Action::KillTree(id) => (id.0, Token::Kill),
        Action::Abandon(id) => (id.0, Token::Abandon),
        Action::DropStored(id) => (id.0, Token::Drop),
        Action::Probe { id, kind, attempt } => (id.0, Token::Ask(*kind, *attempt)),
        Action::CancelProbe(id, kind) => (id.0, Token::Cancel(*kind)),
        Action::Reboot { id, .. } => (id.0, Token::Reboot),
        Action::Degraded { id, .. } => (id.0, Token::Degraded),
        Action::AllStopped => (NOBODY, Token::AllStopped),
        Action::Emit(event) => {
            let name = event
                .name()
                .strip_prefix("service.")
                .unwrap_or_else(|| event.name());
            let known = TOLD.iter().find(|known| **known == name);
            let told = Token::Told(known.copied().unwrap_or("an unknown event"));
            (event.field("service").map_or(NOBODY, find), told)
        }
    }
}

/// The place of what concerns no service.
pub const NOBODY: usize = usize::MAX;
