//! What a service is asked and says while it runs.

use super::*;

#[test]
fn a_reload_is_over_when_the_service_says_so() {
    let text = "type = 'notify'\nstart-timeout = '10s'\nreload-signal = 'HUP'";
    let mut world = World::new(&[spec("a", text)]);
    world.notify(0, Notification::Ready);
    world.take();
    world.command(0, Command::Reload);
    assert_eq!(world.take(), ["service.reload a", "signal 0 1"]);
    world.notify(0, Notification::Reloading);
    world.notify(0, Notification::Ready);
    assert_eq!(world.take(), ["service.reloaded a"]);
    world.notify(0, Notification::Ready);
    assert_eq!(world.take(), [""; 0], "ready twice is once");
    world.command(0, Command::Reload);
    world.pass(ms(10_000));
    assert!(world.take().ends_with(&["service.warning a".to_owned()]));
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn a_program_that_may_have_no_handler_is_sent_no_signal_to_reload() {
    let mut world = World::new(&[spec("a", "")]);
    world.take();
    world.command(0, Command::Reload);
    assert_eq!(world.take(), ["service.warning a"]);
}

#[test]
fn the_main_process_may_move() {
    let mut world = World::new(&[spec("a", "type = 'notify'")]);
    let first = world.core.machines()[0].pid();
    world.feed(Input::MainMoved(Id(0), 7));
    world.notify(0, Notification::Ready);
    assert_eq!(world.core.machines()[0].pid(), Some(7));
    assert_ne!(first, Some(7));
    world.end(0, ExitStatus::Unknown);
    assert_eq!(world.deaths(0), ["ended, nobody saw how"]);
}

#[test]
fn only_a_main_process_that_is_there_is_replaced() {
    let mut world = World::new(&[spec("a", "pre-start = [['/bin/check']]")]);
    let moved = |world: &mut World| {
        world.take();
        world.feed(Input::MainMoved(Id(0), 777));
        let pid = world.core.machines()[0].pid();
        (pid, world.take().concat())
    };
    assert_eq!(moved(&mut world), (Some(101), String::new()), "a check");
    world.exit(0, ExitStatus::Code(0));
    let told = "service.main a".to_owned();
    assert_eq!(moved(&mut world), (Some(777), told), "the main process");
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(moved(&mut world), (None, String::new()), "it has ended");
}
