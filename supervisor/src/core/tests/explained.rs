//! How the state of a service is explained, also while its probes fail.

use super::*;

const READINESS: &str = "type = 'probe'\nstart-timeout = '10m'\n\
    probe.readiness = { tcp = '127.0.0.1:1', interval = '2s', timeout = '1s', failures = 3 }";

fn next(world: &World) -> String {
    let status = world.core.status_of(Id(0), world.now).unwrap();
    let next = status.explanation.next.into_iter().map(|next| next.what);
    next.filter(|what| what.contains("probe")).collect()
}

#[test]
fn failures_are_told_out_of_how_many_only_where_they_count() {
    let mut world = World::new(&[spec("a", READINESS)]);
    for _ in 0..6 {
        world.pass(ms(2_000));
        world.answer(Err("refused"));
    }
    // Until it is ready, its readiness probe waits for as long as the start may take.
    assert_eq!(next(&world), "readiness probe");
    while world.state(0) == State::Starting {
        world.pass(ms(2_000));
        world.answer(Ok(()));
    }
    world.pass(ms(2_000));
    world.answer(Err("refused"));
    assert_eq!(next(&world), "readiness probe (1 of 3 failures)");
}

#[test]
fn every_state_is_explained() {
    let mut world = World::new(&[
        spec("a", "restart = 'always'\nintensity.restarts = 1"),
        spec("b", "requires = ['a']\nafter = ['net']"),
    ]);
    let because = |world: &World, id: usize| {
        let status = world.core.status_of(Id(id), world.now).unwrap();
        status.explanation.because
    };
    assert_eq!(because(&world, 1), "it waits for net");
    world.exit(0, ExitStatus::Code(7));
    assert_eq!(
        because(&world, 0),
        "exit status 7; its main process is gone, others are not yet"
    );
    world.feed(Input::TreeGone(Id(0)));
    world.end(0, ExitStatus::Code(8));
    assert_eq!(
        because(&world, 0),
        "exit status 8 after 0 ms; 1 restarts within 1800s are allowed"
    );
    world.feed(Input::Milestone("net"));
    assert_eq!(because(&world, 1), "it waits for a, which is failed");
    let status = world.core.status_of(Id(0), world.now).unwrap();
    assert_eq!(status.explanation.next[0].what, "it is tried anew");
    assert_eq!(status.explanation.next[0].in_ms, Some(600_000));
    assert_eq!(status.required_by, ["b"]);
}
