//! What the slot daemon does next: pure.
//!
//! Three things say what is to be done, and all three are states, not commands: the last [`Order`] of PID 1, what
//! the last look at the slots has shown ([`Seen`]), and the times at which something is due. [`Core::next`] compares
//! them and gives one action; the driver carries it out and hands the result in. It gives the next one, until nothing
//! is left to do before [`Core::deadline`].
//!
//! Nothing here outlives the process, and nothing has to: a daemon that was killed anywhere is replaced by one that
//! is told the same order, looks at the same slots, and finds what of it is not done.
//!
//! * After each action on the slots they are looked at anew. An action that fails is tried again after [`AGAIN`]: what
//!   can fail here is a disk. Only a condemnation is not: PID 1 hears that it failed, and decides. A look that fails
//!   is tried again after ever longer, up to an hour: a machine that has no slots fails for ever.
//! * In a trial nothing else is begun. Once the running version is kept, trials that wait are armed, and the source
//!   of updates is looked at.
//! * A source from which an update failed is looked at ever less often: at twice the interval after each failure in a
//!   row, up to a day, since an update that fails has fetched files and may have written a whole slot.

use crate::slots::judgement::{Facts, Next, Trial, View};
use crate::slots::name::EntryName;
use crate::slots::orders::{Order, Report, Standing, Verdict};
use crate::slots::record;
use std::collections::VecDeque;
use std::time::Duration;
use supervisor::Time;

/// What failed is tried again after so long.
const AGAIN: Time = Time::from_secs(30);

/// The longest time between two looks at slots that cannot be seen.
const LOOK_MAX: Time = Time::from_secs(3600);

/// The longest time between two looks at a source whose updates fail, unless the configuration says longer.
const CHECK_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the configuration and the command line say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How often the configured source is looked at.
    pub check: Option<Duration>,
    /// Whether the command line names a source that was not looked at in this boot yet.
    pub command_line: bool,
    /// How long an update may take.
    pub deadline: Duration,
}

/// What a look at the slots has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How the running version stands; none if no entry on the ESP is that of this boot.
    pub standing: Option<Standing>,
    /// Whether the running version is kept, and the record does not say so: a power cut or a full disk came between.
    pub unrecorded: bool,
    /// Whether a trial's entry has the name that it had before this boot, and is armed if it has to be.
    pub try_returned: bool,
    /// What is to be done about the other slot.
    pub other: Other,
    /// Whether what is written down on `/var` is there after a reboot.
    pub remembers: bool,
}

impl Seen {
    /// What a look comes to. `reboot` is whether the machine is to reboot by itself into a version that is armed.
    #[must_use]
    pub fn of(facts: &Facts<'_>, view: &View, reboot: bool, remembers: bool) -> Self {
        let bad = facts.record.is_bad(&facts.running.version).is_some();
        let one_shot = facts.variables.one_shot.as_deref();
        let returned = |trial: &Trial| {
            let armed = one_shot == Some(trial.before.id().as_str());
            trial.before == trial.now && (armed || !trial.before.is_bad())
        };
        Self {
            standing: view.running.entry.as_ref().map(|_| match &view.trial {
                Some(_) => Standing::Trial,
                None if bad => Standing::Bad,
                None => Standing::Good,
            }),
            unrecorded: !facts.forgotten
                && view.trial.is_none()
                && !bad
                && view.running.entry.as_ref().is_some_and(EntryName::is_good)
                && facts
                    .record
                    .trial(&facts.running.version)
                    .map(|t| t.verdict)
                    != Some(record::Verdict::Blessed),
            try_returned: view.trial.as_ref().is_some_and(returned),
            other: match &view.next {
                Next::Retry(_) => Other::Retry,
                Next::Armed(_) => Other::Armed { reboot },
                Next::Nothing | Next::Trial | Next::FellBack { .. } => Other::Nothing,
            },
            remembers,
        }
    }
}

/// What is to be done about the other slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Nothing.
    Nothing,
    /// Its trial came to nothing and has tries left: it is to be armed.
    Retry,
    /// It was armed in this boot and starts next.
    Armed {
        /// Whether the machine is to reboot for it by itself.
        reboot: bool,
    },
}

/// Something to be done about the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Keep the running version.
    Bless,
    /// It is bad: have the other one start next.
    Condemn(String),
    /// This boot is not to count as a try.
    ReturnTry,
    /// Have the other version start next, once.
    Retry,
}

/// Which source is looked at by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// That of the kernel's command line.
    CommandLine,
    /// That of the configuration.
    Configured,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look at the slots.
    Look,
    /// Do this, and tell how it went by [`Core::did`].
    Do(Task),
    /// Start an update from there, and tell how that went by [`Core::update_started`].
    Update(Origin),
    /// End the update: it takes too long.
    KillUpdate,
    /// Tell PID 1.
    Report(Report),
    /// Tell everybody that something is not as it should be.
    Warn {
        /// What.
        what: &'static str,
        /// What was seen.
        seen: String,
    },
}

/// How an update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The version is installed, and starts next.
    Installed,
    /// There is nothing new, or it was refused by its manifest: nothing was fetched or changed.
    Unchanged,
    /// It failed, it was killed, or it was refused after files of it had been fetched.
    Failed,
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Keep the running version.
    Bless,
    /// Go back to the other one.
    Rollback,
    /// Install a version.
    Update,
}

/// An update that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    due: Time,
    killed: bool,
    /// Which source it is from, if nobody asked for it.
    origin: Option<Origin>,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    order: Order,
    seen: Option<Seen>,
    /// The standing that PID 1 was told.
    told: Option<Standing>,
    /// Whether PID 1 was asked for the reboot into the version that is armed.
    reboot_told: bool,
    /// The condemnation that was carried out or could not be.
    condemned: Option<String>,
    look_at: Time,
    /// How many looks in a row failed.
    blind: u32,
    /// When a task that failed is tried again.
    task_at: Time,
    check_at: Time,
    update: Option<Running>,
    /// How many updates in a row failed that began by themselves.
    failures: u32,
    /// The last warning: a disk that stays broken is told of once.
    warned: Option<(&'static str, String)>,
    /// What is to be told before anything else is done.
    unsaid: VecDeque<Action>,
}

impl Core {
    /// A daemon that has just started.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            order: Order::default(),
            seen: None,
            told: None,
            reboot_told: false,
            condemned: None,
            look_at: Time::ZERO,
            blind: 0,
            task_at: Time::ZERO,
            check_at: Time::ZERO,
            update: None,
            failures: 0,
            warned: None,
            unsaid: [Action::Report(Report::Started)].into(),
        }
    }

    /// PID 1 has sent its order.
    pub fn order(&mut self, order: Order) {
        if order != self.order {
            // What failed under another order may go well now, and a machine that stops has no time to wait.
            self.task_at = Time::ZERO;
        }
        self.order = order;
    }

    /// What a look has shown.
    pub fn looked(&mut self, now: Time, result: Result<Seen, String>) {
        match result {
            Ok(seen) => {
                self.seen = Some(seen);
                self.blind = 0;
            }
            Err(why) => {
                let pause = AGAIN.saturating_mul(1 << self.blind.min(16));
                self.look_at = now + pause.min(LOOK_MAX);
                self.blind = self.blind.saturating_add(1);
                self.warn("slots", why);
            }
        }
    }

    /// The slots have changed, or may have.
    pub fn look_again(&mut self) {
        self.seen = None;
        self.look_at = Time::ZERO;
    }

    /// How a task went.
    pub fn did(&mut self, now: Time, task: &Task, result: Result<(), String>) {
        self.look_again();
        match (task, result) {
            (Task::Condemn(reason), result) => {
                self.condemned = Some(reason.clone());
                if let Err(seen) = result {
                    self.unsaid
                        .push_back(Action::Report(Report::Stuck { seen }));
                }
            }
            (_, Ok(())) => {}
            (task, Err(why)) => {
                self.task_at = now + AGAIN;
                self.warn(task.name(), why);
            }
        }
    }

    /// Whether an operator may have this now.
    ///
    /// # Errors
    /// Why not.
    pub fn may(&self, asked: Asked) -> Result<(), String> {
        let on_trial = self.seen.and_then(|seen| seen.standing) == Some(Standing::Trial);
        match asked {
            _ if self.update.is_some() => Err(
                "an update is being installed: wait for its end, or end it by `initctl restart slots`".into(),
            ),
            Asked::Update if on_trial => Err(
                "the running version is on trial; it is kept by its probation or by `initctl bless`".into(),
            ),
            _ => Ok(()),
        }
    }

    /// An update has started, or could not be. `origin` is where it is from, if nobody asked for it.
    pub fn update_started(
        &mut self,
        now: Time,
        origin: Option<Origin>,
        result: Result<(), String>,
    ) {
        match result {
            Ok(()) => {
                self.update = Some(Running {
                    due: now + self.settings.deadline,
                    killed: false,
                    origin,
                });
            }
            Err(why) => {
                self.warn("update", why);
                self.update_over(now, origin, Ended::Failed);
            }
        }
    }

    /// Which source the update that runs is from, if nobody asked for it.
    #[must_use]
    pub fn update_origin(&self) -> Option<Origin> {
        self.update?.origin
    }

    /// The update has ended.
    pub fn update_ended(&mut self, now: Time, ended: Ended) {
        let origin = self.update.take().and_then(|update| update.origin);
        self.look_again();
        self.update_over(now, origin, ended);
    }

    fn update_over(&mut self, now: Time, origin: Option<Origin>, ended: Ended) {
        match origin {
            None => {}
            Some(Origin::CommandLine) => self.settings.command_line = false,
            Some(Origin::Configured) => {
                self.failures = match ended {
                    Ended::Failed => self.failures.saturating_add(1),
                    Ended::Installed | Ended::Unchanged => 0,
                };
                let every = self.settings.check.unwrap_or(CHECK_MAX);
                let longer = every.saturating_mul(1 << self.failures.min(16));
                self.check_at = now + longer.min(every.max(CHECK_MAX));
            }
        }
    }

    /// The one thing to do next, if there is one. Its result is to be handed in before the next call.
    pub fn next(&mut self, now: Time) -> Option<Action> {
        if let Some(action) = self.unsaid.pop_front() {
            return Some(action);
        }
        if let Some(update) = self.update.as_mut().filter(|u| !u.killed && u.due <= now) {
            update.killed = true;
            return Some(Action::KillUpdate);
        }
        let Some(seen) = self.seen else {
            return (self.look_at <= now).then_some(Action::Look);
        };
        if seen.standing.is_some() && self.told != seen.standing {
            self.told = seen.standing;
            return seen
                .standing
                .map(|standing| Action::Report(Report::Running(standing)));
        }
        match self.task(now, seen) {
            Some(task) => Some(Action::Do(task)),
            // A machine that stops begins nothing.
            None if self.order.return_try || seen.standing == Some(Standing::Trial) => None,
            None => self.other_slot(now, seen),
        }
    }

    /// What the order wants of the running version.
    fn task(&self, now: Time, seen: Seen) -> Option<Task> {
        let on_trial = seen.standing == Some(Standing::Trial);
        if let Verdict::Condemn { reason } = &self.order.verdict {
            // One that an operator has kept in that moment stays kept; PID 1 has heard that.
            let due =
                seen.standing != Some(Standing::Good) && self.condemned.as_ref() != Some(reason);
            return due.then(|| Task::Condemn(reason.clone()));
        }
        if self.task_at > now {
            return None;
        }
        match &self.order.verdict {
            _ if self.order.return_try => {
                (on_trial && !seen.try_returned).then_some(Task::ReturnTry)
            }
            Verdict::Bless if seen.standing.is_none() || on_trial => Some(Task::Bless),
            _ if seen.unrecorded => Some(Task::Bless),
            Verdict::Bless | Verdict::Condemn { .. } | Verdict::None => None,
        }
    }

    /// What is to be done about the other slot, while the running version is not on trial.
    fn other_slot(&mut self, now: Time, seen: Seen) -> Option<Action> {
        if self.update.is_some() {
            return None;
        }
        if seen.other == (Other::Armed { reboot: true }) && !self.reboot_told {
            self.reboot_told = true;
            let reason = "a new version is to be tried".to_owned();
            return Some(Action::Report(Report::Reboot { reason }));
        }
        if !self.order.healthy {
            return None;
        }
        let retries = seen.other == Other::Retry;
        let checks = self.settings.check.is_some();
        if !seen.remembers {
            if retries || checks || self.settings.command_line {
                // Nothing would bound how often the same is tried, but for the firmware's good will.
                let why =
                    "/var does not outlive a reboot, so nothing is tried or fetched by itself";
                self.warn("record", why.to_owned());
            }
            return self.unsaid.pop_front();
        }
        if retries && self.task_at <= now {
            return Some(Action::Do(Task::Retry));
        }
        // A version that could not be armed does not keep a newer one away.
        if self.settings.command_line {
            return Some(Action::Update(Origin::CommandLine));
        }
        (checks && self.check_at <= now).then_some(Action::Update(Origin::Configured))
    }

    /// When [`Core::next`] has something to do, if nothing happens before.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let update = self.update.filter(|update| !update.killed);
        [
            self.seen.is_none().then_some(self.look_at),
            Some(self.task_at),
            self.settings.check.map(|_| self.check_at),
            update.map(|update| update.due),
        ]
        .into_iter()
        .flatten()
        .filter(|due| *due > now)
        .min()
    }

    fn warn(&mut self, what: &'static str, seen: String) {
        let warning = (what, seen);
        if self.warned.as_ref() != Some(&warning) {
            self.unsaid.push_back(Action::Warn {
                what: warning.0,
                seen: warning.1.clone(),
            });
            self.warned = Some(warning);
        }
    }
}

impl Task {
    /// What a warning calls it.
    fn name(&self) -> &'static str {
        match self {
            Self::Bless => "bless",
            Self::Condemn(_) => "condemn",
            Self::ReturnTry => "return try",
            Self::Retry => "retry",
        }
    }
}

#[cfg(test)]
mod tests;
