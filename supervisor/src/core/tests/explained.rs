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
    world.pass(ms(2_000));
    world.answer(Err("refused"));
    assert_eq!(next(&world), "readiness probe (2 of 3 failures)");
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

/// What comes next, with and without a time.
fn all_next(world: &World, id: usize) -> Vec<String> {
    let status = world.core.status_of(Id(id), world.now).unwrap();
    let next = status.explanation.next.into_iter().map(|next| next.what);
    next.collect()
}

#[test]
fn who_does_not_run_says_whether_it_is_done_or_was_asked_to_stop() {
    let mut world = World::new(&[
        spec("done", "restart = 'on-failure'"),
        spec("asked", "restart = 'on-failure'"),
    ]);
    world.end(0, ExitStatus::Code(0));
    world.command(1, Command::Stop);
    world.end(1, ExitStatus::Code(0));
    assert_eq!(
        world.because(0),
        "it ended with success, and is not restarted then"
    );
    assert_eq!(
        world.because(1),
        "it was asked to stop; it ended: requested"
    );
}

#[test]
fn health_is_explained_by_what_proves_it() {
    let liveness = "probe.liveness = { tcp = '127.0.0.1:1' }";
    let mut world = World::new(&[
        spec("work", "type = 'oneshot'"),
        spec("plain", ""),
        spec("alive", liveness),
    ]);
    assert_eq!(world.because(0), "it has not ended yet");
    assert_eq!(
        world.because(2),
        "it is ready; its liveness probe has not succeeded yet"
    );
    world.end(0, ExitStatus::Code(0));
    world.pass(ms(1));
    world.answer(Ok(()));
    assert_eq!(world.states(), [State::Healthy; 3]);
    assert_eq!(world.because(0), "it has done its work and ended with 0");
    assert_eq!(
        world.because(1),
        "it is ready, and no probe is configured that would have to succeed"
    );
    assert_eq!(world.because(2), "its liveness probe succeeded");
}

#[test]
fn who_starts_says_which_probe_it_waits_for() {
    let probe = "{ tcp = '127.0.0.1:1', interval = '2s', timeout = '1s' }";
    let text = format!("type = 'probe'\nprobe = {{ startup = {probe}, readiness = {probe} }}");
    let mut world = World::new(&[spec("a", &text)]);
    assert_eq!(world.because(0), "its startup probe has not succeeded yet");
    world.pass(ms(1));
    world.answer(Ok(()));
    assert_eq!(
        world.because(0),
        "its readiness probe has not succeeded yet"
    );
}

#[test]
fn a_stop_says_whether_the_kill_or_giving_up_is_next() {
    let mut world = World::new(&[spec("a", "stop.timeout = '5s'")]);
    world.command(0, Command::Stop);
    assert_eq!(world.because(0), "requested; the stop signal was sent");
    assert_eq!(all_next(&world, 0), ["the whole tree is killed"]);
    world.pass(ms(5_000));
    assert_eq!(
        world.because(0),
        "requested; its tree was killed, the main process is not reaped yet"
    );
    assert_eq!(all_next(&world, 0), ["it is given up and told as stuck"]);
    world.exit(0, ExitStatus::Signal(9, false));
    assert_eq!(
        world.because(0),
        "requested; its tree was killed and is not empty yet"
    );
}

#[test]
fn who_failed_says_whether_anything_comes_by_itself() {
    let retried = "restart = 'always'\nintensity = { restarts = 0, retry-after = '1m' }";
    let mut world = World::new(&[spec("left", "restart = 'never'"), spec("retried", retried)]);
    world.fail(0);
    world.fail(1);
    assert_eq!(
        all_next(&world, 0),
        ["nothing, until somebody asks for a start"]
    );
    assert_eq!(all_next(&world, 1), ["it is tried anew"]);
    assert_eq!(
        world.because(0),
        "exit status 1 after 0 ms; restart = \"never\" does not bring it back"
    );
}
