//! The keeper of the slots: the role `slots`.
//!
//! PID 1 decides whether a trial has succeeded ([`crate::system`]); this process does what follows from
//! it. It is a child because all of it can hang: the ESP is a disk, the firmware's variables are the
//! firmware. It holds nothing in memory that matters: before it does anything it looks at everything
//! anew ([`gather`]), [`steps`] says what to do in which order, and a keeper that was killed in between
//! begins with another look.
//!
//! * At its start it tells what the slots hold (`slot.state`), and that a trial goes on (`slot.trial`).
//!   A trial that came to nothing, found by the version that runs instead, is told with the reason
//!   that can be inferred (`slot.fallback`), or armed once more.
//! * PID 1 sends commands over the channel that events go out by: `slot.healthy`, `slot.bless`,
//!   `slot.condemn`, `slot.keep`. It hears `slot.blessed`, `slot.bad`, `slot.reboot`.
//! * Operators come over the control socket ([`server`]), by `initctl slots | bless | rollback | update`.
//! * An update is a child of its own, the role `update`: it reads what the network sends.

mod acts;
pub mod gather;
pub mod protocol;
mod server;
pub mod steps;
mod updating;

use crate::cmdline::{Cmdline, parse_hash};
use crate::config::{self, UpdateConfig};
use crate::manager::event_line;
use crate::slots::judgement::{Next, stale};
use crate::system::relay;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::{Reply, Report, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use server::{Client, Server};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use steps::Step;
use supervisor::Time;
use supervisor::event::Event;
use supervisor::logger::now;
use updating::{Ended, Update};

/// How the role is called.
#[derive(Debug)]
pub struct Options {
    /// Where the control socket is made.
    pub runtime_dir: PathBuf,
    /// The channel to PID 1.
    pub events: OwnedFd,
}

/// A step that failed is tried again after so long: what can fail here is a disk.
const AGAIN: Time = Time::from_secs(30);

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
    let mut keeper = Keeper {
        server: Server::bind(&options.runtime_dir)?,
        runtime_dir: options.runtime_dir,
        signals,
        channel: options.events,
        config,
        cmdline,
        update: None,
        check_at: None,
        bless_at: None,
        healthy: false,
        on_trial: false,
    };
    keeper.begin();
    loop {
        keeper.turn()?;
    }
}

struct Keeper {
    runtime_dir: PathBuf,
    server: Server,
    signals: SignalFd,
    channel: OwnedFd,
    config: UpdateConfig,
    cmdline: Cmdline,
    update: Option<Update>,
    /// When the source is looked at next.
    check_at: Option<Time>,
    /// When a blessing that failed is tried again.
    bless_at: Option<Time>,
    healthy: bool,
    on_trial: bool,
}

impl Keeper {
    fn turn(&mut self) -> io::Result<()> {
        let due = [self.check_at, self.bless_at].into_iter().flatten().min();
        let limit = due.map(|due| {
            let wait = due.saturating_sub(now());
            Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(wait.subsec_nanos()),
            }
        });
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.channel.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.server.fd(), PollFlags::IN),
        ];
        if let Some(update) = &self.update {
            fds.push(PollFd::from_borrowed_fd(update.fd(), PollFlags::IN));
        }
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // Before the signals: PID 1 sends `slot.keep` and then has us stopped.
        while let Some(command) = relay::receive(&self.channel, &["slot."]) {
            self.obey(&command);
        }
        self.hear_update();
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                std::process::exit(0);
            }
        }
        if let Some((request, client)) = self.server.accept() {
            self.serve(request, client);
        }
        if self.bless_at.is_some_and(|due| due <= now()) {
            self.bless_at = None;
            self.bless();
        }
        if self.check_at.is_some_and(|due| due <= now()) {
            self.check_at = self.config.check.map(|every| now() + every);
            self.start_update(None, true).unwrap_or_else(|why| {
                self.warn("update", &why);
            });
        }
        Ok(())
    }

    /// The first look.
    fn begin(&mut self) {
        let (look, view, situation) = match self.see() {
            Ok((look, view)) => match look.situation(&view, self.config.tries) {
                Ok(situation) => (look, view, situation),
                Err(why) => return self.warn("slots", &why),
            },
            Err(why) => return self.warn("slots", &why),
        };
        if let Some(error) = &look.record_error {
            self.warn("record", error);
        }
        self.on_trial = situation.is_trial();
        let fallback = situation.fallback.as_ref();
        self.tell(
            &Event::new("slot.state")
                .with("version", &situation.version)
                .with("slot", look.layout.running.letter)
                .with("entry", situation.entry.file())
                .with("trial", self.on_trial)
                .with(
                    "fallback",
                    fallback.map_or_else(|| "none".into(), |f| f.file()),
                ),
        );
        self.marker(&format!("ASTROMESH_BUILD={}", situation.version));
        match view.next {
            Next::Trial => {
                self.tell(
                    &Event::new("slot.trial")
                        .with("version", &situation.version)
                        .with("probation_ms", self.config.probation.as_millis())
                        .with("timeout_ms", self.config.timeout.as_millis()),
                );
                if self.first_in_this_boot() {
                    self.take(&look, steps::begin(&situation), "record");
                }
            }
            Next::FellBack { version, reason } => {
                self.tell(
                    &Event::new("slot.fallback")
                        .with("version", &version)
                        .with("reason", &reason),
                );
                self.marker(&format!("[update] version {version} is bad, not retrying"));
                let known = look.record.trial(&version);
                let known = known.and_then(|trial| parse_hash(&trial.roothash));
                let entry = view.other.entry.as_ref();
                let found = entry.and_then(|entry| look.roothash_of(entry));
                if let Some(roothash) = found.or(known) {
                    let fate = steps::Fate::Bad(reason);
                    let change = steps::Change {
                        version,
                        roothash,
                        fate,
                    };
                    self.take(&look, vec![Step::Record(change)], "record");
                }
            }
            Next::Nothing | Next::Retry(_) => {}
        }
        if !self.on_trial && situation.entry.is_good() {
            // What a power cut kept a blessing from writing down, or an update from clearing away.
            let bad = look.record.is_bad(&situation.version).is_some();
            if !bad {
                self.take(&look, steps::bless(&situation), "record");
            }
            for entry in stale(&look.facts(self.config.tries)) {
                if let Err(e) = look.esp.remove(&entry) {
                    self.warn("stale entry", &format!("{}: {e}", entry.file()));
                }
            }
        }
    }

    /// Whether no keeper before us has begun since the machine started.
    fn first_in_this_boot(&self) -> bool {
        let path = self.runtime_dir.join("begun");
        std::fs::File::create_new(path).is_ok()
    }

    /// Does what PID 1 says.
    fn obey(&mut self, command: &Event) {
        match command.name() {
            "slot.healthy" => {
                self.healthy = true;
                self.after_health();
            }
            "slot.bless" => self.bless(),
            "slot.condemn" => {
                let reason = command.field("reason").unwrap_or("no reason told");
                self.condemn(reason);
            }
            "slot.keep" => {
                let done = self.situation().map(|(look, situation)| {
                    self.take(&look, steps::keep(&situation), "keep");
                });
                if let Err(why) = done {
                    self.warn("keep", &why);
                }
            }
            _ => {}
        }
    }

    /// A version that is no trial is healthy: trials that wait, and updates, have their turn.
    fn after_health(&mut self) {
        if self.on_trial {
            return;
        }
        let (look, view) = match self.see() {
            Ok(seen) => seen,
            Err(why) => return self.warn("slots", &why),
        };
        let asked = self.cmdline.update.is_some() || self.config.check.is_some();
        let retries = matches!(view.next, Next::Retry(_));
        if (asked || retries) && !gather::remembers() {
            // Nothing would bound how often the same is tried, but for the firmware's good will.
            let why = "/var does not outlive a reboot, so nothing is tried or fetched by itself";
            return self.warn("record", why);
        }
        if let Next::Retry(entry) = &view.next {
            let version = view.other.version.as_deref().unwrap_or_default();
            let roothash = look.roothash_of(entry).unwrap_or_default();
            return self.take(&look, steps::retry(entry, version, roothash), "retry");
        }
        if asked {
            self.check_at = Some(now());
        }
    }

    fn bless(&mut self) {
        let done = self
            .situation()
            .and_then(|(look, situation)| self.perform(&look, steps::bless(&situation)));
        match done {
            Ok(()) => {
                self.on_trial = false;
                if self.healthy {
                    self.after_health();
                }
            }
            Err(why) => {
                self.warn("bless", &why);
                self.bless_at = Some(now() + AGAIN);
            }
        }
    }

    fn condemn(&mut self, reason: &str) {
        self.marker(&format!("boot-check: UNHEALTHY: {reason}"));
        let done = self.situation().and_then(|(look, situation)| {
            let steps = steps::condemn(&situation, reason)?;
            self.perform(&look, steps)
        });
        if let Err(why) = done {
            self.tell(
                &Event::new("slot.stuck")
                    .with("reason", reason)
                    .with("seen", why),
            );
        }
    }

    fn serve(&mut self, request: Request, mut client: Client) {
        let done = match request {
            Request::Slots {} => match self.see() {
                Ok((look, view)) => {
                    let floor = look.record.floor(&look.running.version, &look.found);
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
            Request::Bless {} => self.situation().and_then(|(look, situation)| {
                self.perform(&look, steps::bless(&situation))?;
                self.on_trial = false;
                Ok(())
            }),
            Request::Rollback {} => self.situation().and_then(|(look, situation)| {
                let steps = steps::roll_back(&situation, "initctl rollback")?;
                self.perform(&look, steps)
            }),
            Request::Update { source, no_reboot } => match self.start_update(source, !no_reboot) {
                Ok(()) => {
                    client.reply(&good());
                    self.server.follow(client);
                    return;
                }
                Err(why) => Err(why),
            },
        };
        match done {
            Ok(()) => client.reply(&good()),
            Err(why) => client.refuse(&why),
        }
    }

    fn start_update(&mut self, source: Option<String>, reboot: bool) -> Result<(), String> {
        if self.update.is_some() {
            return Err("an update is being installed already".into());
        }
        if self.on_trial {
            return Err(
                "the running version is on trial; it is kept by its probation or by `initctl bless`"
                    .into(),
            );
        }
        let source = source
            .or_else(|| self.cmdline.update.clone())
            .or_else(|| self.config.source.clone())
            .ok_or("no SOURCE is given, and the configuration has no update.source")?;
        let update = Update::start(&source, self.config.ca.as_deref(), reboot)
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
        while let Some(event) = update.event() {
            if event.name() == "update.installed" {
                let entry = event.field("entry").unwrap_or_default();
                self.marker(&format!("[update] installed trial UKI {entry}"));
            }
            if event.name() == "update.refused" {
                let reason = event.field("reason").unwrap_or_default();
                self.marker(&format!("[update] {reason}, not retrying"));
            }
            self.tell(&event);
        }
        match ended {
            Ended::Not => self.update = Some(update),
            Ended::Installed => {
                self.server.release();
                if update.reboots() {
                    self.reboot("a new version is to be tried");
                }
            }
            Ended::Otherwise => self.server.release(),
        }
    }

    fn reboot(&mut self, reason: &str) {
        self.tell(&Event::new("slot.reboot").with("reason", reason));
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
        relay::send(&self.channel, event.name(), &fields);
        self.server.publish(&event_line(now(), event));
    }

    /// A line of the appliance's earlier userland, for harnesses that wait for it.
    fn marker(&self, line: &str) {
        if self.cmdline.markers {
            println!("{line}");
        }
    }
}

fn good() -> Reply {
    Reply {
        ok: true,
        slots: None,
    }
}
