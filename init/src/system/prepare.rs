//! What the running system needs before its first service: names, settings, directories.
//!
//! Each step that fails is told and the boot goes on: a machine without a hostname serves.

use super::built_in::LOG_FOLDER;
use crate::config::{Config, DirectoryConfig, directory_mode};
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;
use supervisor::driver::Users;
use supervisor::event::{Event, EventSink};

/// The hostname of a machine that was given none, until a DHCP server names it (see
/// [`super::hostname`]).
const HOSTNAME: &str = "astromesh";

/// The machine's own id is kept here, and shown to programs in `/run/machine-id` (machine-id(5);
/// the image has `/etc/machine-id` point there).
const MACHINE_ID_KEPT: &str = "/var/lib/astromesh-init/machine-id";
const MACHINE_ID_SHOWN: &str = "/run/machine-id";

/// Directories that init's own roles need.
fn own_directories() -> Vec<DirectoryConfig> {
    let directory = |path: &str, user: &str, mode: &str| DirectoryConfig {
        path: path.into(),
        user: Some(user.into()),
        group: Some(user.into()),
        mode: Some(mode.into()),
    };
    vec![
        directory("/run/init", "0", "0755"),
        directory("/run/netcfg", "netcfg", "0755"),
        directory("/var/lib/netcfg", "netcfg", "0700"),
        directory("/var/lib/astromesh-init", "0", "0755"),
        directory(LOG_FOLDER, "logger", "0750"),
    ]
}

/// Does all of it.
pub fn prepare(config: &Config, users: &Users, sink: &mut dyn EventSink) {
    let mut warn = |what: &'static str, result: Result<(), String>| {
        if let Err(seen) = result {
            sink.emit(
                Event::new("boot.warning")
                    .with("what", what)
                    .with("seen", seen),
            );
        }
    };
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
    for (path, value) in &config.sysctl {
        let file = Path::new("/proc/sys").join(path.trim_start_matches('/'));
        warn(
            "sysctl",
            std::fs::write(&file, value).map_err(|e| format!("{}: {e}", file.display())),
        );
    }
    for entry in own_directories().iter().chain(&config.directories) {
        warn(
            "directory",
            make_directory(entry, users).map_err(|e| format!("{}: {e}", entry.path)),
        );
    }
    warn(
        "machine-id",
        machine_id().map_err(|e| format!("{MACHINE_ID_KEPT}: {e}")),
    );
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

/// Makes a directory, or gives one that is there the owner and mode it should have.
fn make_directory(entry: &DirectoryConfig, users: &Users) -> Result<(), String> {
    let user = users.user(entry.user.as_deref().unwrap_or("0"))?;
    let group = users.group(entry.group.as_deref().unwrap_or("0"))?;
    let mode = directory_mode(entry)?;
    let path = Path::new(&entry.path);
    let make = || -> io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)?;
        chown(path, Some(user), Some(group))?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
    };
    make().map_err(|e| e.to_string())
}

/// Shows the id that the machine has, or gives it one.
fn machine_id() -> io::Result<()> {
    let kept = std::fs::read_to_string(MACHINE_ID_KEPT)
        .ok()
        .filter(|id| is_machine_id(id.trim()));
    let id = match kept {
        Some(id) => id.trim().to_owned(),
        None => {
            let id = new_machine_id()?;
            let fresh = format!("{MACHINE_ID_KEPT}.new");
            std::fs::write(&fresh, format!("{id}\n"))?;
            std::fs::File::open(&fresh)?.sync_all()?;
            std::fs::rename(&fresh, MACHINE_ID_KEPT)?;
            id
        }
    };
    std::fs::write(MACHINE_ID_SHOWN, format!("{id}\n"))
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
}
