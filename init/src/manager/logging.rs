//! The service `logger`, as PID 1 brings it: its form, and the ends of its pipes.
//!
//! It is a service like any other, with its own user and cgroup, and restarted for ever. What
//! distinguishes it is the descriptors it is given; their numbers are settled here, once, for the command
//! line and for the passing. Every other service comes after it, so it is also the last to be stopped.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use supervisor::config::ServiceConfig;
use supervisor::driver::Driver;
use supervisor::logger::{self, protocol};
use supervisor::spec::Spec;
use supervisor::status::LogLost;

/// Its name.
pub const LOGGER: &str = "logger";

/// The first descriptor that a service is passed.
const FIRST_PASSED: usize = 3;

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
    Spec::from_config(name, config).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("; ")
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
    let form = format!("exec = {exec:?}\nuser = {user:?}\nstop.timeout = '3s'");
    let logger = built_in(LOGGER, &form)?;
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
    control: OwnedFd,
    lost: BTreeMap<String, Losses>,
}

/// What was lost, over several lives of the logger, each of which counts from zero.
#[derive(Debug, Default)]
struct Losses {
    before: LogLost,
    now: LogLost,
}

/// Gives the logger its descriptors, in the order of its command line.
///
/// # Errors
/// If the kernel gives no pipe or socket.
pub fn connect(driver: &mut Driver, passed_console: Option<OwnedFd>) -> io::Result<Channel> {
    let (events, console) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (control, control_end) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    driver.pass(LOGGER, events);
    driver.pass(LOGGER, control_end);
    if let Some(passed) = passed_console {
        driver.pass(LOGGER, passed);
    }
    let machines = driver.core().machines().iter();
    let names: Vec<String> = machines.map(|m| m.spec().name.clone()).collect();
    for name in names.iter().filter(|name| *name != LOGGER) {
        if let Some(output) = driver.output(name).map(logger::copy).transpose()? {
            driver.pass(LOGGER, output);
        }
    }
    Ok(Channel {
        console,
        control,
        lost: BTreeMap::new(),
    })
}

impl Channel {
    /// Readable when the logger reports something.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Takes what the logger reports.
    pub fn receive(&mut self) {
        let mut message = [0u8; protocol::MESSAGE_MAX];
        while let Ok((count, _)) =
            rustix::net::recv(&self.control, &mut message[..], RecvFlags::DONTWAIT)
        {
            if count == 0 {
                break;
            }
            let report = protocol::Report::decode(message.get(..count).unwrap_or_default());
            if let Some(protocol::Report::Lost {
                service,
                console,
                rate,
                file,
            }) = report
            {
                let now = LogLost {
                    console,
                    rate,
                    file,
                };
                self.lost.entry(service).or_default().count(now);
            }
        }
    }

    /// Lines of a service that were lost since boot.
    #[must_use]
    pub fn lost(&self, service: &str) -> LogLost {
        self.lost
            .get(service)
            .map(|l| add(l.before, l.now))
            .unwrap_or_default()
    }

    /// Has the logger answer a client.
    ///
    /// # Errors
    /// If it does not take the request.
    pub fn hand_over(&self, request: &protocol::Request, client: BorrowedFd<'_>) -> io::Result<()> {
        protocol::hand_over(self.control.as_fd(), request, client)
    }
}

impl Losses {
    fn count(&mut self, now: LogLost) {
        let restarted =
            now.console < self.now.console || now.rate < self.now.rate || now.file < self.now.file;
        if restarted {
            self.before = add(self.before, self.now);
        }
        self.now = now;
    }
}

fn add(a: LogLost, b: LogLost) -> LogLost {
    LogLost {
        console: a.console + b.console,
        rate: a.rate + b.rate,
        file: a.file + b.file,
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
            "/init logger --events 3 --control 4 --console-fd 5 --dir /l --stream 6=a --limit a=5/2000"
        );
        assert_eq!(specs[1].after, [LOGGER]);
    }

    #[test]
    fn losses_add_up_over_restarts_of_the_logger() {
        let mut losses = Losses::default();
        let at = |console| LogLost {
            console,
            ..LogLost::default()
        };
        for console in [3, 5, 1, 4] {
            losses.count(at(console));
        }
        assert_eq!(add(losses.before, losses.now), at(9));
    }
}
