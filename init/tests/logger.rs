//! The role `logger` with a console that stalls: no writer waits, and every lost line is counted.
//!
//! The logger is started as PID 1 starts it, by the supervisor's driver, with a pseudo-terminal as
//! the console. Needs root and a cgroup2 mount.

use rustix::event::epoll::{self, CreateFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use supervisor::config::ServiceConfig;
use supervisor::core::Input;
use supervisor::driver::{CgroupParent, Driver, Setup, Users};
use supervisor::event::Event;
use supervisor::logger::now;
use supervisor::spec::Spec;

struct Rig {
    driver: Driver,
    epoll: OwnedFd,
    told: Vec<Event>,
    cgroup: PathBuf,
    runtime_dir: PathBuf,
}

impl Rig {
    fn start(console: &str, events: OwnedFd, stream: OwnedFd) -> Self {
        let id = format!("init-test-logger-{}", std::process::id());
        let exec = [
            env!("CARGO_BIN_EXE_init"),
            "logger",
            "--events",
            "3",
            "--stream",
            "4=s",
            "--console",
            console,
        ];
        let config: ServiceConfig = toml::from_str(&format!("exec = {exec:?}")).unwrap();
        let cgroup = CgroupParent::mount_point().unwrap().join(&id);
        let setup = Setup {
            cgroups: CgroupParent::new(&cgroup).unwrap(),
            runtime_dir: std::env::temp_dir().join(&id),
            memory: 0,
            users: Users::default(),
            seed: 1,
        };
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let mut told = Vec::new();
        let spec = Spec::from_config("logger", config).unwrap();
        let mut driver = Driver::new(vec![spec], &setup, epoll.as_fd(), &mut told).unwrap();
        assert_eq!(driver.pass("logger", events), Some(3));
        assert_eq!(driver.pass("logger", stream), Some(4));
        driver.feed(now(), Input::Start, epoll.as_fd(), &mut told);
        Self {
            driver,
            epoll,
            told,
            cgroup,
            runtime_dir: setup.runtime_dir,
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.driver
            .feed(now(), Input::StopAll, self.epoll.as_fd(), &mut self.told);
        if let Some(pid) = self.driver.core().machines()[0]
            .pid()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
        let _ = std::fs::remove_dir(self.cgroup.join("logger/1"));
        let _ = std::fs::remove_dir(self.cgroup.join("logger"));
        let _ = std::fs::remove_dir(&self.cgroup);
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
    }
}

#[test]
fn a_stalled_console_blocks_nobody_and_every_lost_line_is_counted() {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let console = ptsname(&terminal, Vec::new())
        .unwrap()
        .into_string()
        .unwrap();
    // Held open, so that the terminal is not hung up between two opens by the logger.
    let _keep = rustix::fs::open(
        console.as_str(),
        OFlags::RDWR | OFlags::NOCTTY,
        Mode::empty(),
    )
    .unwrap();
    let (events_read, events) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (stream_read, stream) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let rig = Rig::start(&console, events_read, stream_read);

    // Nobody reads the terminal. Far more than it and the logger's queue can hold goes in; these
    // writes block for ever if the logger ever stops to read.
    const OFFERED: u64 = 20_000;
    for number in 0..OFFERED {
        let line = format!("{number:06} {}\n", "x".repeat(90));
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&stream, rest).unwrap()..];
        }
    }
    rustix::io::write(&events, b"init: 9.999 boot.healthy\n").unwrap();

    // Now somebody reads. What was shown and what was confessed must add up to what was offered.
    let mut reader = BufReader::new(std::fs::File::from(terminal));
    let (mut shown, mut lost, mut last) = (0, 0, None);
    let mut line = String::new();
    let mut marked = false;
    while shown + lost < OFFERED {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        if let Some(text) = line.strip_prefix("s: ") {
            let number: u64 = text[..6].parse().unwrap();
            assert!(
                last.is_none_or(|l| l < number),
                "out of order: {last:?} {number}"
            );
            assert_eq!(text.len(), 97, "a torn line");
            (shown, last) = (shown + 1, Some(number));
        } else if line.contains(" log.lost service=s lines=") {
            lost += line.rsplit('=').next().unwrap().parse::<u64>().unwrap();
            if !marked {
                // One more line, for the case that the last confession waits for something new.
                rustix::io::write(&events, b"init: 9.999 mark\n").unwrap();
                marked = true;
            }
        }
        assert!(
            shown + lost <= OFFERED,
            "{shown} shown and {lost} lost of {OFFERED}"
        );
    }
    assert!(shown > 1000, "the queue holds more than that");
    assert!(lost > 1000, "the stall was real");
    drop(rig);
}
