//! Who waits for whom, and for how long.

use super::super::outlook::steps;
use super::*;

#[test]
fn a_layered_graph_costs_its_edges_and_not_its_paths() {
    const LAYERS: usize = 40;
    // Two services a layer, each requires both of the layer below: 2^40 paths.
    let specs: Vec<Spec> = (0..LAYERS)
        .flat_map(|layer| {
            let below = layer.checked_sub(1);
            let requires = below.map(|b| format!("requires = ['a{b}', 'b{b}']"));
            let text = format!("type = 'notify'\n{}", requires.unwrap_or_default());
            ["a", "b"].map(|name| spec(&format!("{name}{layer}"), &text))
        })
        .chain([spec("last", &format!("after = ['a{}']", LAYERS - 1))])
        .collect();
    steps::take();
    let mut world = World::new(&specs);
    // Two start, and the set is looked at once for each move, once before and once after them.
    let size = specs.len() + 4 * (LAYERS - 1);
    assert_eq!(steps::take(), size * 5, "{size} services and edges");
    for id in 0..specs.len() {
        world.notify(id, Notification::Ready);
    }
    assert!(world.states().iter().all(|s| *s == State::Healthy));
}

#[test]
fn a_oneshot_that_succeeds_at_its_restart_is_waited_for() {
    let mut world = World::new(&[
        spec("migrate", "type = 'oneshot'\nbackoff.initial = '1s'"),
        spec("app", "after = ['migrate']"),
    ]);
    world.fail(0);
    assert_eq!(world.states(), [State::Backoff, State::Stopped]);
    world.pass(ms(1_000));
    assert_eq!(world.states(), [State::Starting, State::Stopped]);
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Healthy, State::Healthy]);
}

#[test]
fn one_that_is_given_up_is_not_waited_for() {
    let text = "type = 'oneshot'\nintensity.restarts = 1";
    let mut world = World::new(&[spec("migrate", text), spec("app", "after = ['migrate']")]);
    world.fail(0);
    assert_eq!(world.state(1), State::Stopped);
    world.fail(0);
    assert_eq!(world.states(), [State::Failed, State::Healthy]);
}

#[test]
fn what_is_wanted_comes_first_and_may_go() {
    let mut world = World::new(&[
        spec("db", "type = 'notify'\nrestart = 'always'"),
        spec("app", "wants = ['db']"),
    ]);
    assert_eq!(world.states(), [State::Starting, State::Stopped]);
    world.notify(0, Notification::Ready);
    assert_eq!(world.states(), [State::Healthy, State::Healthy]);
    world.fail(0);
    assert_eq!(world.state(1), State::Healthy, "a crash concerns it not");
    for id in [1, 0] {
        world.command(id, Command::Stop);
        world.end(id, ExitStatus::Code(0));
    }
    assert_eq!(world.states(), [State::Stopped, State::Stopped]);
    world.command(1, Command::Start);
    assert_eq!(
        world.state(0),
        State::Starting,
        "an operator's start brings it"
    );
}

#[test]
fn a_oneshot_that_is_done_is_not_run_again_when_what_it_requires_bounces() {
    let mut world = World::new(&[
        spec("db", "restart = 'always'"),
        spec("migrate", "type = 'oneshot'\nrequires = ['db']"),
        spec("app", "requires = ['migrate']"),
    ]);
    world.end(1, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Healthy; 3]);
    world.take();
    world.fail(0);
    assert_eq!(world.states(), [State::Healthy; 3]);
    assert!(!world.take().contains(&"spawn 1".to_owned()));
    world.command(0, Command::Restart);
    world.end(0, ExitStatus::Code(0));
    assert_eq!(
        world.states(),
        [State::Healthy; 3],
        "not in the way of a stop, either"
    );
    world.feed(Input::StopAll);
    world.end(2, ExitStatus::Code(0));
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.take().last().map(String::as_str), Some("all stopped"));
}

#[test]
fn services_start_in_order_and_stop_in_reverse() {
    let specs = [
        spec("log", ""),
        spec("db", "after = ['log', 'var']"),
        spec("web", "after = ['log']\nrequires = ['db']"),
    ];
    let mut world = World::new(&specs);
    assert_eq!(world.take()[0], "spawn 0");
    assert_eq!(
        (world.state(1), world.state(2)),
        (State::Stopped, State::Stopped)
    );
    world.feed(Input::Milestone("var"));
    assert_eq!(world.state(2), State::Healthy);
    world.take();
    world.feed(Input::StopAll);
    assert_eq!(world.take(), ["service.stop web", "signal 2 15"]);
    world.end(2, ExitStatus::Code(0));
    assert!(world.take().ends_with(&["signal 1 15".to_owned()]));
    world.end(1, ExitStatus::Code(0));
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.take().last().map(String::as_str), Some("all stopped"));
}

#[test]
fn an_optional_service_that_fails_holds_up_nobody_who_only_comes_after_it() {
    let mut world = World::new(&[
        spec("a", "type = 'notify'\nrestart = 'always'"),
        spec("b", "requires = ['a']"),
        spec("c", "after = ['a', 'b']"),
    ]);
    assert_eq!(world.state(2), State::Stopped);
    world.exit(0, ExitStatus::Code(1));
    assert_eq!(world.state(2), State::Stopped, "it may still succeed");
    world.feed(Input::TreeGone(Id(0)));
    assert_eq!(
        world.states(),
        [State::Starting, State::Stopped, State::Stopped],
        "it was restarted, and may succeed yet"
    );
    world.pass(ms(89_999));
    assert_eq!(world.state(2), State::Stopped);
    world.pass(ms(1));
    assert_eq!(world.state(2), State::Healthy, "a whole start-timeout");
}

#[test]
fn who_requires_a_service_that_ends_is_stopped_and_comes_back_with_it() {
    let mut world = World::new(&[
        spec("db", "restart = 'always'"),
        spec("app", "requires = ['db']"),
        spec("web", "requires = ['app']"),
    ]);
    world.take();
    world.fail(0);
    // The chain goes from its end; the service itself is back at once.
    assert_eq!(
        world.states(),
        [State::Healthy, State::Healthy, State::Stopping]
    );
    world.end(2, ExitStatus::Signal(15, false));
    assert_eq!(world.state(1), State::Stopping);
    world.end(1, ExitStatus::Signal(15, false));
    assert_eq!(world.states(), [State::Healthy; 3]);
    assert_eq!(world.deaths(1), ["db went, which it requires"]);
    assert_eq!(
        world.core.machines()[1].restarts(),
        0,
        "no restart by the law"
    );
}

#[test]
fn an_operator_stops_in_reverse_and_starts_with_what_is_required() {
    let mut world = World::new(&[spec("db", ""), spec("app", "requires = ['db']")]);
    world.take();
    world.command(0, Command::Stop);
    assert_eq!(world.take(), ["service.stop app", "signal 1 15"]);
    world.end(1, ExitStatus::Code(0));
    assert!(world.take().ends_with(&["signal 0 15".to_owned()]));
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Stopped; 2]);
    world.pass(ms(3_600_000));
    assert_eq!(world.states(), [State::Stopped; 2]);
    world.command(1, Command::Start);
    assert_eq!(world.states(), [State::Healthy; 2]);
    world.take();
    world.command(0, Command::Restart);
    assert_eq!(world.take(), ["service.stop app", "signal 1 15"]);
    world.end(1, ExitStatus::Code(0));
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Healthy; 2]);
}

#[test]
fn a_pause_is_no_time_in_which_a_first_start_is_waited_for() {
    let mut world = World::new(&[
        spec(
            "a",
            "type = 'notify'\nrestart = 'always'\nstart-timeout = '10s'",
        ),
        spec("b", "after = ['a']"),
    ]);
    world.pass(ms(2_000));
    world.fail(0);
    assert_eq!(world.states(), [State::Starting, State::Stopped]);
    world.now += ms(60_000);
    world.feed(Input::Timer);
    // Eight seconds of the ten were left when the machine stood still.
    world.pass(ms(7_999));
    assert_eq!(world.state(1), State::Stopped);
    world.pass(ms(1));
    assert_eq!(world.state(1), State::Healthy);
}
