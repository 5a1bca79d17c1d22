//! One QEMU process with its serial line and its control channel.
//!
//! QEMU is the client of both sockets: ours listen before it starts, so nothing it says can be
//! missed and nobody waits for a socket file to appear. It starts with its processors stopped
//! (`-S`); power-on is the moment [`Qemu::power_on`] lets them run. The process sits in a group of
//! its own, so that Ctrl-C reaches the harness alone and the guest can be switched off in order,
//! and it dies with the thread that started it (see [`crate::tools`]).

use crate::clock::PowerClock;
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::serial::Serial;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The program of the tools root.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// QEMU opens its sockets before it loads anything big.
const CONNECT: Duration = Duration::from_secs(30);
/// How often a child's end is looked for; std has no wait with a deadline.
const LOOK: Duration = Duration::from_millis(5);

/// Ticks a second of the times in /proc, fixed in the kernel's interface to x86 user space.
const USER_HZ: u64 = 100;

/// QEMU ended before it had opened its sockets. The text is QEMU's own.
#[derive(Debug)]
pub struct NotStarted(String);

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU did not start {}", self.0)
    }
}

impl std::error::Error for NotStarted {}

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    status: Option<ExitStatus>,
    serial: Serial,
    qmp: Option<Qmp>,
    clock: PowerClock,
    errors: PathBuf,
}

/// Where the sockets are. A folder deep in a workspace has a path that is too long for one, so they get
/// a short one for a moment.
#[derive(Debug)]
pub(crate) struct Sockets(Scratch);

impl Sockets {
    pub(crate) fn new() -> Result<Self> {
        Scratch::new("vm").map(Self)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.path(name);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Qemu {
    /// Starts QEMU, which `command` runs, with `arguments`, stopped at its first instruction. `logs`
    /// gets `serial.log`, `qmp.log` and `qemu.err`.
    ///
    /// # Errors
    /// When QEMU cannot be started, or ends at once: then it is [`NotStarted`].
    pub fn start(
        mut command: Command,
        arguments: &[String],
        logs: &Path,
        serial: bool,
    ) -> Result<Self> {
        let sockets = Sockets::new()?;
        let control = sockets.listen("qmp")?;
        let port = serial.then(|| sockets.listen("serial")).transpose()?;
        let errors = logs.join("qemu.err");
        let stderr =
            File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
        command
            .args(["-S", "-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-mon", "chardev=qmp,mode=control", "-chardev"])
            .arg(format!(
                "socket,id=qmp,path={}",
                sockets.path("qmp").display()
            ));
        if serial {
            command.arg("-chardev").arg(format!(
                "socket,id=serial0,path={}",
                sockets.path("serial").display()
            ));
            command.args(["-serial", "chardev:serial0"]);
        } else {
            command.args(["-serial", "none"]);
        }
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .process_group(0);
        let child = command.spawn().context("cannot start QEMU")?;
        let clock = PowerClock::default();
        let mut qemu = Self {
            child,
            status: None,
            serial: Serial::absent(),
            qmp: None,
            clock,
            errors,
        };
        if let Some(port) = port {
            let stream = qemu.accept(&port)?;
            qemu.serial = Serial::read(stream, &logs.join("serial.log"), qemu.clock.clone())?;
        }
        let stream = qemu.accept(&control)?;
        qemu.qmp = Some(Qmp::open(stream, &logs.join("qmp.log"), &qemu.clock)?);
        Ok(qemu)
    }

    /// Lets the processors run; from here the clock counts.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn power_on(&self) -> Result<()> {
        self.clock.start();
        self.qmp()?.execute("cont", json!({}))?;
        Ok(())
    }

    /// The serial line.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The control channel.
    ///
    /// # Errors
    /// Only while the start is not finished.
    pub fn qmp(&self) -> Result<&Qmp> {
        self.qmp.as_ref().context("QEMU has no control channel yet")
    }

    /// Time since power-on.
    #[must_use]
    pub fn clock(&self) -> &PowerClock {
        &self.clock
    }

    /// The exit status, once the process has ended.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().context("cannot wait for QEMU")?;
        }
        Ok(self.status)
    }

    /// Waits for the end of the process; `None` when it outlives the deadline.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn wait_end(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.ended()? {
                self.serial.join();
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(LOOK);
        }
    }

    /// Processor time all threads of QEMU have used: what a boot costs, however busy the host.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks = ticks(&text).with_context(|| format!("{path} has another form"))?;
        Ok(Duration::from_millis(ticks * 1000 / USER_HZ))
    }

    /// What QEMU wrote to its standard error.
    #[must_use]
    pub fn complaints(&self) -> String {
        fs::read_to_string(&self.errors)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            // Fails only when it has ended in between.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
        self.serial.join();
    }

    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        let deadline = Instant::now() + CONNECT;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e).context("cannot accept QEMU's connection"),
            }
            if let Some(status) = self.ended()? {
                let why = format!("({status}): {}", self.complaints());
                return Err(NotStarted(why).into());
            }
            if Instant::now() >= deadline {
                bail!("QEMU did not connect within {CONNECT:?}");
            }
            sleep(LOOK);
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// utime and stime of proc_pid_stat(5): the 12th and 13th field after the name, which is in
/// parentheses and may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 1 0 99";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("12 (a) S 1"), None);
    }

    #[test]
    fn nobody_else_can_get_at_the_sockets() {
        let sockets = Sockets::new().expect("/tmp");
        let _listener = sockets.listen("qmp").expect("a socket");
        let path = sockets.path("qmp");
        let folder = fs::metadata(path.parent().expect("a folder")).expect("it is there");
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    }
}
