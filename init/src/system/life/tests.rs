use super::*;
use proptest::prelude::*;

mod uncounted;

/// A machine with a disk that works or does not, and a clock.
struct World {
    life: Life,
    now: Time,
    restarts: u64,
    /// Whether the service is down.
    down: bool,
    /// What the disk has.
    disk: Starts,
    /// Whether a write is answered: well, with an error, or never.
    writes: Option<bool>,
    /// Whether one that is not answered well reaches the disk all the same.
    lands: bool,
    done: Vec<Action>,
}

const SERVICE: Id = Id(3);

impl World {
    /// One that had so many starts in a row that did not last, and no other ones.
    fn new(in_a_row: u32, writes: Option<bool>) -> Self {
        let recent = in_a_row;
        Self::after(Starts { in_a_row, recent }, writes)
    }

    fn after(disk: Starts, writes: Option<bool>) -> Self {
        let mut world = Self {
            life: Life::new(at(2), Count::Known(disk), at(600)),
            now: at(2),
            restarts: 0,
            down: false,
            disk,
            writes,
            lands: false,
            done: Vec::new(),
        };
        world.look(false);
        world
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.life.step(self.now, input) {
                if let Action::WriteCount(starts) = action {
                    if self.lands || self.writes == Some(true) {
                        self.disk = starts;
                    }
                    let result = |good| if good { Ok(()) } else { Err("no room".into()) };
                    inputs.extend(self.writes.map(|good| Input::CountWritten(result(good))));
                }
                self.done.push(action);
            }
        }
    }

    fn look(&mut self, well: bool) {
        self.feed(Input::Look {
            well,
            restarts: self.restarts,
            down: self.down,
        });
    }

    fn escalate(&mut self) {
        let why = "service a used up its restarts".to_owned();
        self.feed(Input::Escalated(SERVICE, "a".into(), why));
    }

    /// Lets time pass, well all the while, looking whenever something is due.
    fn pass(&mut self, seconds: u64) {
        self.pass_being(true, seconds);
    }

    fn pass_being(&mut self, well: bool, seconds: u64) {
        let end = self.now + at(seconds);
        while let Some(due) = self.life.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.look(well);
            if matches!(self.done.last(), Some(Action::Finish(_))) {
                return;
            }
        }
        self.now = end;
        self.look(well);
    }

    /// The events that were told, and the other things that were done, since the last call.
    fn take(&mut self) -> Vec<String> {
        let done = std::mem::take(&mut self.done);
        done.iter()
            .map(|action| match action {
                Action::Emit(event) => {
                    let field = |key| event.field(key).unwrap_or_default();
                    format!("{} {}", event.name(), field("reason"))
                }
                Action::WriteCount(starts) => format!("WriteCount({starts})"),
                other => format!("{other:?}"),
            })
            .collect()
    }
}

fn at(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

fn has(done: &[String], what: &str) -> bool {
    done.iter().any(|one| one.starts_with(what))
}

#[test]
fn a_start_is_counted_at_once_and_an_ordinary_end_takes_it_back() {
    let mut world = World::new(0, Some(true));
    assert_eq!(world.take(), ["WriteCount(1 1)"]);
    world.look(true);
    assert_eq!(world.take(), ["BootSucceeded"]);
    assert!(!world.life.is_stopping());
    world.feed(Input::Asked(Verb::Poweroff, "power button".into()));
    assert!(world.life.is_stopping());
    assert_eq!(
        world.take(),
        ["shutdown.start power button", "StopAll", "WriteCount(0 0)"]
    );
    world.feed(Input::Asked(Verb::Reboot, "again".into()));
    assert_eq!(world.take(), [""; 0]);
    world.feed(Input::AllStopped);
    assert_eq!(world.take(), ["Finish(Poweroff)"]);
    assert_eq!(world.disk, Starts::default());
}

#[test]
fn a_service_that_is_not_well_reboots_three_times_and_then_never_again() {
    let mut disk = Starts::default();
    for start in 1..=6 {
        let mut world = World::after(disk, Some(true));
        world.look(true);
        world.pass(300);
        world.restarts += 5;
        world.escalate();
        let done = world.take();
        if start <= 3 {
            let told = format!("shutdown.start service a used up its restarts, reboot {start}");
            assert!(done.contains(&told), "{done:?}");
        } else {
            let end = [
                "SetDegraded",
                "boot.degraded service",
                "RefuseReboot(Id(3))",
            ];
            assert_eq!(done[done.len() - 3..], end, "start {start}");
        }
        disk = world.disk;
    }
}

/// Each of its starts lasted, so none is in a row.
#[test]
fn a_service_that_behaves_for_just_over_ten_minutes_does_not_reboot_for_ever() {
    let mut disk = Starts::default();
    let fail = |world: &mut World| {
        world.look(true);
        world.pass(620);
        world.restarts += 5;
        world.take();
        world.escalate();
        world.take()
    };
    for start in 1..=8 {
        let mut world = World::after(disk, Some(true));
        let done = fail(&mut world);
        let granted = has(
            &done,
            "shutdown.start service a used up its restarts, reboot 1",
        );
        assert_eq!(granted, start <= 4, "start {start}: {done:?}");
        disk = world.disk;
        if !granted {
            let Some(Action::Emit(event)) = world.life.step(world.now, again()).get(1).cloned()
            else {
                panic!("nothing is told");
            };
            let seen = event.field("seen").unwrap_or_default();
            assert!(seen.starts_with("4 recent starts"), "{seen}");
        }
    }
    // What comes back is one for each eight hours without a fault, not one for each boot.
    let mut world = World::after(disk, Some(true));
    world.look(true);
    world.pass(8 * 3600 - 1);
    world.escalate();
    assert!(!has(&world.take(), "shutdown.start"));
    world.pass(1);
    world.escalate();
    assert!(has(&world.take(), "shutdown.start"));
    let done = fail(&mut World::after(world.disk, Some(true)));
    assert!(!has(&done, "shutdown.start"));
    let mut world = World::after(disk, Some(true));
    world.look(true);
    world.pass(4 * 8 * 3600);
    assert_eq!(
        world.disk,
        Starts {
            in_a_row: 1,
            recent: 1
        }
    );
    assert_eq!(world.life.deadline(), None, "nothing is left to forget");
}

fn again() -> Input {
    Input::Escalated(SERVICE, "a".into(), "failed again".into())
}

/// It is healthy when ten minutes after the first health have passed, and it was not all the while.
#[test]
fn a_runtime_that_dies_every_110_seconds_is_not_forgiven_its_reboots() {
    let mut world = World::new(2, Some(true));
    world.look(true);
    for _ in 0..5 {
        world.pass(110);
        world.restarts += 1;
        world.look(false);
        world.look(true);
    }
    world.pass(110);
    world.take();
    world.escalate();
    assert!(has(
        &world.take(),
        "shutdown.start service a used up its restarts, reboot 3"
    ));
}

#[test]
fn lasting_health_is_as_long_as_the_longest_law_looks_back() {
    let hour = at(3600);
    let starts = |in_a_row, recent| Starts { in_a_row, recent };
    let mut life = Life::new(at(0), Count::Known(starts(1, 2)), hour);
    let well = Input::Look {
        well: true,
        restarts: 0,
        down: false,
    };
    let first = life.step(at(0), well.clone());
    assert!(first.contains(&Action::WriteCount(starts(2, 3))));
    let _ = life.step(at(0), Input::CountWritten(Ok(())));
    assert_eq!(
        life.step(at(3599), well.clone()).len(),
        2,
        "the network only"
    );
    let lasted = Action::WriteCount(starts(1, 3));
    assert_eq!(life.step(hour, well), [lasted]);
}

#[test]
fn a_disk_that_died_after_the_start_does_not_hold_up_the_reboot() {
    let mut world = World::new(1, Some(true));
    world.look(true);
    world.writes = None;
    world.take();
    world.escalate();
    let done = world.take();
    assert_eq!(
        done[0],
        "shutdown.start service a used up its restarts, reboot 2"
    );
    assert!(!has(&done, "WriteCount"), "{done:?}");
    world.feed(Input::AllStopped);
    assert_eq!(world.take(), ["Finish(Reboot)"]);
    assert_eq!(world.disk.in_a_row, 2);
}

/// Otherwise it would stay failed for ever: only the refusal lets it be tried again later.
#[test]
fn a_service_that_ended_a_trial_hears_that_there_is_no_reboot() {
    let mut world = World::new(3, Some(true));
    world.look(true);
    world.take();
    world.feed(Input::TrialFailed(vec![SERVICE], "no other version".into()));
    assert_eq!(
        world.take(),
        ["SetDegraded", "boot.degraded trial", "RefuseReboot(Id(3))"]
    );
}

#[test]
fn the_network_is_waited_for_and_the_stop_has_an_end() {
    let mut world = World::new(0, Some(true));
    world.pass(10);
    let done = world.take();
    assert!(
        has(&done, "boot.warning") && has(&done, "ReachNet"),
        "{done:?}"
    );
    world.feed(Input::Address);
    assert_eq!(world.take(), [""; 0]);
    let mut world = World::new(0, Some(true));
    world.feed(Input::Address);
    assert!(has(&world.take(), "ReachNet"));
    world.pass(20);
    assert!(!has(&world.take(), "ReachNet"));
    world.feed(Input::Asked(Verb::Reboot, "initctl".into()));
    world.pass(89);
    assert!(!has(&world.take(), "Finish"));
    world.pass(1);
    let done = world.take();
    assert!(
        has(&done, "shutdown.warning") && has(&done, "Finish(Reboot)"),
        "{done:?}"
    );
}

proptest! {
    /// Whatever a service, the disk and people do: a reboot that a service asks for is on the disk when it
    /// happens, and there are no more than three in a row without lasting health or an end on request.
    #[test]
    fn no_fault_becomes_an_endless_loop(
        starts in proptest::collection::vec(
            (
                proptest::collection::vec((0u64..400, 0u8..8), 1..30),
                prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)],
            ),
            1..20,
        ),
    ) {
        let (mut disk, mut in_a_row) = (Starts::default(), 0);
        for (course, later) in starts {
            let mut world = World::after(disk, Some(true));
            world.look(true);
            let mut clean_since = world.now;
            for (wait, what) in course {
                world.pass(wait);
                if world.now - clean_since >= at(600) {
                    in_a_row = 0;
                }
                match what {
                    0 => world.writes = later,
                    1 => {
                        world.restarts += 1;
                        clean_since = world.now;
                        world.look(true);
                    }
                    2 => world.escalate(),
                    _ => {}
                }
                if let Some(stop) = &world.life.stop {
                    prop_assert_eq!(stop.verb, Verb::Reboot);
                    in_a_row += 1;
                    prop_assert!(in_a_row <= 3);
                    let counted = world.disk.in_a_row;
                    prop_assert!(counted >= in_a_row, "{counted} < {in_a_row}");
                    break;
                }
            }
            // The power may have gone as well, which counts, too.
            in_a_row = in_a_row.min(world.disk.in_a_row);
            disk = world.disk;
        }
    }

    /// Whenever a service dies, the disk fails, the power goes or a person reboots: a day of the machine's time has no
    /// more than six reboots that a service asks for.
    #[test]
    fn a_day_has_so_many_reboots_at_most(
        starts in proptest::collection::vec(
            proptest::collection::vec(
                (prop_oneof![0u64..100, 595u64..700, 28_700u64..28_900], 0u8..16),
                1..12,
            ),
            1..60,
        ),
    ) {
        let (mut disk, mut before) = (Starts::default(), Time::ZERO);
        let mut reboots = Vec::new();
        for course in starts {
            let mut world = World::after(disk, Some(true));
            world.look(true);
            for (wait, what) in course {
                world.pass(wait);
                match what {
                    0 => world.writes = Some(false),
                    1 => world.writes = None,
                    2 => world.writes = Some(true),
                    3 => world.lands = !world.lands,
                    4..6 => {
                        world.restarts += 1;
                        world.look(true);
                    }
                    6 => world.feed(Input::Asked(Verb::Reboot, "initctl".into())),
                    // The power goes.
                    7 => break,
                    _ => world.escalate(),
                }
                if world.life.stop.is_some() {
                    break;
                }
            }
            before += world.now;
            if has(&world.take(), "shutdown.start service a") {
                reboots.push(before);
            }
            disk = world.disk;
        }
        for days in reboots.windows(7) {
            prop_assert!(days[6] - days[0] >= at(86_400), "{days:?}");
        }
    }
}
