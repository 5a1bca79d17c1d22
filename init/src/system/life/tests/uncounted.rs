//! Reboots that are asked for while the count of starts cannot be written.

use super::*;

/// Whichever of the two counts the disk has then, it is enough.
#[test]
fn a_disk_that_is_flooded_after_the_start_does_not_hold_up_the_reboot() {
    let mut world = World::new(1, Some(true));
    world.look(true);
    world.writes = None;
    world.pass(700);
    let done = world.take();
    assert!(
        has(&done, "WriteCount(1 2)") && has(&done, "GiveUpWriting"),
        "{done:?}"
    );
    world.escalate();
    assert!(has(
        &world.take(),
        "shutdown.start service a used up its restarts, reboot 1"
    ));
}

const REFUSED: [&str; 3] = [
    "SetDegraded",
    "boot.degraded service",
    "RefuseReboot(Id(3))",
];

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
    world.down = true;
    world.escalate();
    assert_eq!(world.take(), ["WriteCount(2 2)"]);
    world.pass_being(false, 9);
    assert_eq!(world.take(), [""; 0]);
    world.pass_being(false, 1);
    let done = world.take();
    assert_eq!(done[0], "GiveUpWriting");
    assert_eq!(done[1..], REFUSED);
    // An hour of it is told by nothing more.
    world.pass_being(false, 3600);
    let done = world.take();
    assert_eq!(done.len(), 2 * 8, "{done:?}");
    assert!(!has(&done, "boot.") && !has(&done, "RefuseReboot"));
    // Nor does it hold up an end that somebody wants.
    world.feed(Input::Asked(Verb::Reboot, "initctl".into()));
    world.feed(Input::AllStopped);
    assert!(!has(&world.take(), "Finish"));
    world.pass(10);
    assert!(has(&world.take(), "Finish(Reboot)"));
}

/// A machine whose count could not be written, and whose service was refused its reboot for that.
fn refused_for_now() -> World {
    let mut world = World::new(0, Some(false));
    assert_eq!(world.take(), ["WriteCount(1 1)", "boot.warning "]);
    world.feed(Input::Address);
    assert_eq!(world.take(), ["ReachNet"]);
    world.down = true;
    world.escalate();
    let done = world.take();
    assert_eq!(done[0], "WriteCount(1 1)");
    assert_eq!(done[1..], REFUSED);
    assert_eq!(world.life.asked_by(), [SERVICE]);
    world
}

#[test]
fn a_reboot_that_could_not_be_counted_is_made_up_for_when_it_can() {
    let mut world = refused_for_now();
    world.pass_being(false, 59);
    assert_eq!(world.take(), [""; 0], "60 s after the second failure");
    world.writes = Some(true);
    world.pass_being(false, 1);
    assert_eq!(
        world.take(),
        [
            "WriteCount(1 1)",
            "shutdown.start service a used up its restarts, reboot 1",
            "StopAll"
        ]
    );
}

#[test]
fn a_reboot_that_could_not_be_counted_is_not_made_up_for_if_the_service_came_back() {
    let mut world = refused_for_now();
    world.down = false;
    world.look(false);
    assert!(world.life.asked_by().is_empty());
    world.writes = Some(true);
    world.pass(60);
    let done = world.take();
    assert!(has(&done, "WriteCount(1 1)") && !has(&done, "shutdown.start"));
    // The next one needs no disk any more.
    world.writes = None;
    world.escalate();
    assert!(has(&world.take(), "shutdown.start"));
}

#[test]
fn a_service_that_asks_again_for_a_reboot_that_could_not_be_counted_is_answered_again() {
    let mut world = refused_for_now();
    world.feed(Input::Escalated(Id(5), "b".into(), "failed".into()));
    assert_eq!(
        world.take()[1..],
        [
            "SetDegraded",
            "boot.degraded service",
            "RefuseReboot(Id(5))"
        ]
    );
    world.feed(again());
    assert_eq!(world.take()[1..], REFUSED);
    assert_eq!(world.life.asked_by(), [SERVICE, Id(5)]);
}

/// There is no service whose return would show that no reboot is needed any more.
#[test]
fn a_trial_that_could_not_be_counted_waits_until_the_machine_is_well() {
    for well in [false, true] {
        let mut world = World::new(0, Some(false));
        world.feed(Input::TrialFailed(Vec::new(), "not healthy".into()));
        assert!(has(&world.take(), "boot.degraded trial"));
        world.look(well);
        world.writes = Some(true);
        world.pass_being(well, 60);
        assert_eq!(has(&world.take(), "shutdown.start not healthy"), !well);
    }
}

#[test]
fn of_two_services_that_wait_for_the_count_the_first_is_the_reason() {
    let mut world = World::new(1, None);
    world.look(true);
    world.pass(30);
    world.down = true;
    world.escalate();
    let why = "service b used up its restarts".to_owned();
    world.feed(Input::Escalated(Id(4), "b".into(), why));
    world.take();
    world.feed(Input::CountWritten(Ok(())));
    let done = world.take();
    let told = "shutdown.start service a used up its restarts";
    assert!(has(&done, told), "{done:?}");
}
