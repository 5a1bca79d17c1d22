use super::*;
use proptest::prelude::*;

/// A machine with a disk that works or does not, and a clock.
struct World {
    life: Life,
    now: Time,
    restarts: u64,
    /// What the disk has.
    disk: u32,
    /// Whether a write is answered: well, with an error, or never.
    writes: Option<bool>,
    done: Vec<Action>,
}

const SERVICE: Id = Id(3);

impl World {
    fn new(disk: u32, writes: Option<bool>) -> Self {
        let mut world = Self {
            life: Life::new(at(2), Count::Known(disk), at(600)),
            now: at(2),
            restarts: 0,
            disk,
            writes,
            done: Vec::new(),
        };
        world.look(false);
        world
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.life.step(self.now, input) {
                if let Action::WriteCount(count) = action
                    && let Some(good) = self.writes
                {
                    if good {
                        self.disk = count;
                    }
                    let result = if good { Ok(()) } else { Err("no room".into()) };
                    inputs.push(Input::CountWritten(result));
                }
                self.done.push(action);
            }
        }
    }

    fn look(&mut self, well: bool) {
        let restarts = self.restarts;
        self.feed(Input::Look { well, restarts });
    }

    fn escalate(&mut self) {
        let why = "service a used up its restarts".to_owned();
        self.feed(Input::Escalated(SERVICE, "a".into(), why));
    }

    /// Lets time pass, well all the while, looking whenever something is due.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + at(seconds);
        while let Some(due) = self.life.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.look(true);
            if matches!(self.done.last(), Some(Action::Finish(_))) {
                return;
            }
        }
        self.now = end;
        self.look(true);
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
    assert_eq!(world.take(), ["WriteCount(1)"]);
    world.look(true);
    assert_eq!(world.take(), ["BootSucceeded"]);
    world.feed(Input::Asked(Verb::Poweroff, "power button".into()));
    assert_eq!(
        world.take(),
        ["shutdown.start power button", "StopAll", "WriteCount(0)"]
    );
    world.feed(Input::Asked(Verb::Reboot, "again".into()));
    assert_eq!(world.take(), [""; 0]);
    world.feed(Input::AllStopped);
    assert_eq!(world.take(), ["Finish(Poweroff)"]);
    assert_eq!(world.disk, 0);
}

#[test]
fn a_service_that_is_not_well_reboots_three_times_and_then_never_again() {
    let mut disk = 0;
    for start in 1..=6 {
        let mut world = World::new(disk, Some(true));
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
    let mut life = Life::new(at(0), Count::Known(1), hour);
    let well = Input::Look {
        well: true,
        restarts: 0,
    };
    let first = life.step(at(0), well.clone());
    assert!(first.contains(&Action::WriteCount(2)));
    let _ = life.step(at(0), Input::CountWritten(Ok(())));
    assert_eq!(
        life.step(at(3599), well.clone()).len(),
        2,
        "the network only"
    );
    assert_eq!(life.step(hour, well), [Action::WriteCount(1)]);
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
    assert_eq!(world.disk, 2);
}

#[test]
fn a_disk_that_never_answers_means_no_reboot_and_no_waiting_for_ever() {
    let mut world = World::new(1, None);
    world.look(true);
    world.pass(30);
    let done = world.take();
    assert!(
        has(&done, "GiveUpWriting") && has(&done, "boot.warning"),
        "{done:?}"
    );
    world.escalate();
    assert_eq!(world.take(), ["WriteCount(2)"]);
    world.pass(9);
    assert_eq!(world.take(), [""; 0]);
    world.pass(1);
    let refused = [
        "GiveUpWriting",
        "SetDegraded",
        "boot.degraded service",
        "RefuseReboot(Id(3))",
    ];
    assert_eq!(world.take(), refused);
    // Nor does it hold up an end that somebody wants.
    world.feed(Input::Asked(Verb::Reboot, "initctl".into()));
    world.feed(Input::AllStopped);
    assert!(!has(&world.take(), "Finish"));
    world.pass(10);
    assert!(has(&world.take(), "Finish(Reboot)"));
}

#[test]
fn a_count_that_cannot_be_written_is_tried_once_more_and_then_refused() {
    let mut world = World::new(0, Some(false));
    assert_eq!(world.take(), ["WriteCount(1)", "boot.warning "]);
    world.pass(700);
    world.take();
    world.escalate();
    let refused = [
        "WriteCount(1)",
        "SetDegraded",
        "boot.degraded service",
        "RefuseReboot(Id(3))",
    ];
    assert_eq!(world.take(), refused);
    world.writes = Some(true);
    world.escalate();
    assert!(has(&world.take(), "shutdown.start"));
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
        let (mut disk, mut in_a_row) = (0, 0);
        for (course, later) in starts {
            let mut world = World::new(disk, Some(true));
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
                    prop_assert!(world.disk >= in_a_row, "{} < {}", world.disk, in_a_row);
                    break;
                }
            }
            // The power may have gone as well, which counts, too.
            in_a_row = in_a_row.min(world.disk);
            disk = world.disk;
        }
    }
}
