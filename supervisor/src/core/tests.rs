//! The core in a simulated world: scripts for what must happen, random histories for what must
//! never happen.

use super::*;
use crate::config::ServiceConfig;
use crate::spec::Spec;
use proptest::prelude::*;
use std::time::Duration;

fn spec(name: &str, text: &str) -> Spec {
    let config: ServiceConfig = toml::from_str(&format!(
        "exec = ['/bin/{name}']\nbackoff.jitter = 0.0\n{text}"
    ))
    .unwrap();
    Spec::from_config(name, config).unwrap()
}

/// A world in which processes do what the test says.
struct World {
    core: Core,
    now: Time,
    next_pid: i32,
    /// Everything since the last look, events as `name service`.
    seen: Vec<String>,
    probes: Vec<(Id, ProbeKind, u64)>,
}

impl World {
    fn new(specs: &[Spec]) -> Self {
        let mut world = Self {
            core: Core::new(specs.to_vec(), 1),
            now: Time::from_secs(1),
            next_pid: 100,
            seen: Vec::new(),
            probes: Vec::new(),
        };
        world.feed(Input::Start);
        world
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            for action in self.core.step(self.now, inputs.remove(0)) {
                self.seen.push(match action {
                    Action::Spawn(id) => {
                        self.next_pid += 1;
                        inputs.push(Input::Spawned(id, self.next_pid));
                        format!("spawn {}", id.0)
                    }
                    Action::Signal(id, signal) => format!("signal {} {signal}", id.0),
                    Action::KillTree(id) => format!("kill {}", id.0),
                    Action::Probe {
                        id, kind, attempt, ..
                    } => {
                        self.probes.push((id, kind, attempt));
                        continue;
                    }
                    Action::CancelProbe(id, kind) => format!("cancel {} {}", id.0, kind.name()),
                    Action::Emit(event) => {
                        format!(
                            "{} {}",
                            event.name(),
                            event.field("service").unwrap_or_default()
                        )
                    }
                    Action::Reboot(id) => format!("reboot {}", id.0),
                    Action::AllStopped => "all stopped".into(),
                });
            }
        }
    }

    /// Lets time pass, stopping at every deadline on the way.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.core.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.feed(Input::Timer);
        }
        self.now = end;
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.seen)
    }

    fn state(&self, id: usize) -> State {
        self.core.machines()[id].state()
    }

    /// The main process ends and leaves nothing behind.
    fn end(&mut self, id: usize, status: ExitStatus) {
        self.feed(Input::Exited(Id(id), status));
        self.feed(Input::TreeGone(Id(id)));
    }

    fn answer(&mut self, result: Result<(), &str>) {
        for (id, kind, attempt) in std::mem::take(&mut self.probes) {
            self.feed(Input::Probe {
                id,
                kind,
                attempt,
                result: result.map_err(str::to_owned),
            });
        }
    }
}

const PROBE: &str = "type = 'notify'\nrestart = 'always'\nwatchdog = '30s'\n\
    probe.liveness = { tcp = '127.0.0.1:1', interval = '5s', timeout = '2s', failures = 2 }";

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn ready_is_said_and_healthy_is_proven() {
    let mut world = World::new(&[spec("a", PROBE)]);
    assert_eq!(world.take(), ["spawn 0", "service.start a"]);
    world.feed(Input::Notify(Id(0), Notification::Ready));
    assert_eq!(world.take(), ["service.ready a"]);
    assert!(!world.core.required_healthy());
    world.pass(ms(0));
    world.answer(Ok(()));
    assert_eq!(world.take(), ["service.healthy a"]);
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn the_first_restart_is_immediate_and_the_next_are_not() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.take();
    world.end(0, ExitStatus::Signal(9, false));
    assert_eq!(
        world.take(),
        [
            "service.exit a",
            "kill 0",
            "service.restart a",
            "spawn 0",
            "service.start a",
            "service.ready a",
            "service.healthy a"
        ]
    );
    world.end(0, ExitStatus::Code(1));
    assert_eq!(world.state(0), State::Backoff);
    world.pass(ms(199));
    assert_eq!(world.state(0), State::Backoff);
    world.pass(ms(1));
    assert_eq!(world.state(0), State::Healthy);
    world.end(0, ExitStatus::Code(1));
    world.pass(ms(399));
    assert_eq!(world.state(0), State::Backoff);
}

#[test]
fn sustained_health_makes_the_next_restart_immediate_again() {
    let mut world = World::new(&[spec(
        "a",
        "restart = 'always'\nbackoff.reset-after = '10s'\nintensity.restarts = 99",
    )]);
    for _ in 0..4 {
        world.end(0, ExitStatus::Code(1));
        world.pass(ms(5_000));
    }
    world.end(0, ExitStatus::Code(1));
    assert_eq!(
        world.state(0),
        State::Backoff,
        "never healthy for long enough"
    );
    world.pass(ms(30_000));
    world.end(0, ExitStatus::Code(1));
    assert_eq!(world.state(0), State::Healthy);
}

#[test]
fn no_successor_starts_before_the_tree_is_gone() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.take();
    world.feed(Input::Exited(Id(0), ExitStatus::Code(0)));
    assert_eq!(world.take(), ["service.exit a", "kill 0"]);
    world.pass(ms(9_999));
    assert_eq!(world.take(), [""; 0]);
    world.feed(Input::TreeGone(Id(0)));
    assert!(world.take().contains(&"spawn 0".to_owned()));
}

#[test]
fn a_tree_that_cannot_be_killed_is_told_and_not_waited_for_forever() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.feed(Input::Exited(Id(0), ExitStatus::Code(0)));
    world.take();
    world.pass(machine::KILL_WAIT);
    assert!(
        world
            .take()
            .starts_with(&["service.stuck a".to_owned(), "service.restart a".to_owned()])
    );
}

#[test]
fn used_up_restarts_escalate_once() {
    let mut world = World::new(&[spec(
        "a",
        "required = true\nrestart = 'always'\nintensity = { restarts = 2, within = '60s' }",
    )]);
    for _ in 0..3 {
        world.end(0, ExitStatus::Code(1));
        world.pass(ms(1_000));
    }
    assert_eq!(world.state(0), State::Failed);
    let seen = world.take();
    assert_eq!(seen.iter().filter(|s| *s == "reboot 0").count(), 1);
    assert_eq!(seen.iter().filter(|s| *s == "service.restart a").count(), 2);
}

#[test]
fn liveness_restarts_after_exactly_its_threshold() {
    let mut world = World::new(&[spec("a", PROBE)]);
    world.feed(Input::Notify(Id(0), Notification::Ready));
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
        ["cancel 0 liveness", "service.unhealthy a", "signal 0 15"]
    );
    world.pass(ms(10_000));
    assert_eq!(world.take(), ["kill 0"], "it ignores the signal");
    world.end(0, ExitStatus::Signal(9, false));
    assert!(world.take().contains(&"service.restart a".to_owned()));
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
    world.feed(Input::Notify(Id(0), Notification::Ready));
    world.pass(ms(0));
    world.answer(Ok(()));
    let second = |world: &mut World| {
        world.pass(ms(1_000));
        world.answer(Ok(()));
    };
    for turn in 0..200 {
        second(&mut world);
        if turn % 20 == 0 {
            world.feed(Input::Notify(Id(0), Notification::Watchdog));
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
    assert_eq!(world.take(), ["signal 2 15"]);
    world.end(2, ExitStatus::Code(0));
    assert_eq!(world.take(), ["service.exit web", "kill 2", "signal 1 15"]);
    world.end(1, ExitStatus::Code(0));
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.take().last().map(String::as_str), Some("all stopped"));
}

#[test]
fn a_oneshot_that_succeeded_is_done_and_one_that_failed_is_tried_again() {
    let mut world = World::new(&[spec("a", "type = 'oneshot'"), spec("b", "after = ['a']")]);
    world.end(0, ExitStatus::Code(1));
    assert_eq!(
        (world.state(0), world.state(1)),
        (State::Starting, State::Stopped)
    );
    world.end(0, ExitStatus::Code(0));
    assert_eq!(
        (world.state(0), world.state(1)),
        (State::Healthy, State::Healthy)
    );
}

#[test]
fn a_service_that_cannot_be_made_follows_the_law() {
    let mut core = Core::new(
        vec![spec("a", "intensity = { restarts = 3, within = '60s' }")],
        1,
    );
    let mut spawns = 0;
    let mut now = Time::ZERO;
    let mut inputs = vec![Input::Start];
    while now < Time::from_secs(30) {
        while let Some(input) = inputs.pop() {
            for action in core.step(now, input) {
                if let Action::Spawn(id) = action {
                    spawns += 1;
                    inputs.push(Input::SpawnFailed(id, "clone3: out of memory".into()));
                }
            }
        }
        now += ms(100);
        inputs.push(Input::Timer);
    }
    assert_eq!((spawns, core.machines()[0].state()), (4, State::Failed));
}

/// What a random world may do next.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Exit(usize, bool),
    TreeGone(usize),
    Ready(usize),
    Watchdog(usize),
    Probe(bool),
    Milestone,
    StrayProbe(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0usize..3;
    proptest::collection::vec(
        prop_oneof![
            (0u64..20_000).prop_map(Step::Pass),
            (id.clone(), any::<bool>()).prop_map(|(i, ok)| Step::Exit(i, ok)),
            id.clone().prop_map(Step::TreeGone),
            id.clone().prop_map(Step::Ready),
            id.clone().prop_map(Step::Watchdog),
            any::<bool>().prop_map(Step::Probe),
            Just(Step::Milestone),
            id.prop_map(Step::StrayProbe),
        ],
        0..200,
    )
}

/// Follows what the actions mean for the processes: an instance exists from `Spawn` until its main
/// process ended and its tree was seen empty, or was given up as stuck.
#[derive(Default)]
struct Model {
    main: bool,
    tree: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_histories_keep_the_invariants(steps in steps(), policy in 0usize..3) {
        let restart = ["never", "on-failure", "always"][policy];
        let specs = [
            spec("a", &format!("restart = '{restart}'\nrequired = true")),
            spec("b", &format!("{}\nafter = ['a', 'var']", PROBE.replace("always", restart))),
            spec("c", "requires = ['b']\ntype = 'oneshot'"),
        ];
        let mut core = Core::new(specs.to_vec(), 7);
        let mut now = Time::ZERO;
        let mut pid = 1;
        let mut models: [Model; 3] = Default::default();
        let mut probes: Vec<(Id, ProbeKind, u64)> = Vec::new();
        let mut kind = false;
        let mut stopping = false;
        let mut ended = 0;
        let mut queue = vec![Input::Start];
        let tail = [Step::Milestone, Step::Pass(1)].into_iter().cycle().take(400);
        let history = steps.iter().cloned().chain(tail);
        for (turn, step) in history.enumerate() {
            if turn == steps.len() {
                kind = true;
                queue.push(Input::StopAll);
            }
            match step {
                // From here on the world is kind: whatever is told to end does.
                Step::Pass(_) | Step::Milestone if kind => {
                    now += Duration::from_secs(3);
                    queue.push(Input::Timer);
                    for (index, model) in models.iter().enumerate() {
                        if model.main {
                            queue.push(Input::Exited(Id(index), ExitStatus::Code(0)));
                        }
                        queue.push(Input::TreeGone(Id(index)));
                    }
                }
                Step::Pass(millis) => {
                    now += Duration::from_millis(millis);
                    queue.push(Input::Timer);
                }
                Step::Exit(index, ok) if models[index].main => {
                    let status = if ok { ExitStatus::Code(0) } else { ExitStatus::Signal(11, true) };
                    queue.push(Input::Exited(Id(index), status));
                }
                Step::TreeGone(index) if !models[index].main => queue.push(Input::TreeGone(Id(index))),
                Step::Ready(index) => queue.push(Input::Notify(Id(index), Notification::Ready)),
                Step::Watchdog(index) => queue.push(Input::Notify(Id(index), Notification::Watchdog)),
                Step::Probe(ok) => queue.extend(probes.drain(..).map(|(id, kind, attempt)| {
                    Input::Probe { id, kind, attempt, result: if ok { Ok(()) } else { Err("x".into()) } }
                })),
                Step::Milestone => queue.push(Input::Milestone("var")),
                Step::StrayProbe(index) => queue.push(Input::Probe {
                    id: Id(index), kind: ProbeKind::Liveness, attempt: 0, result: Ok(()),
                }),
                Step::Exit(..) | Step::TreeGone(_) => {}
            }
            let mut work = 0;
            while !queue.is_empty() {
                work += 1;
                prop_assert!(work < 1000, "a busy loop at {now:?}");
                let input = queue.remove(0);
                match &input {
                    Input::Exited(id, _) => models[id.0].main = false,
                    Input::TreeGone(id) if !models[id.0].main => models[id.0].tree = false,
                    Input::StopAll => stopping = true,
                    _ => {}
                }
                for action in core.step(now, input) {
                    match action {
                        Action::Spawn(id) => {
                            prop_assert!(!stopping, "started while stopping");
                            let model = &mut models[id.0];
                            prop_assert!(!model.main && !model.tree, "two instances of {}", id.0);
                            *model = Model { main: true, tree: true };
                            pid += 1;
                            // As the driver has it: nothing comes between.
                            queue.insert(0, Input::Spawned(id, pid));
                        }
                        Action::Emit(event) if event.name() == "service.stuck" => {
                            let index = core.machines().iter().position(|m| Some(m.spec().name.as_str()) == event.field("service"));
                            models[index.unwrap()] = Model::default();
                        }
                        Action::Probe { id, kind, attempt, .. } => {
                            prop_assert!(models[id.0].main, "a probe of nothing");
                            probes.push((id, kind, attempt));
                        }
                        Action::CancelProbe(id, kind) => probes.retain(|(i, k, _)| (*i, *k) != (id, kind)),
                        Action::AllStopped => {
                            ended += 1;
                            prop_assert!(models.iter().all(|m| !m.main), "stopped with a process left");
                        }
                        Action::Emit(_) | Action::Signal(..) | Action::KillTree(_) | Action::Reboot(_) => {}
                    }
                }
                if core.deadline().is_some_and(|due| due <= now) && queue.is_empty() {
                    queue.push(Input::Timer);
                }
            }
            for (machine, model) in core.machines().iter().zip(&models) {
                let alive = matches!(machine.state(), State::Starting | State::Ready | State::Unhealthy);
                prop_assert!(!alive || model.main, "{:?} without a process", machine.state());
            }
        }
        prop_assert_eq!(ended, 1, "a stop must come to its end, once");
    }
}
