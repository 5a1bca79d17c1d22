//! Cgroups v2: one for each service, kept over its restarts, and a leaf in it for each instance.
//!
//! The service's own cgroup has the limits and the accounting, which outlive an instance
//! (kernel: `Documentation/admin-guide/cgroup-v2.rst`). The processes are in a leaf below it, made
//! anew for each start. One cgroup for both would not do: kernels with the fix of early 2025 for the
//! race of fork and `cgroup.kill` kill every child that `CLONE_INTO_CGROUP` puts into a cgroup that
//! `cgroup.kill` was ever used on, as they compare the kill counts of two different cgroups
//! (`kill_seq` in `kernel/cgroup/cgroup.c`; seen on 6.18). A fresh leaf has never been killed.
//!
//! A host for tests may have a hybrid hierarchy, where the v2 tree is there without the memory and
//! pids controllers; there the limits cannot be set, which is told once, and everything else works.

use crate::config::LimitsConfig;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::path::{Path, PathBuf};

/// The directory below which every service has its cgroup.
#[derive(Clone, Debug)]
pub struct CgroupParent {
    path: PathBuf,
}

impl CgroupParent {
    /// Uses `path`, a directory of a cgroup2 mount, and hands on its controllers.
    ///
    /// # Errors
    /// Names the path. Controllers that the kernel does not offer are no error.
    pub fn new(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| at(path, &e))?;
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
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where the host mounts cgroup2, as `/proc/self/mountinfo` tells.
    ///
    /// # Errors
    /// If it does not.
    pub fn mount_point() -> io::Result<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        // proc(5): the mount point is field 5, the type is the first after the lone `-`.
        let point = mounts.lines().find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            filesystem
                .starts_with("cgroup2 ")
                .then(|| mount.split(' ').nth(4))?
        });
        point.map(PathBuf::from).ok_or_else(|| {
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
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |path: &Path, flags| {
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| at(path, &e.into()))
        };
        Ok(Cgroup {
            events: open(&path.join("cgroup.events"), flags)?,
            leaves: Vec::new(),
            serial: 0,
            path,
        })
    }
}

/// The cgroup of one service.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    events: OwnedFd,
    /// The present instance's leaf, last, after those that could not be removed yet.
    leaves: Vec<PathBuf>,
    serial: u64,
}

impl Cgroup {
    /// Makes the leaf of a new instance and opens it, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// Names the path.
    pub fn fresh_leaf(&mut self) -> io::Result<OwnedFd> {
        // A leaf stays busy for some milliseconds after its last process; then it is taken later.
        self.leaves
            .retain(|leaf| std::fs::remove_dir(leaf).is_err());
        let leaf = loop {
            self.serial += 1;
            let leaf = self.path.join(self.serial.to_string());
            match std::fs::create_dir(&leaf) {
                Ok(()) => break leaf,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(at(&leaf, &e)),
            }
        };
        self.leaves.push(leaf.clone());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&leaf, flags, Mode::empty()).map_err(|e| at(&leaf, &e.into()))
    }

    /// `cgroup.events`: polls as `PRI` when it changed.
    #[must_use]
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Whether a process is left in it.
    ///
    /// # Errors
    /// Names the path.
    pub fn populated(&self) -> io::Result<bool> {
        let mut text = [0u8; 128];
        let read =
            rustix::io::pread(&self.events, &mut text, 0).map_err(|e| at(&self.path, &e.into()))?;
        let text = text.get(..read).unwrap_or_default();
        Ok(!text
            .split(|b| *b == b'\n')
            .any(|line| line == b"populated 0"))
    }

    /// Kills every process in it, also those made meanwhile.
    ///
    /// # Errors
    /// Names the path.
    pub fn kill(&self) -> io::Result<()> {
        self.leaves.iter().try_for_each(|leaf| {
            let file = leaf.join("cgroup.kill");
            std::fs::write(&file, "1").map_err(|e| at(&file, &e))
        })
    }

    /// Sets the limits; returns what could not be set, and why.
    #[must_use]
    pub fn limit(&self, limits: &LimitsConfig, memory: u64) -> Vec<String> {
        let LimitsConfig {
            memory_high,
            memory_max,
            memory_swap_max,
            tasks_max,
            cpu_weight,
            nofile: _,
        } = limits;
        let bytes = |size: Option<crate::config::SizeText>| size.map(|s| s.bytes(memory));
        [
            ("memory.high", bytes(*memory_high)),
            ("memory.max", bytes(*memory_max)),
            ("memory.oom.group", memory_max.map(|_| 1)),
            ("memory.swap.max", bytes(*memory_swap_max)),
            ("pids.max", *tasks_max),
            ("cpu.weight", *cpu_weight),
        ]
        .into_iter()
        .filter_map(|(file, value)| Some((file, value?)))
        .filter_map(|(file, value)| {
            let path = self.path.join(file);
            std::fs::write(&path, value.to_string())
                .err()
                .map(|e| at(&path, &e).to_string())
        })
        .collect()
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
