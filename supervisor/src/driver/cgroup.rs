//! Cgroups v2: one for each service, kept over its restarts, and a leaf in it for each instance.
//!
//! The service's own cgroup has the limits and the accounting, which outlive an instance
//! (kernel: `Documentation/admin-guide/cgroup-v2.rst`). The processes are in a leaf below it, made
//! anew for each start and for each probe that is a command. One cgroup for all would not do: kernels
//! with the fix of early 2025 for the race of fork and `cgroup.kill` kill every child that
//! `CLONE_INTO_CGROUP` puts into a cgroup that `cgroup.kill` was ever used on, as they compare the kill
//! counts of two different cgroups (`kill_seq` in `kernel/cgroup/cgroup.c`; seen on 6.18). A fresh leaf
//! has never been killed.
//!
//! A leaf whose processes could not be killed is abandoned: its service goes on without it, and it is
//! removed whenever the kernel lets go of it.
//!
//! A host for tests may have a hybrid hierarchy, where the v2 tree is there without the memory and
//! pids controllers; there the limits cannot be set, which is told once, and everything else works.

use crate::config::{LimitsConfig, SizeText};
use crate::core::SpawnFailure;
use crate::status::Resources;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longer than any of the kernel's files that are read here, `cgroup.procs` apart.
const FILE_MAX: usize = 4096;

/// So many processes are sent a stop signal at most, each with three system calls: a service that made more
/// has them killed when its grace is over.
const SIGNALS_MAX: usize = 1024;

/// Room for that many pids of up to seven digits (proc(5): `pid_max` is at most 2^22) with their line ends.
const PROCS_MAX: u64 = 8 * 1024;

/// `pids.max` of a service that sets none. Without a limit, one service's fork bomb takes the processes that
/// PID 1 needs to start all others. systemd gives 15 % of the smallest limit (`DefaultTasksMax=`): the
/// kernel allows a machine of 1 GiB 8192 tasks (`fork_init`: an eighth of the memory in 16 KiB stacks), and
/// 15 % of that, down to a power of two, is this.
const TASKS_MAX_DEFAULT: u64 = 1024;

/// The directory below which every service has its cgroup.
#[derive(Clone, Debug)]
pub struct CgroupParent {
    path: PathBuf,
    /// The same as `/proc/PID/cgroup` tells it, if it is below a cgroup2 mount.
    told: Option<String>,
    /// Whether cgroup2 has the memory controller here, for all that is known.
    has_memory_controller: bool,
}

impl CgroupParent {
    /// Uses `path`, a directory of a cgroup2 mount, and hands on its controllers.
    ///
    /// # Errors
    /// Names the path. Controllers that the kernel does not offer are no error.
    pub fn new(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| at(path, &e))?;
        hand_on(path)?;
        let controllers = Self::mount_point()
            .and_then(|point| std::fs::read_to_string(point.join("cgroup.controllers")));
        let has_memory = |all: String| all.split_whitespace().any(|c| c == "memory");
        Ok(Self {
            path: path.to_owned(),
            has_memory_controller: controllers.map_or(true, has_memory),
            told: Self::mount().ok().and_then(|(root, point)| {
                let below = path.strip_prefix(point).ok()?.to_str()?;
                Some(format!("{}/{below}", root.trim_end_matches('/')))
            }),
        })
    }

    /// Whether a cgroup may have a limit of memory.
    #[must_use]
    pub fn has_memory_controller(&self) -> bool {
        self.has_memory_controller
    }

    /// Where the host mounts cgroup2, as `/proc/self/mountinfo` tells.
    ///
    /// # Errors
    /// If it does not.
    pub fn mount_point() -> io::Result<PathBuf> {
        Self::mount().map(|(_, point)| point)
    }

    /// Which cgroup is mounted, and where.
    fn mount() -> io::Result<(String, PathBuf)> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        // proc(5): root and mount point are fields 4 and 5, the type is the first after the lone `-`.
        let found = mounts.lines().find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            filesystem
                .starts_with("cgroup2 ")
                .then(|| (root.to_owned(), PathBuf::from(point)))
        });
        found.ok_or_else(|| {
            io::Error::other("no cgroup2 mount in /proc/self/mountinfo; mount one, as in `mount -t cgroup2 none /sys/fs/cgroup`")
        })
    }

    /// Makes or finds the cgroup of a service.
    ///
    /// # Errors
    /// Names the path.
    pub fn service(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.path.join(name);
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(&path, &e)),
            _ => {}
        }
        hand_on(&path)?;
        let open = |name: &str| {
            let file = path.join(name);
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(&file, flags, Mode::empty()).map_err(|e| at(&file, &e.into()))
        };
        let told = self.told.as_ref();
        let mut cgroup = Cgroup {
            events: open("cgroup.events")?,
            memory_events: open("memory.events").ok(),
            oom_kills: 0,
            leaves: Vec::new(),
            instance: None,
            serial: 0,
            told: told.map(|told| format!("{}/{name}", told.trim_end_matches('/'))),
            path,
        };
        // What an earlier life of ours left is not to be told as new.
        cgroup.oom_kills();
        Ok(cgroup)
    }
}

/// Hands the controllers of a cgroup on to those below it.
fn hand_on(path: &Path) -> io::Result<()> {
    let offered =
        std::fs::read_to_string(path.join("cgroup.controllers")).map_err(|e| at(path, &e))?;
    for controller in offered
        .split_whitespace()
        .filter(|c| ["cpu", "memory", "pids", "io"].contains(c))
    {
        // One by one: the kernel refuses a line as a whole if it cannot do one of them.
        let _ = std::fs::write(
            path.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
    Ok(())
}

/// The cgroup of one service.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    told: Option<String>,
    events: OwnedFd,
    memory_events: Option<OwnedFd>,
    /// Kills for want of memory that were told.
    oom_kills: u64,
    leaves: Vec<Leaf>,
    /// The leaf of the present instance, or of the last one.
    instance: Option<PathBuf>,
    serial: u64,
}

#[derive(Debug)]
struct Leaf {
    path: PathBuf,
    abandoned: bool,
}

impl Cgroup {
    /// Makes the leaf of a new instance and opens it, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// Names the path.
    pub fn fresh_leaf(&mut self) -> Result<OwnedFd, SpawnFailure> {
        let (path, fd) = self.make_leaf()?;
        self.instance = Some(path);
        Ok(fd)
    }

    /// The same for a probe; its memory is not the instance's.
    ///
    /// # Errors
    /// Names the path.
    pub fn fresh_probe_leaf(&mut self) -> Result<(PathBuf, OwnedFd), SpawnFailure> {
        self.make_leaf()
    }

    fn make_leaf(&mut self) -> Result<(PathBuf, OwnedFd), SpawnFailure> {
        // A leaf stays busy for some milliseconds after its last process; then it is taken later.
        self.leaves
            .retain(|leaf| std::fs::remove_dir(&leaf.path).is_err());
        let path = loop {
            self.serial += 1;
            let path = self.path.join(self.serial.to_string());
            match std::fs::create_dir(&path) {
                Ok(()) => break path,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(SpawnFailure::new(path.display(), &e)),
            }
        };
        self.leaves.push(Leaf {
            path: path.clone(),
            abandoned: false,
        });
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| SpawnFailure::new(path.display(), &e.into()))?;
        Ok((path, fd))
    }

    /// `cgroup.events`: polls as `PRI` when it changed since it was read.
    #[must_use]
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// `memory.events`, where there is a memory controller: polls as `PRI` when it changed.
    #[must_use]
    pub fn memory_events(&self) -> Option<BorrowedFd<'_>> {
        self.memory_events.as_ref().map(AsFd::as_fd)
    }

    /// How many processes were killed for want of memory since the last call.
    pub fn oom_kills(&mut self) -> u64 {
        let Some(events) = &self.memory_events else {
            return 0;
        };
        let kills = read_at_start(events.as_fd())
            .ok()
            .and_then(|text| keyed(&text, "oom_kill"))
            .unwrap_or(self.oom_kills);
        let fresh = kills.saturating_sub(self.oom_kills);
        self.oom_kills = kills;
        fresh
    }

    /// Whether a process is left in it that was not given up.
    ///
    /// # Errors
    /// Names the path.
    pub fn populated(&self) -> io::Result<bool> {
        // Read in any case: reading is what rearms the poll.
        let whole = read_at_start(self.events.as_fd()).map_err(|e| at(&self.path, &e))?;
        let populated = |text: &str| keyed(text, "populated") != Some(0);
        if !populated(&whole) || !self.leaves.iter().any(|leaf| leaf.abandoned) {
            return Ok(populated(&whole));
        }
        let left = self.leaves.iter().filter(|leaf| !leaf.abandoned);
        Ok(left
            .filter_map(|leaf| std::fs::read_to_string(leaf.path.join("cgroup.events")).ok())
            .any(|text| populated(&text)))
    }

    /// Kills every process in it, also those made meanwhile.
    ///
    /// # Errors
    /// Names the path at which the kernel refused the kill as a whole; every process that was found
    /// there was killed one by one then.
    pub fn kill(&self) -> io::Result<()> {
        let mut result = Ok(());
        for leaf in &self.leaves {
            if let Err(e) = kill_leaf(&leaf.path) {
                result = Err(e);
            }
        }
        result
    }

    /// Sends a signal to the processes in it that were not given up, one by one: what is made meanwhile may
    /// miss it, and so does whoever comes after the first [`SIGNALS_MAX`].
    pub fn signal(&self, signal: Signal) {
        let leaves = self.leaves.iter().filter(|leaf| !leaf.abandoned);
        let procs = leaves.filter_map(|leaf| read_procs(&leaf.path).ok());
        let pids = procs.flat_map(|text| {
            let pids = text.lines().filter_map(|line| line.parse().ok());
            pids.collect::<Vec<i32>>()
        });
        for pid in pids.take(SIGNALS_MAX) {
            let process = rustix::process::Pid::from_raw(pid);
            let pidfd = process.and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
            // While the pidfd is open, the pid is that process's or nobody's; it may have been another's
            // before.
            if let Some(pidfd) = pidfd
                && self.holds(pid) != Some(false)
            {
                // ESRCH: it ended meanwhile.
                let _ = pidfd_send_signal(&pidfd, signal);
            }
        }
    }

    /// What is left in it is not waited for any more.
    pub fn abandon(&mut self) {
        for leaf in &mut self.leaves {
            leaf.abandoned = true;
        }
    }

    /// Removes it, as far as it is empty.
    pub fn remove(&mut self) {
        self.leaves
            .retain(|leaf| std::fs::remove_dir(&leaf.path).is_err());
        let _ = std::fs::remove_dir(&self.path);
    }

    /// Whether a process is in it; nothing if it is gone.
    #[must_use]
    pub fn holds(&self, pid: i32) -> Option<bool> {
        let told = self.told.as_ref()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        // cgroups(7): the line of the v2 hierarchy starts with `0::`.
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let rest = path.strip_prefix(told.as_str());
        Some(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }

    /// Whether it has as many tasks as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let own = |name: &str| number(&self.path.join(name));
        own("pids.max").is_some_and(|max| own("pids.current").is_some_and(|tasks| tasks >= max))
    }

    /// The most memory that the present instance used.
    #[must_use]
    pub fn memory_peak(&self) -> Option<u64> {
        number(&self.instance.as_ref()?.join("memory.peak"))
    }

    /// What it uses now.
    #[must_use]
    pub fn resources(&self) -> Resources {
        let own = |name: &str| number(&self.path.join(name));
        let cpu = std::fs::read_to_string(self.path.join("cpu.stat")).ok();
        Resources {
            memory: own("memory.current"),
            memory_peak: self.memory_peak(),
            memory_max: own("memory.max"),
            tasks: own("pids.current"),
            cpu_usec: cpu.and_then(|text| keyed(&text, "usage_usec")),
        }
    }

    /// Sets the limits; returns what could not be set, and why.
    #[must_use]
    pub fn limit(&self, limits: &LimitsConfig, memory: u64) -> Vec<String> {
        // A hybrid host has no such file; nobody asked for a limit there.
        let has_pids = self.path.join("pids.max").exists();
        let settings = settings(limits, memory, has_pids).into_iter();
        let failed = settings.filter_map(|(file, value)| {
            let path = self.path.join(file);
            std::fs::write(&path, value.to_string())
                .err()
                .map(|e| at(&path, &e).to_string())
        });
        failed.collect()
    }
}

/// What is to be written into which file.
fn settings(limits: &LimitsConfig, memory: u64, has_pids: bool) -> Vec<(&'static str, u64)> {
    let LimitsConfig {
        memory_high,
        memory_max,
        oom_group,
        memory_swap_max,
        tasks_max,
        cpu_weight,
        // Limits of processes, not of the cgroup.
        nofile: _,
        nproc: _,
        core: _,
        fsize: _,
        memlock: _,
        stack: _,
        address_space: _,
    } = limits;
    let bytes = |size: Option<SizeText>| size.map(|s| s.bytes(memory));
    let default_tasks = has_pids.then_some(TASKS_MAX_DEFAULT);
    let together = memory_max.is_some().then_some(oom_group.unwrap_or(true));
    let settings = [
        ("memory.high", bytes(*memory_high)),
        ("memory.max", bytes(*memory_max)),
        ("memory.oom.group", together.map(u64::from)),
        ("memory.swap.max", bytes(*memory_swap_max)),
        ("pids.max", tasks_max.or(default_tasks)),
        ("cpu.weight", *cpu_weight),
    ];
    let set = settings
        .into_iter()
        .filter_map(|(file, value)| Some((file, value?)));
    set.collect()
}

/// Kills what is in one leaf, whole if the kernel can, one by one if not.
pub fn kill_leaf(leaf: &Path) -> io::Result<()> {
    let file = leaf.join("cgroup.kill");
    let refused = match std::fs::write(&file, "1") {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => e,
    };
    let procs = std::fs::read_to_string(leaf.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Err(at(&file, &refused))
}

fn read_at_start(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut text = [0u8; FILE_MAX];
    let read = rustix::io::pread(fd, &mut text, 0)?;
    Ok(String::from_utf8_lossy(text.get(..read).unwrap_or_default()).into_owned())
}

/// The processes of a cgroup, as many as there is room for.
fn read_procs(leaf: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(leaf.join("cgroup.procs"))?;
    file.take(PROCS_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The number behind a key, in a file of `KEY NUMBER` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(k, _)| *k == key)?.1.parse().ok()
}

/// A file that is one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tasks_of_a_service_are_limited_unless_the_host_cannot() {
        let none = LimitsConfig::default();
        assert_eq!(settings(&none, 0, true), [("pids.max", TASKS_MAX_DEFAULT)]);
        assert_eq!(settings(&none, 0, false), []);
        let own = LimitsConfig {
            tasks_max: Some(7),
            ..none
        };
        assert_eq!(settings(&own, 0, true), [("pids.max", 7)]);
    }
}
