//! The running machine: what PID 1 sees to besides its services.
//!
//! The loop is the [`Manager`]'s; this is its owner on a machine. Events of the roles, devices'
//! announcements and buttons come in here. What follows for the machine as a whole [`super::life`] decides,
//! and what follows for the version that runs, [`super::versions`]; this module carries it out.

use super::budget::{Count, Starts};
use super::built_in;
use super::clock::Clock;
use super::hostname::Hostname;
use super::life::{self, Life};
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
use crate::manager::{self, Happened, Manager, OWNERS, Verb};
use crate::report;
use nix::sys::signalfd::SignalFd;
use rustix::fd::AsFd;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use supervisor::Time;
use supervisor::config::Escalation;
use supervisor::core::{Input, ObservedTime, State, observed};
use supervisor::driver::{CgroupParent, Helper, Outcome, Setup, Token, Users};
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;
use supervisor::spec::Spec;

/// Where the report of the boot is.
const REPORT: &str = "/run/init/boot.json";

/// Announcements that are taken in one turn; devices can come and go as fast as they are read.
const UEVENTS_MAX: usize = 64;

/// A role has told something; the number is that of its channel.
const ROLE: u8 = OWNERS;
const UEVENT: u8 = OWNERS + 1;
const BUTTON: u8 = OWNERS + 2;
/// The slot daemon has reported something.
const SLOTS: u8 = OWNERS + 3;
const HELPER: u8 = OWNERS + 4;

/// Among the helpers, the one that keeps the time; the other one, 0, writes the count of starts.
const CLOCK_HELPER: u32 = 1;

/// See the module.
#[derive(Debug)]
pub struct Machine {
    manager: Manager,
    uevents: Uevents,
    /// The roles' events, in the order of [`built_in::TELLERS`].
    channels: Vec<Channel>,
    buttons: Buttons,
    life: Life,
    /// Without the time in which the machine stood still.
    time: ObservedTime,
    /// What the core had given back when the loop last looked.
    given_back: Time,
    /// The child that writes the count of starts.
    helper: Option<Helper>,
    /// The one before it, which did not answer in time.
    late_helper: Option<Helper>,
    /// The child that keeps the time for the next boot.
    clock_helper: Option<Helper>,
    clock: Clock,
    hostname: Hostname,
    versions: Versions,
    watchdog: Watchdog,
    /// The timeout for one whose driver comes late.
    watchdog_timeout: Time,
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
        count: Count,
        clock: Clock,
        emitter: &mut Emitter,
    ) -> Result<Self, Failure> {
        let fail = |what: &'static str| move |e: io::Error| Failure::new("services", what, e);
        let specs = built_in::all(config)
            .map_err(|e| Failure::new("services", "the built-in services", e))?;
        let cgroups = CgroupParent::new(Path::new("/sys/fs/cgroup")).map_err(fail("cgroup v2"))?;
        let looks_back = specs.iter().filter(|spec| may_reboot(spec));
        let looks_back = looks_back.map(|spec| spec.intensity.within).max();
        let setup = Setup {
            cgroups,
            runtime_dir: PathBuf::from("/run/init"),
            memory: manager::memory(),
            users,
            seed: manager::seed(),
        };
        let mut manager = Manager::new(specs, &setup, signals, None, emitter)
            .map_err(fail("cgroups, sockets and users"))?;
        let channels = (0..)
            .zip(built_in::TELLERS)
            .map(|(number, teller)| {
                let end = manager.connect(teller.service, ROLE, number);
                end.map(|end| Channel { teller, end })
            })
            .collect::<io::Result<Vec<Channel>>>()
            .map_err(fail("a socket"))?;
        let policy = Policy {
            probation: config.update.probation,
            timeout: config.update.timeout,
        };
        let reports = manager.connect(built_in::KEEPER, SLOTS, 0);
        let versions = Versions::new(reports.map_err(fail("a socket"))?, policy);
        let uevents = Uevents::open().map_err(fail("a netlink socket"))?;
        manager
            .watch(uevents.fd(), UEVENT, 0)
            .map_err(fail("epoll"))?;
        Ok(Self {
            manager,
            uevents,
            channels,
            buttons: Buttons::default(),
            life: Life::new(now(), count, looks_back.unwrap_or_default()),
            time: ObservedTime::default(),
            given_back: Time::ZERO,
            helper: None,
            late_helper: None,
            clock_helper: None,
            clock,
            hostname: Hostname::new(config.system.hostname.is_some()),
            versions,
            watchdog: Watchdog::default(),
            watchdog_timeout: crate::cmdline::WATCHDOG,
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
        self.manager.feed(Input::Milestone("var"), emitter);
        self.manager.start(emitter);
        self.look_for_buttons();
        // A driver may have come before the announcements began.
        self.watchdog.arm_first(self.watchdog_timeout, emitter);
        loop {
            self.look_at_the_time(emitter);
            self.settle(emitter);
            let deadline = self.deadline();
            let core = self.manager.driver().deadline();
            let owed = [deadline, core].into_iter().flatten().min();
            // While something is observed for minutes, a stop of the machine must not go unnoticed.
            let look = deadline.map(|_| self.time.next_look());
            self.time
                .wait_until([owed, look].into_iter().flatten().min());
            self.watchdog.turn(now(), owed);
            let channels = self.channels.iter_mut().map(|channel| &mut channel.end);
            let ends = channels.chain([self.versions.channel()]);
            let warnings = ends.filter_map(|end| {
                end.listen_if_room();
                end.deadline()
            });
            let dues = [deadline, look, self.watchdog.due(), warnings.min()];
            let until = dues.into_iter().flatten().min();
            let all_happened = self.manager.turn(until, emitter)?;
            self.look_at_the_time(emitter);
            for happened in all_happened {
                match happened {
                    Happened::Ready(token) => self.handle(token, emitter),
                    Happened::Asked(verb, who) => {
                        self.live(life::Input::Asked(verb, who), emitter);
                    }
                    Happened::Outcome(outcome) => self.decide(outcome, emitter),
                }
            }
        }
    }

    /// When something of the machine's own is due, by the clock.
    fn deadline(&self) -> Option<Time> {
        let dues = [self.life.deadline(), self.versions.deadline()];
        let due = dues.into_iter().flatten().min()?;
        Some(self.time.by_clock(due))
    }

    /// Notices whether the machine stood still, and tells it unless the core did.
    fn look_at_the_time(&mut self, emitter: &mut Emitter) {
        let given_back = self.manager.driver().core().unobserved();
        let told = given_back != self.given_back;
        self.given_back = given_back;
        if let Some(gap) = self.time.look(now())
            && !told
        {
            emitter.emit(observed::gap_event(gap));
        }
    }

    fn handle(&mut self, token: Token, emitter: &mut Emitter) {
        match token.kind {
            ROLE => self.take_role_events(token.number, emitter),
            UEVENT => {
                for _ in 0..UEVENTS_MAX {
                    let Some(uevent) = self.uevents.next() else {
                        break;
                    };
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
                let (decisions, condemned) = self.versions.hear(now());
                for decision in decisions {
                    self.follow(decision, emitter);
                }
                if let Some(how) = condemned {
                    self.manager.kill_role(built_in::KEEPER, how, emitter);
                }
            }
            BUTTON => match self.buttons.pressed(token.number) {
                Pressed::Yes => {
                    let why = "power button".to_owned();
                    self.live(life::Input::Asked(Verb::Poweroff, why), emitter);
                }
                Pressed::No => {}
                Pressed::Gone => {
                    if let Some(fd) = self.buttons.take(token.number) {
                        self.manager.forget(fd.as_fd());
                    }
                }
            },
            HELPER if token.number == CLOCK_HELPER => {
                let answer = self.clock_helper.as_mut().and_then(Helper::read);
                if let Some(answer) = answer {
                    self.drop_clock_helper();
                    if let Err(seen) = answer {
                        emitter.emit(not_kept(seen));
                    }
                }
            }
            HELPER => {
                let answer = self.helper.as_mut().and_then(Helper::read);
                if let Some(answer) = answer {
                    self.drop_helper();
                    self.live(life::Input::CountWritten(answer), emitter);
                }
            }
            _ => {}
        }
    }

    /// Takes what a role told, and has the role killed if it breaks the rules.
    fn take_role_events(&mut self, number: u32, emitter: &mut Emitter) {
        let place = usize::try_from(number).ok();
        let Some(channel) = place.and_then(|place| self.channels.get_mut(place)) else {
            return;
        };
        let service = channel.teller.service;
        let taken = channel.receive(now());
        for message in taken.messages {
            emitter.emit(message.content.clone());
            self.heed(&message.content, emitter);
        }
        if let Some(how) = taken.condemned {
            self.manager.kill_role(service, how, emitter);
        }
    }

    /// Does what follows from an event of a role. Its name says whose it is, see
    /// [`built_in::TELLERS`].
    fn heed(&mut self, event: &Event, emitter: &mut Emitter) {
        match event.name() {
            "net.address" => {
                // Before services go on that may want to know it.
                self.hostname.take(event, emitter);
                self.live(life::Input::Address, emitter);
            }
            "net.time" => {
                self.clock.take(event, now(), emitter);
                self.keep_time(emitter);
            }
            _ => {}
        }
    }

    /// Does what follows from where the services are now, and from the time.
    fn settle(&mut self, emitter: &mut Emitter) {
        let channels = self.channels.iter_mut().map(|channel| &mut channel.end);
        channels
            .chain([self.versions.channel()])
            .filter_map(|end| end.warning(now()))
            .for_each(|warning| emitter.emit(warning));
        let core = self.manager.driver().core();
        let all = core.machines();
        let machines = all.iter().filter(|m| may_reboot(m.spec()));
        let mut waiting = self.life.asked_by().iter().filter_map(|id| all.get(id.0));
        let look = life::Input::Look {
            well: core.required_healthy(),
            restarts: machines.map(|machine| machine.restarts()).sum(),
            down: waiting.any(|m| m.is_wanted() && m.state() != State::Healthy),
        };
        self.live(look, emitter);
        if !self.life.is_stopping() {
            let core = self.manager.driver().core();
            let decision = self.versions.look(self.time.now(), core);
            if let Some(decision) = decision {
                self.follow(decision, emitter);
            }
        }
    }

    /// Has the machine's life go on, and does what follows.
    fn live(&mut self, input: life::Input, emitter: &mut Emitter) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for action in self.life.step(self.time.now(), input) {
                inputs.extend(self.act(action, emitter));
            }
        }
    }

    /// Does one thing; gives what is known of it already.
    fn act(&mut self, action: life::Action, emitter: &mut Emitter) -> Option<life::Input> {
        match action {
            life::Action::Emit(event) => emitter.emit(event),
            life::Action::BootSucceeded => self.boot_succeeded(emitter),
            life::Action::ReachNet => self.manager.feed(Input::Milestone("net"), emitter),
            life::Action::WriteCount(starts) => {
                if let Err(e) = self.write_count(starts) {
                    let result = Err(format!("a child to write it: {e}"));
                    return Some(life::Input::CountWritten(result));
                }
            }
            life::Action::GiveUpWriting => self.late_helper = self.drop_helper(),
            life::Action::SetDegraded => self.manager.set_degraded(),
            life::Action::RefuseReboot(id) => {
                self.manager.feed(Input::RebootRefused(id), emitter);
            }
            life::Action::StopAll => {
                self.versions.stopping();
                self.manager.stop(emitter);
            }
            life::Action::Finish(verb) => {
                self.manager.publish(emitter);
                shutdown::finish(emitter, verb, &mut self.watchdog)
            }
        }
        None
    }

    fn write_count(&mut self, starts: Starts) -> io::Result<()> {
        // While it sleeps in the kernel it may hold the lock of the file, and each other one would stay as well.
        self.late_helper.take_if(|late| late.has_ended());
        if self.late_helper.is_some() {
            return Err(io::Error::other("the one before it hangs"));
        }
        let source = self.manager.driver().source();
        let (in_a_row, recent) = (starts.in_a_row.to_string(), starts.recent.to_string());
        let arguments = [crate::roles::WRITE_COUNT, &in_a_row, &recent];
        let helper = Helper::start(&source, &arguments)?;
        self.manager.watch(helper.fd(), HELPER, 0)?;
        self.helper = Some(helper);
        Ok(())
    }

    /// Has a child keep the time for the next boot, if it is time for that. One that has not answered since the last
    /// time hangs, and is given up.
    fn keep_time(&mut self, emitter: &mut Emitter) {
        let Some(time) = self.clock.to_keep(now()) else {
            return;
        };
        self.drop_clock_helper();
        let seconds = time.as_secs().to_string();
        let source = self.manager.driver().source();
        let arguments = [crate::roles::WRITE_CLOCK, &seconds];
        let started = Helper::start(&source, &arguments).and_then(|helper| {
            self.manager.watch(helper.fd(), HELPER, CLOCK_HELPER)?;
            self.clock_helper = Some(helper);
            Ok(())
        });
        if let Err(e) = started {
            emitter.emit(not_kept(format!("a child to write it: {e}")));
        }
    }

    fn drop_clock_helper(&mut self) {
        if let Some(helper) = self.clock_helper.take() {
            self.manager.forget(helper.fd());
            helper.kill();
        }
    }

    /// Takes the helper out of the loop first: a child that is just being started may have a copy of the
    /// descriptor.
    fn drop_helper(&mut self) -> Option<Helper> {
        let helper = self.helper.take()?;
        self.manager.forget(helper.fd());
        helper.kill();
        Some(helper)
    }

    fn boot_succeeded(&mut self, emitter: &mut Emitter) {
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
        let input = match decision {
            Decision::Reboot(reason) => life::Input::Asked(Verb::Reboot, reason),
            Decision::TryReboot { reason, services } => {
                let core = self.manager.driver().core();
                let services = services.iter().filter_map(|name| core.find(name));
                life::Input::TrialFailed(services.collect(), reason)
            }
        };
        self.live(input, emitter);
    }

    fn decide(&mut self, outcome: Outcome, emitter: &mut Emitter) {
        let input = match outcome {
            Outcome::Reboot { service, why } => {
                let Some(id) = self.manager.driver().core().find(&service) else {
                    return;
                };
                let reason = format!("service {service} {why}");
                // The end of a trial, which decides about the reboot later.
                if self.versions.escalated(self.time.now(), &service, &reason) {
                    return;
                }
                life::Input::Escalated(id, service, reason)
            }
            Outcome::Degraded { service, why } => life::Input::Lost(service, why),
            Outcome::AllStopped => life::Input::AllStopped,
        };
        self.live(input, emitter);
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

/// The time could not be kept for the next boot.
fn not_kept(seen: String) -> Event {
    Event::new("clock.warning")
        .with("seen", seen)
        .with("then", "the next boot may begin at an earlier time")
}

/// Whether the law of a service may ask for a reboot of the machine.
fn may_reboot(spec: &Spec) -> bool {
    spec.required || spec.intensity.then != Escalation::Degraded
}
