//! From a spec to a running child: environment, descriptors, limits, identity.
//!
//! A service has three kinds of children: its main process, the checks before it, and probes that are
//! commands. All start as the same user, in the same place, with the same variables and limits; only the
//! main process is given the notify socket and the descriptors that are passed.
//!
//! The output pipe of a service lives as long as the driver, and the driver keeps both of its
//! ends: a restart of the service or of whoever reads the pipe loses no line and breaks no pipe.

use super::sharing::Sharing;
use super::users::Identity;
use crate::Time;
use crate::config::RlimitText;
use crate::core::SpawnFailure;
use crate::environment::EnvironmentFile;
use crate::received::Source;
use crate::spec::{self, Spec};
use crate::sys::{self, ChildPlan, ErrorPipe, Resource};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::CString;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Descriptors from 3 on, as systemd's `LISTEN_FDS` protocol has it (sd_listen_fds(3)).
const FIRST_PASSED: i32 = 3;

/// `RLIMIT_NOFILE` of a service that sets none.
const NOFILE_DEFAULT: u64 = 65_536;

/// What a service's starts have in common.
#[derive(Debug)]
pub struct Launch {
    identity: Identity,
    output_read: OwnedFd,
    output_write: OwnedFd,
    passed: Vec<OwnedFd>,
    nofile: u64,
    /// Knows of the descriptors of strangers.
    source: Source,
    sharing: Rc<Sharing>,
}

/// What is to be started.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// The main process.
    Main {
        /// Its notify socket.
        notify: &'a Path,
        /// The descriptors that init holds for it, by name.
        held: &'a [(String, BorrowedFd<'a>)],
        /// The longest silence its watchdog allows.
        watchdog: Option<Time>,
    },
    /// A check before it.
    Check,
    /// A probe; what it writes is of no interest.
    Probe,
}

impl Launch {
    /// Makes the output pipe.
    ///
    /// # Errors
    /// If the kernel gives no pipe.
    pub fn new(identity: Identity, source: Source, sharing: Rc<Sharing>) -> io::Result<Self> {
        let (output_read, output_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Ok(Self {
            identity,
            output_read,
            output_write,
            passed: Vec::new(),
            // Above our own hard limit only root of the machine itself may go.
            nofile: own
                .maximum
                .map_or(NOFILE_DEFAULT, |max| max.min(NOFILE_DEFAULT)),
            source,
            sharing,
        })
    }

    /// Whom it runs as.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The read end of the output pipe.
    #[must_use]
    pub fn output(&self) -> BorrowedFd<'_> {
        self.output_read.as_fd()
    }

    /// Adds a descriptor; returns the number it has in the main process, if init holds none for it.
    pub fn pass(&mut self, fd: OwnedFd) -> i32 {
        self.passed.push(fd);
        FIRST_PASSED + i32::try_from(self.passed.len()).unwrap_or(i32::MAX) - 1
    }

    /// Starts one process.
    ///
    /// # Errors
    /// What prevented the process.
    pub fn start(
        &self,
        spec: &Spec,
        command: &[String],
        kind: Kind<'_>,
        cgroup: BorrowedFd<'_>,
    ) -> Result<sys::Child, SpawnFailure> {
        let text = |what: &str, s: &str| {
            CString::new(s)
                .map_err(|_| SpawnFailure::of_the_service(format!("{what} holds a NUL byte")))
        };
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SpawnFailure::new("/dev/null", &e.into()))?;
        let output = match kind {
            Kind::Main { .. } | Kind::Check => self.output_write.as_fd(),
            Kind::Probe => null.as_fd(),
        };
        let mut descriptors = vec![(null.as_fd(), 0), (output, 1), (output, 2)];
        let mut listens = false;
        if let Kind::Main { held, .. } = kind {
            listens = !held.is_empty();
            let held = held.iter().map(|(_, fd)| *fd);
            let passed = self.passed.iter().map(AsFd::as_fd);
            descriptors.extend(held.chain(passed).zip(FIRST_PASSED..));
        }
        let strings = |what: &str, list: &[String]| -> Result<Vec<CString>, SpawnFailure> {
            list.iter().map(|s| text(what, s)).collect()
        };
        let strangers = self.source.any_open();
        let oom_score = spec.oom_score_adjust.unwrap_or(0);
        let plan = ChildPlan {
            program: text("exec", command.first().map_or("", String::as_str))?,
            arguments: strings("exec", command)?,
            environment: strings("environment", &Self::environment(spec, kind))?,
            environment_files: spec
                .environment_files
                .iter()
                .map(|file| {
                    let path = text("environment-files", &file.path)?;
                    Ok(EnvironmentFile::new(path, file.optional))
                })
                .collect::<Result<_, _>>()?,
            environment_defaults: strings("environment", &self.environment_defaults())?,
            directory: text("working-directory", &spec.working_directory)?,
            cgroup: Some(cgroup),
            descriptors,
            strangers,
            uid: self.identity.uid,
            gid: self.identity.gid,
            groups: self.identity.groups.clone(),
            capabilities: spec.capabilities.unwrap_or(match self.identity.uid {
                0 => u64::MAX,
                _ => 0,
            }),
            umask: spec.umask,
            rlimits: self.rlimits(spec),
            nice: spec.nice,
            listen_pid: listens,
            oom_score_adjust: text("oom-score-adjust", &oom_score.to_string())?,
            oom_score_wanted: spec.oom_score_adjust.is_some(),
            shares_memory: self.sharing.allows(oom_score, &spec.limits, strangers),
        };
        sys::spawn(plan).map_err(|(what, e)| SpawnFailure::new(what, &e))
    }

    /// The limits of processes. No core is dumped unless somebody wants it: there is nobody to look at it.
    fn rlimits(&self, spec: &Spec) -> Vec<(Resource, u64)> {
        let limits = &spec.limits;
        let set = |resource, limit: Option<RlimitText>| Some((resource, limit?.0));
        let nofile = limits.nofile.unwrap_or(RlimitText(self.nofile));
        let core = limits.core.unwrap_or(RlimitText(0));
        [
            set(libc::RLIMIT_NOFILE, Some(nofile)),
            set(libc::RLIMIT_CORE, Some(core)),
            set(libc::RLIMIT_NPROC, limits.nproc),
            set(libc::RLIMIT_FSIZE, limits.fsize),
            set(libc::RLIMIT_MEMLOCK, limits.memlock),
            set(libc::RLIMIT_STACK, limits.stack),
            set(libc::RLIMIT_AS, limits.address_space),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The variables that every service gets, unless its files or its configuration have others.
    fn environment_defaults(&self) -> Vec<String> {
        let home = format!("HOME={}", self.identity.home);
        let mut variables = vec!["PATH=/usr/bin:/usr/sbin".to_owned(), home];
        if let Some(name) = &self.identity.name {
            variables.push(format!("USER={name}"));
            variables.push(format!("LOGNAME={name}"));
        }
        variables
    }

    /// The variables over those of the files: what the protocols define, then `environment`. Of two of a name the
    /// first one counts.
    fn environment(spec: &Spec, kind: Kind<'_>) -> Vec<String> {
        let mut variables = Vec::new();
        if let Kind::Main {
            notify,
            held,
            watchdog,
        } = kind
        {
            variables.push(format!("NOTIFY_SOCKET={}", notify.display()));
            if let Some(watchdog) = watchdog {
                variables.push(format!("WATCHDOG_USEC={}", watchdog.as_micros()));
            }
            if !held.is_empty() {
                let names: Vec<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
                variables.push(format!("LISTEN_FDS={}", held.len()));
                variables.push(format!("LISTEN_FDNAMES={}", names.join(":")));
            }
        }
        let own = spec.environment.iter();
        variables.extend(own.map(|(name, value)| format!("{name}={value}")));
        variables
    }
}

/// What a child's error pipe tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    OnItsWay,
    /// It executes its program: the pipe was closed by the exec.
    Executed,
    /// It did not become its program, and why.
    Failed(SpawnFailure),
}

/// Looks at a child's error pipe. `files` are its environment files.
#[must_use]
pub fn progress(pipe: &ErrorPipe, files: &[spec::EnvironmentFile]) -> Progress {
    let mut report = [0u8; sys::REPORT];
    match pipe.read(&mut report) {
        Ok(0) => Progress::Executed,
        Ok(sys::REPORT) => {
            let [step, file, a, b, c, d] = report;
            let step = *sys::STEPS.get(usize::from(step)).unwrap_or(&"start");
            let error = match i32::from_ne_bytes([a, b, c, d]) {
                0 => io::Error::other("is not a regular file"),
                errno => io::Error::from_raw_os_error(errno),
            };
            let failure = SpawnFailure::of_a_step(step, &error);
            Progress::Failed(match files.get(usize::from(file)) {
                Some(file) if step == sys::ENVIRONMENT_FILES => SpawnFailure {
                    why: format!("{step}: {}: {error}", file.path),
                    ..failure
                },
                _ => failure,
            })
        }
        _ => Progress::OnItsWay,
    }
}
