//! PID 1's one loop, as far as it is the same on a machine and in a container.
//!
//! One thread, one epoll. Woken by a signal, a service's descriptor, a client of the control socket, the
//! logger, or a deadline, it lets each be handled to its end and waits again. Nothing in it blocks. What
//! belongs to a machine alone (network, devices, buttons, the reboot budget) is put into the same
//! loop by its owner, who calls [`Manager::turn`] over and over and sees to what that returns.
//!
//! Everybody gets a turn: children are reaped in portions, connections accepted and read in
//! portions, so ten thousand orphans at once do not keep a client of the control socket waiting.

mod answer;
pub mod conduct;
pub mod logging;
pub mod role_channel;
mod verb;

use crate::control::protocol::{BootReport, EventLine};
use crate::control::server::{Asked, Server};
use crate::emit::Emitter;
use logging::Channel;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use role_channel::RoleChannel;
use rustix::event::Timespec;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use supervisor::Time;
use supervisor::core::{Input, State};
use supervisor::driver::{Driver, Outcome, Setup, Token, raise_descriptor_limit, reap};
use supervisor::event::{Event, EventSink};
use supervisor::logger::now;
use supervisor::poller::{Poller, Watched};
use supervisor::spec::Spec;
pub use verb::Verb;

const SIGNAL: u8 = Token::FOREIGN;
const CONTROL: u8 = Token::FOREIGN + 1;
const LOGGER: u8 = Token::FOREIGN + 2;

/// The first kind of token that is the owner's.
pub const OWNERS: u8 = Token::FOREIGN + 8;

/// How long children are reaped in one turn.
const REAP_SLICE: Time = Time::from_millis(4);

/// If finding those that ended took longer than this, thousands that live were looked through, at each
/// wait(2), under a lock that they need to end (kernel: `tasklist_lock`): reaping slows down what it waits
/// for ...
const SEARCH_LONG: Time = Time::from_micros(200);

/// ... so they are left alone for so many times as long, signals included, ...
const PAUSE_FACTOR: u32 = 10;

/// ... but not for longer than this.
const PAUSE_MAX: Time = Time::from_millis(20);

/// Descriptors handled in one turn.
const READY_MAX: usize = 32;

/// The longest that stopping all services may take. Above the sum of the stop timeouts of a sane
/// configuration; what is left then is ended by [`crate::leftovers`].
pub const STOP_MAX: Time = Time::from_secs(90);

/// What the owner has to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A descriptor of the owner is ready.
    Ready(Token),
    /// Somebody asked for the end of the machine, and who.
    Asked(Verb, String),
    /// A service or everything has come to where the owner decides.
    Outcome(Outcome),
}

/// See the module.
#[derive(Debug)]
pub struct Manager {
    poller: Poller,
    driver: Driver,
    signals: Watched<SignalFd>,
    server: Server,
    logger: Channel,
    wakeups: u64,
    /// When to reap on, if one turn was not enough for all that ended.
    reap_at: Option<Time>,
    /// Whether all required services were healthy once.
    was_healthy: bool,
    /// Whether it was told that init's own roles are healthy.
    roles_told: bool,
    /// Whether the owner had to give something up.
    degraded: bool,
    stopping: bool,
    /// The report of the boot, once it has succeeded.
    boot: Option<BootReport>,
    /// When what is shown as the boot began: with the kernel on a machine.
    booted_at: Time,
}

impl Manager {
    /// Makes everything that the loop needs. Starts nothing. `specs` are those of
    /// [`logging::with_logger`]; `console` is what the logger was promised there.
    ///
    /// # Errors
    /// Names what could not be made.
    pub fn new(
        specs: Vec<Spec>,
        setup: &Setup,
        signals: SignalFd,
        console: Option<OwnedFd>,
        emitter: &mut Emitter,
    ) -> io::Result<Self> {
        raise_descriptor_limit();
        let poller = Poller::new()?;
        let mut driver = Driver::new(specs, setup, &poller, emitter)?;
        let logger = logging::connect(&mut driver, console, &poller, token(LOGGER, 0))?;
        let socket = setup.runtime_dir.join("control");
        let owner = rustix::process::geteuid().as_raw();
        Ok(Self {
            server: Server::bind(&socket, owner, driver.source(), &poller, CONTROL)?,
            signals: poller.watch(signals, token(SIGNAL, 0), EventFlags::IN)?,
            poller,
            driver,
            logger,
            wakeups: 0,
            reap_at: None,
            was_healthy: false,
            roles_told: false,
            degraded: false,
            stopping: false,
            boot: None,
            booted_at: Time::ZERO,
        })
    }

    /// Puts a descriptor of the owner into the loop.
    ///
    /// # Errors
    /// What epoll says.
    pub fn watch(&self, fd: BorrowedFd<'_>, kind: u8, number: u32) -> io::Result<()> {
        Ok(self.poller.add(fd, token(kind, number), EventFlags::IN)?)
    }

    /// Takes a descriptor of the owner out of the loop.
    pub fn forget(&self, fd: BorrowedFd<'_>) {
        self.poller.forget(fd);
    }

    /// The services.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// To give a service a descriptor before the start.
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// Makes a channel of a role of the owner, which tells with this token that something waits in it. The role is
    /// given its end.
    ///
    /// # Errors
    /// If the kernel gives no socket, or what epoll says.
    pub fn connect(
        &mut self,
        service: &'static str,
        kind: u8,
        number: u32,
    ) -> io::Result<RoleChannel> {
        let source = self.driver.source();
        let (end, theirs) = RoleChannel::pair(service, source, &self.poller, token(kind, number))?;
        self.driver.pass(service, theirs);
        Ok(end)
    }

    /// The owner had to give something up.
    pub fn set_degraded(&mut self) {
        self.degraded = true;
    }

    /// The boot began now, as in a container, whose kernel has run for long.
    pub fn set_booted(&mut self) {
        self.booted_at = now();
    }

    /// The boot has succeeded; this is its report.
    pub fn set_boot(&mut self, report: BootReport) {
        self.boot = Some(report);
    }

    /// Starts the services.
    pub fn start(&mut self, emitter: &mut Emitter) {
        if let Ok(pipe) = supervisor::logger::copy(self.logger.console.as_fd()) {
            emitter.use_pipe(pipe);
        }
        self.feed(Input::Start, emitter);
    }

    /// Stops the services.
    pub fn stop(&mut self, emitter: &mut Emitter) {
        self.stopping = true;
        self.feed(Input::StopAll, emitter);
    }

    /// Tells the services something.
    pub fn feed(&mut self, input: Input, emitter: &mut Emitter) {
        self.driver.feed(now(), input, emitter);
        self.was_healthy |= self.driver.core().required_healthy();
    }

    /// Has a role of init killed and replaced that breaks the rules of its channel to PID 1, and how it does.
    pub fn kill_role(&mut self, service: &str, how: String, emitter: &mut Emitter) {
        if let Some(id) = self.driver.core().find(service) {
            self.feed(Input::Misbehaved(id, how), emitter);
        }
    }

    /// Waits for something to happen, at most until `deadline`, and handles what is not the owner's.
    ///
    /// # Errors
    /// If epoll fails, which only a fault of ours can bring about.
    pub fn turn(
        &mut self,
        deadline: Option<Time>,
        emitter: &mut Emitter,
    ) -> io::Result<Vec<Happened>> {
        emitter.logger_runs(self.logger_runs());
        if let Some(warning) = self.logger.warning(now()) {
            emitter.emit(warning);
        }
        self.publish(emitter);
        self.driver.close_received(now());
        self.server.watch();
        self.logger.listen_if_room();
        let dues = [
            self.driver.deadline(),
            self.server.deadline(),
            self.reap_at,
            self.logger.deadline(),
            deadline,
        ];
        let due = dues.into_iter().flatten().min();
        let mut events = [MaybeUninit::uninit(); READY_MAX];
        let ready = match self.poller.wait(&mut events, limit(due).as_ref()) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        self.wakeups += 1;
        let mut happened = Vec::new();
        let mut signalled = self.reap_at.is_some_and(|at| at <= now());
        for event in ready {
            let token = Token::from_data(event.data);
            match token.kind {
                SIGNAL => signalled = true,
                LOGGER => {
                    if let Some(how) = self.logger.receive(now()) {
                        self.kill_role(logging::LOGGER, how, emitter);
                    }
                }
                CONTROL => {
                    if let Some(asked) = self.server.ready(token.number, event.flags, now()) {
                        happened.extend(self.answer(asked, emitter));
                    }
                }
                kind if kind < Token::FOREIGN => {
                    self.driver.ready(token, now(), emitter);
                }
                _ => happened.push(Happened::Ready(token)),
            }
        }
        if signalled {
            self.take_signals(&mut happened, emitter);
        }
        if self.driver.deadline().is_some_and(|d| d <= now()) {
            self.driver.timer(now(), emitter);
        }
        if self.server.deadline().is_some_and(|d| d <= now()) {
            self.server.expire(now());
        }
        self.was_healthy |= self.driver.core().required_healthy();
        self.sum_up(emitter);
        while let Some(outcome) = self.driver.outcome() {
            happened.push(Happened::Outcome(outcome));
        }
        Ok(happened)
    }

    /// Tells once that all of init's own roles are healthy, in place of the steps of each, which are routine.
    fn sum_up(&mut self, emitter: &mut Emitter) {
        if self.roles_told {
            return;
        }
        let machines = self.driver.core().machines().iter();
        if let Some(event) = roles_event(machines.map(|m| (m.spec(), m.state()))) {
            self.roles_told = true;
            emitter.emit(event);
        }
    }

    /// Whether somebody reads what goes to the logger, or will at once.
    fn logger_runs(&self) -> bool {
        let core = self.driver.core();
        let logger = core.find(logging::LOGGER);
        let logger = logger.and_then(|id| core.machines().get(id.0));
        !logger.is_some_and(|m| matches!(m.state(), State::Backoff | State::Failed))
    }

    /// Sends on what happened to whoever follows the events. Each turn begins with it; who turns no more does it at the
    /// end.
    pub fn publish(&mut self, emitter: &mut Emitter) {
        if !self.server.has_followers() {
            return emitter.pass_over_fresh();
        }
        for (at, event) in emitter.fresh() {
            self.server.publish(&event_line(at, &event), now());
        }
    }

    fn take_signals(&mut self, happened: &mut Vec<Happened>, emitter: &mut Emitter) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if let Some(verb) = Verb::of_signal(signal.ssi_signo) {
                let who = format!("signal {} from pid {}", signal.ssi_signo, signal.ssi_pid);
                happened.push(Happened::Asked(verb, who));
            }
        }
        // What a child said before it ended is heard before it is gone.
        self.driver.hear(now(), emitter);
        // Several ends may have come as one signal, and one signal may be older than its reason.
        let begin = now();
        let (mut all, mut searched) = (false, Time::ZERO);
        while !all && now() < begin + REAP_SLICE {
            let asked = now();
            let found = reap();
            searched += now().saturating_sub(asked);
            match found {
                Some((pid, status)) => {
                    self.driver.reaped(pid, status, now(), emitter);
                }
                None => all = true,
            }
        }
        let pause = if searched > SEARCH_LONG {
            searched.saturating_mul(PAUSE_FACTOR).min(PAUSE_MAX)
        } else {
            Time::ZERO
        };
        self.rest_from_reaping((!all || !pause.is_zero()).then(|| now() + pause));
    }

    /// Looks for ended children again at this time, or when the next one is announced.
    fn rest_from_reaping(&mut self, until: Option<Time>) {
        if until.is_none() != self.reap_at.is_none() {
            let flags = if until.is_none() {
                EventFlags::IN
            } else {
                EventFlags::empty()
            };
            let _ = self.signals.set_interest(flags);
        }
        self.reap_at = until;
    }
}

/// The event that all of init's own roles are healthy, if they are.
fn roles_event<'a>(services: impl Iterator<Item = (&'a Spec, State)>) -> Option<Event> {
    let mut names = Vec::new();
    for (spec, state) in services.filter(|(spec, _)| spec.routine_start) {
        if state != State::Healthy {
            return None;
        }
        names.push(spec.name.as_str());
    }
    let event = Event::new("init.roles").with("state", "healthy");
    Some(event.with("roles", names.join(",")))
}

/// Blocks every signal and has them read from a descriptor: PID 1 is never interrupted, and no
/// signal is lost for want of a handler.
///
/// # Errors
/// If the kernel gives no descriptor.
pub fn catch_signals() -> nix::Result<SignalFd> {
    let mut all = SigSet::all();
    // A fault of ours must end us: blocked, the kernel would kill PID 1 all the same, silently.
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGABRT,
        Signal::SIGTRAP,
    ] {
        all.remove(fault);
    }
    all.thread_block()?;
    SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// The machine's memory in bytes, 0 if the kernel does not say (then shares mean no limit).
#[must_use]
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// Different on every machine and boot; only jitter hangs on it.
#[must_use]
pub fn seed() -> u64 {
    let mut bytes = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u64::from_ne_bytes(bytes) ^ u64::try_from(now().as_nanos() & u128::from(u64::MAX)).unwrap_or(0)
}

/// Makes the folder for init's own files.
///
/// # Errors
/// Names it.
pub fn make_runtime_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// The machine goes on without what this service is for.
#[must_use]
pub fn degraded_by(service: &str, seen: &str) -> Event {
    Event::new("boot.degraded")
        .with("reason", "service")
        .with("service", service)
        .with("seen", seen)
        .with("then", "staying up as it is")
}

/// [`STOP_MAX`] has passed, and not everything is stopped.
#[must_use]
pub fn services_left() -> Event {
    Event::new("shutdown.warning")
        .with("seen", "services left running")
        .with_ms("waited_ms", STOP_MAX)
}

/// An event as the control socket has it.
#[must_use]
pub fn event_line(at: Time, event: &Event) -> EventLine {
    let fields = event.fields().map(|(k, v)| (k.to_owned(), v.to_owned()));
    EventLine {
        at_ms: supervisor::millis(at),
        event: event.name().to_owned(),
        fields: fields.collect(),
    }
}

fn token(kind: u8, number: u32) -> Token {
    Token { kind, number }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_are_summed_up_when_all_of_them_are_healthy() {
        let role = |name| logging::built_in(name, "exec = ['/init']").unwrap();
        let (logger, grow) = (role("logger"), role("grow"));
        let service = Spec {
            routine_start: false,
            ..role("a")
        };
        let told = |grow_is: State| {
            let services = [
                (&logger, State::Healthy),
                (&service, State::Starting),
                (&grow, grow_is),
            ];
            roles_event(services.into_iter())
        };
        assert_eq!(told(State::Ready), None);
        let event = told(State::Healthy).unwrap();
        assert!(!event.is_routine());
        assert_eq!(event.field("roles"), Some("logger,grow"));
    }
}
