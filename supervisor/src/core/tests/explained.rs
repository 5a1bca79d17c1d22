//! What a service tells of itself while its probes fail.

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
