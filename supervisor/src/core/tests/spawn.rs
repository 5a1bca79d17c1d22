//! Starts for which no process can be made.

use super::super::spawn::Fault;
use super::*;

/// Lets every start fail for this reason, for so long; what was seen, as the [`World`] has it.
fn fail_to_spawn(core: &mut Core, now: &mut Time, length: Time, fault: Fault) -> Vec<String> {
    let end = *now + length;
    let mut seen = Vec::new();
    let mut inputs = vec![Input::Timer];
    loop {
        while let Some(input) = inputs.pop() {
            for action in core.step(*now, input) {
                match action {
                    Action::Spawn(id, _) => {
                        seen.push("spawn".to_owned());
                        let why = "clone3: x".to_owned();
                        inputs.push(Input::SpawnFailed(id, SpawnFailure { why, fault }));
                    }
                    Action::SignalTree(id, _) => {
                        inputs.push(Input::TreeGone(id));
                    }
                    Action::Emit(event) => seen.push(event.name().to_owned()),
                    Action::Reboot { why, .. } => seen.push(format!("reboot: {why}")),
                    Action::Degraded { why, .. } => seen.push(format!("degraded: {why}")),
                    _ => {}
                }
            }
        }
        match core.deadline() {
            Some(due) if due <= end => *now = due,
            _ => break,
        }
        inputs.push(Input::Timer);
    }
    *now = end;
    seen
}

fn core(text: &str) -> Core {
    let mut core = Core::new(vec![spec("a", text)], 1);
    let _ = core.step(Time::ZERO, Input::Milestone("net"));
    core
}

fn started(text: &str, length: Time, fault: Fault) -> (Core, Time, Vec<String>) {
    // The start waits for nothing, so its spawn would be lost with the answer to `Start`.
    let mut core = core(&format!("after = ['var']\n{text}"));
    let _ = core.step(Time::ZERO, Input::Start);
    let mut now = Time::ZERO;
    let first = core.step(now, Input::Milestone("var"));
    assert_eq!(first.len(), 1, "{first:?}");
    let failure = SpawnFailure {
        why: "clone3: x".into(),
        fault,
    };
    let mut seen = vec!["spawn".to_owned()];
    for action in core.step(now, Input::SpawnFailed(Id(0), failure)) {
        if let Action::SignalTree(id, _) = action {
            let after = core.step(now, Input::TreeGone(id));
            seen.extend(after.iter().filter_map(|a| match a {
                Action::Emit(event) => Some(event.name().to_owned()),
                _ => None,
            }));
        }
    }
    seen.extend(fail_to_spawn(&mut core, &mut now, length, fault));
    (core, now, seen)
}

const LAW: &str = "required = true\nrestart = 'never'\nstart-timeout = '90s'\nintensity.restarts = 0\n\
    backoff.base = '1s'";

#[test]
fn a_machine_without_resources_is_not_the_services_fault_and_reboots_once() {
    let (mut core, mut now, seen) = started(LAW, Time::from_secs(80), Fault::Machine);
    assert_eq!(core.machines()[0].state(), State::Backoff);
    assert_eq!(core.machines()[0].restarts(), 0);
    assert_eq!(core.machines()[0].deaths().count(), 0);
    let spawns = seen.iter().filter(|s| *s == "spawn").count();
    assert_eq!(spawns, 7, "after 1, 2, 4, 8, 16 and 32 s: {seen:?}");
    assert!(
        !seen.iter().any(|s| s.starts_with("service.failed")),
        "{seen:?}"
    );
    let seen = fail_to_spawn(&mut core, &mut now, Time::from_secs(3_600), Fault::Machine);
    let reboots: Vec<_> = seen.iter().filter(|s| s.starts_with("reboot")).collect();
    assert_eq!(
        reboots,
        ["reboot: could not be started for 123000 ms: clone3: x"]
    );
    let status = core.status_of(Id(0), now).unwrap();
    assert_eq!(
        status.explanation.because,
        "no process could be made: clone3: x"
    );
}

/// The first instance of `a` ends before it is its program, for this reason.
fn not_executed(text: &str, oom: bool, fault: Fault) -> (World, Vec<String>) {
    let mut world = World::new(&[spec("a", &format!("type = 'notify'\n{text}"))]);
    world.take();
    if oom {
        world.feed(Input::OutOfMemory(Id(0)));
    }
    let why = "fds: x".to_owned();
    world.exit(0, ExitStatus::NotExecuted(SpawnFailure { why, fault }));
    world.feed(Input::TreeGone(Id(0)));
    let seen = world.take();
    (world, seen)
}

#[test]
fn a_child_that_finds_no_resources_before_its_exec_counts_for_nothing() {
    let (mut world, seen) = not_executed(LAW, false, Fault::Machine);
    assert_eq!(seen, ["signal tree 0 15", "service.deferred a"]);
    assert_eq!(world.state(0), State::Backoff);
    assert_eq!(world.core.machines()[0].deaths().count(), 0);
    let spawned = |world: &mut World| world.take().contains(&"spawn 0".to_owned());
    world.pass(Time::from_secs(1));
    assert!(spawned(&mut world));
    // The second in a row, although there was a process: after twice the time.
    let why = "fds: x".to_owned();
    let fault = Fault::Machine;
    world.exit(0, ExitStatus::NotExecuted(SpawnFailure { why, fault }));
    world.feed(Input::TreeGone(Id(0)));
    world.pass(Time::from_millis(1_999));
    assert!(!spawned(&mut world));
    world.pass(Time::from_millis(1));
    assert!(spawned(&mut world));

    // Its own fault, or for want of the memory that it may have: `restart = 'never'`.
    for (oom, fault) in [(false, Fault::Service), (true, Fault::Machine)] {
        let (world, seen) = not_executed(LAW, oom, fault);
        assert_eq!(world.state(0), State::Failed, "{seen:?}");
        assert_eq!(world.core.machines()[0].deaths().count(), 1);
    }
}

#[test]
fn an_address_that_is_not_there_is_waited_for_and_reboots_nothing() {
    let (core, _, seen) = started(LAW, Time::from_secs(3_600), Fault::Address);
    assert!(!seen.iter().any(|s| s.starts_with("reboot")), "{seen:?}");
    let degraded = seen.iter().filter(|s| s.starts_with("degraded")).count();
    assert_eq!(degraded, 1, "{seen:?}");
    assert_eq!(core.machines()[0].state(), State::Backoff);
}

#[test]
fn a_start_that_is_deferred_is_never_tried_in_a_busy_loop() {
    let (_, _, seen) = started(
        "backoff.base = '0s'\nbackoff.max = '0s'",
        Time::from_secs(10),
        Fault::Machine,
    );
    assert_eq!(
        seen.iter().filter(|s| *s == "spawn").count(),
        101,
        "each 100 ms"
    );
}

#[test]
fn a_service_that_cannot_be_made_follows_the_law() {
    let mut core = Core::new(
        vec![spec(
            "a",
            "intensity = { restarts = 3, within = '60s' }\nbackoff.base = '200ms'",
        )],
        1,
    );
    let mut spawns = 0;
    let mut now = Time::ZERO;
    let mut inputs = vec![Input::Start];
    while now < Time::from_secs(30) {
        while let Some(input) = inputs.pop() {
            for action in core.step(now, input) {
                match action {
                    Action::Spawn(id, _) => {
                        spawns += 1;
                        let failure = SpawnFailure::of_the_service("exec holds a NUL byte");
                        inputs.push(Input::SpawnFailed(id, failure));
                    }
                    Action::SignalTree(id, _) => inputs.push(Input::TreeGone(id)),
                    _ => {}
                }
            }
        }
        now += ms(100);
        inputs.push(Input::Timer);
    }
    assert_eq!((spawns, core.machines()[0].state()), (4, State::Failed));
}

#[test]
fn a_pause_of_the_machine_is_no_time_in_which_a_start_failed() {
    let (mut core, mut now, _) = started(LAW, Time::from_secs(80), Fault::Machine);
    now += Time::from_secs(3_600);
    let seen = fail_to_spawn(&mut core, &mut now, Time::from_secs(10), Fault::Machine);
    assert_eq!(seen, ["time.gap", "spawn", "service.deferred"]);
    let seen = fail_to_spawn(&mut core, &mut now, Time::from_secs(60), Fault::Machine);
    // It was tried for 63 s before the pause, and 60 s after it.
    let told = "reboot: could not be started for 123000 ms: clone3: x";
    assert!(seen.iter().any(|s| s == told), "{seen:?}");
}
