//! A logger as PID 1 starts it, by the supervisor's driver, with pipes as the events and the
//! output of a service `s`.

use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use supervisor::config::ServiceConfig;
use supervisor::core::Input;
use supervisor::driver::{CgroupParent, Driver, Setup, Users};
use supervisor::event::Event;
use supervisor::logger::now;
use supervisor::logger::protocol::{Report, Request, hand_over};
use supervisor::poller::Poller;
use supervisor::spec::Spec;

/// A test that waits for what never comes must fail, not hang.
const DEADLINE: Duration = Duration::from_secs(120);

/// Ends the whole program if the test that holds it does not end in time.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start(cgroup: &Path) -> Self {
        let kill = cgroup.join("cgroup.kill");
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        let (alive, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Not through the macro, whose output goes with the test.
                let _ = writeln!(
                    std::io::stderr(),
                    "{test}: still waiting after {DEADLINE:?}"
                );
                let _ = std::fs::write(kill, "1");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// A folder of the test, which goes with it.
pub struct Folder {
    pub path: PathBuf,
    mounted: bool,
}

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("init-test-logger-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        let mounted = false;
        Self { path, mounted }
    }

    /// On a disk of 64 KiB.
    pub fn small() -> Self {
        let mut folder = Self::new();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]);
        assert!(mount.arg(&folder.path).status().unwrap().success());
        folder.mounted = true;
        folder
    }

    /// On a disk of its own, an ext4 of 8 MiB, which can be made to hang.
    pub fn disk() -> Self {
        let mut folder = Self::new();
        let image = folder.path.with_extension("ext4");
        std::fs::File::create_new(&image)
            .and_then(|file| file.set_len(8 << 20))
            .unwrap();
        for (program, arguments) in [
            ("mkfs.ext4", vec!["-q".as_ref(), image.as_path()]),
            (
                "mount",
                vec!["-o".as_ref(), "loop".as_ref(), &image, &folder.path],
            ),
        ] {
            let mut command = std::process::Command::new(program);
            assert!(command.args(arguments).status().unwrap().success());
        }
        folder.mounted = true;
        std::fs::remove_file(image).unwrap();
        folder
    }

    /// From now on every write to it waits (ioctl_fsfreeze(2)), until what this returns is dropped.
    pub fn hang(&self) -> Hanging {
        freeze("--freeze", &self.path);
        Hanging(self.path.clone())
    }

    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path.join(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.mounted {
            let mut umount = std::process::Command::new("umount");
            let _ = umount.arg(&self.path).status();
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A disk that answers no write.
pub struct Hanging(PathBuf);

impl Drop for Hanging {
    fn drop(&mut self) {
        freeze("--unfreeze", &self.0);
    }
}

fn freeze(how: &str, path: &Path) {
    let mut command = std::process::Command::new("fsfreeze");
    assert!(command.arg(how).arg(path).status().unwrap().success());
}

/// A logger, and all that PID 1 and the service hold of it.
pub struct Rig {
    driver: Driver,
    _poller: Poller,
    told: Vec<Event>,
    cgroup: PathBuf,
    _runtime: Folder,
    events: OwnedFd,
    stream: OwnedFd,
    control: OwnedFd,
    running: bool,
    _watchdog: Watchdog,
}

impl Rig {
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(options, b"", b"", None)
    }

    /// Starts with this in the pipes already, and perhaps with a descriptor 6.
    pub fn start_with(options: &[&str], said: &[u8], told: &[u8], sixth: Option<OwnedFd>) -> Self {
        let (events_read, events) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (stream_read, stream) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (control, control_end) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        write_all(&stream, said);
        write_all(&events, told);

        let runtime = Folder::new();
        let id = runtime.path.file_name().unwrap().to_owned();
        let mut exec = vec![env!("CARGO_BIN_EXE_init"), "logger"];
        exec.extend(["--events", "3", "--stream", "4=s", "--control", "5"]);
        exec.extend(options);
        let config: ServiceConfig = toml::from_str(&format!("exec = {exec:?}")).unwrap();
        let cgroup = CgroupParent::mount_point().unwrap().join(&id);
        let watchdog = Watchdog::start(&cgroup);
        let setup = Setup {
            cgroups: CgroupParent::new(&cgroup).unwrap(),
            runtime_dir: runtime.path.clone(),
            memory: 0,
            users: Users::default(),
            seed: 1,
        };
        let poller = Poller::new().unwrap();
        let mut told = Vec::new();
        let spec = Spec::from_config("logger", config).unwrap();
        let mut driver = Driver::new(vec![spec], &setup, &poller, &mut told).unwrap();
        let passed = [events_read, stream_read, control_end].into_iter();
        for (number, fd) in (3..).zip(passed.chain(sixth)) {
            assert_eq!(driver.pass("logger", fd), Some(number));
        }
        driver.feed(now(), Input::Start, &mut told);
        Self {
            driver,
            _poller: poller,
            told,
            cgroup,
            _runtime: runtime,
            events,
            stream,
            control,
            running: true,
            _watchdog: watchdog,
        }
    }

    /// The service says this. Waits for ever if the logger ever stops to read.
    pub fn say(&self, data: &[u8]) {
        write_all(&self.stream, data);
    }

    /// PID 1 tells this.
    pub fn tell(&self, event: &str) {
        write_all(&self.events, format!("init: 9.999 {event}\n").as_bytes());
    }

    pub fn ask(&self, request: &Request) -> BufReader<UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        hand_over(self.control.as_fd(), request, theirs.as_fd()).unwrap();
        BufReader::new(ours)
    }

    /// The answer to this request, after its first line.
    pub fn answer(&self, request: &Request) -> Vec<serde_json::Value> {
        let mut lines = self.ask(request).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), r#"{"ok":true}"#);
        lines.map(|l| serde_json::from_str(&l).unwrap()).collect()
    }

    /// Returns when all that was said and told until now was handled: the logger empties the
    /// stream before it handles an event that came after.
    pub fn settle(&self) {
        let request = Request::Logs {
            service: Some("init".into()),
            lines: 0,
            follow: true,
        };
        let mut events = self.ask(&request).lines().map(Result::unwrap);
        assert_eq!(events.next().unwrap(), r#"{"ok":true}"#);
        self.tell("mark");
        assert!(events.any(|line| line.contains(" mark\"")));
    }

    /// The next report to PID 1.
    pub fn report(&self) -> Report {
        let mut fds = [PollFd::new(&self.control, PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        self.received().unwrap()
    }

    fn received(&self) -> Option<Report> {
        let mut message = [0u8; 4096];
        let received = rustix::net::recv(&self.control, &mut message[..], RecvFlags::DONTWAIT);
        Some(Report::decode(&message[..received.ok()?.0]).unwrap())
    }

    /// How many descriptors the logger has open.
    pub fn descriptors(&self) -> usize {
        let pid = self.driver.core().machines()[0].pid().unwrap();
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    }

    /// Asks it to stop as PID 1 does.
    pub fn ask_to_stop(&mut self) {
        self.driver.feed(now(), Input::StopAll, &mut self.told);
    }

    /// Asks it to stop, and returns when it is gone.
    pub fn stop(&mut self) {
        if !std::mem::take(&mut self.running) {
            return;
        }
        self.ask_to_stop();
        let pid = self.driver.core().machines()[0].pid();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
        for part in ["logger/1", "logger", ""] {
            let _ = std::fs::remove_dir(self.cgroup.join(part));
        }
    }
}

fn write_all(fd: &OwnedFd, mut data: &[u8]) {
    while !data.is_empty() {
        data = &data[rustix::io::write(fd, data).unwrap()..];
    }
}
