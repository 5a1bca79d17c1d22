//! The running machine: what PID 1 sees to besides its services.
//!
//! The loop is the [`Manager`]'s; this is its owner on a machine. Events of the roles, devices'
//! announcements and buttons are here, and the decisions about the whole machine. The only state of its
//! own is whether the boot has succeeded yet, and whether the machine is being stopped:
//!
//! * **booting** until all required services are healthy, told once as `boot.healthy`;
//! * **running**;
//! * **degraded**: a service used up its restarts and the machine its reboots (see
//!   [`super::budget`]). It stays up, with whatever still runs.
//! * **stopping** from the first request on. The services get their stop signals in reverse order;
//!   when nothing runs any more, or [`manager::STOP_MAX`] has passed, the machine ends. Further requests
//!   change nothing.

use super::budget::{self, Budget, Verdict};
use super::built_in;
use super::clock::Clock;
use super::hostname::Hostname;
use super::power::{Buttons, Pressed};
use super::relay::Channel;
use super::shutdown;
use super::trial::Policy;
use super::versions::{Decision, Versions};
use crate::config::Config;
use crate::devices::uevent::Uevents;
use crate::devices::watchdog::Watchdog;
use crate::emit::Emitter;
use crate::failure::Failure;
use crate::manager::{self, Happened, Manager, OWNERS, STOP_MAX, Verb, degraded_by};
use crate::report;
use nix::sys::signalfd::SignalFd;
use rustix::fd::AsFd;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use supervisor::Time;
use supervisor::core::Input;
use supervisor::driver::{CgroupParent, Outcome, Setup, Token, Users};
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;

/// When a machine without an address lets the services go on that come after `net`.
const NET_WAIT: Time = Time::from_secs(10);

/// Where the report of the boot is.
const REPORT: &str = "/run/init/boot.json";

/// A role has told something; the number is that of its channel.
const ROLE: u8 = OWNERS;
const UEVENT: u8 = OWNERS + 1;
const BUTTON: u8 = OWNERS + 2;
/// The slot daemon has reported something.
const SLOTS: u8 = OWNERS + 3;

/// See the module.
#[derive(Debug)]
pub struct Machine {
    manager: Manager,
    uevents: Uevents,
    /// The roles' events, in the order of [`built_in::TELLERS`].
    channels: Vec<Channel>,
    buttons: Buttons,
    budget: Budget,
    clock: Clock,
    hostname: Hostname,
    versions: Versions,
    watchdog: Watchdog,
    /// The timeout for one whose driver comes late.
    watchdog_timeout: Time,
    healthy: bool,
    /// When the machine will have been healthy for long enough.
    sustained: Option<Time>,
    /// When services that wait for the network are let go, until it is there.
    net_due: Option<Time>,
    stopping: Option<(Verb, Time)>,
}

impl Machine {
    /// Makes everything that the loop needs. Starts nothing.
    ///
    /// # Errors
    /// Names what could not be made.
    pub fn new(
        config: &Config,
        users: Users,
        signals: SignalFd,
        budget: Budget,
        clock: Clock,
        emitter: &mut Emitter,
    ) -> Result<Self, Failure> {
        let fail = |what: &'static str| move |e: io::Error| Failure::new("services", what, e);
        let specs = built_in::all(config)
            .map_err(|e| Failure::new("services", "the built-in services", e))?;
        let cgroups = CgroupParent::new(Path::new("/sys/fs/cgroup")).map_err(fail("cgroup v2"))?;
        let setup = Setup {
            cgroups,
            runtime_dir: PathBuf::from("/run/init"),
            memory: manager::memory(),
            users,
            seed: manager::seed(),
        };
        let mut manager = Manager::new(specs, &setup, signals, None, emitter)
            .map_err(fail("cgroups, sockets and users"))?;
        let channels = built_in::TELLERS
            .into_iter()
            .map(|teller| built_in::connect(manager.driver_mut(), teller))
            .collect::<io::Result<Vec<Channel>>>()
            .map_err(fail("a socket"))?;
        let policy = Policy {
            probation: config.update.probation,
            timeout: config.update.timeout,
        };
        let versions = Versions::new(manager.driver_mut(), policy).map_err(fail("a socket"))?;
        let uevents = Uevents::open().map_err(fail("a netlink socket"))?;
        (0..)
            .zip(&channels)
            .try_for_each(|(number, channel)| manager.watch(channel.fd.as_fd(), ROLE, number))
            .and_then(|()| manager.watch(uevents.fd(), UEVENT, 0))
            .and_then(|()| manager.watch(versions.fd(), SLOTS, 0))
            .map_err(fail("epoll"))?;
        Ok(Self {
            manager,
            uevents,
            channels,
            buttons: Buttons::default(),
            budget,
            clock,
            hostname: Hostname::new(config.system.hostname.is_some()),
            versions,
            watchdog: Watchdog::default(),
            watchdog_timeout: crate::cmdline::WATCHDOG,
            healthy: false,
            sustained: None,
            net_due: None,
            stopping: None,
        })
    }

    /// With the watchdog as the start of this stage leaves it.
    #[must_use]
    pub fn with_watchdog(mut self, watchdog: Watchdog, timeout: Time) -> Self {
        self.watchdog = watchdog;
        self.watchdog_timeout = timeout;
        self
    }

    /// Runs the machine to its end.
    pub fn run(mut self, mut emitter: Emitter) -> ! {
        match self.turn_for_ever(&mut emitter) {
            // No kind of error is left that a restart of the machine would not be the answer to.
            Err(e) => {
                let event = Event::new("init.crash").with("what", "epoll");
                emitter.emit(event.with("error", e));
                shutdown::finish(&mut emitter, Verb::Reboot, &mut self.watchdog)
            }
        }
    }

    fn turn_for_ever(&mut self, emitter: &mut Emitter) -> io::Result<Infallible> {
        self.net_due = Some(now() + NET_WAIT);
        self.manager.feed(Input::Milestone("var"), emitter);
        self.manager.start(emitter);
        self.look_for_buttons();
        // A driver may have come before the announcements began.
        self.watchdog.arm_first(self.watchdog_timeout, emitter);
        loop {
            self.settle(emitter);
            let stop_ends = self.stopping.map(|(_, end)| end);
            let dues = [
                self.net_due,
                self.sustained,
                stop_ends,
                self.versions.deadline(),
            ];
            let due = dues.into_iter().flatten().min();
            let owed = [due, self.manager.driver().deadline()];
            self.watchdog.turn(now(), owed.into_iter().flatten().min());
            let deadline = [due, self.watchdog.due()].into_iter().flatten().min();
            for happened in self.manager.turn(deadline, emitter)? {
                match happened {
                    Happened::Ready(token) => self.handle(token, emitter),
                    Happened::Asked(verb, who) => self.stop(verb, &who, emitter),
                    Happened::Outcome(outcome) => self.decide(outcome, emitter),
                }
            }
        }
    }

    fn handle(&mut self, token: Token, emitter: &mut Emitter) {
        match token.kind {
            ROLE => {
                while let Some(event) = self.told_by(token.number) {
                    emitter.emit(event.clone());
                    self.heed(&event, emitter);
                }
            }
            UEVENT => {
                while let Some(uevent) = self.uevents.next() {
                    if uevent.subsystem == "input"
                        && uevent.action == "add"
                        && uevent.devname.starts_with("input/event")
                    {
                        self.open_button(&uevent.devname);
                    }
                    if uevent.subsystem == "watchdog" && uevent.action == "add" {
                        let timeout = self.watchdog_timeout;
                        self.watchdog.arm(&uevent.devname, timeout, emitter);
                    }
                }
            }
            SLOTS => {
                let decisions = self.versions.hear(|event| emitter.emit(event));
                for decision in decisions {
                    self.follow(decision, emitter);
                }
            }
            BUTTON => match self.buttons.pressed(token.number) {
                Pressed::Yes => self.stop(Verb::Poweroff, "power button", emitter),
                Pressed::No => {}
                Pressed::Gone => {
                    if let Some(fd) = self.buttons.fd(token.number) {
                        self.manager.forget(fd);
                    }
                }
            },
            _ => {}
        }
    }

    /// The next event of a role.
    fn told_by(&self, number: u32) -> Option<Event> {
        let place = usize::try_from(number).ok()?;
        self.channels.get(place)?.receive()
    }

    /// Does what follows from an event of a role. Its name says whose it is, see
    /// [`built_in::TELLERS`].
    fn heed(&mut self, event: &Event, emitter: &mut Emitter) {
        match event.name() {
            "net.address" => {
                // Before services go on that may want to know it.
                self.hostname.take(event, emitter);
                if self.net_due.take().is_some() {
                    self.manager.feed(Input::Milestone("net"), emitter);
                }
            }
            "net.time" => self.clock.take(event, now(), emitter),
            _ => {}
        }
    }

    /// Does what follows from where the services are now, and from the time.
    fn settle(&mut self, emitter: &mut Emitter) {
        let well = self.manager.driver().core().required_healthy();
        if !self.healthy && well {
            self.boot_succeeded(emitter);
        }
        if self.stopping.is_none() {
            let decision = self.versions.look(now(), self.manager.driver().core());
            if let Some(decision) = decision {
                self.follow(decision, emitter);
            }
        }
        if self.sustained.is_some_and(|due| due <= now()) {
            // Not healthy now: it has to prove itself for the whole time again.
            self.sustained = (!well).then(|| now() + budget::SUSTAINED);
            if well && let Err(e) = self.budget.forget() {
                let event = Event::new("boot.warning").with("what", "reboot budget");
                emitter.emit(event.with("seen", e));
            }
        }
        if self.net_due.is_some_and(|due| due <= now()) {
            self.net_due = None;
            let waited = NET_WAIT.as_millis();
            emitter.emit(
                Event::new("boot.warning")
                    .with("what", "net")
                    .with("seen", "no address yet")
                    .with("waited_ms", waited)
                    .with("then", "going on without"),
            );
            self.manager.feed(Input::Milestone("net"), emitter);
        }
        if let Some((verb, end)) = self.stopping
            && end <= now()
        {
            emitter.emit(
                Event::new("shutdown.warning")
                    .with("seen", "services left running")
                    .with("waited_ms", STOP_MAX.as_millis()),
            );
            shutdown::finish(emitter, verb, &mut self.watchdog);
        }
    }

    fn boot_succeeded(&mut self, emitter: &mut Emitter) {
        self.healthy = true;
        self.sustained = Some(now() + budget::SUSTAINED);
        emitter.emit(Event::new("boot.healthy"));
        let boot = report::make(emitter);
        if let Err(e) = report::write(&boot, Path::new(REPORT)) {
            let event = Event::new("boot.warning").with("what", "report");
            emitter.emit(event.with("seen", e));
        }
        self.manager.set_boot(boot);
        self.versions.healthy();
    }

    /// Does what follows from a trial, or from what is asked of the slots.
    fn follow(&mut self, decision: Decision, emitter: &mut Emitter) {
        match decision {
            Decision::Reboot(reason) => self.stop(Verb::Reboot, &reason, emitter),
            Decision::TryReboot { reason, services } => {
                self.reboot_for(None, &reason, emitter);
                // A reboot that was refused: the law's `retry-after` is what is left to them.
                if self.stopping.is_none() {
                    for service in &services {
                        self.refuse_reboot(service, emitter);
                    }
                }
            }
        }
    }

    fn decide(&mut self, outcome: Outcome, emitter: &mut Emitter) {
        match (outcome, self.stopping) {
            (Outcome::Reboot { service, why }, None) => {
                let reason = format!("service {service} {why}");
                if !self.versions.escalated(now(), &service, &reason) {
                    self.reboot_for(Some(&service), &reason, emitter);
                }
            }
            (Outcome::Degraded { service, why }, None) => {
                self.manager.set_degraded();
                emitter.emit(degraded_by(&service, &why));
            }
            (Outcome::Reboot { .. } | Outcome::Degraded { .. }, Some(_)) => {}
            (Outcome::AllStopped, Some((verb, _))) => {
                shutdown::finish(emitter, verb, &mut self.watchdog)
            }
            (Outcome::AllStopped, None) => {}
        }
    }

    /// A service, or a failed trial, asks for a reboot, which the budget grants or not.
    fn reboot_for(&mut self, service: Option<&str>, why: &str, emitter: &mut Emitter) {
        match self.budget.spend() {
            Verdict::Granted(count) => {
                self.stop(Verb::Reboot, &format!("{why}, reboot {count}"), emitter);
            }
            Verdict::Refused(seen) => {
                self.manager.set_degraded();
                emitter.emit(match service {
                    Some(service) => degraded_by(service, &seen),
                    None => Event::new("boot.degraded")
                        .with("reason", "trial")
                        .with("what", why)
                        .with("seen", seen)
                        .with("then", "staying up as it is"),
                });
                if let Some(service) = service {
                    self.refuse_reboot(service, emitter);
                }
            }
        }
    }

    /// Tells a service's law that the reboot it asked for does not come.
    fn refuse_reboot(&mut self, service: &str, emitter: &mut Emitter) {
        if let Some(id) = self.manager.driver().core().find(service) {
            self.manager.feed(Input::RebootRefused(id), emitter);
        }
    }

    fn stop(&mut self, verb: Verb, reason: &str, emitter: &mut Emitter) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some((verb, now() + STOP_MAX));
        self.versions.stopping();
        emitter.emit(
            Event::new("shutdown.start")
                .with("verb", verb.name())
                .with("reason", reason),
        );
        self.manager.stop(emitter);
    }

    /// Opens the input devices that were there before the announcements began.
    fn look_for_buttons(&mut self) {
        for entry in std::fs::read_dir("/dev/input")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("event") {
                self.open_button(&format!("input/{name}"));
            }
        }
    }

    fn open_button(&mut self, devname: &str) {
        if let Some((number, fd)) = self.buttons.open(devname) {
            let _ = self.manager.watch(fd, BUTTON, number);
        }
    }
}
