//! From a spec to a running child: environment, descriptors, identity.
//!
//! The output pipe of a service lives as long as the driver, and the driver keeps both of its
//! ends: a restart of the service or of whoever reads the pipe loses no line and breaks no pipe.

use super::users::Identity;
use crate::spec::Spec;
use crate::sys::{self, ChildPlan};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Read};
use std::path::Path;

/// The longest environment file that is read.
const ENVIRONMENT_FILE_MAX: u64 = 64 * 1024;

/// Descriptors from 3 on, as systemd's `LISTEN_FDS` protocol starts there too.
const FIRST_PASSED: i32 = 3;

/// What a service's starts have in common.
#[derive(Debug)]
pub struct Launch {
    identity: Identity,
    output_read: OwnedFd,
    output_write: OwnedFd,
    passed: Vec<OwnedFd>,
}

impl Launch {
    /// Makes the output pipe.
    ///
    /// # Errors
    /// If the kernel gives no pipe.
    pub fn new(identity: Identity) -> io::Result<Self> {
        let (output_read, output_write) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self {
            identity,
            output_read,
            output_write,
            passed: Vec::new(),
        })
    }

    /// The read end of the output pipe.
    #[must_use]
    pub fn output(&self) -> BorrowedFd<'_> {
        self.output_read.as_fd()
    }

    /// Adds a descriptor; returns the number it has in the service.
    pub fn pass(&mut self, fd: OwnedFd) -> i32 {
        self.passed.push(fd);
        FIRST_PASSED + i32::try_from(self.passed.len()).unwrap_or(i32::MAX) - 1
    }

    /// Starts one instance. Returns the child and the pipe on which it tells why it did not
    /// become its program.
    ///
    /// # Errors
    /// What prevented the process, as text for the event.
    pub fn start(
        &self,
        spec: &Spec,
        cgroup: BorrowedFd<'_>,
        notify: &Path,
    ) -> Result<(sys::Child, OwnedFd), String> {
        let environment = self.environment(spec, notify)?;
        let text =
            |what: &str, s: &str| CString::new(s).map_err(|_| format!("{what} holds a NUL byte"));
        let io_error = |what: &str, e: rustix::io::Errno| format!("{what}: {}", io::Error::from(e));
        let (error_read, error_write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|e| io_error("error pipe", e))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| io_error("/dev/null", e))?;
        let output = self.output_write.as_fd();
        let mut descriptors = vec![(null.as_fd(), 0), (output, 1), (output, 2)];
        descriptors.extend(self.passed.iter().map(AsFd::as_fd).zip(FIRST_PASSED..));
        let plan = ChildPlan {
            program: text("exec", spec.exec.first().map_or("", String::as_str))?,
            arguments: spec
                .exec
                .iter()
                .map(|a| text("exec", a))
                .collect::<Result<_, _>>()?,
            environment: environment
                .iter()
                .map(|(k, v)| text("environment", &format!("{k}={v}")))
                .collect::<Result<_, _>>()?,
            directory: text("working-directory", &spec.working_directory)?,
            cgroup: Some(cgroup),
            descriptors,
            error_pipe: error_write.as_fd(),
            uid: self.identity.uid,
            gid: self.identity.gid,
            groups: self.identity.groups.clone(),
            capabilities: spec.capabilities,
            umask: spec.umask,
            nofile: spec.limits.nofile,
            oom_score_adjust: text("oom-score-adjust", &spec.oom_score_adjust.to_string())?,
        };
        let child = sys::spawn(&plan).map_err(|e| format!("clone3: {e}"))?;
        Ok((child, error_read))
    }

    /// The variables of one start: what every service gets, the files in order, then
    /// `environment`, then what the protocols define.
    fn environment(&self, spec: &Spec, notify: &Path) -> Result<BTreeMap<String, String>, String> {
        let mut variables = BTreeMap::from([
            ("PATH".to_owned(), "/usr/bin:/usr/sbin".to_owned()),
            ("HOME".to_owned(), self.identity.home.clone()),
        ]);
        if let Some(name) = &self.identity.name {
            variables.insert("USER".to_owned(), name.clone());
            variables.insert("LOGNAME".to_owned(), name.clone());
        }
        for file in &spec.environment_files {
            match read_bounded(Path::new(&file.path)) {
                Ok(text) => variables.extend(parse_environment(&text)),
                Err(e) if e.kind() == io::ErrorKind::NotFound && file.optional => {}
                Err(e) => return Err(format!("environment-files: {}: {e}", file.path)),
            }
        }
        variables.extend(spec.environment.clone());
        variables.insert(
            "NOTIFY_SOCKET".to_owned(),
            notify.to_string_lossy().into_owned(),
        );
        if let Some(watchdog) = spec.watchdog {
            variables.insert("WATCHDOG_USEC".to_owned(), watchdog.as_micros().to_string());
        }
        Ok(variables)
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(ENVIRONMENT_FILE_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > ENVIRONMENT_FILE_MAX {
        return Err(io::Error::other(format!(
            "is longer than {ENVIRONMENT_FILE_MAX} bytes"
        )));
    }
    Ok(text)
}

/// `NAME=value` lines; `#` and `;` start a comment line; one pair of quotes around a value is
/// taken off (systemd.exec(5), `EnvironmentFile=`). Other lines count for nothing.
fn parse_environment(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']) && !line.contains('\0'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| {
            let inner = ['"', '\'']
                .iter()
                .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
            (name.to_owned(), inner.unwrap_or(value).to_owned())
        })
        .collect()
}

/// What the child said on its error pipe, if it did not become its program.
#[must_use]
pub fn failure(pipe: BorrowedFd<'_>) -> Option<String> {
    let mut report = [0u8; 5];
    match rustix::io::read(pipe, &mut report) {
        Ok(5) => {
            let [step, a, b, c, d] = report;
            let error = io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]));
            let step = sys::STEPS.get(usize::from(step)).unwrap_or(&"start");
            Some(format!("{step}: {error}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_files() {
        let parsed = parse_environment(
            "# c\nA=1\n B = \"two words\" \n;x=y\nnonsense\nC='q'\nD=\n=e\nE=\"un\n",
        );
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "q"),
            ("D", ""),
            ("E", "\"un"),
        ];
        assert_eq!(parsed, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
