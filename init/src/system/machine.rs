//! The running machine: PID 1's one loop.
//!
//! One thread, one epoll. Woken by a signal, a service's descriptor, an event of netcfg, a device's
//! announcement, a button, or a deadline, it lets each be handled to its end and waits again.
//! Nothing in it blocks. The only state of its own is whether the boot has succeeded yet, and
//! whether the machine is being stopped:
//!
//! * **booting** until all required services are healthy, told once as `boot.healthy`;
//! * **running**;
//! * **degraded**: a service used up its restarts and the machine its reboots (see
//!   [`super::budget`]). It stays up, with whatever still runs.
//! * **stopping** from the first request on. The services get their stop signals in reverse order;
//!   when nothing runs any more, or [`STOP_MAX`] has passed, the machine ends. Further requests
//!   change nothing.

use super::budget::{self, Budget, Verdict};
use super::built_in::{self, Channels};
use super::power::{Buttons, Pressed, Verb};
use super::{relay, report, shutdown};
use crate::config::Config;
use crate::devices::uevent::Uevents;
use crate::emit::Emitter;
use crate::failure::Failure;
use nix::sys::signalfd::SignalFd;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use std::convert::Infallible;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use supervisor::Time;
use supervisor::core::Input;
use supervisor::driver::{CgroupParent, Driver, Outcome, Setup, Token, Users, reap};
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;

/// The longest that stopping all services may take. Above the sum of the stop timeouts of a sane
/// configuration; a service that waits longer is killed with the rest.
const STOP_MAX: Time = Time::from_secs(90);

/// When a machine without an address lets the services go on that come after `net`.
const NET_WAIT: Time = Time::from_secs(10);

const SIGNAL: u8 = Token::FOREIGN;
const NETCFG: u8 = Token::FOREIGN + 1;
const UEVENT: u8 = Token::FOREIGN + 2;
const BUTTON: u8 = Token::FOREIGN + 3;

/// See the module.
#[derive(Debug)]
pub struct Machine {
    epoll: OwnedFd,
    driver: Driver,
    signals: SignalFd,
    uevents: Uevents,
    channels: Channels,
    buttons: Buttons,
    budget: Budget,
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
        emitter: &mut Emitter,
    ) -> Result<Self, Failure> {
        let fail = |what: &'static str| move |e: std::io::Error| Failure::new("services", what, e);
        let specs = built_in::all(config)
            .map_err(|e| Failure::new("services", "the built-in services", e))?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| fail("epoll")(e.into()))?;
        let setup = Setup {
            cgroups: CgroupParent::new(std::path::Path::new("/sys/fs/cgroup"))
                .map_err(fail("cgroup v2"))?,
            runtime_dir: PathBuf::from("/run/init"),
            memory: memory(),
            users,
            seed: seed(),
        };
        let mut driver = Driver::new(specs, &setup, epoll.as_fd(), emitter)
            .map_err(fail("cgroups, sockets and users"))?;
        let channels = built_in::connect(&mut driver).map_err(fail("pipes"))?;
        let machine = Self {
            uevents: Uevents::open().map_err(fail("a netlink socket"))?,
            epoll,
            driver,
            signals,
            channels,
            buttons: Buttons::default(),
            budget,
            healthy: false,
            sustained: None,
            net_due: None,
            stopping: None,
        };
        machine.watch().map_err(|e| fail("epoll")(e.into()))?;
        Ok(machine)
    }

    fn watch(&self) -> rustix::io::Result<()> {
        let add = |fd, kind| {
            epoll::add(
                &self.epoll,
                fd,
                Token { kind, number: 0 }.data(),
                EventFlags::IN,
            )
        };
        add(self.signals.as_fd(), SIGNAL)?;
        add(self.channels.netcfg.as_fd(), NETCFG)?;
        add(self.uevents.fd(), UEVENT)
    }

    /// Runs the machine to its end.
    pub fn run(mut self, mut emitter: Emitter) -> ! {
        match self.turn_for_ever(&mut emitter) {
            // No kind of error is left that a restart of the machine would not be the answer to.
            Err(e) => {
                emitter.emit(
                    Event::new("init.crash")
                        .with("what", "epoll")
                        .with("error", std::io::Error::from(e)),
                );
                shutdown::finish(&mut emitter, Verb::Reboot)
            }
        }
    }

    fn turn_for_ever(&mut self, emitter: &mut Emitter) -> Result<Infallible, rustix::io::Errno> {
        if let Ok(pipe) = supervisor::logger::copy(self.channels.console.as_fd()) {
            emitter.use_pipe(pipe);
        }
        self.net_due = Some(now() + NET_WAIT);
        self.feed(Input::Milestone("var"), emitter);
        self.feed(Input::Start, emitter);
        self.look_for_buttons();
        loop {
            self.settle(emitter);
            let deadline = [
                self.driver.deadline(),
                self.net_due,
                self.sustained,
                self.stopping.map(|(_, end)| end),
            ]
            .into_iter()
            .flatten()
            .min();
            let mut events = [MaybeUninit::uninit(); 32];
            let ready = match epoll::wait(&self.epoll, &mut events, limit(deadline).as_ref()) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e),
            };
            for event in ready {
                self.handle(Token::from_data(event.data), emitter);
            }
            if deadline.is_some_and(|d| d <= now()) {
                self.driver.timer(now(), self.epoll.as_fd(), emitter);
            }
        }
    }

    fn handle(&mut self, token: Token, emitter: &mut Emitter) {
        match token.kind {
            SIGNAL => self.take_signals(emitter),
            NETCFG => {
                while let Some(event) = relay::receive(&self.channels.netcfg) {
                    let reached = event.name() == "net.address" && self.net_due.take().is_some();
                    emitter.emit(event);
                    if reached {
                        self.feed(Input::Milestone("net"), emitter);
                    }
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
                }
            }
            BUTTON => match self.buttons.pressed(token.number) {
                Pressed::Yes => self.stop(Verb::Poweroff, "power button", emitter),
                Pressed::No => {}
                Pressed::Gone => {
                    if let Some(fd) = self.buttons.fd(token.number) {
                        let _ = epoll::delete(&self.epoll, fd);
                    }
                }
            },
            _ => self.driver.ready(token, now(), self.epoll.as_fd(), emitter),
        }
    }

    fn take_signals(&mut self, emitter: &mut Emitter) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if let Some(verb) = Verb::of_signal(signal.ssi_signo) {
                self.stop(
                    verb,
                    &format!("signal {} from pid {}", signal.ssi_signo, signal.ssi_pid),
                    emitter,
                );
            }
        }
        // Several ends may have come as one signal, and one signal may be older than its reason.
        while let Some((pid, status)) = reap() {
            self.driver
                .reaped(pid, status, now(), self.epoll.as_fd(), emitter);
        }
    }

    /// Does what follows from where the services are now.
    fn settle(&mut self, emitter: &mut Emitter) {
        if !self.healthy && self.driver.core().required_healthy() {
            self.healthy = true;
            self.sustained = Some(now() + budget::SUSTAINED);
            emitter.emit(Event::new("boot.healthy"));
            let initramfs = std::fs::read_to_string(crate::initramfs::RECORD).unwrap_or_default();
            if let Err(e) = report::write(emitter.record(), &initramfs) {
                emitter.emit(
                    Event::new("boot.warning")
                        .with("what", "report")
                        .with("seen", e),
                );
            }
        }
        if self.sustained.is_some_and(|due| due <= now()) {
            // Not healthy now: it has to prove itself for the whole time again.
            let well = self.driver.core().required_healthy();
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
            self.feed(Input::Milestone("net"), emitter);
        }
        while let Some(outcome) = self.driver.outcome() {
            match (outcome, self.stopping) {
                (Outcome::Reboot { service }, None) => self.reboot_for(&service, emitter),
                (Outcome::Reboot { .. }, Some(_)) => {}
                (Outcome::AllStopped, Some((verb, _))) => shutdown::finish(emitter, verb),
                (Outcome::AllStopped, None) => {}
            }
        }
        if let Some((verb, end)) = self.stopping
            && end <= now()
        {
            emitter.emit(
                Event::new("shutdown.warning")
                    .with("seen", "services left running")
                    .with("waited_ms", STOP_MAX.as_millis()),
            );
            shutdown::finish(emitter, verb);
        }
    }

    /// A service asks for a reboot, which the budget grants or not.
    fn reboot_for(&mut self, service: &str, emitter: &mut Emitter) {
        match self.budget.spend() {
            Verdict::Granted(count) => {
                let reason = format!("service {service} used up its restarts, reboot {count}");
                self.stop(Verb::Reboot, &reason, emitter);
            }
            Verdict::Refused(why) => emitter.emit(
                Event::new("boot.degraded")
                    .with("reason", "service")
                    .with("service", service)
                    .with("seen", why)
                    .with("then", "staying up without it"),
            ),
        }
    }

    fn stop(&mut self, verb: Verb, reason: &str, emitter: &mut Emitter) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some((verb, now() + STOP_MAX));
        emitter.emit(
            Event::new("shutdown.start")
                .with("verb", verb.name())
                .with("reason", reason),
        );
        self.feed(Input::StopAll, emitter);
    }

    fn feed(&mut self, input: Input, emitter: &mut Emitter) {
        self.driver.feed(now(), input, self.epoll.as_fd(), emitter);
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
            let _ = epoll::add(
                &self.epoll,
                fd,
                Token {
                    kind: BUTTON,
                    number,
                }
                .data(),
                EventFlags::IN,
            );
        }
    }
}

/// How long to wait, rounded up to a millisecond so as not to wake just before the time.
fn limit(deadline: Option<Time>) -> Option<Timespec> {
    let wait = deadline?.saturating_sub(now());
    let millis = i64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i64::MAX);
    Some(Timespec {
        tv_sec: millis / 1000,
        tv_nsec: millis % 1000 * 1_000_000,
    })
}

/// The machine's memory in bytes, 0 if the kernel does not say (then shares mean no limit).
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// Different on every machine and boot; only jitter hangs on it.
fn seed() -> u64 {
    let mut bytes = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u64::from_ne_bytes(bytes) ^ u64::try_from(now().as_nanos() & u128::from(u64::MAX)).unwrap_or(0)
}
