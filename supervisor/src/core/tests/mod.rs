//! The core in a scripted world: what must happen, told as short stories.
//!
//! What must never happen, whatever the world does, is the simulation's matter
//! (`tests/src/bin/simulate`).

use super::*;
use crate::config::ServiceConfig;
use crate::spec::Spec;
use std::time::Duration;

mod explained;
mod lost;
mod order;
mod spawn;
mod stop;

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
                    Action::Spawn(id, program) => {
                        self.next_pid += 1;
                        inputs.push(Input::Spawned(id, self.next_pid));
                        match program {
                            Program::Main => {
                                inputs.push(Input::Executed(id));
                                format!("spawn {}", id.0)
                            }
                            Program::PreStart(number) => format!("check {} {number}", id.0),
                        }
                    }
                    Action::Signal(id, signal) => format!("signal {} {signal}", id.0),
                    Action::SignalTree(id, signal) => format!("signal tree {} {signal}", id.0),
                    Action::KillTree(id) => format!("kill {}", id.0),
                    Action::Abandon(id) => format!("abandon {}", id.0),
                    Action::DropStored(id) => format!("drop {}", id.0),
                    Action::Probe { id, kind, attempt } => {
                        self.probes.push((id, kind, attempt));
                        continue;
                    }
                    Action::CancelProbe(id, kind) => format!("cancel {} {}", id.0, kind.name()),
                    Action::Emit(event) => {
                        let service = event.field("service").unwrap_or_default();
                        format!("{} {service}", event.name())
                    }
                    Action::Reboot { id, .. } => format!("reboot {}", id.0),
                    Action::Degraded { id, .. } => format!("degraded {}", id.0),
                    Action::AllStopped => "all stopped".into(),
                });
            }
        }
    }

    fn command(&mut self, id: usize, command: Command) {
        self.feed(Input::Command(Id(id), command));
    }

    fn notify(&mut self, id: usize, notification: Notification) {
        self.feed(Input::Notify(Id(id), notification));
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

    fn states(&self) -> Vec<State> {
        self.core.machines().iter().map(Machine::state).collect()
    }

    fn exit(&mut self, id: usize, status: ExitStatus) {
        let exit = Exit {
            status,
            memory_peak: None,
        };
        self.feed(Input::Exited(Id(id), exit));
    }

    /// The main process ends and leaves nothing behind.
    fn end(&mut self, id: usize, status: ExitStatus) {
        self.exit(id, status);
        self.feed(Input::TreeGone(Id(id)));
    }

    fn fail(&mut self, id: usize) {
        self.end(id, ExitStatus::Code(1));
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

    fn because(&self, id: usize) -> String {
        let status = self.core.status_of(Id(id), self.now).unwrap();
        status.explanation.because
    }

    fn deaths(&self, id: usize) -> Vec<String> {
        let deaths = self.core.machines()[id].deaths();
        deaths.map(|d| d.cause.to_string()).collect()
    }
}

const PROBE: &str = "type = 'notify'\nrestart = 'always'\nwatchdog = '30s'\n\
    probe.liveness = { tcp = '127.0.0.1:1', interval = '5s', timeout = '2s', failures = 2 }";

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

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
fn no_successor_starts_before_the_tree_is_gone() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.take();
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(world.take(), ["service.exit a", "signal tree 0 15"]);
    world.pass(ms(9_999));
    assert_eq!(world.take(), [""; 0]);
    world.feed(Input::TreeGone(Id(0)));
    assert!(world.take().contains(&"spawn 0".to_owned()));
}

#[test]
fn a_tree_that_cannot_be_killed_is_told_and_not_waited_for_forever() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.exit(0, ExitStatus::Code(0));
    world.pass(ms(10_000));
    assert!(
        world.take().ends_with(&["kill 0".to_owned()]),
        "stop.timeout"
    );
    world.pass(machine::KILL_WAIT);
    let expected = ["service.stuck a", "abandon 0", "service.restart a"];
    assert!(world.take().starts_with(&expected.map(str::to_owned)));
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
fn a_oneshot_that_succeeded_is_done_and_one_that_failed_is_tried_again() {
    let mut world = World::new(&[spec("a", "type = 'oneshot'"), spec("b", "requires = ['a']")]);
    world.fail(0);
    assert_eq!(world.states(), [State::Starting, State::Stopped]);
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.states(), [State::Healthy, State::Healthy]);
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
fn a_machine_that_depends_on_no_service_is_healthy_once_they_are_started() {
    let mut core = Core::new(vec![spec("a", "")], 1);
    assert!(!core.required_healthy());
    let _ = core.step(Time::ZERO, Input::Start);
    assert!(core.required_healthy());
}

#[test]
fn what_was_stored_is_dropped_when_a_service_that_waits_is_stopped() {
    let mut world = World::new(&[
        spec("a", "restart = 'never'"),
        spec("b", "requires = ['a']"),
    ]);
    world.fail(0);
    world.end(1, ExitStatus::Code(0));
    world.take();
    world.command(1, Command::Stop);
    assert_eq!(world.take(), ["drop 1", "service.stopped b"]);
    world.command(1, Command::Stop);
    assert_eq!(world.take(), [""; 0], "once");
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

#[test]
fn a_service_that_says_it_is_going_is_not_signalled_and_has_its_time() {
    let mut world = World::new(&[spec("a", "type = 'notify'\nrestart = 'on-failure'")]);
    world.notify(0, Notification::Ready);
    world.take();
    world.notify(0, Notification::Stopping);
    world.pass(ms(9_999));
    assert_eq!(world.take(), ["service.stop a"], "neither signal nor kill");
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.state(0), State::Stopped, "done");
    assert_eq!(world.deaths(0), ["STOPPING=1, then exit status 0"]);
}

#[test]
fn the_record_has_nothing_of_a_check_that_passed() {
    let text = "pre-start = [['/bin/x']]\nrestart = 'never'";
    let mut core = Core::new(vec![spec("a", text)], 1);
    let id = Id(0);
    let passed = Exit {
        status: ExitStatus::Code(0),
        memory_peak: Some(4096),
    };
    let failure = SpawnFailure::of_the_service("environment-files: /x: not found");
    for input in [
        Input::Start,
        Input::Spawned(id, 7),
        Input::Exited(id, passed),
        Input::SpawnFailed(id, failure),
        Input::TreeGone(id),
    ] {
        let _ = core.step(Time::from_secs(1), input);
    }
    let record = core.machines()[0].deaths().next().unwrap();
    assert_eq!(record.cause.to_string(), "environment-files: /x: not found");
    let seen = (record.pid, &record.status, record.memory_peak);
    assert_eq!(seen, (None, &None, None));
}

#[test]
fn want_of_memory_is_the_cause_of_death() {
    let mut world = World::new(&[spec("a", "restart = 'always'")]);
    world.feed(Input::OutOfMemory(Id(0)));
    world.end(0, ExitStatus::Signal(9, false));
    assert_eq!(world.deaths(0), ["out of memory"]);
    world.fail(0);
    assert_eq!(
        world.deaths(0),
        ["out of memory", "exit status 1"],
        "of that instance only"
    );
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
