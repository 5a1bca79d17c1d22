//! PID 1's part in versions and their trials.
//!
//! Whether this boot is a trial the loader has said (`LoaderBootCountPath`); how the trial ends
//! [`super::trial`] decides from what the services do. What follows on the disk is the work of the slot
//! daemon ([`crate::keeper`]), a child, over a channel ([`crate::slots::orders`]): PID 1 keeps one current
//! [`Order`] and sends it whenever it changes and whenever a daemon has started.
//!
//! The daemon answers a condemnation with a report that asks for the reboot, or says that there is no other
//! version. One that does not answer within [`ANSWER`] is as broken as the version, and the machine
//! reboots all the same, if it may: the loader starts the other version then, which infers the reason.
//!
//! [`Current`] is pure; [`Versions`] connects it with the channel.

use super::trial::{Policy, Seen, Trial, Verdict};
use crate::manager::role_channel::RoleChannel;
use crate::slots::efivar;
use crate::slots::orders::{self, Order, Report, Standing};
use std::path::Path;
use supervisor::Time;
use supervisor::core::Core;

/// How long the slot daemon may take to do what a condemnation needs: a mount and two small writes.
const ANSWER: Time = Time::from_secs(30);

/// What the machine is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Reboot: everything for it is on the disk.
    Reboot(String),
    /// Reboot if the reboot budget allows it: the version is bad, and nothing else is sure.
    TryReboot {
        /// Why.
        reason: String,
        /// The services whose law asked for a reboot in the meantime. If it is refused, they are to be told so.
        services: Vec<String>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Versions {
    /// From the daemon, which reads disks and may be as broken as these: it is judged like any other role.
    channel: RoleChannel,
    current: Current,
}

impl Versions {
    /// Over this channel, whose other end the daemon is passed after that for events; trials are judged by this
    /// policy.
    #[must_use]
    pub fn new(channel: RoleChannel, policy: Policy) -> Self {
        let counted = efivar::read(Path::new(efivar::DIRECTORY)).count_path;
        Self {
            channel,
            current: Current::new(counted.map(|_| Trial::new(policy))),
        }
    }

    /// Where the daemon reports.
    pub fn channel(&mut self) -> &mut RoleChannel {
        &mut self.channel
    }

    /// When to look again, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.current.deadline()
    }

    /// Looks at the services as they are `now`, and sends the order if the daemon does not have it.
    pub fn look(&mut self, now: Time, core: &Core) -> Option<Decision> {
        let services = core.machines().iter().map(|machine| Seen {
            name: &machine.spec().name,
            restarts: machine.restarts(),
        });
        let decision = self.current.look(now, core.required_healthy(), services);
        self.send();
        decision
    }

    /// Takes what the daemon has reported; and why it is to be killed, if it is.
    pub fn hear(&mut self, now: Time) -> (Vec<Decision>, Option<String>) {
        let taken = self
            .channel
            // A report is no event: it is told to nobody.
            .receive(now, |message| Some((orders::decode_report(message)?, 0)));
        let reports = taken.messages.into_iter();
        let decisions = reports.filter_map(|message| self.current.heed(message.content));
        let decisions = decisions.collect();
        self.send();
        (decisions, taken.condemned)
    }

    /// A service asks for a reboot, and why. True if that is the end of a trial, which then is all that
    /// follows from it.
    pub fn escalated(&mut self, now: Time, service: &str, reason: &str) -> bool {
        let taken = self.current.escalated(now, service, reason);
        self.send();
        taken
    }

    /// The boot has succeeded.
    pub fn healthy(&mut self) {
        self.current.order.healthy = true;
        self.send();
    }

    /// The machine is being stopped, for a reason that is not the version's fault unless it was
    /// condemned.
    pub fn stopping(&mut self) {
        self.current.stopping();
        self.send();
    }

    /// An order that the channel does not take now is sent at the next turn: the daemon reads again, or is
    /// replaced.
    fn send(&mut self) {
        if let Some(order) = self.current.owed()
            && orders::send_order(self.channel.fd(), order).is_ok()
        {
            self.current.sent();
        }
    }
}

/// What PID 1 wants of the slot daemon, and what it waits for.
#[derive(Debug)]
pub(crate) struct Current {
    order: Order,
    /// The order that the daemon was told last; none if it was told none since it has started.
    told: Option<Order>,
    trial: Option<Trial>,
    condemned: Option<Condemned>,
}

/// A condemnation that the daemon has not answered yet.
#[derive(Debug)]
struct Condemned {
    due: Time,
    reason: String,
    services: Vec<String>,
}

impl Current {
    pub(crate) fn new(trial: Option<Trial>) -> Self {
        Self {
            order: Order::default(),
            told: None,
            trial,
            condemned: None,
        }
    }

    /// The order, if the daemon does not have it.
    pub(crate) fn owed(&self) -> Option<&Order> {
        (self.told.as_ref() != Some(&self.order)).then_some(&self.order)
    }

    /// The daemon has been sent the order.
    pub(crate) fn sent(&mut self) {
        self.told = Some(self.order.clone());
    }

    #[cfg(test)]
    pub(crate) fn healthy(&mut self) {
        self.order.healthy = true;
    }

    fn deadline(&self) -> Option<Time> {
        let trial = self.trial.as_ref().and_then(Trial::deadline);
        let answer = self.condemned.as_ref().map(|condemned| condemned.due);
        [trial, answer].into_iter().flatten().min()
    }

    pub(crate) fn look<'a>(
        &mut self,
        now: Time,
        well: bool,
        services: impl Iterator<Item = Seen<'a>>,
    ) -> Option<Decision> {
        let trial = self.trial.as_mut();
        match trial.and_then(|trial| trial.look(now, well, services)) {
            Some(Verdict::Bless) => self.order.verdict = orders::Verdict::Bless,
            Some(Verdict::Condemn(reason)) => self.condemn(now, reason, None),
            None => {}
        }
        let late = self.condemned.take_if(|condemned| condemned.due <= now)?;
        Some(Decision::TryReboot {
            reason: format!(
                "{}; the slot daemon does not answer within {} s",
                late.reason,
                ANSWER.as_secs()
            ),
            services: late.services,
        })
    }

    pub(crate) fn escalated(&mut self, now: Time, service: &str, reason: &str) -> bool {
        if let Some(condemned) = &mut self.condemned {
            condemned.services.push(service.to_owned());
            return true;
        }
        match self.trial.as_mut().and_then(|t| t.escalated(reason)) {
            Some(Verdict::Condemn(reason)) => {
                self.condemn(now, reason, Some(service));
                true
            }
            Some(Verdict::Bless) | None => false,
        }
    }

    pub(crate) fn stopping(&mut self) {
        self.order.return_try = self.trial.take().is_some_and(|trial| trial.is_undecided());
        self.condemned = None;
    }

    /// Does what follows from a report.
    pub(crate) fn heed(&mut self, report: Report) -> Option<Decision> {
        match report {
            Report::Started => {
                self.told = None;
                None
            }
            Report::Running(Standing::Trial) => None,
            // Kept, by the trial or by an operator: whatever the loader counted, the trial is over. What a
            // service asked for in the meantime is then as in any boot.
            Report::Running(Standing::Good) => {
                self.trial = None;
                self.order.verdict = orders::Verdict::None;
                let condemned = self.condemned.take()?;
                (!condemned.services.is_empty()).then_some(Decision::TryReboot {
                    reason: condemned.reason,
                    services: condemned.services,
                })
            }
            // Condemned or rolled back. The reboot is asked for by a report of its own.
            Report::Running(Standing::Bad) => {
                if let Some(trial) = &mut self.trial {
                    trial.decided();
                }
                None
            }
            Report::Reboot { reason } => {
                self.condemned = None;
                self.trial = None;
                Some(Decision::Reboot(reason))
            }
            Report::Stuck { .. } => {
                let condemned = self.condemned.take()?;
                self.trial = None;
                Some(Decision::TryReboot {
                    reason: condemned.reason,
                    services: condemned.services,
                })
            }
        }
    }

    fn condemn(&mut self, now: Time, reason: String, service: Option<&str>) {
        self.order.verdict = orders::Verdict::Condemn {
            reason: reason.clone(),
        };
        self.condemned = Some(Condemned {
            due: now + ANSWER,
            reason,
            services: service.map(str::to_owned).into_iter().collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        probation: Time::from_secs(60),
        timeout: Time::from_secs(600),
    };

    fn on_trial() -> Current {
        let mut current = Current::new(Some(Trial::new(POLICY)));
        current.sent();
        current
    }

    fn nobody() -> std::iter::Empty<Seen<'static>> {
        std::iter::empty()
    }

    #[test]
    fn whoever_starts_is_told_the_whole_order_again() {
        let mut current = on_trial();
        current.order.healthy = true;
        assert_eq!(current.look(Time::from_secs(1), true, nobody()), None);
        assert_eq!(current.look(Time::from_secs(61), true, nobody()), None);
        let owed = current.owed().cloned().unwrap();
        assert!(owed.healthy && owed.verdict == orders::Verdict::Bless);
        current.sent();
        assert_eq!(current.owed(), None);
        for _ in 0..2 {
            assert_eq!(current.heed(Report::Started), None);
            assert_eq!(current.owed(), Some(&owed));
            current.sent();
        }
        assert_eq!(current.heed(Report::Running(Standing::Good)), None);
        assert_eq!(current.owed().unwrap().verdict, orders::Verdict::None);
    }

    #[test]
    fn a_condemnation_that_leads_nowhere_names_every_service_that_waits_for_it() {
        let try_reboot = |current: &mut Current, report| match current.heed(report) {
            Some(Decision::TryReboot { services, .. }) => services,
            other => panic!("{other:?}"),
        };
        let stuck = || Report::Stuck {
            seen: "no other version".into(),
        };
        let mut current = on_trial();
        assert!(current.escalated(Time::ZERO, "a", "x"));
        assert!(current.escalated(Time::ZERO, "b", "x"));
        assert_eq!(try_reboot(&mut current, stuck()), ["a", "b"]);
        // The trial is over: what follows is as in any other boot.
        assert!(!current.escalated(Time::ZERO, "a", "x"));
        assert_eq!(current.heed(stuck()), None);

        // An operator kept the version in that moment.
        let mut current = on_trial();
        assert!(current.escalated(Time::ZERO, "a", "x"));
        let good = Report::Running(Standing::Good);
        assert_eq!(try_reboot(&mut current, good), ["a"]);
        assert_eq!(current.order.verdict, orders::Verdict::None);
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_not_waited_for() {
        let mut current = on_trial();
        assert!(current.escalated(Time::ZERO, "a", "x"));
        assert_eq!(current.look(Time::from_secs(29), false, nobody()), None);
        let Some(Decision::TryReboot { reason, services }) =
            current.look(Time::from_secs(30), false, nobody())
        else {
            panic!("it is waited for");
        };
        assert!(reason.contains("does not answer") && services == ["a"]);
        assert_eq!(current.look(Time::from_secs(31), false, nobody()), None);
    }

    #[test]
    fn only_a_trial_without_a_verdict_gets_its_try_back() {
        let mut current = on_trial();
        current.stopping();
        assert!(current.order.return_try);
        let mut current = on_trial();
        current.heed(Report::Running(Standing::Good));
        current.stopping();
        assert!(!current.order.return_try);
        let mut current = on_trial();
        assert!(current.escalated(Time::ZERO, "a", "x"));
        current.stopping();
        assert!(!current.order.return_try);
    }
}
