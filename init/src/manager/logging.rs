//! The service `logger`, as PID 1 brings it: its form, and the ends of its pipes.
//!
//! It is a service like any other, with its own user and cgroup, and restarted for ever. What
//! distinguishes it is the descriptors it is given; their numbers are settled here, once, for the command
//! line and for the passing. Every other service comes after it, so it is also the last to be stopped.

use super::role_channel::RoleChannel;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use supervisor::Time;
use supervisor::config::ServiceConfig;
use supervisor::driver::{Driver, Token};
use supervisor::event::Event;
use supervisor::logger::{self, protocol};
use supervisor::poller::Poller;
use supervisor::spec::Spec;
use supervisor::status::LogLost;

/// Its name.
pub const LOGGER: &str = "logger";

/// The first descriptor that a service is passed.
const FIRST_PASSED: usize = 3;

/// How long the logger may be silent: whoever writes to it waits while it hangs, and with the stop timeout that
/// is to end before a liveness probe with common figures (every five seconds, three failures) takes a service
/// that waits for one that hangs.
const WATCHDOG: &str = "8s";

/// What every service of ours has: it is restarted whatever happens, since giving up on one of them
/// would leave a machine that nobody can reach or read. With these delays there are never so many
/// restarts in so little time.
const FOR_EVER: &str = "restart = 'always'\nbackoff = { base = '200ms', max = '5s' }\n\
    intensity = { restarts = 1000, within = '1s' }";

/// A service that is part of init.
///
/// # Errors
/// If the form is wrong, which a test would show.
pub fn built_in(name: &str, text: &str) -> Result<Spec, String> {
    let config: ServiceConfig =
        toml::from_str(&format!("{text}\n{FOR_EVER}")).map_err(|e| e.to_string())?;
    let spec = Spec::from_config(name, config).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("; ")
    })?;
    Ok(Spec {
        routine_start: true,
        ..spec
    })
}

/// Puts the logger before these services, and has each come after it. `program` is init itself,
/// `user` whom it runs as. `folder` is where it writes its files. With `passed_console` it shows
/// everything on a descriptor that [`connect`] is given, otherwise on the machine's console.
///
/// # Errors
/// As [`built_in`].
pub fn with_logger(
    services: Vec<Spec>,
    program: &str,
    user: &str,
    folder: &Path,
    passed_console: bool,
) -> Result<Vec<Spec>, String> {
    let mut exec = vec![program.to_owned(), "logger".to_owned()];
    let mut add = |option: &str, value: String| exec.extend([option.to_owned(), value]);
    let mut numbers = FIRST_PASSED..;
    let mut number = || numbers.next().unwrap_or_default().to_string();
    add("--events", number());
    add("--control", number());
    if passed_console {
        add("--console-fd", number());
    }
    add("--dir", folder.display().to_string());
    for spec in &services {
        add("--stream", format!("{}={}", number(), spec.name));
        if !spec.log.interval.is_zero() {
            let (burst, millis) = (spec.log.burst, spec.log.interval.as_millis());
            add("--limit", format!("{}={burst}/{millis}", spec.name));
        }
    }
    // What it writes itself: see `supervisor::logger`.
    let own = format!("{}={LOGGER}", number());
    exec.extend(["--stream".to_owned(), own]);
    let form = format!(
        "exec = {exec:?}\ntype = 'notify'\nuser = {user:?}\nstart-timeout = '10s'\n\
         watchdog = '{WATCHDOG}'\nstop.timeout = '3s'"
    );
    let logger = Spec {
        capabilities: Some(0),
        ..built_in(LOGGER, &form)?
    };
    let rest = services.into_iter().map(|mut spec| {
        spec.after.push(LOGGER.into());
        spec
    });
    Ok([logger].into_iter().chain(rest).collect())
}

/// The ends that PID 1 keeps.
#[derive(Debug)]
pub struct Channel {
    /// Event lines for the console.
    pub console: OwnedFd,
    /// Requests to the logger, and its reports.
    control: RoleChannel,
    losses: Losses,
}

/// What was lost of each source, over several lives of the logger, each of which counts from zero.
///
/// The sources are those that the logger was given: it cannot add any.
#[derive(Debug)]
struct Losses {
    /// The process that reported last.
    reporter: Option<i32>,
    sources: BTreeMap<String, Lost>,
}

/// What was lost of one source.
#[derive(Debug, Default)]
struct Lost {
    before: LogLost,
    now: LogLost,
}

/// Gives the logger its descriptors, in the order of its command line. `poller` tells with this token that it
/// reports something.
///
/// # Errors
/// If the kernel gives no pipe or socket.
pub fn connect(
    driver: &mut Driver,
    passed_console: Option<OwnedFd>,
    poller: &Poller,
    token: Token,
) -> io::Result<Channel> {
    let (events, console) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (control, control_end) = RoleChannel::pair(LOGGER, driver.source(), poller, token)?;
    driver.pass(LOGGER, events);
    driver.pass(LOGGER, control_end);
    if let Some(passed) = passed_console {
        driver.pass(LOGGER, passed);
    }
    let machines = driver.core().machines().iter();
    let names: Vec<String> = machines.map(|m| m.spec().name.clone()).collect();
    // The logger comes first among the services, and last on its command line.
    let others = names.iter().filter(|name| *name != LOGGER);
    for name in others.map(String::as_str).chain([LOGGER]) {
        if let Some(output) = driver.output(name).map(logger::copy).transpose()? {
            driver.pass(LOGGER, output);
        }
    }
    Ok(Channel {
        console,
        control,
        losses: Losses::of(names.iter().map(String::as_str)),
    })
}

impl Channel {
    /// See [`RoleChannel::listen_if_room`].
    pub fn listen_if_room(&mut self) {
        self.control.listen_if_room();
    }

    /// Takes what the logger reports, as far as one turn of the loop takes it. Returns how it breaks the rules,
    /// if it does.
    pub fn receive(&mut self, now: Time) -> Option<String> {
        let losses = &mut self.losses;
        let known = |name: &str| losses.sources.contains_key(name);
        let taken = self.control.receive(now, |message| {
            let protocol::Report::Lost {
                service,
                console,
                rate,
                file,
            } = protocol::Report::decode(message)?;
            let lost = LogLost {
                console,
                rate,
                file,
            };
            // A report is no event: it is told to nobody until somebody asks.
            known(&service).then_some(((service, lost), 0))
        });
        for message in taken.messages {
            let (service, now) = message.content;
            losses.count(message.pid, &service, now);
        }
        taken.condemned
    }

    /// When [`Channel::warning`] has something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.control.deadline()
    }

    /// What the logger sent that was dropped, if it is time to tell that.
    pub fn warning(&mut self, now: Time) -> Option<Event> {
        self.control.warning(now)
    }

    /// Lines of a service that were lost since boot.
    #[must_use]
    pub fn lost(&self, service: &str) -> LogLost {
        self.losses.total(service)
    }

    /// Has the logger answer a client.
    ///
    /// # Errors
    /// If it does not take the request.
    pub fn hand_over(&self, request: &protocol::Request, client: BorrowedFd<'_>) -> io::Result<()> {
        protocol::hand_over(self.control.fd(), request, client)
    }
}

impl Losses {
    /// Of these services, and of init's events.
    fn of<'a>(services: impl Iterator<Item = &'a str>) -> Self {
        let sources = services.chain([logger::EVENTS_NAME]);
        Self {
            reporter: None,
            sources: sources
                .map(|name| (name.to_owned(), Lost::default()))
                .collect(),
        }
    }

    /// What this process, which is the logger, has counted of a source since it started.
    fn count(&mut self, reporter: i32, source: &str, now: LogLost) {
        if self.reporter.replace(reporter) != Some(reporter) {
            for lost in self.sources.values_mut() {
                lost.before = add(lost.before, std::mem::take(&mut lost.now));
            }
        }
        if let Some(lost) = self.sources.get_mut(source) {
            lost.now = now;
        }
    }

    fn total(&self, source: &str) -> LogLost {
        let lost = self.sources.get(source);
        lost.map(|l| add(l.before, l.now)).unwrap_or_default()
    }
}

/// The counts are the logger's word, so they may be anything.
fn add(a: LogLost, b: LogLost) -> LogLost {
    LogLost {
        console: a.console.saturating_add(b.console),
        rate: a.rate.saturating_add(b.rate),
        file: a.file.saturating_add(b.file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logger_comes_first_and_hears_everybody() {
        let service = built_in(
            "a",
            "exec = ['/bin/a']\nlog = { burst = 5, interval = '2s' }",
        );
        let services = vec![service.unwrap()];
        let specs = with_logger(services, "/init", "0", Path::new("/l"), true).unwrap();
        assert_eq!(supervisor::spec::check_order(&specs), Ok(()));
        let exec = specs[0].exec.join(" ");
        assert_eq!(
            exec,
            "/init logger --events 3 --control 4 --console-fd 5 --dir /l --stream 6=a --limit a=5/2000 --stream 7=logger"
        );
        assert_eq!(specs[1].after, [LOGGER]);
    }

    #[test]
    fn losses_add_up_over_restarts_of_the_logger() {
        let mut losses = Losses::of(["a", "b"].into_iter());
        let at = |console| LogLost {
            console,
            ..LogLost::default()
        };
        // The second life has soon lost more than the first, which makes it no less another one.
        for (reporter, console) in [(7, 3), (7, 5), (8, 6), (9, 1), (9, 4)] {
            losses.count(reporter, "a", at(console));
        }
        assert_eq!(losses.total("a"), at(15));
        assert_eq!(losses.total("b"), at(0));
        losses.count(10, "b", at(u64::MAX));
        losses.count(11, "b", at(u64::MAX));
        assert_eq!(losses.total("b"), at(u64::MAX));
        assert_eq!(losses.total("a"), at(15));
    }

    #[test]
    fn a_stranger_in_the_logger_cannot_make_names_up() {
        let closer = supervisor::received::Closer::new(usize::MAX).unwrap();
        let (control, end) = RoleChannel::pair(
            LOGGER,
            closer.source(),
            &Poller::new().unwrap(),
            Token { kind: 1, number: 0 },
        )
        .unwrap();
        let (_, console) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut channel = Channel {
            console,
            control,
            losses: Losses::of(["a"].into_iter()),
        };
        let report = |service: &str, rate| {
            let lost = protocol::Report::Lost {
                service: service.into(),
                console: 0,
                rate,
                file: 0,
            };
            rustix::net::send(&end, &lost.encode(), rustix::net::SendFlags::empty()).unwrap();
        };
        report("stranger", 1);
        report("a", 2);
        report(logger::EVENTS_NAME, 3);
        let now = Time::from_secs(1);
        assert_eq!(channel.receive(now), None);
        assert_eq!(channel.lost("a").rate, 2);
        assert_eq!(channel.lost(logger::EVENTS_NAME).rate, 3);
        assert_eq!(channel.losses.sources.len(), 2);
        let warning = channel.warning(now).unwrap();
        assert_eq!(warning.field("malformed"), Some("1"));
    }
}
