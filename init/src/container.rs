//! `init container`: PID 1 of a PID namespace, for tests and for whoever wants the supervisor in a
//! container.
//!
//! Services, reaping, logs, the control socket and the stop are those of a machine: the same
//! [`Manager`]. Nothing is mounted, loaded, configured or written outside of the runtime folder. Events
//! and output go to the standard output. There is no reboot budget: a reboot is the exit status
//! [133](Verb::exit_status), and whoever started the container counts these.
//!
//! The services' cgroups are below `--cgroup`, or below the one that init was started in: it then moves
//! itself into a leaf `init` of that, because a cgroup with processes hands no controllers on (kernel:
//! `Documentation/admin-guide/cgroup-v2.rst`, "no internal process constraint").

use crate::config;
use crate::emit::Emitter;
use crate::leftovers;
use crate::manager::{
    self, Happened, Manager, STOP_MAX, Verb, degraded_by, logging, services_left,
};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use supervisor::Time;
use supervisor::core::{Input, ObservedTime};
use supervisor::driver::{CgroupParent, Outcome, Setup, Users};
use supervisor::event::{Event, EventSink};
use supervisor::logger::{copy, now};

/// How a container is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The configuration; only its services are looked at.
    pub config: PathBuf,
    /// For the control socket, the notify sockets and the logs.
    pub runtime_dir: PathBuf,
    /// The cgroup below which the services' cgroups are, by its path in the file system.
    pub cgroup: Option<PathBuf>,
}

/// Whom the logger runs as where there is no user of its name: nobody.
const NOBODY: &str = "65534";

/// Runs the container to its end; returns the verb that ended it.
///
/// # Errors
/// What could not be made at the start.
pub fn run(options: &Options) -> Result<Verb, String> {
    let stdout = own_stdout();
    let mut emitter = Emitter::contained(stdout.as_ref().and_then(|fd| copy(fd.as_fd()).ok()));
    let version = env!("CARGO_PKG_VERSION");
    let event = Event::new("boot.start").with("stage", "container");
    emitter.emit(event.with("version", version));
    let signals = manager::catch_signals().map_err(|e| format!("signalfd: {e}"))?;
    let console = match &stdout {
        Some(fd) => copy(fd.as_fd()).map_err(|e| format!("standard output: {e}"))?,
        None => null().map_err(|e| format!("/dev/null: {e}"))?,
    };
    let mut manager = make(options, signals, console, &mut emitter)?;
    manager.set_booted();
    for milestone in supervisor::spec::MILESTONES {
        manager.feed(Input::Milestone(milestone), &mut emitter);
    }
    manager.start(&mut emitter);
    let verb = turn(&mut manager, &mut emitter).map_err(|e| format!("epoll: {e}"))?;
    // The logger is gone; the last words go their own way.
    emitter.use_console();
    leftovers::end(&mut emitter, || ());
    // On a machine they go with it; here they are in somebody's hierarchy.
    manager.driver_mut().remove_cgroups();
    emitter.emit(Event::new("shutdown.done").with("verb", verb.name()));
    manager.publish(&mut emitter);
    Ok(verb)
}

fn make(
    options: &Options,
    signals: nix::sys::signalfd::SignalFd,
    console: OwnedFd,
    emitter: &mut Emitter,
) -> Result<Manager, String> {
    let config = config::load(&options.config).map_err(|e| e.to_string())?;
    let users = Users::read(Path::new("/")).map_err(|e| e.to_string())?;
    let dir = &options.runtime_dir;
    manager::make_runtime_dir(dir).map_err(|e| e.to_string())?;
    let log_user = if users.user("logger").is_ok() {
        "logger"
    } else {
        NOBODY
    };
    let logs = dir.join("log");
    std::fs::create_dir_all(&logs)
        .and_then(|()| chown(&logs, Some(users.user(log_user).unwrap_or(0)), None))
        .map_err(|e| format!("{}: {e}", logs.display()))?;
    let program = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    let program = program.to_string_lossy();
    let specs = logging::with_logger(config.services, &program, log_user, &logs, true)?;
    let cgroup = match &options.cgroup {
        Some(path) => path.clone(),
        None => own_cgroup().map_err(|e| format!("cgroup: {e}; name one with --cgroup"))?,
    };
    let setup = Setup {
        cgroups: CgroupParent::new(&cgroup).map_err(|e| format!("cgroup: {e}"))?,
        runtime_dir: dir.clone(),
        memory: manager::memory(),
        users,
        seed: manager::seed(),
    };
    Manager::new(specs, &setup, signals, Some(console), emitter).map_err(|e| e.to_string())
}

/// Turns the loop until everything is stopped.
fn turn(manager: &mut Manager, emitter: &mut Emitter) -> io::Result<Verb> {
    let mut stopping: Option<(Verb, Time)> = None;
    let mut healthy = false;
    // A container that is frozen while it stops has its whole time afterwards.
    let mut time = ObservedTime::default();
    loop {
        time.look(now());
        if !healthy && manager.driver().core().required_healthy() {
            healthy = true;
            emitter.emit(Event::new("boot.healthy"));
        }
        if let Some((verb, end)) = stopping
            && end <= time.now()
        {
            emitter.emit(services_left());
            return Ok(verb);
        }
        let due = stopping.map(|(_, end)| time.by_clock(end).min(time.next_look()));
        time.wait_until(due);
        let all_happened = manager.turn(due, emitter)?;
        time.look(now());
        for happened in all_happened {
            let (verb, reason) = match happened {
                Happened::Ready(_) => continue,
                Happened::Asked(verb, who) => (verb, who),
                Happened::Outcome(Outcome::Reboot { service, why }) => {
                    (Verb::Reboot, format!("service {service} {why}"))
                }
                Happened::Outcome(Outcome::Degraded { service, why }) => {
                    manager.set_degraded();
                    emitter.emit(degraded_by(&service, &why));
                    continue;
                }
                Happened::Outcome(Outcome::AllStopped) => match stopping {
                    Some((verb, _)) => return Ok(verb),
                    None => continue,
                },
            };
            if stopping.is_none() {
                stopping = Some((verb, time.now() + STOP_MAX));
                let event = Event::new("shutdown.start").with("verb", verb.name());
                emitter.emit(event.with("reason", reason));
                manager.stop(emitter);
            }
        }
    }
}

/// The standard output by a description of its own, so that making it non-blocking changes nothing for
/// whoever else writes there. A socket cannot be opened anew and is shared.
fn own_stdout() -> Option<OwnedFd> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/fd/1", flags, Mode::empty())
        .ok()
        .or_else(|| {
            let shared = copy(std::io::stdout().as_fd()).ok()?;
            rustix::io::ioctl_fionbio(&shared, true).ok()?;
            Some(shared)
        })
}

fn null() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty())
}

/// The cgroup that we were started in, left by us for a leaf of it.
fn own_cgroup() -> io::Result<PathBuf> {
    let mount = CgroupParent::mount_point()?;
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    // cgroups(7): the line of the v2 hierarchy starts with `0::`.
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.ok_or_else(|| io::Error::other("no `0::` line in /proc/self/cgroup"))?;
    let own = mount.join(path.trim_start_matches('/'));
    let leaf = own.join("init");
    std::fs::create_dir_all(&leaf)
        .and_then(|()| std::fs::write(leaf.join("cgroup.procs"), "0"))
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", leaf.display())))?;
    Ok(own)
}
