//! From the start to health, and how health is lost: checks, readiness, probes, the watchdog, and time.

use super::*;

#[test]
fn ready_is_said_and_healthy_is_proven() {
    let mut world = World::new(&[spec("a", &format!("required = true\n{PROBE}"))]);
    assert_eq!(world.take(), ["spawn 0", "service.start a"]);
    world.notify(0, Notification::Ready);
    assert_eq!(world.take(), ["service.ready a"]);
    assert!(!world.core.required_healthy());
    world.pass(ms(0));
    world.answer(Ok(()));
    assert_eq!(world.take(), ["service.healthy a"]);
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn liveness_restarts_after_exactly_its_threshold() {
    let mut world = World::new(&[spec("a", PROBE)]);
    world.notify(0, Notification::Ready);
    world.pass(ms(0));
    world.answer(Ok(()));
    world.take();
    world.pass(ms(5_000));
    world.answer(Err("status 500"));
    assert_eq!(world.take(), [""; 0], "one failure of two");
    world.pass(ms(5_000));
    world.probes.clear();
    world.pass(ms(2_000));
    assert_eq!(
        world.take(),
        [
            "cancel 0 liveness",
            "service.unhealthy a",
            "service.stop a",
            "signal 0 15"
        ]
    );
    world.pass(ms(10_000));
    assert_eq!(world.take(), ["kill 0"], "it ignores the signal");
    world.end(0, ExitStatus::Signal(9, false));
    assert!(world.take().contains(&"service.restart a".to_owned()));
    assert_eq!(
        world.deaths(0),
        ["liveness probe: no answer within 2000 ms"]
    );
}

#[test]
fn a_silent_watchdog_and_a_slow_start_end_the_instance() {
    let mut world = World::new(&[spec("a", PROBE)]);
    world.pass(ms(90_000));
    assert!(
        world.take().ends_with(&["signal 0 15".to_owned()]),
        "start timeout"
    );
    world.end(0, ExitStatus::Signal(15, false));
    world.notify(0, Notification::Ready);
    world.pass(ms(0));
    world.answer(Ok(()));
    let second = |world: &mut World| {
        world.pass(ms(1_000));
        world.answer(Ok(()));
    };
    for turn in 0..200 {
        second(&mut world);
        if turn % 20 == 0 {
            world.notify(0, Notification::Watchdog);
        }
    }
    assert_eq!(world.state(0), State::Healthy, "pings keep it");
    let silent_since = world.now;
    while world.state(0) == State::Healthy {
        second(&mut world);
    }
    assert_eq!(world.state(0), State::Stopping);
    assert_eq!(
        (world.now - silent_since).as_secs(),
        11,
        "30 s after the last ping, 19 s before this"
    );
}

#[test]
fn a_role_that_misbehaves_is_killed_without_grace_and_replaced() {
    let mut world = World::new(&[spec("a", "type = 'notify'\nrestart = 'always'")]);
    world.notify(0, Notification::Ready);
    world.take();
    let misbehaved = |world: &mut World| world.feed(Input::Misbehaved(Id(0), "floods".into()));
    misbehaved(&mut world);
    assert_eq!(
        world.take(),
        ["service.unhealthy a", "service.stop a", "kill 0"]
    );
    // What it goes on with until it is gone changes nothing.
    misbehaved(&mut world);
    assert!(world.take().is_empty());
    world.end(0, ExitStatus::Signal(9, false));
    assert!(world.take().contains(&"spawn 0".to_owned()));
    assert_eq!(world.deaths(0), ["misbehaves: floods"]);
    // Also one that was asked to go, and one that is not ready yet.
    world.command(0, Command::Stop);
    assert!(world.take().ends_with(&["signal 0 15".to_owned()]));
    misbehaved(&mut world);
    assert_eq!(world.take(), ["kill 0"]);
}

#[test]
fn checks_gate_the_start_and_nothing_they_say_counts() {
    let text = "type = 'notify'\nrestart = 'always'\npre-start = [['/bin/x'], ['/bin/y']]\nbackoff.initial = '1s'";
    let mut world = World::new(&[spec("a", text)]);
    assert_eq!(world.take(), ["check 0 0"]);
    world.notify(0, Notification::Ready);
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(world.take(), ["check 0 1"]);
    world.end(0, ExitStatus::Code(3));
    assert_eq!(world.deaths(0), ["pre-start check 2: exit status 3"]);
    assert_eq!(world.state(0), State::Backoff);
    world.pass(ms(1_000));
    world.take();
    world.exit(0, ExitStatus::Code(0));
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(world.take(), ["check 0 1", "spawn 0", "service.start a"]);
    world.notify(0, Notification::Ready);
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn more_time_is_given_but_not_for_ever() {
    let mut world = World::new(&[spec("a", "type = 'notify'\nstart-timeout = '10s'")]);
    for _ in 0..9 {
        world.pass(ms(9_000));
        world.notify(0, Notification::ExtendTimeout(ms(10_000)));
    }
    assert_eq!(world.state(0), State::Starting, "81 s");
    world.notify(0, Notification::ExtendTimeout(ms(1_000_000_000)));
    world.pass(ms(18_999));
    assert_eq!(world.state(0), State::Starting);
    world.pass(ms(1));
    assert_eq!(world.state(0), State::Stopping, "ten times the timeout");
}

#[test]
fn a_machine_that_stood_still_lays_it_at_nobodys_door() {
    let mut world = World::new(&[spec("a", PROBE)]);
    world.notify(0, Notification::Ready);
    world.pass(ms(0));
    world.answer(Ok(()));
    world.pass(ms(5_000));
    world.take();
    // A probe is in flight and the watchdog runs. The machine is paused for an hour.
    world.now += ms(3_600_000);
    world.feed(Input::Timer);
    assert_eq!(world.take(), ["time.gap "]);
    world.answer(Ok(()));
    world.pass(ms(1_000));
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn a_machine_that_depends_on_no_service_is_healthy_once_they_are_started() {
    let mut core = Core::new(vec![spec("a", "")], 1);
    assert!(!core.required_healthy());
    let _ = core.step(Time::ZERO, Input::Start);
    assert!(core.required_healthy());
}
