//! What the running system needs before its first service: names, settings, directories.
//!
//! Each step that fails is told and the boot goes on: a machine without a hostname serves.

use super::built_in::LOG_FOLDER;
use super::directories::{self, Directory};
use crate::config::{Config, DirectoryConfig, directory_mode};
use crate::devices::modules::Modules;
use crate::state::{MACHINE_ID, StateDir, StateError};
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;
use supervisor::driver::Users;
use supervisor::event::{Event, EventSink};

/// The hostname of a machine that was given none, until a DHCP server names it (see
/// [`super::hostname`]).
const HOSTNAME: &str = "astromesh";

/// The machine's own id is shown to programs here (machine-id(5); the image has `/etc/machine-id` point
/// here).
const MACHINE_ID_SHOWN: &str = "/run/machine-id";

/// Directories that init's own roles need, and those on the way to them: who owned one of these could
/// rename what is below.
#[must_use]
pub fn own_directories() -> Vec<DirectoryConfig> {
    let directory = |path: &str, user: &str, mode: &str| DirectoryConfig {
        path: path.into(),
        user: Some(user.into()),
        group: Some(user.into()),
        mode: Some(mode.into()),
    };
    vec![
        directory("/run/init", "0", "0755"),
        directory("/run/netcfg", "netcfg", "0755"),
        directory("/var", "0", "0755"),
        directory("/var/lib", "0", "0755"),
        directory("/var/log", "0", "0755"),
        directory("/var/lib/netcfg", "netcfg", "0700"),
        // Who can walk into it can give its files second names (link(2)), and they are then not root's alone.
        directory("/var/lib/astromesh-init", "0", "0700"),
        directory(LOG_FOLDER, "logger", "0750"),
    ]
}

/// Does all of it.
pub fn prepare(config: &Config, users: &Users, sink: &mut dyn EventSink) {
    let mut warn = |what, result| warn_of(what, result, sink);
    let hostname = config.system.hostname.as_deref().unwrap_or(HOSTNAME);
    warn(
        "hostname",
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(|e| format!("{hostname}: {}", io::Error::from(e))),
    );
    warn(
        "loopback",
        crate::sys::loopback_up().map_err(|e| format!("lo: {e}")),
    );
    warn(
        "modules",
        Modules::look_for(&Modules::directory_of_running_kernel()),
    );
    for (path, value) in &config.sysctl {
        let file = Path::new("/proc/sys").join(path.trim_start_matches('/'));
        warn(
            "sysctl",
            std::fs::write(&file, value).map_err(|e| format!("{}: {e}", file.display())),
        );
    }
    make_directories(config, users, sink);
    open_state(sink);
    let mut warn = |what, result| warn_of(what, result, sink);
    // netcfg writes in its own folder only; this is where everybody looks.
    let _ = std::fs::remove_file("/run/resolv.conf");
    warn(
        "resolv.conf",
        std::os::unix::fs::symlink("netcfg/resolv.conf", "/run/resolv.conf")
            .map_err(|e| format!("/run/resolv.conf: {e}")),
    );
    warn("console", give_console(users));
    warn(
        "ctrl-alt-del",
        crate::sys::disable_instant_reset().map_err(|e| e.to_string()),
    );
}

fn warn_of(what: &'static str, result: Result<(), String>, sink: &mut dyn EventSink) {
    if let Err(seen) = result {
        let event = Event::new("boot.warning").with("what", what);
        sink.emit(event.with("seen", seen));
    }
}

/// Makes the directories, and tells what was in their way.
fn make_directories(config: &Config, users: &Users, sink: &mut dyn EventSink) {
    for entry in own_directories().iter().chain(&config.directories) {
        let mut warn = |path: &str, seen: String, then: String| {
            let event = Event::new("boot.warning").with("what", "directory");
            let event = event.with("path", path.to_owned());
            sink.emit(event.with("seen", seen).with("then", then));
        };
        let made = directory(entry, users)
            .and_then(|wanted| directories::make(&wanted, &mut |m| warn(&m.path, m.seen, m.then)));
        if let Err(seen) = made {
            warn(&entry.path, seen, "the boot goes on without".to_owned());
        }
    }
}

fn directory(entry: &DirectoryConfig, users: &Users) -> Result<Directory, String> {
    Ok(Directory {
        path: entry.path.clone(),
        uid: users.user(entry.user.as_deref().unwrap_or("0"))?,
        gid: users.group(entry.group.as_deref().unwrap_or("0"))?,
        mode: directory_mode(entry)?,
    })
}

/// Gives init's own files their blocks while there are some, and the machine its id.
fn open_state(sink: &mut dyn EventSink) {
    let mut warn = |what: &'static str, error: &StateError, then: &'static str| {
        let event = Event::new("boot.warning").with("what", what);
        sink.emit(event.with("seen", error).with("then", then));
    };
    let state = StateDir::open();
    match &state {
        Ok(state) => {
            for error in state.reserve() {
                warn("state", &error, "left to who reads it");
            }
        }
        Err(error) => warn("state", error, "nothing is kept over a reboot"),
    }
    machine_id(state.as_ref().ok(), Path::new(MACHINE_ID_SHOWN), sink);
}

/// Shows the id that the machine has, or gives it one. An id that cannot be kept is shown all the same.
fn machine_id(state: Option<&StateDir>, shown: &Path, sink: &mut dyn EventSink) {
    let mut warn = |seen: String, then: &'static str| {
        let event = Event::new("boot.warning").with("what", "machine-id");
        sink.emit(event.with("seen", seen).with("then", then));
    };
    let kept = match state.map_or(Ok(None), |state| state.read(MACHINE_ID)) {
        Ok(Some(bytes)) => String::from_utf8(bytes)
            .ok()
            .filter(|id| is_machine_id(id))
            .ok_or_else(|| format!("{}: this is no machine id", MACHINE_ID.path().display()))
            .map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let kept = kept.unwrap_or_else(|seen| {
        warn(seen, "the machine gets a new one");
        None
    });
    let is_new = kept.is_none();
    let id = match kept.map_or_else(new_machine_id, Ok) {
        Ok(id) => id,
        Err(e) => return warn(format!("getrandom: {e}"), "the machine has no id"),
    };
    if let Some(state) = state.filter(|_| is_new)
        && let Err(error) = state.write(MACHINE_ID, id.as_bytes())
    {
        warn(error.to_string(), "the next boot has another id");
    }
    if let Err(e) = std::fs::write(shown, format!("{id}\n")) {
        let seen = format!("{}: {e}", shown.display());
        warn(seen, "programs find no machine id");
    }
}

/// machine-id(5): 32 lower-case hexadecimal digits, not all zero.
fn is_machine_id(id: &str) -> bool {
    id.len() == 32
        && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && id.bytes().any(|b| b != b'0')
}

/// machine-id(5) recommends a random UUID of version 4.
fn new_machine_id() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

/// Lets the logger, which has no privileges, open the console. No console is no fault.
fn give_console(users: &Users) -> Result<(), String> {
    match chown("/dev/console", Some(users.user("logger")?), None) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("/dev/console: {e}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = new_machine_id().unwrap();
        assert!(is_machine_id(&id), "{id}");
        assert_eq!(&id[12..13], "4");
        assert!(!is_machine_id(&"0".repeat(32)));
        assert!(!is_machine_id("uninitialized"));
    }

    /// A second name for a file (link(2)) needs no more than the way to it, where the kernel does not forbid it
    /// (`fs.protected_hardlinks`).
    #[test]
    fn only_root_can_walk_to_the_files_that_init_keeps() {
        let own = own_directories();
        let state = own
            .iter()
            .find(|d| Path::new(&d.path) == Path::new(crate::state::PATH));
        assert_eq!(directory_mode(state.unwrap()), Ok(0o700));
    }

    /// The id that is shown after a boot with these files, and what was told.
    fn shown(folder: &Path) -> (String, Vec<Event>) {
        let owner = rustix::process::geteuid().as_raw();
        let state = StateDir::open_below(folder, "var", owner).ok();
        let (shown, mut told) = (folder.join("shown"), Vec::new());
        machine_id(state.as_ref(), &shown, &mut told);
        let id = std::fs::read_to_string(shown).unwrap();
        assert!(is_machine_id(id.trim()), "{id:?}");
        (id, told)
    }

    #[test]
    fn the_id_is_shown_whatever_var_is_like() {
        let folder = std::env::temp_dir().join(format!("init-id-{}", std::process::id()));
        let kept = folder.join("var/machine-id");
        std::fs::create_dir_all(folder.join("var")).unwrap();
        let (first, told) = shown(&folder);
        assert_eq!(told, []);
        assert_eq!(shown(&folder), (first.clone(), vec![]));
        let ours = |text: &str| std::fs::write(&kept, text).unwrap();
        ours("nonsense");
        let (second, told) = shown(&folder);
        assert_eq!((told.len(), second != first), (1, true));
        assert_eq!(shown(&folder), (second, vec![]));
        // A FIFO would have been waited for, a large file read to its end.
        std::fs::remove_file(&kept).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &kept, kind, mode, 0).unwrap();
        assert_eq!(
            shown(&folder).1[0].field("then"),
            Some("the machine gets a new one")
        );
        std::fs::File::create(&kept)
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let (last, told) = shown(&folder);
        assert!(told[0].field("seen").unwrap().contains("at most 4096"));
        assert_eq!(shown(&folder), (last, vec![]));
        // Nowhere to keep it, as on a `/var` that is full since before the first boot.
        std::fs::remove_dir_all(folder.join("var")).unwrap();
        shown(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
