//! The core in a scripted world: what must happen, told as short stories.
//!
//! What must never happen, whatever the world does, is the simulation's matter
//! (`simulation/src`).

use super::*;
use crate::config::ServiceConfig;
use crate::spec::Spec;
use std::time::Duration;

mod explained;
mod health;
mod heard;
mod lost;
mod order;
mod restart;
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
    /// The names of all events that a console shows.
    shown: Vec<String>,
    probes: Vec<(Id, ProbeKind, u64)>,
}

impl World {
    fn new(specs: &[Spec]) -> Self {
        let mut world = Self {
            core: Core::new(specs.to_vec(), 1),
            now: Time::from_secs(1),
            next_pid: 100,
            seen: Vec::new(),
            shown: Vec::new(),
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
                        if !event.is_routine() {
                            self.shown.push(event.name().to_owned());
                        }
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
fn a_good_start_of_a_part_of_init_is_routine_and_what_follows_a_failure_is_not() {
    let part = |text| Spec {
        routine_start: true,
        ..spec("s", text)
    };
    let mut world = World::new(&[part("type = 'notify'")]);
    world.notify(0, Notification::Ready);
    assert_eq!(world.state(0), State::Healthy);
    assert!(world.shown.is_empty());
    world.fail(0);
    world.notify(0, Notification::Ready);
    assert_eq!(
        world.shown,
        [
            "service.exit",
            "service.restart",
            "service.start",
            "service.ready",
            "service.healthy"
        ]
    );

    let mut world = World::new(&[part("type = 'oneshot'")]);
    world.end(0, ExitStatus::Code(0));
    assert_eq!(world.state(0), State::Healthy);
    assert!(world.shown.is_empty());
    let mut world = World::new(&[part("type = 'oneshot'\nrestart = 'never'")]);
    world.end(0, ExitStatus::Code(1));
    assert_eq!(world.shown, ["service.exit", "service.failed"]);
}

#[test]
fn a_service_is_found_by_its_name() {
    let world = World::new(&[spec("a", ""), spec("b", "")]);
    let found = ["a", "b", "c"].map(|name| world.core.find(name));
    assert_eq!(found, [Some(Id(0)), Some(Id(1)), None]);
}

#[test]
fn time_in_which_the_machine_stood_still_is_counted() {
    let mut world = World::new(&[spec("a", "type = 'notify'\nstart-timeout = '5s'")]);
    assert_eq!(world.core.unobserved(), Time::ZERO);
    world.now += ms(60_000);
    world.feed(Input::Timer);
    assert_eq!(world.core.unobserved(), ms(60_000));
    assert_eq!(world.state(0), State::Starting, "it is given back");
}

#[test]
fn a_service_is_shown_with_its_restarts_and_its_own_words() {
    let mut world = World::new(&[spec("a", "type = 'notify'\nrestart = 'always'")]);
    world.notify(0, Notification::Status("loads its models".to_owned()));
    let shown = |world: &World| {
        let machine = &world.core.machines()[0];
        (machine.restarts(), machine.status_text().to_owned())
    };
    assert_eq!(shown(&world), (0, "loads its models".to_owned()));
    world.fail(0);
    assert_eq!(shown(&world), (1, String::new()), "a new instance");
}

#[test]
fn the_main_process_is_no_check_before_it() {
    let mut world = World::new(&[spec("a", "pre-start = [['/bin/check']]")]);
    let pids = |world: &World| {
        let machine = &world.core.machines()[0];
        (machine.pid(), machine.main_pid())
    };
    assert_eq!(pids(&world), (Some(101), None), "the check runs");
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(pids(&world), (Some(102), Some(102)));
    world.exit(0, ExitStatus::Code(0));
    assert_eq!(pids(&world), (None, None));
}
