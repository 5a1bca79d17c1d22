//! What a client of the control socket gets for its request.

use super::{Asked, Happened, Manager, Verb, event_line};
use crate::control::metrics;
use crate::control::protocol::{InitStatus, Reply, Request, SystemStatus};
use crate::emit::Emitter;
use crate::report;
use rustix::net::{SendFlags, send};
use supervisor::core::{Command, Id, Input};
use supervisor::logger::{now, protocol as logger};
use supervisor::millis;

impl Manager {
    /// Answers. What concerns the whole machine is left to the owner.
    pub(super) fn answer(&mut self, asked: Asked, emitter: &mut Emitter) -> Option<Happened> {
        let Asked {
            id,
            request,
            uid,
            pid,
            trusted,
        } = asked;
        let who = format!("pid {pid} of uid {uid} by the control socket");
        match request {
            Request::Status { service: None } => self.reply_status(id, None, trusted, emitter),
            Request::Status {
                service: Some(name),
            } => {
                if let Some(service) = self.find(id, &name) {
                    self.reply_status(id, Some(service), trusted, emitter);
                }
            }
            Request::Metrics {} => {
                let text = metrics::render(&self.system_status(None, emitter));
                let reply = Reply {
                    metrics: Some(text),
                    ..good()
                };
                self.server.reply(id, &reply, now());
            }
            Request::Boot {} => {
                let report = self.boot.clone().unwrap_or_else(|| report::make(emitter));
                let reply = Reply {
                    boot: Some(report),
                    ..good()
                };
                self.server.reply(id, &reply, now());
            }
            Request::Events { lines, follow } => {
                // What is not published yet is in the record and must not come twice.
                self.publish(emitter);
                let newest: Vec<String> = emitter
                    .newest(lines.unwrap_or(usize::MAX))
                    .filter_map(|(at, event)| serde_json::to_string(&event_line(at, &event)).ok())
                    .collect();
                self.server.stream(id, &newest, follow, now());
            }
            Request::Logs {
                service,
                lines,
                follow,
            } => {
                let lines = u64::try_from(lines).unwrap_or(u64::MAX);
                let request = logger::Request::Logs {
                    service,
                    lines,
                    follow,
                };
                self.ask_logger(id, &request);
            }
            Request::Exits { service } => self.ask_logger(id, &logger::Request::Exits { service }),
            Request::Start { service } => self.command(id, &service, Command::Start, emitter),
            Request::Stop { service } => self.command(id, &service, Command::Stop, emitter),
            Request::Restart { service } => self.command(id, &service, Command::Restart, emitter),
            Request::Reload { service } => self.command(id, &service, Command::Reload, emitter),
            Request::Reboot {} => {
                self.server.reply(id, &good(), now());
                return Some(Happened::Asked(Verb::Reboot, who));
            }
            Request::Poweroff {} => {
                self.server.reply(id, &good(), now());
                return Some(Happened::Asked(Verb::Poweroff, who));
            }
        }
        None
    }

    /// The service of that name; if there is none, the client is told which there are.
    fn find(&mut self, client: u32, name: &str) -> Option<Id> {
        let found = self.driver.core().find(name);
        if found.is_none() {
            let machines = self.driver.core().machines().iter();
            let names: Vec<&str> = machines.map(|m| m.spec().name.as_str()).collect();
            let text = format!(
                "there is no service {name:?}; there are {}",
                names.join(", ")
            );
            self.server.refuse(client, &text, now());
        }
        found
    }

    fn command(&mut self, client: u32, name: &str, command: Command, emitter: &mut Emitter) {
        let Some(service) = self.find(client, name) else {
            return;
        };
        let machine = self.driver.core().machines().get(service.0);
        let reloads = machine.is_some_and(|m| m.spec().reload_signal.is_some());
        let live = machine.is_some_and(|m| m.is_provided() && m.pid().is_some());
        let state = machine.map_or("", |m| m.state().name());
        let problem = match command {
            Command::Start | Command::Restart if self.stopping => {
                Some("everything is being stopped; nothing is started any more".to_owned())
            }
            Command::Reload if !live => {
                Some(format!("{name} is {state}; only a running service reloads"))
            }
            Command::Reload if !reloads => Some(format!(
                "{name} has no reload-signal in its configuration; a program without a handler would die of one"
            )),
            _ => None,
        };
        if let Some(problem) = problem {
            return self.server.refuse(client, &problem, now());
        }
        self.feed(Input::Command(service, command), emitter);
        self.reply_status(client, Some(service), true, emitter);
    }

    /// Who is not `trusted` gets nothing that a service wrote.
    fn reply_status(&mut self, client: u32, only: Option<Id>, trusted: bool, emitter: &Emitter) {
        let mut system = self.system_status(only, emitter);
        if !trusted {
            for service in &mut system.services {
                service.status_text.clear();
            }
        }
        let reply = Reply {
            system: Some(system),
            ..good()
        };
        self.server.reply(client, &reply, now());
    }

    fn system_status(&self, only: Option<Id>, emitter: &Emitter) -> SystemStatus {
        let core = self.driver.core();
        let mut services = self.driver.status(only, now());
        for service in &mut services {
            service.log_lost = self.logger.lost(&service.name);
        }
        let healthy = core.required_healthy();
        let state = match (self.stopping, self.degraded, self.was_healthy || healthy) {
            (true, _, _) => "stopping",
            (_, true, _) => "degraded",
            (_, _, true) => "running",
            _ => "starting",
        };
        SystemStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: millis(now()),
            booted_at_ms: millis(self.booted_at),
            state: state.to_owned(),
            healthy,
            init: InitStatus {
                wakeups: self.wakeups,
                orphans: self.driver.orphans(),
                events_lost: emitter.lost_total(),
                clients: self.server.clients(),
            },
            services,
        }
    }

    /// Has the logger answer: no byte that a service wrote passes PID 1.
    fn ask_logger(&mut self, client: u32, request: &logger::Request) {
        let core = self.driver.core();
        let logger = core.find(super::logging::LOGGER);
        let runs = logger.and_then(|id| core.machines().get(id.0));
        if !runs.is_some_and(|m| m.state().is_live()) {
            let text = "the logger does not run at present; ask again";
            return self.server.refuse(client, text, now());
        }
        let channel = &self.logger;
        self.server.give_away(client, |socket| {
            if let Err(e) = channel.hand_over(request, socket) {
                let text = format!("{{\"ok\":false,\"error\":\"the logger: {e}; ask again\"}}\n");
                let _ = send(socket, text.as_bytes(), SendFlags::NOSIGNAL);
            }
        });
    }
}

fn good() -> Reply {
    Reply {
        ok: true,
        ..Reply::default()
    }
}
