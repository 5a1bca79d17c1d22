//! PID 1's part in versions and their trials.
//!
//! Whether this boot is a trial the loader has said (`LoaderBootCountPath`); how the trial ends
//! [`super::trial`] decides from what the services do. What follows on the disk is the keeper's work
//! ([`crate::keeper`]), a child, over a channel:
//!
//! * `slot.healthy`, when all required services are healthy for the first time;
//! * `slot.bless` or `slot.condemn`, the verdict. The keeper answers a condemnation with `slot.reboot`, or
//!   with `slot.stuck` if there is no other version. One that does not answer within [`ANSWER`] is as
//!   broken as the version, and the machine reboots all the same: the loader starts the other version
//!   then, which infers the reason;
//! * `slot.keep`, before a reboot that has nothing to do with the trial.

use super::built_in::KEEPER;
use super::relay::{self, Channel};
use super::trial::{Policy, Seen, Trial, Verdict};
use crate::slots::efivar;
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use std::path::Path;
use supervisor::Time;
use supervisor::core::Core;
use supervisor::event::Event;

/// How long the keeper may take to do what a condemnation needs: a mount and two small writes.
const ANSWER: Time = Time::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Versions {
    channel: OwnedFd,
    trial: Option<Trial>,
    /// What a condemnation waits for, and since when it does not.
    unanswered: Option<(Time, String)>,
}

/// What the machine is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start anew: everything for it is on the disk.
    Reboot(String),
    /// Start anew, if the machine may: this version is bad, and nothing else is sure.
    TryReboot(String),
}

impl Versions {
    /// Over the keeper's one of these channels, by this policy.
    ///
    /// # Errors
    /// If the kernel gives no further descriptor, or none of the channels is the keeper's.
    pub fn new(channels: &[Channel], policy: Policy) -> io::Result<Self> {
        let keeper = channels.iter().find(|c| c.teller.service == KEEPER);
        let keeper = keeper.ok_or(io::ErrorKind::NotFound)?;
        let counted = efivar::read(Path::new(crate::keeper::gather::VARIABLES)).count_path;
        Ok(Self {
            channel: supervisor::logger::copy(keeper.fd.as_fd())?,
            trial: counted.map(|_| Trial::new(policy)),
            unanswered: None,
        })
    }

    /// When to look again, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let trial = self.trial.as_ref().and_then(Trial::deadline);
        let answer = self.unanswered.as_ref().map(|(due, _)| *due);
        [trial, answer].into_iter().flatten().min()
    }

    /// Looks at the services as they are `now`.
    pub fn look(&mut self, now: Time, core: &Core) -> Option<Order> {
        let services = core.machines().iter().map(|machine| Seen {
            name: &machine.spec().name,
            restarts: machine.restarts(),
        });
        let well = core.required_healthy();
        let trial = self.trial.as_mut();
        match trial.and_then(|trial| trial.look(now, well, services)) {
            Some(Verdict::Bless) => self.send("slot.bless", &[]),
            Some(Verdict::Condemn(reason)) => self.condemn(now, reason),
            None => {}
        }
        let (_, reason) = self.unanswered.take_if(|(due, _)| *due <= now)?;
        Some(Order::TryReboot(format!(
            "{reason}; the keeper of the slots does not answer"
        )))
    }

    /// A service asks for a reboot. True if that is the end of a trial, which then is all that
    /// follows from it.
    pub fn escalated(&mut self, now: Time, reason: &str) -> bool {
        match self.trial.as_mut().and_then(|t| t.escalated(reason)) {
            Some(Verdict::Condemn(reason)) => {
                self.condemn(now, reason);
                true
            }
            Some(Verdict::Bless) | None => self.unanswered.is_some(),
        }
    }

    /// The boot has succeeded.
    pub fn healthy(&self) {
        self.send("slot.healthy", &[]);
    }

    /// The machine is being stopped, for a reason that is not the version's fault unless it was
    /// condemned.
    pub fn stopping(&mut self) {
        if self.trial.take().is_some_and(|trial| trial.is_undecided()) {
            self.send("slot.keep", &[]);
        }
        self.unanswered = None;
    }

    /// Does what follows from what the keeper said.
    pub fn heed(&mut self, event: &Event) -> Option<Order> {
        match event.name() {
            // The entry has no counter any more, whatever the loader saw.
            "slot.state" if event.field("trial") == Some("false") => self.trial = None,
            "slot.blessed" | "slot.bad" => {
                if let Some(trial) = &mut self.trial {
                    trial.decided();
                }
            }
            "slot.reboot" => {
                self.unanswered = None;
                self.trial = None;
                let reason = event.field("reason").unwrap_or("asked by the slots");
                return Some(Order::Reboot(reason.to_owned()));
            }
            "slot.stuck" => {
                let (_, reason) = self.unanswered.take()?;
                self.trial = None;
                return Some(Order::TryReboot(reason));
            }
            _ => {}
        }
        None
    }

    fn condemn(&mut self, now: Time, reason: String) {
        self.send("slot.condemn", &[("reason", reason.clone())]);
        self.unanswered = Some((now + ANSWER, reason));
    }

    fn send(&self, name: &str, fields: &[(&str, String)]) {
        relay::send(&self.channel, name, fields);
    }
}
