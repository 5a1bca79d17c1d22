//! A required service that does not come back by itself is never lost silently: the machine is told.

use super::*;

const REQUIRED: &str = "required = true";

#[test]
fn a_required_service_that_ended_with_success_escalates() {
    let mut world = World::new(&[spec("a", REQUIRED)]);
    world.take();
    world.end(0, ExitStatus::Code(0));
    let seen = world.take();
    assert!(seen.contains(&"service.failed a".to_owned()), "{seen:?}");
    assert!(seen.contains(&"reboot 0".to_owned()), "{seen:?}");
    assert_eq!(world.state(0), State::Failed);
    let because = world.because(0);
    assert!(because.contains("on-failure"), "{because}");
}

#[test]
fn a_required_service_that_is_never_restarted_escalates_when_it_fails() {
    let text = "required = true\nrestart = 'never'\nintensity.then = 'degraded'";
    let mut world = World::new(&[spec("a", text)]);
    world.fail(0);
    let seen = world.take();
    assert!(
        seen.ends_with(&["service.failed a".to_owned(), "degraded 0".to_owned()]),
        "{seen:?}"
    );
    world.pass(ms(600_000));
    assert_eq!(world.state(0), State::Healthy, "tried anew");
}

#[test]
fn an_optional_service_that_is_done_or_never_restarted_concerns_the_machine_not() {
    let mut world = World::new(&[spec("a", ""), spec("b", "restart = 'never'")]);
    world.end(0, ExitStatus::Code(0));
    world.fail(1);
    assert_eq!(world.states(), [State::Stopped, State::Failed]);
    world.pass(ms(3_600_000));
    assert!(!world.take().iter().any(|s| s.starts_with("reboot")));
    assert_eq!(world.states(), [State::Stopped, State::Failed]);
}

#[test]
fn who_is_blocked_by_a_dependency_says_so_at_once_and_escalates_in_time() {
    let mut world = World::new(&[
        spec("db", "type = 'oneshot'\nrestart = 'never'"),
        spec(
            "app",
            "required = true\nrequires = ['db']\nstart-timeout = '30s'",
        ),
    ]);
    world.fail(0);
    assert!(world.take().contains(&"service.blocked app".to_owned()));
    assert!(
        world.because(1).contains("db, which is failed"),
        "{}",
        world.because(1)
    );
    world.pass(ms(29_999));
    assert_eq!(world.take(), [""; 0], "it may still be mended");
    world.pass(ms(1));
    assert_eq!(world.take(), ["service.blocked app", "reboot 1"]);
    world.feed(Input::RebootRefused(Id(1)));
    world.pass(ms(3_600_000));
    assert_eq!(world.take(), [""; 0], "once each time that it is blocked");
    world.command(1, Command::Start);
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Healthy, State::Healthy]);
}

#[test]
fn a_chain_is_blocked_from_its_first_link_to_its_last() {
    let mut world = World::new(&[
        spec("db", "restart = 'never'"),
        spec("app", "requires = ['db']"),
        spec("web", "required = true\nrequires = ['app']"),
    ]);
    world.take();
    world.fail(0);
    world.end(2, ExitStatus::Code(0));
    world.end(1, ExitStatus::Code(0));
    let seen = world.take();
    for blocked in ["service.blocked app", "service.blocked web"] {
        assert_eq!(seen.iter().filter(|s| *s == blocked).count(), 1, "{seen:?}");
    }
    world.pass(ms(90_000));
    assert!(world.take().contains(&"reboot 2".to_owned()));
}

#[test]
fn a_service_that_an_operator_stopped_blocks_others_and_reboots_nothing() {
    let mut world = World::new(&[
        spec("db", ""),
        spec("app", "required = true\nrequires = ['db']"),
    ]);
    world.command(0, Command::Stop);
    world.end(1, ExitStatus::Code(0));
    world.end(0, ExitStatus::Code(0));
    assert!(world.take().contains(&"service.blocked app".to_owned()));
    world.pass(ms(3_600_000));
    assert_eq!(world.take(), [""; 0]);
    // What ended by itself is another matter.
    world.command(1, Command::Start);
    world.end(0, ExitStatus::Code(0));
    world.end(1, ExitStatus::Code(0));
    world.pass(ms(90_000));
    assert!(world.take().contains(&"reboot 1".to_owned()));
}

#[test]
fn a_required_service_that_stays_unhealthy_makes_the_machine_degraded() {
    let probe = "required = true\ntype = 'probe'\nstart-timeout = '60s'\n\
        probe.readiness = { tcp = '127.0.0.1:1', interval = '10s', failures = 1 }";
    let mut world = World::new(&[spec("a", probe)]);
    world.pass(ms(0));
    world.answer(Ok(()));
    assert_eq!(world.state(0), State::Healthy);
    world.pass(ms(10_000));
    world.answer(Err("refused"));
    world.take();
    for _ in 0..5 {
        world.pass(ms(10_000));
        world.answer(Err("refused"));
    }
    assert_eq!(world.take(), [""; 0], "50 s");
    world.pass(ms(10_000));
    assert_eq!(world.take(), ["degraded 0"]);
    world.answer(Err("refused"));
    world.pass(ms(600_000));
    assert_eq!(
        world.state(0),
        State::Unhealthy,
        "readiness restarts nobody"
    );
}

#[test]
fn a_reboot_that_nobody_answers_is_not_waited_for_for_ever() {
    let text = "required = true\nrestart = 'never'\nintensity.retry-after = '5m'";
    let mut world = World::new(&[spec("a", text)]);
    world.fail(0);
    assert!(world.take().contains(&"reboot 0".to_owned()));
    world.pass(ms(300_000));
    assert_eq!(world.state(0), State::Healthy);
}
