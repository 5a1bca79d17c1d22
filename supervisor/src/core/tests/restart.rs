//! The restart law: delays, intensity, and what follows when it is used up.

use super::*;

#[test]
fn the_first_restart_is_immediate_and_the_next_are_not() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.take();
    world.end(0, ExitStatus::Signal(9, false));
    assert_eq!(
        world.take(),
        [
            "service.exit a",
            "signal tree 0 15",
            "service.restart a",
            "spawn 0",
            "service.start a",
            "service.ready a",
            "service.healthy a"
        ]
    );
    world.fail(0);
    assert_eq!(world.state(0), State::Backoff);
    world.pass(ms(999));
    assert_eq!(world.state(0), State::Backoff);
    world.pass(ms(1));
    assert_eq!(world.state(0), State::Healthy);
    world.fail(0);
    world.pass(ms(1_999));
    assert_eq!(world.state(0), State::Backoff);
    assert_eq!(
        world.deaths(0),
        ["signal 9", "exit status 1", "exit status 1"]
    );
}

#[test]
fn sustained_health_makes_the_next_restart_immediate_again() {
    let mut world = World::new(&[spec(
        "a",
        "restart = 'always'\nbackoff.reset-after = '10s'\nintensity.restarts = 99",
    )]);
    for _ in 0..4 {
        world.fail(0);
        world.pass(ms(5_000));
    }
    world.fail(0);
    assert_eq!(
        world.state(0),
        State::Backoff,
        "never healthy for long enough"
    );
    world.pass(ms(30_000));
    world.fail(0);
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn used_up_restarts_escalate_once_and_are_tried_anew_if_nothing_helped() {
    let mut world = World::new(&[spec(
        "a",
        "required = true\nrestart = 'always'\nintensity = { restarts = 2, within = '60s', retry-after = '5m' }",
    )]);
    for _ in 0..3 {
        world.fail(0);
        world.pass(ms(1_000));
    }
    assert_eq!(world.state(0), State::Failed);
    let seen = world.take();
    assert_eq!(seen.iter().filter(|s| *s == "reboot 0").count(), 1);
    assert_eq!(seen.iter().filter(|s| *s == "service.restart a").count(), 2);
    world.pass(ms(60_000));
    assert_eq!(world.state(0), State::Failed, "the machine is rebooting");
    world.feed(Input::RebootRefused(Id(0)));
    world.pass(ms(299_999));
    assert_eq!(world.state(0), State::Failed);
    world.pass(ms(1));
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn a_oneshot_that_succeeded_is_done_and_one_that_failed_is_tried_again() {
    let mut world = World::new(&[spec("a", "type = 'oneshot'"), spec("b", "requires = ['a']")]);
    world.fail(0);
    assert_eq!(world.states(), [State::Starting, State::Stopped]);
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Healthy, State::Healthy]);
}

#[test]
fn a_group_starts_clean_once_and_then_the_machine_has_to() {
    let mut world = World::new(&[
        spec(
            "db",
            "restart = 'always'\nintensity = { restarts = 1, within = '60s', then = 'restart-group' }",
        ),
        spec("app", "requires = ['db']"),
    ]);
    world.fail(0);
    world.end(1, ExitStatus::Code(0));
    world.fail(0);
    assert_eq!(world.states(), [State::Stopped, State::Stopping]);
    world.pass(ms(5_000));
    assert_eq!(
        world.state(0),
        State::Stopped,
        "not before the last of the group is gone"
    );
    world.end(1, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Healthy; 2]);
    world.take();
    world.fail(0);
    world.end(1, ExitStatus::Code(0));
    world.fail(0);
    assert!(world.take().contains(&"reboot 0".to_owned()));
}

#[test]
fn a_fleet_that_failed_together_is_not_tried_anew_in_lockstep() {
    let text = "exec = ['/bin/a']\nrestart = 'always'\nbackoff.jitter = 0.5\n\
        intensity = { restarts = 0, retry-after = '100s' }";
    let retry_after = |seed| {
        let spec = Spec::from_config("a", toml::from_str(text).unwrap()).unwrap();
        let mut core = Core::new(vec![spec], seed);
        let id = Id(0);
        let exit = Exit {
            status: ExitStatus::Code(1),
            memory_peak: None,
        };
        for input in [
            Input::Start,
            Input::Spawned(id, 7),
            Input::Exited(id, exit),
            Input::TreeGone(id),
        ] {
            let _ = core.step(Time::ZERO, input);
        }
        assert_eq!(core.machines()[0].state(), State::Failed);
        core.machines()[0].bound().unwrap()
    };
    let delays: BTreeSet<Time> = (0..8).map(retry_after).collect();
    assert_eq!(delays.len(), 8, "{delays:?}");
    assert!(
        delays
            .iter()
            .all(|d| (ms(50_000)..=ms(150_000)).contains(d))
    );
}
