//! The slot daemon: the role `slots`.
//!
//! PID 1 decides whether a trial has succeeded ([`crate::system`]); this process does what follows from
//! it. It is a child because all of it can hang: the ESP is a disk, the firmware's variables are the
//! firmware. [`core`] decides what is done next from PID 1's order and from what a look at the slots shows
//! ([`gather`]), [`steps`] says in which order it reaches the disk, and [`acts`] does it. A daemon that is
//! killed anywhere loses nothing but time: its successor is told the order again and looks anew. What is
//! to be remembered within a boot is a file in memory ([`crate::slots::marks`]).
//!
//! * At its start it tells what the slots hold (`slot.state`), and that a trial goes on (`slot.trial`).
//!   A trial that came to nothing, found by the version that runs instead, is told with the reason
//!   that can be inferred (`slot.fallback`), or armed once more.
//! * PID 1's orders and what is reported to it go over a channel of their own ([`crate::slots::orders`]); the
//!   events go over another one and are for people.
//! * Operators come over the control socket ([`server`]), by `initctl slots | bless | rollback | update`.
//! * An update is a child of its own, the role `update`: it reads what the network sends.

mod acts;
mod begin;
pub mod core;
pub mod gather;
pub mod protocol;
mod quiet;
mod server;
pub mod steps;
mod updating;

use self::core::{Action, Asked, Core, Origin, Seen, Settings, Task};
use crate::cmdline::Cmdline;

use crate::config::{self, UpdateConfig, check_command_line, check_source};
use crate::manager::event_line;
use crate::slots::judgement::{Next, View};
use crate::slots::marks::{Mark, Marks};
use crate::slots::orders::{Link, Report as Told};
use crate::slots::record::{Record, Unreadable};
use crate::state::StateDir;
use crate::system::relay;
use gather::Look;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::{Reply, Report, Request};
use quiet::Quiet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use server::{Client, Server};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use supervisor::event::Event;
use supervisor::logger::now;
use updating::{Heard, Update};

/// How the role is called.
#[derive(Debug)]
pub struct Options {
    /// Where the control socket is made.
    pub runtime_dir: PathBuf,
    /// The channel for events, to PID 1.
    pub events: OwnedFd,
    /// The channel for orders and reports, to PID 1.
    pub orders: OwnedFd,
}

/// Events of an update that are passed on in one turn: others are to be heard meanwhile.
const EVENTS_MAX: usize = 32;

/// Runs for ever.
///
/// # Errors
/// If the socket or the signals cannot be had.
pub fn run(options: Options) -> io::Result<Infallible> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let cmdline = Cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let config = config::load(Path::new(config::PATH))
        .map(|config| config.update)
        .map_err(io::Error::other)?;
    let server = Server::bind(&options.runtime_dir)?;
    let marks = Marks::new(&options.runtime_dir);
    let core = Core::new(Settings {
        check: config.check,
        command_line: cmdline.update.is_some() && !marks.has(Mark::CommandLine),
        deadline: config.deadline,
    });
    let mut keeper = Keeper {
        core,
        server,
        marks,
        signals,
        events: options.events,
        link: Link::new(options.orders),
        config,
        cmdline,
        update: None,
        begun: false,
        quiet: Quiet::default(),
        blessed: false,
    };
    loop {
        keeper.act();
        keeper.turn()?;
    }
}

struct Keeper {
    core: Core,
    server: Server,
    marks: Marks,
    signals: SignalFd,
    events: OwnedFd,
    link: Link,
    config: UpdateConfig,
    cmdline: Cmdline,
    update: Option<Update>,
    /// Whether a look has succeeded since this daemon started.
    begun: bool,
    quiet: Quiet,
    /// Whether this daemon has told of a blessing.
    blessed: bool,
}

impl Keeper {
    /// Waits for something, and takes what has come.
    fn turn(&mut self) -> io::Result<()> {
        let now = now();
        let limit = self.core.deadline(now).map(|due| {
            let wait = due.saturating_sub(now);
            Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(wait.subsec_nanos()),
            }
        });
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.link.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.server.fd(), PollFlags::IN),
        ];
        let update = self.update.as_ref().and_then(Update::fd);
        fds.extend(update.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // Before the update is asked whether it has ended: if it ends after that, the next wait is told.
        let mut terminate = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            terminate |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
        // After the signals: PID 1 sends its last order and then has us stopped.
        self.take_orders();
        self.hear_update();
        if terminate {
            self.act();
            std::process::exit(0);
        }
        if let Some((request, client)) = self.server.accept() {
            self.serve(request, client);
        }
        Ok(())
    }

    /// The last order is the one that holds.
    fn take_orders(&mut self) {
        while let Some(order) = self.link.receive() {
            match order {
                Ok(order) => self.core.order(order),
                Err(malformed) => self.warn("order", &malformed.0),
            }
        }
    }

    /// Does what is to be done now.
    fn act(&mut self) {
        while let Some(action) = self.core.next(now()) {
            match action {
                Action::Look => {
                    let seen = self.look();
                    self.core.looked(now(), seen);
                }
                Action::Do(task) => {
                    let result = self.carry_out(&task);
                    self.core.did(now(), &task, result);
                }
                Action::Update(origin) => {
                    let result = self.start_update(self.source(origin), true);
                    self.core.update_started(now(), Some(origin), result);
                }
                Action::KillUpdate => self.kill_update(),
                Action::Report(report) => self.report(&report),
                Action::Warn { what, seen } => self.warn(what, &seen),
            }
        }
    }

    fn look(&mut self) -> Result<Seen, String> {
        let (look, view) = self.see()?;
        if !self.begun {
            self.begin(&look, &view);
            self.begun = true;
            // It may have written something.
            let (look, view) = self.see()?;
            return Ok(self.seen(&look, &view));
        }
        Ok(self.seen(&look, &view))
    }

    fn seen(&self, look: &Look, view: &View) -> Seen {
        let facts = look.facts(self.config.tries);
        Seen::of(
            &facts,
            view,
            self.marks.has(Mark::Reboot),
            gather::remembers(),
        )
    }

    fn carry_out(&mut self, task: &Task) -> Result<(), String> {
        match task {
            Task::Bless => {
                let (look, situation) = self.situation()?;
                self.perform(&look, steps::bless(&situation))
            }
            Task::Condemn(reason) => self.condemn(reason),
            Task::ReturnTry => {
                let (look, situation) = self.situation()?;
                self.perform(&look, steps::return_try(&situation))
            }
            Task::Retry => {
                let (look, view) = self.see()?;
                let Next::Retry(entry) = &view.next else {
                    return Ok(());
                };
                let version = view.other.version.as_deref().unwrap_or_default();
                let roothash = look.roothash_of(entry).unwrap_or_default();
                let counted = look.armed_in_this_boot;
                self.perform(&look, steps::retry(entry, version, roothash, counted))
            }
        }
    }

    fn condemn(&mut self, reason: &str) -> Result<(), String> {
        self.marker(&format!("boot-check: UNHEALTHY: {reason}"));
        let done = self.situation().and_then(|(look, situation)| {
            let steps = steps::condemn(&situation, reason)?;
            self.perform(&look, steps)
        });
        if let Err(why) = &done {
            self.tell(
                &Event::new("slot.stuck")
                    .with("reason", reason)
                    .with("seen", why),
            );
        }
        done
    }

    fn serve(&mut self, request: Request, mut client: Client) {
        let done = match request {
            Request::Slots {} => match self.see() {
                Ok((look, view)) => {
                    let floor = match &look.unreadable {
                        None => look.record.floor(&look.running.version, &look.found),
                        Some(why) => format!("unknown: {why}"),
                    };
                    client.reply(&Reply {
                        ok: true,
                        slots: Some(Report {
                            view,
                            floor,
                            trials: look.record.trials.clone(),
                            updating: self.update.is_some(),
                        }),
                    });
                    return;
                }
                Err(why) => Err(why),
            },
            Request::Bless {} => self.by_hand(Asked::Bless, |situation| Ok(steps::keep(situation))),
            Request::Rollback {} => self.by_hand(Asked::Rollback, |situation| {
                steps::roll_back(situation, "initctl rollback")
            }),
            Request::Update { source, no_reboot } => {
                let source = match source {
                    Some(source) => check_source(&source).map(|()| source),
                    None => self.source(Origin::Configured),
                };
                let started = self
                    .core
                    .may(Asked::Update)
                    .and_then(|()| self.start_update(source, !no_reboot));
                match started {
                    Ok(()) => {
                        self.core.update_started(now(), None, Ok(()));
                        client.reply(&good());
                        self.server.follow(client);
                        return;
                    }
                    Err(why) => Err(why),
                }
            }
        };
        match done {
            Ok(()) => client.reply(&good()),
            Err(why) => client.refuse(&why),
        }
    }

    /// Does what an operator asks for, and looks anew at what follows from it.
    fn by_hand(
        &mut self,
        asked: Asked,
        steps: impl FnOnce(&steps::Situation) -> Result<Vec<steps::Step>, String>,
    ) -> Result<(), String> {
        self.core.may(asked)?;
        let done = self.situation().and_then(|(look, situation)| {
            match (&look.unreadable, asked) {
                (None, _) => {}
                (Some(Unreadable::Damaged(_)), Asked::Bless) => start_anew(&look)?,
                (Some(why), _) => return Err(why.to_string()),
            }
            self.perform(&look, steps(&situation)?)
        });
        self.core.look_again();
        done
    }

    fn source(&self, origin: Origin) -> Result<String, String> {
        let configured = self.config.source.clone();
        match (origin, &self.cmdline.update) {
            (Origin::CommandLine, Some(source)) => {
                check_command_line(source, configured.as_deref()).map_err(|why| {
                    format!("astromesh.update= of the kernel's command line: {why}")
                })?;
                Ok(source.clone())
            }
            _ => configured.ok_or_else(|| {
                "no SOURCE is given, and the configuration has no update.source".into()
            }),
        }
    }

    fn start_update(&mut self, source: Result<String, String>, reboot: bool) -> Result<(), String> {
        let source = source?;
        match reboot {
            true => self.marks.set(Mark::Reboot),
            false => self.marks.clear(Mark::Reboot),
        }
        .map_err(|e| e.to_string())?;
        let update = Update::start(&source, self.config.ca.as_deref())
            .map_err(|e| format!("the update cannot be started: {e}"))?;
        self.update = Some(update);
        Ok(())
    }

    fn hear_update(&mut self) {
        let Some(mut update) = self.update.take() else {
            return;
        };
        // Asked before its events are read: what it said before its end is there then.
        let ended = update.ended();
        let mut events = 0;
        let unasked = self.core.update_origin() == Some(Origin::Configured);
        while events < EVENTS_MAX || ended.is_some() {
            match update.hear(now()) {
                Heard::Told(event) => {
                    for event in self.quiet.hear(event, unasked) {
                        self.pass_on(&event);
                    }
                }
                Heard::Dropped => {}
                Heard::Condemned(how) => {
                    self.tell_failed(&format!("it was killed, as it {how}"));
                    update.kill();
                }
                Heard::Nothing => break,
            }
            events += 1;
        }
        let Some(end) = ended else {
            self.update = Some(update);
            return;
        };
        for event in self.quiet.end() {
            self.pass_on(&event);
        }
        if let Some(reason) = end.untold {
            self.tell_failed(&reason);
        }
        if self.core.update_origin() == Some(Origin::CommandLine)
            && let Err(e) = self.marks.set(Mark::CommandLine)
        {
            self.warn("update", &e.to_string());
        }
        self.server.release();
        self.core.update_ended(now(), end.ended);
    }

    fn pass_on(&mut self, event: &Event) {
        if event.name() == "update.installed" {
            let entry = event.field("entry").unwrap_or_default();
            self.marker(&format!("[update] installed trial UKI {entry}"));
        }
        if event.name() == "update.refused" {
            let reason = event.field("reason").unwrap_or_default();
            self.marker(&format!("[update] {reason}, not retrying"));
        }
        self.tell(event);
    }

    fn kill_update(&mut self) {
        if self.update.as_ref().is_some_and(Update::is_killed) {
            return;
        }
        let minutes = self.config.deadline.as_secs() / 60;
        self.tell_failed(&format!(
            "it was not done within {minutes} minutes (update.deadline)"
        ));
        if let Some(update) = &mut self.update {
            update.kill();
        }
    }

    /// An update that could not tell it itself has failed.
    fn tell_failed(&mut self, reason: &str) {
        self.tell(
            &Event::new("update.failed")
                .with("version", "")
                .with("reason", reason)
                .with("transient", "yes"),
        );
    }

    fn report(&mut self, report: &Told) {
        if let Told::Reboot { reason } = report {
            self.tell(&Event::new("slot.reboot").with("reason", reason));
        }
        // PID 1 reads whatever waits at each turn, so the channel is never full of what a daemon has to say.
        if let Err(e) = self.link.send_report(report) {
            self.warn("report", &e.to_string());
        }
    }

    fn reboot(&mut self, reason: &str) {
        self.report(&Told::Reboot {
            reason: reason.to_owned(),
        });
    }

    fn warn(&mut self, what: &str, seen: &str) {
        self.tell(
            &Event::new("slot.warning")
                .with("what", what)
                .with("seen", seen),
        );
    }

    /// To PID 1, and to whoever follows an update.
    fn tell(&mut self, event: &Event) {
        let fields: Vec<(&str, String)> = event
            .fields()
            .map(|(key, value)| (key, value.to_owned()))
            .collect();
        relay::send(&self.events, event.name(), &fields);
        self.server.publish(&event_line(now(), event));
    }

    /// A line of the appliance's earlier userland, for harnesses that wait for it.
    fn marker(&self, line: &str) {
        if self.cmdline.markers {
            println!("{line}");
        }
    }
}

/// An operator keeps the running version though the record is lost: no older one is installed from now on.
fn start_anew(look: &Look) -> Result<(), String> {
    let floor = look.record.floor(&look.running.version, &look.found);
    StateDir::open()
        .and_then(|state| Record::start_anew(&state, &floor))
        .map_err(|e| e.to_string())
}

fn good() -> Reply {
    Reply {
        ok: true,
        slots: None,
    }
}
