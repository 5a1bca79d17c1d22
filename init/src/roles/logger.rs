//! The role `logger`: see [`supervisor::logger`].
//!
//! Its standard error is a pipe that it reads itself, so nothing here may wait until that has room.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use supervisor::logger::{self, Folder, Limit, Options, Rotation, Service, Target};
use supervisor::notifier::Notifier;

pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    never_wait_for(std::io::stderr().as_fd());
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(problem) => return super::usage(&problem),
    };
    let ended = Notifier::from_environment().and_then(|notifier| {
        logger::run(Options {
            notifier,
            ..options
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "logger: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Makes a pipe non-blocking: what it has no room for is dropped. Of anything else, such as a terminal, others
/// may have copies whose mode is not ours to set.
fn never_wait_for(fd: BorrowedFd<'_>) {
    let pipe = rustix::fs::fstat(fd).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
    });
    if pipe {
        // If it fails there is nobody to tell.
        let _ = rustix::io::ioctl_fionbio(fd, true);
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut events, mut control, mut folder) = (None, None, None);
    let mut console = Target::Path(PathBuf::from("/dev/console"));
    let (mut services, mut limits): (Vec<Service>, Vec<(String, Limit)>) = Default::default();
    let mut rotation = Rotation {
        size: logger::SIZE,
        older: logger::OLDER,
    };
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        let option = match argument {
            lexopt::Arg::Long(option) => option.to_owned(),
            other => return Err(other.unexpected().to_string()),
        };
        let value = parser.value().map_err(|e| e.to_string())?;
        let text = value.to_string_lossy().into_owned();
        let says = |problem: String| format!("--{option} {text}: {problem}");
        match option.as_str() {
            "events" => events = Some(passed(&text).map_err(says)?),
            "control" => control = Some(passed_ready(&text).map_err(says)?),
            "console" => console = Target::Path(value.into()),
            "console-fd" => console = Target::Passed(passed_ready(&text).map_err(says)?),
            "stream" => services.push(stream(&text).map_err(says)?),
            "limit" => limits.push(limit(&text).map_err(says)?),
            "dir" => folder = Some(PathBuf::from(value)),
            "file-size" => rotation.size = number(&text).map_err(says)?,
            "file-count" => rotation.older = number(&text).map_err(says)?,
            other => return Err(format!("`--{other}` is no option of logger")),
        }
    }
    for (name, limit) in limits {
        let service = services.iter_mut().find(|s| s.name == name);
        service
            .ok_or_else(|| format!("--limit {name}=...: no --stream FD={name} is given"))?
            .limit = Some(limit);
    }
    Ok(Options {
        events: events.ok_or("logger needs --events FD")?,
        services,
        console,
        folder: folder.map(|path| Folder { path, rotation }),
        control,
        notifier: Notifier::default(),
    })
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no number that fits here"))
}

fn passed(text: &str) -> Result<OwnedFd, String> {
    logger::passed(number(text)?).map_err(|e| e.to_string())
}

/// One that is non-blocking already: it may be shared with others, so its mode is not ours to set.
fn passed_ready(text: &str) -> Result<OwnedFd, String> {
    let fd = passed(text)?;
    match rustix::fs::fcntl_getfl(&fd) {
        Ok(flags) if flags.contains(OFlags::NONBLOCK) => Ok(fd),
        Ok(_) => Err("the descriptor must be non-blocking (fcntl(2), O_NONBLOCK)".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// `FD=NAME`. The name is also that of a file, so it must not lead out of the folder.
fn stream(text: &str) -> Result<Service, String> {
    let (fd, name) = text.split_once('=').ok_or("FD=NAME is wanted")?;
    if name == logger::EVENTS_NAME {
        return Err(format!("`{name}` is the name of the events of PID 1"));
    }
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(format!("`{name}` is no name of a service"));
    }
    Ok(Service {
        name: name.to_owned(),
        output: passed(fd)?,
        limit: None,
    })
}

/// `NAME=BURST/MILLIS`.
fn limit(text: &str) -> Result<(String, Limit), String> {
    let parts = text
        .rsplit_once('=')
        .and_then(|(name, law)| Some((name, law.split_once('/')?)));
    let (name, (burst, millis)) = parts.ok_or("NAME=BURST/MILLIS is wanted")?;
    let limit = Limit {
        burst: number(burst)?,
        window: Duration::from_millis(number(millis)?),
    };
    Ok((name.to_owned(), limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(arguments: &[&str]) -> String {
        parse(arguments.iter().map(OsString::from)).unwrap_err()
    }

    #[test]
    fn a_limit_is_a_name_a_burst_and_a_window() {
        let expected = Limit {
            burst: 100,
            window: Duration::from_millis(2500),
        };
        assert_eq!(limit("a=100/2500"), Ok(("a".into(), expected)));
        for wrong in ["", "a", "a=1", "a=1/", "a=/1", "a=-1/1", "a=1/1s"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_option() {
        assert_eq!(problem(&[]), "logger needs --events FD");
        assert_eq!(
            problem(&["--limit", "a=1/1"]),
            "--limit a=...: no --stream FD=a is given"
        );
        for (wrong, expected) in [
            (["--stream", "4=init"], "`init` is the name of the events"),
            (["--stream", "4=../x"], "`../x` is no name of a service"),
            (["--stream", "4"], "--stream 4: FD=NAME is wanted"),
            (["--events", "999"], "--events 999: descriptor 999 was not"),
            (["--file-size", "1M"], "--file-size 1M: `1M` is no number"),
            (["--what", "x"], "`--what` is no option of logger"),
        ] {
            let said = problem(&wrong);
            assert!(said.contains(expected), "{said}");
        }
    }
}
