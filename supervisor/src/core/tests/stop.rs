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
