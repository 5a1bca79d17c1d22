//! The role `update`: fetches and installs one version, and ends.
//!
//! Below the role `slots` its events go over a channel, one to a message; run alone they are lines on the standard
//! output. The status says how it ended, see [`End::status`]. Two of them never run at once: each holds a lock, whose
//! file and folder only root can open, because flock(2) asks for no more than an open descriptor.

use crate::slots::marks;
use crate::system::relay;
use crate::update::run::{self, Origin};
use crate::update::{End, Outlet, keys, machine, source};
use nix::unistd::alarm;
use rustix::fd::OwnedFd;
use rustix::fs::FlockOperation;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use supervisor::event::Event;
use supervisor::logger::now;

/// Held while an update runs.
const LOCK: &str = "update.lock";

/// Seconds for the manifest and its signature, a few kilobytes: the patience with six tries is half of it. Whatever
/// hangs before they are there, a resolver or a server that drips, has not cost the other slot anything.
const MANIFEST: u32 = 120;

/// An update has time: services go first.
const NICE: i32 = 10;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(problem) => return super::usage(&problem),
    };
    let mut outlet: Box<dyn Outlet> = match options.events {
        Some(channel) => Box::new(Channel(channel)),
        None => Box::new(Lines),
    };
    let outlet = outlet.as_mut();
    let _ = rustix::process::nice(NICE);
    // A resolver, a handshake or a file that hangs ends with the process (alarm(2)).
    let _ = alarm::set(MANIFEST);
    outlet.event("update.start", &[("source", options.source.clone())]);
    let opened = lock(Path::new(marks::DIRECTORY)).and_then(|lock| {
        let (source, manifest) = source::of(&options.source, options.ca.as_deref())?;
        Ok((lock, source, manifest))
    });
    let result = match opened {
        Ok((_lock, mut source, manifest)) => {
            let origin = Origin {
                source: source.as_mut(),
                manifest: &manifest,
                keys: &options.keys,
                trusted: &mut || {
                    let _ = alarm::cancel();
                },
            };
            let mut wait = std::thread::sleep;
            run::update(origin, machine::find, &mut wait, outlet, &mut |_| Ok(()))
        }
        Err(end) => {
            run::conclude(&end, "", outlet);
            Err(end)
        }
    };
    result.map_or_else(|end| end.status(), |()| 0).into()
}

struct Options {
    source: String,
    ca: Option<PathBuf>,
    keys: PathBuf,
    events: Option<OwnedFd>,
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    use lexopt::Arg::{Long, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut source, mut ca, mut keys, mut events) = (None, None, None, None);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        let option = match argument {
            Long(option) => option.to_owned(),
            Value(value) if source.is_none() => {
                let text = value.into_string();
                source = Some(text.map_err(|_| "the SOURCE is not UTF-8".to_owned())?);
                continue;
            }
            other => return Err(other.unexpected().to_string()),
        };
        let value = parser.value().map_err(|e| e.to_string())?;
        match option.as_str() {
            "ca" => ca = Some(PathBuf::from(value)),
            "keys" => keys = Some(PathBuf::from(value)),
            "events" => {
                events = Some(super::channel(&value)?);
            }
            other => return Err(format!("`--{other}` is no option of update")),
        }
    }
    Ok(Options {
        source: source.ok_or("update needs a SOURCE: path or URL of an update.json")?,
        ca,
        keys: keys.unwrap_or_else(|| keys::FOLDER.into()),
        events,
    })
}

/// Takes the lock in this folder, without waiting: who asks for a second update is to know that one runs.
fn lock(folder: &Path) -> Result<File, End> {
    let path = folder.join(LOCK);
    let failed = |e: &std::io::Error| End::failed(format!("{}: {e}", path.display()));
    marks::make_directory(folder).map_err(|e| failed(&e))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(|e| failed(&e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(End::Failed {
            reason: format!("{}: another update runs{}", path.display(), holder(&file)),
            transient: true,
        }),
        Err(e) => Err(failed(&e.into())),
    }
}

/// Who holds the lock, by proc_locks(5): a holder that is no update is to be found.
fn holder(file: &File) -> String {
    let inode = file.metadata().map_or(0, |stat| stat.ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    // ID: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END
    let pid = locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let kind = words.next()?;
        let pid = words.nth(2)?;
        let own = words.next()?.rsplit(':').next()?.parse() == Ok(inode);
        (kind == "FLOCK" && own).then(|| pid.to_owned())
    });
    pid.map_or_else(String::new, |pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!(" as process {pid} ({})", name.trim_end())
    })
}

/// To the role that started us.
struct Channel(OwnedFd);

impl Outlet for Channel {
    fn event(&mut self, name: &str, fields: &[(&str, String)]) {
        // Nobody there any more is no reason to stop: the disk is not whole yet.
        let message = relay::encode(name, fields);
        let _ = rustix::net::send(&self.0, &message, rustix::net::SendFlags::NOSIGNAL);
    }
}

/// To whoever runs it alone.
struct Lines;

impl Outlet for Lines {
    fn event(&mut self, name: &str, fields: &[(&str, String)]) {
        let event = fields
            .iter()
            .fold(Event::new(name.to_owned()), |event, (key, value)| {
                event.with((*key).to_owned(), value)
            });
        let line = format!("{}\n", event.line(now()));
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn arguments(words: &[&str]) -> impl Iterator<Item = OsString> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        words.into_iter()
    }

    #[test]
    fn options_are_read_and_wrong_ones_told() {
        let options = parse(arguments(&["--ca", "/a.pem", "http://h/update.json"])).unwrap();
        assert_eq!(options.source, "http://h/update.json");
        assert_eq!(options.ca.as_deref(), Some(Path::new("/a.pem")));
        assert_eq!(options.keys, Path::new(keys::FOLDER));
        for (words, say) in [
            (&[][..], "needs a SOURCE"),
            (&["a", "b"], "unexpected"),
            (&["--force", "a"], "--force"),
            (&["--events", "x", "a"], "descriptor"),
        ] {
            let error = parse(arguments(words)).map(|_| ()).unwrap_err();
            assert!(error.contains(say), "{error}");
        }
    }

    #[test]
    fn the_lock_is_held_by_one_that_is_named_and_nobody_but_root_can_open_it() {
        let folder = std::env::temp_dir().join(format!("init-lock-{}", std::process::id()));
        // As an earlier version made it.
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let held = lock(&folder).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(LOCK)), 0o600);
        let Err(End::Failed { reason, transient }) = lock(&folder) else {
            panic!("held twice");
        };
        let us = format!("another update runs as process {} (", std::process::id());
        assert!(transient && reason.contains(&us), "{reason}");
        drop(held);
        lock(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
