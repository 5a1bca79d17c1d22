//! What PID 1 can be asked to do with the whole machine.

use nix::sys::signal::Signal;
use rustix::system::RebootCommand;

/// What is to happen after everything is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Start anew, through the firmware.
    Reboot,
    /// Switch off.
    Poweroff,
}

impl Verb {
    /// As events and commands have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Poweroff => "poweroff",
        }
    }

    /// What the kernel is told.
    #[must_use]
    pub fn command(self) -> RebootCommand {
        match self {
            Self::Reboot => RebootCommand::Restart,
            Self::Poweroff => RebootCommand::PowerOff,
        }
    }

    /// What whoever started a container is told by the exit status: 133 is what container managers
    /// take for a reboot (systemd-nspawn, `EXIT_FORCE_RESTART`).
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Reboot => 133,
            Self::Poweroff => 0,
        }
    }

    /// The signal to PID 1 that asks for it, see [`Self::of_signal`].
    #[must_use]
    pub fn signal(self) -> Signal {
        match self {
            Self::Reboot => Signal::SIGINT,
            Self::Poweroff => Signal::SIGPWR,
        }
    }

    /// What a signal to PID 1 asks for, if anything: Ctrl-Alt-Del is a `SIGINT`, a failing supply a
    /// `SIGPWR`, as sysvinit and systemd have it; container managers stop by `SIGTERM`.
    #[must_use]
    pub fn of_signal(signal: u32) -> Option<Self> {
        let is = |s: Signal| u32::try_from(s as i32) == Ok(signal);
        if is(Signal::SIGINT) {
            Some(Self::Reboot)
        } else if is(Signal::SIGTERM) || is(Signal::SIGPWR) {
            Some(Self::Poweroff)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_a_signal_that_asks_for_it() {
        for verb in [Verb::Reboot, Verb::Poweroff] {
            let signal = verb.signal() as i32;
            assert_eq!(Verb::of_signal(signal.unsigned_abs()), Some(verb));
        }
    }

    #[test]
    fn signals_that_ask() {
        assert_eq!(
            Verb::of_signal(libc::SIGINT.unsigned_abs()),
            Some(Verb::Reboot)
        );
        assert_eq!(
            Verb::of_signal(libc::SIGPWR.unsigned_abs()),
            Some(Verb::Poweroff)
        );
        assert_eq!(Verb::of_signal(libc::SIGCHLD.unsigned_abs()), None);
    }
}
