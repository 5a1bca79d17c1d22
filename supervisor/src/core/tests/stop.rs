//! How an instance goes: who is signalled, who has grace, and what is recorded of it.

use super::*;

#[test]
fn what_the_main_process_left_has_the_rest_of_the_grace() {
    let mut world = World::new(&[spec("a", "stop.timeout = '5s'")]);
    world.take();
    world.command(0, Command::Stop);
    assert_eq!(world.take(), ["service.stop a", "signal 0 15"]);
    world.pass(ms(1_000));
    world.exit(0, ExitStatus::Signal(15, false));
    assert_eq!(world.take(), ["service.exit a", "signal tree 0 15"]);
    world.pass(ms(3_999));
    assert_eq!(world.take(), [""; 0]);
    world.pass(ms(1));
    assert_eq!(
        world.take(),
        ["kill 0"],
        "stop.timeout after the stop began"
    );
    world.feed(Input::TreeGone(Id(0)));
    assert_eq!(world.state(0), State::Stopped);
}

#[test]
fn the_rest_of_a_service_that_ended_by_itself_has_the_whole_grace() {
    let mut world = World::new(&[spec("a", "restart = 'always'\nstop.timeout = '5s'")]);
    world.take();
    world.exit(0, ExitStatus::Code(1));
    assert_eq!(world.take(), ["service.exit a", "signal tree 0 15"]);
    world.pass(ms(4_999));
    assert_eq!(world.take(), [""; 0]);
    world.feed(Input::TreeGone(Id(0)));
    assert!(
        world.take().contains(&"spawn 0".to_owned()),
        "not waited for any longer"
    );
}

#[test]
fn a_tree_is_signalled_as_a_whole_and_once() {
    let text = "restart = 'always'\nstop = { mode = 'tree', timeout = '5s' }";
    let mut world = World::new(&[spec("a", text)]);
    world.take();
    world.command(0, Command::Restart);
    assert_eq!(world.take(), ["service.stop a", "signal tree 0 15"]);
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(world.take(), ["service.exit a"], "whoever is left was told");
    world.pass(ms(5_000));
    assert_eq!(world.take(), ["kill 0"]);
}

#[test]
fn the_record_says_that_a_service_was_stopping_and_how_it_ended() {
    let text = "type = 'notify'\nrestart = 'on-failure'\nstop.timeout = '5s'";
    let mut world = World::new(&[spec("a", text)]);
    world.notify(0, Notification::Ready);
    world.notify(0, Notification::Stopping);
    world.pass(ms(5_000));
    world.end(0, ExitStatus::Signal(9, false));
    assert_eq!(world.deaths(0), ["STOPPING=1, then signal 9"]);
    assert_eq!(
        world.state(0),
        State::Starting,
        "a failure: it is restarted"
    );
    world.notify(0, Notification::Ready);
    world.notify(0, Notification::Stopping);
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.state(0), State::Stopped, "a success");
    assert_eq!(world.deaths(0)[1], "STOPPING=1, then exit status 0");
}

#[test]
fn no_successor_starts_before_the_tree_is_gone() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.take();
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(world.take(), ["service.exit a", "signal tree 0 15"]);
    world.pass(ms(9_999));
    assert_eq!(world.take(), [""; 0]);
    world.feed(Input::TreeGone(Id(0)));
    assert!(world.take().contains(&"spawn 0".to_owned()));
}

#[test]
fn a_tree_that_cannot_be_killed_is_told_and_not_waited_for_forever() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.exit(0, ExitStatus::Code(0));
    world.pass(ms(10_000));
    assert!(
        world.take().ends_with(&["kill 0".to_owned()]),
        "stop.timeout"
    );
    world.pass(machine::KILL_WAIT);
    let expected = ["service.stuck a", "abandon 0", "service.restart a"];
    assert!(world.take().starts_with(&expected.map(str::to_owned)));
}

#[test]
fn what_was_stored_is_dropped_when_a_service_that_waits_is_stopped() {
    let mut world = World::new(&[
        spec("a", "restart = 'never'"),
        spec("b", "requires = ['a']"),
    ]);
    world.fail(0);
    world.end(1, ExitStatus::Code(0));
    world.take();
    world.command(1, Command::Stop);
    assert_eq!(world.take(), ["drop 1", "service.stopped b"]);
    world.command(1, Command::Stop);
    assert_eq!(world.take(), [""; 0], "once");
}

#[test]
fn a_service_that_says_it_is_going_is_not_signalled_and_has_its_time() {
    let mut world = World::new(&[spec("a", "type = 'notify'\nrestart = 'on-failure'")]);
    world.notify(0, Notification::Ready);
    world.take();
    world.notify(0, Notification::Stopping);
    world.pass(ms(9_999));
    assert_eq!(world.take(), ["service.stop a"], "neither signal nor kill");
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.state(0), State::Stopped, "done");
    assert_eq!(world.deaths(0), ["STOPPING=1, then exit status 0"]);
}

#[test]
fn the_record_has_nothing_of_a_check_that_passed() {
    let text = "pre-start = [['/bin/x']]\nrestart = 'never'";
    let mut core = Core::new(vec![spec("a", text)], 1);
    let id = Id(0);
    let passed = Exit {
        status: ExitStatus::Code(0),
        memory_peak: Some(4096),
    };
    let failure = SpawnFailure::of_the_service("environment-files: /x: not found");
    for input in [
        Input::Start,
        Input::Spawned(id, 7),
        Input::Exited(id, passed),
        Input::SpawnFailed(id, failure),
        Input::TreeGone(id),
    ] {
        let _ = core.step(Time::from_secs(1), input);
    }
    let record = core.machines()[0].deaths().next().unwrap();
    assert_eq!(record.cause.to_string(), "environment-files: /x: not found");
    let seen = (record.pid, &record.status, record.memory_peak);
    assert_eq!(seen, (None, &None, None));
}

#[test]
fn want_of_memory_is_the_cause_of_death() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.feed(Input::OutOfMemory(Id(0)));
    world.end(0, ExitStatus::Signal(9, false));
    assert_eq!(world.deaths(0), ["out of memory"]);
    world.fail(0);
    assert_eq!(
        world.deaths(0),
        ["out of memory", "exit status 1"],
        "of that instance only"
    );
}
