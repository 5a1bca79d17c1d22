//! PID 1 and the slot daemon on a simulated machine: the daemon is killed between any two steps, and steps fail.
//!
//! Everything that decides is real: PID 1's [`Current`] with its trial, the daemon's [`Core`], the steps, the judgement
//! and the record. Simulated are the disk, the firmware's variables, the channel and the time. However often the daemon
//! is killed, what PID 1 ordered is done in the end, and is done once.

use super::*;
use crate::keeper::steps::{self, Situation, Step};
use crate::slots::judgement::judge;
use crate::slots::layout::{self, Layout};
use crate::slots::marks::Mark;
use crate::slots::name::EntryName;
use crate::slots::record::{Record, Verdict as Recorded};
use crate::slots::{BootVariables, Found, Uki};
use crate::system::trial::{Policy, Seen as Service, Trial as Trials};
use crate::system::versions::{Current, Decision};
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

const PROBATION: u64 = 60;
const TRIES: u32 = 2;

/// The daemon was killed.
struct Killed;

/// A machine in one boot.
struct World {
    // The disk and the firmware.
    running: Uki,
    found: Vec<Found>,
    layout: Layout,
    variables: BootVariables,
    record: Record,
    // Memory that outlives the daemon.
    marks: Vec<Mark>,
    // PID 1.
    current: Current,
    decisions: Vec<Decision>,
    orders: VecDeque<Order>,
    reports: VecDeque<Report>,
    // The daemon.
    core: Core,
    check: bool,
    begun: bool,
    updates: u32,
    now: Time,
    // What goes wrong.
    moment: usize,
    kills: BTreeSet<usize>,
    failures: BTreeSet<usize>,
}

fn found(file: &str, version: &str, roothash: [u8; 32]) -> Found {
    Found {
        name: EntryName::parse(file).unwrap(),
        bytes: 1,
        uki: Ok(uki(version, roothash)),
    }
}

fn uki(version: &str, roothash: [u8; 32]) -> Uki {
    Uki {
        image: "os".into(),
        version: version.into(),
        roothash,
    }
}

impl World {
    /// Version 2 runs, from this entry, beside this one of version 1.
    fn new(entry: &str, other: Option<&str>, kills: &[usize], failures: &[usize]) -> Self {
        let roothash = layout::tests::hash(1, 2);
        let disk = layout::tests::disk("vda", [1, 2, 3, 4]);
        let mut all = vec![found(entry, "2", roothash)];
        all.extend(other.map(|file| found(file, "1", layout::tests::hash(3, 4))));
        let counted = EntryName::parse(entry).unwrap().tries.is_some();
        let policy = Policy {
            probation: at(PROBATION),
            timeout: at(600),
        };
        Self {
            running: uki("2", roothash),
            found: all,
            layout: layout::find(&disk, &roothash, None).unwrap(),
            variables: BootVariables {
                count_path: counted.then(|| entry.to_owned()),
                stub_image: Some(entry.to_owned()),
                ..BootVariables::default()
            },
            record: Record::default(),
            marks: Vec::new(),
            current: Current::new(counted.then(|| Trials::new(policy))),
            decisions: Vec::new(),
            orders: VecDeque::new(),
            reports: VecDeque::new(),
            core: Core::new(settings(None)),
            check: false,
            begun: false,
            updates: 0,
            now: at(1),
            moment: 0,
            kills: kills.iter().copied().collect(),
            failures: failures.iter().copied().collect(),
        }
    }

    /// Something happens in the daemon; it may be its last.
    fn moment(&mut self) -> Result<(), Killed> {
        self.moment += 1;
        match self.kills.contains(&self.moment) {
            true => Err(Killed),
            false => Ok(()),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            running: &self.running,
            found: &self.found,
            layout: &self.layout,
            variables: &self.variables,
            record: &self.record,
            tries: TRIES,
            forgotten: false,
            armed_in_this_boot: self.marks.contains(&Mark::Armed),
        }
    }

    fn situation(&self) -> Situation {
        let view = judge(&self.facts());
        Situation::of(&self.running, &view, TRIES).expect("an entry that runs")
    }

    fn look(&mut self) -> Result<Result<Seen, String>, Killed> {
        self.moment()?;
        if self.failures.contains(&self.moment) {
            return Ok(Err("the ESP is busy".into()));
        }
        if !self.begun {
            let view = judge(&self.facts());
            if let Next::FellBack { version, reason } = &view.next {
                let roothash = layout::tests::hash(3, 4);
                self.record.bad(version, &roothash, reason);
            }
            self.begun = true;
        }
        let view = judge(&self.facts());
        let reboot = self.marks.contains(&Mark::Reboot);
        Ok(Ok(Seen::of(&self.facts(), &view, reboot, true)))
    }

    fn steps(&self, task: &Task) -> Result<Vec<Step>, String> {
        let situation = self.situation();
        match task {
            Task::Bless => Ok(steps::bless(&situation)),
            Task::Condemn(reason) => steps::condemn(&situation, reason),
            Task::ReturnTry => Ok(steps::return_try(&situation)),
            Task::Retry => match judge(&self.facts()).next {
                Next::Retry(entry) => {
                    let counted = self.marks.contains(&Mark::Armed);
                    let roothash = layout::tests::hash(3, 4);
                    Ok(steps::retry(&entry, "1", roothash, counted))
                }
                next => panic!("a retry where {next:?}"),
            },
        }
    }

    fn carry_out(&mut self, steps: Vec<Step>) -> Result<Result<(), String>, Killed> {
        for step in steps {
            self.moment()?;
            if self.failures.contains(&self.moment) {
                return Ok(Err(format!("{step:?} fails")));
            }
            self.step(step);
        }
        Ok(Ok(()))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Rename(from, to) => {
                let entry = self.found.iter_mut().find(|found| found.name == from);
                entry.expect("an entry that is there").name = to;
            }
            Step::Record(change) => change.apply(&mut self.record),
            Step::Arm(entry) => self.variables.one_shot = Some(entry.id()),
            Step::Mark(mark) => self.marks.push(mark),
            Step::Reboot(reason) => self.reports.push_back(Report::Reboot { reason }),
        }
    }

    /// The daemon does what it has to do.
    fn act(&mut self) -> Result<(), Killed> {
        while let Some(order) = self.orders.pop_front() {
            self.moment()?;
            self.core.order(order);
        }
        for round in 0.. {
            assert!(round < 100, "it never rests");
            let Some(action) = self.core.next(self.now) else {
                break;
            };
            self.moment()?;
            match action {
                Action::Look => {
                    let seen = self.look()?;
                    self.core.looked(self.now, seen);
                }
                Action::Do(task) => {
                    let result = match self.steps(&task) {
                        Ok(steps) => self.carry_out(steps)?,
                        Err(why) => Err(why),
                    };
                    self.core.did(self.now, &task, result);
                }
                Action::Update(origin) => {
                    self.core.update_started(self.now, Some(origin), Ok(()));
                    self.moment()?;
                    self.updates += 1;
                    self.core.update_ended(self.now, Ended::Unchanged);
                }
                Action::Report(report) => self.reports.push_back(report),
                Action::Warn { .. } => {}
                Action::KillUpdate => panic!("an update that takes no time is killed"),
            }
        }
        Ok(())
    }

    /// PID 1 turns once.
    fn init(&mut self) {
        while let Some(report) = self.reports.pop_front() {
            self.decisions.extend(self.current.heed(report));
        }
        let services = std::iter::empty::<Service<'_>>();
        let decision = self.current.look(self.now, true, services);
        self.decisions.extend(decision);
        if let Some(order) = self.current.owed() {
            self.orders.push_back(order.clone());
            self.current.sent();
        }
    }

    /// Lets both run for so long.
    fn run(&mut self, seconds: u64) {
        let end = self.now + at(seconds);
        while self.now < end {
            self.init();
            if self.act().is_err() {
                self.core = Core::new(settings(self.check.then_some(600)));
                self.begun = false;
            }
            // What is tried again is tried by the second at first, and then in half minutes.
            self.now += at(if self.now > at(200) { 10 } else { 1 });
        }
    }

    fn checks(mut self) -> Self {
        self.check = true;
        self.core = Core::new(settings(Some(600)));
        self
    }

    fn running_entry(&self) -> String {
        self.found[0].name.file()
    }

    fn verdict(&self, version: &str) -> Option<Recorded> {
        self.record.trial(version).map(|trial| trial.verdict)
    }

    /// Version 1 was installed, and armed once.
    fn installed(&mut self) {
        let roothash = layout::tests::hash(3, 4);
        self.record.installed("1", &roothash);
        self.record.armed("1", &roothash);
    }
}

/// When the daemon is killed and which steps fail: moments of its life, counted over all daemons.
fn trouble() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    let moments = || proptest::collection::vec(1usize..60, 0..5);
    (moments(), moments())
}

const TRIAL: &str = "os_2+0-1.efi";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_probation_that_is_passed_ends_in_a_blessing_and_updates_go_on((kills, failures) in trouble()) {
        let mut world = World::new(TRIAL, Some("os_1.efi"), &kills, &failures).checks();
        world.current.healthy();
        world.run(PROBATION + 4000);
        prop_assert_eq!(world.running_entry(), "os_2.efi");
        prop_assert_eq!(world.verdict("2"), Some(Recorded::Blessed));
        prop_assert_eq!(world.decisions, []);
        prop_assert!(world.updates > 0);
    }

    #[test]
    fn a_condemned_version_is_bad_and_the_machine_goes_back((kills, failures) in trouble()) {
        let mut world = World::new(TRIAL, Some("os_1.efi"), &kills, &failures);
        world.run(2);
        prop_assert!(world.current.escalated(world.now, "runtime", "it ended"));
        world.run(60);
        // A step that failed leads to the reboot that the budget grants; a kill loses nothing.
        prop_assert!(!world.decisions.is_empty(), "PID 1 waits for ever");
        if failures.is_empty() {
            prop_assert!(matches!(world.decisions[0], Decision::Reboot(_)), "{:?}", world.decisions);
            prop_assert_eq!(world.verdict("2"), Some(Recorded::Bad));
        }
    }

    #[test]
    fn a_condemnation_that_leads_nowhere_is_answered_once((kills, failures) in trouble()) {
        let mut world = World::new(TRIAL, None, &kills, &failures);
        world.run(2);
        prop_assert!(world.current.escalated(world.now, "runtime", "it ended"));
        world.run(60);
        prop_assert_eq!(world.decisions.len(), 1);
        let Decision::TryReboot { services, .. } = &world.decisions[0] else {
            panic!("{:?}", world.decisions);
        };
        prop_assert_eq!(&services[..], ["runtime"]);
        // The law of the service has its turn again.
        prop_assert!(!world.current.escalated(world.now, "runtime", "it ended"));
    }

    #[test]
    fn a_boot_that_is_not_to_count_gives_its_try_back((kills, failures) in trouble()) {
        let mut world = World::new(TRIAL, Some("os_1.efi"), &kills, &failures);
        world.run(2);
        world.current.stopping();
        world.run(4000);
        prop_assert_eq!(world.running_entry(), "os_2+0-0.efi");
        prop_assert_eq!(world.variables.one_shot.as_deref(), Some("os_2.efi"));
        prop_assert_eq!(world.decisions, []);
    }

    #[test]
    fn a_trial_that_waits_is_armed_and_counted_once((kills, failures) in trouble()) {
        let mut world = World::new("os_2.efi", Some("os_1+0-1.efi"), &kills, &failures);
        world.installed();
        world.current.healthy();
        world.run(4000);
        let trial = world.record.trial("1").cloned().unwrap();
        prop_assert!(trial.armed <= TRIES, "armed {} times", trial.armed);
        // Ended between the count and the mark, a daemon has used up the try: the version is over then.
        let armed = world.variables.one_shot.is_some();
        prop_assert_eq!(armed, matches!(world.decisions.first(), Some(Decision::Reboot(_))));
        prop_assert!(armed || !kills.is_empty() || !failures.is_empty());
    }

    #[test]
    fn an_installed_version_is_rebooted_into_or_waits_as_asked((kills, failures) in trouble(), reboot in any::<bool>()) {
        let mut world = World::new("os_2.efi", Some("os_1+0-0.efi"), &kills, &failures);
        world.installed();
        world.variables.one_shot = Some("os_1.efi".into());
        world.marks = [Mark::Armed].into_iter().chain(reboot.then_some(Mark::Reboot)).collect();
        world.current.healthy();
        world.run(4000);
        prop_assert_eq!(!world.decisions.is_empty(), reboot);
        prop_assert_eq!(world.verdict("1"), Some(Recorded::Installed));
        prop_assert_eq!(world.record.trial("1").unwrap().armed, 1);
    }

    #[test]
    fn updates_are_looked_for_again_by_each_daemon((kills, failures) in trouble()) {
        let mut world = World::new("os_2.efi", None, &kills, &failures).checks();
        world.current.healthy();
        world.run(4000);
        let before = world.updates;
        prop_assert!(before > 0);
        world.kills.insert(world.moment + 1);
        world.run(1000);
        prop_assert!(world.updates > before);
    }

    #[test]
    fn a_version_that_an_operator_keeps_is_kept_and_updates_go_on((kills, failures) in trouble()) {
        let mut world = World::new(TRIAL, Some("os_1.efi"), &kills, &failures).checks();
        world.current.healthy();
        world.run(5);
        for step in steps::keep(&world.situation()) {
            world.step(step);
        }
        world.core.look_again();
        world.run(4000);
        prop_assert_eq!(world.running_entry(), "os_2.efi");
        prop_assert_eq!(world.verdict("2"), Some(Recorded::Blessed));
        prop_assert_eq!(world.decisions, []);
        prop_assert!(world.updates > 0);
    }
}

#[test]
fn what_a_look_shows_of_the_running_version() {
    let look = |world: &World, forgotten: bool| {
        let facts = Facts {
            forgotten,
            ..world.facts()
        };
        let seen = Seen::of(&facts, &judge(&facts), false, true);
        (seen.standing, seen.unrecorded)
    };
    let mut kept = World::new("os_2.efi", None, &[], &[]);
    assert_eq!(look(&kept, false), (Some(Standing::Good), true));
    assert_eq!(look(&kept, true), (Some(Standing::Good), false));
    // Somebody has put a counter on its entry since the loader read it.
    kept.found[0].name = EntryName::parse("os_2+0-2.efi").unwrap();
    assert_eq!(look(&kept, false), (Some(Standing::Good), false));
    kept.found[0].name = EntryName::parse("os_2.efi").unwrap();
    kept.record.bad("2", &kept.running.roothash, "by hand");
    assert_eq!(look(&kept, false), (Some(Standing::Bad), false));
    kept.record = Record::default();
    kept.record.blessed("2", &kept.running.roothash);
    assert_eq!(look(&kept, false), (Some(Standing::Good), false));
    let trial = World::new("os_2+1-1.efi", None, &[], &[]);
    assert_eq!(look(&trial, false), (Some(Standing::Trial), false));
}
